"""Deformations: flows of velocities, the fields ``y_`` and ``iy_`` of SPM and CAT12, and images pulled through them.

A field (3, X, Y, Z) holds, for each voxel of its grid, a point in RAS+ mm of the image that a value is taken from. A
whole warp is the displacement of a flow on the template's grid and a linear matrix: ``y(x) = linear · (x + u(x))``.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from vbmstat.image.grid import Grid, apply_affine, sample, sample_displaced, voxel_indices
from vbmstat.image.volume import Displacement, Volume, jacobian_determinant
from vbmstat.lazy import torch

_OCTANTS = tuple(product((-0.25, 0.25), repeat=3))  # centres of the eight octants of a voxel
_LONGEST_STEP = 0.25  # voxels, of the first step of scaling and squaring
_N_INVERSIONS = 30
_CLOSE_MM = 1e-3


def exponential(velocity: torch.Tensor) -> torch.Tensor:
    """Displacement of the flow of a stationary velocity field after unit time, by scaling and squaring.

    Parameters
    ----------
    velocity : Tensor, (3, X, Y, Z), voxels

    Returns
    -------
    Tensor, (3, X, Y, Z), voxels
    """
    largest = float(velocity.square().sum(0).max().sqrt())
    n_squarings = max(0, int(np.ceil(np.log2(max(largest, 1e-6) / _LONGEST_STEP))))
    moved = velocity / 2.0**n_squarings
    for _ in range(n_squarings):
        moved = sample_displaced(moved, moved, padding_mode="border").add_(moved)
    return moved


def inverse_of(displacement: Displacement) -> Displacement:
    """Inverse of a displacement by fixed-point iteration: ``w(x) = -u(x + w(x))``."""
    grid = displacement.grid
    to_voxels = np.eye(4)
    to_voxels[:3, :3] = np.linalg.inv(grid.affine[:3, :3])
    identity, moved = voxel_indices(grid.shape, displacement.data.device), -displacement.data
    for _ in range(_N_INVERSIONS):
        before, moved = (
            moved,
            -sample(displacement.data, identity + apply_affine(to_voxels, moved), "bilinear", "border"),
        )
        if float((moved - before).abs().max()) < _CLOSE_MM:
            break
    return Displacement(moved, grid)


def composed(first: Displacement, then: Displacement) -> Displacement:
    """The displacement ``x -> first -> then``, mm, on the grid of the first; both in one frame."""
    identity = voxel_indices(first.grid.shape, first.data.device)
    at = apply_affine(np.linalg.inv(then.grid.affine), apply_affine(first.grid.affine, identity) + first.data)
    return Displacement(first.data + sample(then.data, at, padding_mode="border"), first.grid)


def deformation(field: Displacement, linear: np.ndarray) -> Volume:
    """SPM's ``y_``: the scan point (RAS+ mm) that each template voxel takes its value from."""
    mm = apply_affine(field.grid.affine, voxel_indices(field.grid.shape, field.data.device)) + field.data
    return Volume(apply_affine(linear, mm), field.grid)


def inverse_deformation(inverse: Displacement, linear: np.ndarray, scan_grid: Grid) -> Volume:
    """SPM's ``iy_``: the template point (RAS+ mm) of each scan voxel.

    Parameters
    ----------
    inverse : Displacement
        Affinely aligned point -> template point, mm, on the template's grid.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    scan_grid : Grid
        Where the result is wanted.
    """
    aligned = np.linalg.inv(linear) @ scan_grid.affine  # scan voxel -> aligned mm
    mm = apply_affine(aligned, voxel_indices(scan_grid.shape, inverse.data.device))
    at = apply_affine(np.linalg.inv(inverse.grid.affine), mm)
    return Volume(mm + sample(inverse.data, at, padding_mode="border"), scan_grid)


