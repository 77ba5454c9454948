"""From t and F to p, z, partial r and Cohen's d. All of it from the full sample; a median t has no p-value."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

_Z_LIMIT = 37.5  # beyond, the normal tail underflows in float64


def p_two_sided(t: np.ndarray, df_resid: float) -> np.ndarray:
    """Two-sided uncorrected p of t.

    Examples
    --------
    >>> round(float(p_two_sided(np.array(2.0), 10.0)), 6)  # R: 2 * pt(-2, 10) = 0.07338803
    0.073388
    """
    return np.asarray(2 * special.stdtr(df_resid, -np.abs(t)))


def p_of_f(f: np.ndarray, df_contrast: float, df_resid: float) -> np.ndarray:
    """Upper-tail p of F."""
    return np.asarray(stats.f.sf(f, df_contrast, df_resid))


def z_of_t(t: np.ndarray, df_resid: float) -> np.ndarray:
    """Standard normal value with the same tail as t (limited to ±37.5)."""
    tail = special.stdtr(df_resid, -np.abs(t))
    return np.asarray(np.sign(t) * np.minimum(-special.ndtri(np.maximum(tail, np.finfo(float).tiny)), _Z_LIMIT))


def z_of_f(f: np.ndarray, df_contrast: float, df_resid: float) -> np.ndarray:
    """Standard normal value with the same upper tail as F (limited to ±37.5)."""
    tail = p_of_f(f, df_contrast, df_resid)
    lower = special.ndtri(stats.f.cdf(f, df_contrast, df_resid))
    z = np.where(tail > 0.5, lower, -special.ndtri(np.maximum(tail, np.finfo(float).tiny)))
    return np.clip(z, -_Z_LIMIT, _Z_LIMIT)


def partial_r(t: np.ndarray, df_resid: float) -> np.ndarray:
    """Partial correlation t / sqrt(t² + df)."""
    return np.asarray(t / np.sqrt(t**2 + df_resid))


def cohens_d(t: np.ndarray, df_resid: float) -> np.ndarray:
    """Cohen's d as 2 t / sqrt(df) (Rosenthal 1994; two groups of about equal size)."""
    return np.asarray(2 * t / np.sqrt(df_resid))
