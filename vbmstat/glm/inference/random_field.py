"""Random field theory: p-values of peaks, clusters and sets of clusters, as SPM computes them.

A statistic map over a search volume with resel counts R_0..R_3 has an expected Euler characteristic of
E[EC](u) = Σ_d R_d ρ_d(u) above a height u (Worsley 1996, doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O),
and the clusters above u have a number that is Poisson and sizes with exp(-β k^(2/3)) (Friston 1994,
doi:10.1002/hbm.460010306). Two-sided tests count both tails: E[EC] doubles. Heights are t, F or Z; sizes are resels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from vbmstat.lazy import optimize, stats

_A = 4 * np.log(2)
_FLOOR = np.finfo(float).eps  # SPM's: at low heights the density of three dimensions is negative
_N_HEIGHTS = 400


@dataclass(frozen=True)
class Field:
    """What kind of field a statistic map is.

    Attributes
    ----------
    kind : {"z", "t", "F"}
    df_resid : float
        Residual degrees of freedom of t and F.
    df_contrast : float
        Rows of an F contrast.
    """

    kind: str
    df_resid: float = np.inf
    df_contrast: float = 1.0

    def tail(self, height: np.ndarray | float) -> np.ndarray:
        """Upper-tail p at a point."""
        if self.kind == "z":
            return np.asarray(special.ndtr(-np.asarray(height)))
        if self.kind == "t":
            return np.asarray(special.stdtr(self.df_resid, -np.asarray(height)))
        return np.asarray(stats.f.sf(height, self.df_contrast, self.df_resid))

    def heights(self, tails: np.ndarray | float) -> np.ndarray:
        """Heights with upper-tail p (...)."""
        if self.kind == "z":
            return np.asarray(-special.ndtri(tails))
        if self.kind == "t":
            return np.asarray(-special.stdtrit(self.df_resid, tails))
        return np.asarray(stats.f.isf(tails, self.df_contrast, self.df_resid))

    def height(self, tail: float) -> float:
        """The height with an upper-tail p."""
        return float(self.heights(tail))

    def densities(self, height: np.ndarray | float) -> np.ndarray:
        """Euler characteristic densities ρ_0..ρ_3 at heights (...), (4, ...), per resel.

        Examples
        --------
        >>> Field("t", 50).densities(5.0).round(8).tolist()  # nipy: TStat(dfd=50)
        [3.72e-06, 1.285e-05, 4.248e-05, 0.00013329]
        """
        u = np.asarray(height, dtype=np.float64)
        formula = {"z": _gaussian, "t": _student, "F": _fisher}[self.kind]
        return np.asarray(np.maximum(np.stack([self.tail(u), *formula(u, self.df_resid, self.df_contrast)]), _FLOOR))


def _gaussian(u: np.ndarray, _v: float, _k: float) -> tuple[np.ndarray, ...]:
    bell = np.exp(-(u**2) / 2)
    return (
        _A**0.5 / (2 * np.pi) * bell,
        _A / (2 * np.pi) ** 1.5 * u * bell,
        _A**1.5 / (2 * np.pi) ** 2 * (u**2 - 1) * bell,
    )


def _student(u: np.ndarray, v: float, _k: float) -> tuple[np.ndarray, ...]:
    bell = np.exp((1 - v) / 2 * np.log1p(u**2 / v))
    ratio = np.exp(special.gammaln((v + 1) / 2) - special.gammaln(v / 2)) / np.sqrt(v / 2)
    return (
        _A**0.5 / (2 * np.pi) * bell,
        _A / (2 * np.pi) ** 1.5 * ratio * u * bell,
        _A**1.5 / (2 * np.pi) ** 2 * ((v - 1) * u**2 / v - 1) * bell,
    )


def _fisher(u: np.ndarray, v: float, k: float) -> tuple[np.ndarray, ...]:
    x = np.maximum(k * u / v, 1e-100)  # so that negative powers are finite
    b = _A / (2 * np.pi)

    def term(d: int) -> np.ndarray:
        log_ratio = special.gammaln((v + k - d) / 2) - special.gammaln(v / 2) - special.gammaln(k / 2)
        return np.asarray(np.exp(log_ratio) * x ** ((k - d) / 2) * (1 + x) ** (-(v + k - 2) / 2))

    return (
        np.sqrt(2 * b) * term(1),
        b * term(2) * ((v - 1) * x - (k - 1)),
        b**1.5 / np.sqrt(2) * term(3)
        * ((v - 1) * (v - 2) * x**2 - (2 * v * k - v - k - 1) * x + (k - 1) * (k - 2)),
    )  # fmt: skip


@dataclass(frozen=True)
class SearchVolume:
    """Where a statistic is searched.

    Attributes
    ----------
    resels : ndarray, (4,)
        Resel counts R_0..R_3; see :func:`vbmstat.glm.inference.resels.resel_counts`.
    n_voxels : int
        For Bonferroni's bound.
    sides : {1, 2}
        Tails looked at.
    """

    resels: np.ndarray
    n_voxels: int
    sides: int = 1

    def expected_ec(self, field: Field, height: np.ndarray | float) -> np.ndarray:
        """Expected Euler characteristic above heights (...)."""
        return np.asarray(self.sides * np.tensordot(self.resels, field.densities(height), axes=1))

    def expected_clusters(self, field: Field, height: np.ndarray | float) -> np.ndarray:
        """Expected number of clusters above heights (...): E[EC], or its largest term where that is more.

        Holes of a mask, as of a sheet of voxels, make low dimensions negative: E[EC] then counts holes, not clusters.
        """
        terms = (self.resels * np.moveaxis(field.densities(height), 0, -1)).T
        return np.asarray(self.sides * np.maximum(terms.sum(axis=0), terms.max(axis=0)).T)

    def lowest_height(self, field: Field) -> float:
        """Height of the largest E[EC]: below it, E[EC] no longer counts clusters; masks with holes make it negative."""
        heights = field.heights(np.geomspace(0.5, _FLOOR, _N_HEIGHTS))
        at = int(np.argmax(self.expected_ec(field, heights)))
        return float(heights[at]) if at else 0.0


def p_height(field: Field, height: np.ndarray | float, search: SearchVolume) -> np.ndarray:
    """FWE-corrected p of heights (...): 1 - exp(-E[EC]), or Bonferroni's where that is smaller (SPM's rule).

    Below the height of the largest E[EC] the former is 1.
    """
    is_low = np.asarray(height) < search.lowest_height(field)
    by_field = np.where(is_low, 1.0, -np.expm1(-np.maximum(search.expected_ec(field, height), 0)))
    bonferroni = search.sides * search.n_voxels * field.tail(height)
    return np.asarray(np.minimum(np.minimum(by_field, bonferroni), 1.0))


def height_threshold(field: Field, search: SearchVolume, p: float = 0.05) -> float:
    """The height whose FWE-corrected p is `p`.

    Examples
    --------
    >>> search = SearchVolume(np.array([1, 20, 150, 600]), 10**9)
    >>> round(height_threshold(Field("t", 50), search), 5)  # nipy, 1 - exp(-EC)
    5.18106
    """

    def excess(height: float) -> float:
        return float(p_height(field, height, search)) - p

    upper = field.height(p / (search.sides * search.n_voxels))  # Bonferroni's height
    if excess(upper * (1 - 1e-9)) > 0:
        return upper
    return 0.0 if excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, upper, xtol=1e-12, maxiter=1000))


def expected_extent(field: Field, forming: float) -> float:
    """Expected resels of a cluster: the volume above the forming height over the number of clusters in it."""
    density = field.densities(forming)
    return float(density[0] / density[3])


def p_extent(
    field: Field, forming: float, size: np.ndarray | float, search: SearchVolume
) -> tuple[np.ndarray, np.ndarray]:
    """Uncorrected and FWE-corrected p of clusters by their extent.

    Parameters
    ----------
    field : Field
    forming : float
        Cluster-forming height.
    size : ndarray, (...)
        Extents in resels.
    search : SearchVolume

    Returns
    -------
    ndarray, ndarray
        P(a cluster has at least this extent), P(any cluster in the search volume has).
    """
    uncorrected = np.exp(-((special.gamma(2.5) / expected_extent(field, forming) * np.asarray(size)) ** (2 / 3)))
    return uncorrected, -np.expm1(-search.expected_clusters(field, forming) * uncorrected)


def extent_threshold(field: Field, forming: float, search: SearchVolume, p: float = 0.05) -> float:
    """Extent in resels whose FWE-corrected p is `p`; 0 where any cluster is significant."""
    expected = float(search.expected_clusters(field, forming))
    if expected <= -np.log1p(-p):
        return 0.0
    return float((-np.log(-np.log1p(-p) / expected)) ** 1.5 * expected_extent(field, forming) / special.gamma(2.5))


def p_set(field: Field, forming: float, count: int, size: float, search: SearchVolume) -> float:
    """P(at least `count` clusters of at least `size` resels)."""
    uncorrected, _ = p_extent(field, forming, size, search)
    return float(stats.poisson.sf(count - 1, float(search.expected_clusters(field, forming) * uncorrected)))


def p_peak_above(field: Field, height: np.ndarray, forming: float, search: SearchVolume) -> np.ndarray:
    """P(a peak above the forming height reaches `height`), uncorrected: the ratio of the peaks expected above each.

    Benjamini and Hochberg's procedure over these is topological FDR of peaks (Chumbley et al. 2010,
    doi:10.1016/j.neuroimage.2009.10.090); over the uncorrected p of extents, of clusters (2009,
    doi:10.1016/j.neuroimage.2008.05.021).
    """
    expected = search.expected_clusters(field, height) / search.expected_clusters(field, forming)
    return np.asarray(np.clip(expected, 0.0, 1.0))
