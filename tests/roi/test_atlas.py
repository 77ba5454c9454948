from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat.errors import AssetError, ScanError, TableError
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import SOURCES, load_atlas, wheel_table

ATLASES = Path(__file__).parents[2] / "atlases"


def write_atlas(folder, table: str | None, values=(0, 3, 7), scale: float = 1.0):
    data = torch.zeros(1, 6, 4, 4)
    for position, value in enumerate(values):
        data[0, 2 * position : 2 * position + 2] = value * scale
    path = folder / "mine.nii.gz"
    io.write_volume(path, Volume(data, Grid((6, 4, 4), np.diag([2.0, 2.0, 2.0, 1.0]))), dtype="float32")
    if table is not None:
        (folder / "mine.tsv").write_text(table)
    return path


def test_lpba40_has_56_labels_in_29_regions() -> None:
    atlas = load_atlas("lpba40")
    assert len(atlas.table) == 56
    counts = atlas.table["region"].value_counts()
    assert len(counts) == 29
    assert sorted(counts[counts == 1].index) == ["Brainstem", "Cerebellum"]
    assert atlas.table.loc[101].tolist() == ["left", "Left Insula", "Insula"]
    assert atlas.absent == ()
    assert "non-commercial" in atlas.licence


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_left_labels_lie_left_and_right_labels_right(name: str) -> None:
    atlas = load_atlas(name)
    labels = atlas.image.data[0].to(torch.int64)
    x_mm = apply_affine(atlas.image.grid.affine, voxel_indices(atlas.image.grid.shape))[0]
    sums = torch.bincount(labels.flatten(), weights=x_mm.double().flatten())
    mean_x = sums / torch.bincount(labels.flatten()).clamp(min=1)
    for side, sign in (("left", -1), ("right", 1)):
        labels_of_side = atlas.table.index[atlas.table["hemisphere"] == side]
        # half a voxel of tolerance: the pons of the wheel's mori image lies across the midline
        wrong = [label for label in labels_of_side if sign * float(mean_x[int(label)]) <= -0.5]
        assert not wrong, f"{side}: {wrong}"
    assert not atlas.table["name"].str.startswith("label ").any()
    assert atlas.absent == ()


def test_the_labels_are_those_of_the_file(tmp_path) -> None:
    atlas = load_atlas(write_atlas(tmp_path, "label\tname\n7\tRight thing\n3\tLeft thing\n"))
    assert atlas.table.loc[3, "name"] == "Left thing"
    assert atlas.table.loc[7, "name"] == "Right thing"
    assert atlas.name == "mine"


def test_a_label_without_a_name_is_kept_and_one_without_voxels_is_stated(tmp_path) -> None:
    atlas = load_atlas(write_atlas(tmp_path, "label\tname\n3\tA\n5\tB\n"))
    assert atlas.table.loc[7, "name"] == "label 7"
    assert atlas.absent == (5,)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("label\ttitle\n3\tA\n", "columns label and name"),
        ("label\tname\n3\tA\n3\tB\n", "label 3 has two rows"),
        ("label\tname\n3.5\tA\n", "whole-number label"),
        ("label\tname\ninf\tA\n", "whole-number label"),
        ("label\tname\n1e300\tA\n", "whole-number label"),
        (None, "expected its label table"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path, table: str | None, message: str) -> None:
    with pytest.raises(TableError, match=message):
        load_atlas(write_atlas(tmp_path, table))


def test_scaled_labels_are_refused(tmp_path) -> None:
    with pytest.raises(ScanError, match=r"whole-number labels, got 2\.95714"):
        load_atlas(write_atlas(tmp_path, "label\tname\n3\tA\n", scale=20.7 / 21))


def test_an_image_without_labels_is_refused(tmp_path) -> None:
    with pytest.raises(ScanError, match="holds none"):
        load_atlas(write_atlas(tmp_path, "label\tname\n3\tA\n", values=(0, 0, 0)))


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(AssetError, match="did you mean lpba40"):
        load_atlas("lpba4")


def load_make():
    spec = importlib.util.spec_from_file_location("make_atlases", ATLASES / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_folders_are_those_of_the_script(name: str) -> None:
    make = load_make()
    source = (ATLASES / name / "SOURCE.md").read_text(encoding="utf-8")
    assert SOURCES[name].sha256 in source
    assert SOURCES[name].licence in source
    labels = ATLASES / name / "labels.tsv"
    assert labels.is_file() == (name not in make.NOT_COPIED)
    if labels.is_file():
        pd.testing.assert_frame_equal(pd.read_csv(labels, sep="\t", keep_default_na=False), make.labels(name))


def test_the_script_mends_the_wheels_tables_by_label() -> None:
    make = load_make()
    for name, mended in make.MENDED.items():
        wheel, ours = wheel_table(SOURCES[name]), make.labels(name).set_index("label")
        same = wheel.index.difference(list(mended))
        pd.testing.assert_frame_equal(ours.loc[same], wheel.loc[same])
        assert ours.loc[list(mended), "name"].to_dict() == mended
    suit = load_atlas("suit").table
    assert suit.loc[29].tolist() == ["left", "Left Dentate", "Dentate"]
    assert len(suit) == 34


def test_cobra_is_measured_where_its_06_mm_voxels_are() -> None:
    cobra = load_atlas("cobra")
    np.testing.assert_allclose(cobra.image.grid.voxel_size_mm, 0.6, atol=1e-6)
    mm = apply_affine(cobra.image.grid.affine, voxel_indices(cobra.image.grid.shape))
    left, right = (mm[:, cobra.image.data[0] == label].mean(dim=1) for label in (3, 103))  # thalamus
    np.testing.assert_allclose(left[0], -right[0], atol=0.6)
    np.testing.assert_allclose(left[1:], right[1:], atol=1.5)
