"""From t and F of the full sample to p, q, z and effect sizes; a median t has no p-value."""

from __future__ import annotations

import numpy as np
from scipy import special

from vbmstat.lazy import stats

Df = float | np.ndarray  # degrees of freedom: one number, or one a voxel
_Z_LIMIT = 37.5  # beyond, the normal tail underflows in float64
_KNOTS = 257  # of arsinh t, between which limits of d are interpolated; their error is below 1e-5 of d
_LARGE_T = 100.0  # beyond, noncentralities are approximated: SciPy sums a series of a length that grows with t


def p_two_sided(t: np.ndarray, df_resid: Df) -> np.ndarray:
    """Two-sided uncorrected p of t.

    Examples
    --------
    >>> round(float(p_two_sided(np.array(2.0), 10.0)), 6)  # R: 2 * pt(-2, 10) = 0.07338803
    0.073388
    """
    return np.asarray(2 * special.stdtr(df_resid, -np.abs(t)))


def p_of_f(f: np.ndarray, df_contrast: float, df_resid: Df) -> np.ndarray:
    """Upper-tail p of F."""
    return np.asarray(special.fdtrc(df_contrast, df_resid, f))


def z_of_t(t: np.ndarray, df_resid: Df) -> np.ndarray:
    """Standard normal value with the same tail as t (limited to ±37.5)."""
    return z_of_tail(special.stdtr(df_resid, -np.abs(t)), t)


def z_of_tail(tail: np.ndarray, t: np.ndarray) -> np.ndarray:
    """The same from the p of one tail, half of the two-sided one, and the signs of t."""
    return np.asarray(np.sign(t) * np.minimum(-special.ndtri(np.maximum(tail, np.finfo(float).tiny)), _Z_LIMIT))


def z_of_f(f: np.ndarray, df_contrast: float, df_resid: Df) -> np.ndarray:
    """Standard normal value with the same upper tail as F (limited to ±37.5)."""
    tail = p_of_f(f, df_contrast, df_resid)
    lower = special.ndtri(special.fdtr(df_contrast, df_resid, f))
    z = np.where(tail > 0.5, lower, -special.ndtri(np.maximum(tail, np.finfo(float).tiny)))
    return np.asarray(np.clip(z, -_Z_LIMIT, _Z_LIMIT))


def partial_r(t: np.ndarray, df_resid: float) -> np.ndarray:
    """Partial correlation t / sqrt(t² + df)."""
    return np.asarray(t / np.sqrt(t**2 + df_resid))


def cohens_d(t: np.ndarray, df_resid: float) -> np.ndarray:
    """Cohen's d as 2 t / sqrt(df) (Rosenthal 1994; two groups of about equal size)."""
    return np.asarray(2 * t / np.sqrt(df_resid))


def p_one_sided(t: np.ndarray, df_resid: Df) -> np.ndarray:
    """Uncorrected p of t against a positive effect."""
    return np.asarray(special.stdtr(df_resid, -t))


def q_fdr(p: np.ndarray) -> np.ndarray:
    """Smallest false discovery rate at which each test is called (Benjamini & Hochberg 1995).

    Parameters
    ----------
    p : ndarray, (n_tests,)
        Uncorrected p of the tests of one family: the voxels inside the mask.

    Examples
    --------
    >>> q_fdr(np.array([0.01, 0.02, 0.03, 0.5])).round(4).tolist()  # R: p.adjust(p, "BH")
    [0.04, 0.04, 0.04, 0.5]
    """
    return np.asarray(stats.false_discovery_control(p)) if p.size else p.copy()


def partial_r2(f: np.ndarray, df_contrast: float, df_resid: float) -> np.ndarray:
    """Share of the variance left by the other regressors that a contrast explains."""
    return np.asarray(f * df_contrast / (f * df_contrast + df_resid))


