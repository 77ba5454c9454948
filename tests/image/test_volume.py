"""Volumes: shapes are checked, sums are in mL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Displacement, Volume, jacobian_determinant

GRID = Grid((3, 4, 5), np.diag([2.0, 2.0, 2.0, 1.0]))


def test_sums_are_in_ml():
    data = torch.ones(2, 3, 4, 5)
    data[1] *= 0.5
    assert Volume(data, GRID).sums_ml == pytest.approx([60 * 0.008, 30 * 0.008])


def test_sums_do_not_lose_small_values_in_large_images():
    grid = Grid((300, 300, 300), np.eye(4))
    assert Volume(torch.full((1, *grid.shape), 0.1), grid).sums_ml[0] == pytest.approx(2700, rel=1e-6)


def test_channel_is_a_volume():
    data = torch.rand(2, 3, 4, 5)
    assert torch.equal(Volume(data, GRID).channel(1).data, data[1:])


def test_shapes_that_do_not_fit_the_grid():
    with pytest.raises(ValueError, match=r"expected data of shape \(C, \(3, 4, 5\)\), got \(3, 4, 5\)"):
        Volume(torch.zeros(3, 4, 5), GRID)
    with pytest.raises(ValueError, match=r"expected a displacement of shape \(3, \(3, 4, 5\)\), got \(2, 3, 4, 5\)"):
        Displacement(torch.zeros(2, 3, 4, 5), GRID)


def test_jacobian_of_a_linear_displacement_is_its_determinant():
    matrix = np.array([[1.1, 0.05, 0], [0, 0.8, 0.1], [0.02, 0, 1.3]])
    grid = Grid((6, 7, 8), np.diag([2.0, 1.0, 3.0, 1.0]))
    linear = np.eye(4)
    linear[:3, :3] = matrix - np.eye(3)
    moved = apply_affine(linear, apply_affine(grid.affine, voxel_indices(grid.shape)))
    expected = torch.full(grid.shape, np.linalg.det(matrix)).float()
    torch.testing.assert_close(Displacement(moved, grid).jacobian_determinant, expected, atol=1e-5, rtol=0)
    size = torch.tensor([2.0, 1.0, 3.0]).reshape(3, 1, 1, 1)
    batch = torch.stack([moved / size, 0 * moved])  # voxels
    torch.testing.assert_close(jacobian_determinant(batch), torch.stack([expected, torch.ones(grid.shape)]))
