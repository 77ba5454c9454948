"""The sandwich estimator: t and F of repeated scans and families, valid for any correlation inside a subject.

The model is marginal: Y = X β + ε, with any covariance inside a subject (or family) and none between them. β is that of
least squares, and its variance is estimated by the subjects' own residuals, Σ_i (X'X)⁻ X_i' ê_i ê_i' X_i (X'X)⁻ (the
classic SwE of Guillaume et al. 2014, doi:10.1016/j.neuroimage.2014.03.029; Liang & Zeger 1986,
doi:10.1093/biomet/73.1.13). With X = Q R and a contrast's rows D = C R⁻, a subject enters a voxel only through
u_i = D Q_i' A_i ê_i, and S = Σ_i u_i u_i' is the variance of Cβ. A_i = (I - H_ii)^(-1/2), H_ii the subject's block of
the hat matrix, undoes the shrinkage of residuals (CR2, Bell & McCaffrey 2002): S is unbiased where scans are
independent and alike, unless the model fits a subject exactly in a direction on which the contrast rests. Float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vbmstat.device import n_cores
from vbmstat.errors import DesignError
from vbmstat.glm.fit.leverage import SINGULAR, leave_out, residual_spectra, unestimated_blocks
from vbmstat.glm.fit.plan import ContrastPlan, Plan
from vbmstat.glm.fit.stream import Layout, fit_tiles
from vbmstat.glm.fit.tile import Fit, Tile
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import CHUNK_VOXELS, Maps

_READ_VOXELS = 2 * CHUNK_VOXELS
_EXACT_FIT = 1e-26  # RSS over what the model explains below: rounding, as in the engine; the statistic is 0
ESTIMATOR = "the sandwich"
CURE = "leave the subject or the column out, or merge levels"


class TestRows(NamedTuple):
    """One contrast: t or F, D (m, r), D Q' A (m, n) with scans of a subject side by side, and ν."""

    kind: str
    rows: np.ndarray
    weights: np.ndarray
    nu: float


def fit_sandwich(maps: Maps, plan: Plan, subjects: Sequence[str], compute: Compute | None = None) -> Fit:
    """Fit a linear model by least squares and test it with sandwich variances.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels), rows in the order of the plan.
    plan : Plan
        Factorised design and contrasts.
    subjects : sequence of str
        Subject (or family) of each scan: scans of different ones are independent.
    compute : Compute, optional
        Where and how fast; on the CPU.

    Returns
    -------
    Fit
        The statistic of F is Wald's times (ν - q + 1) / (ν q) for q rows; df are ν of a t, ν - q + 1 of an F.

    Raises
    ------
    DesignError
        If there are too few subjects, or the variance of a contrast cannot be estimated or has too few degrees of
        freedom.
    """
    compute = compute or Compute()
    order, starts = subject_blocks(subjects, plan)
    leave_out(plan.contrasts, unestimated_subjects(plan, subjects), ESTIMATOR, CURE)
    basis = plan.basis[order]
    corrected = correct_rows(basis, starts)  # A Q, (n, r)
    parts = [prepare_rows(contrast, basis, corrected, starts) for contrast in plan.contrasts]
    scale = (plan.scan_weights * plan.scan_scale)[order, None]
    work = _Test(order, starts, scale, basis, parts)
    layout = Layout(_READ_VOXELS, _READ_VOXELS, compute.n_threads or n_cores())
    return fit_tiles(Fit.empty(maps.mask, [0] * len(parts)), [maps], layout, work, compute)


def subject_blocks(subjects: Sequence[str], plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Order that brings a subject's scans together, and where each subject starts."""
    members = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)[1]
    counts = np.bincount(members)
    rank = plan.basis.shape[1]
    if counts.max() == 1:
        msg = "every subject has one scan: nothing is repeated; leave --variance sandwich out"
        raise DesignError(msg)
    if len(counts) <= rank:
        msg = f"{len(counts)} subjects are too few for a design of rank {rank}; simplify the formula or add subjects"
        raise DesignError(msg)
    return np.argsort(members, kind="stable"), np.concatenate([[0], np.cumsum(counts)[:-1]])


def unestimated_subjects(plan: Plan, subjects: Sequence[str]) -> list[list[str]]:
    """For each contrast, subjects whose part of its variance cannot be estimated; mostly none."""
    order, starts = subject_blocks(subjects, plan)
    names = np.asarray(subjects, dtype=object).astype(str)[order[starts]]
    return [[names[i] for i in unestimated_blocks(one.rows, plan.basis[order], starts)] for one in plan.contrasts]


