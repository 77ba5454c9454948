"""Measures against values computed by hand; the paper's elasticity against torchreg."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vbmstat.errors import ScanError
from vbmstat.image.deform import displacement_of
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.metrics import accuracy


def field_of(function, shape=(9, 8, 7), size=(1.5, 1.5, 1.5)):
    grid = Grid(shape, np.diag([*size, 1.0]))
    return Displacement(function(apply_affine(grid.affine, voxel_indices(shape))), grid)


def test_overlap_of_masks_by_hand():
    one, other = torch.tensor([1, 1, 1, 0]).bool(), torch.tensor([0, 1, 1, 1]).bool()
    assert accuracy.dice(one, other) == pytest.approx(2 * 2 / 6)
    assert accuracy.jaccard(one, other) == pytest.approx(2 / 4)
    assert accuracy.probabilistic_dice(one.float(), other.float()) == pytest.approx(2 * 2 / 6)


def test_probabilistic_dice_weighs_fractions():
    one, other = torch.tensor([1.0, 0.5, 0.0]), torch.tensor([1.0, 0.0, 0.5])
    assert accuracy.probabilistic_dice(one, other) == pytest.approx(2 * 1.0 / 3.0)


@pytest.mark.parametrize("measure", [accuracy.dice, accuracy.jaccard, accuracy.probabilistic_dice])
def test_overlap_of_two_empty_masks_is_nan(measure):
    assert math.isnan(measure(torch.zeros(5).bool(), torch.zeros(5).bool()))


def test_fractions_of_a_label_map():
    fractions = accuracy.tissue_fractions(torch.tensor([0.0, 0.5, 1.0, 1.25, 2.0, 2.5, 3.0]))
    assert fractions["csf"].tolist() == [0, 0.5, 1, 0.75, 0, 0, 0]
    assert fractions["gm"].tolist() == [0, 0, 0, 0.25, 1, 0.5, 0]
    assert fractions["wm"].tolist() == [0, 0, 0, 0, 0, 0.5, 1]


def test_mse_is_the_mean_over_voxels_and_channels():
    grid = Grid((2, 2, 2), np.eye(4))
    template = Volume(torch.zeros(2, 2, 2, 2), grid)
    warped = torch.zeros(2, 2, 2, 2)
    warped[0, 0, 0, 0] = 2.0
    assert accuracy.mse_to_template(Volume(warped, grid), template) == pytest.approx(4 / 16)
    with pytest.raises(ScanError, match=r"grid \(2, 2, 2\).*differs from the template's"):
        accuracy.mse_to_template(Volume(warped, Grid((2, 2, 2), np.diag([2.0, 1, 1, 1]))), template)


def test_elastic_energy_of_a_stretch_a_shear_and_a_rotation():
    def stretch(mm):  # u = (0.1 x, 0, 0): strain xx 0.1
        return torch.stack([0.1 * mm[0], 0 * mm[0], 0 * mm[0]])

    def shear(mm):  # u = (0.2 y, 0, 0): strain xy = yx = 0.1
        return torch.stack([0.2 * mm[1], 0 * mm[0], 0 * mm[0]])

    def spin(mm):  # infinitesimal rotation: no strain
        return torch.stack([-0.1 * mm[1], 0.1 * mm[0], 0 * mm[0]])

    assert accuracy.linear_elasticity(field_of(stretch)) == pytest.approx(2 * 0.01 + 0.5 * 0.01, rel=1e-4)
    assert accuracy.linear_elasticity(field_of(shear)) == pytest.approx(2 * 2 * 0.01, rel=1e-4)
    assert accuracy.linear_elasticity(field_of(spin)) == pytest.approx(0, abs=1e-9)
    assert accuracy.linear_elasticity(field_of(shear), mu=1.0) == pytest.approx(2 * 0.01, rel=1e-4)
    assert accuracy.linear_elasticity(field_of(stretch), lam=3.0) == pytest.approx(0.02 + 1.5 * 0.01, rel=1e-4)


def test_elastic_energy_does_not_depend_on_the_voxel_size():
    def wave(mm):
        return torch.stack([torch.sin(mm[0] / 12), torch.cos(mm[1] / 15), torch.sin(mm[2] / 10)])

    coarse = accuracy.linear_elasticity(field_of(wave, (30, 30, 30), (2, 2, 2)))
    fine = accuracy.linear_elasticity(field_of(wave, (60, 60, 60), (1, 1, 1)))
    assert coarse == pytest.approx(fine, rel=0.03)


def test_the_published_number_is_torchregs():
    metrics = pytest.importorskip("torchreg.metrics")
    shape = (11, 13, 11)  # torchreg confuses its axes if the first and the last differ in length
    still = field_of(torch.zeros_like, shape)
    assert accuracy.published_elasticity(still) == pytest.approx(35.0)
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    field = Displacement(noise, still.grid)
    half = (torch.tensor(shape) - 1) / 2
    normalised = torch.stack([noise[axis] / 1.5 / half[axis] for axis in (2, 1, 0)], dim=-1)[None]  # (1, X, Y, Z, zyx)
    expected = float(metrics.LinearElasticity(mu=2.0, lam=1.0)(normalised))
    assert accuracy.published_elasticity(field) == pytest.approx(expected, rel=1e-4)


def test_a_field_without_its_linear_part():
    grid = Grid((12, 10, 8), np.array([[1.5, 0, 0, -8], [0, 1.5, 0, -7], [0, 0, 1.5, -6], [0, 0, 0, 1.0]]))
    mm = apply_affine(grid.affine, voxel_indices(grid.shape))
    linear = np.array([[1.1, 0.05, 0, 5], [-0.04, 0.9, 0.1, -3], [0, 0, 1.2, 8], [0, 0, 0, 1.0]])
    bump = torch.stack([torch.exp(-mm.square().sum(0) / 20), 0 * mm[0], 0 * mm[0]])
    deformation = Volume(apply_affine(linear, mm + bump), grid)
    assert torch.allclose(displacement_of(deformation, linear).data, bump, atol=1e-4)
    fitted = displacement_of(Volume(apply_affine(linear, mm), grid))  # a linear map only
    assert float(fitted.data.abs().max()) < 1e-3
