"""The cohort for the page: its table, the state of each scan, a scan's images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from vbmstat import __version__
from vbmstat.errors import TableError, VbmstatError
from vbmstat.files import map_kinds, naming
from vbmstat.files.search import find_inputs
from vbmstat.glm.design.covariates import is_number
from vbmstat.glm.design.sites import is_site_name
from vbmstat.image import storage
from vbmstat.report.preprocessing import unusual_values
from vbmstat.report.run_folder import FAILURES, Preprocessing, read_failures, read_run
from vbmstat.tables import cells, dictionary
from vbmstat.tables.cohort import (
    ID_COLUMNS,
    TEXT_COLUMNS,
    Cohort,
    is_id_name,
    join_participants,
    read_cohort,
)
from vbmstat.tables.exclusions import read_exclusions
from vbmstat.tables.selection import EXCLUSIONS
from vbmstat.ui.commands import command_line
from vbmstat.ui.plain import plain
from vbmstat.ui.study import COHORT, MissingError, Study

_MOST_LEVELS = 50


def summary(study: Study, results: int) -> dict[str, Any]:
    """What the folder holds, and a sentence on what to do where it holds little.

    Parameters
    ----------
    study : Study
        The folder.
    results : int
        How many models it holds.
    """
    has_table = (study.run / COHORT).is_file()
    found = cohort(study)["rows"] if has_table or not results else []
    kind = "cohort" if has_table else "results" if results else "bids" if found else "empty"
    messages = {
        "cohort": [],
        "results": ["There is no cohort.tsv here, so only the results can be looked at."],
        "bids": [_progress(study, found)],
        "empty": [
            "There is nothing to look at here: no cohort.tsv of vbmstat preprocess, no results of vbmstat glm, and no "
            "T1w scans (sub-*/anat/*_T1w.nii.gz, or images in the folder itself). Open a folder of the list below, or "
            "start vbmstat ui with another one."
        ],
    }[kind]
    if has_table and not any(row["status"] == "done" for row in found):
        messages = [*messages, "No scan is complete yet."]
    return {
        "path": str(study.root), "version": __version__, "kind": kind, "n_scans": len(found),
        "n_failed": sum(row["status"] == "failed" for row in found), "can_preprocess": study.run != study.root,
        "n_excluded": sum(row["excluded"] is not None for row in found), "messages": messages,
        "command": command_line(["ui", str(study.root)]),
    }  # fmt: skip


def _progress(study: Study, rows: list[dict[str, Any]]) -> str:
    """What to do with scans that have no table yet."""
    state = f"{sum(row['status'] == 'done' for row in rows)} of {len(rows)} T1w scans are preprocessed"
    then = "cohort.tsv, which models need, comes at the end of the run: load the page again then, or run it again"
    return f"{state}. {then if study.run == study.root else 'The button in the step Cohort does the rest.'}"


def cohort(study: Study) -> dict[str, Any]:
    """The table of scans: columns with their meaning, rows with state, exclusion and flags."""
    run = read_study(study)
    table, pictures = run.table, _pictures(run)
    shown = [
        str(name) for name in table if not map_kinds.is_map_column(str(name)) and name not in ("scan", "qc_warnings")
    ]
    described = dictionary.describe("cohort", shown, _dictionary(run.folder / "cohort.json"))
    unusual = unusual_values(table[[*run.quality_columns, *run.volumes]]) if len(table) else pd.Series(dtype=str)
    values = zip(*(_cells(table[name]) for name in shown), strict=True) if shown else iter([()] * len(table))
    rows = [
        _row(scan, key, "done", dict(zip(shown, row, strict=True)))
        | {"flags": [*flags_of(run, scan), *filter(None, unusual[scan].split("; "))], "thumbnail": pictures.get(scan)}
        for scan, key, row in zip(table.index, run.cohort.table.index, values, strict=True)
    ]
    rows += _unfinished(study, run)
    warnings = _mark_excluded(run.folder / EXCLUSIONS, rows)
    columns = [_column(table[name], described[name]) for name in shown]
    if not len(table):
        columns, wrong = _add_people(study.root / "participants.tsv", rows)
        warnings += wrong
    return {"columns": columns, "rows": rows, "warnings": warnings, "responses": _responses(table)}


def flags_of(run: Preprocessing, scan: str) -> list[str]:
    """Warnings of the run about a scan."""
    return [flag for flag in str(run.flags[scan]).split("; ") if flag]


def key_of(study: Study, scan: str) -> tuple[str, str]:
    """Participant and session of a scan; raises MissingError if there is no such scan."""
    found = next((row for row in cohort(study)["rows"] if row["scan"] == scan), None)
    if found is None:
        msg = f"{scan}: no such scan in {study.root}; load the page again"
        raise MissingError(msg)
    return found["participant_id"], found["session_id"]


def read_study(study: Study) -> Preprocessing:
    """The run's tables, of no scans if there is no cohort yet."""
    study.check()
    folder = study.run
    if (folder / COHORT).is_file():
        stamps = ((folder / name).stat().st_mtime_ns for name in (COHORT, FAILURES) if (folder / name).is_file())
        return _read(folder, tuple(stamps))
    index = pd.MultiIndex.from_arrays([[], []], names=[*ID_COLUMNS])
    return Preprocessing(folder, Cohort(pd.DataFrame(index=index), folder), read_failures(folder), {})


@lru_cache(maxsize=2)
def _read(folder: Path, stamps: tuple[int, ...]) -> Preprocessing:
    """The run's tables as they were at these times; nobody changes them."""
    del stamps
    return read_run(folder)


