"""Unequal variances: Aspin and Welch's v in place of t, and G in place of F.

The errors of scans of one variance group g share a variance; those of other groups may have another. With the residuals
e of least squares, R their residual-forming matrix and w_g = Σ R_nn / Σ e_n² over the group, W = diag(w), and
G = (Cβ)' [C (X'WX)⁻ C']⁻ Cβ / (Λ s) for a contrast of s rows, Λ = 1 + 2 (s - 1) / (s (s + 2)) L with
L = Σ_g (1 - n_g w_g / trace W)² / Σ R_nn; v is its signed root for s = 1. Both have s (s + 2) / (3 L) degrees of
freedom. Winkler et al. 2014 (doi:10.1016/j.neuroimage.2014.01.060), as in PALM. For two groups and no covariates v is
Welch's t with his degrees of freedom, for several G is his F of 1951 (doi:10.1093/biomet/38.3-4.330). Elsewhere their
distributions are approximations, so that permutations are the way to p. Float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from vbmstat.errors import DesignError, listed
from vbmstat.glm.fit.leverage import MOST_LISTED
from vbmstat.glm.fit.plan import ContrastPlan, Plan
from vbmstat.glm.fit.stacked import Tensors, fit_full_sample
from vbmstat.glm.fit.stream import fit_tiles, tile_layout
from vbmstat.glm.fit.tile import Fit, Tile
from vbmstat.glm.inference.permute.schemes import partition
from vbmstat.glm.spec import Compute
from vbmstat.lazy import torch
from vbmstat.maps.store import Maps

_FREE = 1e-6  # degrees of freedom that a group must have left
_EXACT = 1e-12  # of all residuals: a group's are not taken for smaller


class Weighting:
    """What the variance of a contrast needs of the design.

    `columns` (n_scans, r) are an orthonormal basis of the design, the m = `n_tested` tested directions first; `labels`
    (n_scans,), int from 0, the group of each scan.
    """

    def __init__(self, columns: np.ndarray, labels: np.ndarray, n_tested: int) -> None:
        self.columns, self.n_tested = columns, n_tested
        self.members = (labels == np.arange(labels.max() + 1)[:, None]).astype(float)  # (G, n_scans), 0 or 1
        self.grams = np.einsum("gn,ni,nj->gij", self.members, columns, columns)  # Q_g'Q_g, (G, r, r)
        self.free = self.members @ (1 - (columns**2).sum(axis=1))  # Σ R_nn of each group, (G,)

    def test(self, estimate: torch.Tensor, rss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Statistic, precision and degrees of freedom of estimates, (..., v) each.

        Parameters
        ----------
        estimate : Tensor, (m, ..., v), float64
            Coordinates of the data in the tested directions.
        rss : Tensor, (G, ..., v), float64
            Sum of squared residuals of each group.

        Returns
        -------
        statistic, precision, df : Tensor, (..., v)
            v with its sign for m = 1, else G; 1 / variance of the first coordinate given the others; denominator's df.
        """
        s, shape = self.n_tested, (-1,) + (1,) * (rss.ndim - 1)
        free = torch.as_tensor(self.free).to(rss).view(shape)
        weights = free / torch.maximum(rss, _EXACT * rss.sum(dim=0)).clamp(min=1e-300)  # (G, ..., v)
        inverse = self._tested_precision(weights)
        total = weights * torch.as_tensor(self.members.sum(axis=1)).to(rss).view(shape)
        lost = ((1 - total / total.sum(dim=0)) ** 2 / free).sum(dim=0)
        df = s * (s + 2) / (3 * lost)
        if s == 1:
            return estimate[0] * inverse[0][0].sqrt(), inverse[0][0], df
        quadratic = torch.zeros_like(lost)
        for i in range(s):
            for j in range(s):
                quadratic += estimate[i] * estimate[j] * inverse[min(i, j)][max(i, j)]
        return quadratic / (s * (1 + 2 * (s - 1) / (s * (s + 2)) * lost)), inverse[0][0], df

    def _tested_precision(self, weights: torch.Tensor) -> list[list[torch.Tensor]]:
        """[(Q'WQ)⁻]⁻¹ of the tested directions, entries i <= j: the other directions are eliminated."""
        r = self.columns.shape[1]
        grams = torch.as_tensor(self.grams).to(weights)
        a = [
            [torch.einsum("g,g...->...", grams[:, i, j], weights) if i <= j else weights[0] for j in range(r)]
            for i in range(r)
        ]
        for k in range(r - 1, self.n_tested - 1, -1):
            pivot = a[k][k].reciprocal()
            for i in range(k):
                factor = a[i][k] * pivot
                for j in range(i, k):
                    a[i][j] = a[i][j].addcmul(factor, a[j][k], value=-1)
        return a


