"""Permutation schemes: the rows of a stacked product that give t or F of every rearrangement at once.

With nuisance Z (orthonormal, n × q), interest X1 (n × m) and a rearrangement P of the rows (a permutation or sign
flips), all schemes test the residuals ε = R_Z y of the unpermuted data, scaled to unit length:

* Freedman–Lane permutes ε against the whole design, so Z has to be projected out again: with the orthonormal design
  [Q1 Z], s² = |(P Q1)'ε|² / (1 − |(P Z)'ε|²). Directions of Z that no rearrangement moves (the constant; indicators of
  blocks shuffled within) are orthogonal to ε and need no row.
* Smith permutes R_Z X1, which is made orthogonal to Z and orthonormal again, W, and s² = |W'ε|². One row a permutation
  for t.

Then F = s² / (1 − s²) · df / m, and t is its signed root. Names and definitions: Winkler et al. 2014, table 2
(doi:10.1016/j.neuroimage.2014.01.060); Freedman & Lane 1983 (doi:10.2307/1391660). As in nilearn, the design's rows
are permuted against the data, which is the data against the design with the inverse permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.inference.permute.blocks import Node, orbits
from vbmstat.glm.inference.permute.rearrangements import Rearrangements, count_arrangements, make_rearrangements
from vbmstat.glm.spec import SCHEMES

_DIGITS = 9  # rows of a design that agree to so many digits of its largest entry are equal
_INVARIANT = 1e-9  # 1 − cosine of a direction with those that no rearrangement moves
_FLIPS_TRIED = 64  # for the share of the residuals that they keep
_COLLINEAR = 1e-9  # of the largest eigenvalue: a permuted regressor inside the nuisance space


@dataclass(frozen=True)
class Partition:
    """A design split by a contrast, rows weighted."""

    interest: np.ndarray  # (n_scans, m): X1 = X C⁺
    tested: np.ndarray  # (n_scans, m): Q1, orthonormal: what the contrast tests, orthogonal to Z
    nuisance: np.ndarray  # (n_scans, q): Z, orthonormal: the space of X β with C β = 0
    coordinates: np.ndarray  # (m, r): Q1 in the plan's basis


def partition(plan: Plan, index: int) -> Partition:
    """Split a design by the contrast that is the plan's `index`-th."""
    contrast = plan.contrasts[index]
    rows = contrast.rows
    _, singular, right = np.linalg.svd(rows)
    m = int((singular > 1e-9 * singular[0]).sum())
    coordinates = rows / np.linalg.norm(rows) if contrast.kind == "t" else right[:m]
    return Partition(contrast.interest, plan.basis @ coordinates.T, plan.basis @ right[m:].T, coordinates)


@dataclass(frozen=True)
class Resampling:
    """How a test rearranges scans."""

    tree: Node  # which rows may be exchanged
    permutations: int  # number, including the unpermuted data; all of them if fewer exist
    seed: int = 0  # of the draws
    scheme: str = SCHEMES[0]  # "freedman-lane" or "smith"; see the module's docstring
    # flip signs in place of permuting: for one-sample designs and maps of paired differences, with symmetric errors
    flip: bool = False
    # (n_scans,), int: variance groups (Freedman–Lane only); see :mod:`vbmstat.glm.variance.groups`
    groups: np.ndarray | None = None
    # subject of each scan, for the sandwich; its scans flip together. See :mod:`vbmstat.glm.variance.sandwich`
    subjects: Sequence[str] | None = None


