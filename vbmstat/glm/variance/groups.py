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
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.fit.plan import ContrastPlan, Plan
from vbmstat.glm.fit.stacked import fit_full_sample
from vbmstat.glm.fit.stream import stream, tile_layout
from vbmstat.glm.fit.tensors import LocalDfFit, Tensors, make_tensors
from vbmstat.glm.inference.permute.schemes import partition
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import Maps

AUTO = "auto"
_FREE = 1e-6  # degrees of freedom that a group must have left
_EXACT = 1e-12  # of all residuals: a group's are not taken for smaller
_MAX_LISTED = 6


@dataclass(frozen=True)
class Weighting:
    """What the variance of a contrast needs of the design.

    Attributes
    ----------
    columns : ndarray, (n_scans, r)
        Orthonormal basis of the design, the m tested directions first.
    members : ndarray, (G, n_scans), 0 or 1
        Scans of each group.
    grams : ndarray, (G, r, r)
        Q_g'Q_g of the rows of each group.
    free : ndarray, (G,)
        Σ R_nn of each group.
    n_tested : int
        m.
    """

    columns: np.ndarray
    members: np.ndarray
    grams: np.ndarray
    free: np.ndarray
    n_tested: int

    @classmethod
    def make(cls, columns: np.ndarray, labels: np.ndarray, n_tested: int) -> Weighting:
        """From an orthonormal basis (n_scans, r) and the group of each scan (n_scans,), int from 0."""
        members = (labels == np.arange(labels.max() + 1)[:, None]).astype(float)
        grams = np.einsum("gn,ni,nj->gij", members, columns, columns)
        free = members @ (1 - (columns**2).sum(axis=1))
        return cls(columns, members, grams, free, n_tested)

    def test(self, estimate: torch.Tensor, rss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The statistic of estimates.

        Parameters
        ----------
        estimate : Tensor, (m, ..., v), float64
            Coordinates of the data in the tested directions.
        rss : Tensor, (G, ..., v), float64
            Sum of squared residuals of each group.

        Returns
        -------
        statistic : Tensor, (..., v)
            V with its sign for m = 1, else G.
        precision : Tensor, (..., v)
            1 / variance of the first coordinate given the others.
        df : Tensor, (..., v)
            Denominator degrees of freedom.
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
        msg = f"variance groups ({name}): one group only, which is the ordinary t or F; leave them out"
        raise DesignError(msg)
    free = np.bincount(labels, 1 - (plan.basis**2).sum(axis=1))
    lost = [f"{who} ({n} scans)" for who, f, n in zip(names, free, np.bincount(labels), strict=True) if f < _FREE]
    if lost:
        more = f" and {len(lost) - _MAX_LISTED} more" if len(lost) > _MAX_LISTED else ""
        msg = (
            f"variance groups ({name}): the model leaves no residuals to estimate a variance of "
            f"{', '.join(lost[:_MAX_LISTED])}{more}; merge groups or simplify the formula"
        )
        raise DesignError(msg)
    return np.asarray(labels.reshape(-1))


def fit_grouped(
    maps: Maps,
    plan: Plan,
    design: Design,
    contrasts: Sequence[Contrast],
    labels: np.ndarray,
    compute: Compute | None = None,
) -> LocalDfFit:
    """Fit a linear model by least squares and test it with a variance for each group of scans.

    Parameters
    ----------
    maps, plan, design, contrasts
        (n_scans, n_voxels), the factorised design, and what it was made of.
    labels : ndarray, (n_scans,), int
        From :func:`group_labels`.
    compute : Compute, optional
        Where and how fast.

    Returns
    -------
    LocalDfFit
        The statistic is v, and G for F.
    """
    compute = compute or Compute()
    tensors = make_tensors(plan, torch.float64, compute.device)
    parts = [partition(design, contrast, plan, index) for index, contrast in enumerate(contrasts)]
    weightings = [
        Weighting.make(np.concatenate([part.tested, part.nuisance], axis=1), labels, part.tested.shape[1])
        for part in parts
    ]
    fit = LocalDfFit.empty(maps.mask, len(contrasts))
    work = partial(
        _test_tile, tensors=tensors, plans=plan.contrasts, weightings=weightings,
        coordinates=[part.coordinates for part in parts],
    )  # fmt: skip
    for start, found in stream([maps], tile_layout(compute), work, cluster=compute.cluster):
        done = fit.store(start, found)
        if compute.progress:
            compute.progress("fitting voxels", done, maps.n_voxels)
    return fit


def _test_tile(
    tiles: list[torch.Tensor],
    inside: torch.Tensor,
    tensors: Tensors,
    plans: Sequence[ContrastPlan],
    weightings: Sequence[Weighting],
    coordinates: Sequence[np.ndarray],
) -> np.ndarray:
    """Effect, variance, statistic and df of some voxels, (4, n_contrasts, v)."""
    full = fit_full_sample(tiles[0], tensors)
    members = torch.as_tensor(weightings[0].members).to(full.squares)
    rss = torch.where(full.sigma > 0, members @ full.squares, 0.0)  # (G, v)
    found = np.zeros((4, len(plans), tiles[0].shape[1]))
    for index, (plan, weighting, rows) in enumerate(zip(plans, weightings, coordinates, strict=True)):
        estimate = torch.as_tensor(rows).to(full.coefficients) @ full.coefficients
        statistic, precision, df = weighting.test(estimate, rss)
        usable = full.sigma > 0
        found[2, index], found[3, index] = torch.where(usable, statistic, 0.0).cpu(), torch.where(usable, df, 1.0).cpu()
        if plan.kind == "t":
            found[0, index] = (torch.as_tensor(plan.rows).to(full.coefficients) @ full.coefficients)[0].cpu()
            found[1, index] = torch.where(usable, plan.norm**2 / precision, 0.0).cpu()
    return found