def hedges_g(d: np.ndarray, df_resid: float) -> np.ndarray:
    """Cohen's d without its small-sample bias (Hedges 1981, doi:10.3102/10769986006002107, exact factor).

    Examples
    --------
    >>> round(float(hedges_g(np.array(1.0), 18.0)), 4)  # R: gamma(9) / (sqrt(9) * gamma(8.5))
    0.9576
    """
    half = df_resid / 2
    factor = np.exp(special.gammaln(half) - special.gammaln(half - 0.5)) / np.sqrt(half) if df_resid > 1 else np.nan
    return np.asarray(d * factor)


def noncentrality(t: np.ndarray, df: np.ndarray | float, p: float) -> np.ndarray:
    """Noncentrality δ of a t distribution whose lower tail at t is p.

    Parameters
    ----------
    t, df : ndarray, any shapes that broadcast
        Values and degrees of freedom.
    p : float
        P(T < t).

    Notes
    -----
    T = (Z + δ) / s with s² ~ χ²(df) / df, so δ is the upper p quantile of t s - Z. For |t| <= 100 SciPy inverts the
    distribution. Beyond, that takes time proportional to t (a second for one value at t = 1,000,000), and

    δ = t E(s) + sign(z) sqrt(z² + t² (s_p - E(s))²),

    with the upper p quantiles z of Z and s_p of s, is right to 1e-3 of the width of an interval: it is exact where s is
    normal (many df) and where Z is negligible beside t s (few df).

    Examples
    --------
    >>> noncentrality(np.array([2.0, 1e6]), 18.0, 0.2).round(1).tolist()  # R: pt(2, 18, 2.9) is 0.2
    [2.9, 1124464.0]
    """
    t, df = np.broadcast_arrays(np.asarray(t, dtype=np.float64), np.asarray(df, dtype=np.float64))
    is_large = np.abs(t) > _LARGE_T
    exact = special.nctdtrinc(df, p, np.where(is_large, 0.0, t))
    size, upper = np.where(is_large, np.abs(t), 1.0), np.where(t > 0, p, 1 - p)
    z = -special.ndtri(upper)
    mean = np.sqrt(2 / df) * np.exp(special.gammaln((df + 1) / 2) - special.gammaln(df / 2))
    spread = size * (np.sqrt(special.chdtri(df, upper) / df) - mean)
    approximate = np.sign(t) * (size * mean + np.sign(z) * np.hypot(z, spread))
    return np.asarray(np.where(is_large, approximate, exact))


def d_interval(t: np.ndarray, df_resid: float, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Confidence limits of Cohen's d through the noncentral t distribution.

    Parameters
    ----------
    t : ndarray
        Statistic, any shape.
    df_resid : float
        Residual degrees of freedom.
    level : float
        Coverage.

    Returns
    -------
    ndarray, ndarray
        Lower and upper limit of d as :func:`cohens_d` defines it: 2 δ / sqrt(df) with the noncentralities δ at which
        the observed t lies at the upper or lower end of the interval.

    References
    ----------
    Steiger & Fouladi 1997; Cumming & Finch 2001 (doi:10.1177/0013164401614002).

    Examples
    --------
    >>> low, high = d_interval(np.array([3.0]), 20.0)  # R: uniroot(function(n) pt(3, 20, n) - .975, c(-5, 9)), and .025
    >>> round(float(low[0]), 3), round(float(high[0]), 3)
    (0.359, 2.297)
    """
    from scipy.interpolate import CubicSpline  # noqa: PLC0415 - only here, a quarter of a second

    largest = np.arcsinh(max(float(np.abs(t).max(initial=0.0)), 1e-6))
    knots = np.linspace(-largest, largest, _KNOTS)  # close around 0, where the limits bend, however large one t is
    upper = CubicSpline(knots, noncentrality(np.sinh(knots), df_resid, (1 - level) / 2))
    at = np.arcsinh(t)
    factor = 2 / np.sqrt(df_resid)
    return np.asarray(-upper(-at) * factor), np.asarray(upper(at) * factor)
