from __future__ import annotations

import importlib.util
from pathlib import Path

import nibabel as nib
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
    assert load_atlas(write_atlas(tmp_path, "label\tname\n0\tBackground\n3\tA\n7\tB\n")).absent == ()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("label\ttitle\n3\tA\n", r"columns label \(or index\) and name"),
        ("label\tname\n3\tA\n3\tB\n", "label 3 has two rows"),
        ("label\tname\n3.5\tA\n", "whole-number label and a name in every row, got label 3.5 with name A"),
        ("label\tname\ninf\tA\n", "whole-number label"),
        ("label\tname\n1e300\tA\n", "whole-number label"),
        (None, "expected its label table"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path, table: str | None, message: str) -> None:
    with pytest.raises(TableError, match=message):
        load_atlas(write_atlas(tmp_path, table))


@pytest.mark.parametrize(
    "table",
    ["index\tname\n7\tB\n3\tA\n", "index\tname\tcolor\n3\tA\t#ff0000\n7\tB\t#00ff00\n",  # BIDS
     "index\tlabel\n3\tA\n7\tB\n", "index\tlabel\tname\n0\t3\tA\n1\t7\tB\n"],  # the last: rows as pandas numbers them
)  # fmt: skip
def test_index_stands_for_label(tmp_path, table) -> None:
    assert load_atlas(write_atlas(tmp_path, table)).table["name"].to_dict() == {3: "A", 7: "B"}


COLOURS = """#$Id: FreeSurferColorLUT.txt,v 1.70 $
#No. Label Name:                            R   G   B   A

0   Unknown                                 0   0   0   0
3   Left-Cerebral-Cortex                    205 62  78  0
  7 ctx-rh-insula   255 192 32 0  # the insula
8   Left-Cerebellum-Cortex                  230 148 34  0
"""


@pytest.mark.parametrize("name", ["mine.txt", "mine.ctab", "FreeSurferColorLUT.txt", "mine.tsv"])
def test_colour_tables_of_freesurfer(tmp_path, name) -> None:
    path = write_atlas(tmp_path, None)
    (tmp_path / name).write_text(COLOURS, encoding="utf-8")
    atlas = load_atlas(path)
    assert atlas.table.loc[3].tolist() == ["left", "Left-Cerebral-Cortex", "Cerebral-Cortex"]
    assert atlas.table.loc[7].tolist() == ["right", "ctx-rh-insula", "ctx-insula"]
    assert len(atlas.table) == 2
    assert atlas.absent == ()  # such a table names far more than an image holds


def test_a_table_of_its_own_comes_before_freesurfers(tmp_path) -> None:
    path = write_atlas(tmp_path, "label\tname\n3\tA\n7\tB\n")
    (tmp_path / "FreeSurferColorLUT.txt").write_text(COLOURS)
    assert load_atlas(path).table.loc[3, "name"] == "A"


@pytest.mark.parametrize(
    ("colours", "message"),
    [
        (COLOURS + "9 two words 1 2 3 0\n", r"expected 'number name red .* in line 8, got '9 two words 1 2 3 0'"),
        (COLOURS.replace("3   Left", "30   Left").replace("  7 ctx", " 70 ctx"), "none of its labels is in"),
        (COLOURS + "3 Again 1 2 3 0\n", "label 3 has two rows"),
        ("", "."),
        ("# nothing\n", "."),
    ],
)
def test_bad_colour_tables_say_what_is_wrong(tmp_path, colours, message) -> None:
    path = write_atlas(tmp_path, None)
    (tmp_path / "mine.txt").write_text(colours)
    with pytest.raises(TableError, match=message):
        load_atlas(path)


def test_label_images_of_freesurfer(tmp_path) -> None:
    """mri_convert is not needed: .mgz with the colour table that comes with FreeSurfer."""
    stored = nib.load(write_atlas(tmp_path, None))
    nib.save(nib.MGHImage(np.asarray(stored.dataobj, dtype=np.int32), stored.affine), tmp_path / "other.mgz")
    (tmp_path / "FreeSurferColorLUT.txt").write_text(COLOURS)
    atlas = load_atlas(tmp_path / "other.mgz")
    assert atlas.name == "other"
    assert list(atlas.table.index) == [3, 7]


def test_scaled_labels_are_refused(tmp_path) -> None:
    with pytest.raises(ScanError, match=r"whole-number labels, got 2\.95714"):
        load_atlas(write_atlas(tmp_path, "label\tname\n3\tA\n", scale=20.7 / 21))


def test_an_image_without_labels_is_refused(tmp_path) -> None:
    with pytest.raises(ScanError, match="the image has none"):
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


@pytest.mark.parametrize(("header", "rows"), [
    ("ROIid;ROIname", ("3;Left thing", "7;Right  thing")),
    ("ROIid;ROIabbr;ROIname", ("3;lT;Left thing", "7;rT;Right thing")),
    ("ROIid;ROIabbr", ("3;Left thing", "7;Right thing")),
])  # fmt: skip
def test_a_table_as_cat12_writes_it(tmp_path, header, rows) -> None:
    path = write_atlas(tmp_path, None)
    (tmp_path / "mine.csv").write_text("\n".join([header, *rows]) + "\n")
    table = load_atlas(path).table
    assert table.loc[3].tolist() == ["left", "Left thing", "thing"]
    assert table.loc[7].tolist() == ["right", "Right thing", "thing"]
