"""Threshold a statistic map by height and extent, and convert what is left (SPM, CAT12: *threshold and transform*).

All p come from the statistic and its degrees of freedom, from the null maxima of the permutations that were run, or
from random fields of the smoothness that was recorded. A median t over subsets has no p and is not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vbmstat.errors import VbmstatError
from vbmstat.glm.inference.clusters import Clusters, find_clusters, neighbour_table
from vbmstat.glm.inference.p_values import (
    cohens_d,
    p_of_f,
    p_one_sided,
    p_two_sided,
    partial_r,
    partial_r2,
    q_fdr,
    z_of_f,
    z_of_t,
)
from vbmstat.glm.inference.permute.nulls import CRITICAL_TIES, reach
from vbmstat.glm.inference.random_field import Field, height_threshold, p_extent
from vbmstat.glm.inference.rft import FEWEST_DF, SmoothSpace
from vbmstat.maps.store import Space
from vbmstat.threshold.rules import Rule

TRANSFORMS = ("same", "p", "logp", "z", "r", "r2", "d")
_SAME_FORMING = 1e-4  # relative difference of two cluster-forming heights that are one
_ROUNDING = 1e-6  # of float32 maps on disk


@dataclass(frozen=True)
class Statistic:
    """A t, F or z map in its mask, and what is known of its null distribution."""

    kind: str  # t, F or z
    values: np.ndarray  # (n_voxels,): the statistic in the mask
    space: Space  # where voxels lie
    df: float | np.ndarray  # (n_voxels,): residual degrees of freedom; local ones differ between voxels
    df_contrast: float = 1.0  # of F
    sides: int = 2  # tails looked at, 1 or 2; 1 for F
    # null maxima of permutations: ``statistic``, ``extent``. Empty if none were run
    maxima: Mapping[str, np.ndarray] = field(default_factory=dict)
    forming: float = np.nan  # height at which the clusters of ``extent`` were formed
    # smoothness of the residuals; None where it is not known or the map is no t, F or z field
    smooth: SmoothSpace | None = None
    has_sizes: bool = True  # whether r and d follow from t and df; not of the effective ones of a sandwich

    @property
    def is_two_sided(self) -> bool:
        """Whether both tails are looked at."""
        return self.sides == 2

    @property
    def has_local_df(self) -> bool:
        """Whether degrees of freedom differ between voxels."""
        return np.ndim(self.df) > 0

    def as_field(self) -> Field:
        """The distribution at a point: z where degrees of freedom are local."""
        if self.kind == "z" or self.has_local_df:
            return Field("z")
        return Field(self.kind, float(self.df), self.df_contrast)

    def p(self) -> np.ndarray:
        """Uncorrected p of the sides looked at, (n_voxels,)."""
        if self.kind == "F":
            return p_of_f(self.values, self.df_contrast, self.df)
        df = np.inf if self.kind == "z" else self.df
        return (p_two_sided if self.is_two_sided else p_one_sided)(self.values, df)

    def z(self) -> np.ndarray:
        """Normal values with the same tail, (n_voxels,)."""
        if self.kind == "z":
            return self.values
        return z_of_t(self.values, self.df) if self.kind == "t" else z_of_f(self.values, self.df_contrast, self.df)

    def random_field(self) -> tuple[Field, SmoothSpace]:
        """The random field and its smoothness.

        Raises
        ------
        VbmstatError
            If one of them is not known.
        """
        if self.has_local_df:
            msg = (
                "its degrees of freedom differ between voxels: such a map is no t or F field; take fdr or permutations"
            )
            raise VbmstatError(msg)
        if self.smooth is None:
            msg = (
                "random fields need the smoothness of the residuals: a glm.json of vbmstat (variance ols or spm), or "
                "SPM's RPV image, beside the map"
            )
            raise VbmstatError(msg)
        random = self.as_field()
        if random.df_resid < FEWEST_DF:
            msg = (
                f"random fields need at least {FEWEST_DF} residual degrees of freedom, the map has {random.df_resid:g}"
            )
            raise VbmstatError(msg)
        return random, self.smooth


@dataclass(frozen=True)
class Thresholded:
    """What is left of a map."""

    # smallest size of the statistic that is kept (of z where degrees of freedom are local); inf if nothing is
    height: float
    # how heights and extents were judged, in words
    height_by: str
    extent_by: str
    clusters: Clusters  # those that are kept, numbered anew
    p_extent: Mapping[str, np.ndarray]  # (k,): their p by random fields, where extents were judged so

    @property
    def kept(self) -> np.ndarray:
        """Voxels of the clusters, (n_voxels,), bool."""
        return self.clusters.labels > 0

    def summary(self, statistic: Statistic) -> str:
        """One line: thresholds, and how much is left."""
        kind = "z" if statistic.has_local_df else statistic.kind
        height = f"{kind} from {self.height:.3f} ({self.height_by})" if np.isfinite(self.height) else self.height_by
        sizes = self.clusters.sizes
        n = f"{len(sizes)} cluster" + "s" * (len(sizes) > 1)
        left = f"{n}, {int(sizes.sum())} voxels" if len(sizes) else "nothing is left"
        return "; ".join(part for part in (height, self.extent_by, left) if part)


def threshold(statistic: Statistic, height: Rule, extent: Rule) -> Thresholded:
    """Keep the clusters of a map that are high and large enough.

    Raises
    ------
    VbmstatError
        If a rule needs what is not known of the map.
    """
    at, height_by = critical_height(statistic, height)
    judged = statistic.z() if statistic.has_local_df and height.by != "value" else statistic.values
    beyond = at * (1 - _ROUNDING) if height.by in ("fdr", "fwe") else at  # there, the height itself is significant
    clusters = find_clusters(judged, beyond, statistic.is_two_sided, neighbour_table(statistic.space))
    kept, extent_by, p = _large_enough(statistic, clusters, at, extent)
    return Thresholded(at, height_by, extent_by, _select(clusters, kept), {name: one[kept] for name, one in p.items()})


def critical_height(statistic: Statistic, rule: Rule) -> tuple[float, str]:
    """The height, of z where degrees of freedom are local, and how it was found; inf if no voxel reaches it."""
    sides = "two-sided" if statistic.is_two_sided else "one-sided"
    if rule.by == "value":
        return rule.level, f"{statistic.kind} > {rule.level:g}"
    if rule.by == "fwe":
        return _fwe_height(statistic, rule.level, sides)
    if rule.by == "p":
        return statistic.as_field().height(rule.level / statistic.sides), f"p = {rule.level:g}, uncorrected, {sides}"
    return _smallest(statistic, q_fdr(statistic.p()) <= rule.level), f"q of FDR = {rule.level:g}, {sides}"


def _smallest(statistic: Statistic, called: np.ndarray) -> float:
    """The smallest size of the statistic (z where degrees of freedom are local) of some voxels; inf of none."""
    size = statistic.z() if statistic.has_local_df else statistic.values
    return float((np.abs(size) if statistic.is_two_sided else size)[called].min(initial=np.inf))


def _fwe_height(statistic: Statistic, level: float, sides: str) -> tuple[float, str]:
    maxima = statistic.maxima.get("statistic")
    if maxima is None or statistic.has_local_df:
        random, where = statistic.random_field()
        return height_threshold(random, where.search, level), f"FWE p = {level:g} by random fields, {sides}"
    if 1 / len(maxima) > level:
        msg = f"{len(maxima)} permutations give no p of {level:g}; run more, or take a larger p"
        raise VbmstatError(msg)
    size = np.abs(statistic.values) if statistic.is_two_sided else statistic.values
    called = reach(maxima, size, CRITICAL_TIES) <= level
    return _smallest(statistic, called), f"FWE p = {level:g} by {len(maxima)} permutations, {sides}"


def _large_enough(
    statistic: Statistic, clusters: Clusters, height: float, rule: Rule
) -> tuple[np.ndarray, str, dict[str, np.ndarray]]:
    """Which clusters are large enough (k,), how it was judged, and their p by random fields."""
    if rule.by in ("voxels", "ml"):
        volume = statistic.space.grid.voxel_volume_ml if rule.by == "ml" else 1.0
        unit = "mL" if rule.by == "ml" else "voxels"
        return clusters.sizes * volume >= rule.level, f"at least {rule.level:g} {unit}" if rule.level else "", {}
    extents = statistic.maxima.get("extent")
    is_same = bool(np.isclose(height, statistic.forming, rtol=_SAME_FORMING))
    if rule.by == "fwe" and extents is not None and is_same:
        p = reach(extents, clusters.sizes, 0.0)
        return p <= rule.level, f"FWE p of extent = {rule.level:g} by {len(extents)} permutations", {"p_extent_fwe": p}
    random, where = statistic.random_field()
    uncorrected, corrected = p_extent(random, height, where.extents(clusters), where.search)
    named = {"p_extent_rft": uncorrected, "p_extent_fwe_rft": corrected}
    kept = (uncorrected if rule.by == "p" else corrected) <= rule.level
    return kept, f"{'FWE ' if rule.by == 'fwe' else ''}p of extent = {rule.level:g} by random fields", named


def _select(clusters: Clusters, kept: np.ndarray) -> Clusters:
    """Some clusters, numbered anew in their order."""
    new = np.append(0, np.where(kept, np.cumsum(kept), 0)).astype(np.int32)
    return Clusters(new[clusters.labels], clusters.signs[kept], clusters.sizes[kept], clusters.masses[kept])


def transform(statistic: Statistic, to: str) -> np.ndarray:
    """The statistic on another scale, (n_voxels,).

    ``p`` is uncorrected; ``logp`` is -log10 p with the sign of the effect; ``z`` has the same tail; ``r`` is the
    partial correlation, ``r2`` its square (F: the share of variance explained), ``d`` Cohen's d.

    Raises
    ------
    VbmstatError
        If the map has no such scale.
    """
    if to == "same":
        return statistic.values
    if to in ("p", "logp"):
        p = statistic.p()
        tiny = np.finfo(np.float64).tiny
        return p if to == "p" else -np.log10(np.maximum(p, tiny)) * np.where(statistic.values < 0, -1, 1)
    if to == "z":
        return statistic.z()
    if not statistic.has_sizes:
        msg = f"--to {to}: the model has a sandwich variance, whose degrees of freedom say no {to}; take p, logp or z"
        raise VbmstatError(msg)
    if statistic.kind == "z" or statistic.has_local_df or (to != "r2" and statistic.kind == "F"):
        why = "F has no sign" if statistic.kind == "F" else "it needs one number of degrees of freedom"
        msg = f"--to {to}: not from this {statistic.kind} map: {why}; take p, logp or z"
        raise VbmstatError(msg)
    if statistic.kind == "F":
        return partial_r2(statistic.values, statistic.df_contrast, float(statistic.df))
    convert = {"r": partial_r, "r2": lambda t, df: partial_r(t, df) ** 2, "d": cohens_d}[to]
    return np.asarray(convert(statistic.values, float(statistic.df)))
