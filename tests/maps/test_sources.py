"""Maps joined to the rows of a table: names, kinds, and what is said where there are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.glm.conftest import GRID
from vbmstat.errors import ScanError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.roi.table import cohort_of_maps

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
        with pytest.raises(ScanError, match=r"several kinds .*; keep only one kind there"):
            cohort_of_maps(tmp_path / "a", set(people["participant_id"]))


def test_kinds_of_a_covariates_maps_are_not_mixed(tmp_path, people, images):
    write_all(tmp_path, people, images)
    write_all(tmp_path, people[:3], images[:3] + 0.1, "s6mwp2{}.nii")
    write_all(tmp_path, people[3:], images[3:] + 0.1, "s8mwp2{}.nii")
    with pytest.raises(ScanError, match=r"several kinds .*s6mwp2"):
        fit_glm(tmp_path, "gm ~ age + map(wm)", people, ["age"], repeats=0)


def test_a_scan_that_was_not_smoothed_is_named(tmp_path, people, images):
    write_all(tmp_path, people, images, "mwp1{}.nii")
    write_all(tmp_path, people[:-1], images[:-1])
    found = fit_glm(tmp_path, "gm ~ age", people, repeats=0)
    what = "1 scans have an unsmoothed map only, beside smoothed ones of others, and are left out: S025 (mwp1S025.nii)"
    assert f"{what}; smooth them, or all with --fwhm" in found.record["notes"]
    without = fit_glm(tmp_path, "gm ~ age", people[:-1], repeats=0)  # maps of strangers are not looked at
    assert not any("unsmoothed" in note for note in without.record["notes"])


def test_a_session_in_the_table_alone(tmp_path, people, images):
    write_all(tmp_path, people, images)
    plain = fit_glm(tmp_path, "gm ~ age", people, repeats=0)
    found = fit_glm(tmp_path, "gm ~ age", people.assign(session_id=1), repeats=0)
    np.testing.assert_array_equal(found.maps["age"]["t"].values, plain.maps["age"]["t"].values)


def test_ids_in_other_letters_are_explained(tmp_path, people, images):
    write_all(tmp_path, people, images)
    ids = people["participant_id"].tolist()
    with pytest.raises(TableError, match=r"no row in .* for S000; 's000' of the table differs in letter case only"):
        fit_glm(tmp_path, "gm ~ age", people.assign(participant_id=["s000", *ids[1:]]), repeats=0)


def test_numbers_of_a_spreadsheet_for_ids_are_explained(tmp_path, table, images):
    """1 … 26 for sub-000 …: those from 10 on fit, so that most scans have a row."""
    write_all(tmp_path, table, images, "s6mwp1{}.nii")
    numbers = table.assign(participant_id=[f"{i:02d}" if i < 10 else f"{i:03d}" for i in range(len(table))])
    with pytest.raises(TableError, match=r"for sub-000, sub-001.*; '00' of the table differs in leading zeros only"):
        fit_glm(tmp_path, "gm ~ age", numbers, repeats=0)


@pytest.mark.parametrize("ids", ["S{:03d}", "sub-{:03d}"])
@pytest.mark.parametrize("smooth", ["", "s6", "s"])
def test_of_both_models_in_one_folder_the_one_is_taken_that_the_formula_names(tmp_path, table, images, ids, smooth):
    people = table.assign(participant_id=[ids.format(i) for i in range(len(table))])
    for kind, change in ((f"{smooth}mwp1r", 0.1), (f"{smooth}mwmwp1r", 0.2)):
        write_all(tmp_path, people, images + change * people["age"].to_numpy()[:, None, None, None], kind + "{}.nii")
    first = people["participant_id"][0]
    with pytest.raises(
        ScanError,
        match=rf"two maps of r?{first}: .*mwmwp1r{first}.nii and .*; keep one of them .*left of its ~: {smooth}mwmwp1r",
    ):
        fit_glm(tmp_path, "gm ~ age", people, repeats=0)
    slopes = [
        fit_glm(tmp_path, f"{smooth}{kind} ~ age", people, repeats=0).maps["age"]["effect"].values.mean()
        for kind in ("mwp1r", "mwmwp1r")
    ]
    assert slopes[1] - slopes[0] == pytest.approx(0.1, abs=1e-3)


def test_a_single_scan_beside_time_points_is_refused_unless_left_out(tmp_path, people, images):
    people = people.assign(time_points=[1, 1, *[2] * 24])
    write_all(tmp_path, people[:2], images[:2], "mwp1{}.nii")
    write_all(tmp_path, people[2:], images[2:], "mwp1r{}.nii")
    write_all(tmp_path, people[2:], images[2:], "mwmwp1r{}.nii")
    kinds = r"mwmwp1r\*: 24 scans, e.g. S002; mwp1\*: 2 scans, e.g. S000"
    with pytest.raises(ScanError, match=rf"several kinds \({kinds}\); .*\"time_points > 1\""):
        fit_glm(tmp_path, "mwmwp1r ~ age", people, repeats=0)
    found = fit_glm(tmp_path, "mwmwp1r ~ age", people, repeats=0, where=["time_points > 1"])
    assert len(found.design.scan_ids) == 24


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
    with pytest.raises(ScanError, match=r"there: GM_mod_merg_s3.nii.gz, 4-D with 26 volumes: split it into one"):
        fit_glm(tmp_path, "gm ~ age", people, repeats=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScanError, match="there is no image"):
        fit_glm(tmp_path / "empty", "gm ~ age", people, repeats=0)


def with_covariate(folder, table, images, others, **options):
    write_all(folder, table, images)
    write_all(folder, table, others, "s6mwp2{}.nii")
    return fit_glm(folder, "gm ~ age + map(wm)", table, ["age"], repeats=0, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 0 * x + 0.3, "no voxel varies between the 26 scans: their maps are equal"),
        (lambda x: x * np.nan, "the maps of all 26 scans have only NaN"),
        (lambda x: np.where(x[:1] > 0.1, 0.2, x + np.arange(26)[:, None, None, None]), "no voxel"),
        (lambda x: x, "the covariate's map is the one on the left of the formula in 26 scans, e.g. sub-000; give"),
        (lambda x: np.concatenate([x[:1], x[1:] + 0.1]), "on the left of the formula in 1 scans, e.g. sub-000"),
    ],
)
def test_covariate_maps_that_cannot_be_used(tmp_path, table, images, change, message):
    with pytest.raises(ScanError, match=rf"^map\(wm\): .*{message}"):
        with_covariate(tmp_path, table, images, change(images).astype(np.float32))


def test_covariate_maps_on_another_grid(tmp_path, table, images):
    write_all(tmp_path, table, images)
    for scan, image in zip(table["participant_id"], images, strict=True):
        volume = Volume(torch.from_numpy(image[:-3, :-3].copy())[None], GRID.crop((0, 0, 0), (8, 10, 9)))
        write_volume(tmp_path / f"s6mwp2{scan}.nii", volume)
    with pytest.raises(ScanError, match=r"^map\(wm\): grid \(8, 10, 9\) .* differs from \(11, 13, 9\)"):
        fit_glm(tmp_path, "gm ~ age + map(wm)", table, ["age"], repeats=0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), r"empty \(0 bytes\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-999]), "ended before the end-of-stream marker .* again"),
        (lambda path: path.write_bytes(gzip.decompress(path.read_bytes())), "not gzipped, though its name says so"),
        (lambda path: path.write_bytes(b"no image\n" * 99), "Not a gzipped file"),
        (lambda path: [path.unlink(), path.mkdir()], r"no map file for sub-003 \(.*: a folder, not an image\)"),
        (lambda path: [path.unlink(), path.symlink_to("nowhere")], r"for sub-003 \(.*: a broken link; fetch"),
        (lambda path: path.unlink(), r"no map file for sub-003 \(.*: no such file\)"),
    ],
)
def test_files_that_are_no_maps_say_so(tmp_path, table, images, spoil, message):
    write_all(tmp_path, table, images, "s6mwp1{}.nii.gz")
    paths = {scan: tmp_path / f"s6mwp1{scan}.nii.gz" for scan in table["participant_id"]}
    spoil(paths["sub-003"])
    with pytest.raises(ScanError, match=rf"(?=.*sub-003).*{message}"):
        fit_glm(paths, "gm ~ age", table, repeats=0)


def test_maps_that_may_not_be_read(tmp_path, table, images, monkeypatch):
    """As root, who runs tests in containers, may read everything: the refusal is played."""
    write_all(tmp_path, table, images)
    opened = Path.open

    def refuse(path, *options, **more):
        if path.name == "s6mwp1sub-003.nii":
            raise PermissionError(13, "Permission denied")
        return opened(path, *options, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ScanError, match=r"s6mwp1sub-003.nii: .*Permission denied.*; ask for permission"):
        fit_glm(tmp_path, "gm ~ age", table, repeats=0)


@pytest.mark.parametrize("suffix", [".img", ".hdr"])
def test_pairs_of_files(tmp_path, table, images, suffix):
    for scan, image in zip(table["participant_id"], images, strict=True):
        path = tmp_path / "single" / f"s6mwp1{scan}.nii"
        write_volume(path, Volume(torch.from_numpy(image)[None], GRID), axcodes="RAS")
    (tmp_path / "pairs").mkdir()
    for scan, image in zip(table["participant_id"], images, strict=True):
        nib.save(nib.Nifti1Pair(image, GRID.affine), tmp_path / "pairs" / f"s6mwp1{scan}.img")
    paths = {scan: tmp_path / "pairs" / f"s6mwp1{scan}{suffix}" for scan in table["participant_id"]}
    found = fit_glm(paths, "gm ~ age", table, ["age"], repeats=0)
    expected = fit_glm(tmp_path / "single", "gm ~ age", table, ["age"], repeats=0)
    assert np.array_equal(found.maps["age"]["t"].values, expected.maps["age"]["t"].values)
    with pytest.raises(ScanError, match=r"52 .img or .hdr, .*: convert them to .nii \(e.g. s6mwp1sub-000.hdr"):
        fit_glm(tmp_path / "pairs", "gm ~ age", table, repeats=0)


def test_packed_maps_in_place_of_a_folder(tmp_path, table, images):
    write_all(tmp_path / "maps", table, images)
    fit_glm(tmp_path / "maps", "gm ~ age", table, repeats=0, store=tmp_path / "gm.maps")
    with pytest.raises(ScanError, match=r"gm.maps: packed maps; give them as --store, beside --cohort or --maps"):
        fit_glm(tmp_path / "gm.maps", "gm ~ age", table, repeats=0)
