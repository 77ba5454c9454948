import numpy as np
import pytest
import torch

from vbmstat.image.grid import Grid, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.modulate import deformation, inverse_deformation, normalise

TEMPLATE = Grid((60, 64, 60), np.array([[1.5, 0, 0, -45], [0, 1.5, 0, -48], [0, 0, 1.5, -45], [0, 0, 0, 1.0]]))


def ball(grid, radius_mm=25.0):
    points = torch.einsum("ij,jxyz->ixyz", torch.tensor(grid.affine[:3, :3]).float(), voxel_indices(grid.shape))
    points = points + torch.tensor(grid.affine[:3, 3]).float().reshape(3, 1, 1, 1)
    return Volume(((radius_mm - points.square().sum(0).sqrt()) / 2).clamp(0, 1)[None], grid)


def still(grid):
    return Displacement(torch.zeros(3, *grid.shape), grid)


@pytest.mark.parametrize("voxel_mm", [0.8, 1.0, 2.0])
def test_modulation_keeps_the_volume_under_an_affine(voxel_mm):
    n = round(100 / voxel_mm)
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = -50
    scan = Grid((n, n, n), affine)
    tissue = ball(scan)
    linear = np.array([[1.1, 0.1, 0, 1], [-0.1, 0.95, 0.05, -2], [0, 0, 0.9, 3], [0, 0, 0, 1.0]])
    warped, modulated = normalise(tissue, still(TEMPLATE), linear)
    assert modulated.sums_ml[0] == pytest.approx(tissue.sums_ml[0], rel=0.005)
    assert warped.sums_ml[0] == pytest.approx(tissue.sums_ml[0] / np.linalg.det(linear[:3, :3]), rel=0.005)


def test_modulation_keeps_the_volume_under_a_warp():
    grid = Grid((113, 137, 113), np.array([[1.5, 0, 0, -84], [0, 1.5, 0, -120], [0, 0, 1.5, -72], [0, 0, 0, 1.0]]))
    rough = torch.randn(3, *warp.PADDED_SHAPE, generator=torch.Generator().manual_seed(1))
    velocity = smooth(rough, np.full(3, 16.0), 3.0)
    field = warp.displacement(velocity * (8.0 / velocity.abs().max()), grid)
    tissue = ball(grid, 40.0)
    _, modulated = normalise(tissue, field, np.eye(4))
    assert modulated.sums_ml[0] == pytest.approx(tissue.sums_ml[0], rel=0.005)


def test_deformations_hold_millimetres_of_the_other_space():
    linear = np.array([[1.1, 0, 0, 5.0], [0, 1.0, 0, 0], [0, 0, 0.9, -4.0], [0, 0, 0, 1.0]])
    forward = deformation(still(TEMPLATE), linear)
    index = (10, 20, 30)
    template_mm = TEMPLATE.affine @ [*index, 1]
    np.testing.assert_allclose(forward.data[(slice(None), *index)].numpy(), (linear @ template_mm)[:3], atol=1e-4)
    backward = inverse_deformation(still(TEMPLATE), linear, TEMPLATE)
    np.testing.assert_allclose(
        backward.data[(slice(None), *index)].numpy(), (np.linalg.inv(linear) @ template_mm)[:3], atol=1e-4
    )
