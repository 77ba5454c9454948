"""All subsets of a tile by subtracting the left-out rows from the whole sample, in compiled loops.

The CPU's way to fit images (float32, no HC3); :mod:`vbmstat.glm.fit.kernel` has the formula and the loops. An 80 %
subset costs a fifth of the stacked products, which serve all other fits. A voxel in which a subset keeps too little of
the whole sample's sum of squares is reported, to be fitted again in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vbmstat.glm.fit.kernel import (
    DIRECTIONS,
    ROWS,
    fit_rows,
    fit_subsets,
    sorting_network,
    subtract_rows,
    summarise_columns,
)
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import SUMMARIES, full_statistics, quantile_ranks, residual_deviation
from vbmstat.glm.fit.tile import Tile
from vbmstat.maps.store import CHUNK_VOXELS, Scratch

_CANCELLED = 0.1  # refit in float64 if RSS_S / |E|² is below: rounding would reach the fifth digit of t


class WholeFit(NamedTuple):
    """The whole sample's fit of a tile; `residuals` are in the precision of the fit, all else is float64."""

    residuals: np.ndarray  # (n', 512), but for rounding
    rounding: np.ndarray  # what is left of the basis in them, (r, 512)
    coefficients: np.ndarray  # in the basis, (r, 512)
    sigma: np.ndarray  # (512,)
    rss: np.ndarray  # (512,)
    doubtful: np.ndarray  # (512,), too few digits in float32


