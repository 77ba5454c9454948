"""The analysis mask: its rule, and the counts per voxel and scan, collected while maps are read, that apply it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vbmstat.errors import ScanError, listed

MASK_THRESHOLD = 0.1  # SPM's and CAT12's absolute threshold for modulated maps
_UNIT_RATIO = 30.0  # mean of a map over the median mean; beyond, its unit differs
_MIN_SCANS_FOR_UNITS = 3
_MIN_SCANS_FOR_CULPRITS = 3
_CULPRIT = 0.03  # reported: a scan that alone removes this share of the voxels of all other scans from the mask
_SHORT = 0.1  # of the median scan's voxels: a scan that lacks this share, and is an outlier, is cut off
_OUTLIER = 6.0  # median absolute deviations from the median
_MAX_NAMED = 3  # scans in a note


@dataclass(frozen=True)
class MaskRule:
    """Which voxels are analysed.

    Attributes
    ----------
    threshold : float or None
        A voxel is present in a scan if its value is above this; None for no threshold.
    share : float
        Share of the scans in which a voxel must be present; 1 is SPM's rule. Constant voxels never pass.
    image : Path or None
        A mask on the maps' grid; only voxels > 0.5 may pass.
    nan : {"raise", "exclude"}
        A NaN where the other scans pass is an error, or, as in SPM, excludes the voxel.
    sparse : bool
        Maps of lesions: empty ones, and amounts that differ by orders of magnitude, are no error.
    """

    threshold: float | None = MASK_THRESHOLD
    share: float = 1.0
    image: Path | None = None
    nan: str = "raise"
    sparse: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.nan not in ("raise", "exclude"):
            msg = f"mask rule: expected 0 < share <= 1 and nan 'raise' or 'exclude', got {self.share}, {self.nan!r}"
            raise ScanError(msg)

        if self.threshold is not None and not math.isfinite(self.threshold):
            msg = f"mask threshold {self.threshold}: expected a finite number"
            raise ScanError(msg)

    def as_dict(self) -> dict[str, Any]:
        """The rule as the manifest records it."""
        image = None if self.image is None else {"path": str(self.image), **file_stamp(self.image)}
        sparse = {"sparse": True} if self.sparse else {}  # stores of other maps stay as they were
        return {"threshold": self.threshold, "share": self.share, "image": image, "nan": self.nan, **sparse}


def file_stamp(path: Path) -> dict[str, int]:
    """Size and modification time of a file; if both are unchanged, so is its content."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


class ScanSums(NamedTuple):
    """Sums and ranges of k scans over some columns, each (k,)."""

    sums: np.ndarray
    n_lacking: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[ScanSums]) -> ScanSums:
        """The same over the columns of all parts."""
        sums, n_lacking, low, high = (np.stack(values) for values in zip(*parts, strict=True))
        return cls(sums.sum(axis=0), n_lacking.sum(axis=0), low.min(axis=0), high.max(axis=0))


