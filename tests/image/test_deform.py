import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from vbmstat.image.deform import (
    deformation,
    displacement_of,
    exponential,
    inverse_deformation,
    inverse_of,
    pull,
    pull_labels,
)
from vbmstat.image.grid import Grid, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.pipeline import normalise
from vbmstat.preproc.spec import PreprocSpec

TEMPLATE = Grid((60, 64, 60), np.array([[1.5, 0, 0, -45], [0, 1.5, 0, -48], [0, 0, 1.5, -45], [0, 0, 0, 1.0]]))

SMALL = Grid((41, 45, 41), np.array([[1.5, 0, 0, -30], [0, 1.5, 0, -33], [0, 0, 1.5, -30], [0, 0, 0, 1.0]]))


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
    warped, modulated = normalise(tissue, deformation(still(TEMPLATE), linear), TEMPLATE)
    assert modulated.sums_ml[0] == pytest.approx(tissue.sums_ml[0], rel=0.005)
    assert warped.sums_ml[0] == pytest.approx(tissue.sums_ml[0] / np.linalg.det(linear[:3, :3]), rel=0.005)


@pytest.mark.parametrize("voxel_mm", [1.0, 1.5, 2.0])
def test_modulation_keeps_the_volume_under_a_warp(voxel_mm):
    on = PreprocSpec(voxel_size_mm=voxel_mm).grid_of_maps(SMALL)
    np.testing.assert_allclose(on.voxel_size_mm, voxel_mm)
    np.testing.assert_allclose(on.corners_mm, SMALL.corners_mm)
    field = Displacement(exponential(flow(SMALL, 4.0)) * 1.5, SMALL)
    tissue = ball(SMALL, 16.0)
    _, modulated = normalise(tissue, deformation(field, np.eye(4)), on)
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


def flow(grid, largest_mm=6.0):
    rough = torch.randn(3, *grid.shape, generator=torch.Generator().manual_seed(2))
    velocity = smooth(rough, np.full(3, 14.0), 3.0)
    return velocity * (largest_mm / velocity.abs().max()) / 1.5


def test_the_inverse_of_a_displacement_is_that_of_the_backward_flow():
    forward, backward = (Displacement(exponential(sign * flow(SMALL, 3.0)) * 1.5, SMALL) for sign in (1, -1))
    inside = (slice(None), *(slice(8, -8),) * 3)
    error = (inverse_of(forward).data - backward.data)[inside].norm(dim=0)
    assert backward.data[inside].abs().max() > 1.5
    assert error.max() < 0.05


def test_a_field_and_its_inverse_bring_an_image_back():
    linear = np.array([[1.05, 0.1, 0, 3], [-0.1, 0.95, 0, -2], [0, 0, 1.0, 1], [0, 0, 0, 1.0]])
    scan = Grid((50, 50, 50), np.array([[-1.4, 0, 0, 35], [0, 1.4, 0, -35], [0, 0, 1.4, -33], [0, 0, 0, 1.0]]))
    forward, backward = (Displacement(exponential(sign * flow(SMALL, 3.0)) * 1.5, SMALL) for sign in (1, -1))
    y, iy = deformation(forward, linear), inverse_deformation(backward, linear, scan)
    image = ball(SMALL, 14.0)
    there_and_back = pull(pull(image, iy), y)
    assert (there_and_back.data - image.data).abs().mean() < 0.01
    labels = Volume((image.data > 0.5).float() * 7, SMALL)
    carried = pull_labels(pull_labels(labels, iy), y)
    assert carried.data.unique().tolist() == [0, 7]
    assert carried.sums_ml[0] == pytest.approx(labels.sums_ml[0], rel=0.02)
    np.testing.assert_allclose(displacement_of(y, linear).data, forward.data, atol=1e-3)


def test_an_amount_keeps_its_total_in_both_directions():
    linear = np.array([[1.2, 0.1, 0, 3], [-0.1, 0.9, 0, -2], [0, 0, 0.9, 1], [0, 0, 0, 1.0]])
    oblique = Rotation.from_euler("xyz", [20, 10, 5], degrees=True).as_matrix() * 1.3
    scan = Grid((56, 56, 56), np.block([[oblique, -oblique @ np.full((3, 1), 27.5)], [np.zeros((1, 3)), 1]]))
    forward, backward = (Displacement(exponential(sign * flow(SMALL, 3.0)) * 1.5, SMALL) for sign in (1, -1))
    for image, points in (
        (ball(scan, 16.0), deformation(forward, linear)),
        (ball(SMALL, 14.0), inverse_deformation(backward, linear, scan)),
    ):
        pulled = pull(image, points, n_amounts=1)
        assert pulled.sums_ml[1] == pytest.approx(image.sums_ml[0], rel=0.005)
        assert abs(pulled.sums_ml[0] / image.sums_ml[0] - 1) > 0.02
