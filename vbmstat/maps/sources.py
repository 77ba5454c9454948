"""Maps of a model, in files or a matrix, joined with covariates strictly by id: long by the messages of these joins."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import ScanError, TableError, listed
from vbmstat.files.filenames import normalized
from vbmstat.files.map_kinds import parse_kind
from vbmstat.files.map_names import by_known_ids
from vbmstat.files.naming import split_ids
from vbmstat.lazy import torch
from vbmstat.maps.change import Change
from vbmstat.maps.origins import origins_of_maps
from vbmstat.maps.paths import (
    Smoothing,
    from_cohort,
    from_template,
    in_folder,
    map_column,
    only_unsmoothed,
    smoothing_of,
)
from vbmstat.maps.store import ArrayMaps, PackedMaps
from vbmstat.maps.volumes import tiv_beside
from vbmstat.tables.cells import label, without_missing_words
from vbmstat.tables.cohort import (
    Cohort,
    find_column,
    index_by_id,
    join_participants,
    read_cohort,
    spelling_hint,
)
from vbmstat.tables.flow import Step, step_of
from vbmstat.tables.selection import is_left_out


@dataclass(frozen=True)
class Source:
    """A table of covariates with the maps of its rows.

    Attributes
    ----------
    table : DataFrame
        One row per scan, sorted by id.
    scan_ids : tuple of str
        Row names.
    paths : dict of str to Path
        Map of each scan if maps are files; else empty.
    maps : ArrayMaps or PackedMaps or None
        The maps themselves if they are not files.
    notes : tuple of str
        What was left out, and how the maps are smoothed.
    smoothing : Smoothing
        Of the maps.
    flow : tuple of Step
        From the rows of the table to these scans.
    change : Change, optional
        What makes rows of people of their scans, whose `paths` are given; then `scan_ids` are people.
    """

    table: pd.DataFrame
    scan_ids: tuple[str, ...]
    paths: dict[str, Path]
    maps: ArrayMaps | PackedMaps | None
    notes: tuple[str, ...]
    smoothing: Smoothing = field(default_factory=Smoothing)
    flow: tuple[Step, ...] = ()
    change: Change | None = None

    @property
    def files(self) -> dict[str, Path]:
        """File of each scan's map; of packed maps those that they were packed from, which may be gone."""
        if not isinstance(self.maps, PackedMaps):
            return self.paths
        known = self.maps.manifest["files"]
        return {scan: Path(known[scan]["path"].replace("\\", "/")) for scan in self.maps.file_ids}

    def without(self, name: str, gone: np.ndarray, note: str = "", why: Mapping[str, str] | None = None) -> Source:
        """The source without the scans where `gone`, (n_scans,), is true; the flow says why, for each if known."""
        scans = [scan for scan, leaves in zip(self.scan_ids, gone, strict=True) if leaves]
        kept = self.select(~gone)
        notes = (*self.notes, note) if note else self.notes
        return replace(kept, notes=notes, flow=(*self.flow, *step_of(name, len(kept.scan_ids), scans, why)))

    def select(self, kept: Sequence[bool] | np.ndarray) -> Source:
        """The source with the rows where `kept` is true."""
        ids = tuple(scan for scan, keep in zip(self.scan_ids, kept, strict=True) if keep)
        change = None if self.change is None else self.change.select(ids)
        paths = {scan: self.paths[scan] for scan in (change.scans if change else ids) if scan in self.paths}
        maps = None if self.maps is None else self.maps.select(ids)
        return replace(self, table=self.table[list(kept)], scan_ids=ids, paths=paths, maps=maps, change=change)


def as_cohort(cohort: Cohort | pd.DataFrame | Path | str) -> Cohort:
    """A cohort from a table in memory or a file."""
    if isinstance(cohort, Cohort):
        return cohort
    if isinstance(cohort, pd.DataFrame):
        if "participant_id" in cohort or "session_id" in cohort.index.names:
            table = cohort if "participant_id" in cohort else cohort.reset_index()
        else:
            table = cohort.assign(participant_id=cohort.index.astype(str))
        return Cohort(index_by_id(table.apply(without_missing_words), "the table"), Path())
    if not isinstance(cohort, str | Path):
        msg = f"cohort={cohort!r:.60}: expected a path, a DataFrame or a Cohort with a row for each scan"
        raise TableError(msg)
    return read_cohort(cohort)


