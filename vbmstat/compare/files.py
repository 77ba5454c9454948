"""Compare two statistic maps, result folders of a model, folders of maps of the same scans, or ROI tables.

Over 300 lines, as four kinds of input share their notes and messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import assets
from vbmstat.compare.config import TISSUES
from vbmstat.compare.inputs import by_scan
from vbmstat.compare.statistics import MapPair, compare_pair, find_statistics, pair_statistics
from vbmstat.compare.tables import join_rois, roi_agreement
from vbmstat.errors import ScanError, TableError, listed
from vbmstat.files import map_names, naming
from vbmstat.files.search import images_instead
from vbmstat.image import io
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.metrics import agreement
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables.cohort import read_table

_TEMPLATE_FROM = 0.1  # maps of scans are compared where the template's tissue exceeds this
_TABLE_SUFFIXES = (".tsv", ".csv", ".xlsx")


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare_files`.

    Attributes
    ----------
    kind : {"maps", "results", "scans", "rois"}
        Kind of A and B.
    names : (str, str)
        Names of A and B in figures.
    table : DataFrame
        One row per contrast and statistic, per scan and tissue, or per region and tissue.
    summary : DataFrame
        A summary of the table.
    notes : tuple of str
        What was left out, resampled, or differs.
    pairs : tuple of MapPair
        The statistic maps.
    values : DataFrame
        Paired volumes (tidy: a_ml, b_ml) of scans or regions.
    by : str
        Column of `values` that identifies a row of the table.
    """

    kind: str
    names: tuple[str, str]
    table: pd.DataFrame
    summary: pd.DataFrame
    notes: tuple[str, ...]
    pairs: tuple[MapPair, ...] = ()
    values: pd.DataFrame = field(default_factory=pd.DataFrame)
    by: str = ""


def compare_files(
    a: Path,
    b: Path,
    *,
    mask: Path | None = None,
    levels: Sequence[float] = agreement.T_LEVELS,
    names: tuple[str, str] | None = None,
    report: OnProgress = ignore,
) -> Comparison:
    """Compare two statistic maps, two result folders of a model, two folders of maps of the same scans, or ROI tables.

    Parameters
    ----------
    a, b : Path
        Two of the same kind; `a` is the reference.
    mask : Path, optional
        For statistic maps: voxels to compare, on the grid of `a`.
    levels : sequence of float
        Levels for the overlap of voxels beyond ±level.
    names : (str, str), optional
        Their names; by default the parts in which the paths differ.
    report : callable
        Called with (stage, done, total).

    Raises
    ------
    ScanError, TableError
        If a path is none of these, the two are of different kinds, or have nothing in common.
    """
    kinds = [_kind(path) for path in (a, b)]
    if kinds[0] != kinds[1]:
        words = {
            "maps": "a statistic map", "results": "a folder of statistic maps", "scans": "a folder of maps of scans",
            "rois": "a table",
        }  # fmt: skip
        msg = f"{a} is {words[kinds[0]]}, {b} is {words[kinds[1]]}; compare two of a kind"
        raise ScanError(msg)
    names = names or short_names(a, b)
    if kinds[0] in ("scans", "rois") and mask is not None:
        msg = "--mask is for statistic maps"
        raise ScanError(msg)
    if kinds[0] == "maps":
        return _statistics("maps", [("", a, b)], [], names, mask, levels, report)
    if kinds[0] == "results":
        pairs, notes = pair_statistics(a, b)
        return _statistics("results", pairs, notes, names, mask, levels, report)
    return compare_scans(a, b, names, report) if kinds[0] == "scans" else compare_rois(a, b, names)


def _kind(path: Path) -> str:
    if path.is_dir():
        if find_statistics(path):
            return "results"
        if any(map_names.find_maps(path, tissue) for tissue in TISSUES.values()):
            return "scans"
        msg = (
            f"{path}: expected statistic maps (contrast-*_statmap.nii.gz, spmT_*.nii) or modulated maps of scans "
            f"(mwp1*, s6mwp1*, mwc1*), found neither; {images_instead(path)}"
        )
        raise ScanError(msg)
    if not path.exists():
        msg = f"{path}: no such file or folder"
        raise ScanError(msg)
    return "rois" if path.suffix.lower() in _TABLE_SUFFIXES else "maps"