def correct_rows(basis: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Rows of Q times the CR2 correction of their residuals, A Q, (n_scans, r); zero where residuals vanish.

    Parameters as in :func:`vbmstat.glm.fit.leverage.residual_spectra`.
    """
    corrected = np.empty_like(basis)
    for at, values, vectors in residual_spectra(basis, starts):
        usable = values > SINGULAR
        scaled = np.where(usable, np.where(usable, values, 1.0) ** -0.5, 0.0)
        corrected[at] = vectors @ (scaled[:, None] * (vectors.T @ basis[at]))
    return corrected


def prepare_rows(contrast: ContrastPlan, basis: np.ndarray, corrected: np.ndarray, starts: np.ndarray) -> TestRows:
    """One contrast on scans that stand subject by subject; `corrected` is A Q of :func:`correct_rows`."""
    weights = contrast.rows @ corrected.T  # (m, n)
    nu, n_rows = satterthwaite(weights, basis, starts), len(weights)
    if nu <= n_rows - 1:
        msg = f"contrast {contrast.name!r}: {nu:.1f} degrees of freedom for {n_rows} rows; too few subjects contribute"
        raise DesignError(msg)
    return TestRows(contrast.kind, contrast.rows, weights, nu)


def satterthwaite(weights: np.ndarray, basis: np.ndarray, starts: np.ndarray) -> float:
    """Degrees of freedom ν of S from the design alone, for independent scans of equal variance.

    ν S is distributed about as Wishart: E and total variance of S, after bringing E(S) to I, are matched, so that
    ν = m (m + 1) / Σ_kl var(S_kl). For t it is Bell & McCaffrey's (2002) 2 E(S)² / var(S). `weights` are D Q' A of a
    contrast (m, n_scans), `basis` is Q (n_scans, r), `starts` the first row of each subject.

    References
    ----------
    Bell & McCaffrey 2002, Survey Methodology 28:169; Pustejovsky & Tipton 2018, doi:10.1080/07350015.2016.1247004
    (approximate Hotelling's T², their η).
    """
    m = len(weights)
    on_basis = np.add.reduceat(weights[:, :, None] * basis, starts, axis=1)  # (m, S, r)
    expected = weights @ weights.T - np.einsum("kir,lir->kl", on_basis, on_basis)  # E(S) / σ²
    values, vectors = np.linalg.eigh(expected)
    root = vectors / np.sqrt(np.maximum(values, np.finfo(float).tiny)) @ vectors.T
    whitened = root @ weights
    # With g_ki = (I - H) A_i' Q_i D_k' and u_ik = g_ki'y, g_ki'g_lj = o_kli δ_ij - b_ki'b_lj for subjects i and j:
    # sums over pairs of subjects reduce to sums over subjects
    own = np.add.reduceat(whitened[:, None, :] * whitened[None, :, :], starts, axis=2)  # o, (m, m, S)
    on_basis = np.add.reduceat(whitened[:, :, None] * basis, starts, axis=1)  # b, (m, S, r)
    inner = np.einsum("kir,lir->kli", on_basis, on_basis)
    crossed = np.einsum("kia,lib->klab", on_basis, on_basis)
    trace = np.einsum("kki->i", own)
    total = (trace**2).sum() - 2 * (trace * np.einsum("kki->i", inner)).sum()
    total += (crossed**2).sum()
    total += (own**2).sum() - 2 * (own * inner).sum() + np.einsum("klab,klba->", crossed, crossed)
    return float(m * (m + 1) / total)


@dataclass(frozen=True)
class _Test:
    """Tests tiles: scans in an order that puts those of a subject side by side, their factors, and the contrasts."""

    order: np.ndarray
    starts: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    parts: Sequence[TestRows]

    def __call__(self, tiles: list[np.ndarray], inside: np.ndarray) -> Tile:
        values = tiles[0][self.order].astype(np.float64) * self.scale  # (n, v)
        coefficients = self.basis.T @ values
        residuals = values - self.basis @ coefficients
        residuals[:, (residuals**2).sum(axis=0) <= _EXACT_FIT * (coefficients**2).sum(axis=0)] = 0.0
        effect, variance, statistic = np.zeros((3, len(self.parts), values.shape[1]))
        df = np.ones_like(effect)
        for k, part in enumerate(self.parts):
            estimate = part.rows @ coefficients  # (m, v)
            u = np.stack([np.add.reduceat(residuals * w[:, None], self.starts) for w in part.weights])  # (m, S, v)
            outer = np.einsum("ksv,lsv->vkl", u, u)
            m = len(estimate)
            usable = np.einsum("vkk->v", outer) > 0
            df[k, usable] = part.nu - m + 1
            if part.kind == "t":
                effect[k], variance[k] = estimate[0], outer[:, 0, 0]
                statistic[k, usable] = estimate[0, usable] / np.sqrt(variance[k, usable])
            else:
                solved = np.linalg.pinv(outer[usable], hermitian=True) @ estimate.T[usable, :, None]  # (v, m, 1)
                wald = (estimate.T[usable] * solved[..., 0]).sum(axis=1)
                statistic[k, usable] = wald * df[k, usable] / (part.nu * m)
        return Tile(effect=effect, variance=variance, statistic=statistic, df=df)