def fit_linear(deformation: Volume) -> np.ndarray:
    """The linear part of a ``y_`` field: template mm -> scan mm, (4, 4), by least squares.

    Fitted to the finite values at every fourth voxel along each axis.
    """
    grid = deformation.grid
    coarse = (slice(None), *(slice(None, None, 4),) * 3)
    known = torch.isfinite(deformation.data[coarse]).all(0)
    points = apply_affine(grid.affine, voxel_indices(grid.shape))[coarse][:, known.cpu()].T.double().numpy()
    points = np.column_stack([points, np.ones(len(points))])
    solution = np.linalg.lstsq(points, deformation.data[coarse][:, known].T.double().cpu().numpy(), rcond=None)[0]
    return np.vstack([solution.T, [0, 0, 0, 1]])


def displacement_of(deformation: Volume, linear: np.ndarray | None = None) -> Displacement:
    """The displacement of a ``y_`` field without its linear part.

    Parameters
    ----------
    deformation : Volume, (3, X, Y, Z)
        Scan point of each template voxel, RAS+ mm (SPM's convention).
    linear : ndarray, (4, 4), optional
        Template mm -> scan mm; by default from :func:`fit_linear`.

    Returns
    -------
    Displacement
        Template point -> linearly aligned scan point, mm.
    """
    grid = deformation.grid
    mm = apply_affine(grid.affine, voxel_indices(grid.shape, deformation.data.device))
    linear = fit_linear(deformation) if linear is None else linear
    return Displacement(apply_affine(np.linalg.inv(linear), deformation.data) - mm, grid)


def pull(images: Volume, points: Volume, on: Grid | None = None, n_amounts: int = 0) -> Volume:
    """Images pulled through a field, trilinear; each voxel is the mean over its eight octants.

    Scans have smaller voxels than the template: a single sample would skip some of them and repeat others.

    Parameters
    ----------
    images : Volume, (C, X, Y, Z)
        In the space that the points are in.
    points : Volume, (3, X, Y, Z)
        Where each voxel takes its value from, RAS+ mm.
    on : Grid, optional
        Grid of the result, in the space of the field's own grid, which is the default.
    n_amounts : int
        The result has the first so many images again, multiplied by the determinant of the field's Jacobian: the sum
        of an image times its voxel volume is kept.

    Returns
    -------
    Volume, (C + n_amounts, X, Y, Z)
    """
    grid = points.grid if on is None else on
    to_field, to_image = np.linalg.inv(points.grid.affine) @ grid.affine, np.linalg.inv(images.grid.affine)
    field = torch.cat([points.data, determinant(points)[None]])
    identity, n_images = voxel_indices(grid.shape, images.data.device), len(images.data)
    pulled = torch.zeros(n_images + n_amounts, *grid.shape, device=images.data.device)
    for offset in _OCTANTS:
        at = identity + torch.tensor(offset, device=identity.device).reshape(3, 1, 1, 1)
        both = sample(field, apply_affine(to_field, at), padding_mode="border")  # (4, X, Y, Z)
        values = sample(images.data, apply_affine(to_image, both[:3]))
        pulled[:n_images] += values / len(_OCTANTS)
        pulled[n_images:] += values[:n_amounts] * both[3:] / len(_OCTANTS)
    return Volume(pulled, grid)


def pull_labels(labels: Volume, points: Volume, on: Grid | None = None) -> Volume:
    """A label image pulled through a field: the label at each voxel's centre; parameters as in :func:`pull`."""
    grid = points.grid if on is None else on
    at = apply_affine(np.linalg.inv(points.grid.affine) @ grid.affine, voxel_indices(grid.shape, labels.data.device))
    there = sample(points.data, at, padding_mode="border")
    return Volume(sample(labels.data, apply_affine(np.linalg.inv(labels.grid.affine), there), "nearest"), grid)


def determinant(points: Volume) -> torch.Tensor:
    """Determinant of the Jacobian of a field of points, (X, Y, Z): mm³ there per mm³ of the field's own space."""
    moved = points.data - voxel_indices(points.grid.shape, points.data.device)
    return jacobian_determinant(moved).abs() / (1000.0 * points.grid.voxel_volume_ml)
