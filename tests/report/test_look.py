"""Looking at places of a finished model: the numbers are those of its maps, or one line says why not."""

from __future__ import annotations

import json
import shutil
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from tests.glm.conftest import GRID, SHAPE, make_images, make_table
from vbmstat.errors import VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.regions.models import fit_roi_glm
from vbmstat.regions.volumes import RegionSpec
from vbmstat.report.look import look_at, write_look
from vbmstat.report.results import Outputs, write_results
from vbmstat.report.write import write_report

AT = (6.0, 1.0, 3.0)  # voxel 7, 7, 5


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Maps, a table and an atlas of two halves."""
    folder = tmp_path_factory.mktemp("study") / "a" / "b"  # inputs are looked for in three folders above the results
    folder.mkdir(parents=True)
    table = make_table()
    table["family"] = [f"f{i // 2}" for i in range(len(table))]
    for scan, gm, wm in zip(table["participant_id"], make_images(table), make_images(table, 5), strict=True):
        for name, image in ((f"mwp1{scan}", gm), (f"mwp2{scan}", 0.9 - gm / 2 + wm / 3)):
            volume = Volume(torch.from_numpy(np.asarray(image, dtype=np.float32))[None], GRID)
            write_volume(folder / "mri" / f"{name}.nii", volume)
    table.to_csv(folder / "people.tsv", sep="\t", index=False)
    labels = torch.ones(1, *SHAPE)
    labels[:, SHAPE[0] // 2 :] = 2
    write_volume(folder / "halves.nii.gz", Volume(labels, GRID), dtype="int16")
    (folder / "halves.tsv").write_text("label\tname\n1\tLeft Half\n2\tRight Half\n")
    return folder


def fitted(study, name, formula="gm ~ age + sex + tiv", contrasts=("age",), **options):
    """The result folder of a model; made once."""
    out = study / name
    if not out.is_dir():
        options = {"repeats": 0, "fwhm_mm": 0, "inference": "fdr", **options}
        results = fit_glm(study / "mri", formula, study / "people.tsv", list(contrasts), **options)
        with patch("vbmstat.report.results.write_figures"):  # slow, and not looked at here
            write_results(results, out, Outputs(str(study / "halves.nii.gz")))
    return out


def value_of(path, mm=AT):
    image = nib.load(path)
    at = np.rint(np.linalg.inv(image.affine) @ [*mm, 1])[:3].astype(int)
    return float(image.get_fdata()[tuple(at)])


@pytest.mark.parametrize(
    ("name", "options"),
    {
        "plain": {},
        "smoothed": {"fwhm_mm": 6.0},
        "robust": {"variance": "hc3"},
        "sandwich": {"variance": "sandwich:family"},
        "scaled": {"formula": "gm ~ age + sex", "tiv": "proportional"},
        "global": {"global_scaling": True},
        "beside_wm": {"formula": "gm ~ age + map(wm)"},
        "over_wm": {"formula": "gm ~ age + map(wm)", "contrasts": ["map(wm)"]},
        "factor": {"formula": "gm ~ age + site", "contrasts": ["site"]},
        "permuted": {"inference": "fwe", "permutations": 20, "variance": "groups:auto", "blocks": "sex"},
    }.items(),
)
def test_the_statistic_is_that_of_the_map(study, name, options):
    folder = fitted(study, name, **options)
    (look,) = look_at(folder, [(",".join(map(str, AT)), None)])
    (path,) = folder.glob(f"contrast-*_stat-{look.fit.kind}_statmap.nii.gz")
    assert look.fit.statistic == pytest.approx(value_of(path), rel=1e-4)
    assert not look.fit.notes or name in ("scaled", "global")
    assert look.place == "at 6, 1, 3 mm, Right Half"
    assert look.response == "gm (mL/mL)"
    scan = look.fit.scans.iloc[0]
    assert scan["value"] == pytest.approx(
        value_of(study / "mri" / f"mwp1{scan['scan_id']}.nii"), rel=1e-5 if name != "smoothed" else 0.5
    )


def test_spm_s_floor_is_told(study):
    (look,) = look_at(fitted(study, "spm", variance="spm"), [("6,1,3", None)])
    assert look.fit.variance == "one variance for all scans, without SPM's floor"


def test_a_region_is_the_mean_of_its_voxels(study):
    folder = fitted(study, "plain")
    looks = look_at(folder, [("right half", "age"), ("peak", None)])
    inside = nib.load(folder / "mask.nii.gz").get_fdata() * nib.load(study / "halves.nii.gz").get_fdata() == 2
    scans = looks[0].fit.scans.set_index("scan_id")["value"]
    for scan in ("sub-000", "sub-011"):
        maps = nib.load(study / "mri" / f"mwp1{scan}.nii").get_fdata()
        assert scans[scan] == pytest.approx(maps[inside].mean(), rel=1e-5)
    assert looks[0].place == f"right half, mean of {int(inside.sum())} voxels"
    peaks = pd.read_csv(folder / "contrast-age_peaks.tsv", sep="\t")
    assert looks[1].fit.statistic == pytest.approx(peaks.loc[peaks["t"].abs().idxmax(), "t"], rel=1e-3)


def test_without_a_table_of_peaks_the_strongest_voxel(study):
    folder = fitted(study, "bare", inference="")
    assert not list(folder.glob("*peaks.tsv"))
    (look,) = look_at(folder, [("peak", None)])
    strongest = np.abs(nib.load(folder / "contrast-age_stat-t_statmap.nii.gz").get_fdata()).max()
    assert abs(look.fit.statistic) == pytest.approx(strongest, rel=1e-4)


def test_files(study, tmp_path):
    (look,) = look_at(fitted(study, "plain"), [("6,1,3", None)], by="site")
    png, svg, tsv = write_look(look, tmp_path)
    assert png.name == "contrast-age_at-R6A1S3.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(tsv, sep="\t")
    assert set(table["group"]) == {"berlin", "köln", "ulm"}
    assert f">{table['scan_id'][0]}<" in svg.read_text()  # the worst scan is named in the figure
    about = json.loads(tsv.with_suffix(".json").read_text())
    assert set(table) < set(about)
    assert "from the participants table" not in json.dumps(about)
    assert about["vbmstat"]["adjusted_for"] == ["sex", "tiv"]


@pytest.mark.parametrize(
    ("at", "contrast", "message"),
    [
        ("rigt half", None, r"--at 'rigt half': expected x,y,z in mm, peak, or a region .*nearest Right Half"),
        ("6,1,300", None, r"outside the analysis mask; the nearest voxel in it is at 6,1,"),
        ("6,1", None, r"--at '6,1': expected x,y,z in mm"),
        ("peak", "agee", r"--contrast 'agee': expected one of age \(nearest age\)"),
    ],
)
def test_what_is_not_there(study, at, contrast, message):
    with pytest.raises(VbmstatError, match=message):
        look_at(fitted(study, "plain"), [(at, contrast)])


@pytest.fixture
def moved(study, tmp_path):
    """A copy of the study that tests may change."""
    fitted(study, "plain")
    folder = tmp_path / "c" / "d"
    for name in ("mri", "plain"):
        shutil.copytree(study / name, folder / name)
    for name in ("people.tsv", "halves.nii.gz", "halves.tsv"):
        shutil.copy(study / name, folder / name)
    return folder


def test_a_changed_map_is_told(moved):
    path = moved / "mri" / "mwp1sub-005.nii"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + 0.5, image.affine, image.header), path)
    (look,) = look_at(moved / "plain", [("6,1,3", None)])
    assert look.fit.notes[0] == "not the maps of the fit any more, shown as they are now: sub-005"
    assert look.fit.notes[1].startswith("the results have t = ")


def test_inputs_that_are_gone_or_others(moved):
    (moved / "mri" / "mwp1sub-005.nii").unlink()
    with pytest.raises(VbmstatError, match=r"not those of the fit .sub-005 of the model not found.; fit it again"):
        look_at(moved / "plain", [("6,1,3", None)])


def test_a_table_may_get_columns_but_not_another_design(moved):
    """`vbmstat wmh` adds its column to the table of a model that was fitted before."""
    path = moved / "people.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str)
    table.assign(wmh_ml="0.1").to_csv(path, sep="\t", index=False)
    (look,) = look_at(moved / "plain", [("6,1,3", None)])
    assert not look.fit.notes
    table["age"] = table["age"].to_numpy()[::-1]
    table.to_csv(path, sep="\t", index=False)
    with pytest.raises(VbmstatError, match="another design matrix"):
        look_at(moved / "plain", [("6,1,3", None)])


def test_inputs_elsewhere(moved, study, tmp_path):
    away = tmp_path / "away" / "glm" / "deep" / "deeper"
    shutil.move(moved / "plain", away / "plain")
    shutil.rmtree(moved / "mri")
    (look,) = look_at(away / "plain", [("6,1,3", None)], inputs=[study])
    assert not look.fit.notes


def test_the_design_is_the_recorded_one(moved):
    path = moved / "plain" / "design.tsv"
    design = pd.read_csv(path, sep="\t")
    design.loc[3, "age"] += 1
    design.to_csv(path, sep="\t", index=False)
    with pytest.raises(VbmstatError, match=r"the table gives another design matrix than design.tsv"):
        look_at(moved / "plain", [("6,1,3", None)])


def test_data_in_memory_are_refused(study, tmp_path):
    results = fit_glm(study / "mri", "gm ~ age", make_table(), repeats=0, fwhm_mm=0)
    with patch("vbmstat.report.results.write_figures"):
        write_results(results, tmp_path, Outputs("none"))
    with pytest.raises(VbmstatError, match="were in memory, not in files"):
        look_at(tmp_path, [("peak", None)])


@pytest.mark.parametrize("level", ["roi", "region"])
def test_regions(study, level):
    spec, out = RegionSpec(study / "halves.nii.gz", level, None, study / "mri"), study / f"regions_{level}"
    fit_roi_glm("gm ~ age + sex", study / "people.tsv", ["age"], regions=spec, repeats=0, inference="fdr").to_directory(
        out
    )
    looks = look_at(out, [("Right Half", None), ("peak", None)])
    table = pd.read_csv(out / "roi_halves_glm.tsv", sep="\t").set_index("region")
    region = looks[0].place.removeprefix("Right ") if "Half" in table.index else looks[0].place
    assert looks[0].fit.statistic == pytest.approx(table["value"][region], rel=1e-6)
    assert abs(looks[1].fit.statistic) == pytest.approx(table["value"].abs().max(), rel=1e-6)
    assert looks[0].response == "gm volume (mL)"
    with pytest.raises(
        VbmstatError, match=r"--at 'Right Hal': expected peak, or a region of the table .nearest Right Half"
    ):
        look_at(out, [("Right Hal", None)])


def test_mixed_models_are_refused(study):
    out = study / "mixed"
    spec = RegionSpec(study / "halves.nii.gz", "roi", "family", study / "mri")
    fit_roi_glm("gm ~ age", study / "people.tsv", ["age"], regions=spec, repeats=0).to_directory(out)
    with pytest.raises(VbmstatError, match=r"a mixed model of regions \(--random\) cannot be plotted"):
        look_at(out, [("peak", None)])


def test_the_report_shows_the_data_at_the_first_peak(moved):
    page = write_report(moved / "plain").read_text()
    assert "Data at the first peak" in page
    assert "adjusted for sex, tiv at their means" in page
    assert list((moved / "plain" / "figures").glob("contrast-age_at-*.svg"))
    (moved / "mri" / "mwp1sub-005.nii").unlink()
    assert "Data at the first peak" not in write_report(moved / "plain").read_text()
