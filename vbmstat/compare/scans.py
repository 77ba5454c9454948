"""Compare modulated maps of the same scans in two folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import assets
from vbmstat.compare.config import TISSUES
from vbmstat.compare.pairs import Comparison, Names
from vbmstat.compare.pipelines import by_scan
from vbmstat.errors import ScanError, listed
from vbmstat.files import map_names
from vbmstat.image import io
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.maps.sources import map_folders
from vbmstat.metrics import agreement
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables.selection import ALL, Selection, select_ids

_TEMPLATE_FROM = 0.1  # maps are compared where the template's tissue exceeds this


def compare_scans(a: Path, b: Path, names: Names, rules: Selection = ALL, report: OnProgress = ignore) -> Comparison:
    """Compare modulated maps of the same scans in two folders, scan by scan, where the template's tissue exceeds 0.1.

    Smoothed maps are compared if both folders have them, otherwise unsmoothed ones.

    Raises
    ------
    ScanError, TableError
        If the folders have no tissue or no scan in common, or maps of several longitudinal models.
    """
    rows, notes = [], []
    for tissue, number in TISSUES.items():
        chosen = _maps_alike(a, b, number)
        if chosen is None:
            notes.append(f"{tissue}: the folders do not both have smoothed maps, nor both unsmoothed ones")
            continue
        map_names.refuse_mixed_models(path for maps in chosen for path in maps.values())
        maps_of = [by_scan(maps) for maps in chosen]
        both = agreement.match_ids(list(maps_of[0]), list(maps_of[1]))
        selected = select_ids(both, rules, [*map_folders(a), *map_folders(b)])
        common = selected.scan_ids
        notes += selected.notes
        for which, maps in zip("AB", maps_of, strict=True):
            spare = [scan for scan in maps if scan not in both]
            if spare:
                notes.append(f"{tissue}: only {which} has {len(spare)} scans ({listed(spare)})")
        inside: _TissueMask | None = None
        for done, scan in enumerate(common, 1):
            paths = maps_of[0][scan], maps_of[1][scan]
            volumes = [_read_map(path) for path in paths]
            if inside is None or not inside.grid.matches(volumes[0].grid):
                inside = _TissueMask(number, volumes[0].grid)
            row, remarks = _compare_scan(paths, volumes, inside)
            rows.append({"scan": scan, "tissue": tissue, **row})
            notes += remarks
            report(f"comparing {tissue}", done, len(common))
    if not rows:
        msg = f"{a} and {b} have no modulated maps of one tissue in common: {'; '.join(notes)}"
        raise ScanError(msg)
    table = pd.DataFrame(rows)
    summary = pd.DataFrame([_scan_summary(tissue, part) for tissue, part in table.groupby("tissue", sort=False)])
    values = table[["scan", "tissue", "a_ml", "b_ml"]]
    return Comparison("scans", names, table, summary, tuple(dict.fromkeys(notes)), values=values, by="tissue")


def _maps_alike(a: Path, b: Path, number: int) -> tuple[dict[str, Path], dict[str, Path]] | None:
    for smoothed in (True, False):
        one, other = (map_names.find_maps(folder, number, smoothed) for folder in (a, b))
        if one and other:
            return one, other
    return None


class _TissueMask:
    """Where the template has a tissue, on the grid of some maps."""

    def __init__(self, number: int, grid: Grid) -> None:
        template = assets.template()
        self.grid = grid
        self.mask = resample(template.data[number - 1 : number], template.grid, grid)[0] > _TEMPLATE_FROM


def _compare_scan(
    paths: tuple[Path, Path], volumes: Sequence[Volume], inside: _TissueMask
) -> tuple[dict[str, float], list[str]]:
    """Agreement and volumes of two maps of a scan, and notes."""
    (a, b), (one, other), notes = paths, volumes, list[str]()
    volumes_ml = {key: Volume(v.data.nan_to_num(), v.grid).sums_ml[0] for key, v in (("a_ml", one), ("b_ml", other))}
    if not other.grid.matches(one.grid):
        notes.append(f"maps of B were resampled (trilinear) from {other.grid} to A's grid {one.grid}")
        other, _ = agreement.on_grid(other, other.data[0].isfinite(), one.grid)
    known = inside.mask & one.data[0].isfinite()
    common = known & other.data[0].isfinite()
    if not common.any():
        which = b if known.any() else a
        msg = f"{which}: no value where the template has this tissue; is it in template space, or NaN everywhere?"
        raise ScanError(msg)
    values = [volume.data[0][common].numpy() for volume in (one, other)]
    constant = [str(path) for path, value in zip((a, b), values, strict=True) if value.min() == value.max()]
    if constant:
        notes.append(f"constant maps have no correlation: {' and '.join(constant)}")
    measures = asdict(agreement.agreement(*values))
    return {"n_voxels": measures.pop("n"), **measures, **volumes_ml}, notes


def _read_map(path: Path) -> Volume:
    """A modulated map; NaN marks missing values."""
    volume = io.read_volume(path)
    n_infinite = int(volume.data.isinf().sum())
    if n_infinite:
        msg = f"{path}: {n_infinite} values are infinite; make this map again, or leave it out"
        raise ScanError(msg)
    return volume


def _scan_summary(tissue: Any, part: pd.DataFrame) -> dict[str, Any]:
    volumes = asdict(agreement.agreement(part["a_ml"].to_numpy(), part["b_ml"].to_numpy()))
    row = {"tissue": tissue, "n_scans": volumes.pop("n"), "median_r_of_maps": part["r"].median(),
           "min_r_of_maps": part["r"].min(), "median_slope_of_maps": part["slope"].median()}  # fmt: skip
    return {**row, **{f"volume_{name}": value for name, value in volumes.items()}}
