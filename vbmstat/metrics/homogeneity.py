"""Homogeneity of a cohort: scans unlike the others, duplicates, volumes out of range.

Maps are read twice, one at a time: once for the means and variances of voxels and the sum of standardised maps, then to
compare each scan with these. The mean correlation with the scans of other people needs no pairs: for maps z of mean 0
and norm 1 over voxels, with sum S, and sum s over the k scans of the person, it is ``z'(S - s) / (n - k)``. Scans of
one person are far more alike: counted, they would make everybody with fewer scans an outlier. Memory is that of a few
maps, those of one person, and 4 kB per scan.

Scans are flagged, never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.files import map_kinds
from vbmstat.image.grid import resample
from vbmstat.maps.decode import MapReader
from vbmstat.maps.sources import as_cohort
from vbmstat.metrics.departures import MAD_TO_SIGMA, Departure, find_departures
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables.cohort import TIME_POINTS, Cohort

_USUAL_FWHM_MM = 6.0  # smoothing of the maps that the thresholds were chosen with
WARNING_COLUMN = "qc_warnings"
OUTLIER_Z = 3.5  # robust z (Iglewicz & Hoaglin 1993, How to Detect and Handle Outliers)
LEAST_SCANS = 5  # for a robust z
# In a small or very similar sample ordinary scans have a large z, so a flagged scan must also be this far off.
_LEAST_R_DROP, _LEAST_TIV_CHANGE, _LEAST_SHARE_CHANGE = 0.05, 0.20, 0.05  # correlation; relative TIV; share of TIV
# The same image cropped, stored as uint8 or with a shifted header gave 0.9996 to 1 (classic, sub-10 of ds000011); with
# new noise of 3 % 0.9987, shifted by half a voxel too 0.9979; a second scan of the same person differs by more.
DUPLICATE_R = 0.999
_TEMPLATE_FROM = 0.1  # GM of the template
_N_PROBES = 1024  # voxels used to search for pairs
_PROBE_SLACK = 4.0  # largest ratio of 1 - r over the probes to 1 - r over all voxels
_BLOCK = 1024  # scans compared at a time


@dataclass(frozen=True)
class CohortQuality:
    """Measures of scans within a cohort; arrays are (n_scans,), NaN if there are too few scans."""

    # mean Pearson correlation with the scans of other people over the template's GM; with the other scans if all are of
    # one person
    mean_correlation: np.ndarray
    # its robust z: distance to the median over 1.4826 times the median absolute deviation
    mean_correlation_z: np.ndarray
    # fourth root of the mean fourth power of the scan's z-scores over voxels, after scaling maps to the same mean
    # (after CAT12's quartic mean z): high if a part of the brain is far from the sample's
    mean_z: np.ndarray
    # robust z of TIV, and of GM over TIV
    tiv_z: np.ndarray
    gm_share_z: np.ndarray
    duplicate_of: list[str | None]  # id of an earlier scan with the same image
    departures: list[Departure | None]  # where GM + WM are far from the others', if they are anywhere

    def columns(self) -> dict[str, list[object] | np.ndarray]:
        """The measures as columns ``qc_NAME`` of a cohort table."""
        names = ("mean_correlation", "mean_correlation_z", "mean_z", "tiv_z", "gm_share_z")
        measures = {f"qc_{name}": getattr(self, name).round(4) for name in names}
        far = {"qc_local_ml": [round(d.volume_ml, 1) if d else 0.0 for d in self.departures],
               "qc_local_region": [d.region if d else None for d in self.departures]}  # fmt: skip
        return {**measures, **far, "qc_duplicate_of": list(self.duplicate_of)}


def robust_z(values: np.ndarray) -> np.ndarray:
    """Distance to the median in robust standard deviations; NaN for fewer than five values or if most are equal.

    Examples
    --------
    >>> robust_z(np.array([1.0, 2.0, 3.0, 4.0, 20.0])).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 11.47]
    """
    known = values[np.isfinite(values)]
    if len(known) < LEAST_SCANS:
        return np.full(len(values), np.nan)
    median = np.median(known)
    sigma = MAD_TO_SIGMA * np.median(np.abs(known - median))
    return (values - median) / sigma if sigma > 0 else np.full(len(values), np.nan)


def measure_cohort(cohort: Cohort | pd.DataFrame | Path | str, report: OnProgress = ignore) -> CohortQuality:
    """Compare each scan of a cohort with the others.

    Parameters
    ----------
    cohort : Cohort, DataFrame or path
        With paths of modulated GM maps, and ``tiv_ml`` and ``gm_ml`` if known.
    report : callable
        Called with (stage, done, total).

    Raises
    ------
    ScanError
        If a map cannot be read, is constant over the GM, or is on another grid than the first.
    TableError
        If the column is absent, or a scan has no map.
    """
    cohort = as_cohort(cohort)
    paths = maps_to_compare(cohort)
    maps, people = _Maps(paths), _scans_of_people(cohort.table)
    total, mean, sd, probes = _first_pass(maps, report)
    spread = _Spread(mean, sd)
    correlation, mean_z = _second_pass(maps, people, total, spread, report)
    ids = cohort.scan_ids
    duplicate_of: list[str | None] = [None] * len(ids)
    together = _preprocessed_together(cohort.table)
    for earlier, later in find_duplicates(probes, maps.row):
        if not together[later] or together[later] != together[earlier]:
            duplicate_of[later] = duplicate_of[later] or ids[earlier]
    tiv, share = _volumes(cohort.table)
    departures: list[Departure | None] = [None] * len(ids)
    if map_kinds.map_columns(cohort.table.columns, 2):
        departures = find_departures(paths, maps_to_compare(cohort, 2), report)
    return CohortQuality(
        correlation, robust_z(correlation), mean_z, robust_z(tiv), robust_z(share), duplicate_of, departures
    )


def maps_to_compare(cohort: Cohort, tissue: int = 1) -> list[Path]:
    """The maps of GM (1) or WM (2) to compare scans with: of every scan, smoothed, their width nearest to 6 mm.

    Maps of time points stand beside those of single scans.
    """
    table = cohort.table
    by_width: dict[float | None, list[str]] = {}
    for name in map_kinds.map_columns(table.columns, tissue) or [f"mwp{tissue}"]:
        by_width.setdefault(map_kinds.fwhm_of(name), []).append(name)
    columns = {names[0]: table.reindex(columns=names).bfill(axis=1).iloc[:, 0] for names in by_width.values()}
    complete = [name for name, paths in columns.items() if paths.notna().all()] or list(columns)
    best = min(complete, key=lambda name: abs((map_kinds.fwhm_of(name) or np.inf) - _USUAL_FWHM_MM))
    return Cohort(table.assign(**{best: columns[best]}) if best in table else table, cohort.folder).paths(best)


def _scans_of_people(table: pd.DataFrame) -> list[np.ndarray]:
    """Rows of each person's scans; of each scan, if all are of one person."""
    groups = list(table.groupby(level="participant_id", sort=False).indices.values())
    return groups if len(groups) > 1 else [np.array([row]) for row in range(len(table))]


