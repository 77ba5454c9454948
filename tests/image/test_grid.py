"""Grids: the resampler against scipy, and what must not change a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from tests import hostile
from vbmstat.image.grid import Grid, apply_affine, resample, sample, voxel_indices

SHAPES = st.tuples(*[st.integers(2, 9)] * 3)
SIZES = st.tuples(*[st.floats(0.3, 5)] * 3)


def random_grid(shape, size, seed=0) -> Grid:
    """A turned and shifted grid."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * size
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return Grid(shape, affine)


def corners_mm(grid: Grid) -> np.ndarray:
    """Outer corners of the field of view, (8, 3), mm."""
    index = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij"), -1).reshape(-1, 3)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


@given(SHAPES, SHAPES, st.integers(0, 100))
def test_trilinear_sampling_is_scipys(shape, n_points, seed):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((2, *shape)).astype(np.float32)
    points = rng.uniform(-1.5, np.array(shape).reshape(3, 1, 1, 1) + 0.5, (3, *n_points)).astype(np.float32)
    # zero beyond the last voxel centre's neighbour, as torch has it: pad by one voxel of zeros
    padded = np.pad(data, [(0, 0), (2, 2), (2, 2), (2, 2)])
    expected = [map_coordinates(channel, points + 2, order=1, mode="constant") for channel in padded]
    np.testing.assert_allclose(sample(torch.from_numpy(data), torch.from_numpy(points)), expected, atol=2e-5)


@given(SHAPES, st.integers(0, 100))
def test_border_padding_and_nearest_are_scipys(shape, seed):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal(shape).astype(np.float32)
    points = rng.uniform(-2, np.array(shape).reshape(3, 1, 1, 1) + 1, (3, 4, 5, 6)).astype(np.float32)
    points[np.abs(points % 1 - 0.5) < 1e-3] += 0.01  # which of two equally near voxels is a matter of taste
    for mode, order in (("bilinear", 1), ("nearest", 0)):
        expected = map_coordinates(data, points, order=order, mode="nearest")
        got = sample(torch.from_numpy(data)[None], torch.from_numpy(points), mode, "border")[0]
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("n_slices", [1, 2, 3, 7, 12])
def test_number_of_threads_does_not_matter(n_slices):
    generator = torch.Generator().manual_seed(0)
    data = torch.rand(2, 9, 8, 7, generator=generator)
    points = torch.rand(3, n_slices, 5, 6, generator=generator) * 8
    n_threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            results.append(sample(data, points))
    finally:
        torch.set_num_threads(n_threads)
    assert torch.allclose(results[0], results[1], atol=1e-6)
    assert torch.allclose(results[0], results[2], atol=1e-6)


@pytest.mark.parametrize("n_points", [(0, 1, 1), (0, 3, 2)])
def test_no_points_have_no_values(n_points):
    assert sample(torch.rand(2, 4, 5, 6), torch.zeros(3, *n_points)).shape == (2, *n_points)


@given(SHAPES, SIZES, st.integers(0, 20))
def test_resampling_to_the_same_grid_is_exact(shape, size, seed):
    grid = random_grid(shape, size, seed)
    data = torch.rand(2, *shape)
    same = resample(data, grid, grid)
    assert torch.equal(same, data)
    assert same.data_ptr() != data.data_ptr()
    forth = random_grid((3, 3, 3), 1.0, seed).affine
    assert torch.equal(resample(data, grid, Grid(shape, np.linalg.inv(forth) @ grid.affine), forth), data)


def test_a_whole_voxel_shift_moves_the_image_by_one_voxel():
    data = torch.rand(1, 5, 6, 7)
    source = random_grid((5, 6, 7), (1.0, 2.0, 3.0))
    target = source.crop((1, 0, 2), (5, 6, 9))
    moved = resample(data, source, target)
    assert torch.allclose(moved[:, :, :, :5], data[:, 1:, :, 2:], atol=1e-5)
    assert moved[:, :, :, 5:].abs().max() < 1e-5  # beyond the field of view
    border = resample(data, source, target, padding_mode="border")
    assert torch.allclose(border[..., 6], data[:, 1:, :, 6], atol=1e-5)


def test_linear_is_target_mm_to_source_mm():
    grid = Grid((8, 8, 8), np.eye(4))
    data = torch.zeros(1, 8, 8, 8)
    data[0, 5, 2, 3] = 1
    pull = np.eye(4)
    pull[:3, 3] = (2, -1, 0)  # the target point (3, 3, 3) takes its value at (5, 2, 3)
    assert resample(data, grid, grid, pull)[0, 3, 3, 3] == pytest.approx(1)


def test_linear_interpolation_converges_with_order_two():
    errors = []
    for n in (16, 32, 64):
        x = (voxel_indices((n, n, n)) + 0.5) / n
        image = (torch.sin(6 * x[0]) * torch.cos(5 * x[1]) * torch.sin(4 * x[2]))[None]
        points = torch.rand(3, 20, 20, 20, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
        exact = torch.sin(6 * points[0]) * torch.cos(5 * points[1]) * torch.sin(4 * points[2])
        errors.append(float((sample(image, points * n - 0.5)[0] - exact).abs().mean()))
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.15)


@given(SHAPES, SIZES, st.floats(0.3, 6))
def test_another_voxel_size_keeps_the_field_of_view(shape, size, new_size):
    grid = random_grid(shape, size)
    other = grid.with_voxel_size(new_size)
    np.testing.assert_allclose(corners_mm(other), corners_mm(grid), atol=1e-9)
    n_wanted = np.array(shape) * np.array(size) / new_size
    assert (np.abs(np.array(other.shape) - n_wanted) <= np.maximum(0.5 + 1e-9, 1 - n_wanted)).all()


def test_crop_keeps_voxels_where_they_are():
    grid = random_grid((6, 7, 8), (1.0, 2.0, 3.0))
    cropped = grid.crop((1, 2, 3), (5, 4, 8))
    assert cropped.shape == (4, 2, 5)
    np.testing.assert_allclose(cropped.affine @ [0, 0, 0, 1], grid.affine @ [1, 2, 3, 1])


def test_grids_match_only_within_the_tolerance_at_their_far_corner():
    grid = Grid((113, 137, 113), np.diag([1.5, 1.5, 1.5, 1]))
    assert grid.matches(Grid(grid.shape, grid.affine.astype(np.float32)))
    assert not grid.matches(Grid((113, 137, 112), grid.affine))
    stretched = grid.affine.copy()
    stretched[1, 1] += 0.001  # 0.136 mm at the far side
    assert not grid.matches(Grid(grid.shape, stretched))
    assert grid.matches(Grid(grid.shape, stretched), tolerance_mm=0.2)


def test_voxel_size_and_volume():
    grid = Grid(hostile.SHAPE, hostile.oblique(hostile.AFFINE))
    np.testing.assert_allclose(grid.voxel_size_mm, hostile.VOXEL_MM)
    assert grid.voxel_volume_ml == pytest.approx(0.009)
    assert Grid((2, 2, 2), np.diag([-2.0, 1, 1, 1])).voxel_volume_ml == pytest.approx(0.002)
    assert str(grid) == "(12, 14, 10) @ 2 × 1.5 × 3 mm"


def test_apply_affine_is_a_matrix_product():
    matrix = random_grid((2, 2, 2), 1.7).affine
    points = torch.rand(3, 4, 5, 6)
    expected = np.einsum("ij,jabc->iabc", matrix[:3, :3], points.numpy()) + matrix[:3, 3].reshape(3, 1, 1, 1)
    np.testing.assert_allclose(apply_affine(matrix, points), expected, rtol=1e-5, atol=1e-4)
