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


def by_differences(fwhm_mm):
    """What forward differences make of a Gaussian correlation."""
    rho = np.exp(-2 * np.log(2) * VOXEL_MM**2 / np.square(fwhm_mm))
    return VOXEL_MM * np.sqrt(2 * np.log(2) / (1 - rho))


@pytest.mark.parametrize("fwhm_mm", [(6.0, 6.0, 6.0), (5.0, 8.0, 7.0)])
def test_known_smoothness(fwhm_mm):
    values = noise(fwhm_mm)
    x = np.column_stack([np.ones(20), np.arange(20.0)])
    ids = tuple(f"s{i}" for i in range(20))
    plan = make_plan(Design(x, ("Intercept", "age"), ids), (), np.empty((0, 20), bool))
    signal = 10 + np.outer(x[:, 1], np.ones(values.shape[1]))  # what the model explains does not count
    smooth = residual_smoothness(ArrayMaps((values + signal).astype(np.float32), ids, SPACE), plan)
    np.testing.assert_allclose(smooth.fwhm_mm, by_differences(fwhm_mm), rtol=0.03)
    inside = np.isfinite(smooth.resels_per_voxel)
    product = np.prod(VOXEL_MM / smooth.fwhm_mm)
    assert smooth.resels_per_voxel[inside].mean() == pytest.approx(product)
    assert 0.8 < inside.mean() < 1


def test_oblique_smoothness_uses_the_whole_covariance():
    """Maps that vary along one diagonal only have no volume of resels, whatever their axes say."""
    x, y, _ = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    z = np.random.default_rng(3).standard_normal(8)
    waves = np.array([np.sin(0.3 * (x + y) + 2 * np.pi * k / 8)[INSIDE] + z[k] for k in range(8)])
    smooth = smoothness(waves, np.ones(waves.shape[1], bool), SPACE, 8, 8)
    assert np.nanmax(smooth.resels_per_voxel) < 1e-6


def test_local_roughness():
    """Half the volume is twice as smooth: its voxels have an eighth of the resels."""
    rng = np.random.default_rng(2)
    left = np.flatnonzero(INSIDE.ravel())
    is_left = np.unravel_index(left, SHAPE)[0] < SHAPE[0] // 2
    rows = []
    for _ in range(64):
        white = rng.standard_normal([m + 40 for m in SHAPE])
        rough, soft = (ndimage.gaussian_filter(white, s)[20:-20, 20:-20, 20:-20][INSIDE] for s in (1.5, 3.0))
        rows.append(np.where(is_left, rough, soft))
    values = np.array(rows) / np.sqrt(np.mean(np.square(rows), axis=0))
    local = smoothness(values, np.ones(values.shape[1], bool), SPACE, 64, 64).resels_per_voxel
    border = np.abs(np.unravel_index(left, SHAPE)[0] - SHAPE[0] // 2) < 2
    rough, soft = (np.nanmean(local[side & ~border]) for side in (is_left, ~is_left))
    assert rough / soft == pytest.approx(8, rel=0.1)


def test_no_neighbours():
    rough = np.random.default_rng(0).standard_normal((4, SPACE.voxel_index.size))
    assert max(smoothness(rough, np.ones(rough.shape[1], bool), SPACE, 4, 4).fwhm_mm) < 4.5
    alone = np.zeros(rough.shape[1], bool)
    alone[7] = True
    smooth = smoothness(rough, alone, SPACE, 4, 4)
    assert np.isnan(smooth.fwhm_mm).all()
    assert np.isnan(smooth.resels_per_voxel).all()