class Tally:
    """Running counts of columns and scans.

    Per column: its range, the number of scans in which it is absent, the last of them, the number of NaN. Per scan: its
    mean, and the number of columns that it lacks.
    """

    def __init__(self, n_voxels: int) -> None:
        self.low = np.full(n_voxels, np.inf, dtype=np.float32)
        self.high = np.full(n_voxels, -np.inf, dtype=np.float32)
        self.n_absent = np.zeros(n_voxels, dtype=np.int64)
        self.last_absent = np.full(n_voxels, -1, dtype=np.int32)  # only valid where n_absent is 1
        self.n_nan = np.zeros(n_voxels, dtype=np.int64)
        self.nan_of: dict[str, list[np.ndarray]] = {}
        self.scans: list[str] = []
        self.means: dict[str, float] = {}
        self.n_lacking: dict[str, int] = {}
        self.flat: dict[str, float] = {}  # constant or all-NaN scans -> their value

    @property
    def n_scans(self) -> int:
        """Number of scans counted."""
        return len(self.scans)

    def add(self, scans: Sequence[str], values: np.ndarray, start: int, thresholds: np.ndarray) -> ScanSums:
        """Count columns (k, v) of some scans, from column `start`; infinities in `values` become NaN.

        Threads may call it concurrently with columns that do not overlap.
        """
        at = slice(start, start + values.shape[1])
        low, high = values.min(axis=0), values.max(axis=0)  # of a column with NaN: NaN
        all_finite = bool(np.isfinite(low).all() and np.isfinite(high).all())
        if not all_finite:
            finite = np.isfinite(values)
            values[~finite] = np.nan
            self.n_nan[at] += (~finite).sum(axis=0)
            for i in np.flatnonzero(~finite.all(axis=1)):
                self.nan_of.setdefault(scans[int(i)], []).append(start + np.flatnonzero(~finite[i]))
            low, high = np.fmin.reduce(values, axis=0), np.fmax.reduce(values, axis=0)
        np.fmin(self.low[at], low, out=self.low[at])
        np.fmax(self.high[at], high, out=self.high[at])
        absent = values <= thresholds[:, None]
        counts = absent.view(np.uint8).sum(axis=0, dtype=np.uint8 if len(values) < 256 else np.int64)
        self.n_absent[at] += counts
        single = np.flatnonzero(counts == 1)
        self.last_absent[start + single] = self.n_scans + absent[:, single].argmax(axis=0)
        n_lacking = np.array([np.count_nonzero(row) for row in absent], dtype=np.int64)
        if not all_finite:
            n_lacking += (~finite).sum(axis=1)
        total = np.sum if all_finite else np.nansum
        return ScanSums(
            np.asarray(total(values, axis=1, dtype=np.float64)), n_lacking,
            np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1),
        )  # fmt: skip

    def finish(self, scans: Sequence[str], sums: ScanSums) -> None:
        """Add scans whose columns are all counted."""
        self.scans += scans
        for scan, total, n_lacking, low, high in zip(scans, *sums, strict=True):
            n_values = self.low.size - sum(map(len, self.nan_of.get(scan, [])))
            self.means[scan] = float(total) / n_values if n_values else float("nan")
            self.n_lacking[scan] = int(n_lacking)
            if not low < high:
                self.flat[scan] = float(low)

    def mask(self, rule: MaskRule) -> np.ndarray:
        """Columns in the mask; NaN counts neither for nor against a column unless the rule excludes it."""
        passed = self.common(rule) & (self.high > self.low)
        return passed & (self.n_nan == 0) if rule.nan == "exclude" else passed

    def common(self, rule: MaskRule) -> np.ndarray:
        """Columns present in enough scans for the rule, whether they vary or not."""
        with_value = self.n_scans - self.n_nan
        may_lack = with_value - np.ceil(rule.share * with_value - 1e-9)
        return np.asarray((self.n_absent <= may_lack) & (with_value > 0))

    def alone(self, rule: MaskRule) -> dict[str, int]:
        """Number of columns that each scan alone removes from the mask (all others have them); only for share 1."""
        if rule.share < 1 or self.n_scans < _MIN_SCANS_FOR_CULPRITS:
            return {}
        lost = (self.n_absent == 1) & (self.n_nan == 0)
        counts = np.bincount(self.last_absent[lost], minlength=self.n_scans)
        if rule.nan == "exclude":
            for scan, pieces in self.nan_of.items():
                at = np.concatenate(pieces)
                counts[self.scans.index(scan)] += int(((self.n_nan[at] == 1) & (self.n_absent[at] == 0)).sum())
        most = sorted(zip(self.scans, counts.tolist(), strict=True), key=lambda entry: -entry[1])
        return {scan: count for scan, count in most if count}

    def culprits(self, rule: MaskRule, n_inside: int) -> dict[str, int]:
        """The scans of :meth:`alone` that make a mask of `n_inside` columns notably smaller."""
        return {scan: n for scan, n in self.alone(rule).items() if n >= _CULPRIT * (n + n_inside)}

    def short(self) -> dict[str, float]:
        """Share of the columns present in most scans that each scan lacks, where that is much: see `_SHORT`."""
        n_present = {scan: self.low.size - n for scan, n in self.n_lacking.items()}
        counts = np.array(list(n_present.values()) or [0])
        usual = float(np.median(counts))
        lowest = usual - max(_SHORT * usual, _OUTLIER * float(np.median(np.abs(counts - usual))))
        lacking = {scan: 1 - n / usual for scan, n in n_present.items() if n < lowest}
        return dict(sorted(lacking.items(), key=lambda entry: -entry[1]))

    def notes(self, rule: MaskRule, mask: np.ndarray) -> list[str]:
        """Notes on scans that make the mask much smaller."""
        n_inside = int(mask.sum())
        alone = [
            f"{scan} ({n} voxels, {n / (n + n_inside):.0%} of the voxels of all others)"
            for scan, n in self.culprits(rule, n_inside).items()
        ]  # fmt: skip
        lacking = self.short() if rule.threshold is not None and not rule.sparse else {}
        short = [f"{scan} ({share:.0%})" for scan, share in lacking.items()]
        notes = []
        if alone:
            notes.append(f"scans that alone remove voxels from the mask: {listed(alone, _MAX_NAMED)}; check their maps")
        if short:
            notes.append(f"scans that lack many voxels of the others: {listed(short, _MAX_NAMED)}; check their maps")
        return notes

    def check(self, mask: np.ndarray, rule: MaskRule) -> None:
        """Refuse NaN inside the mask, constant maps, maps in another unit than the others, and an empty mask."""
        inside = {scan: int(sum(mask[at].sum() for at in pieces)) for scan, pieces in self.nan_of.items()}
        bad = [f"{scan} ({count} voxels)" for scan, count in sorted(inside.items()) if count]
        if bad:
            msg = (
                f"NaN or infinite values inside the mask: {listed(bad)}; make these maps again, "
                "or leave these voxels out with --nan exclude"
            )
            raise ScanError(msg)
        if rule.sparse:
            if not mask.any():
                raise ScanError(self.why_empty(rule))
            return
        flat = [f"{scan} ({value:g})" for scan, value in self.flat.items() if value != 0 or rule.threshold is not None]
        if flat and len(flat) < self.n_scans:
            msg = f"maps with the same value at every voxel read: {listed(flat)}; make them again or leave them out"
            raise ScanError(msg)
        check_units(self.means)
        if not mask.any():
            raise ScanError(self.why_empty(rule))

    def why_empty(self, rule: MaskRule) -> str:
        """Why no voxel is in the mask, for a message."""
        if self.n_scans == 1:
            return "the mask needs voxels that vary between scans; expected two scans or more, got one"
        if self.common(rule).any():
            above = "" if rule.threshold is None else f" above {rule.threshold}"
            return (
                f"no voxel{above} varies between the {self.n_scans} scans: their maps are equal, or NaN in some scan; "
                "expected maps of different scans"
            )
        if (self.n_nan == self.n_scans).all():
            return f"the maps of all {self.n_scans} scans have only NaN or infinite values; make them again"
        what = f"no voxel is above {rule.threshold} in {rule.share:.0%} of the scans"
        alone = [f"{scan} ({n} voxels)" for scan, n in self.alone(rule).items()]
        short = [f"{scan} ({share:.0%})" for scan, share in self.short().items()]
        for why, scans in (("alone remove voxels", alone), ("lack most", short)):
            if scans:
                named = listed(scans, _MAX_NAMED)
                return f"{what}; scans that {why}: {named}; check their maps, or leave these scans out"
        highest = float(np.nanmax(np.where(np.isfinite(self.high), self.high, np.nan)))
        largest = f"the largest value of all maps is {highest:.3g}"
        return f"{what}; {largest}: lower --mask-threshold, or check that these are the right maps"


def check_units(means: Mapping[str, float], fewest: int = _MIN_SCANS_FOR_UNITS) -> None:
    """Refuse maps in mm³ or percent among maps in mL: their mean is far off. A mean of 0 (no lesion) passes."""
    values = np.array(list(means.values()))
    if np.isfinite(values).sum() < fewest:
        return
    median = float(np.nanmedian(values))
    odd = [
        f"{scan} (mean {mean:.3g})" for scan, mean in means.items()
        if median > 0 and mean != 0 and np.isfinite(mean) and not median / _UNIT_RATIO <= mean <= median * _UNIT_RATIO
    ]  # fmt: skip
    if odd:
        msg = f"maps in another unit than the others (median mean {median:.3g}): {listed(odd)}; use one unit for all"
        raise ScanError(msg)
