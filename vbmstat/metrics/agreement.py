"""Agreement of paired values and of two statistic maps.

Correlation is blind to scale: a map multiplied by two correlates as well. So it comes with the slope and intercept of
the regression of B on A, the ratio of standard deviations, Lin's concordance, and Bland and Altman's bias and limits
of agreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from vbmstat.errors import ScanError, TableError
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.metrics.accuracy import dice

T_LEVELS = (2.0, 3.0, 4.0, 5.0)
_LIMITS = 1.96  # 95 % of a normal distribution
_MIN_VALUES = 3
_ONE_SIDED_SHARE = 0.1  # of the other map's voxels with the sign that a map lacks
_INSIDE = 0.5  # share of a resampled voxel inside the mask


@dataclass(frozen=True)
class Agreement:
    """Agreement of paired values; `a` is the reference."""

    n: int  # number of pairs
    r: float  # Pearson correlation; NaN for fewer than three pairs or if one set is constant
    ccc: float  # Lin's concordance correlation: 1 only if b = a
    # ordinary least squares of b on a. Noise in a attenuates the slope; see `sd_ratio`
    slope: float
    intercept: float
    sd_ratio: float  # standard deviation of b over that of a: the absolute slope of the reduced major axis
    # mean of b − a, and bias ∓ 1.96 standard deviations of b − a
    bias: float
    loa_low: float
    loa_high: float


def agreement(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Agreement of paired values.

    Parameters
    ----------
    a, b : ndarray, (n,)
        Paired, finite values.

    References
    ----------
    Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8. Lin 1989, doi:10.2307/2532051 (with moments over n).

    Examples
    --------
    >>> result = agreement(np.array([1.0, 2.0, 3.0]), np.array([3.0, 5.0, 7.0]))
    >>> result.r, result.slope, result.intercept, result.bias
    (1.0, 2.0, 1.0, 3.0)
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = len(a)
    if n < _MIN_VALUES:
        return Agreement(n, *[float("nan")] * 8)
    da, db, shift = a - a.mean(), b - b.mean(), float(b.mean() - a.mean())
    ss_a, ss_b, s_ab = float(da @ da), float(db @ db), float(da @ db)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.float64(s_ab) / np.sqrt(ss_a * ss_b)
        ccc = np.float64(2 * s_ab) / (ss_a + ss_b + n * shift**2)
        slope = np.float64(s_ab) / ss_a
        ratio = np.sqrt(np.float64(ss_b) / ss_a)
    reach = _LIMITS * float((b - a).std(ddof=1))
    return Agreement(
        n, float(np.clip(r, -1, 1)), float(ccc), float(slope), float(b.mean() - slope * a.mean()), float(ratio),
        shift, shift - reach, shift + reach,
    )  # fmt: skip


@dataclass(frozen=True)
class Peak:
    """Largest value of a map, and its RAS+ mm."""

    value: float
    mm: tuple[float, float, float]


def peak(values: torch.Tensor, grid: Grid) -> Peak:
    """The largest value of an image (X, Y, Z), ignoring NaN."""
    filled = torch.where(torch.isfinite(values), values, torch.tensor(-torch.inf, dtype=values.dtype))
    index = np.unravel_index(int(filled.argmax()), values.shape)
    mm = grid.affine @ np.array([*index, 1.0])
    return Peak(float(filled[index]), (round(float(mm[0]), 2), round(float(mm[1]), 2), round(float(mm[2]), 2)))


def distance_mm(one: Peak, other: Peak) -> float:
    """Distance between two peaks, mm."""
    return float(np.linalg.norm(np.subtract(one.mm, other.mm)))


def overlap_at(a: np.ndarray, b: np.ndarray, level: float) -> tuple[int, int, float]:
    """Number of voxels of a and of b beyond ±level, and their Dice; a shared voxel has the same sign in both.

    Examples
    --------
    >>> overlap_at(np.array([3.0, 3.0, -3.0]), np.array([3.0, 0.0, 3.0]), 2.0)
    (3, 2, 0.4)
    """
    signed = [torch.as_tensor(np.concatenate([values > level, values < -level])) for values in (a, b)]
    return int(signed[0].sum()), int(signed[1].sum()), dice(signed[0], signed[1])


def on_grid(volume: Volume, mask: torch.Tensor, target: Grid) -> tuple[Volume, torch.Tensor]:
    """Resample a masked map, interpolating only from voxels inside its mask.

    Parameters
    ----------
    volume : Volume, (1, X, Y, Z)
        The map.
    mask : Tensor, (X, Y, Z), bool
        Its mask.
    target : Grid
        Grid of the result.

    Returns
    -------
    Volume, Tensor
        Map and mask on the target grid; a voxel is inside if more than half of its interpolation weight is.
    """
    inside = mask[None].float()
    values = torch.where(mask[None], volume.data, torch.zeros(()))
    share = resample(inside, volume.grid, target)
    sums = resample(values, volume.grid, target)
    kept = share[0] > _INSIDE
    return Volume(torch.where(kept[None], sums / share.clamp(min=_INSIDE), torch.zeros(())), target), kept


def compare_maps(a: Volume, b: Volume, mask_a: torch.Tensor, mask_b: torch.Tensor) -> dict[str, float]:
    """All measures of agreement of two statistic maps on one grid, as a table row.

    Parameters
    ----------
    a, b : Volume, (1, X, Y, Z)
        The maps; a is the reference.
    mask_a, mask_b : Tensor, (X, Y, Z), bool
        Their masks.

    Returns
    -------
    dict
        The columns that :mod:`vbmstat.tables.schema` describes for maps in ``comparison.tsv``: numbers of voxels, the
        fields of :class:`Agreement`, peaks, their distances, and the overlap of voxels beyond each of ±`T_LEVELS`.

    Raises
    ------
    ScanError
        If the grids differ or the masks do not overlap.
    """
    if not a.grid.matches(b.grid):
        msg = f"expected maps on one grid, got {a.grid} and {b.grid}; resample one with on_grid"
        raise ScanError(msg)
    common = mask_a & mask_b
    if not common.any():
        msg = "the maps have no voxel in common because their masks do not overlap; are both in the same space?"
        raise ScanError(msg)
    values_a, values_b = (volume.data[0][common].double().numpy() for volume in (a, b))
    measures = asdict(agreement(values_a, values_b))
    row: dict[str, float] = {
        "n_voxels_a": int(mask_a.sum()), "n_voxels_b": int(mask_b.sum()), "n_voxels": measures.pop("n"), **measures,
    }  # fmt: skip
    row |= _peaks(a, b, mask_a, mask_b)
    for level in T_LEVELS:
        n_a, n_b, shared = overlap_at(values_a, values_b, level)
        row |= {f"n_a_t{level:g}": n_a, f"n_b_t{level:g}": n_b, f"dice_t{level:g}": shared}
    return row


def _peaks(a: Volume, b: Volume, mask_a: torch.Tensor, mask_b: torch.Tensor) -> dict[str, float]:
    """Largest |t| of each map with its position, and the distances between the maps' peaks."""
    outside = torch.tensor(torch.nan)
    images = [torch.where(m, volume.data[0], outside) for volume, m in ((a, mask_a), (b, mask_b))]
    row: dict[str, float] = {}
    peaks = [peak(image.abs(), a.grid) for image in images]
    for name, image, largest in zip("ab", images, peaks, strict=True):
        signed = [peak(image, a.grid).value, -peak(-image, a.grid).value]
        row[f"peak_{name}"] = max(signed, key=abs)
        row |= {f"peak_{name}_{axis}": value for axis, value in zip("xyz", largest.mm, strict=True)}
    row["peak_distance_mm"] = distance_mm(*peaks)
    for sign, name in ((1, "positive"), (-1, "negative")):
        row[f"{name}_peak_distance_mm"] = distance_mm(*(peak(sign * image, a.grid) for image in images))
    return row