@dataclass(frozen=True)
class Permuted:
    """The design of a permutation test."""

    index: int  # of the contrast, in its plan
    scheme: str  # one of ``SCHEMES``
    parts: Partition  # interest and nuisance
    # (n_scans, q'): directions of Z that rearrangements move (Freedman–Lane); empty for the other schemes
    moving: np.ndarray
    rearrangements: Rearrangements  # of the design's rows
    groups: np.ndarray | None = None  # (n_scans,), int: variance groups
    subjects: Sequence[str] | None = None  # of each scan, for the sandwich

    @property
    def n_tested(self) -> int:
        """Numerator degrees of freedom m."""
        return int(self.parts.tested.shape[1])

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows of the products for some rearrangements, (m + q', b, n_scans), float64."""
        sources, signs = self.rearrangements.sources(start, stop)
        if self.scheme == "freedman-lane":
            return moved(np.concatenate([self.parts.tested, self.moving], axis=1), sources, signs)
        return orthonormal_rows(moved(self.parts.tested, sources, signs), self.parts.nuisance)


def moved(columns: np.ndarray, sources: np.ndarray | None, signs: np.ndarray | None) -> np.ndarray:
    """Columns (n, k) under rearrangements, (k, b, n)."""
    rows = np.ascontiguousarray(columns.T)  # (k, n)
    rows = rows[:, None, :] if sources is None else rows[:, sources]
    return np.asarray(rows if signs is None else rows * signs)


def orthonormal_rows(rows: np.ndarray, nuisance: np.ndarray) -> np.ndarray:
    """Rows (m, b, n) without their part in Z (n, q), made orthonormal in each b."""
    m, b, n = rows.shape
    flat = rows.reshape(m * b, n)
    length = np.linalg.norm(flat)
    flat = flat - (flat @ nuisance) @ nuisance.T
    residuals = flat.reshape(m, b, n)
    if m == 1:
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        usable = norm > np.sqrt(_COLLINEAR) * length / np.sqrt(b)
        return np.asarray(np.where(usable, flat / np.where(usable, norm, 1.0), 0.0)[None])
    gram = np.einsum("ibn,jbn->bij", residuals, residuals)
    values, vectors = np.linalg.eigh(gram)
    usable = values > _COLLINEAR * values.max()
    scaled = vectors * np.where(usable, 1 / np.sqrt(np.where(usable, values, 1.0)), 0.0)[:, None, :]
    return np.asarray(np.einsum("ibn,bik->kbn", residuals, scaled))


def make_permuted(plan: Plan, index: int, asked: Resampling) -> Permuted:
    """Prepare the permutation test of the contrast that is the plan's `index`-th.

    Raises
    ------
    DesignError
        If the scheme is unknown, or rearrangements leave the tested regressors as they are.
    """
    if asked.scheme not in SCHEMES:
        msg = f"scheme={asked.scheme!r}: expected one of {', '.join(SCHEMES)}"
        raise DesignError(msg)
    parts, tree, groups = partition(plan, index), asked.tree, asked.groups
    if not asked.flip:
        _check_moves(parts.interest, plan.contrasts[index].name, tree)
    columns, moving = parts.tested, np.empty((len(parts.tested), 0))
    if asked.scheme == "freedman-lane":
        columns = np.concatenate([parts.tested, parts.nuisance], axis=1)
        moving = parts.nuisance if asked.flip else moving_directions(parts.nuisance, orbits(tree))
    if groups is not None:  # rows of different groups are never alike
        columns = np.column_stack([columns, np.abs(columns).max() * groups / max(groups.max(), 1)])
    rearrangements = make_rearrangements(tree, row_keys(columns), asked.permutations, asked.seed, asked.flip)
    return Permuted(index, asked.scheme, parts, moving, rearrangements, groups, asked.subjects)


def row_keys(columns: np.ndarray) -> np.ndarray:
    """Label of each row (n, k), equal for equal rows."""
    rounded = np.round(columns / np.abs(columns).max(), _DIGITS) + 0.0  # no negative zeros
    return np.unique(rounded, axis=0, return_inverse=True)[1].reshape(-1)


def _check_moves(interest: np.ndarray, name: str, tree: Node) -> None:
    keys = row_keys(interest)
    if len(np.unique(keys)) == 1:
        msg = (
            f"contrast {name!r} tests a mean, which no permutation of scans changes; "
            "it needs sign flipping (--sign-flip), valid for errors that are symmetric about zero"
        )
        raise DesignError(msg)
    if count_arrangements(tree, keys) < 2:
        msg = (
            f"contrast {name!r}: the exchangeability blocks leave nothing to permute, since what it tests "
            "does not vary where scans may be exchanged; exchange whole blocks, or choose other blocks"
        )
        raise DesignError(msg)


def moving_directions(nuisance: np.ndarray, orbit: np.ndarray) -> np.ndarray:
    """Directions of Z (n, q) orthogonal to those that are constant on every orbit (n,), (n, q')."""
    sums = np.zeros((orbit.max() + 1, nuisance.shape[1]))
    np.add.at(sums, orbit, nuisance)
    sums /= np.sqrt(np.bincount(orbit))[:, None]  # coordinates of Z among the unit indicators
    cosines2, vectors = np.linalg.eigh(sums.T @ sums)
    return np.asarray(nuisance @ vectors[:, cosines2 < 1 - _INVARIANT])


def kept_by_flips(permuted: Permuted) -> float:
    """Share of the residuals that sign flips leave outside the nuisance, mean over flips; 1 without flips.

    For unit noise tr(R S R S) / tr(R) = (n − 2q + |Z'SZ|²) / (n − q), with R = I − Z Z' and the signs S. What flips
    move into Z is projected out again, so that t of flipped data vary less than t of the data.
    """
    if permuted.rearrangements.flips is None:
        return 1.0
    nuisance = permuted.parts.nuisance
    n, q = nuisance.shape
    _, signs = permuted.rearrangements.sources(1, min(1 + _FLIPS_TRIED, permuted.rearrangements.count))
    inside = [float((((nuisance.T * flip) @ nuisance) ** 2).sum()) for flip in np.asarray(signs)]
    return float((n - 2 * q + np.mean(inside)) / (n - q))


def smallest_p(permuted: Permuted, two_sided: bool) -> float:
    """The smallest p that the test can give; if all rearrangements are done, mirror images of the data count.

    `two_sided` also for F, which has the same value for all signs changed.
    """
    done = permuted.rearrangements
    if not (two_sided and done.is_exhaustive):
        return 1 / done.count
    sources, signs = done.sources(0, done.count)
    is_plain = permuted.n_tested == 1 and not permuted.moving.shape[1] and permuted.subjects is None
    if signs is not None and not is_plain:  # all signs changed: -t, whatever the nuisance
        return int((signs == signs[:, :1]).all(axis=1).sum()) / done.count
    if not is_plain:
        return 1 / done.count
    x = permuted.parts.tested[:, 0]
    mirrored = np.abs(permuted.rows(0, done.count)[0] @ x) > 1 - _INVARIANT
    if permuted.groups is not None and sources is not None:
        pairs = permuted.groups[sources] * (permuted.groups.max() + 1) + permuted.groups  # (count, n)
        mirrored &= [len(np.unique(row)) == permuted.groups.max() + 1 for row in pairs]
    return int(mirrored.sum()) / done.count
