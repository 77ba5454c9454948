"""All subsets of a tile by taking the left-out rows off the whole sample: what the compiled loops need and give.

This is the path of the CPU for images (float32, no HC3); see :mod:`vbmstat.glm.fit.kernel` for the formula. A voxel in
which a subset keeps too little of the whole sample's sum of squares is reported, to be fitted again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from vbmstat.glm.fit.kernel import DIRECTIONS, ROWS, centre_rows, fit_subsets, reduce_rows
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import full_statistics, quantiles_of, reciprocal, residual_deviation
from vbmstat.glm.fit.tensors import Tile
from vbmstat.maps.store import CHUNK_VOXELS, Scratch

_CANCELLED = 0.1  # RSS over the sum it is taken from, below: rounding of that sum shows in the fifth digit of t


@dataclass(frozen=True)
class Downdating:
    """A plan as arrays for the compiled loops; see :func:`vbmstat.glm.fit.kernel.fit_subsets`.

    Attributes
    ----------
    plan : Plan
        The plan itself.
    basis, subset_basis : ndarray, (n', 4 groups)
        Q in the precision of the full-sample fit (float64 unless it is ordinary and centred) and in float32,
        padded with zeros.
    rows : ndarray, (B, multiple of 4), int64
        Rows to sum in each subset.
    signs : ndarray, (B,), float32
        -1 where they are those left out.
    contrast_rows : ndarray, (M, r)
        D of all contrasts.
    to_subset, ends, is_f, whiten, on_rest, position
        As the kernel takes them.
    """

    plan: Plan
    basis: np.ndarray
    subset_basis: np.ndarray
    rows: np.ndarray
    signs: np.ndarray
    to_subset: np.ndarray
    contrast_rows: np.ndarray
    ends: np.ndarray
    is_f: np.ndarray
    whiten: np.ndarray
    on_rest: np.ndarray
    position: np.ndarray
    scratch: Scratch = field(default_factory=Scratch, repr=False)

    @classmethod
    def make(cls, plan: Plan) -> Downdating:
        """A plan as arrays for the compiled loops."""
        n_scans, rank = plan.basis.shape
        basis = np.zeros((n_scans + ROWS - n_scans % ROWS, rank + -rank % DIRECTIONS))  # one row of zeros at least
        basis[:n_scans, :rank] = plan.basis
        rows, signs = _rows_to_sum(plan.members)
        heights = [len(contrast.rows) for contrast in plan.contrasts]
        ends = np.cumsum([0, *heights])
        n_subsets = len(plan.members)
        whiten = np.zeros((n_subsets, ends[-1], max(heights, default=1)), np.float32)
        on_rest = np.zeros((n_subsets, ends[-1], rank), np.float32)
        position = np.full((len(heights), n_subsets), -1)
        for k, contrast in enumerate(plan.contrasts):
            at = slice(ends[k], ends[k + 1])
            whiten[contrast.repetitions, at, : heights[k]] = contrast.whiten
            on_rest[contrast.repetitions, at] = contrast.on_rest
            position[k, contrast.repetitions] = np.arange(len(contrast.repetitions))
        return cls(
            plan, basis.astype(np.float32 if plan.is_plain else np.float64), basis.astype(np.float32), rows, signs,
            plan.to_subset.astype(np.float32),
            np.vstack([np.empty((0, rank)), *(contrast.rows for contrast in plan.contrasts)]), ends,
            np.array([contrast.kind == "F" for contrast in plan.contrasts], dtype=bool), whiten, on_rest, position,
        )  # fmt: skip

    def solve(self, values: torch.Tensor, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        """All statistics of a tile (n, 512), and the columns with too few digits left."""
        plan = self.plan
        full = _fit(values.numpy(), self)
        tile = full_statistics(plan, full.coefficients, full.sigma, 0.0 if floor is None else floor[0])
        if not len(plan.members):
            return tile, full.doubtful
        statistic, _, cancelled = _fit_subsets(full, self, floor)
        for index, contrast in enumerate(plan.contrasts):
            found = quantiles_of(torch.from_numpy(statistic[index, : len(contrast.repetitions)]), contrast.critical)
            for name, row in found.items():
                tile.quantiles[name][index] = row
        return tile, cancelled

    def largest_variances(self, values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Largest σ² in the whole sample and every subset, (1 + B,), but for columns with too few digits (512,)."""
        full = _fit(values.numpy(), self)
        variances, lost = full.sigma[None] ** 2, full.doubtful
        if len(self.plan.members):
            _, found, lost = _fit_subsets(full, self, None)
            variances = np.vstack([variances, found * full.sigma**2])
        return np.where(lost, 0.0, variances).max(axis=1), lost


def _rows_to_sum(members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The fewer of the rows in and out of each subset, filled up with n, and the sign of their sum."""
    n_subsets, n_scans = members.shape
    is_small = members.sum(axis=1) < n_scans / 2
    wanted = np.where(is_small[:, None], members, ~members)
    width = int(wanted.sum(axis=1).max(initial=0))
    rows = np.full((n_subsets, width + -width % ROWS), n_scans)
    for row, chosen in zip(rows, wanted, strict=True):
        row[: chosen.sum()] = np.flatnonzero(chosen)
    return rows, np.where(is_small, 1, -1).astype(np.float32)


@dataclass(frozen=True)
class Fitted:
    """The whole sample's fit of a tile: residuals (n', 512), the rest float64.

    `coefficients` (r, 512) in the basis; `sigma`, `rss` (512,); `doubtful` (512,): too few digits in float32.
    """

    rest: np.ndarray
    coefficients: np.ndarray
    sigma: np.ndarray
    rss: np.ndarray
    doubtful: np.ndarray


def _fit(values: np.ndarray, to: Downdating) -> Fitted:
    plan = to.plan
    n_padded, width = to.basis.shape
    rest = to.scratch.array("rest", (n_padded, CHUNK_VOXELS), to.basis.dtype)
    kind = to.basis.dtype
    centre = np.empty(CHUNK_VOXELS, kind)
    factors = plan.scan_scale.astype(kind), plan.scan_weights.astype(kind)
    centre_rows(values, *factors, plan.is_centred, centre, rest)
    shape = (DIRECTIONS + 1, width // DIRECTIONS, CHUNK_VOXELS)
    coefficients, part, fitted = np.zeros(shape, kind), np.zeros(shape, kind), np.zeros(shape)
    for _ in range(3):  # projected twice to be rid of rounding; the third time only sums
        totals = np.zeros(shape)
        reduce_rows(rest, to.basis, coefficients, part, totals)
        fitted += coefficients
        coefficients = totals.astype(kind)
    coordinates = fitted[:DIRECTIONS].swapaxes(0, 1).reshape(width, CHUNK_VOXELS)[: len(plan.ones)]  # (r, v)
    rss = totals[DIRECTIONS, 0]
    explained = (coordinates**2).sum(axis=0)
    sigma, doubtful = residual_deviation(
        torch.from_numpy(rss), torch.from_numpy(explained), plan.df_resid, kind == np.float32
    )
    return Fitted(rest, coordinates + plan.ones[:, None] * centre, sigma.numpy(), rss, doubtful.numpy())


def _fit_subsets(full: Fitted, to: Downdating, floor: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistics (K, B, 512), variances (B, 512) in units of sigma², and the columns to be fitted again."""
    plan, n_subsets = to.plan, len(to.plan.members)
    per_sigma = reciprocal(torch.from_numpy(full.sigma)).numpy()
    estimate = to.contrast_rows @ full.coefficients * per_sigma
    statistic = to.scratch.array("statistic", (len(plan.contrasts), n_subsets, CHUNK_VOXELS))
    variance = to.scratch.array("variance", (n_subsets, CHUNK_VOXELS))
    least = np.empty(CHUNK_VOXELS, np.float32)
    floors = np.zeros(n_subsets) if floor is None else floor[1:]
    rest, df, floors, total, per_sigma, estimate = (
        x.astype(np.float32, copy=False) for x in (full.rest, plan.subset_df, floors, full.rss, per_sigma, estimate)
    )
    fit_subsets(
        rest, to.subset_basis, to.rows, to.signs, to.to_subset, df, floors, total, per_sigma, estimate, to.ends,
        to.is_f, to.whiten, to.on_rest, to.position, variance, statistic, least,
    )  # fmt: skip
    return statistic, variance, (least < _CANCELLED) & (full.sigma > 0) | full.doubtful
