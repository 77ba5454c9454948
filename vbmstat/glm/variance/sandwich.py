"""The sandwich estimator: t and F of repeated scans and families, valid whatever the correlation inside a subject.

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
from functools import partial
from typing import Any

import numpy as np
import torch

from vbmstat.device import n_cores
from vbmstat.errors import DesignError
from vbmstat.glm.fit.leverage import SINGULAR, leave_out, unestimated_blocks
from vbmstat.glm.fit.plan import ContrastPlan, Plan
from vbmstat.glm.fit.stream import Layout, stream
from vbmstat.glm.fit.tensors import LocalDfFit
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import CHUNK_VOXELS, Maps

_READ_VOXELS = 2 * CHUNK_VOXELS
_EXACT_FIT = 1e-26  # RSS over what the model explains below: rounding, as in the engine; the statistic is 0
ESTIMATOR = "the sandwich"
CURE = "leave the subject or the column out, or merge levels"


@dataclass(frozen=True)
class _Sandwich:
    """One contrast: D (m, r), D Q' A (m, n) with scans of a subject side by side, and ν."""

    rows: np.ndarray
    weights: np.ndarray
    nu: float


def fit_sandwich(maps: Maps, plan: Plan, subjects: Sequence[str], compute: Compute | None = None) -> LocalDfFit:
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
    LocalDfFit
        The statistic of F is Wald's times (ν - q + 1) / (ν q) for q rows; df are ν of a t, ν - q + 1 of an F.

    Raises
    ------
    DesignError
        If there are too few subjects, or the variance of a contrast cannot be estimated or has too few degrees of
        freedom.
    """
    compute = compute or Compute()
    order, starts = _blocks(subjects, plan)
    leave_out(plan.contrasts, unestimated_subjects(plan, subjects), ESTIMATOR, CURE)
    basis = plan.basis[order]
    corrected = correct_rows(basis, starts)  # A Q, (n, r)
    parts = [_prepare(contrast, basis, corrected, starts) for contrast in plan.contrasts]
    scale = (plan.scan_weights * plan.scan_scale)[order, None]
    fit = LocalDfFit.empty(maps.mask, len(parts))
    work = partial(_test_chunk, order=order, scale=scale, basis=basis, parts=parts, starts=starts)
    layout = Layout(_READ_VOXELS, _READ_VOXELS, compute.n_threads or n_cores())
    for start, found in stream([maps], layout, work, cluster=compute.cluster):
        done = fit.store(start, found)
        if compute.progress:
            compute.progress("fitting voxels", done, maps.n_voxels)
    return fit


def _test_chunk(
    tiles: list[torch.Tensor], inside: torch.Tensor, order: np.ndarray, scale: np.ndarray, **of_voxels: Any
) -> np.ndarray:
    """Effect, variance, statistic and df (4, K, v) of a chunk as it is read."""
    values = tiles[0].numpy()[order].astype(np.float64) * scale  # (n, v)
    return _test_voxels(values, **of_voxels)


def _blocks(subjects: Sequence[str], plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Order that brings a subject's scans together, and where each subject starts."""
    members = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)[1]
    counts = np.bincount(members)
    rank = plan.basis.shape[1]
    if counts.max() == 1:
        msg = "every subject has one scan: there is nothing repeated; leave the column of the repetition out"
        raise DesignError(msg)
    if len(counts) <= rank:
        msg = f"{len(counts)} subjects cannot carry a design of rank {rank}; simplify the formula or add subjects"
        raise DesignError(msg)
    return np.argsort(members, kind="stable"), np.concatenate([[0], np.cumsum(counts)[:-1]])


def unestimated_subjects(plan: Plan, subjects: Sequence[str]) -> list[list[str]]:
    """Subjects that make the variance of each contrast of a plan unknowable; mostly none."""
    order, starts = _blocks(subjects, plan)
    names = np.asarray(subjects, dtype=object).astype(str)[order[starts]]
    return [[names[i] for i in unestimated_blocks(one.rows, plan.basis[order], starts)] for one in plan.contrasts]


