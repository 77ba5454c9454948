from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat import io
from vbmstat.errors import AssetError, ScanError, TableError
from vbmstat.grid import Grid, apply_affine, voxel_indices
from vbmstat.roi.atlas import SOURCES, load_atlas
from vbmstat.volume import Volume


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
    if name != "suit":  # 28 of its 34 labels are named
        assert not atlas.table["name"].str.startswith("label ").any()


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


def test_the_projects_table_agrees_with_the_wheels() -> None:
    ours = load_atlas("lpba40").table
    from vbmstat.roi import atlas as module  # noqa: PLC0415

    wheel = module._wheel_table(SOURCES["lpba40"])
    assert set(ours.index) == set(wheel.index)
    same = pd.concat([ours["name"], wheel["name"]], axis=1, keys=["ours", "wheel"])
    differing = same[same["ours"] != same["wheel"]]
    assert differing["ours"].to_dict() == {181: "Cerebellum", 182: "Brainstem"}