class Downdating:
    """A plan as arrays for the compiled loops; named as in :func:`vbmstat.glm.fit.kernel.fit_subsets`."""

    def __init__(self, plan: Plan) -> None:
        n_scans, rank = plan.basis.shape
        basis = np.zeros((n_scans + ROWS - n_scans % ROWS, rank + -rank % DIRECTIONS))  # one row of zeros at least
        basis[:n_scans, :rank] = plan.basis
        heights = [len(contrast.rows) for contrast in plan.contrasts]
        n_subsets = len(plan.members)
        self.plan = plan
        self.basis = basis.astype(np.float32 if plan.is_plain else np.float64)  # of the full-sample fit, (n', 4 groups)
        self.subset_basis = basis.astype(np.float32)
        self.rows, self.signs = _rows_to_sum(plan.members)
        self.to_subset = plan.to_subset.astype(np.float32)
        self.contrast_rows = np.vstack([np.empty((0, rank)), *(contrast.rows for contrast in plan.contrasts)])  # (M, r)
        self.ends = np.cumsum([0, *heights])
        self.is_f = np.array([contrast.kind == "F" for contrast in plan.contrasts], dtype=bool)
        self.whiten = np.zeros((n_subsets, self.ends[-1], max(heights, default=1)), np.float32)
        self.on_residual = np.zeros((n_subsets, self.ends[-1], rank), np.float32)
        self.position = np.full((len(heights), n_subsets), -1)
        for k, contrast in enumerate(plan.contrasts):
            at = slice(self.ends[k], self.ends[k + 1])
            self.whiten[contrast.repetitions, at, : heights[k]] = contrast.whiten
            self.on_residual[contrast.repetitions, at] = contrast.on_residual
            self.position[k, contrast.repetitions] = np.arange(len(contrast.repetitions))
        self.subset_df = plan.subset_df.astype(np.float32)
        networks = {count: sorting_network(count) for count in {len(one.repetitions) for one in plan.contrasts}}
        self.summarised_by = [  # the arguments of `summarise_columns` but for values and results
            (one.critical.astype(np.float32), networks[len(one.repetitions)], *quantile_ranks(len(one.repetitions)))
            for one in plan.contrasts
        ]
        kind = self.basis.dtype
        self.factors = plan.scan_scale.astype(kind), plan.scan_weights.astype(kind)
        self.scratch = Scratch()

    def solve(self, values: np.ndarray, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        """All statistics of a tile (n, 512), and the numerically unstable columns."""
        full = self.fit_whole(values)
        tile = full_statistics(self.plan, full.coefficients, full.sigma, 0.0 if floor is None else floor[0])
        if not len(self.plan.members):
            return tile, full.doubtful
        statistic, _, cancelled = self._fit_subsets(full, floor)
        found = np.empty((len(SUMMARIES), CHUNK_VOXELS))
        for index, how in enumerate(self.summarised_by):
            summarise_columns(statistic[index, : len(how[0])], *how, found)
            for name, row in zip(SUMMARIES, found, strict=True):
                tile.quantiles[name][index] = row
        return tile, cancelled

    def largest_variances(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Largest σ² in the whole sample and every subset, (1 + B,), but for unstable columns (512,)."""
        full = self.fit_whole(values)
        variances, lost = full.sigma[None] ** 2, full.doubtful
        if len(self.plan.members):
            _, of_subsets, lost = self._fit_subsets(full, None)
            variances = np.vstack([variances, of_subsets * full.sigma**2])
        return np.where(lost, 0.0, variances).max(axis=1), lost

    def fit_whole(self, values: np.ndarray) -> WholeFit:
        """The whole sample's fit of a tile (n, 512); the residuals are this thread's until its next call."""
        plan, kind = self.plan, self.basis.dtype
        n_padded, width = self.basis.shape
        residuals = self.scratch.array("rest", (n_padded, CHUNK_VOXELS), kind)
        centre = np.empty(CHUNK_VOXELS, kind)
        fitted, totals = np.empty((2, DIRECTIONS + 1, width // DIRECTIONS, CHUNK_VOXELS))
        fit_rows(values, *self.factors, plan.is_centred, self.basis, centre, residuals, fitted, totals)
        first, rounding = (
            sums[:DIRECTIONS].swapaxes(0, 1).reshape(width, CHUNK_VOXELS)[: len(plan.ones)]  # (r, v)
            for sums in (fitted, totals)
        )
        coordinates = first + rounding
        rss = np.maximum(totals[DIRECTIONS, 0] - (rounding**2).sum(axis=0), 0.0)
        sigma, doubtful = residual_deviation(rss, (coordinates**2).sum(axis=0), plan.df_resid, kind == np.float32)
        return WholeFit(residuals, rounding, coordinates + plan.ones[:, None] * centre, sigma, rss, doubtful)

    def subtract(self, residuals: np.ndarray, coordinates: np.ndarray, factor: np.ndarray) -> None:
        """Take what has some coordinates in the basis (r, 512) out of residuals, then multiply them by (512,)."""
        kind, width = residuals.dtype, self.basis.shape[1]
        padded = np.zeros((width, CHUNK_VOXELS), kind)
        padded[: len(coordinates)] = coordinates
        grouped = padded.reshape(-1, DIRECTIONS, CHUNK_VOXELS).swapaxes(0, 1)
        subtract_rows(residuals, self.basis, np.ascontiguousarray(grouped), factor.astype(kind))

    def _fit_subsets(self, full: WholeFit, floor: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Statistics (K, B, 512), variances (B, 512) in units of sigma², and the columns to be fitted again."""
        n_subsets = len(self.plan.members)
        per_sigma = np.divide(1, full.sigma, out=np.zeros_like(full.sigma), where=full.sigma > 0)
        statistic = self.scratch.array("statistic", (len(self.plan.contrasts), n_subsets, CHUNK_VOXELS))
        variance = self.scratch.array("variance", (n_subsets, CHUNK_VOXELS))
        least = np.empty(CHUNK_VOXELS, np.float32)
        self.subtract(full.residuals, full.rounding, np.ones(CHUNK_VOXELS))
        residuals, df, floors, total, inverse, estimate = (
            x.astype(np.float32, copy=False)
            for x in (
                full.residuals, self.subset_df, np.zeros(n_subsets) if floor is None else floor[1:], full.rss,
                per_sigma, self.contrast_rows @ full.coefficients * per_sigma,
            )
        )  # fmt: skip
        fit_subsets(
            residuals, self.subset_basis, self.rows, self.signs, self.to_subset, df, floors, total, inverse, estimate,
            self.ends, self.is_f, self.whiten, self.on_residual, self.position, variance, statistic, least,
        )  # fmt: skip
        return statistic, variance, (least < _CANCELLED) & (full.sigma > 0) | full.doubtful


def _rows_to_sum(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in or out of each subset, whichever are fewer, filled up with n, (B, multiple of 4); 1 or -1, (B,)."""
    n_subsets, n_scans = members.shape
    is_small = members.sum(axis=1) < n_scans / 2
    wanted = np.where(is_small[:, None], members, ~members)
    width = int(wanted.sum(axis=1).max(initial=0))
    rows = np.full((n_subsets, width + -width % ROWS), n_scans)
    for row, chosen in zip(rows, wanted, strict=True):
        row[: chosen.sum()] = np.flatnonzero(chosen)
    return rows, np.where(is_small, 1, -1).astype(np.float32)
