"""The small algebra of a fit, float64: bases, contrasts and all subset factorisations, before any map is read.

With X = Q R the orthonormal basis of the (weighted) design and C a contrast, D = C R⁻ is the contrast in the
coordinates of Q. For the rows S of a subset, G = Q_S'Q_S has eigenvalues in [0, 1], and one of them vanishes just
when the subset loses rank; working with G instead of X_S'X_S costs no precision because Q is orthonormal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from vbmstat.errors import DesignError, listed
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.design.rank import RANK_TOLERANCE

_LOST = 1e-9  # an eigenvalue of Q_S'Q_S below is a lost direction
_ESTIMABLE = 1e-6
REPLICATION_P = 0.05  # uncorrected; a subset with a smaller p counts as a replication


@dataclass(frozen=True)
class ContrastPlan:
    """One contrast in the coordinates of Q."""

    name: str
    kind: str  # t or F
    # (m, r): D for t (so that ``rows @ coefficients`` is the effect), orthonormal rows of the same space for F
    rows: np.ndarray
    norm: float  # for t, |D|: the variance of the effect is σ² |D|²
    # (n_scans, rows of C): X C⁺ of the weighted design: the regressors that a permutation test moves
    interest: np.ndarray
    repetitions: np.ndarray  # (b,), int: subsets in which the contrast can be estimated
    whiten: np.ndarray  # (b, m, m): makes the estimates of a subset uncorrelated, with variance σ²
    on_residual: np.ndarray  # (b, m, r): whitened weights on the subset's coordinates of the full-sample residual
    critical: np.ndarray  # (b,): |t| or F that a subset must exceed to count as a replication
    df: float  # (denominator) degrees of freedom of t or F in the whole sample


@dataclass(frozen=True)
class Plan:
    """The factorised design, its contrasts and subsets: what a fit needs beside the maps."""

    scan_weights: np.ndarray  # (n_scans,): square roots of the weights; ones for ordinary least squares
    scan_scale: np.ndarray  # (n_scans,): factor on each scan's values (proportional scaling)
    basis: np.ndarray  # (n_scans, r): Q
    # (r,): coordinates of the constant vector, zeros if the design does not hold it (then nothing is centred)
    ones: np.ndarray
    df_resid: float  # n_scans - r
    contrasts: tuple[ContrastPlan, ...]  # in the order given
    members: np.ndarray  # (B, n_scans), bool: subsets
    # (B, r, n_scans): rows of orthonormal bases of the subsets' designs, zero outside them and for lost directions
    subset_basis: np.ndarray
    subset_df: np.ndarray  # (B,): residual degrees of freedom of each subset
    # (B, r, r): T, such that Q T is orthonormal on the rows of the subset, with zero columns for lost directions
    to_subset: np.ndarray
    is_hc3: bool = False  # whether repetitions and degrees of freedom are those of HC3, see `hc3_plan`

    @property
    def is_plain(self) -> bool:
        """Whether this is an ordinary fit with the constant in it, for which float32 residuals are enough."""
        return self.is_centred and bool((self.scan_weights == 1).all() and (self.scan_scale == 1).all())

    @property
    def is_centred(self) -> bool:
        """Whether the constant lies in the column space, so that a voxel's mean may be subtracted first."""
        return bool(self.ones.any())


