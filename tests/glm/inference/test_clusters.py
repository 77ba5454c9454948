"""Clusters and peaks, by hand and against scipy.ndimage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from vbmstat.glm.inference.clusters import (
    StatisticMap,
    cluster_table,
    coordinates_mm,
    find_clusters,
    local_maxima,
    neighbour_table,
    peak_table,
)
from vbmstat.glm.inference.places import Regions
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.maps.store import Space

SHAPE = (12, 14, 10)
AFFINE = np.array([[2.0, 0, 0, -11], [0, 2.0, 0, -13], [0, 0, 2.0, -9], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)
RNG = np.random.default_rng(0)
MASK = RNG.random(SHAPE) < 0.9
SPACE = Space(GRID, np.flatnonzero(MASK))
SMOOTH = ndimage.gaussian_filter(RNG.standard_normal(SHAPE), 1.2)
STATISTIC = (SMOOTH / SMOOTH.std() * 2)[MASK]
MAP = StatisticMap(STATISTIC, "t", SPACE)
STRUCTURES = {6: 1, 18: 2, 26: 3}


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("two_sided", [True, False])
def test_labels_are_ndimage_s(connectivity, two_sided):
    found = find_clusters(STATISTIC, 2.0, two_sided, neighbour_table(SPACE, connectivity))
    image = SPACE.unmask(STATISTIC)
    structure = ndimage.generate_binary_structure(3, STRUCTURES[connectivity])
    expected = []
    for sign in (1, -1) if two_sided else (1,):
        labels, n = ndimage.label(sign * image > 2.0, structure)
        for label in range(1, n + 1):
            inside = labels[MASK] == label
            assert len(np.unique(found.labels[inside])) == 1  # one cluster is one cluster
            expected.append((sign, int(inside.sum()), float((np.abs(STATISTIC[inside]) - 2).sum())))
    assert len(found.sizes) == len(expected) == found.labels.max()
    ours = zip(found.signs.tolist(), found.sizes.tolist(), found.masses.round(3).tolist(), strict=True)
    assert sorted(ours) == sorted((s, n, round(mass, 3)) for s, n, mass in expected)
    assert (np.diff(found.sizes) <= 0).all()  # the largest first
    assert (np.bincount(found.labels, minlength=1)[1:] == found.sizes).all()


def test_nothing_beyond_the_threshold():
    found = find_clusters(STATISTIC, 99.0, True, neighbour_table(SPACE))
    assert len(found.sizes) == len(found.masses) == found.labels.max() == 0
    table = cluster_table(MAP, found, {"p_extent_fwe": np.empty(0)}, {"z": STATISTIC})
    assert list(table.columns) == ["cluster", "sign", "size_voxels", "size_ml", "mass", "p_extent_fwe", "x_mm", "y_mm",
                                   "z_mm", "peak_t", "peak_z"]  # fmt: skip
    assert len(table) == len(peak_table(MAP, found, {})) == 0


def test_positive_and_negative_never_join():
    statistic = np.zeros(MASK.sum())
    touching = neighbour_table(SPACE, 6)[:, 0]
    voxel = int(np.flatnonzero(touching < len(statistic))[5])
    statistic[[voxel, touching[voxel]]] = [5.0, -5.0]
    found = find_clusters(statistic, 3.0, True, neighbour_table(SPACE))
    assert found.sizes.tolist() == [1, 1]
    assert sorted(found.signs.tolist()) == [-1, 1]


def test_peaks_are_local_maxima():
    labels = find_clusters(STATISTIC, 1.0, True, neighbour_table(SPACE, 26)).labels
    expected: set[int] = set()
    for sign in (1, -1):
        image = sign * SPACE.unmask(STATISTIC)
        largest = ndimage.maximum_filter(image, footprint=np.ones((3, 3, 3)), mode="constant")
        expected |= set(np.flatnonzero(((image == largest) & (image > 1))[MASK]))
    found = local_maxima(STATISTIC, labels, SPACE)
    assert set(found) == expected
    assert (np.diff(np.abs(STATISTIC[found])) <= 0).all()


def test_peaks_keep_their_distance():
    clusters = find_clusters(STATISTIC, 0.5, False, neighbour_table(SPACE))
    table = peak_table(MAP, clusters, {"z": STATISTIC})
    assert table.groupby("cluster").size().max() == 3
    for _, part in table.groupby("cluster"):
        mm = part[["x_mm", "y_mm", "z_mm"]].to_numpy()
        distances = np.linalg.norm(mm[:, None] - mm, axis=2)
        assert (distances[np.triu_indices(len(mm), 1)] > 8).all()
        assert part["t"].iloc[0] == pytest.approx(STATISTIC[clusters.labels == part["cluster"].iloc[0]].max(), abs=1e-3)


def test_tables_say_where():
    """One blob of 2 x 1 x 1 voxels at (4, 5, 3): its peak in mm, its size and mass, its regions."""
    everywhere = Space(GRID, np.arange(np.prod(SHAPE)))
    image = np.zeros(SHAPE)
    image[4, 5, 3], image[5, 5, 3] = 6.0, 4.0
    statistic = image.reshape(-1)
    clusters = find_clusters(statistic, 3.0, True, neighbour_table(everywhere))
    atlas = np.zeros((24, 28, 20), np.float32)  # 1 mm voxels, half a voxel off
    atlas[:9] = 7
    atlas[9:] = 8
    fine = Grid(atlas.shape, np.array([[1.0, 0, 0, -11.5], [0, 1.0, 0, -13.5], [0, 0, 1.0, -9.5], [0, 0, 0, 1]]))
    regions = Regions(Volume(torch.from_numpy(atlas)[None], fine), {7: "left\thippocampus", 8: "right"})
    at_peak = {"p_fwe": np.where(statistic > 5, 0.01, 0.5)}
    row = cluster_table(
        StatisticMap(statistic, "t", everywhere), clusters, {"p_extent_fwe": np.array([0.2])}, at_peak, regions
    ).iloc[0]
    assert (row["x_mm"], row["y_mm"], row["z_mm"]) == (-3.0, -3.0, -3.0)
    assert (row["size_voxels"], row["size_ml"], row["mass"]) == (2, 0.016, 4.0)
    assert (row["peak_t"], row["peak_p_fwe"], row["p_extent_fwe"], row["sign"]) == (6.0, 0.01, 0.2, 1)
    assert row["regions"] == "left\thippocampus 50 %; right 50 %"
    peak = peak_table(StatisticMap(statistic, "F", everywhere), clusters, at_peak, regions).iloc[0]
    assert (peak["F"], peak["p_fwe"], peak["region"]) == (6.0, 0.01, "left\thippocampus")


def test_coordinates():
    assert coordinates_mm(SPACE)[0].tolist() == (np.argwhere(MASK)[0] * 2 - [11, 13, 9]).tolist()