def _preprocessed_together(table: pd.DataFrame) -> list[str]:
    """The person of each scan whose time points were preprocessed together, and so are alike; empty for other scans."""
    n = pd.to_numeric(table.get(TIME_POINTS, pd.Series(1, index=table.index)), errors="coerce").fillna(1)
    people = table.index.get_level_values("participant_id")
    return [str(person) if count > 1 else "" for person, count in zip(people, n, strict=True)]


def flag(cohort: Cohort, quality: CohortQuality) -> Cohort:
    """The cohort with its homogeneity columns, and their flags added to ``qc_warnings``."""
    table = cohort.table.assign(**quality.columns())
    own = table[WARNING_COLUMN] if WARNING_COLUMN in table else pd.Series([None] * len(table), index=table.index)
    flags = warnings(quality, table)
    joined = ["; ".join([*([] if pd.isna(a) else [str(a)]), *b]) or None for a, b in zip(own, flags, strict=True)]
    return Cohort(table.assign(**{WARNING_COLUMN: pd.Series(joined, index=table.index, dtype=object)}), cohort.folder)


def warnings(quality: CohortQuality, table: pd.DataFrame) -> list[list[str]]:
    """Flags of each scan, in words.

    Parameters
    ----------
    quality : CohortQuality
        Measures of the table's scans, in its order.
    table : DataFrame
        With ``tiv_ml`` and ``gm_ml`` if known.
    """
    tiv, share = _volumes(table)
    r = quality.mean_correlation
    usual_r, usual_tiv, usual_share = (np.nanmedian(x) if np.isfinite(x).any() else np.nan for x in (r, tiv, share))
    unlike = (quality.mean_correlation_z < -OUTLIER_Z) & (usual_r - r > _LEAST_R_DROP)
    odd_tiv = (np.abs(quality.tiv_z) > OUTLIER_Z) & (np.abs(tiv / usual_tiv - 1) > _LEAST_TIV_CHANGE)
    odd_share = (np.abs(quality.gm_share_z) > OUTLIER_Z) & (np.abs(share - usual_share) > _LEAST_SHARE_CHANGE)
    flags: list[list[str]] = [[] for _ in r]
    for i in np.flatnonzero(unlike):
        z = quality.mean_correlation_z[i]
        flags[i].append(f"GM map unlike the other scans' (mean r {r[i]:.2f}, z = {z:.1f}): check its picture")
    for i in np.flatnonzero(odd_tiv):
        text = f"TIV {tiv[i]:.0f} mL, cohort {usual_tiv:.0f} mL (z = {quality.tiv_z[i]:.1f})"
        flags[i].append(f"{text}: check the brain mask and the voxel size")
    for i in np.flatnonzero(odd_share):
        text = f"GM {share[i]:.0%} of TIV, cohort {usual_share:.0%} (z = {quality.gm_share_z[i]:.1f})"
        flags[i].append(f"{text}: check the tissue outlines")
    for own, departure in zip(flags, quality.departures, strict=True):
        if departure is not None:
            own.append(departure.warning())
    for own, other in zip(flags, quality.duplicate_of, strict=True):
        if other is not None:
            own.append(f"same image as {other}: keep one of them")
    return flags