def gather(maps: Any, response: str, cohort: Cohort, missing: str = "raise", fwhm_mm: float | None = None) -> Source:
    """Join maps and covariates by id.

    Parameters
    ----------
    maps : None, path, mapping, DataFrame, ndarray, Tensor, ArrayMaps or PackedMaps
        None: the cohort's own paths. A folder: every map of the tissue in it. A path with ``{participant_id}``
        (and ``{session_id}``, ``{scan_id}``): one file per row. A mapping: scan id to path. A DataFrame: indexed by
        scan id. An array: rows in the order of the cohort.
    response : str
        Left side of the formula: ``gm``, ``wm``, ``csf``, ``wmh`` or a column with map paths.
    cohort : Cohort
        The covariates.
    missing : {"raise", "drop"}
        Whether rows of a cohort table without a path, and maps whose id is only spelt otherwise than in the table, are
        an error or left out. Maps in a folder without a row, and rows without a map there, are left out with a note.
    fwhm_mm : float, optional
        Width that the maps shall be smoothed with: those that have it are used as they are, unsmoothed ones are to be
        smoothed when they are packed; 0 for unsmoothed maps. By default maps are used as they are, smoothed ones first.

    Raises
    ------
    TableError, ScanError
        If an id is spelt in two ways, a row has no path, or no id is in both;
        if maps are smoothed by another width than `fwhm_mm`.
    """
    if isinstance(maps, pd.DataFrame | ArrayMaps | PackedMaps) or is_array(maps):
        if fwhm_mm is not None:
            msg = "only maps in files can be smoothed: leave --fwhm out, or smooth them in vbmstat pack --fwhm"
            raise ScanError(msg)
        source = _matched(cohort, as_matrix(maps, cohort), missing)
    elif maps is None:
        column = map_column(response, cohort.table, fwhm_mm)
        paths, dropped = from_cohort(cohort, column, missing)
        kind = parse_kind(column)
        raw = ", which holds unsmoothed maps" if kind is not None and not kind.fwhm_mm else ""
        notes = [f"{response} maps are read from the column {column}{raw}", *dropped]
        source = _joined(cohort, cohort.table, cohort.scan_ids, paths, notes)
        source = replace(source, smoothing=smoothing_of(source.paths, fwhm_mm, column))
    else:
        source = _from_files(maps, response, cohort, missing, fwhm_mm)
        source = replace(source, smoothing=smoothing_of(source.paths, fwhm_mm))
    return replace(source, notes=(*cohort.notes, *source.notes, *filter(None, [source.smoothing.note])))


def _from_files(maps: Any, response: str, cohort: Cohort, missing: str, fwhm_mm: float | None) -> Source:
    if isinstance(maps, Mapping):
        paths = {normalized(str(scan)): Path(path) for scan, path in maps.items()}
        return _with_origin(_by_folder(cohort, paths, "the given maps", missing))
    if not isinstance(maps, str | Path):
        expected = "None, a folder, a path with {participant_id}, {scan id: path}, or numbers"
        msg = f"maps={maps!r:.60}: expected {expected}"
        raise ScanError(msg)
    if "{" in str(maps):
        return _with_origin(_joined(cohort, cohort.table, cohort.scan_ids, from_template(str(maps), cohort), []))
    paths = in_folder(Path(maps), response, fwhm_mm)
    left = only_unsmoothed(Path(maps), response, paths, cohort) if fwhm_mm is None else []
    source = _with_origin(_by_folder(cohort, paths, str(maps), missing))
    return replace(source, notes=(*source.notes, *left))


def map_folders(maps: Any) -> list[Path]:
    """Folders of a set of maps in which lists of exclusions may lie: its own, and the one above ``mri/``."""
    if not isinstance(maps, str | Path) or "{" in str(maps):
        return []
    folder = Path(maps)
    return [folder, folder.absolute().parent] if folder.absolute().name == "mri" else [folder]


