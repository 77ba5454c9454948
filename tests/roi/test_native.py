from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from vbmstat.errors import ScanError, TableError
from vbmstat.files import naming
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import Atlas
from vbmstat.roi.measure import label_shares, measure_map
from vbmstat.roi.native import check_coverage, native_labels, native_shares
from vbmstat.roi.output import write_rois
from vbmstat.roi.table import cohort_of_maps, measure_rois

# Template mm of a scan point, axis by axis: a scale, a shift and a wave, so that the inverse is known on a fine line.
SCALE, SHIFT_MM, WAVE_MM, PERIOD_MM = 0.9, 1.7, 1.2, 25.0
LINE_MM = np.linspace(-60, 60, 240_001)
LABELS = (21, 22, 181)


def to_template(scan_mm: np.ndarray) -> np.ndarray:
    return SCALE * scan_mm + SHIFT_MM + WAVE_MM * np.sin(2 * np.pi * scan_mm / PERIOD_MM)


def to_scan(template_mm: np.ndarray) -> np.ndarray:
    return np.interp(template_mm, to_template(LINE_MM), LINE_MM)


def centred(n: int, size_mm: float) -> Grid:
    affine = np.diag([size_mm] * 3 + [1.0])
    affine[:3, 3] = -size_mm * (n - 1) / 2
    return Grid((n, n, n), affine)


def fraction(scan_mm: np.ndarray) -> np.ndarray:
    """A smooth tissue fraction in the scan, (3, ...) mm -> (...)."""
    x, y, z = scan_mm
    inside = 1 / (1 + np.exp((np.sqrt(x**2 + y**2 + z**2) - 15) / 2))
    return inside * (0.6 + 0.3 * np.sin(x / 4) * np.cos(y / 5))


def millimetres(grid: Grid) -> np.ndarray:
    return apply_affine(grid.affine, voxel_indices(grid.shape).double()).numpy()


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """1 mm; labels 21 and 22 side by side, 181 a ball where they meet."""
    grid = centred(41, 1.0)
    x, y, z = millimetres(grid)
    labels = np.where(x < 0.3 * y, 21, 22)
    labels[np.hypot(np.hypot(x, y - 3), z) < 6] = 181
    labels[np.abs(z) > 14] = 0
    table = pd.DataFrame({"hemisphere": "both", "name": ["a", "b", "c"], "region": ["a", "b", "c"]}, index=LABELS)
    return Atlas("made", Volume(torch.tensor(labels[None], dtype=torch.float32), grid), table, (), "none")


def scan(size_mm: float = 1.1, n: int = 44) -> tuple[Volume, Volume]:
    """Tissue fraction and inverse field of a scan."""
    grid = centred(n, size_mm)
    mm = millimetres(grid)
    tissue = Volume(torch.tensor(fraction(mm)[None], dtype=torch.float32), grid)
    return tissue, Volume(torch.tensor(to_template(mm), dtype=torch.float32), grid)


def jacobian(template_mm: np.ndarray, step_mm: float = 1e-3) -> np.ndarray:
    slopes = (to_scan(template_mm + step_mm) - to_scan(template_mm - step_mm)) / (2 * step_mm)
    return np.prod(slopes, axis=0)


def true_volumes(atlas: Atlas) -> np.ndarray:
    """Each label's tissue, mL: the integral over its voxels in the template, 27 points in each."""
    grid = centred(123, 1 / 3)
    template_mm = millimetres(grid)
    values = fraction(to_scan(template_mm)) * jacobian(template_mm)
    labels = atlas.image.data[0].numpy().repeat(3, 0).repeat(3, 1).repeat(3, 2)
    return np.array([values[labels == label].sum() for label in LABELS]) * grid.voxel_volume_ml


def test_volumes_through_a_known_field_are_the_true_ones_and_those_of_template_space(atlas) -> None:
    truth = true_volumes(atlas)
    tissue, field = scan()
    native = measure_map(tissue, native_shares(atlas, field, tissue.grid))
    np.testing.assert_allclose(native, truth, rtol=0.01)

    grid = centred(36, 1.25)
    template_mm = millimetres(grid)
    values = fraction(to_scan(template_mm)) * jacobian(template_mm)
    modulated = Volume(torch.tensor(values[None], dtype=torch.float32), grid)
    np.testing.assert_allclose(native, measure_map(modulated, label_shares(atlas, grid)), rtol=0.02)


