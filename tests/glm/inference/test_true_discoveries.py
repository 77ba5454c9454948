"""Bounds of true discoveries against nilearn, and against every set of a few hypotheses written out."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from nilearn.glm import cluster_level_inference
from scipy import ndimage, stats

from vbmstat.glm.inference.places import Regions
from vbmstat.glm.inference.true_discoveries import discoveries_by_region, hommel_value, true_discoveries
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume


def test_nilearn_has_the_same_bounds():
    rng = np.random.default_rng(0)
    z = ndimage.gaussian_filter(rng.standard_normal((20, 22, 18)), 1.5)
    z /= z.std()
    z[4:9, 5:10, 6:11] += 4
    z[14:17, 14:17, 9:12] += 3
    labels, n = ndimage.label(z > 3)
    image = nib.Nifti1Image(z.astype(np.float32), np.eye(4))
    mask = nib.Nifti1Image(np.ones(z.shape, np.uint8), np.eye(4))
    share = cluster_level_inference(image, mask, threshold=[3.0], alpha=0.05).get_fdata()
    sizes = np.bincount(labels.ravel())[1:]
    mine = true_discoveries(stats.norm.sf(z.astype(np.float32).astype(float)).ravel(), labels.ravel())
    theirs = [share[labels == k].mean() for k in range(1, n + 1)]
    np.testing.assert_allclose(mine / sizes, theirs, atol=1e-6)
    assert mine.max() > 10


@pytest.mark.parametrize("seed", range(20))
def test_every_set_written_out(seed):
    """Closed testing: a set has at least d discoveries if all its subsets with fewer nulls are rejected by Simes."""
    rng = np.random.default_rng(seed)
    p = np.concatenate([rng.uniform(0, 0.02, 3), rng.uniform(0, 1, 4)])
    alpha, n = 0.05, len(p)

    def simes(members) -> bool:
        ordered = np.sort(p[list(members)])
        return bool((ordered <= alpha * np.arange(1, len(ordered) + 1) / len(ordered)).any())

    sets = [s for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]
    kept = [set(s) for s in sets if not simes(s)]  # not rejected by the local test
    assert hommel_value(p, alpha) == max((len(s) for s in kept), default=0)
    for chosen in [(0, 1, 2), (0, 3), (2, 4, 5, 6), tuple(range(n))]:
        largest_null = max((len(s & set(chosen)) for s in kept), default=0)
        labels = np.isin(np.arange(n), chosen).astype(int)
        assert true_discoveries(p, labels, alpha)[0] == len(chosen) - largest_null


def test_regions_against_closed_testing():
    """12 voxels in two atlases: each region has at least d discoveries if no set that keeps more nulls survives."""
    rng = np.random.default_rng(5)
    p = np.concatenate([rng.uniform(0, 0.004, 5), rng.uniform(0, 1, 7)])
    mm = np.array(list(np.ndindex(3, 2, 2)), float)
    first, second = np.array([3, 3, 3, 9, 9, 9, 9, 0, 0, 4, 4, 4]), np.repeat([1, 2], 6)
    grid = Grid((3, 2, 2), np.eye(4))
    images = [Volume(torch.from_numpy(one.reshape(1, 3, 2, 2).astype(np.float32)), grid) for one in (first, second)]
    names = {3: "Three", 9: "Nine", 4: "Four", 77: "Absent"}
    atlas = Regions(images[0], names, Regions(images[1], {1: "front", 2: "back"}, None, "halves"), "parts")
    table = discoveries_by_region(p, mm, atlas).set_index("region")
    order = np.argsort(p)
    rank_bound = 0.05 * np.arange(1, 13)

    def survives(members) -> bool:
        ordered = p[[i for i in order if i in members]]
        return bool((ordered > rank_bound[: len(ordered)] / len(ordered)).all())

    kept = [set(s) for k in range(1, 13) for s in itertools.combinations(range(12), k) if survives(set(s))]
    for labels, label, name in ((first, 3, "Three"), (first, 9, "Nine"), (first, 4, "Four"), (second, 1, "front")):
        region = set(np.flatnonzero(labels == label).tolist())
        assert table.loc[name, "size_voxels"] == len(region)
        assert table.loc[name, "true_discoveries"] == len(region) - max(len(s & region) for s in kept)
    assert table["true_discoveries"].tolist()[0] > 1
    assert table["atlas"].tolist() == ["parts"] * 3 + ["halves"] * 2
    assert "Absent" not in table.index


def test_nothing_to_find():
    assert true_discoveries(np.linspace(0.2, 1, 50), np.ones(50, int)).tolist() == [0]
    assert true_discoveries(np.full(4, 1e-9), np.array([1, 1, 0, 2])).tolist() == [2, 1]
