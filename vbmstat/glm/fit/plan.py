"""The small algebra of a fit, float64: bases, contrasts and all subset factorisations, before any map is read.

With X = Q R the orthonormal basis of the (weighted) design and C a contrast, D = C R⁻ is the contrast in the
coordinates of Q. For the rows S of a subset, G = Q_S'Q_S has eigenvalues in [0, 1], and one of them vanishes just
when the subset loses rank; working with G instead of X_S'X_S costs no precision because Q is orthonormal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.design.rank import RANK_TOLERANCE

_LOST = 1e-9  # an eigenvalue of Q_S'Q_S below is a lost direction
_ESTIMABLE = 1e-6
REPLICATION_P = 0.05  # uncorrected; a subset with a smaller p counts as a replication


@dataclass(frozen=True)
class ContrastPlan:
    """One contrast in the coordinates of Q.

    Attributes
    ----------
    name, kind : str
        As in :class:`Contrast`.
    rows : ndarray, (m, r)
        D for t (so that ``rows @ coefficients`` is the effect), orthonormal rows of the same space for F.
    norm : float
        For t, |D|: the variance of the effect is σ² |D|².
    repetitions : ndarray, (b,), int
        Repetitions in which the contrast can be estimated.
    whiten : ndarray, (b, m, m)
        Makes the estimates of a subset uncorrelated, with variance σ².
    on_rest : ndarray, (b, m, r)
        Whitened weights on the subset's coordinates of the full-sample residual.
    critical : ndarray, (b,)
        |t| or F that a subset must exceed to count as a replication.
    df : float
        (Denominator) degrees of freedom of t or F in the whole sample.
    """

    name: str
    kind: str
    rows: np.ndarray
    norm: float
    repetitions: np.ndarray
    whiten: np.ndarray
    on_rest: np.ndarray
    critical: np.ndarray
    df: float

    def select(self, positions: Sequence[int]) -> ContrastPlan:
        """The same with some of its repetitions only."""
        kept = np.asarray(positions, dtype=np.intp)
        return replace(
            self, repetitions=self.repetitions[kept], whiten=self.whiten[kept], on_rest=self.on_rest[kept],
            critical=self.critical[kept],
        )  # fmt: skip

    @property
    def on_fit(self) -> np.ndarray:
        """Whitened weights on the full-sample coefficients, (b, m, r)."""
        return self.whiten @ self.rows


@dataclass(frozen=True)
class Plan:
    """All that a voxel tile needs.

    Attributes
    ----------
    scan_weights : ndarray, (n_scans,)
        Square roots of the weights; ones for ordinary least squares.
    scan_scale : ndarray, (n_scans,)
        Factor on each scan's values (proportional scaling).
    basis : ndarray, (n_scans, r)
        Q.
    ones : ndarray, (r,)
        Coordinates of the constant vector, zeros if the design does not hold it (then nothing is centred).
    df_resid : float
        n_scans - r.
    contrasts : tuple of ContrastPlan
        In the order given.
    members : ndarray, (B, n_scans), bool
        Subsets.
    subset_basis : ndarray, (B, r, n_scans)
        Rows: orthonormal basis of each subset's design, zero outside the subset and for lost directions.
    subset_df : ndarray, (B,)
        Residual degrees of freedom of each subset.
    to_subset : ndarray, (B, r, r)
        T: Q T is orthonormal on the rows of the subset, with zero columns for lost directions.
    is_hc3 : bool
        Whether repetitions and degrees of freedom are those of HC3 (:func:`vbmstat.glm.variance.hc3.hc3_plan`).
    """

    scan_weights: np.ndarray
    scan_scale: np.ndarray
    basis: np.ndarray
    ones: np.ndarray
    df_resid: float
    contrasts: tuple[ContrastPlan, ...]
    members: np.ndarray
    subset_basis: np.ndarray
    subset_df: np.ndarray
    to_subset: np.ndarray
    is_hc3: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether this is an ordinary fit with the constant in it, which float32 residuals can serve."""
        return self.is_centred and bool((self.scan_weights == 1).all() and (self.scan_scale == 1).all())

    @property
    def is_centred(self) -> bool:
        """Whether the constant lies in the column space, so that a voxel's mean may be taken off first."""
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
    norms = np.linalg.norm(weighted, axis=0)
    norms[norms == 0] = 1.0
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
    values, vectors, to_subset, subset_basis = _factorise_subsets(basis, draws)
    subset_df = draws.sum(axis=1) - (values > _LOST).sum(axis=1)
    df_resid = float(n_scans - rank)
    plans = tuple(_plan_contrast(c, to_basis, values, vectors, subset_df, df_resid) for c in contrasts)
    scale = np.ones(n_scans) if scan_scale is None else np.asarray(scan_scale, dtype=np.float64)
    return Plan(
        root_weights, scale, basis, ones, df_resid, plans, draws, subset_basis, subset_df.astype(float),
        to_subset,
    )  # fmt: skip