def with_tiv(source: Source) -> Source:
    """The source with the column ``tiv_ml`` from the files beside its maps, if the table has no TIV and they have."""
    if not source.paths or source.change is not None or find_column("tiv", source.table) is not None:
        return source
    tiv, found = tiv_beside(source.paths)
    if tiv.isna().all():
        return source
    values = tiv.reindex(list(source.scan_ids)).to_numpy()
    note = f"the table has no TIV; it is read from {found}"
    return replace(source, table=source.table.assign(tiv_ml=values), notes=(*source.notes, note))


def with_columns(source: Source, roles: Mapping[str, str], missing: str) -> Source:
    """The source with only scans that have a value in each of these columns (weights, blocks, sites …).

    Parameters
    ----------
    source : Source
        With these columns, or ids of their name.
    roles : mapping of str to str
        Column -> its role in the model, for messages; empty if the name says it.
    missing : {"raise", "drop"}
        Whether scans without a value are an error, or left out with a note.

    Raises
    ------
    TableError
        If a scan has no value and `missing` is not ``"drop"``.
    """
    for name, role in roles.items():
        if name not in source.table:
            continue  # an id, which every scan has
        column = without_missing_words(source.table[name])
        empty = column.isna().to_numpy()
        if not empty.any():
            continue
        without = [scan for scan, gone in zip(source.scan_ids, empty, strict=True) if gone]
        if missing != "drop":
            what = f"{name} ({role})" if role else name
            msg = f"no {what} for {listed(without)}; fill it in or leave these scans out with --missing drop"
            raise TableError(msg)
        if empty.all():
            msg = f"no scan has a value in the column {name}; fill it in"
            raise TableError(msg)
        note = f"dropped {len(without)} scans without {name}: {', '.join(without)}"
        source = source.without(f"no value of {name}", empty, note)
    return source


def covariate_paths(
    maps: Any, name: str, cohort: Cohort, scan_ids: Sequence[str], fwhm_mm: float | None = None
) -> tuple[dict[str, Path], Smoothing]:
    """Maps of a voxelwise covariate for these scans, from the cohort's columns or the folder of the other maps.

    The second value says how they are to be smoothed, as `gather` says it of the other maps.

    Raises
    ------
    TableError, ScanError
        If the maps are not files, or a scan has none.
    """
    column = ""
    if maps is None:
        column = map_column(name, cohort.table, fwhm_mm)
        paths, _ = from_cohort(cohort, column, "drop")
    elif isinstance(maps, str | Path) and "{" not in str(maps):
        paths = by_known_ids(in_folder(Path(maps), name, fwhm_mm), set(scan_ids))
    else:
        msg = f"map({name}) needs maps from a cohort table or a folder"
        raise TableError(msg)
    without = [scan for scan in scan_ids if scan not in paths]
    if without:
        msg = f"map({name}): no {name} map for {listed(without)}; make them or leave these scans out"
        raise TableError(msg)
    paths = {scan: paths[scan] for scan in scan_ids}
    return paths, smoothing_of(paths, fwhm_mm, column)


def _with_origin(source: Source) -> Source:
    """The source with engine, version and the count of hypointensities from the sidecars of its maps, if any."""
    columns = origins_of_maps(source.files.values()).set_axis(source.table.index)
    return replace(source, table=source.table.assign(**{c: columns[c] for c in columns if c not in source.table}))


def is_array(maps: Any) -> bool:
    """Whether maps are an array or a tensor."""
    return isinstance(maps, np.ndarray) or ("torch" in sys.modules and isinstance(maps, torch.Tensor))


def as_matrix(maps: Any, cohort: Cohort) -> ArrayMaps | PackedMaps:
    """A matrix with row names; an array gets those of the cohort."""
    if isinstance(maps, ArrayMaps | PackedMaps):
        return maps
    if isinstance(maps, pd.DataFrame):
        keys = [key if isinstance(key, tuple) else (key,) for key in maps.index]
        index = ["_".join(filter(None, map(label, key))) for key in keys]
        return ArrayMaps(maps.to_numpy(), tuple(index), features=tuple(map(str, maps.columns)))
    values = maps if isinstance(maps, np.ndarray) else maps.detach().cpu().numpy()
    if values.ndim != 2 or len(values) != len(cohort.scan_ids):
        expected = f"one row for each of the {len(cohort.scan_ids)} scans of the table"
        msg = f"expected a matrix with {expected}, got shape {values.shape}; give a DataFrame indexed by scan id"
        raise ScanError(msg)
    return ArrayMaps(values, tuple(cohort.scan_ids))


