"""Thinning removes surface times thickness at sub-voxel scale, nothing at 0 mm, and turns only cortex into CSF."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.simulate.atrophy import LEVELS_MM, PialSurface, gm_ml, pial_surface, render_thinned

SHAPE = (48, 48, 48)
VENTRICLE, WM, CORTEX, CSF = 4, 2, 3, 24


def as_map(data: np.ndarray, size_mm: float = 1.0) -> Volume:
    return Volume(torch.tensor(data, dtype=torch.float32)[None], Grid(data.shape, np.diag([size_mm] * 3 + [1.0])))


def distance_from(middle: tuple[float, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.sqrt(((np.indices(shape) - np.array(middle)[:, None, None, None]) ** 2).sum(0))


def ball(radius: float, size_mm: float = 1.0) -> Volume:
    """WM with 4 mm of cortex, in CSF; the centre is not on a voxel."""
    r = size_mm * distance_from((23.63, 24.27, 23.91))
    return as_map(np.select([r < radius - 4, r < radius], [WM, CORTEX], CSF), size_mm)


def gm_lost(surface: PialSurface, thinning_mm: float) -> np.ndarray:
    """Fraction of each voxel that thinning turns from cortex into CSF."""
    return surface.gm_fraction(0.0) - surface.gm_fraction(thinning_mm)


@pytest.fixture(scope="module")
def twenty():
    labels = ball(20.0)
    return labels, pial_surface(labels)


def test_no_thinning_loses_nothing(twenty):
    assert not gm_lost(twenty[1], 0.0).any()


@pytest.mark.parametrize(("radius", "size_mm"), [(20.0, 1.0), (30.0, 1.5), (15.0, 0.7)])
def test_a_ball_loses_its_shell(radius, size_mm):
    surface = pial_surface(ball(radius, size_mm))
    for thinning in (0.2, 0.5, 1.0):
        lost = gm_lost(surface, thinning).sum() * size_mm**3
        assert lost == pytest.approx(4 / 3 * np.pi * (radius**3 - (radius - thinning) ** 3), rel=0.04)


def test_a_slab_loses_its_surface_times_the_thinning():
    data = np.full((12, 12, 30), CSF)
    data[:, :, 4:16] = WM
    data[:, :, 16:20] = CORTEX
    surface = pial_surface(as_map(data))
    for thinning in LEVELS_MM:
        assert gm_lost(surface, thinning).sum() == pytest.approx(12 * 12 * thinning, rel=1e-3)


def test_loss_grows_with_every_level_and_is_the_same_in_any_axis_order(twenty):
    labels, surface = twenty
    volumes = [gm_ml(labels, surface, level) for level in LEVELS_MM]
    assert (np.diff(volumes) < 0).all()
    turned = Volume(labels.data.permute(0, 3, 1, 2).contiguous(), labels.grid)
    assert gm_ml(turned, pial_surface(turned), 0.6) == pytest.approx(volumes[6], rel=1e-5)


def test_only_cortex_shrinks_and_not_next_to_ventricles():
    r = distance_from((24, 24, 24))
    data = np.select([r < 6, r < 10, r < 14, r < 16, r < 18], [VENTRICLE, CORTEX, WM, CORTEX, 17], CSF)
    data[30:][data[30:] == 17] = CSF  # on one side cortex is at the surface, on the other below the hippocampus
    surface = pial_surface(as_map(data))
    assert gm_lost(surface, 1.0).sum() > 100
    assert not gm_lost(surface, 1.0)[r < 13].any()  # cortex beside the ventricle, WM
    assert not gm_lost(surface, 1.0)[data == 17].any()  # hippocampus at the surface
    assert set(np.unique(data[surface.gm_fraction(1.0) > 0])) <= {CORTEX, CSF}


def test_a_sulcus_of_one_voxel_stays_open():
    data = np.full((30, 14, 14), WM)
    data[8:15], data[15], data[16:22] = CORTEX, CSF, CORTEX
    surface = pial_surface(as_map(data))
    assert surface.gm_fraction(0.0)[15].max() < 0.05
    assert gm_lost(surface, 0.5)[14].mean() == pytest.approx(0.5, abs=0.1)
    assert gm_lost(surface, 0.5)[16].mean() == pytest.approx(0.5, abs=0.1)


def test_levels_differ_only_at_the_surface_and_by_the_fractions(twenty):
    labels, surface = twenty
    whole, thin = (render_thinned(labels, surface, level, seed=5).data[0].numpy() for level in (0.0, 0.6))
    r = distance_from((23.63, 24.27, 23.91))
    assert np.abs(thin - whole)[(r < 15) | (r > 25)].max() == 0
    lost = gm_lost(surface, 0.6)
    slope = ((thin - whole) * lost).sum() / (lost**2).sum()
    assert -600 < slope < -100  # cortex is 0.70 of WM, CSF 0.25, and the point spread mixes
    assert (thin - whole).sum() == pytest.approx(lost.sum() * (0.25 - 0.70) * 600, rel=0.2)
    assert not np.array_equal(whole, render_thinned(labels, surface, 0.0, seed=6).data[0].numpy())


def test_a_map_without_cortex_is_refused():
    with pytest.raises(ScanError, match="cerebral cortex"):
        pial_surface(as_map(np.full((8, 8, 8), CSF)))
    with pytest.raises(ScanError, match="unknown values 7777"):
        pial_surface(as_map(np.full((8, 8, 8), 7777)))