def make_plan(
    design: Design,
    contrasts: Sequence[Contrast],
    draws: np.ndarray,
    weights: np.ndarray | None = None,
    scan_scale: np.ndarray | None = None,
) -> Plan:
    """Factorise the design and all its subsets.

    Parameters
    ----------
    design : Design
        X, (n_scans, p).
    contrasts : sequence of Contrast
        Estimable in X.
    draws : ndarray, (B, n_scans), bool
        Subsets.
    weights : ndarray, (n_scans,), optional
        Positive; inverse variances of the scans.
    scan_scale : ndarray, (n_scans,), optional
        Factor on each scan's values.

    Raises
    ------
    DesignError
        If there are no residual degrees of freedom, a weight is not positive, or a contrast cannot be estimated
        in any of the subsets.
    """
    n_scans = len(design.matrix)
    root_weights = np.ones(n_scans) if weights is None else np.sqrt(_checked_weights(weights, design))
    weighted = design.matrix * root_weights[:, None]
    norms = _column_norms(weighted)
    left, singular, right = np.linalg.svd(weighted / norms, full_matrices=False)
    rank = int((singular > RANK_TOLERANCE * singular[0]).sum())
    if n_scans <= rank:
        msg = f"{n_scans} scans cannot estimate a design of rank {rank}; simplify the formula or add scans"
        raise DesignError(msg)
    basis = left[:, :rank]
    to_basis = right[:rank].T / singular[:rank] / norms[:, None]  # (p, r): β = to_basis @ coordinates
    ones = basis.T @ root_weights
    if np.linalg.norm(root_weights - basis @ ones) > 1e-9 * np.linalg.norm(root_weights):
        ones = np.zeros(rank)
    subsets = _Subsets(basis, draws)
    df_resid = float(n_scans - rank)
    plans = tuple(_plan_contrast(contrast, to_basis, weighted, subsets, df_resid) for contrast in contrasts)
    scale = np.ones(n_scans) if scan_scale is None else np.asarray(scan_scale, dtype=np.float64)
    return Plan(
        root_weights, scale, basis, ones, df_resid, plans, draws, subsets.basis, subsets.df.astype(float),
        subsets.to_subset,
    )  # fmt: skip


def _checked_weights(weights: np.ndarray, design: Design) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    bad = [scan for scan, w in zip(design.scan_ids, weights, strict=True) if not (np.isfinite(w) and w > 0)]
    if bad:
        msg = f"weights must be positive numbers; they are not for {listed(bad)}; leave these scans out"
        raise DesignError(msg)
    return weights


def _column_norms(matrix: np.ndarray) -> np.ndarray:
    """Lengths of the columns, 1 for zero columns."""
    norms = np.linalg.norm(matrix, axis=0)
    norms[norms == 0] = 1.0
    return np.asarray(norms)