def _by_folder(cohort: Cohort, paths: dict[str, Path], source: str, missing: str) -> Source:
    """Covariates for maps, joined by id; a participants row without session applies to all sessions.

    Maps without a row and rows without a map are left out with a note; ids that differ only in their spelling are not.
    """
    paths = by_known_ids(paths, {*cohort.scan_ids, *cohort.left_out})
    paths = {scan: path for scan, path in paths.items() if not is_left_out(scan, cohort.left_out)}
    if not paths:
        msg = f"{source}: the selection leaves out every map; change --exclude, --where or exclusions.tsv"
        raise TableError(msg)
    joined, without, used = rows_of(list(paths), cohort, source)
    misspelt = {scan: hint for scan in without if (hint := spelling_hint(scan, cohort.scan_ids))}
    if misspelt and missing == "raise":
        hint = next(iter(misspelt.values()))
        msg = (
            f"{source}: no row in the table for {listed(list(misspelt))}; {hint}, or leave these maps out with "
            "--missing drop"
        )
        raise TableError(msg)
    spare = [scan for scan in cohort.scan_ids if scan not in used]
    notes: list[str] = []
    steps: list[Step] = []
    for name, scans, note in (
        ("maps without a row in the table", without, "left out {} maps without a row in the table"),
        ("no map", spare, "{} rows of the table have no map and are not used"),
    ):
        notes += [f"{note.format(len(scans))}: {', '.join(scans)}"] if scans else []
        steps += step_of(name, len(paths) - len(without), scans)
    found = {scan: paths[scan] for scan in paths if scan not in set(without)}
    return _joined(replace(cohort, flow=(*cohort.flow, *steps)), joined, list(paths), found, notes)


def rows_of(scans: list[str], cohort: Cohort, source: str) -> tuple[pd.DataFrame, list[str], set[str]]:
    """Rows of the table for these scans, the scans without a row, and the ids of the rows used.

    Raises
    ------
    TableError
        If no scan has a row.
    """
    position = {scan: i for i, scan in enumerate(cohort.scan_ids)}
    if any(scan in position for scan in scans):
        rows = [position.get(scan, -1) for scan in scans]
        without = [scan for scan in scans if scan not in position]
        return cohort.table.iloc[rows], without, set(scans)
    keys = [split_ids(scan) for scan in scans]
    index = pd.MultiIndex.from_tuples(keys, names=["participant_id", "session_id"])
    joined, without = join_participants(pd.DataFrame(index=index), cohort.table, source)
    participants = {key[0] for key in keys}
    used = {
        scan
        for scan, (participant, _) in zip(cohort.scan_ids, cohort.table.index, strict=True)
        if participant in participants or f"sub-{participant}" in participants
    }
    return joined, without, used


def _matched(cohort: Cohort, maps: ArrayMaps | PackedMaps, missing: str) -> Source:
    """Covariates for a matrix with row names."""
    twice = sorted(scan for scan, count in Counter(maps.scan_ids).items() if count > 1)
    if twice:
        msg = f"duplicate id {listed(twice)} in the maps; keep one row per scan"
        raise TableError(msg)
    stand_in = {scan: Path(scan) for scan in maps.scan_ids}
    source = _by_folder(cohort, stand_in, "the given maps", missing)
    source = replace(source, paths={}, maps=maps.select(source.scan_ids))
    if not isinstance(maps, PackedMaps):
        return source
    smoothing = replace(smoothing_of(source.files, None), applied_mm=maps.manifest.get("fwhm_mm", 0.0))
    return _with_origin(replace(source, smoothing=smoothing))


def _joined(
    cohort: Cohort, table: pd.DataFrame, ids: Sequence[str], paths: dict[str, Path], notes: list[str]
) -> Source:
    """Rows with a map, in the order of their ids, so that results do not depend on the order of a table."""
    order = sorted((i for i, scan in enumerate(ids) if scan in paths), key=lambda i: ids[i])
    names = tuple(ids[i] for i in order)
    found = {scan: paths[scan] for scan in names}
    return Source(table.iloc[order], names, found, None, tuple(notes), flow=cohort.flow)