def group_labels(values: Sequence[str], plan: Plan, name: str) -> np.ndarray:
    """Group of each scan from the values of a column, (n_scans,), int from 0.

    Raises
    ------
    DesignError
        If there is one group only, or one whose variance cannot be estimated.
    """
    names, labels = np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)
    if len(names) == 1:
        msg = f"variance groups ({name}): only one group, so this is the ordinary t or F; leave --variance groups out"
        raise DesignError(msg)
    free = np.bincount(labels, 1 - (plan.basis**2).sum(axis=1))
    each = zip(names, free, np.bincount(labels), strict=True)
    lost = [f"{group} ({n} scan{'' if n == 1 else 's'})" for group, left, n in each if left < _FREE or n == 1]
    if lost:
        msg = (
            f"variance groups ({name}): the model leaves no residuals to estimate the variance of "
            f"{listed(lost, MOST_LISTED)}; merge groups or simplify the formula"
        )
        raise DesignError(msg)
    return np.asarray(labels.reshape(-1))


def fit_grouped(maps: Maps, plan: Plan, labels: np.ndarray, compute: Compute | None = None) -> Fit:
    """Fit a linear model by least squares and test it with a variance for each group of scans.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels), rows in the order of the plan.
    plan : Plan
        Factorised design and contrasts.
    labels : ndarray, (n_scans,), int
        From :func:`group_labels`.
    compute : Compute, optional
        Where and how fast.

    Returns
    -------
    Fit
        The statistic is v, and G for F; degrees of freedom are local.
    """
    compute = compute or Compute()
    tests = []
    for index, contrast in enumerate(plan.contrasts):
        parts = partition(plan, index)
        columns = np.concatenate([parts.tested, parts.nuisance], axis=1)
        tests.append(_Test(contrast, Weighting(columns, labels, parts.tested.shape[1]), parts.coordinates))
    work = partial(_test_tile, tensors=Tensors(plan, torch.float64, compute.device), tests=tests)
    return fit_tiles(Fit.empty(maps.mask, [0] * len(tests)), [maps], tile_layout(compute), work, compute)


class _Test(NamedTuple):
    """A contrast, its weighting, and its tested directions in the coordinates of the fit (m, r)."""

    contrast: ContrastPlan
    weighting: Weighting
    coordinates: np.ndarray


def _test_tile(tiles: list[np.ndarray], inside: np.ndarray, tensors: Tensors, tests: Sequence[_Test]) -> Tile:
    """Effect, variance, statistic and df of some voxels."""
    full = fit_full_sample(tiles[0], tensors)
    usable = full.sigma > 0
    members = torch.as_tensor(tests[0].weighting.members).to(full.squares)
    rss = torch.where(usable, members @ full.squares, 0.0)  # (G, v)
    effect, variance, statistic, df = np.zeros((4, len(tests), tiles[0].shape[1]))
    for k, (contrast, weighting, coordinates) in enumerate(tests):
        estimate = torch.as_tensor(coordinates).to(full.coefficients) @ full.coefficients
        value, precision, own_df = weighting.test(estimate, rss)
        statistic[k], df[k] = torch.where(usable, value, 0.0).cpu(), torch.where(usable, own_df, 1.0).cpu()
        if contrast.kind == "t":
            effect[k] = (torch.as_tensor(contrast.rows).to(full.coefficients) @ full.coefficients)[0].cpu()
            variance[k] = torch.where(usable, contrast.norm**2 / precision, 0.0).cpu()
    return Tile(effect=effect, variance=variance, statistic=statistic, df=df)
