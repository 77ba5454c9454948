"""TFCE of whole maps: by hand, and the largest value alone against the package."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from vbmstat.glm.inference.permute.images import StatisticImages
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.image.grid import Grid
from vbmstat.maps.store import Space

SHAPE = (12, 9, 11)
INSIDE = np.random.default_rng(0).random(SHAPE) < 0.8
INSIDE[0] = INSIDE[:, 0] = True  # the mask reaches the edges of the grid


def images(two_sided: bool = True) -> StatisticImages:
    space = Space(Grid(SHAPE, np.diag([2.0, 2, 2, 1])), np.flatnonzero(INSIDE.reshape(-1)))
    return StatisticImages(space, NullSettings(two_sided=two_sided, wants_tfce=True))


def smooth(seed: int, sigma: float = 1.0) -> np.ndarray:
    image = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), sigma)
    return (image / image.std()).astype(np.float32)[INSIDE]


MAPS = {
    "smooth": smooth(1), "rough": smooth(2, 0), "ties": np.round(smooth(3)), "negative": -np.abs(smooth(4)),
    "positive": np.abs(smooth(5)), "nothing": smooth(6) * 0, "large": smooth(7) * 1e3,
    "two peaks": np.where(np.arange(INSIDE.sum()) % 400 == 7, np.float32(3), np.float32(0)),
}  # fmt: skip


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize("name", MAPS)
def test_the_largest_value_is_that_of_the_whole_map(name, two_sided):
    found = images(two_sided)
    expected = np.abs(found.enhance(MAPS[name])).max()
    assert found.largest_enhanced(MAPS[name]) == pytest.approx(expected, rel=1e-6)


def test_by_hand():
    """A bar of four voxels of 3, in a slab of twelve of 2 within: ∫ sqrt(12) h² to 2, then sqrt(4) h² to 3."""
    image = np.zeros(SHAPE, np.float32)
    image[0, 2:6, 3:6] = 2
    image[0, 2:6, 4] = 3
    image[8, 0, 0] = -2.5  # a cluster of its own
    expected = (np.sqrt(12) * 8 + np.sqrt(4) * (27 - 8)) / 3
    assert images().largest_enhanced(image[INSIDE]) == pytest.approx(expected)
    assert images().largest_enhanced(-image[INSIDE]) == pytest.approx(expected)
    assert images(two_sided=False).largest_enhanced(-image[INSIDE]) == pytest.approx(2.5**3 / 3)
