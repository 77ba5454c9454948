"""Maps smoothed while they are packed: the numbers, and which maps are taken for a width."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.glm.conftest import GRID, SHAPE
from tests.maps.test_sources import write_all
from vbmstat.errors import ScanError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.spec import ModelSpec
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Volume
from vbmstat.maps.decode import MapReader
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.paths import map_column
from vbmstat.maps.segment import Packing
from vbmstat.tables.cohort import Cohort

WARNING = "WARNING: the maps are not smoothed"


def smoothed(images: np.ndarray, fwhm_mm: float) -> np.ndarray:
    """As preprocess does it."""
    return np.stack([smooth_map(Volume(torch.from_numpy(one)[None], GRID), fwhm_mm).data[0].numpy() for one in images])


def notes(results) -> str:
    return " | ".join(results.record["notes"])


def t_of(results):
    return results.maps["age"]["t"].values


@pytest.fixture
def spiky(images):
    """Maps with structure at every voxel, so that smoothing matters."""
    rng = np.random.default_rng(7)
    return (images * rng.uniform(0.5, 1.5, images.shape)).astype(np.float32)


@pytest.fixture
def folder(tmp_path, table, spiky):
    write_all(tmp_path / "raw", table, spiky, "mwp1{}.nii")
    return tmp_path / "raw"


@pytest.mark.parametrize("store", [True, False])
def test_equals_maps_smoothed_beforehand(tmp_path, folder, table, spiky, store):
    write_all(tmp_path / "done", table, smoothed(spiky, 4.0), "s4mwp1{}.nii")
    options = {"repeats": 3, "store": tmp_path / "store" if store else None}
    found = fit_glm(folder, "gm ~ age", table, fwhm_mm=4, **options)
    expected = fit_glm(tmp_path / "done", "gm ~ age", table, repeats=3)
    rough = fit_glm(folder, "gm ~ age", table, repeats=3, fwhm_mm=0)
    assert np.array_equal(found.mask, expected.mask)
    assert not np.array_equal(found.mask, rough.mask)  # the mask is that of smoothed maps
    np.testing.assert_allclose(t_of(found), t_of(expected), rtol=1e-5, atol=1e-5)
    assert found.record["spec"]["fwhm_mm"] == 4
    assert found.record["smoothing"] == {"of_files_fwhm_mm": 0.0, "applied_fwhm_mm": 4}
    assert expected.record["smoothing"] == {"of_files_fwhm_mm": 4.0, "applied_fwhm_mm": 0.0}
    assert "unsmoothed maps are smoothed with a Gaussian of 4 mm FWHM before they are masked" in notes(found)


@pytest.mark.parametrize("fwhm_mm", [3.0, 8.0])
def test_agrees_with_scipy_and_keeps_the_volume(tmp_path, images, fwhm_mm):
    """scipy on voxels cut into 5³, as this kernel is integrated over a voxel; beyond the field of view is 0."""
    inner = np.zeros(SHAPE, dtype=np.float32)
    inner[4:7, 5:8, 3:6] = images[0][4:7, 5:8, 3:6]
    write_volume(tmp_path / "mwp1a.nii", Volume(torch.from_numpy(inner)[None], GRID))
    out = np.empty(inner.size, dtype=np.float32)
    MapReader.like(tmp_path / "mwp1a.nii", fwhm_mm).read(tmp_path / "mwp1a.nii", np.arange(out.size), out)
    out = out.reshape(SHAPE)
    fine = inner.astype(float).repeat(5, 0).repeat(5, 1).repeat(5, 2)
    sigma = 5 * fwhm_mm / np.sqrt(8 * np.log(2)) / GRID.voxel_size_mm
    sigma = np.sqrt(sigma**2 + 1 / 12)  # the fine voxel's own width
    expected = gaussian_filter(fine, sigma, mode="constant", truncate=6)[2::5, 2::5, 2::5]
    np.testing.assert_allclose(out, expected, atol=1e-3 * expected.max())
    assert np.abs(out - inner).max() > 0.1 * inner.max()
    assert out.sum() == pytest.approx(expected.sum(), rel=1e-3)
    if fwhm_mm == 3.0:  # nothing leaves the field of view, so every mL is kept
        assert out.sum() == pytest.approx(inner.sum(), rel=1e-3)


def test_integers_with_a_slope_are_smoothed_as_their_values(tmp_path, table, spiky):
    """CAT12 can write int16 with a slope; some maps in another orientation."""
    paths = {}
    for i, (scan, image) in enumerate(zip(table["participant_id"], spiky, strict=True)):
        paths[scan] = tmp_path / f"mwp1{scan}.nii"
        stored = nib.Nifti1Image(np.rint(image * 1e4).astype(np.int16), GRID.affine)
        stored.header.set_slope_inter(1e-4, 0)
        stored = stored.as_reoriented([[0, (-1) ** i], [1, 1], [2, 1]])
        stored.header.set_slope_inter(1e-4, 0)
        nib.save(stored, paths[scan])
    values = np.stack([read_volume(path).data[0].numpy() for path in paths.values()])
    assert np.abs(values - spiky).max() < 1e-4
    store = pack_maps(paths, tmp_path / "store", MaskRule(), Packing(5.0))
    expected = smoothed(values, 5.0).reshape(26, -1)[:, store.space.voxel_index]
    np.testing.assert_allclose(store.read(0, store.n_voxels), expected, rtol=1e-5, atol=1e-6)


def test_nan_outside_the_brain_does_not_spread(tmp_path, table, images):
    holed = images.copy()
    holed[:, 0] = np.nan
    write_all(tmp_path, table, holed, "mwp1{}.nii")
    paths = {scan: tmp_path / f"mwp1{scan}.nii" for scan in table["participant_id"]}
    store = pack_maps(paths, tmp_path / "store", MaskRule(nan="exclude"), Packing(6.0))
    inside = store.space.unmask(store.mask) > 0
    assert inside.any()
    assert not inside[0].any()
    expected = smoothed(np.nan_to_num(holed), 6.0).reshape(26, -1)[:, store.space.voxel_index[store.mask]]
    np.testing.assert_allclose(store.read(0, store.n_voxels)[:, store.mask], expected, rtol=1e-5, atol=1e-6)


def test_a_mask_image_is_not_smoothed(tmp_path, folder, table):
    half = np.zeros((1, *SHAPE), dtype=np.float32)
    half[:, :5] = 1
    write_volume(tmp_path / "mask.nii", Volume(torch.from_numpy(half), GRID))
    found = fit_glm(folder, "gm ~ age", table, repeats=0, fwhm_mm=8, mask=tmp_path / "mask.nii")
    assert np.array_equal(found.space.unmask(found.mask) > 0, half[0] > 0)


def test_the_width_is_part_of_a_stores_identity(tmp_path, folder, table):
    paths = {scan: folder / f"mwp1{scan}.nii" for scan in table["participant_id"]}
    first = dict(list(paths.items())[:20])
    widths = {}
    for width in (0.0, 6.0, 8.0):
        store = pack_maps(first, tmp_path / "store", MaskRule(None), Packing(width))
        widths[width] = store.read(0, store.n_voxels).std()
        stamp = (tmp_path / "store" / "manifest.json").stat().st_mtime_ns
        pack_maps(first, tmp_path / "store", MaskRule(None), Packing(width))
        assert (tmp_path / "store" / "manifest.json").stat().st_mtime_ns == stamp  # the same width: opened
    assert widths[0.0] > widths[6.0] > widths[8.0]
    appended = pack_maps(paths, tmp_path / "store", MaskRule(None), Packing(8.0))
    assert len(appended.segments) == 2
    whole = pack_maps(paths, tmp_path / "whole", MaskRule(None), Packing(8.0))
    assert np.array_equal(appended.read(0, 900), whole.read(0, 900))
    manifest = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    assert manifest["fwhm_mm"] == 8.0
    told = []
    fit = fit_glm(whole, "gm ~ age", table, repeats=0, announce=told.append)
    assert not any(WARNING in line for line in told)
    assert "Gaussian of 8 mm FWHM" in notes(fit)
    rough = pack_maps(paths, tmp_path / "rough", MaskRule(None))
    assert WARNING in notes(fit_glm(rough, "gm ~ age", table, repeats=0))
    assert fit.record["smoothing"] == {"of_files_fwhm_mm": 0.0, "applied_fwhm_mm": 8.0}
    with pytest.raises(ScanError, match="only maps in files can be smoothed"):
        fit_glm(whole, "gm ~ age", table, fwhm_mm=8)


def test_unsmoothed_maps_are_warned_of_before_they_are_read(tmp_path, folder, table):
    told = []
    rough = fit_glm(folder, "gm ~ age", table, repeats=0, announce=told.append)
    assert told[0].startswith(f"{WARNING}, so voxelwise results are speckle, and the report's")
    assert "say “Maps were not smoothed”; smooth them with --fwhm 6" in told[0]
    assert WARNING in notes(rough)
    for width in (0, 6):
        told.clear()
        assert WARNING not in notes(fit_glm(folder, "gm ~ age", table, repeats=0, fwhm_mm=width, announce=told.append))
        assert not any(WARNING in line for line in told)
    write_all(tmp_path / "done", table, np.float32(np.random.default_rng(0).uniform(0.2, 1, (26, *SHAPE))))
    assert WARNING not in notes(fit_glm(tmp_path / "done", "gm ~ age", table, repeats=0))


def test_which_maps_of_a_folder_are_taken(tmp_path, folder, table, spiky):
    write_all(folder, table, spiky, "s6mwp1{}.nii")
    write_all(folder, table, spiky, "s8mwp1{}.nii")
    for width, kind, applied in ((8, "s8mwp1", 0.0), (6, "s6mwp1", 0.0), (4, "mwp1", 4.0), (0, "mwp1", 0.0)):
        found = fit_glm(folder, "gm ~ age", table, repeats=0, fwhm_mm=width)
        assert all(entry["path"].split("/")[-1].startswith(kind) for entry in found.record["maps"].values())
        assert found.record["smoothing"]["applied_fwhm_mm"] == applied
    assert "are smoothed by 6 mm FWHM already and are used as they are" in notes(
        fit_glm(folder, "gm ~ age", table, repeats=0, fwhm_mm=6)
    )
    (folder / f"s8mwp1{table['participant_id'][3]}.nii").unlink()  # of one scan only the unsmoothed map is left
    found = fit_glm(folder, "gm ~ age", table, repeats=0, fwhm_mm=8)
    assert (found.record["smoothing"]["applied_fwhm_mm"], found.record["n_scans"]) == (8, 26)


@pytest.mark.parametrize("there", ["s6mwp1rsub-{}.nii", "s6mwmwp1rsub-{}.nii", "s6mwp1sub-{}.nii"])
def test_maps_of_another_kind_than_asked_for_are_not_taken(tmp_path, table, spiky, there):
    """Of a folder with one kind of maps, those were once taken whatever the formula said."""
    write_all(tmp_path, table, spiky, there)
    people = table.assign(participant_id=[f"sub-{one}" for one in table["participant_id"]])
    kinds = {"s6mwp1rsub-{}.nii", "s6mwmwp1rsub-{}.nii", "s6mwp1sub-{}.nii"} - {there}
    for kind in sorted(kinds):
        asked = kind.partition("sub-")[0]
        with pytest.raises(ScanError, match=rf"no {asked} map in it or below; .*smoothed gm \(e\.g\. {there[:7]}"):
            fit_glm(tmp_path, f"{asked} ~ age", people, repeats=0)


def test_smoothed_maps_are_not_smoothed_again(tmp_path, table, spiky):
    write_all(tmp_path, table, spiky, "s6mwp1{}.nii")
    with pytest.raises(ScanError, match=r"--fwhm 8: 26 of 26 maps are smoothed already \(e.g. s6mwp1.*leave --fwhm"):
        fit_glm(tmp_path, "gm ~ age", table, fwhm_mm=8)
    paths = {scan: tmp_path / f"s6mwp1{scan}.nii" for scan in table["participant_id"]}
    for scan in list(paths)[5:]:
        paths[scan] = paths[scan].rename(tmp_path / f"mwp1{scan}.nii")
    for allow in (True, False):
        with pytest.raises(ScanError, match="5 of 26 maps are smoothed already"):
            fit_glm(paths, "gm ~ age", table, fwhm_mm=6, allow_mixed=allow)
    named = {scan: path.rename(tmp_path / path.name.replace("s6mwp1", "smwp1")) for scan, path in paths.items()}
    with pytest.raises(ScanError, match=r"5 of 26 maps are smoothed already \(e.g. smwp1"):  # by an unknown width
        fit_glm(named, "gm ~ age", table, fwhm_mm=6)


def cohort(table: pd.DataFrame, folder, **kinds: str) -> pd.DataFrame:
    """A table with columns of maps in a folder."""
    columns = {c: [str(folder / kind.format(scan)) for scan in table["participant_id"]] for c, kind in kinds.items()}
    return table.assign(**columns)


def test_which_column_of_a_cohort_is_taken(tmp_path, folder, table, spiky):
    write_all(folder, table, spiky, "s8mwp1{}.nii")
    both = cohort(table, folder, mwp1="mwp1{}.nii", s8mwp1="s8mwp1{}.nii", s6mwp1="missing{}.nii")
    for width, column, applied in ((8, "s8mwp1", 0.0), (4, "mwp1", 4.0), (0, "mwp1", 0.0)):
        found = fit_glm(None, "gm ~ age", both, repeats=0, fwhm_mm=width)
        assert f"gm maps are read from the column {column}" in notes(found)
        assert found.record["smoothing"]["applied_fwhm_mm"] == applied
    with pytest.raises(TableError, match=r"columns s6mwp1, s8mwp1; choose one width with --fwhm"):
        fit_glm(None, "gm ~ age", both)
    both.loc[4, "s8mwp1"] = None  # all are smoothed here where one scan lacks the smoothed map
    found = fit_glm(None, "gm ~ age", both, repeats=0, fwhm_mm=8)
    assert (found.record["smoothing"]["applied_fwhm_mm"], found.record["n_scans"]) == (8, 26)
    both.loc[4, "mwp1"] = None
    found = fit_glm(None, "gm ~ age", both, repeats=0, fwhm_mm=8, missing="drop")
    assert (found.record["smoothing"]["applied_fwhm_mm"], found.record["n_scans"]) == (0, 25)
    only = both.drop(columns=["mwp1", "s8mwp1"])
    with pytest.raises(TableError, match=r"^--fwhm 8: expected a column s8mwp1 or mwp1, the table has s6mwp1; make"):
        fit_glm(None, "gm ~ age", only, fwhm_mm=8)
    with pytest.raises(TableError, match=r"^--fwhm 0: expected a column mwp1, the table has s6mwp1"):
        fit_glm(None, "gm ~ age", only, fwhm_mm=0)


def test_a_column_says_what_file_names_do_not(tmp_path, table, spiky):
    write_all(tmp_path, table, spiky, "{}_map.nii")
    named = cohort(table, tmp_path, s8mwp1="{}_map.nii", other="{}_map.nii")
    assert fit_glm(None, "gm ~ age", named, repeats=0, fwhm_mm=8).record["smoothing"]["applied_fwhm_mm"] == 0
    with pytest.raises(ScanError, match="26 of 26 maps are smoothed already"):
        fit_glm(None, "s8mwp1 ~ age", named, fwhm_mm=6)
    assert fit_glm(None, "other ~ age", named, repeats=0, fwhm_mm=6).record["smoothing"]["applied_fwhm_mm"] == 6
    assert fit_glm(None, "other ~ age", named, repeats=0).record["smoothing"]["of_files_fwhm_mm"] is None


def test_a_covariates_maps_are_smoothed_alike(tmp_path, table, spiky):
    others = np.float32(np.random.default_rng(3).uniform(0.2, 1, spiky.shape))
    for folder, width, one, other in (
        ("raw", 5, spiky, others), ("done", None, smoothed(spiky, 5.0), smoothed(others, 5.0)),
    ):  # fmt: skip
        kind = "mwp{}{{}}.nii" if width else "s5mwp{}{{}}.nii"
        write_all(tmp_path / folder, table, one, kind.format(1))
        write_all(tmp_path / folder, table, other, kind.format(2))
    found = fit_glm(tmp_path / "raw", "gm ~ age + map(wm)", table, ["age"], repeats=0, fwhm_mm=5)
    expected = fit_glm(tmp_path / "done", "gm ~ age + map(wm)", table, ["age"], repeats=0)
    np.testing.assert_allclose(t_of(found), t_of(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [-3, 0.01, 6.001, 51, float("nan")])
def test_widths_that_no_map_can_have(width):
    with pytest.raises(ScanError, match=r"expected 0\.1 to 50 mm with at most two decimals, or 0"):
        ModelSpec.make("gm ~ age", fwhm_mm=width)


def columns_of(**columns) -> pd.DataFrame:
    """A table of three scans; a dash is a scan without map."""
    return pd.DataFrame({name: [None if path == "-" else path for path in paths] for name, paths in columns.items()})


def test_a_column_of_one_model_is_found_and_several_are_refused():
    single = columns_of(mwp1="abc", mwp1r="---", s6mwp1r="---")
    assert map_column("gm", single) == "mwp1"
    plastic = columns_of(mwp1="---", s6mwp1="---", mwp1r="abc", s6mwp1r="abc", s8mwp1r="abc")
    assert map_column("gm", plastic, 8.0) == "s8mwp1r"
    assert map_column("gm", plastic.drop(columns="s8mwp1r")) == "s6mwp1r"
    assert map_column("gm", plastic, 4.0) == "mwp1r"
    mixed = columns_of(s6mwp1="a--", s6mwp1r="-bc", s6mwmwp1r="-bc")
    with pytest.raises(
        TableError,
        match=r"gm may be maps of several kinds \(s6mwp1: 1 scans, s6mwp1r: 2 scans, s6mwmwp1r: 2 scans\); write the "
        r'column .* on the left.* --where "time_points > 1"',
    ):
        map_column("gm", mixed)
    assert map_column("s6mwmwp1r", mixed) == "s6mwmwp1r"
    with pytest.raises(TableError, match=r"write the column that is meant on the left$"):
        map_column("gm", mixed[1:])


def test_scans_without_a_column_of_time_points_are_named_with_what_leaves_them_out():
    cohort = Cohort(columns_of(s6mwmwp1r="-bc", time_points=[1, 2, 2]).rename_axis("participant_id"), Path())
    index = pd.MultiIndex.from_tuples([("x", ""), ("y", ""), ("z", "")], names=["participant_id", "session_id"])
    cohort = Cohort(cohort.table.set_axis(index), Path())
    with pytest.raises(TableError, match=r'no s6mwmwp1r path for x; .*\(--where "time_points > 1"\)$'):
        cohort.paths("s6mwmwp1r")