class _Subsets:
    """Eigen-decomposition of Q_S'Q_S in every subset S, and what follows from it."""

    def __init__(self, basis: np.ndarray, draws: np.ndarray) -> None:
        n_scans, rank = basis.shape
        gram = np.array([basis[rows].T @ basis[rows] for rows in draws]).reshape(-1, rank, rank)
        values, self.vectors = np.linalg.eigh(gram)  # (B, r), (B, r, r)
        self.is_lost = values <= _LOST  # (B, r)
        self.root = np.where(self.is_lost, 0.0, 1 / np.sqrt(np.maximum(values, _LOST)))  # (B, r)
        self.to_subset = self.vectors * self.root[:, None, :]  # T
        each = zip(draws, self.to_subset, strict=True)
        self.basis = np.array([(basis * rows[:, None] @ t).T for rows, t in each]).reshape(-1, rank, n_scans)
        self.df = draws.sum(axis=1) - (~self.is_lost).sum(axis=1)  # (B,)

    def estimate(self, rows: np.ndarray, df_used: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Subsets that can estimate rows (m, r), (b,); their weights on coordinates (b, m, r); rows lost (B, m)."""
        in_subset = rows @ self.vectors  # (B, m, r)
        lost = np.linalg.norm(in_subset * self.is_lost[:, None, :], axis=2)
        is_lost = lost > _ESTIMABLE * np.linalg.norm(rows, axis=1)
        kept = np.flatnonzero(~is_lost.any(axis=1) & (self.df > df_used))
        return kept, in_subset[kept] * self.root[kept, None, :], is_lost


def _plan_contrast(
    contrast: Contrast, to_basis: np.ndarray, weighted: np.ndarray, subsets: _Subsets, df_resid: float
) -> ContrastPlan:
    rows = contrast.weights @ to_basis  # (m, r)
    norm = float(np.linalg.norm(rows))
    if contrast.kind == "F":
        _, singular, right = np.linalg.svd(rows, full_matrices=False)
        rows = right[singular > RANK_TOLERANCE * singular[0]]
    repetitions, on_residual, is_lost = subsets.estimate(rows)
    if len(subsets.df) and not len(repetitions):
        msg = f"contrast {contrast.name!r} cannot be estimated in any subset {_why_in_none(subsets.df, is_lost)}"
        raise DesignError(msg)
    covariance = on_residual @ on_residual.transpose(0, 2, 1)  # (b, m, m)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    critical = critical_values(subsets.df[repetitions], len(rows), contrast.kind)
    interest = weighted @ np.linalg.pinv(contrast.weights)
    return ContrastPlan(
        contrast.name, contrast.kind, rows, norm, interest, repetitions, whiten, whiten @ on_residual, critical,
        df_resid,
    )  # fmt: skip


def _why_in_none(subset_df: np.ndarray, is_lost: np.ndarray) -> str:
    """Why no subset estimates a contrast, and what to do; `is_lost` are the contrast's rows lost in each, (B, m)."""
    if (subset_df <= 0).all():
        return "(too few scans: a subset leaves no degree of freedom); raise --fraction, or --repeats 0"
    if is_lost.any(axis=1).all():
        return "(a level or person too rare for the fraction drawn); raise --fraction, use --stratify, or --repeats 0"
    return "(a level is too rare in some, others leave no degree of freedom); raise --fraction, or --repeats 0"


def critical_values(df: np.ndarray, n_rows: int, kind: str) -> np.ndarray:
    """|t| or F with the uncorrected p of `REPLICATION_P` (two-sided for t) at each of some degrees of freedom, (b,)."""
    if kind == "t":
        return np.asarray(-special.stdtrit(df, REPLICATION_P / 2))
    return np.asarray(special.fdtri(n_rows, df, 1 - REPLICATION_P))


@dataclass(frozen=True)
class CovariatePlan:
    """A plan for a design with one more column that differs from voxel to voxel."""

    base: Plan  # of the common columns, without contrasts
    rows: np.ndarray  # (K, r): D of each contrast's common part
    on_map: np.ndarray  # (K,): weight of each contrast on the voxelwise column
    repetitions: tuple[np.ndarray, ...]  # (b,): subsets in which each contrast can be estimated
    on_residual: tuple[np.ndarray, ...]  # (b, r): weights on the subsets' coordinates of a residual, not whitened
    critical: tuple[np.ndarray, ...]  # (b,): |t| that a subset must exceed to count as a replication


def make_covariate_plan(base: Plan, design: Design, contrasts: Sequence[Contrast]) -> CovariatePlan:
    """Add t-contrasts whose last weight is that of the voxelwise column to a plan of the common columns.

    Parameters
    ----------
    base : Plan
        Of `design`, without contrasts.
    design : Design
        The common columns.
    contrasts : sequence of Contrast
        One weight more than `design` has columns.

    Raises
    ------
    DesignError
        For F-contrasts, or if the voxelwise column leaves no degree of freedom.
    """
    if any(contrast.kind != "t" for contrast in contrasts):
        msg = "a formula with map() takes t-contrasts only; test the F-contrasts in a model without it"
        raise DesignError(msg)
    if base.df_resid <= 1:
        msg = f"{len(design.matrix)} scans leave no degree of freedom beside map(); simplify the formula or add scans"
        raise DesignError(msg)
    common = np.vstack([contrast.weights[:, :-1] for contrast in contrasts])  # (K, p)
    # X = Q (Q'X) and C = D (Q'X) for estimable C
    weighted = design.matrix * base.scan_weights[:, None]
    norms = _column_norms(weighted)
    rows = (common / norms) @ np.linalg.pinv(base.basis.T @ weighted / norms, rcond=RANK_TOLERANCE)
    subsets = _Subsets(base.basis, base.members)
    kept, weights = zip(*(subsets.estimate(row[None], df_used=1)[:2] for row in rows), strict=True)
    return CovariatePlan(
        base, rows, np.array([contrast.weights[0, -1] for contrast in contrasts]), kept,
        tuple(one[:, 0] for one in weights), tuple(critical_values(base.subset_df[one] - 1, 1, "t") for one in kept),
    )  # fmt: skip