def correct_rows(basis: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Rows of Q multiplied by the correction of the residuals they will meet, A Q; zero where these vanish.

    Parameters
    ----------
    basis : ndarray, (n_scans, r)
        Q, scans of a subject side by side.
    starts : ndarray, (n_subjects,), int
        First row of each subject.
    """
    corrected = np.empty_like(basis)
    for start, stop in zip(starts, [*starts[1:], len(basis)], strict=True):
        block = basis[start:stop]
        values, vectors = np.linalg.eigh(np.eye(len(block)) - block @ block.T)
        usable = values > SINGULAR
        scaled = np.where(usable, np.where(usable, values, 1.0) ** -0.5, 0.0)
        corrected[start:stop] = vectors @ (scaled[:, None] * (vectors.T @ block))
    return corrected


def _prepare(contrast: ContrastPlan, basis: np.ndarray, corrected: np.ndarray, starts: np.ndarray) -> _Sandwich:
    weights = contrast.rows @ corrected.T  # (m, n)
    nu = satterthwaite(weights, basis, starts)
    if nu <= len(weights) - 1:
        rows = len(weights)
        msg = f"contrast {contrast.name!r}: {nu:.1f} degrees of freedom for {rows} rows; too few subjects carry it"
        raise DesignError(msg)
    return _Sandwich(contrast.rows, weights, nu)


def satterthwaite(weights: np.ndarray, basis: np.ndarray, starts: np.ndarray) -> float:
    """Degrees of freedom of S from the design alone, for independent scans of equal variance.

    Parameters
    ----------
    weights : ndarray, (m, n_scans)
        D Q' A of a contrast.
    basis : ndarray, (n_scans, r)
        Q.
    starts : ndarray, (n_subjects,), int
        First row of each subject.

    Returns
    -------
    float
        ν with ν S distributed about as Wishart: E and total variance of S, after bringing E(S) to I, are matched:
        ν = m (m + 1) / Σ_kl var(S_kl). For t it is Bell & McCaffrey's (2002) 2 E(S)² / var(S).

    References
    ----------
    Bell & McCaffrey 2002, Survey Methodology 28:169; Pustejovsky & Tipton 2018, doi:10.1080/07350015.2016.1247004
    (approximate Hotelling's T², their η).
    """
    m = len(weights)
    expected = _expected(weights, basis, starts)
    values, vectors = np.linalg.eigh(expected)
    root = vectors / np.sqrt(np.maximum(values, np.finfo(float).tiny)) @ vectors.T
    whitened = root @ weights
    # g_ki = (I - H) A_i' Q_i D_k' and u_ik = g_ki'y. The products g_ki'g_lj of all pairs of subjects i and j are
    # o_kli δ_ij - b_ki'b_lj, so that their sums over i and j are those of single subjects
    own = np.add.reduceat(whitened[:, None, :] * whitened[None, :, :], starts, axis=2)  # o, (m, m, S)
    on_basis = np.add.reduceat(whitened[:, :, None] * basis, starts, axis=1)  # b, (m, S, r)
    inner = np.einsum("kir,lir->kli", on_basis, on_basis)
    crossed = np.einsum("kia,lib->klab", on_basis, on_basis)
    trace = np.einsum("kki->i", own)
    total = (trace**2).sum() - 2 * (trace * np.einsum("kki->i", inner)).sum()
    total += (crossed**2).sum()
    total += (own**2).sum() - 2 * (own * inner).sum() + np.einsum("klab,klba->", crossed, crossed)
    return float(m * (m + 1) / total)


def _expected(weights: np.ndarray, basis: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """E(S) / σ² of independent scans of equal variance, (m, m)."""
    on_basis = np.add.reduceat(weights[:, :, None] * basis, starts, axis=1)  # (m, S, r)
    return np.asarray(weights @ weights.T - np.einsum("kir,lir->kl", on_basis, on_basis))


def _test_voxels(values: np.ndarray, basis: np.ndarray, parts: Sequence[_Sandwich], starts: np.ndarray) -> np.ndarray:
    """Effect, variance, statistic and df (4, K, v) of a chunk (n, v)."""
    coefficients = basis.T @ values
    rest = values - basis @ coefficients
    rest[:, (rest**2).sum(axis=0) <= _EXACT_FIT * (coefficients**2).sum(axis=0)] = 0.0
    found = np.zeros((4, len(parts), values.shape[1]))
    effect, variance, statistic, df = found
    df[:] = 1.0
    for k, part in enumerate(parts):
        estimate = part.rows @ coefficients  # (m, v)
        u = np.stack([np.add.reduceat(rest * w[:, None], starts) for w in part.weights])  # (m, S, v)
        outer = np.einsum("ksv,lsv->vkl", u, u)
        m = len(estimate)
        usable = np.einsum("vkk->v", outer) > 0
        df[k, usable] = part.nu - m + 1
        if m == 1:
            effect[k], variance[k] = estimate[0], outer[:, 0, 0]
            statistic[k, usable] = estimate[0, usable] / np.sqrt(variance[k, usable])
        else:
            solved = np.linalg.pinv(outer[usable], hermitian=True) @ estimate.T[usable, :, None]  # (v, m, 1)
            wald = (estimate.T[usable] * solved[..., 0]).sum(axis=1)
            statistic[k, usable] = wald * df[k, usable] / (part.nu * m)
    return found