def _checked_weights(weights: np.ndarray, design: Design) -> np.ndarray:
    weights = np.asarray(weights, dtype=np.float64)
    bad = [scan for scan, w in zip(design.scan_ids, weights, strict=True) if not (np.isfinite(w) and w > 0)]
    if bad:
        msg = f"weights must be positive numbers; they are not for {', '.join(bad[:12])}; leave these scans out"
        raise DesignError(msg)
    return weights


def _factorise_subsets(basis: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues (B, r) and vectors (B, r, r) of Q_S'Q_S, T (B, r, r), and the bases T'Q_S' (B, r, n)."""
    rank = basis.shape[1]
    if not len(draws):
        square = np.empty((0, rank, rank))
        return np.empty((0, rank)), square, square, np.empty((0, rank, len(basis)))
    gram = np.stack([basis[rows].T @ basis[rows] for rows in draws])  # (B, r, r)
    values, vectors = np.linalg.eigh(gram)
    root = np.where(values > _LOST, 1 / np.sqrt(np.maximum(values, _LOST)), 0.0)  # (B, r)
    to_subset = vectors * root[:, None, :]  # (B, r, r)
    subset_basis = np.stack([(basis * rows[:, None] @ t).T for rows, t in zip(draws, to_subset, strict=True)])
    return values, vectors, to_subset, subset_basis


def _plan_contrast(
    contrast: Contrast,
    to_basis: np.ndarray,
    values: np.ndarray,
    vectors: np.ndarray,
    subset_df: np.ndarray,
    df_resid: float,
) -> ContrastPlan:
    rows = contrast.weights @ to_basis  # (m, r)
    norm = float(np.linalg.norm(rows))
    if contrast.kind == "F":
        _, singular, right = np.linalg.svd(rows, full_matrices=False)
        rows = right[singular > RANK_TOLERANCE * singular[0]]
    in_subset = rows @ vectors  # (B, m, r)
    lost = in_subset * (values <= _LOST)[:, None, :]
    outside = np.linalg.norm(lost, axis=2) > _ESTIMABLE * np.linalg.norm(rows, axis=1)
    repetitions = np.flatnonzero(~outside.any(axis=1) & (subset_df > 0))
    if len(values) and not len(repetitions):
        msg = f"contrast {contrast.name!r} cannot be estimated in any subset {_why_in_none(subset_df, outside)}"
        raise DesignError(msg)
    root = np.where(values > _LOST, 1 / np.sqrt(np.maximum(values, _LOST)), 0.0)[repetitions]
    rest = in_subset[repetitions] * root[:, None, :]  # (b, m, r)
    covariance = rest @ rest.transpose(0, 2, 1)  # (b, m, m)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)) if len(rest) else covariance
    critical = critical_values(subset_df[repetitions], len(rows), contrast.kind)
    return ContrastPlan(
        contrast.name, contrast.kind, rows, norm, repetitions, whiten, whiten @ rest, critical, df_resid
    )


def _why_in_none(subset_df: np.ndarray, outside: np.ndarray) -> str:
    """Why no subset estimates a contrast, and what to do.

    Parameters
    ----------
    subset_df : ndarray, (B,)
        Residual degrees of freedom of each subset.
    outside : ndarray, (B, m), bool
        Rows of the contrast that each subset has lost.
    """
    if (subset_df <= 0).all():
        return "(too few scans: a subset leaves no degree of freedom); raise --fraction, or --repeats 0"
    if outside.any(axis=1).all():
        return "(a level or person too rare for the fraction drawn); raise --fraction, use --stratify, or --repeats 0"
    return "(a level is too rare in some, others leave no degree of freedom); raise --fraction, or --repeats 0"


def critical_values(df: np.ndarray, n_rows: int, kind: str) -> np.ndarray:
    """|t| or F with the uncorrected p of `REPLICATION_P` (two-sided for t) at each of some degrees of freedom, (b,)."""
    each, at = np.unique(df, return_inverse=True)
    found = stats.t.isf(REPLICATION_P / 2, each) if kind == "t" else stats.f.isf(REPLICATION_P, n_rows, each)
    return np.asarray(found[at])


@dataclass(frozen=True)
class CovariatePlan:
    """A plan for a design with one more column that differs from voxel to voxel.

    Attributes
    ----------
    base : Plan
        Of the common columns, without contrasts.
    rows : ndarray, (K, r)
        D of each contrast's common part.
    on_map : ndarray, (K,)
        Weight of each contrast on the voxelwise column.
    repetitions : tuple of ndarray, (b,)
        Subsets in which each contrast can be estimated.
    on_rest : tuple of ndarray, (b, r)
        Weights on the subsets' coordinates of a residual, not whitened.
    critical : tuple of ndarray, (b,)
        |t| that a subset must exceed to count as a replication.
    """

    base: Plan
    rows: np.ndarray
    on_map: np.ndarray
    repetitions: tuple[np.ndarray, ...]
    on_rest: tuple[np.ndarray, ...]
    critical: tuple[np.ndarray, ...]


def make_covariate_plan(
    design: Design,
    contrasts: Sequence[Contrast],
    draws: np.ndarray,
    weights: np.ndarray | None = None,
    scan_scale: np.ndarray | None = None,
) -> CovariatePlan:
    """Factorise the common columns for t-contrasts whose last weight is that of the voxelwise column.

    Raises
    ------
    DesignError
        As :func:`make_plan`, and for F-contrasts.
    """
    if any(contrast.kind != "t" for contrast in contrasts):
        msg = "a formula with map() takes t-contrasts only; test the F-contrasts in a model without it"
        raise DesignError(msg)
    base = make_plan(design, (), draws, weights, scan_scale)
    if base.df_resid <= 1:
        msg = f"{len(design.matrix)} scans leave no degree of freedom beside map(); simplify the formula or add scans"
        raise DesignError(msg)
    common = np.vstack([contrast.weights[:, :-1] for contrast in contrasts])  # (K, p)
    # X = Q (Q'X) and C = D (Q'X) for estimable C
    weighted = design.matrix * base.scan_weights[:, None]
    norms = np.linalg.norm(weighted, axis=0)
    norms[norms == 0] = 1.0
    rows = (common / norms) @ np.linalg.pinv(base.basis.T @ weighted / norms, rcond=RANK_TOLERANCE)
    values, vectors, *_ = _factorise_subsets(base.basis, draws)
    root = np.where(values > _LOST, 1 / np.sqrt(np.maximum(values, _LOST)), 0.0)
    repetitions, on_rest = [], []
    for row in rows:
        in_subset = row @ vectors  # (B, r)
        lost = np.linalg.norm(in_subset * (values <= _LOST), axis=1) > _ESTIMABLE * float(np.linalg.norm(row))
        kept = np.flatnonzero(~lost & (base.subset_df > 1))
        repetitions.append(kept)
        on_rest.append((in_subset * root)[kept])
    return CovariatePlan(
        base,
        rows,
        np.array([contrast.weights[0, -1] for contrast in contrasts]),
        tuple(repetitions),
        tuple(on_rest),
        tuple(critical_values(base.subset_df[kept] - 1, 1, "t") for kept in repetitions),
    )
