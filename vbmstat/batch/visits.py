"""Which scans are a person's sessions, when they were made, and with which scanner: from tables and JSON files."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.errors import ScanError, TableError, VbmstatError, listed
from vbmstat.files import naming
from vbmstat.files.search import Inputs
from vbmstat.image import io, storage
from vbmstat.tables.cohort import read_cohort, read_table
from vbmstat.tables.sheets import id_name

# Columns with the time of a session (without punctuation), and the order in which they are believed
_TIMES = {"years": ("years",), "date": ("acqtime", "date", "scandate", "acquisitiondate"), "age": ("age",)}
_KINDS = tuple(_TIMES)
_DAYS_A_YEAR = 365.25
_MOST_YEARS = 50.0  # between sessions; a longer time is an error in a date
_SCANNER = {
    "Manufacturer": "manufacturer", "ManufacturersModelName": "model", "MagneticFieldStrength": "field strength",
    "SoftwareVersions": "software",
}  # fmt: skip
_VOXEL = "voxel size"
log = logging.getLogger(__name__)


def read_subjects(path: Path | str) -> Inputs:
    """Scans in a table with the columns participant_id, session_id and path, and its rows.

    Paths start from the table's folder. Ids become BIDS labels, as outputs need them: 002_S_0413 is sub-002S0413.

    Raises
    ------
    TableError
        If there is no column path, a path is missing or given twice, or two ids become equal.
    """
    cohort = read_cohort(path)
    table = cohort.table
    if "path" not in table or table["path"].isna().any():
        empty = [
            scan for scan, gone in zip(cohort.scan_ids, table.get("path", pd.Series()).isna(), strict=False) if gone
        ]
        columns = [*table.index.names, *table.columns]
        what = f"no path for {', '.join(empty)}" if empty else f"the table has {', '.join(map(str, columns))}"
        msg = f"{path}: expected the columns participant_id, session_id and path (of the scan's file); {what}"
        raise TableError(msg)
    ids = [(_labelled("sub", person), _labelled("ses", session)) for person, session in table.index]
    scans = tuple(
        naming.Scan((cohort.folder / str(file)).absolute(), "_".join(filter(None, (*key, "T1w"))), *key)
        for key, file in zip(ids, table["path"], strict=True)
    )
    files = [scan.path for scan in scans]
    shared = next((file for file in files if files.count(file) > 1), None)
    if shared is not None:
        of = listed([scan for scan, file in zip(cohort.scan_ids, files, strict=True) if file == shared])
        msg = f"{path}: {shared} is the scan of {of}; expected a file of its own for each"
        raise TableError(msg)
    twice = [key for key in dict.fromkeys(ids) if ids.count(key) > 1]
    if twice:
        one, other = (at for at, key in zip(table.index, ids, strict=True) if key == twice[0])
        msg = (
            f"{path}: the ids {' '.join(one)} and {' '.join(other)} become equal (letters and digits only); rename one"
        )
        raise TableError(msg)
    gone = [file for file in files if not file.is_file()]
    if gone:
        log.warning("%s: %d of %d files are not there: %s; paths start from the folder of the table",
                    path, len(gone), len(files), listed(gone, 3))  # fmt: skip
    rows = table.drop(columns="path").set_axis(pd.MultiIndex.from_tuples(ids, names=table.index.names))
    return Inputs(scans, {}, rows)


def _labelled(entity: str, text: str) -> str:
    """``sub-002S0413`` of 002_S_0413, ``sub-1`` of the number 1.0; empty for an empty text."""
    whole = re.sub(r"^(\d+)\.0+$", r"\1", text.removeprefix(f"{entity}-"))
    label = re.sub(r"[^A-Za-z0-9]", "", whole)
    return f"{entity}-{label}" if label else ""


def people_of(inputs: Inputs) -> tuple[Inputs, list[tuple[naming.Scan, ...]]]:
    """The scans of each person with several sessions, and each other scan by itself.

    Returns
    -------
    inputs : Inputs
        Without second scans of a session of these people, which are not time points.
    people : list of tuple of Scan
        In the order of their first scans; sessions in the natural order of their names.

    Raises
    ------
    ScanError
        If nobody has several sessions.
    """
    by_person: dict[str, dict[str, list[naming.Scan]]] = {}
    for scan in sorted(inputs.scans, key=lambda scan: natural_key(scan.stem)):
        by_person.setdefault(scan.participant_id, {}).setdefault(scan.session_id, []).append(scan)
    spare = {
        other: f"second scan of {scans[0].session_id or 'a session'}; longitudinal: one a session ({scans[0].stem})"
        for sessions in by_person.values() if len(sessions) > 1
        for scans in sessions.values() for other in scans[1:]
    }  # fmt: skip
    if all(len(sessions) == 1 for sessions in by_person.values()):
        msg = "--longitudinal: no participant has scans of two sessions (sub-X_ses-Y_T1w, or --subjects); leave it out"
        raise ScanError(msg)
    if spare:
        log.warning("longitudinal preprocessing takes one scan a session and leaves %d out: %s (see inputs.tsv)",
                    len(spare), listed([scan.stem for scan in spare]))  # fmt: skip
    kept = inputs.without(lambda scan: spare.get(scan, ""))
    people: dict[Any, tuple[naming.Scan, ...]] = {}
    for scan in kept.scans:
        sessions = by_person[scan.participant_id]
        several = len(sessions) > 1
        key = scan.participant_id if several else scan
        people[key] = tuple(each[0] for each in sessions.values()) if several else (scan,)
    return kept, list(people.values())


def natural_key(text: str) -> list[tuple[int, str]]:
    """Key of the order in which session 10 follows session 2."""
    return [(int(part or 0) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", text)]


Column = tuple[int, int, int]  # kind of time, table and name: the first is believed first
Rows = Mapping[tuple[str, str], Mapping[str, Any]]  # of tables, by participant and session without sub- and ses-


def rows_by_session(table: pd.DataFrame | None) -> Rows:
    """Rows of a table indexed by (participant_id, session_id); those without a session say no time and are left out."""
    if table is None:
        return {}
    keys = [(_bare(person), _bare(session)) for person, session in table.index]
    rows = dict(zip(keys, table.to_dict("records"), strict=True))
    return {key: {str(name): value for name, value in row.items()} for key, row in rows.items() if key[1]}


def _bare(text: str) -> str:
    return re.sub("^(sub|ses)-", "", text)


def in_order_of_time(
    scans: Sequence[naming.Scan], rows: Rows
) -> tuple[tuple[naming.Scan, ...], tuple[float, ...] | None, str]:
    """A person's scans, the earliest first, and their years since it; if these are not known as given, None, and why.

    Dates may have been moved by a number of days that is the person's own, as is done for privacy.

    Parameters
    ----------
    scans : sequence of Scan
        Beside those of a BIDS dataset, ``sub-X_sessions.tsv`` and ``sub-X_ses-Y_scans.tsv`` are read.
    rows : mapping
        Rows of :func:`rows_by_session` with one of the columns years, date (or acq_time) and age.
    """
    known = [_times_of(scan, rows) for scan in scans]
    why = ""
    for column in sorted(set[Column]().union(*known)):
        if not all(column in one for one in known):
            continue
        first = min(one[column] for one in known)
        years = tuple(round(one[column] - first, 4) for one in known)
        if 0 < max(years) <= _MOST_YEARS:
            order = sorted(range(len(scans)), key=years.__getitem__)
            return tuple(scans[k] for k in order), tuple(years[k] for k in order), ""
        why = why or f"{_KINDS[column[0]]}: the sessions are {max(years):.4g} years apart"
    without = [scan.session_id or scan.stem for scan, one in zip(scans, known, strict=True) if not one]
    why = why or f"no date or age of {', '.join(without) or 'the same kind for all sessions'}"
    unread = next((text for scan in scans for text in _no_dates(scan, rows)), None)
    return tuple(scans), None, why if unread is None else f"{why}; {unread} is no date such as 2003-12-31"


def _no_dates(scan: naming.Scan, rows: Rows) -> list[str]:
    """What stands in the columns of dates and is none."""
    given = [
        value for row in _rows_of(scan, rows) for name, value in row.items() if id_name(str(name)) in _TIMES["date"]
    ]
    return [str(value) for value in given if pd.notna(value) and _as_years("date", value) is None]


def _times_of(scan: naming.Scan, rows: Rows) -> dict[Column, float]:
    """Years for a scan, by the columns that have them: each has an origin of its own, so columns are not mixed."""
    found: dict[Column, float] = {}
    for table, row in enumerate(_rows_of(scan, rows)):
        for name, value in row.items():
            column = id_name(str(name))
            kind = next((kind for kind, names in _TIMES.items() if column in names), None)
            number = None if kind is None else _as_years(kind, value)
            if kind is not None and number is not None:
                found[_KINDS.index(kind), table, _TIMES[kind].index(column)] = number
    return found


def _rows_of(scan: naming.Scan, rows: Rows) -> Iterator[Mapping[str, Any]]:
    """Rows of a session in the user's table, its BIDS dataset's sessions.tsv and scans.tsv; empty where it has none."""
    key = (_bare(scan.participant_id), _bare(scan.session_id))
    yield rows.get(key, {})
    folder = next((place for place in scan.path.parents if place.name == scan.participant_id), None)
    if folder is None or not scan.session_id:
        return
    sessions = _table(folder / f"{scan.participant_id}_sessions.tsv")
    if sessions is None or "session_id" not in sessions:
        yield {}
    else:
        by_session = rows_by_session(sessions.assign(p=key[0]).set_index(["p", "session_id"]))
        yield by_session.get(key, {})
    files = _table(scan.path.parent.parent / f"{scan.participant_id}_{scan.session_id}_scans.tsv")
    if files is not None and "filename" in files:
        yield from files[files["filename"].astype(str).str.endswith(f"/{scan.path.name}")].to_dict("records")


def _table(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return read_table(path)
    except TableError as error:
        log.warning("%s", error)
        return None


def _as_years(kind: str, value: Any) -> float | None:
    """A date, age or number of years as years; None if it is none."""
    try:
        if kind == "date":
            return date.fromisoformat(str(value)[:10]).toordinal() / _DAYS_A_YEAR
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def scanner_changes(paths: Iterable[Path]) -> list[str]:
    """What differs from the first scan in the scanner of each, by the JSON files beside them, and in the voxel size.

    Examples
    --------
    ``software N4 -> XA30; voxel size 1 x 1 x 1 mm -> 1.2 x 1 x 1 mm``; empty where nothing does.
    """
    facts = [_scanner(path) for path in paths]
    first = facts[0]
    return [
        "; ".join(
            f"{name} {first[name]} -> {value}" for name, value in one.items()
            if name in first and value != first[name]
        )
        for one in facts
    ]  # fmt: skip


def _scanner(path: Path) -> dict[str, str]:
    """Scanner and voxel size of a scan, as far as they are known."""
    try:
        content = storage.read_json(path.with_name(f"{naming.image_stem(path)}.json"))
    except (OSError, ValueError):
        content = {}
    known = content if isinstance(content, dict) else {}
    facts = {name: " ".join(str(known[key]).split()) for key, name in _SCANNER.items() if known.get(key)}
    try:
        sizes = io.read_grid(path).voxel_size_mm
    except VbmstatError:  # the scan fails when it is read
        return facts
    return {**facts, _VOXEL: " x ".join(f"{round(float(size), 2):g}" for size in sizes) + " mm"}
