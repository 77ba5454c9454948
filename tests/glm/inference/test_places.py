"""Names of places, by hand."""

from __future__ import annotations

import numpy as np
import torch

from vbmstat.glm.inference.places import Regions, labels_at, names_at, region_shares, with_nearest
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume


def test_labels_of_an_atlas_on_another_grid():
    atlas = torch.arange(8, dtype=torch.float32).reshape(1, 2, 2, 2)
    regions = Regions(Volume(atlas, Grid((2, 2, 2), np.diag([10.0, 10, 10, 1]))), {1: "one"})
    mm = np.array([[0, 0, 10.0], [4.0, 4.0, 14.0], [6.0, 0, 0], [40.0, 0, 0], [-6.0, 0, 0]])
    assert labels_at(regions, mm).tolist() == [1, 1, 4, 0, 0]
    assert names_at(regions, mm) == ["one", "one", "label 4", "none", "none"]


def test_shares():
    assert region_shares(["one"] * 96 + ["none"] * 3 + ["label 5"]) == "one 96 %"
    assert region_shares(["label 5", "label 5", "none", "one"]) == "label 5 50 %; none 25 %; one 25 %"


def line(labels: list[int], names: dict[int, str], second: Regions | None = None, atlas: str = "") -> Regions:
    """Labels along x, 2 mm apart."""
    image = torch.tensor(labels, dtype=torch.float32).reshape(1, -1, 1, 1)
    return Regions(Volume(image, Grid((len(labels), 1, 1), np.diag([2.0, 2, 2, 1]))), names, second, atlas)


def test_a_second_atlas_names_what_the_first_leaves_out_and_the_nearest_region_the_rest():
    deep = line([4, 4, 4, 4, 0, 0], {4: "thalamus"}, atlas="deep")
    regions = line([1, 0, 0, 0, 0, 2], {1: "insula", 2: "pole"}, deep, "cortex")
    mm = np.array([[0.0, 0, 0], [2.0, 0, 0], [8.0, 0, 0], [10.0, 0, 0], [10.0, 0, 6.0]])
    names = names_at(regions, mm)
    assert names == ["insula", "thalamus (deep)", "none", "pole", "none"]
    assert with_nearest(names, regions, mm)[2:] == ["none (pole at 2 mm)", "pole", "none (pole at 6 mm)"]
