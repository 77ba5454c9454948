"""Leverage and robust variances, from the design alone: which cannot be estimated, and how they are distributed.

A contrast is Cβ = A y with A = D Q', Q an orthonormal basis of the design. HC3 and the sandwich estimate its variance
from the residuals e = (I - Q Q') y of blocks of rows: of single scans, or of all scans of a subject. Where the design
fits a block exactly (a scan of leverage 1), its residual is zero for any data. If the contrast depends on that block,
a part of its variance is missing and no estimate of it is valid. All float64, before any map is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from vbmstat.errors import DesignError, listed
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.fit.plan import ContrastPlan
from vbmstat.lazy import stats

Tested = TypeVar("Tested", Contrast, ContrastPlan)
SINGULAR = 1e-9  # residuals are zero for any data if 1 - leverage, or an eigenvalue of I - H_ii, is below
MISSING = 1e-12  # share of a contrast's variance in such residuals from which it cannot be estimated
_EXACT = 100  # largest blocks, which enter the distribution exactly; the others as one gamma variable
_STEADY = 20.0  # Satterthwaite's degrees of freedom from which the approximation is good to the third digit
_MOST_DF = 200.0  # of the gamma variable, to keep the integrand smooth
_STEPS = 45  # integration steps for each factor of e
MOST_LISTED = 6  # scans or groups in a message
_DOMINANT = 0.9  # from this leverage, caused by its weight, the fit follows a single scan


def residual_spectra(basis: np.ndarray, starts: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows of each block of Q, and eigenvalues and vectors of its block I - H_ii of the residual-forming matrix.

    `basis` is Q (n_scans, r) with the rows of a block side by side, `starts` (n_blocks,) the first row of each.
    """
    for start, stop in zip(starts, [*starts[1:], len(basis)], strict=True):
        block = basis[start:stop]
        yield slice(start, stop), *np.linalg.eigh(np.eye(len(block)) - block @ block.T)


