"""Settings and results of a permutation test, the scales that it counts on, and how a p is counted.

P-values count the permutations that reach the observed value, the unpermuted data among them (Phipson & Smyth 2010,
doi:10.2202/1544-6115.1585), unless a tail is fitted (:mod:`vbmstat.glm.inference.permute.tails`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from vbmstat.glm.inference.clusters import Clusters
from vbmstat.glm.inference.permute.tails import Tails
from vbmstat.lazy import torch

Values = TypeVar("Values", np.ndarray, "torch.Tensor")
TFCE_CONNECTIVITY = 26
ALPHA = 0.05  # family-wise error of critical values
CRITICAL_TIES = 1e-4  # of a maximum: mirror images of one rearrangement are equal up to rounding
_LARGEST = 1 - 1e-12  # s²: float64 does not distinguish a perfect fit from a larger t


@dataclass(frozen=True)
class NullSettings:
    """What a permutation test is to count."""

    two_sided: bool = True  # for t: the largest |t|, clusters of either sign. F is one-sided by nature
    wants_tfce: bool = False  # TFCE as well
    cluster_threshold: float | None = None  # forming threshold in units of the statistic; None for no clusters
    # whether the largest statistic is asked for. It is always counted, but early stopping does not wait for it
    wants_fwe: bool = True
    # "none" or "gpd": distribution that gives small p; see :mod:`vbmstat.glm.inference.permute.tails`
    tail: str = "none"
    # stop when so many permutations reach the largest value of everything that is asked; 0 for never
    stop_after: int = 0

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the null maxima that are counted."""
        return "statistic", *(["tfce"] if self.wants_tfce else []), *(["extent", "mass"] if self.wants_clusters else [])

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the null maxima that are asked for."""
        return self.counted if self.wants_fwe else self.counted[1:]

    @property
    def wants_clusters(self) -> bool:
        """Whether clusters are asked for."""
        return self.cluster_threshold is not None

    @property
    def wants_maps(self) -> bool:
        """Whether whole maps are needed."""
        return self.wants_tfce or self.wants_clusters


@dataclass(frozen=True)
class Nulls:
    """Results of the permutations of one contrast."""

    count: int  # permutations, the unpermuted data among them
    planned: int  # how many there would be without early stopping
    is_exhaustive: bool  # whether they are all that exist
    smallest_p: float  # no counted p can be smaller
    # (count,): largest ``statistic``, ``tfce``, ``extent``, ``mass`` of each permutation, the unpermuted first
    maxima: dict[str, np.ndarray]
    # (n_voxels,): share of the permutations that reach a voxel's statistic there; 1 outside the mask
    p_uncorrected: np.ndarray
    p_fwe: np.ndarray  # (n_voxels,): share whose largest statistic reaches it
    # (n_voxels,): TFCE value and its corrected p
    tfce: np.ndarray | None = None
    p_tfce_fwe: np.ndarray | None = None
    clusters: Clusters | None = None  # of the observed map
    # (k,): corrected p of each cluster
    p_extent_fwe: np.ndarray | None = None
    p_mass_fwe: np.ndarray | None = None
    # fitted to the null maxima, where asked; None where nothing fits
    tails: Mapping[str, Tails | None] = field(default_factory=dict)
    # which p are not counted, bool: by ``uncorrected``, ``statistic``, ``tfce`` (n_voxels,), ``extent``, ``mass`` (k,)
    approximated: Mapping[str, np.ndarray] = field(default_factory=dict)

    def critical(self, name: str = "statistic") -> float | None:
        """Height beyond which the counted p is at most .05; None if there are too few rearrangements for one.

        The largest of the null maxima whose own p is larger (Nichols & Holmes 2002, doi:10.1002/hbm.1058).
        """
        maxima = self.maxima[name]
        is_significant = reach(maxima, maxima, CRITICAL_TIES) <= ALPHA
        return float(maxima[~is_significant].max()) if is_significant.any() else None


@dataclass(frozen=True)
class Scale:
    """Converts s (or s²) in [-1, 1], the score that is cheap to compare, to the statistic."""

    kind: str
    two_sided: bool
    df: float
    m: int

    @property
    def is_signed(self) -> bool:
        """Whether scores are s and not s²."""
        return self.kind == "t" and not self.two_sided

    @property
    def lowest(self) -> float:
        """No score is lower."""
        return -1.0 if self.is_signed else 0.0

    def level(self, score: Values, ties: float) -> Values:
        """The score minus a tolerance: `ties` is absolute in s, because rounding does not grow with s."""
        return score - ties if self.is_signed else score - 2 * ties * score**0.5

    def statistic(self, score: np.ndarray) -> np.ndarray:
        """T (its size if two-sided) or F of a score."""
        s2 = np.minimum(score.astype(np.float64) ** (2 if self.is_signed else 1), _LARGEST)
        odds = s2 / (1 - s2)
        if self.kind == "F":
            return np.asarray(odds * self.df / self.m)
        return np.asarray(np.sqrt(odds * self.df) * (np.sign(score) if self.is_signed else 1.0))


class PlainScale(Scale):
    """The statistic itself as the score (its size if two-sided), for v and G, which have no s."""

    @property
    def lowest(self) -> float:
        """No score is lower."""
        return float(np.finfo(np.float32).min) if self.is_signed else 0.0

    def level(self, score: Values, ties: float) -> Values:
        """The least score that counts as reaching a score: lower by `ties` of it (of 1 below 1)."""
        return score - ties * abs(score).clip(min=1.0)

    def statistic(self, score: np.ndarray) -> np.ndarray:
        """The same."""
        return np.asarray(score, dtype=np.float64)


def reach(maxima: np.ndarray, observed: np.ndarray, ties: float) -> np.ndarray:
    """Share of the maxima (count,) that reach each observed value, or lie less than `ties` of it below.

    Examples
    --------
    >>> reach(np.array([3.0, 1.0, 2.0, 2.0]), np.array([2.0, 3.0]), 0.0).tolist()
    [0.75, 0.25]
    """
    level = observed - ties * np.abs(observed)
    return np.asarray((len(maxima) - np.searchsorted(np.sort(maxima), level, side="left")) / len(maxima))


def is_decided(maxima: Mapping[str, np.ndarray], done: int, settings: NullSettings, ties: Mapping[str, float]) -> bool:
    """Whether `stop_after` permutations reach the unpermuted data's largest value of everything that is asked.

    The p from the permutations so far is then valid, if the times of checking do not depend on the data: Besag &
    Clifford 1991, doi:10.1093/biomet/78.2.301.
    """
    if not settings.stop_after or not settings.asked:
        return False
    return all(
        round(done * float(reach(maxima[name][:done], maxima[name][:1], ties[name])[0])) > settings.stop_after
        for name in settings.asked
    )
