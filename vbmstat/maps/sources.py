"""Maps of a model from a cohort's paths, a folder, a path template or a matrix, joined with covariates strictly by id.

Over 300 lines, as each of these sources has its own checks and messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat.errors import ScanError, TableError, listed
from vbmstat.files.filenames import normalized
from vbmstat.files.naming import (
    MAP_NUMBER,
    by_known_ids,
    find_maps,
    fwhm_of,
    map_columns,
    parse_map_name,
    several_kinds,
    split_ids,
)
from vbmstat.files.search import images_instead
from vbmstat.image import storage
from vbmstat.maps.store import ArrayMaps, PackedMaps
from vbmstat.tables.cells import label, without_missing_words
from vbmstat.tables.cohort import Cohort, closest, index_by_id, join_participants, read_cohort, spelling_hint

NO_SIDECAR = "no sidecar"  # engine and version of a map without sidecar, if other maps have one


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
        What was left out.
    """

    table: pd.DataFrame
    scan_ids: tuple[str, ...]
    paths: dict[str, Path]
    maps: ArrayMaps | PackedMaps | None
    notes: tuple[str, ...]

    def select(self, kept: Sequence[bool] | np.ndarray) -> Source:
        """The source with the rows where `kept` is true."""
        ids = tuple(scan for scan, keep in zip(self.scan_ids, kept, strict=True) if keep)
        paths = {scan: self.paths[scan] for scan in ids if scan in self.paths}
        maps = None if self.maps is None else self.maps.select(ids)
        return replace(self, table=self.table[list(kept)], scan_ids=ids, paths=paths, maps=maps)


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
    return read_cohort(cohort)


def gather(maps: Any, response: str, cohort: Cohort, missing: str = "raise") -> Source:
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
        Whether maps without a row, and rows without a path, are an error or left out.

    Raises
    ------
    TableError, ScanError
        If a map has no row, a row no path, or no id is in both.
    """
    source = _gather(maps, response, cohort, missing)
    return replace(source, notes=(*cohort.notes, *source.notes))


def _gather(maps: Any, response: str, cohort: Cohort, missing: str) -> Source:
    if maps is None:
        paths, notes = _from_cohort(cohort, response, missing)
        return _joined(cohort.table, cohort.scan_ids, paths, notes)
    if isinstance(maps, np.ndarray | torch.Tensor | pd.DataFrame | ArrayMaps | PackedMaps):
        return _matched(cohort, _as_matrix(maps, cohort), missing)
    if isinstance(maps, Mapping):
        paths = {normalized(str(scan)): Path(path) for scan, path in maps.items()}
        return _with_origin(_by_folder(cohort, paths, "the given maps", missing))
    if "{" in str(maps):
        return _with_origin(_joined(cohort.table, cohort.scan_ids, _from_template(str(maps), cohort), []))
    paths = _in_folder(Path(maps), response)
    source = _with_origin(_by_folder(cohort, paths, str(maps), missing))
    parsed = parse_map_name(next(iter(paths.values())).name)
    is_unsmoothed = parsed is not None and not parsed[2]
    note = ["the maps are not smoothed"] if is_unsmoothed else _only_unsmoothed(Path(maps), response, paths, cohort)
    return replace(source, notes=(*source.notes, *note))


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
        source = replace(source.select(~empty), notes=(*source.notes, note))
    return source


def covariate_paths(maps: Any, name: str, cohort: Cohort, scan_ids: Sequence[str]) -> dict[str, Path]:
    """Maps of a voxelwise covariate for these scans, from the cohort's columns or the folder of the other maps.

    Raises
    ------
    TableError, ScanError
        If the maps are not files, or a scan has none.
    """
    if maps is None:
        paths, _ = _from_cohort(cohort, name, "drop")
    elif isinstance(maps, str | Path) and "{" not in str(maps):
        paths = by_known_ids(_in_folder(Path(maps), name), set(scan_ids))
    else:
        msg = f"map({name}) needs maps from a cohort table or a folder"
        raise TableError(msg)
    without = [scan for scan in scan_ids if scan not in paths]
    if without:
        msg = f"map({name}): no {name} map for {listed(without)}; make them or leave these scans out"
        raise TableError(msg)
    return {scan: paths[scan] for scan in scan_ids}


def refuse_mixed_kinds(paths: Mapping[str, Path], allowed: bool) -> None:
    """Refuse maps of several kinds in one model (``mwp1*`` and ``mwp1r*``, 6 and 8 mm), unless allowed."""
    kinds = "" if allowed else several_kinds(paths)
    if kinds:
        msg = f"the maps are of several kinds ({kinds}); make all of one kind, or give --allow-mixed"
        raise ScanError(msg)


def _with_origin(source: Source) -> Source:
    """The source with the columns ``engine`` and ``vbmstat_version`` from the sidecars of its maps, if any."""
    origins = [_origin(path) for path in source.paths.values()]
    if not any(origins):
        return source
    unknown = dict.fromkeys(("engine", "vbmstat_version"), NO_SIDECAR)
    columns = pd.DataFrame([origin or unknown for origin in origins], index=source.table.index)
    return replace(source, table=source.table.assign(**{c: columns[c] for c in columns if c not in source.table}))


def _origin(path: Path) -> dict[str, str]:
    """Engine and version in a map's sidecar, under its CAT12 or BIDS name; empty without one."""
    parsed = parse_map_name(path.name)
    stem = path.name if parsed is None else parsed[0]
    for sidecar in (path.parent.parent / "report" / f"vbmstat_{stem}.json",
                    path.parent / f"{stem}_desc-vbmstat_provenance.json"):  # fmt: skip
        try:
            content = storage.read_json(sidecar)
            return {"engine": str(content["engine"]), "vbmstat_version": str(content["versions"]["vbmstat"])}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def _as_matrix(maps: Any, cohort: Cohort) -> ArrayMaps | PackedMaps:
    """A matrix with row names; an array gets those of the cohort."""
    if isinstance(maps, ArrayMaps | PackedMaps):
        return maps
    if isinstance(maps, pd.DataFrame):
        keys = [key if isinstance(key, tuple) else (key,) for key in maps.index]
        index = ["_".join(filter(None, map(label, key))) for key in keys]
        return ArrayMaps(_floating(maps.to_numpy()), tuple(index), features=tuple(map(str, maps.columns)))
    values = maps.detach().cpu().numpy() if isinstance(maps, torch.Tensor) else maps
    if values.ndim != 2 or len(values) != len(cohort.scan_ids):
        expected = f"one row for each of the {len(cohort.scan_ids)} scans of the table"
        msg = f"expected a matrix with {expected}, got shape {values.shape}; give a DataFrame indexed by scan id"
        raise ScanError(msg)
    return ArrayMaps(_floating(values), tuple(cohort.scan_ids))