def unestimated_blocks(rows: np.ndarray, basis: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Blocks that carry a part of a contrast's variance which no residual can estimate, (k,), int.

    `rows` is D (m, r); `basis` and `starts` as in :func:`residual_spectra`.
    """
    if len(starts) == len(basis):
        lost = np.where(1 - (basis**2).sum(axis=1, keepdims=True) > SINGULAR, 0.0, basis)
    else:
        lost = np.zeros_like(basis)  # Q in the directions in which the residuals of its block are zero
        for at, values, vectors in residual_spectra(basis, starts):
            null = vectors[:, values <= SINGULAR]
            lost[at] = null @ (null.T @ basis[at])
    parts = rows @ lost.T  # (m, n)
    shares = np.add.reduceat((parts**2).sum(axis=0), starts) / (rows**2).sum() * len(rows)
    return np.flatnonzero(shares > MISSING)


def weight_notes(matrix: np.ndarray, weights: np.ndarray, scan_ids: Sequence[str]) -> tuple[str, ...]:
    """A note on scans that the fit follows because of their weights.

    `matrix` is the design (n_scans, n_regressors) without the `weights` (n_scans,), of which
    :func:`vbmstat.glm.fit.plan.make_plan` refuses invalid ones.
    """
    if not (np.isfinite(weights) & (weights > 0)).all():
        return ()
    leverage, without = (_leverages(matrix * root[:, None]) for root in (np.sqrt(weights), np.ones(len(weights))))
    heavy = np.flatnonzero((leverage >= _DOMINANT) & (without < _DOMINANT))
    if not heavy.size:
        return ()
    shares = weights / weights.sum()
    scans = listed(
        [
            f"{scan_ids[i]} (leverage {leverage[i]:.2f}, {shares[i]:.0%} of the sum of the weights)"
            for i in heavy.tolist()
        ],
        MOST_LISTED,
    )
    return (f"because of their weights, the fit nearly passes through {scans}; are these weights meant?",)


def _leverages(matrix: np.ndarray) -> np.ndarray:
    """Diagonal of the projection on the columns of a matrix (n, p), (n,)."""
    norms = np.linalg.norm(matrix, axis=0)
    left, singular, _ = np.linalg.svd(matrix / np.where(norms > 0, norms, 1), full_matrices=False)
    return np.asarray((left[:, singular > SINGULAR * singular[0]] ** 2).sum(axis=1))


def leave_out(
    contrasts: Sequence[Tested],
    unestimated: Sequence[Sequence[str]],
    estimator: str,
    cure: str,
    is_default: bool = False,
) -> tuple[list[Tested], tuple[str, ...]]:
    """Contrasts whose variance can be estimated, and notes on those that were left out.

    `unestimated` lists, for each contrast, the scans or subjects whose part of its variance cannot be estimated;
    `estimator` and `cure` are for the message.

    Raises
    ------
    DesignError
        If the user chose such a contrast (`is_default` is False), or none is left.
    """
    kept, notes = [], []
    for contrast, names in zip(contrasts, unestimated, strict=True):
        if not names:
            kept.append(contrast)
            continue
        why = (
            f"{estimator} cannot estimate its variance, because the model fits {listed(names, MOST_LISTED)} exactly "
            "(leverage 1)"
        )
        if not is_default:
            msg = f"contrast {contrast.name!r}: {why}; {cure}"
            raise DesignError(msg)
        notes.append(f"contrast {contrast.name!r} left out: {why}; {cure}")
    if notes and not kept:
        msg = f"no contrast can be tested: {'; '.join(notes)}"
        raise DesignError(msg)
    return kept, tuple(notes)


def hc3_weights(on_basis: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Weights g / (1 - h) on the residuals whose sum of squares is HC3's variance, (..., n).

    `on_basis` (..., r) is a contrast's only row in the coordinates of `basis`, Q (..., n, r); its rows of zeros do not
    count.
    """
    g = (basis @ on_basis[..., None])[..., 0]
    free = 1 - (basis**2).sum(axis=-1)
    return np.asarray(np.where(free > SINGULAR, g / np.maximum(free, SINGULAR), 0.0))


def spread_of_variance(weights: np.ndarray, basis: np.ndarray, norm2: float) -> tuple[np.ndarray, np.ndarray]:
    """Distribution of an estimated variance Σ (w_i e_i)² over the true one, for normal errors that are alike.

    Parameters
    ----------
    weights, basis : ndarray, (n,) and (n, r)
        w and Q.
    norm2 : float
        The true variance over σ².

    Returns
    -------
    scales, df : ndarray, (k,)
        The variance is distributed as Σ_j scale_j χ²(df_j). The scales of single degrees of freedom are eigenvalues of
        diag(w) (I - QQ') diag(w); beyond the `_EXACT` weightiest scans one term of the same mean and variance.
    """
    own = weights**2 / norm2
    scaled = basis * weights[:, None] / np.sqrt(norm2)
    mean = own - (scaled**2).sum(axis=1)
    heaviest = np.argsort(-mean)[:_EXACT]
    form = np.diag(own[heaviest]) - scaled[heaviest] @ scaled[heaviest].T
    scales = np.linalg.eigvalsh(form)
    scales = scales[scales > SINGULAR * max(scales.max(), np.finfo(float).tiny)]
    square = (own**2).sum() - 2 * (own * (scaled**2).sum(axis=1)).sum() + ((scaled.T @ scaled) ** 2).sum()
    left, left_square = mean.sum() - scales.sum(), square - (scales**2).sum()
    df = np.ones(len(scales))
    if len(heaviest) == len(weights) or left <= SINGULAR * mean.sum() or left_square <= 0:
        return scales, df
    more = left**2 / left_square
    return np.append(scales, left / more), np.append(df, more)


def null_share(critical: float, form: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of null voxels with |t| beyond a positive critical value, for independent normal errors of equal variance.

    With V / var(Cβ) = Σ scale_j χ²(df_j) independent of Cβ it is P(Z² - critical² Σ scale_j χ²(df_j) > 0), by Imhof's
    integral; for many degrees of freedom by a t distribution with Satterthwaite's. `form` is from
    :func:`spread_of_variance`.

    References
    ----------
    Imhof 1961, doi:10.1093/biomet/48.3-4.419; Hansen 2021, The exact distribution of the White t-ratio.
    """
    scales, df = form
    mean, satterthwaite = float((df * scales).sum()), float((df * scales).sum() ** 2 / (df * scales**2).sum())
    if satterthwaite > _STEADY:
        return float(2 * stats.t.sf(critical * np.sqrt(mean), satterthwaite))
    kept = np.minimum(df, _MOST_DF)
    w = np.append(1.0, -(critical**2) * scales * df / kept)[:, None]
    half = np.append(1.0, kept)[:, None] / 2
    low, high = np.log(1e-6 / np.abs(w).max()), np.log(1e9)  # of u; w is 1 for Z
    steps = np.linspace(low, high, int(_STEPS * (high - low)))
    wu = w * np.exp(steps)
    angle = (half * np.arctan(wu)).sum(axis=0)
    size = np.exp(-(half / 2 * np.log1p(wu**2)).sum(axis=0))
    below = angle[0]  # the integral from 0 to the first step, where angle is linear in u
    return float(0.5 + (below + np.trapezoid(np.sin(angle) * size, steps)) / np.pi)