def test_voxels_are_shared_in_eighths_and_labels_never_interpolated(atlas) -> None:
    tissue, field = scan()
    shares = native_shares(atlas, field, tissue.grid)
    np.testing.assert_array_equal(np.unique(shares.data * 8), np.arange(1, 9))
    total = shares.sum(axis=0)
    assert total.max() == 1
    assert 0 < (shares.data < 1).mean() < 1
    labels = native_labels(atlas, field, tissue.grid)
    assert set(labels.data.unique().tolist()) == {0, *LABELS}  # between 22 and 181 there would be others
    shared_most = np.array([*LABELS])[np.asarray(shares.todense()).argmax(axis=0)]
    whole = np.asarray((shares == 1).sum(axis=0)).reshape(-1) == 1
    np.testing.assert_array_equal(labels.data.numpy().reshape(-1)[whole], shared_most[whole])


@pytest.mark.parametrize("size_mm", [1.1, 1.4])
def test_a_field_of_a_box_in_the_scan_is_enough_whatever_its_voxels(atlas, size_mm: float) -> None:
    tissue, field = scan()
    if size_mm == 1.1:
        part = (slice(None), slice(1, 43), slice(1, 44), slice(2, 42))
        box = Volume(field.data[part], field.grid.crop((1, 1, 2), (43, 44, 42)))
    else:
        box = scan(size_mm, 30)[1]
    whole, inside = (measure_map(tissue, native_shares(atlas, of, tissue.grid)) for of in (field, box))
    np.testing.assert_allclose(inside, whole, rtol=0.005)


def test_orientation_of_the_scan_does_not_matter(atlas, tmp_path) -> None:
    tissue, field = scan()
    turned = Grid(tissue.grid.shape, np.diag([1.0, 1.0, 1.0, 1.0]) @ tissue.grid.affine)
    io.write_volume(tmp_path / "p.nii.gz", Volume(tissue.data, turned), axcodes="PIR", space="scanner")
    io.write_volume(tmp_path / "iy.nii.gz", field, axcodes="LSA", space="scanner")
    read, read_field = io.read_volume(tmp_path / "p.nii.gz"), io.read_channels(tmp_path / "iy.nii.gz")
    straight, other = (
        measure_map(p, native_shares(atlas, f, p.grid)) for p, f in ((tissue, field), (read, read_field))
    )
    np.testing.assert_allclose(other, straight, rtol=1e-5)


def test_where_the_field_is_not_known_there_is_no_label(atlas) -> None:
    tissue, field = scan()
    holes = field.data.clone()
    holes[:, 22:] = torch.nan
    shares = native_shares(atlas, Volume(holes, field.grid), tissue.grid)
    covered = np.asarray(shares.sum(axis=0)).reshape(tissue.grid.shape)
    assert not covered[22:].any()
    assert covered[:21].any()


def test_a_field_of_another_scan_is_refused(atlas) -> None:
    tissue, field = scan()
    with pytest.raises(ScanError, match=r"% of the tissue lies outside the inverse field .* of the same scan and run"):
        check_coverage(tissue, Volume(field.data[:, 25:], field.grid.crop((25, 0, 0), field.grid.shape)))
    check_coverage(tissue, field)
    away = Grid(field.grid.shape, field.grid.affine + np.array([[0, 0, 0, 500.0]] + [[0.0] * 4] * 3))
    with pytest.raises(ScanError, match="do not overlap"):
        native_shares(atlas, Volume(field.data, away), tissue.grid)


