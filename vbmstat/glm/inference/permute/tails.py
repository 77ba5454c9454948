"""P-values beyond the number of permutations: a distribution fitted to the upper tail of the null.

With a few hundred permutations the smallest p that can be counted is coarse; Winkler et al. 2016
(doi:10.1016/j.neuroimage.2016.05.068) compare remedies. Here, a generalised Pareto distribution (GPD) of the null's
largest quarter gives the p of values there. It is fitted by moments (Hosking & Wallis 1987,
doi:10.1080/00401706.1987.10488243), and its threshold is raised until Anderson and Darling's test no longer rejects it;
where it always does, p are counted. The unpermuted data are left out of the fit, so that an effect is not in its null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vbmstat.glm.spec import FEWEST_FOR_TAIL

TAIL_SHARE = 0.25  # of the null that the first GPD is fitted to
_STEP = 0.01  # by which the share shrinks while the fit is bad
_FEWEST_BEYOND = 25  # permutations that a GPD is fitted to
_FARTHEST = 0.1  # of 1 / permutations: p are not extrapolated beyond, where a shape from few values is unreliable
# Critical values of A² at 5 % by shape k, from 8,000 samples of 125 each, k and scale fitted by moments (the tables of
# Choulakian & Stephens 2001, doi:10.1198/00401700152672573, are for maximum likelihood).
_SHAPES = (-0.4, -0.3, -0.2, -0.1, 0.0, 0.1)
_CRITICAL = (2.62, 1.58, 1.21, 1.05, 0.95, 0.90)


@dataclass(frozen=True)
class Tails:
    """Generalised Pareto distributions for the p of large values, one a test: upper tail (1 - k x / scale)^(1/k)."""

    fits: np.ndarray  # (n_tests,), bool: whether there is one
    beyond: np.ndarray  # (n_tests,): p of values above are approximated, others counted
    share: np.ndarray  # (n_tests,): P at `beyond`
    # (n_tests,): k, and the scale
    shape: np.ndarray
    scale: np.ndarray
    floor: float  # no p is given below

    def p(self, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """P of observed values, and whose p are approximated (the others' mean nothing); one a test, or all of one."""
        excess = np.maximum(observed - self.beyond, 0.0)
        p = np.clip(self.share * _upper_tail(excess, self.shape, self.scale), self.floor, 1.0)
        return p, self.fits & (observed > self.beyond)

    def record(self) -> dict[str, Any]:
        """The only distribution, as ``glm.json`` has it."""
        numbers = {name: float(getattr(self, name)[0]) for name in ("beyond", "share", "shape", "scale")}
        return {"kind": "gpd", **numbers, "floor": self.floor}


def smallest_tail_p(count: int, existing: int) -> float:
    """The least p to extrapolate to, from `count` of the `existing` permutations.

    Examples
    --------
    >>> smallest_tail_p(500, 10**30)
    0.0002
    >>> smallest_tail_p(500, 924) == 1 / 924
    True
    """
    return max(_FARTHEST / count, 1 / existing)


def fit_tails(null: np.ndarray, floor: float) -> Tails | None:
    """Fit the upper tails of null distributions (count, n_tests), the unpermuted data first.

    Each beyond the lowest threshold at which a distribution fits. None if none does, or fewer than 100 permutations are
    there: then p are counted. No p is given below `floor`.
    """
    if len(null) < FEWEST_FOR_TAIL:
        return None
    permuted = np.asarray(null[1:], dtype=np.float64)
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
    return Tails(fits, threshold, share, shape, scale, floor) if fits.any() else None


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


def _upper_tail(excess: np.ndarray, k: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Upper tail of the GPD; 0 beyond its end."""
    k = np.where(np.abs(k) < 1e-8, 1e-8, k)
    with np.errstate(over="ignore"):  # a tail of almost one point
        return np.asarray(np.exp(np.log(np.maximum(1 - k * excess / a, 1e-300)) / k))


def _anderson_darling(excess: np.ndarray, k: np.ndarray, a: np.ndarray) -> np.ndarray:
    """A² of exceedances (n, v), ascending, under their GPD."""
    n = len(excess)
    above = np.clip(_upper_tail(excess, k, a), 1e-15, 1 - 1e-15)
    weights = (2 * np.arange(1, n + 1) - 1)[:, None]
    return np.asarray(-n - (weights * (np.log1p(-above) + np.log(above[::-1]))).sum(axis=0) / n)
