"""How many scans a replication needs: the sample size for 80 % power at the observed effect."""

from __future__ import annotations

import numpy as np
from scipy import special

from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.inference.p_values import noncentrality
from vbmstat.glm.inference.permute.nulls import ALPHA, Nulls
from vbmstat.glm.statmap import StatMap

POWER = 0.8
MOST_SCANS = 1_000_000  # where more would be needed, this is what the map holds
_EXACT_TO = 1_000  # every size up to here; beyond, steps of half a percent
_STEP = 1.005


def n_for_power(t: np.ndarray, df_resid: float, n_scans: int, threshold: float | None = None) -> np.ndarray:
    """Scans needed for 80 % power at the effect size observed.

    Parameters
    ----------
    t : ndarray, (n_voxels,)
        Statistics of this study.
    df_resid : float
        Its residual degrees of freedom; ``n_scans - df_resid`` regressors are kept.
    n_scans : int
        Its scans.
    threshold : float, optional
        |t| to be exceeded for any size, e.g. that of family-wise error; by default the two-sided p of .05.

    Returns
    -------
    ndarray, (n_voxels,), float64
        The smallest N at which t with N - p degrees of freedom and noncentrality |t| sqrt(N / n) exceeds the threshold
        on its own side with this power; `MOST_SCANS` where no N below does.

    Notes
    -----
    The observed effect is taken as the true one. Effects selected for their size are overestimated, and N is then
    underestimated; see ``docs/sites_and_repeated_scans.md``.

    Examples
    --------
    >>> n_for_power(np.array([2.0]), 18.0, 20)  # R: see the test
    array([42.])
    """
    rank = n_scans - df_resid
    sizes = _sizes(int(np.floor(rank)) + 1)
    df = sizes - rank
    critical = -special.stdtrit(df, ALPHA / 2) if threshold is None else np.full(len(df), threshold)
    needed = noncentrality(critical, df, 1 - POWER) / np.sqrt(sizes / n_scans)  # |t| here that suffices, falling
    at = np.searchsorted(-needed, -np.abs(t))
    return np.asarray(np.append(sizes, MOST_SCANS).astype(np.float64)[at])


def _sizes(first: int) -> np.ndarray:
    """Numbers of scans to try: all of them at first, then half a percent apart."""
    every = np.arange(first, max(first, _EXACT_TO) + 1)
    n_steps = int(np.log(MOST_SCANS / every[-1]) / np.log(_STEP))
    later = np.ceil(every[-1] * _STEP ** np.arange(1, n_steps + 1)).astype(np.int64)
    return np.concatenate([every, later])


def power_maps(fit: Fit, index: int, n_scans: int, name: str, nulls: Nulls | None = None) -> dict[str, StatMap]:
    """The map ``n80`` of a t-contrast, or with permutations ``n80fwe``, at their threshold of family-wise error.

    No map if the permutations have no such threshold; a note of `inference_notes` says so.
    """
    stat, what, threshold = "n80", f"p < {ALPHA:g} uncorrected", None
    if nulls is not None:
        threshold = nulls.critical()
        if threshold is None:
            return {}
        stat, what = "n80fwe", f"t beyond {threshold:.2f} (FWE)"
    values = np.zeros(len(fit.mask))
    values[fit.mask] = n_for_power(fit.statistic[index][fit.mask], fit.df_resid, n_scans, threshold)
    return {stat: StatMap(stat, values, ("estimate", ()), f"scans for {POWER:.0%} power, {what}: {name}")}