def _dictionary(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """A table's own data dictionary; empty if it has none."""
    try:
        content = storage.read_json(path)
    except (OSError, ValueError):
        return {}
    return {name: one for name, one in content.items() if isinstance(one, dict)} if isinstance(content, dict) else {}


def _column(values: pd.Series, described: Mapping[str, Any]) -> dict[str, Any]:
    """Name, meaning, unit and type of a column, as `glm` takes it."""
    name = str(values.name)
    about = {
        "name": name, "description": str(described.get("Description", "")), "unit": str(described.get("Units", "")),
    }  # fmt: skip
    if name in TEXT_COLUMNS:
        return about | {"type": "text"}
    known = values.dropna()
    if is_number(known) and not is_id_name(name) and not is_site_name(name):
        return about | {"type": "number"}
    levels = cells.sorted_labels(pd.Series(cells.labels(known), dtype=object))
    return about | ({"type": "category", "levels": levels} if len(levels) <= _MOST_LEVELS else {"type": "text"})


def _cells(values: pd.Series) -> list[Any]:
    """A column for JSON; a column at a time, as a value at a time takes long in large tables."""
    known = values.notna() & ~values.isin([np.inf, -np.inf])
    return list(values.astype(object).where(known, None))


def _row(scan: str, key: tuple[str, str], status: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "scan": scan, "participant_id": key[0], "session_id": key[1], "status": status, "excluded": None, "flags": [],
        "thumbnail": None, "values": values,
    }  # fmt: skip


def _pictures(run: Preprocessing) -> dict[str, str]:
    """Address of each scan's thumbnail."""
    found = {}
    for scan in run.table.index:
        path = run.output(scan, "picture")
        if path is not None:
            found[scan] = f"/api/thumbnails/{quote(scan, safe='')}?v={path.stat().st_mtime_ns:x}"
    return found


def _mark_excluded(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Write the reasons of ``exclusions.tsv`` into the rows; what is wrong with the file."""
    keys = [(row["participant_id"], row["session_id"]) for row in rows]
    index = pd.MultiIndex.from_tuples(keys, names=[*ID_COLUMNS]) if keys else None
    try:
        excluded, unknown = read_exclusions(path, Cohort(pd.DataFrame(index=index), path.parent))
    except TableError as error:
        return [str(error)]
    for row in rows:
        row["excluded"] = excluded.get(row["scan"])
    return [f"{EXCLUSIONS}: {', '.join(unknown)} not in the table"] if unknown else []


def _add_people(path: Path, rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Write the participants' columns into the rows of scans that have no table yet; the columns, and what is wrong."""
    if not rows or not path.is_file():
        return [], []
    index = pd.MultiIndex.from_tuples([(row["participant_id"], row["session_id"]) for row in rows], names=[*ID_COLUMNS])
    try:
        people, _ = join_participants(pd.DataFrame(index=index), read_cohort(path).table, path.name)
    except TableError as error:
        return [], [str(error)]
    for row, values in zip(rows, zip(*(_cells(people[name]) for name in people), strict=True), strict=False):
        row["values"] = dict(zip(map(str, people), values, strict=True)) | row["values"]
    described = dictionary.describe("participants", [*map(str, people)], _dictionary(path.with_suffix(".json")))
    return [_column(people[name], described[str(name)]) for name in people], []


def scan_id(stem: str) -> str:
    """Participant and session of a file's stem, as tables name the scan."""
    return "_".join(filter(None, naming.split_ids(stem)))


def inputs(study: Study) -> dict[str, naming.Scan]:
    """The T1w scans of the folder by their stem; in an output folder without its table those that the run lists."""
    try:
        if study.run != study.root:
            return {one.stem: one for one in find_inputs([study.root]).scans}
        return {} if (study.run / COHORT).is_file() else study.listed()
    except VbmstatError:
        return {}


def _unfinished(study: Study, run: Preprocessing) -> Iterator[dict[str, Any]]:
    """Rows of scans that failed, that a run has not collected yet, or that wait."""
    known = set(run.table["scan"]) if "scan" in run.table else set()
    failed = {str(row.scan): f"failed at the step {row.step}: {row.reason}" for row in run.failures.itertuples()}
    for stem in {**dict.fromkeys(failed), **inputs(study)}:
        key, scan = naming.split_ids(stem), scan_id(stem)
        if stem in known or scan in run.table.index:
            continue
        values = None if stem in failed else _collected(run, naming.Scan(Path(stem), stem, *key))
        status = "failed" if stem in failed else "waiting" if values is None else "done"
        yield _row(scan, key, status, values or {}) | {"flags": [failed[stem]] if stem in failed else []}


def _collected(run: Preprocessing, scan: naming.Scan) -> dict[str, Any] | None:
    """The numbers of a scan that is complete, while the run goes on; None if it is not."""
    for style in naming.NAME_STYLES:
        try:
            content = storage.read_json(naming.output_path(run.folder, scan, "sidecar", style))
        except (OSError, ValueError):
            continue
        row = content.get("row") if isinstance(content, dict) else None
        return {name: plain(value) for name, value in row.items()} if isinstance(row, dict) else {}
    return None


def _responses(table: pd.DataFrame) -> list[dict[str, str]]:
    """What may stand on the left of a formula, and what it is."""
    found = []
    for tissue, number in map_kinds.MAP_NUMBER.items():
        columns = [name for name in map_kinds.map_columns(map(str, table.columns), number) if table[name].notna().any()]
        if columns:
            name = map_kinds.TISSUES.get(tissue, "white-matter hypointensities")
            found.append({"name": tissue, "description": f"{name} ({columns[0]})"})
    return found