def one_sided(a: np.ndarray, b: np.ndarray) -> str | None:
    """Which map (values in its own mask) lacks a sign that many voxels of the other have: ``"a"``, ``"b"`` or None."""
    for sign in (1, -1):
        for name, one, other in (("a", a, b), ("b", b, a)):
            if not (sign * one > 0).any() and (sign * other > 0).mean() >= _ONE_SIDED_SHARE:
                return name
    return None


def match_ids(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """Ids in both, in the order of `a`; only exact matches.

    Raises
    ------
    TableError
        If there are none; it names ids that would match without leading zeros or ``sub-``.
    """
    common = [name for name in a if name in set(b)]
    if common:
        return common
    near = {loose_id(name): name for name in b}
    pairs = [(name, near[loose_id(name)]) for name in a if loose_id(name) in near]
    if pairs:
        msg = (
            f"no scan in common; {len(pairs)} would match without 'sub-' and leading zeros "
            f"({pairs[0][0]!r} and {pairs[0][1]!r}): ids are compared as text; rename one side so that they are equal"
        )
        raise TableError(msg)
    msg = f"no scan in common (A: {', '.join(map(str, a[:3]))}; B: {', '.join(map(str, b[:3]))})"
    raise TableError(msg)


def loose_id(name: str) -> str:
    """An id in lower case, without prefixes and leading zeros.

    Examples
    --------
    >>> loose_id("sub-007_ses-01"), loose_id("7_1")
    ('7_1', '7_1')
    """
    parts = str(name).lower().split("_")
    return "_".join(part.removeprefix("sub-").removeprefix("ses-").lstrip("0") or "0" for part in parts)