class _Maps:
    """Maps over the template's GM, read on demand."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._reader = MapReader.like(paths[0])
        template = assets.template()
        gm = resample(template.data[:1], template.grid, self._reader.grid)[0]
        self._voxels = np.flatnonzero(gm.numpy().ravel() > _TEMPLATE_FROM)  # RAS+ C order
        if not self._voxels.size:
            msg = f"{paths[0]}: expected a map in template space, but none of its voxels lies in the template's GM"
            raise ScanError(msg)

    def read(self, index: int) -> np.ndarray:
        """Values of a scan, (n_voxels,), float32."""
        values = np.empty(self._voxels.size, np.float32)
        self._reader.read(self.paths[index], self._voxels, values)
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            msg = f"{self.paths[index]}: expected a GM map, but it is constant or not finite over the template's GM"
            raise ScanError(msg)
        return values

    def row(self, index: int) -> np.ndarray:
        """The values with mean 0 and norm 1, so that the product of two rows is their correlation."""
        return _standardised(self.read(index))


@dataclass(frozen=True)
class _Spread:
    """Mean and sd of the maps scaled to mean 1, (n_voxels,)."""

    mean: np.ndarray
    sd: np.ndarray

    def quartic_mean_z(self, values: np.ndarray) -> float:
        """Fourth root of the mean fourth power of a map's z-scores; NaN if all maps are equal."""
        varies = self.sd > 0
        z = ((values / values.mean() - self.mean) / np.where(varies, self.sd, 1))[varies]
        return float(np.mean(z**4) ** 0.25) if z.size else np.nan


