"""P-values beyond the number of permutations: a distribution fitted to the upper tail of the null.

With a few hundred permutations the smallest p that can be counted is coarse. Winkler et al. 2016
(doi:10.1016/j.neuroimage.2016.05.068) compare ways to do with few. Here, a generalised Pareto distribution (GPD) of the
null's largest quarter gives the p of what lies there. It is fitted by moments (Hosking & Wallis 1987,
doi:10.1080/00401706.1987.10488243), and its threshold is raised until Anderson and Darling's test no longer objects;
where it always does, p are counted. The unpermuted data are left out of the fit: a finding would be its own null.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vbmstat.glm.spec import FEWEST_FOR_TAIL

TAIL_SHARE = 0.25  # of the null that the first GPD is fitted to
_STEP = 0.01  # by which the share shrinks while the fit is bad
_FEWEST_BEYOND = 25  # permutations that a GPD is fitted to
_FARTHEST = 0.1  # of 1 / permutations: p are not extrapolated beyond, where a shape from few values means nothing
# Critical values of A² at 5 % by shape k, from 8,000 samples of 125 each, k and scale fitted by moments (the tables of
# Choulakian & Stephens 2001, doi:10.1198/00401700152672573, are for maximum likelihood).
_SHAPES = (-0.4, -0.3, -0.2, -0.1, 0.0, 0.1)
_CRITICAL = (2.62, 1.58, 1.21, 1.05, 0.95, 0.90)


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto distribution that gives the p of large values: its upper tail is (1 - k x / scale)^(1/k).

    Attributes
    ----------
    beyond : float
        Threshold: p of values above are approximated, others counted.
    share : float
        P at `beyond`.
    shape, scale : float
        k, and the scale.
    floor : float
        No p is given below.
    """

    beyond: float
    share: float
    shape: float
    scale: float
    floor: float

    def covers(self, observed: np.ndarray) -> np.ndarray:
        """Whose p are approximated, bool."""
        return np.asarray(observed > self.beyond)

    def p(self, observed: np.ndarray) -> np.ndarray:
        """P of observed values, where they are covered."""
        excess = np.maximum(observed - self.beyond, 0.0)
        p = self.share * _beyond(excess, np.asarray(self.shape), np.asarray(self.scale))
        return np.asarray(np.clip(p, self.floor, 1.0))


def smallest_tail_p(count: int, existing: int) -> float:
    """The least p that is extrapolated to, from `count` permutations of those that exist.

    Examples
    --------
    >>> smallest_tail_p(500, 10**30)
    0.0002
    >>> smallest_tail_p(500, 924) == 1 / 924
    True
    """
    return max(_FARTHEST / count, 1 / existing)


def fit_tail(null: np.ndarray, floor: float) -> Tail | None:
    """Fit the upper tail of the null distribution of a maximum.

    Parameters
    ----------
    null : ndarray, (count,)
        Largest value of each permutation, the unpermuted data first.
    floor : float
        Smallest p to give.

    Returns
    -------
    Tail or None
        None where nothing fits, or fewer than 100 permutations are there: then p are counted.
    """
    permuted = np.asarray(null[1:], dtype=np.float64)
    if len(null) < FEWEST_FOR_TAIL or not permuted.std() > 0:
        return None
    fit = _fit_pareto(permuted[:, None])
    if not fit.fits[0]:
        return None
    beyond, share, shape, scale = (float(values[0]) for values in (fit.threshold, fit.share, fit.shape, fit.scale))
    return Tail(beyond, share, shape, scale, floor)


def pareto_p(null: np.ndarray, observed: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """P of many tests, each by a GPD fitted to its own null.

    Parameters
    ----------
    null : ndarray, (count, n_tests)
        Statistic of each permutation, the unpermuted data first.
    observed : ndarray, (n_tests,)
        Statistic of the data.
    floor : float
        Smallest p to give.

    Returns
    -------
    p : ndarray, (n_tests,)
        Meaningless where not approximated.
    is_approximated : ndarray, (n_tests,), bool
        Where a GPD fits and the observed value lies in its range.
    """
    if len(null) < FEWEST_FOR_TAIL:
        return np.ones(len(observed)), np.zeros(len(observed), dtype=bool)
    fit = _fit_pareto(np.asarray(null[1:], dtype=np.float64))
    excess = np.maximum(observed - fit.threshold, 0.0)
    p = np.clip(fit.share * _beyond(excess, fit.shape, fit.scale), floor, 1.0)
    return p, fit.fits & (observed > fit.threshold)


@dataclass(frozen=True)
class _Fits:
    """A GPD a column, (n_tests,) each."""

    fits: np.ndarray
    threshold: np.ndarray
    share: np.ndarray
    shape: np.ndarray
    scale: np.ndarray


def _fit_pareto(permuted: np.ndarray) -> _Fits:
    """A GPD beyond the lowest threshold at which it fits, for each column of (count - 1, n_tests)."""
    n_permuted, n_tests = permuted.shape
    sizes = _tail_sizes(n_permuted)
    largest = -np.sort(-permuted, axis=0)[: sizes[0] + 1]  # descending
    threshold, share, shape, scale = (np.ones(n_tests) for _ in range(4))
    pending = np.flatnonzero(largest[0] > largest[-1])
    fits = np.zeros(n_tests, dtype=bool)
    for size in sizes:
        at = (largest[size - 1, pending] + largest[size, pending]) / 2
        excess = largest[size - 1 :: -1, pending] - at  # ascending
        k, a = _by_moments(excess)
        good = _anderson_darling(excess, k, a) <= np.interp(k, _SHAPES, _CRITICAL)
        done = pending[good]
        fits[done] = True
        threshold[done], share[done] = at[good], (size + 1) / (n_permuted + 1)
        shape[done], scale[done] = k[good], a[good]
        pending = pending[~good]
        if not pending.size:
            break
    return _Fits(fits, threshold, share, shape, scale)


def _tail_sizes(n_permuted: int) -> list[int]:
    """Numbers of permutations that GPDs are fitted to, the largest first."""
    shares = np.arange(TAIL_SHARE, 0, -_STEP)
    sizes = {max(int(share * n_permuted), min(_FEWEST_BEYOND, int(TAIL_SHARE * n_permuted))) for share in shares}
    return sorted(sizes, reverse=True)


def _by_moments(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shape k and scale a of exceedances (n, v) from mean and variance."""
    mean, variance = excess.mean(axis=0), excess.var(axis=0, ddof=1)
    ratio = mean**2 / np.maximum(variance, np.finfo(float).tiny)
    return (ratio - 1) / 2, mean * (ratio + 1) / 2


def _beyond(excess: np.ndarray, k: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Upper tail of the GPD; 0 beyond its end."""
    k = np.where(np.abs(k) < 1e-8, 1e-8, k)
    with np.errstate(over="ignore"):  # a tail of almost one point
        return np.asarray(np.exp(np.log(np.maximum(1 - k * excess / a, 1e-300)) / k))


def _anderson_darling(excess: np.ndarray, k: np.ndarray, a: np.ndarray) -> np.ndarray:
    """A² of exceedances (n, v), ascending, under their GPD."""
    n = len(excess)
    above = np.clip(_beyond(excess, k, a), 1e-15, 1 - 1e-15)
    weights = (2 * np.arange(1, n + 1) - 1)[:, None]
    return np.asarray(-n - (weights * (np.log1p(-above) + np.log(above[::-1]))).sum(axis=0) / n)
