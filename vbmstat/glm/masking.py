"""Which voxels are analysed: the rule, and what is counted of each voxel while maps go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import ScanError

MASK_THRESHOLD = 0.1  # SPM's and CAT12's absolute threshold for modulated maps
_UNIT_RATIO = 30.0  # mean of a map against the median mean: beyond, it is in other units
_MIN_SCANS_FOR_UNITS = 3


@dataclass(frozen=True)
class MaskRule:
    """Which voxels are analysed.

    Attributes
    ----------
    threshold : float or None
        A voxel counts as present in a scan when its value is above; None for no threshold.
    share : float
        Share of the scans in which it must be present: 1 is SPM's rule. Constant voxels never pass.
    image : Path or None
        A mask on the maps' grid; voxels > 0.5 may pass.
    nan : {"raise", "exclude"}
        NaN inside the mask that the other scans agree on: an error, or SPM's way (the voxel is left out).
    """

    threshold: float | None = MASK_THRESHOLD
    share: float = 1.0
    image: Path | None = None
    nan: str = "raise"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.nan not in ("raise", "exclude"):
            msg = f"mask rule: expected 0 < share <= 1 and nan 'raise' or 'exclude', got {self.share}, {self.nan!r}"
            raise ScanError(msg)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        image = None if self.image is None else {"path": str(self.image), **file_stamp(self.image)}
        return {"threshold": self.threshold, "share": self.share, "image": image, "nan": self.nan}


def file_stamp(path: Path) -> dict[str, int]:
    """Size and time of a file: when neither has changed, its content is taken to be the same."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


class Tally:
    """What is known of each column after some scans: its range, from how many scans it is absent, where NaN was."""

    def __init__(self, n_voxels: int) -> None:
        self.low = np.full(n_voxels, np.inf, dtype=np.float32)
        self.high = np.full(n_voxels, -np.inf, dtype=np.float32)
        self.n_absent = np.zeros(n_voxels, dtype=np.int64)
        self.n_nan = np.zeros(n_voxels, dtype=np.int64)
        self.nan_of: dict[str, list[np.ndarray]] = {}
        self.means: dict[str, float] = {}
        self.n_scans = 0

    def add(self, scans: Sequence[str], values: np.ndarray, start: int, thresholds: np.ndarray) -> np.ndarray:
        """Count some columns (k, v) of some scans, from column `start`; sums (k,) of their finite values.

        Columns of different calls do not overlap, so threads may call it side by side. Infinities become NaN.
        """
        at = slice(start, start + values.shape[1])
        finite = np.isfinite(values)
        if not finite.all():
            values[~finite] = np.nan
            self.n_nan[at] += (~finite).sum(axis=0)
            for i in np.flatnonzero(~finite.all(axis=1)):
                self.nan_of.setdefault(scans[int(i)], []).append(start + np.flatnonzero(~finite[i]))
        np.fmin(self.low[at], np.fmin.reduce(values, axis=0), out=self.low[at])
        np.fmax(self.high[at], np.fmax.reduce(values, axis=0), out=self.high[at])
        absent = (values <= thresholds[:, None]).view(np.uint8)
        self.n_absent[at] += absent.sum(axis=0, dtype=np.uint8 if len(values) < 256 else np.int64)
        if finite.all():
            return np.asarray(values.sum(axis=1, dtype=np.float64))
        return np.asarray(np.nansum(values, axis=1, dtype=np.float64))

    def finish(self, scans: Sequence[str], sums: np.ndarray) -> None:
        """Note that all columns of some scans are counted."""
        self.n_scans += len(scans)
        for scan, total in zip(scans, sums, strict=True):
            n_values = self.low.size - sum(map(len, self.nan_of.get(scan, [])))
            self.means[scan] = float(total) / n_values if n_values else float("nan")

    def mask(self, rule: MaskRule) -> np.ndarray:
        """Columns that pass; NaN neither passes nor fails here."""
        with_value = self.n_scans - self.n_nan
        may_lack = with_value - np.ceil(rule.share * with_value - 1e-9)
        passed = (self.n_absent <= may_lack) & (with_value > 0) & (self.high > self.low)
        return passed & (self.n_nan == 0) if rule.nan == "exclude" else passed

    def check(self, mask: np.ndarray) -> None:
        """Refuse NaN inside the mask, and maps in other units than the rest."""
        inside = {scan: int(sum(mask[at].sum() for at in found)) for scan, found in self.nan_of.items()}
        bad = {scan: count for scan, count in sorted(inside.items()) if count}
        if bad:
            listed = ", ".join(f"{scan} ({count} voxels)" for scan, count in list(bad.items())[:12])
            msg = (
                f"NaN or infinite values inside the mask: {listed}; make these maps again, "
                "or leave such voxels out with --nan exclude"
            )
            raise ScanError(msg)
        check_units(self.means)


def check_units(means: Mapping[str, float]) -> None:
    """Refuse maps whose mean is far from the others': they are in other units (mm³ against mL, percent).

    Raises
    ------
    ScanError
        Naming the scans.
    """
    values = np.array(list(means.values()))
    if len(values) < _MIN_SCANS_FOR_UNITS:
        return
    median = float(np.nanmedian(values))
    odd = [s for s, m in means.items() if median > 0 and not median / _UNIT_RATIO <= m <= median * _UNIT_RATIO]
    if odd:
        listed = ", ".join(f"{scan} (mean {means[scan]:.3g})" for scan in odd[:12])
        msg = f"maps in other units than the rest (median mean {median:.3g}): {listed}; bring all to one unit"
        raise ScanError(msg)
