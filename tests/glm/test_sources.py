"""Maps joined to the rows of a table: names, kinds, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.glm.conftest import GRID
from vbmstat.errors import ScanError
from vbmstat.glm.analysis import fit_glm
from vbmstat.io import write_volume
from vbmstat.roi.table import cohort_of_maps
from vbmstat.volume import Volume

OF_WM = 2


def write_all(folder: Path, table, images, name="s6mwp1{}.nii") -> None:
    for scan, image in zip(table["participant_id"], images, strict=True):
        write_volume(folder / name.format(scan), Volume(torch.from_numpy(image)[None], GRID))


@pytest.fixture
def people(table):
    """Ids as clinics give them, without sub-."""
    return table.assign(participant_id=[f"S{i:03d}" for i in range(len(table))])


@pytest.mark.parametrize("name", ["mwp1r{}.nii", "s6mwp1r{}.nii", "mwmwp1r{}.nii", "s8mwmwp1r{}_T1w.nii"])
def test_longitudinal_maps_of_cat12_by_the_ids_of_the_table(tmp_path, people, images, name):
    write_all(tmp_path, people, images, name)
    write_all(tmp_path, people, images + 0.1, name.replace("mwp1", f"mwp{OF_WM}"))
    for formula in ("gm ~ age", "gm ~ age + map(wm)"):
        found = fit_glm(tmp_path, formula, people, ["age"], repeats=0)
        assert list(found.design.scan_ids) == list(people["participant_id"])


@pytest.mark.parametrize(
    ("one", "other", "kinds"),
    [
        ("mwp1{}.nii", "mwp1r{}.nii", r"mwp1\*: 16 scans, e.g. S010; mwp1r\*: 10 scans, e.g. S000"),
        ("mwp1r{}.nii", "mwmwp1r{}.nii", r"mwmwp1r\*: 10 scans, e.g. S000; mwp1r\*: 16 scans, e.g. S010"),
        ("s6mwp1{}.nii", "s8mwp1{}.nii", r"s6mwp1\*: 16 scans, e.g. S010; s8mwp1\*: 10 scans, e.g. S000"),
    ],
)
def test_kinds_of_maps_are_not_mixed(tmp_path, people, images, one, other, kinds):
    write_all(tmp_path / "a", people[10:], images[10:], one)
    write_all(tmp_path / "a", people[:10], images[:10], other)
    with pytest.raises(ScanError, match=rf"the maps are of several kinds \({kinds}\); .*--allow-mixed"):
        fit_glm(tmp_path / "a", "gm ~ age", people, repeats=0)
    paths = {path.name.split(".")[0][-4:]: path for path in (tmp_path / "a").iterdir()}
    with pytest.raises(ScanError, match="several kinds"):  # wherever the paths come from
        fit_glm(None, "gm ~ age", people.assign(s6mwp1=[str(paths[scan]) for scan in people["participant_id"]]))
    found = fit_glm(tmp_path / "a", "gm ~ age", people, repeats=0, allow_mixed=True)
    assert len(found.design.scan_ids) == 26
    if not one.startswith("s"):
        with pytest.raises(ScanError, match=r"several kinds .*; keep those of one kind there"):
            cohort_of_maps(tmp_path / "a", set(people["participant_id"]))


def test_kinds_of_a_covariates_maps_are_not_mixed(tmp_path, people, images):
    write_all(tmp_path, people, images)
    write_all(tmp_path, people[:3], images[:3] + 0.1, "s6mwp2{}.nii")
    write_all(tmp_path, people[3:], images[3:] + 0.1, "s8mwp2{}.nii")
    with pytest.raises(ScanError, match=r"several kinds .*s6mwp2"):
        fit_glm(tmp_path, "gm ~ age + map(wm)", people, ["age"], repeats=0)


def test_both_models_of_cat12_in_one_folder(tmp_path, people, images):
    write_all(tmp_path, people, images, "mwp1r{}.nii")
    write_all(tmp_path, people, images, "mwmwp1r{}.nii")
    with pytest.raises(ScanError, match=r"two maps of .*mwmwp1rS000.nii and .*mwp1rS000.nii; keep one of them"):
        fit_glm(tmp_path, "gm ~ age", people, repeats=0)


def test_with_and_without_t1w_are_one_scan(tmp_path, people, images):
    """The second of these maps once replaced the first without a word."""
    write_all(tmp_path, people, images)
    write_all(tmp_path, people[:1], images[1:2], "s6mwp1{}_T1w.nii")
    with pytest.raises(ScanError, match=r"two maps of S000: .*S000.nii and .*S000_T1w.nii; keep one of them"):
        fit_glm(tmp_path, "gm ~ age", people, repeats=0)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("wp1{}.nii", r"26 not modulated \(e.g. wp1S000.nii\)"),
        ("m0wp1{}.nii", r"26 modulated by the nonlinear part alone \(e.g. m0wp1S000.nii\)"),
        ("p1{}.nii", "26 in the scan's own space"),
        ("s6mwp2{}.nii.gz", r"26 smoothed wm \(e.g. s6mwp2S000.nii.gz\)"),
        ("{}_gm.nii", r"26 with other names \(e.g. S000_gm.nii\)"),
    ],
)
def test_what_is_there_in_place_of_maps(tmp_path, people, images, name, told):
    write_all(tmp_path, people, images, name)
    with pytest.raises(ScanError, match=rf"no gm map \(s6mwp1\*, .*; images there: {told}"):
        fit_glm(tmp_path, "gm ~ age", people, repeats=0)
    with pytest.raises(ScanError, match="no unsmoothed modulated map" if "mwp2" in name else "images there"):
        cohort_of_maps(tmp_path)


def test_a_file_of_all_maps_is_told(tmp_path, people, images):
    nib.save(nib.Nifti1Image(np.moveaxis(images, 0, -1), GRID.affine), tmp_path / "GM_mod_merg_s3.nii.gz")
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(ScanError, match=r"there: GM_mod_merg_s3.nii.gz, 4-D with 26 volumes: split it into one file a"):
        fit_glm(tmp_path, "gm ~ age", people, repeats=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="there is no image"):
        fit_glm(tmp_path / "empty", "gm ~ age", people, repeats=0)