def short_names(a: Path, b: Path) -> tuple[str, str]:
    """The last parts in which two paths differ.

    Examples
    --------
    >>> short_names(Path("out/classic/ds1"), Path("out/cat/ds1"))
    ('classic', 'cat')
    >>> short_names(Path("x/one.nii.gz"), Path("x/one.nii.gz"))
    ('one', 'one (again)')
    """
    parts = [list(path.absolute().parts)[::-1] for path in (a, b)]
    for one, other in zip(*parts, strict=False):
        if one != other:
            return naming.image_stem(Path(one)), naming.image_stem(Path(other))
    name = naming.image_stem(a)
    return name, f"{name} (again)"


def _statistics(
    kind: str,
    paths: Sequence[tuple[str, Path, Path]],
    notes: Sequence[str],
    names: tuple[str, str],
    mask: Path | None,
    levels: Sequence[float],
    report: OnProgress,
) -> Comparison:
    pairs = []
    for done, (name, one, other) in enumerate(paths, 1):
        pair = compare_pair(one, other, mask, levels)
        pairs.append(replace(pair, name=name) if name else pair)
        report("comparing", done, len(paths))
    rows = [{"name": pair.name, "statistic": pair.kind, **pair.row} for pair in pairs]
    table = pd.DataFrame(rows)
    of_pairs = [note if kind == "maps" else f"{p.name}, {p.kind}: {note}" for p in pairs for note in p.notes]
    main = ["name", "statistic", "n_voxels", "r", "slope", "intercept", "sd_ratio", "bias", "peak_a", "peak_b",
            "peak_distance_mm"]  # fmt: skip
    main += [f"dice_t{level:g}" for level in levels]
    return Comparison(kind, names, table, table[main], (*notes, *of_pairs), tuple(pairs))


def compare_scans(a: Path, b: Path, names: tuple[str, str], report: OnProgress = ignore) -> Comparison:
    """Compare modulated maps of the same scans in two folders, scan by scan, where the template's tissue exceeds 0.1.

    Smoothed maps are compared if both folders have them, otherwise unsmoothed ones.

    Raises
    ------
    ScanError, TableError
        If the folders have no tissue or no scan in common.
    """
    rows, notes = [], []
    for tissue, number in TISSUES.items():
        chosen = _maps_alike(a, b, number)
        if chosen is None:
            notes.append(f"{tissue}: the folders do not both have smoothed maps, nor both unsmoothed ones")
            continue
        maps_of = [by_scan(maps) for maps in chosen]
        common = agreement.match_ids(list(maps_of[0]), list(maps_of[1]))
        for which, maps in zip("AB", maps_of, strict=True):
            spare = [scan for scan in maps if scan not in common]
            if spare:
                notes.append(f"{tissue}: only {which} has {len(spare)} scans ({listed(spare)})")
        where: dict[str, Any] = {}
        for done, scan in enumerate(common, 1):
            row = _compare_scan(maps_of[0][scan], maps_of[1][scan], number, where, notes)
            rows.append({"scan": scan, "tissue": tissue, **row})
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


def _compare_scan(a: Path, b: Path, number: int, where: dict[str, Any], notes: list[str]) -> dict[str, float]:
    one, other = _read_map(a), _read_map(b)
    volumes = {which: Volume(v.data.nan_to_num(), v.grid).sums_ml[0] for which, v in (("a_ml", one), ("b_ml", other))}
    if not other.grid.matches(one.grid):
        notes.append(f"maps of B were resampled (trilinear) from {other.grid} to A's grid {one.grid}")
        other, _ = agreement.on_grid(other, other.data[0].isfinite(), one.grid)
    if not where or not where["grid"].matches(one.grid):
        template = assets.template()
        where.update(grid=one.grid)
        where["mask"] = resample(template.data[number - 1 : number], template.grid, one.grid)[0] > _TEMPLATE_FROM
    inside = where["mask"] & one.data[0].isfinite() & other.data[0].isfinite()
    if not inside.any():
        which = b if (where["mask"] & one.data[0].isfinite()).any() else a
        msg = f"{which}: no value where the template has this tissue; is it in template space, or NaN everywhere?"
        raise ScanError(msg)
    values = [volume.data[0][inside].numpy() for volume in (one, other)]
    flat = [str(path) for path, value in zip((a, b), values, strict=True) if value.min() == value.max()]
    if flat:
        notes.append(f"constant maps have no correlation: {' and '.join(flat)}")
    measures = asdict(agreement.agreement(*values))
    return {"n_voxels": measures.pop("n"), **measures, **volumes}


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