def _floating(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.float32 else values.astype(np.float64)


def map_column(response: str, table: pd.DataFrame) -> str:
    """Column with the map paths for a formula's left side; smoothed maps are preferred."""
    if response in MAP_NUMBER:
        number = MAP_NUMBER[response]
        candidates = map_columns(table.columns, number)
        smoothed = [name for name in candidates if fwhm_of(name) is not None]
        if len(smoothed) > 1:
            msg = f"formula: {response} may be any of the columns {', '.join(smoothed)}; keep one of them in the table"
            raise TableError(msg)
        if candidates:
            return candidates[0]
        msg = f"formula: {response} needs a column s6mwp{number} with map paths; the table has {', '.join(table)}"
        raise TableError(msg)
    if response in table:
        return response
    near = closest(response, [*MAP_NUMBER, *table.columns])
    msg = (
        f"formula: {response!r} on the left names no maps; write gm, wm, csf, wmh or a column with paths "
        f"(nearest {near or 'none'})"
    )
    raise TableError(msg)


def _from_cohort(cohort: Cohort, response: str, missing: str) -> tuple[dict[str, Path], list[str]]:
    column = map_column(response, cohort.table)
    raw = ", which holds unsmoothed maps" if column.startswith("mwp") else ""
    notes = [f"{response} maps are read from the column {column}{raw}"]
    if missing == "drop":
        empty = cohort.table[column].isna().to_numpy()
        dropped = [scan for scan, gone in zip(cohort.scan_ids, empty, strict=True) if gone]
        if dropped:
            notes.append(f"dropped {len(dropped)} scans without a {column} map: {', '.join(dropped)}")
        cohort = Cohort(cohort.table[~empty], cohort.folder)
    return dict(zip(cohort.scan_ids, cohort.paths(column), strict=True)), notes


def _from_template(template: str, cohort: Cohort) -> dict[str, Path]:
    paths = {}
    for scan, (participant, session) in zip(cohort.scan_ids, cohort.table.index, strict=True):
        try:
            name = template.format(participant_id=participant, session_id=session, scan_id=scan)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            msg = f"{template}: expected only {{participant_id}}, {{session_id}} and {{scan_id}} in braces ({error})"
            raise TableError(msg) from error
        paths[scan] = Path(name)
    return paths


def _in_folder(folder: Path, response: str) -> dict[str, Path]:
    if not folder.is_dir():
        msg = f"{folder}: no such folder of maps"
        raise ScanError(msg)
    if response not in MAP_NUMBER:
        msg = f"formula: {response!r} on the left; maps in a folder are found by tissue: write gm, wm, csf or wmh"
        raise TableError(msg)
    maps = find_maps(folder, MAP_NUMBER[response])
    if not maps:
        number = MAP_NUMBER[response]
        wanted = f"no {response} map (s6mwp{number}*, smwc{number}*, …) in it or below"
        msg = f"{folder}: {wanted}; {images_instead(folder)}"
        raise ScanError(msg)
    return _by_id(folder, maps)


def _only_unsmoothed(folder: Path, response: str, smoothed: Mapping[str, Path], cohort: Cohort) -> list[str]:
    """A note on scans of the table whose maps are in the folder, but were not smoothed as the others' were."""
    if len(smoothed) >= len(cohort.scan_ids):
        return []
    raw = _by_id(folder, find_maps(folder, MAP_NUMBER[response], smoothed=False))
    left = by_known_ids({scan: path for scan, path in raw.items() if scan not in smoothed}, set(cohort.scan_ids))
    people = set(cohort.table.index.get_level_values("participant_id"))
    lost = [
        f"{scan} ({path.name})" for scan, path in sorted(left.items())
        if split_ids(scan)[0] in people or split_ids(scan)[0].removeprefix("sub-") in people
    ]  # fmt: skip
    what = "scans have an unsmoothed map only, beside smoothed ones of others, and are left out"
    return [f"{len(lost)} {what}: {listed(lost)}; smooth them"] if lost else []


def _by_id(folder: Path, maps: Mapping[str, Path]) -> dict[str, Path]:
    """Maps by scan id, of maps by stem."""
    by_id: dict[str, Path] = {}
    for stem, path in maps.items():
        participant, session = split_ids(stem)
        scan = "_".join(filter(None, (participant, session)))
        if scan in by_id:
            msg = f"{folder}: two maps of {scan}: {by_id[scan]} and {path}; keep one of them"
            raise ScanError(msg)
        by_id[scan] = path
    return by_id


def _by_folder(cohort: Cohort, paths: dict[str, Path], source: str, missing: str) -> Source:
    """Covariates for maps, joined by id; a participants row without session applies to all sessions."""
    paths = by_known_ids(paths, set(cohort.scan_ids))
    joined, without, used = rows_of(list(paths), cohort, source)
    if without and missing == "raise":
        near, hint = closest(without[0], cohort.scan_ids), spelling_hint(without[0], cohort.scan_ids)
        msg = (
            f"{source}: no row in the table for {listed(without)} (nearest to the first: {near or 'none'}); "
            f"{hint + ', ' if hint else ''}add the rows, or leave these maps out with --missing drop"
        )
        raise TableError(msg)
    kept = [scan not in set(without) for scan in paths]
    ids = [scan for scan, keep in zip(paths, kept, strict=True) if keep]
    spare = [scan for scan in cohort.scan_ids if scan not in used]
    notes = []
    if without:
        notes.append(f"left out {len(without)} maps without a row in the table: {', '.join(without)}")
    if spare:
        notes.append(f"{len(spare)} rows of the table have no map and are not used: {', '.join(spare)}")
    return _sorted(joined[kept], ids, {scan: paths[scan] for scan in ids}, notes)


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
    twice = (
        sorted({scan for scan in maps.scan_ids if list(maps.scan_ids).count(scan) > 1})
        if len(set(maps.scan_ids)) < len(maps.scan_ids)
        else []
    )
    if twice:
        msg = f"duplicate id {listed(twice)} in the maps; keep one row per scan"
        raise TableError(msg)
    stand_in = {scan: Path(scan) for scan in maps.scan_ids}
    source = _by_folder(cohort, stand_in, "the given maps", missing)
    return Source(source.table, source.scan_ids, {}, maps.select(source.scan_ids), source.notes)


def _joined(table: pd.DataFrame, ids: Sequence[str], paths: dict[str, Path], notes: list[str]) -> Source:
    kept = [scan in paths for scan in ids]
    return _sorted(table[kept], [scan for scan in ids if scan in paths], paths, notes)


def _sorted(table: pd.DataFrame, ids: Sequence[str], paths: dict[str, Path], notes: list[str]) -> Source:
    """Rows in the order of their ids, so that results do not depend on the order of a table."""
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    names = tuple(ids[i] for i in order)
    return Source(table.iloc[order], names, {scan: paths[scan] for scan in names}, None, tuple(notes))