def _standardised(values: np.ndarray) -> np.ndarray:
    values = values - values.mean(dtype=np.float64).astype(np.float32)
    return values / np.float32(np.linalg.norm(values.astype(np.float64)))


def _first_pass(maps: _Maps, report: OnProgress) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sum of standardised maps, mean and sd of the maps scaled to mean 1, and probes, (n_scans, _N_PROBES)."""
    n = len(maps.paths)
    total = mean = squares = np.zeros(0)
    probes = np.empty((n, 0), np.float32)
    for index in range(n):
        values = maps.read(index)
        row, scaled = _standardised(values), (values / values.mean()).astype(np.float64)
        if index == 0:
            total, mean, squares = (np.zeros(values.size) for _ in range(3))
            at = np.unique(np.linspace(0, values.size - 1, _N_PROBES).astype(int))
            probes = np.empty((n, at.size), np.float32)
        total += row
        change = scaled - mean  # Welford's running mean and sum of squares
        mean += change / (index + 1)
        squares += change * (scaled - mean)
        probes[index] = _standardised(row[at])
        report("comparing scans", index + 1, 2 * n)
    return total, mean, np.sqrt(squares / max(n - 1, 1)), probes


def _second_pass(
    maps: _Maps, people: Sequence[np.ndarray], total: np.ndarray, spread: _Spread, report: OnProgress
) -> tuple[np.ndarray, np.ndarray]:
    """Mean correlation with the scans of other people, and quartic mean z, of each scan."""
    n, done = len(maps.paths), 0
    correlation, mean_z = np.full(n, np.nan), np.full(n, np.nan)
    if n < 2:
        return correlation, mean_z
    for scans in people:
        rows = []
        for index in scans:
            values = maps.read(index)
            rows.append(_standardised(values))
            if n >= LEAST_SCANS:
                mean_z[index] = spread.quartic_mean_z(values)
            done += 1
            report("comparing scans", n + done, 2 * n)
        others = total - np.sum(rows, axis=0, dtype=np.float64)
        correlation[scans] = [row @ others / (n - len(scans)) for row in rows]
    return correlation, mean_z


def find_duplicates(probes: np.ndarray, row: Callable[[int], np.ndarray]) -> list[tuple[int, int]]:
    """Find pairs of scans with the same image, by the correlation of their maps.

    Parameters
    ----------
    probes : ndarray, (n_scans, n_probes), float32
        Some voxels of each map, mean 0 and norm 1, used to search for pairs.
    row : callable
        Returns all voxels of a scan, mean 0 and norm 1, used to confirm them.

    Returns
    -------
    list of (earlier, later)
        Indices of scans, in order of the later.
    """
    near = 1 - _PROBE_SLACK * (1 - DUPLICATE_R)
    pairs = []
    for start in range(0, len(probes), _BLOCK):
        block = probes[start : start + _BLOCK]
        for offset in range(0, start + 1, _BLOCK):
            alike = block @ probes[offset : offset + _BLOCK].T >= near  # (later, earlier)
            pairs += [(offset + int(j), start + int(i)) for i, j in np.argwhere(alike) if offset + j < start + i]
    return sorted((pair for pair in pairs if row(pair[0]) @ row(pair[1]) >= DUPLICATE_R), key=lambda pair: pair[::-1])


def _volumes(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """TIV in mL and GM as a share of it, NaN where unknown."""
    missing = pd.Series(np.nan, index=table.index)
    tiv, gm = (pd.to_numeric(table.get(name, missing), errors="coerce").to_numpy(float) for name in ("tiv_ml", "gm_ml"))
    return tiv, gm / np.where(tiv > 0, tiv, np.nan)
