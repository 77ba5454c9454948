"""Smoothness of the residuals: FWHM and resels.

For Gaussian smoothness, neighbours at distance δ correlate with ρ = exp(−2 ln 2 δ² / FWHM²), so that
FWHM = δ sqrt(−2 ln 2 / ln ρ), from the mean squared difference of neighbours over scans and mask (Forman et al. 1995,
doi:10.1002/mrm.1910330508). It is Kiebel's estimator (1999, doi:10.1006/nimg.1999.0508) on standardised residuals,
without the bias of difference quotients on a lattice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import Tensors, fit_full_sample
from vbmstat.glm.fit.stream import pad_tile, stream, tile_layout
from vbmstat.glm.inference.clusters import neighbour_table
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import Maps, Space

MAX_SCANS = 64  # whose residuals are used, as in SPM


@dataclass(frozen=True)
class Smoothness:
    """How smooth the residuals are."""

    # along x, y, z of the grid, averaged over the mask; NaN where no neighbours are, infinite for constant maps
    fwhm_mm: tuple[float, float, float]
    resels: float  # volume of the mask over the product of the FWHM


def residual_smoothness(maps: Maps, plan: Plan, n_threads: int | None = None) -> Smoothness | None:
    """Estimate the smoothness of a model's residuals; None for a plain matrix, whose columns have no neighbours.

    `maps` are (n_scans, n_voxels), rows in the order of the plan; `n_threads` tiles are worked on at a time.
    """
    if maps.space is None:
        return None
    tensors = Tensors(plan, torch.float32, "cpu")
    n_scans = len(plan.basis)
    rows = np.unique(np.linspace(0, n_scans - 1, min(n_scans, MAX_SCANS)).round().astype(int))
    residuals = np.zeros((len(rows), maps.n_voxels), dtype=np.float32)

    def standardised(values: torch.Tensor) -> np.ndarray:
        full = fit_full_sample(pad_tile(values), tensors)
        per_sigma = torch.where(full.sigma > 0, 1 / full.sigma, 0.0).to(full.residuals.dtype)
        return np.asarray((full.residuals[rows] * per_sigma)[:, : values.shape[1]].numpy())

    for start, part in stream([maps], tile_layout(Compute(n_threads=n_threads)), lambda y, _: standardised(y[0])):
        residuals[:, start : start + part.shape[1]] = part
    residuals[:, ~maps.mask] = 0
    return smoothness(residuals, maps.mask, maps.space)


def smoothness(residuals: np.ndarray, mask: np.ndarray, space: Space) -> Smoothness:
    """Smoothness of standardised residuals (n_scans, n_voxels) inside a mask (n_voxels,)."""
    padded_mask = np.append(mask, False)
    fwhm = []
    # the half neighbourhood is (0, 0, 1), (0, 1, 0), (1, 0, 0): z, y, x
    for theirs, voxel_mm in zip(neighbour_table(space, 6).T[::-1], space.grid.voxel_size_mm, strict=True):
        ours = np.flatnonzero(mask & padded_mask[theirs])
        differences = squares = 0.0
        for row in residuals:
            here, there = row[ours], row[theirs[ours]]
            differences += float(((here - there) ** 2).sum(dtype=np.float64))
            squares += float((here**2).sum(dtype=np.float64) + (there**2).sum(dtype=np.float64))
        rho = 1 - differences / squares if squares else np.nan
        if rho > 0:
            fwhm.append(float(voxel_mm * np.sqrt(-2 * np.log(2) / np.log(rho))) if rho < 1 else np.inf)
        else:
            fwhm.append(0.0 if rho <= 0 else np.nan)  # neighbours that do not correlate: rougher than the grid
    volume = float(mask.sum() * np.prod(space.grid.voxel_size_mm))
    x, y, z = fwhm
    product = x * y * z
    return Smoothness((x, y, z), volume / product if product > 0 else float("nan"))