@pytest.mark.parametrize(
    ("name", "gm", "field"),
    [
        ("mwp1sub-1_T1w.nii.gz", "p1sub-1_T1w.nii.gz", "iy_sub-1_T1w.nii.gz"),
        ("s6mwp2sub-1_T1w.nii", "p1sub-1_T1w.nii", "iy_sub-1_T1w.nii"),
        ("mwc1ixi002.nii", "c1ixi002.nii", "iy_ixi002.nii"),
        (
            "sub-1_space-MNI152NLin2009cAsym_label-WM_desc-modulated_probseg.nii.gz",
            "sub-1_label-GM_probseg.nii.gz",
            "sub-1_from-T1w_to-MNI152NLin2009cAsym_mode-image_xfm.nii.gz",
        ),
    ],
)
def test_names_of_a_scans_own_maps(tmp_path, name: str, gm: str, field: str) -> None:
    paths = naming.native_paths(tmp_path / name)
    assert (paths["gm"].name, paths["iy"].name) == (gm, field)
    assert naming.native_paths(Path("wp1a.nii")) == {}


def test_names_are_those_that_are_written() -> None:
    scan_ = naming.Scan(Path("sub-1_T1w.nii.gz"), "sub-1_T1w", "sub-1")
    for style in naming.NAME_STYLES:
        paths = naming.native_paths(naming.output_path(Path("o"), scan_, "mwp1", style))
        for kind, key in (("gm", "p1"), ("wm", "p2"), ("csf", "p3"), ("iy", "iy")):
            assert paths[kind] == naming.output_path(Path("o"), scan_, key, style)


@pytest.fixture
def folder(tmp_path, atlas) -> Path:
    """Two scans of CAT12's names; the second lacks its field. And the atlas with its table."""
    tissue, field = scan()
    for stem in ("one", "two"):
        for number in (1, 2, 3):
            io.write_volume(tmp_path / "mri" / f"p{number}{stem}.nii.gz", tissue, space="scanner")
        io.write_volume(tmp_path / "mri" / f"mwp1{stem}.nii.gz", tissue)
    io.write_volume(tmp_path / "mri" / "iy_one.nii.gz", field, space="scanner")
    io.write_volume(tmp_path / "made.nii.gz", atlas.image, dtype="int16")
    (tmp_path / "made.tsv").write_text("label\tname\n21\ta\n22\tb\n181\tc\n")
    return tmp_path


def test_table_of_native_volumes_and_a_missing_field(folder, atlas) -> None:
    tables = measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", ("gm",), space="native")
    assert tables.failures["scan_id"].tolist() == ["two"]
    assert "none of y_two.nii.gz, iy_two.nii.gz, u_two.nii.gz is there" in tables.failures["reason"][0]
    volumes = tables.labels.set_index(["participant_id", "label"])["roi_gm_ml"]
    np.testing.assert_allclose(volumes["one"], true_volumes(atlas), rtol=0.01)
    assert volumes["two"].isna().all()
    names = {path.name for path in write_rois(folder / "out", tables)}
    assert "roi_made_native_labels.tsv" in names  # does not replace the tables of template space
    with pytest.raises(TableError, match="space 'scan': expected template or native"):
        measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", space="scan")


