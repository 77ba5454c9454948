"""Smoothness of residuals: noise of known FWHM."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from vbmstat.glm.design.matrix import Design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.inference.smoothness import residual_smoothness, smoothness
from vbmstat.image.grid import Grid
from vbmstat.maps.store import ArrayMaps, Space

SHAPE = (30, 34, 28)
VOXEL_MM = np.array([1.5, 2.0, 2.5])
GRID = Grid(SHAPE, np.diag([*VOXEL_MM, 1.0]))
INSIDE = sum(a**2 for a in np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")) < 0.9
SPACE = Space(GRID, np.flatnonzero(INSIDE))


def noise(fwhm_mm, n=20, seed=0):
    sigma = np.asarray(fwhm_mm) / np.sqrt(8 * np.log(2)) / VOXEL_MM
    rng = np.random.default_rng(seed)
    wide = [m + 16 for m in SHAPE]
    maps = [ndimage.gaussian_filter(rng.standard_normal(wide), sigma)[8:-8, 8:-8, 8:-8][INSIDE] for _ in range(n)]
    return np.array(maps) / np.std(maps)


@pytest.mark.parametrize("fwhm_mm", [(6.0, 6.0, 6.0), (5.0, 8.0, 7.0)])
def test_known_smoothness_is_found(fwhm_mm):
    values = noise(fwhm_mm)
    x = np.column_stack([np.ones(20), np.arange(20.0)])
    ids = tuple(f"s{i}" for i in range(20))
    plan = make_plan(Design(x, ("Intercept", "age"), ids), (), np.empty((0, 20), bool))
    signal = 10 + np.outer(x[:, 1], np.ones(values.shape[1]))  # what the model explains does not count
    found = residual_smoothness(ArrayMaps((values + signal).astype(np.float32), ids, SPACE), plan)
    np.testing.assert_allclose(found.fwhm_mm, fwhm_mm, rtol=0.04)
    volume = INSIDE.sum() * np.prod(VOXEL_MM)
    assert found.resels == pytest.approx(volume / np.prod(found.fwhm_mm))


def test_rough_noise_and_no_neighbours():
    rough = np.random.default_rng(0).standard_normal((4, SPACE.voxel_index.size))
    assert max(smoothness(rough, np.ones(rough.shape[1], bool), SPACE).fwhm_mm) < 1.5
    alone = np.zeros(rough.shape[1], bool)
    alone[7] = True
    found = smoothness(rough, alone, SPACE)
    assert np.isnan(found.fwhm_mm).all()
    assert np.isnan(found.resels)
