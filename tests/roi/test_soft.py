"""Soft atlases: probabilities that overlap, through `roi` in template and native space, and a model of regions."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from vbmstat.cli import app
from vbmstat.errors import ScanError, TableError
from vbmstat.glm.spec import ModelSpec
from vbmstat.image import io
from vbmstat.image.grid import Grid, resample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.regions.volumes import RegionSpec, region_volumes
from vbmstat.roi.atlas import SoftAtlas, load_atlas
from vbmstat.roi.output import write_rois
from vbmstat.roi.table import Native, measure_rois
from vbmstat.tables.cohort import Cohort, index_by_id
from vbmstat.tracts.names import TRACTS, WEAK, region

GRID = Grid((6, 5, 4), np.diag([2.0, 2.0, 2.0, 1.0]))
VOXEL_ML = 0.008


def probabilities(scale: float = 1.0) -> np.ndarray:
    """Three regions that overlap, (3, X, Y, Z)."""
    return np.random.default_rng(0).uniform(0, 1, (3, *GRID.shape)).astype(np.float32) * scale


def write_atlas(folder, scale=1.0, rows=("1\tleft\tA_left\tA", "2\tright\tA_right\tA", "3\tboth\tB\tB")):
    data = torch.from_numpy(probabilities(scale))
    io.write_volume(folder / "soft.nii.gz", Volume(data, GRID), step=1.0)
    (folder / "soft.tsv").write_text("\n".join(["label\themisphere\tname\tregion", *rows]) + "\n")
    return folder / "soft.nii.gz"


@pytest.fixture
def cohort(tmp_path) -> Cohort:
    rows, random = [], np.random.default_rng(1)
    for number in range(8):
        name = f"{number:03d}"
        for prefix in ("mwp2", "mwp7", "fa"):
            values = random.uniform(0.1, 1, (1, *GRID.shape)).astype(np.float32)
            io.write_volume(tmp_path / "mri" / f"{prefix}{name}.nii.gz", Volume(torch.from_numpy(values), GRID))
        rows.append(
            {"participant_id": name, "age": 20 + 7 * number,
             **{column: f"mri/{column}{name}.nii.gz" for column in ("mwp2", "mwp7", "fa")}}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    return Cohort(index_by_id(table, "test"), tmp_path)


def values(cohort, column, row=0) -> np.ndarray:
    return io.read_volume(cohort.folder / cohort.table[column].iloc[row]).data[0].numpy().astype(float)


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["shares", "percent"])
def test_volumes_are_sums_of_probability_times_tissue_and_means_are_weighted(cohort, tmp_path, scale):
    atlas = load_atlas(write_atlas(tmp_path, scale))
    assert isinstance(atlas, SoftAtlas)
    rois = measure_rois(cohort, atlas, means=["fa"])
    first = rois.labels[rois.labels["participant_id"] == "000"]
    p, wm, wmh, fa = probabilities(), values(cohort, "mwp2"), values(cohort, "mwp7"), values(cohort, "fa")
    assert first["roi_wm_ml"].to_numpy() == pytest.approx((p * wm).sum((1, 2, 3)) * VOXEL_ML, abs=2e-6)
    assert first["roi_wmh_ml"].to_numpy() == pytest.approx((p * wmh).sum((1, 2, 3)) * VOXEL_ML, abs=2e-6)
    assert first["fa_mean"].to_numpy() == pytest.approx((p * fa).sum((1, 2, 3)) / p.sum((1, 2, 3)), abs=2e-6)
    pair = rois.regions[(rois.regions["participant_id"] == "000") & (rois.regions["region"] == "A")].iloc[0]
    assert pair["fa_mean"] == pytest.approx((p[:2] * fa).sum() / p[:2].sum(), abs=2e-6)
    assert pair["roi_wm_ml"] == pytest.approx((p[:2] * wm).sum() * VOXEL_ML, abs=2e-6)


def test_tables_and_dictionary_say_that_volumes_do_not_add_up(cohort, tmp_path):
    rois = measure_rois(cohort, load_atlas(write_atlas(tmp_path)), means=["fa"])
    written = write_rois(tmp_path / "roi", rois)
    assert (rois.labels["additive"] == False).all()  # noqa: E712
    assert (rois.regions["additive"] == False).all()  # noqa: E712
    for path in written:
        about = json.loads(path.with_suffix(".json").read_text())
        assert "do not add" in about["vbmstat"]["additive"]
        assert all("participants table" not in about[column]["Description"] for column in about if column != "vbmstat")
    wide = pd.read_csv(tmp_path / "roi" / "roi_soft_regions_wide.tsv", sep="\t")
    assert {"a_wm_ml", "a_fa_mean", "b_wmh_ml"} <= set(wide)
    assert "not additive" in (tmp_path / "roi" / "roi_soft_LICENCE.txt").read_text()


def test_native_space_reads_the_probability_at_each_voxels_template_point(cohort, tmp_path):
    """A field that shifts by one voxel."""
    shift = torch.tensor([2.0, 0.0, 0.0]).reshape(3, 1, 1, 1)
    for number in range(8):
        io.write_volume(
            tmp_path / "mri" / f"iy_{number:03d}.nii.gz", Volume(voxel_indices(GRID.shape) * 2 + shift, GRID)
        )
        tissue = io.read_volume(tmp_path / "mri" / f"mwp2{number:03d}.nii.gz")
        io.write_volume(tmp_path / "mri" / f"p2{number:03d}.nii.gz", tissue)
    atlas = load_atlas(write_atlas(tmp_path))
    rois = measure_rois(cohort, atlas, ["wm"], space="native")
    moved = np.zeros_like(probabilities())
    moved[:, :-1] = probabilities()[:, 1:]
    expected = (moved * values(cohort, "mwp2")).sum((1, 2, 3)) * VOXEL_ML
    assert rois.labels["roi_wm_ml"].to_numpy()[:3] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ScanError, match="overlap, so there is no label image"):
        measure_rois(cohort, atlas, ["wm"], space=Native(tmp_path))


def test_a_model_of_soft_regions(cohort, tmp_path):
    write_atlas(tmp_path)
    given = ["glm", "wm ~ age", "--cohort", tmp_path / "cohort.tsv", "--atlas", tmp_path / "soft.nii.gz"]
    given += ["--level", "roi", "--permutations", "20", "--out", tmp_path / "glm"]
    result = CliRunner().invoke(app, [str(word) for word in given])
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(tmp_path / "glm" / "roi_soft_glm.tsv", sep="\t")
    assert set(rows["name"]) == {"A_left", "A_right", "B"}
    assert "note: regions of soft overlap: an effect in one shows in others" in result.output


def test_a_model_of_another_tissue_than_the_atlas_is_for_has_a_note(cohort, tmp_path):
    regions = RegionSpec(replace(load_atlas(write_atlas(tmp_path)), tissues=("wm",)))
    table = Cohort(cohort.table.assign(mwp1=cohort.table["mwp2"]), cohort.folder)
    notes = {tissue: region_volumes(ModelSpec(f"{tissue} ~ age"), table, regions).notes for tissue in ("gm", "wm")}
    about = "soft is made for wm: gm in its regions is that of neighbours"
    assert [about in notes[tissue] for tissue in ("gm", "wm")] == [True, False]


def test_a_failed_map_and_an_unknown_column(cohort, tmp_path):
    atlas = load_atlas(write_atlas(tmp_path))
    (tmp_path / "mri" / "fa003.nii.gz").unlink()
    failures = measure_rois(cohort, atlas, means=["fa"]).failures
    assert failures[["scan_id", "tissue"]].to_numpy().tolist() == [["003", "fa"]]
    with pytest.raises(TableError, match="no column md of maps to average"):
        measure_rois(cohort, atlas, means=["md"])


@pytest.mark.parametrize(
    ("scale", "rows", "match"),
    [
        (1.0, ("1\tleft\tA\tA", "2\tleft\tB\tB"), "labels 1 to 3 in order"),
        (5.0, ("1\tleft\tA\tA", "2\tleft\tB\tB", "3\tleft\tC\tC"), "probabilities"),
        (1000.0, ("1\tleft\tA\tA", "2\tleft\tB\tB", "3\tleft\tC\tC"), "probabilities"),
        (float("nan"), ("1\tleft\tA\tA", "2\tleft\tB\tB", "3\tleft\tC\tC"), "probabilities"),
    ],
)
def test_soft_atlases_that_cannot_be_used(tmp_path, scale, rows, match):
    with pytest.raises((TableError, ScanError), match=match):
        load_atlas(write_atlas(tmp_path, scale, rows))


def test_a_soft_atlas_without_its_table(tmp_path):
    write_atlas(tmp_path)
    (tmp_path / "soft.tsv").unlink()
    with pytest.raises(TableError, match=r"table of its volumes .*soft\.tsv"):
        load_atlas(tmp_path / "soft.nii.gz")


def test_the_shipped_tracts_are_graded_symmetric_and_small():
    atlas = load_atlas("tracts72")
    assert isinstance(atlas, SoftAtlas)
    assert tuple(atlas.table["name"]) == TRACTS
    left, right = (atlas.image.data[atlas.table["hemisphere"].to_numpy() == side] for side in ("left", "right"))
    assert (left - right.flip(1)).abs().max() <= 1 / 255 + 1e-6
    assert "one person" in atlas.licence
    assert all(region(name) in atlas.licence for name in WEAK)


def test_tracts_have_volumes_of_white_matter_and_lesions_only(cohort):
    atlas = load_atlas("tracts72")
    labels = measure_rois(cohort, atlas).labels
    assert [column for column in labels if column.endswith("_ml")] == ["roi_wm_ml", "roi_wmh_ml"]
    here = resample(atlas.image.data, atlas.image.grid, GRID).numpy()
    load = (here * values(cohort, "mwp7")).sum((1, 2, 3)) * VOXEL_ML
    assert load.max() > 0.1
    assert labels["roi_wmh_ml"][: len(TRACTS)].to_numpy() == pytest.approx(load, abs=1e-5)
    assert "roi_gm_ml" in measure_rois(cohort, atlas, ["gm", "wm"]).labels  # for who asks


def test_other_soft_atlases_have_all_tissues(tmp_path, cohort):
    labels = measure_rois(cohort, load_atlas(write_atlas(tmp_path))).labels
    expected = [f"roi_{tissue}_ml" for tissue in ("gm", "wm", "csf", "wmh")]
    assert [column for column in labels if column.endswith("_ml")] == expected
