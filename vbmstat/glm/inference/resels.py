"""Resel counts of a search volume: its points, edges, faces and cubes of voxel centres (Worsley et al. 1996).

SPM's rule. Voxel centres are a lattice: with P points, E edges, F full faces and C full cubes inside the mask and
r = 1 / FWHM (voxels) along each axis, the counts are exact for boxes; on round bodies the stairs of the surface make
R_1 and R_2 too large and R_3 too small (a ball of radius 25 voxels: +50 %, +42 %, -9 %).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def resel_counts(mask: np.ndarray, fwhm_voxels: Sequence[float]) -> np.ndarray:
    """Resel counts R_0..R_3 of a mask.

    Parameters
    ----------
    mask : ndarray, (X, Y, Z), bool
        The search volume.
    fwhm_voxels : sequence of 3 float
        Smoothness along x, y, z.

    Returns
    -------
    ndarray, (4,)

    Examples
    --------
    >>> resel_counts(np.ones((20, 30, 40), bool), (5, 6, 8)).round(6).tolist()  # product formula of a box
    [1.0, 13.508333, 60.454167, 89.5375]
    """
    mask = np.asarray(mask, dtype=bool)
    x, y, z = (_pairs(mask, axis) for axis in range(3))
    xy, xz, yz = _pairs(x, 1), _pairs(x, 2), _pairs(y, 2)
    cubes = int(_pairs(xy, 2).sum())
    e_x, e_y, e_z, f_xy, f_xz, f_yz = (int(inside.sum()) for inside in (x, y, z, xy, xz, yz))
    r_x, r_y, r_z = (1 / fwhm for fwhm in fwhm_voxels)
    return np.array([
        int(mask.sum()) - (e_x + e_y + e_z) + (f_xy + f_xz + f_yz) - cubes,
        (e_x - f_xy - f_xz + cubes) * r_x + (e_y - f_xy - f_yz + cubes) * r_y + (e_z - f_xz - f_yz + cubes) * r_z,
        (f_xy - cubes) * r_x * r_y + (f_xz - cubes) * r_x * r_z + (f_yz - cubes) * r_y * r_z,
        cubes * r_x * r_y * r_z,
    ])  # fmt: skip


def _pairs(inside: np.ndarray, axis: int) -> np.ndarray:
    """Where a cell and its next along an axis are both inside."""
    ahead = [slice(None)] * 3
    behind = [slice(None)] * 3
    ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
    return np.asarray(inside[tuple(ahead)] & inside[tuple(behind)])
