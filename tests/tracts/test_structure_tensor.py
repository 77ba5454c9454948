"""Directions of patterns whose fibres are known, on any voxels and in any pose; scipy as the oracle of the tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.tracts.structure_tensor import Widths, fibre_directions, mirrored, structure_tensor, with_sign

SHAPE = (24, 24, 24)
PLAIN = Widths(0.5, 0.5, 0.0)


def grid(size=(1.0, 1.0, 1.0), shape=SHAPE) -> Grid:
    return Grid(shape, np.diag([*size, 1.0]))


def fibres(on: Grid, along: np.ndarray, wavelength_mm: float = 7.0) -> Volume:
    """Intensity that is constant along one direction and varies smoothly in both across it."""
    across = np.linalg.svd(along[None])[2][1:]  # (2, 3)
    at = np.einsum("ij,jxyz->ixyz", across, apply_affine(on.affine, voxel_indices(on.shape)).double().numpy())
    waves = np.sin(2 * np.pi * at / wavelength_mm + np.array([0.3, 1.1]).reshape(2, 1, 1, 1)).sum(0)
    return Volume(torch.from_numpy(waves + 5).float()[None], on)


def angle_degrees(found: torch.Tensor, along: np.ndarray) -> torch.Tensor:
    cosine = torch.einsum("cxyz,c->xyz", found, torch.as_tensor(along, dtype=torch.float32)).abs()
    return torch.rad2deg(torch.arccos(cosine.clamp(max=1)))[4:-4, 4:-4, 4:-4]


def test_tensor_equals_scipy_up_to_the_gain_of_its_derivatives():
    values = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(SHAPE), 1.0).astype(np.float32)
    found = structure_tensor(Volume(torch.from_numpy(values)[None], grid()), Widths(1.5, 1.0)).numpy()
    gradient = [
        ndimage.gaussian_filter(values, 1.5, order=[int(a == axis) for a in range(3)], mode="nearest")
        for axis in range(3)
    ]
    pairs = zip(*np.triu_indices(3), strict=True)
    expected = np.stack([ndimage.gaussian_filter(gradient[i] * gradient[j], 1.0, mode="nearest") for i, j in pairs])
    assert np.allclose(found, expected, rtol=0.01, atol=1e-4 * expected.max())  # the gain is within 1 % of 1 here


@pytest.mark.parametrize("widths", [PLAIN, Widths(), Widths(1.0, 1.0, 1.0)])
@pytest.mark.parametrize("along", [(1, 0, 0), (0, 0.6, 0.8), (2 / 3, -2 / 3, 1 / 3)])
def test_direction_of_straight_fibres(widths, along):
    found = fibre_directions(fibres(grid(), np.array(along)), widths)
    assert angle_degrees(found.data, np.array(along)).quantile(0.95) < 4


@pytest.mark.parametrize("size", [(0.9, 0.9, 1.8), (1.0, 1.33, 1.33)])
def test_direction_on_anisotropic_voxels(size):
    along = np.array([0.6, 0.0, 0.8])
    found = fibre_directions(fibres(grid(size), along, 14.0), PLAIN)
    assert angle_degrees(found.data, along).median() < 2


def test_directions_turn_with_the_head():
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix()
    image = fibres(grid(), np.array([0.6, 0.0, 0.8]))
    turned = Volume(image.data, Grid(image.grid.shape, turn @ image.grid.affine))
    expected = with_sign(apply_affine(turn, fibre_directions(image).data))
    assert torch.allclose(fibre_directions(turned).data.abs(), expected.abs(), atol=2e-3)


def test_directions_of_a_mirrored_image_are_the_mirrored_directions():
    source = torch.Generator().manual_seed(0)
    values = torch.from_numpy(ndimage.gaussian_filter(torch.rand(SHAPE, generator=source).numpy(), 1.5))[None]
    here = fibre_directions(Volume(values, grid())).data
    there = fibre_directions(Volume(values.flip(1), grid())).data
    inner = (slice(None), *[slice(4, -4)] * 3)
    assert ((mirrored(here) - there)[inner].abs().amax(0) < 1e-2).float().mean() > 0.99
    assert torch.equal(mirrored(mirrored(here)), here)


def test_mean_along_fibres_reduces_the_error_in_noise():
    along = np.array([0.6, 0.0, 0.8])
    clean = fibres(grid(), along)
    noise = 0.3 * torch.randn(clean.data.shape, generator=torch.Generator().manual_seed(0))
    noisy = Volume(clean.data + noise, clean.grid)
    plain, smoothed = (angle_degrees(fibre_directions(noisy, w).data, along).mean() for w in (PLAIN, Widths()))
    assert smoothed < 0.9 * plain


def test_outside_the_brain_and_in_flat_regions_there_is_no_direction():
    values = torch.zeros(1, *SHAPE)
    values[:, 6:18, 6:18, 6:18] = 1
    found = fibre_directions(Volume(values, grid()), PLAIN).data
    assert not found[:, values[0] == 0].any()
    assert not found[:, 11:13, 11:13, 11:13].any()
    assert torch.allclose(found[:, 6, 6, 12].norm(), torch.tensor(1.0))
