"""Change of shape within one person: a stiff warp of each time point to the person's mean shape, and yearly rates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vbmstat.image import deform
from vbmstat.image.grid import apply_affine, sample, sample_displaced, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.energy import Regularisation
from vbmstat.preproc.steps.warp import Level

# Times that of the warp to the template, a year from the median date. CAT12's stiffness (32 at the end of its schedule)
# would leave 90 % of a region's contraction by 5 % in place.
_STIFFNESS = 0.25
_DAY_YEARS, _UNDATED_YEARS = 1 / 365, 0.5  # without dates: as of two scans a year apart
_FACTOR, _N_ITERATIONS = 2, 6  # voxels of the template per voxel of the fit and axis: 3 mm


def stiffness(n_time_points: int, years: Sequence[float] | None = None) -> np.ndarray:
    """Stiffness of each time point's warp, (n,): less, the longer from the median date; equal without dates.

    Notes
    -----
    SPM's longitudinal toolbox: divided by ``|t - median| + 1/365`` years (Ashburner & Ridgway 2013).
    """
    apart = np.full(n_time_points, _UNDATED_YEARS)
    if years is not None and len(set(years)) > 1:
        apart = np.abs(np.asarray(years, float) - np.median(years))
    return np.asarray(_STIFFNESS / (apart + _DAY_YEARS))


def warps_to_mean(tissues: Sequence[Volume], stiff: np.ndarray) -> list[Displacement]:
    """Displacement of each time point from the person's mean shape.

    Parameters
    ----------
    tissues : sequence of Volume
        GM and WM of each time point, rigidly aligned with one another, on the template's grid.
    stiff : ndarray, (n,)
        From :func:`stiffness`.

    Returns
    -------
    list of Displacement
        Point of the mean shape -> point of the time point. The mean of their velocities, weighted by stiffness, is 0.

    Notes
    -----
    Gauss-Newton of all time points at once, each against the current mean. Every step is taken: changes within a person
    are a small part of a voxel, where the blur of trilinear interpolation changes the likelihood more than they do.
    """
    grid, spacing_mm = tissues[0].grid, float(tissues[0].grid.voxel_size_mm.mean()) * _FACTOR
    scans = [warp.reduce(warp.pad(each.data), _FACTOR) for each in tissues]
    weights = torch.as_tensor(stiff / stiff.sum(), dtype=torch.float32, device=scans[0].device)
    velocities = torch.zeros(len(scans), 3, *scans[0].shape[1:], device=scans[0].device)  # voxels of the level
    for _ in range(_N_ITERATIONS):
        pulled = [sample_displaced(scan, deform.exponential(v)) for scan, v in zip(scans, velocities, strict=True)]
        mean = torch.stack(pulled).mean(0)
        updates = [
            Level(scan, mean, spacing_mm, Regularisation().times(float(factor))).update(velocity)
            for scan, factor, velocity in zip(scans, stiff, velocities, strict=True)
        ]
        velocities = velocities + torch.stack(updates)
        velocities = velocities - torch.tensordot(weights, velocities, dims=1)
    return [warp.displacement(warp.enlarge(velocity, _FACTOR) * spacing_mm, grid) for velocity in velocities]


def rate(maps: Sequence[Volume], years: Sequence[float]) -> Volume | None:
    """Least-squares slope of GM and WM over years, mL per year per voxel, (2, X, Y, Z); None without two dates.

    Parameters
    ----------
    maps : sequence of Volume
        Modulated maps of the time points, in mL of tissue per mL of the grid.
    years : sequence of float
        Date of each, in years from any origin.
    """
    apart = np.asarray(years, float) - np.mean(years)
    if not apart.any():
        return None
    weights = apart / (apart**2).sum() * maps[0].grid.voxel_volume_ml
    slope = sum(float(weight) * each.data[:2] for weight, each in zip(weights, maps, strict=True))
    return Volume(slope, maps[0].grid)  # type: ignore[arg-type]


def compose(first: Displacement, then: Displacement) -> Displacement:
    """``x -> y + then(y)`` with ``y = x + first(x)``; `then` is on the same grid."""
    grid = first.grid
    mm = apply_affine(grid.affine, voxel_indices(grid.shape, first.data.device)) + first.data
    further = sample(then.data, apply_affine(np.linalg.inv(then.grid.affine), mm), padding_mode="border")
    return Displacement(first.data + further, grid)