def test_maps_without_any_field_are_refused_in_one_line(folder) -> None:
    (folder / "mri" / "iy_one.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"no scan has its inverse field \(e\.g\. .*iy_one\.nii\.gz\)"):
        measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", space="native")
    for stem in ("one", "two"):
        (folder / "mri" / f"mwp1{stem}.nii.gz").rename(folder / "mri" / f"{stem}_mwp1.nii.gz")  # deepmriprep's name
    with pytest.raises(ScanError, match=r"one_mwp1\.nii\.gz is by a program not known to write any"):
        measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", space="native")


def test_a_field_that_leads_nowhere_is_a_failure(folder) -> None:
    """All of its volumes were 0."""
    _, field = scan()
    nowhere = Volume(torch.full_like(field.data, torch.nan), field.grid)
    io.write_volume(folder / "mri" / "iy_one.nii.gz", nowhere, space="scanner")
    tables = measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", ("gm",), space="native")
    assert (
        "p1one.nii.gz: expected a modulated tissue map, got one without any voxel in a label"
        in (tables.failures["reason"][0])
    )
    assert tables.labels["roi_gm_ml"].isna().all()


def test_fields_may_be_unzipped_and_one_that_misses_the_brain_is_a_failure(folder, atlas) -> None:
    field = scan()[1]
    (folder / "mri" / "iy_one.nii.gz").unlink()
    io.write_volume(folder / "mri" / "iy_one.nii", field, space="scanner")
    half = Volume(field.data[:, 25:], field.grid.crop((25, 0, 0), field.grid.shape))
    io.write_volume(folder / "mri" / "iy_two.nii.gz", half, space="scanner")
    tables = measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", ("gm",), space="native")
    assert tables.failures["scan_id"].tolist() == ["two"]
    assert "p1two.nii.gz" in tables.failures["reason"][0]
    assert "lies outside the inverse field" in tables.failures["reason"][0]


def test_a_field_that_is_no_field_is_one_failure(folder) -> None:
    io.write_volume(folder / "mri" / "iy_two.nii.gz", scan()[0], space="scanner")
    tables = measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", ("gm",), space="native")
    assert tables.failures["reason"].str.contains("expected a field of 3 mm coordinates, got 1").tolist() == [True]


def test_command_measures_in_native_space_and_writes_the_labels_there(folder, atlas) -> None:
    from vbmstat.cli import app  # noqa: PLC0415

    arguments = ["roi", "--maps", str(folder), "--atlas", str(folder / "made.nii.gz"), "--out", str(folder / "o")]
    result = CliRunner().invoke(app, [*arguments, "--space", "native", "--label-images"])
    assert result.exit_code == 1  # for the scan without a field
    assert "two gm: " in result.output
    labels = io.read_volume(folder / "o" / "roi_made_native" / "one.nii.gz")
    tissue, field = scan()
    assert labels.grid.matches(tissue.grid)
    torch.testing.assert_close(labels.data, native_labels(atlas, field, tissue.grid).data)
    assert CliRunner().invoke(app, [*arguments, "--label-images"]).exit_code == 2


def test_where_nothing_moves_a_label_has_its_own_voxels_in_the_order_of_the_table(atlas) -> None:
    image = atlas.image
    shuffled = Atlas(atlas.name, image, atlas.table.loc[[181, 21, 22]], (), "none")
    identity = Volume(torch.tensor(millimetres(image.grid), dtype=torch.float32), image.grid)
    counts = native_shares(shuffled, identity, image.grid).sum(axis=1)
    expected = torch.bincount(image.data.long().flatten())[[181, 21, 22]].numpy()
    np.testing.assert_array_equal(np.asarray(counts).reshape(-1), expected)


def test_images_of_scans_are_averaged_on_their_own_grid(folder, atlas, tmp_path) -> None:
    """Means and deviations are those of the values in the labels' voxels, with the oracle of numpy."""
    tissue, field = scan()
    labels = native_labels(atlas, field, tissue.grid).data[0].numpy()
    values = np.random.default_rng(3).normal(50, 10, labels.shape).astype(np.float32)
    values[labels == 0] = np.nan
    io.write_volume(tmp_path / "one_pet.nii.gz", Volume(torch.from_numpy(values)[None], tissue.grid), space="scanner")
    given = str(tmp_path / "{participant_id}_pet.nii.gz")
    tables = measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", ("gm",), images=[given])
    assert tables.failures["scan_id"].tolist() == ["two"]
    assert tables.failures["reason"][0].endswith("_pet.nii.gz: no image of this scan")
    mine = tables.labels[tables.labels["participant_id"] == "one"].set_index("label")
    for label in mine.index:
        inside = values[labels == label]
        assert mine["pet_mean"][label] == pytest.approx(np.nanmean(inside), abs=0.6)
        assert mine["pet_sd"][label] == pytest.approx(np.nanstd(inside), rel=0.1)
        assert mine["pet_voxels"][label] == pytest.approx(len(inside), rel=0.1)
    assert tables.labels.set_index("participant_id").loc["two", "pet_mean"].isna().all()
    written = write_rois(folder / "out", tables)
    wide = pd.read_csv(next(path for path in written if path.name.endswith("labels_wide.tsv")), sep="\t")
    assert {"a_pet_mean", "a_pet_sd", "a_pet_voxels"} <= set(wide)
    with pytest.raises(ScanError, match=r"--image .*one file for 2 scans"):
        measure_rois(cohort_of_maps(folder), folder / "made.nii.gz", ("gm",), images=[str(tmp_path / "one_pet.nii.gz")])