def compare_rois(a: Path, b: Path, names: tuple[str, str]) -> Comparison:
    """Compare tidy ROI tables of ``vbmstat roi`` (labels or regions), joined by scan and label.

    Raises
    ------
    TableError
        If columns are missing, the atlases differ, or nothing is in common.
    """
    tables = [read_rois(path) for path in (a, b)]
    by = "label" if all("label" in table for table in tables) else "region"
    lacking = [path for path, table in zip((a, b), tables, strict=True) if by not in table]
    if lacking or "label" in tables[0].columns.symmetric_difference(tables[1].columns):
        msg = f"{a} and {b}: one has labels, the other merged regions; compare two of a kind (roi_ATLAS_labels.tsv)"
        raise TableError(msg)
    _refuse_other_atlas(a, b)
    scans = [list(dict.fromkeys(_scan_ids(table))) for table in tables]
    common = agreement.match_ids(scans[0], scans[1])
    notes = []
    for which, ids, table, other in (("A", scans[0], *tables), ("B", scans[1], *tables[::-1])):
        spare = [scan for scan in ids if scan not in set(common)]
        if spare:
            notes.append(f"only {which} has {len(spare)} scans ({listed(spare)})")
        gone = [str(name) for name in dict.fromkeys(table[by]) if name not in set(other[by])]
        if gone:
            notes.append(f"only {which} has the {by}s {listed(gone)}; they are left out")
    joined = join_rois(tables[0], tables[1], by)
    table = roi_agreement(joined, by)
    notes += _vanished(table, by, len(common))
    summary = pd.DataFrame([_roi_summary(tissue, part, by) for tissue, part in table.groupby("tissue", sort=False)])
    return Comparison("rois", names, table, summary, tuple(notes), values=joined, by=by)


def read_rois(path: Path) -> pd.DataFrame:
    """A tidy ROI table, ids as text, labels as whole numbers.

    Raises
    ------
    TableError
        If it lacks participant_id, label or region, or a volume in mL.
    """
    table = read_table(path)
    has_key = "label" in table or "region" in table
    volumes = [column for column in table if str(column) in ("gm_ml", "wm_ml", "csf_ml")]
    if "participant_id" not in table or not has_key or not volumes:
        msg = (
            f"{path}: expected the tidy table of vbmstat roi (participant_id, label or region, gm_ml …), "
            f"got {', '.join(map(str, table.columns[:6]))} …"
        )
        raise TableError(msg)
    if "label" in table:
        labels = pd.to_numeric(table["label"], errors="coerce")
        if labels.isna().any() or (labels != labels.round()).any():
            msg = f"{path}: expected a whole number in every row of label"
            raise TableError(msg)
        table["label"] = labels.astype(int)
    return table


def _scan_ids(table: pd.DataFrame) -> pd.Series:
    ids = table["participant_id"].astype(str)
    if "session_id" not in table:
        return ids
    session = table["session_id"].fillna("").astype(str)
    return ids.where(session == "", ids + "_" + session)


def _refuse_other_atlas(a: Path, b: Path) -> None:
    """Refuse tables of different atlases, which their data dictionaries name."""
    atlases = []
    for path in (a, b):
        try:
            atlases.append(pd.read_json(path.with_suffix(".json"), typ="series")["vbmstat"]["atlas"])
        except (OSError, ValueError, KeyError, TypeError):
            return
    if atlases[0] != atlases[1]:
        msg = f"{a} is of the atlas {atlases[0]}, {b} of {atlases[1]}; measure both in one atlas (vbmstat roi --atlas)"
        raise TableError(msg)


def _vanished(table: pd.DataFrame, by: str, n_scans: int) -> list[str]:
    short = table[table["n_scans"] < n_scans]
    rows = [f"{getattr(row, by)} {row.tissue} ({row.n_scans} scans)" for row in short.itertuples()]
    return [f"volumes are missing in some scans: {listed(rows)}"] if rows else []


def _roi_summary(tissue: Any, part: pd.DataFrame, by: str) -> dict[str, Any]:
    known = part.dropna(subset="r")
    worst = known.loc[known["r"].idxmin()] if len(known) else None
    name = next(column for column in ("name", "region", by) if column in part)
    return {
        "tissue": tissue, "n_regions": len(part), "n_scans": int(part["n_scans"].max()),
        "median_r": part["r"].median(), "min_r": part["r"].min(), "of": None if worst is None else worst[name],
        "n_r_above_0.9": int((part["r"] > 0.9).sum()), "median_slope": part["slope"].median(),
    }  # fmt: skip
