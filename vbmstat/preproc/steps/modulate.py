"""Normalisation to the template: warped tissue maps, and maps modulated by the whole Jacobian.

``mwp = wp · |det J|`` with J of the linear and nonlinear part together, so that the sum of a modulated map times the
voxel volume is the tissue's volume in the scan (CAT12's convention).
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from vbmstat.image.grid import Grid, apply_affine, sample, voxel_indices
from vbmstat.image.volume import Displacement, Volume

_OFFSETS = tuple(product((-0.25, 0.25), repeat=3))  # centres of the eight octants of a template voxel


def normalise(tissues: Volume, field: Displacement, linear: np.ndarray) -> tuple[Volume, Volume]:
    """Pull tissue maps into template space.

    Parameters
    ----------
    tissues : Volume
        Fractions in the scan's space, any number of channels.
    field : Displacement
        Template point -> linearly aligned scan point, mm.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.

    Returns
    -------
    warped, modulated : Volume
        On the template's grid. Each voxel is the mean over its eight octants: scans have smaller voxels than the
        template, and a single sample would skip or repeat some of them.
    """
    grid = field.grid
    identity = voxel_indices(grid.shape, tissues.data.device)
    offset_field = field.data / field.data.new_tensor(grid.voxel_size_mm).reshape(3, 1, 1, 1)  # voxels
    determinant = field.jacobian_determinant[None] * float(abs(np.linalg.det(linear[:3, :3])))
    to_scan_voxel = np.linalg.inv(tissues.grid.affine) @ linear @ grid.affine
    warped, modulated = (torch.zeros(tissues.data.shape[0], *grid.shape, device=identity.device) for _ in range(2))
    for offset in _OFFSETS:
        at = identity + torch.tensor(offset, device=identity.device).reshape(3, 1, 1, 1)
        both = sample(torch.cat([offset_field, determinant]), at, padding_mode="border")  # (4, X, Y, Z)
        values = sample(tissues.data, apply_affine(to_scan_voxel, at + both[:3]))
        warped += values / len(_OFFSETS)
        modulated += values * both[3:] / len(_OFFSETS)
    return Volume(warped, grid), Volume(modulated, grid)


def deformation(field: Displacement, linear: np.ndarray) -> Volume:
    """SPM's ``y_``: the scan point (RAS+ mm) that each template voxel takes its value from."""
    mm = apply_affine(field.grid.affine, voxel_indices(field.grid.shape, field.data.device)) + field.data
    return Volume(apply_affine(linear, mm), field.grid)


def inverse_deformation(inverse: Displacement, linear: np.ndarray, scan_grid: Grid) -> Volume:
    """SPM's ``iy_``: the template point (RAS+ mm) of each scan voxel.

    Parameters
    ----------
    inverse : Displacement
        Of the negative velocity: affinely aligned point -> template point, mm, on the template's grid.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    scan_grid : Grid
        Where the result is wanted.
    """
    aligned = np.linalg.inv(linear) @ scan_grid.affine  # scan voxel -> aligned mm
    mm = apply_affine(aligned, voxel_indices(scan_grid.shape, inverse.data.device))
    at = apply_affine(np.linalg.inv(inverse.grid.affine), mm)
    return Volume(mm + sample(inverse.data, at, padding_mode="border"), scan_grid)
