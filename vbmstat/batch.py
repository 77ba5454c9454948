"""Many scans: find them, preprocess each one that is not done yet, and put them into one cohort table.

A scan that fails gets a line in ``failures.tsv`` and the batch goes on.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import __version__, cohort, cohort_quality, derivatives, figures, io, naming, runlog, tables
from vbmstat.assets import ASSETS
from vbmstat.device import choose_device
from vbmstat.errors import ScanError, TableError, VbmstatError
from vbmstat.preproc.pipeline import engine_parameters, preprocess_scan
from vbmstat.provenance import provenance

log = logging.getLogger(__name__)
_MOST_NAMED = 10  # scans in a message
_FAILURE_COLUMNS = ["scan", "path", "step", "reason"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a scan: a step began, or it is done, resumed or failed."""

    scan: naming.Scan
    what: str  # a step's name, "done", "resumed" or "failed"
    done: int
    total: int
    detail: str = ""


def preprocess(
    inputs: Iterable[Path | str] | Path | str,
    out: Path | str | None = None,
    *,
    participants: Path | str | None = None,
    device: str = "auto",
    engine: str = "classic",
    names: str = "cat12",
    force: bool = False,
    on_event: Callable[[Event], None] = lambda _: None,
) -> cohort.Cohort:
    """Preprocess T1-weighted scans into smoothed, modulated tissue maps.

    Parameters
    ----------
    inputs : path or iterable of path
        BIDS folders, folders of images, or image files (.nii, .nii.gz, .mgz).
    out : path, optional
        Output folder; ``derivatives/vbmstat`` in a BIDS folder, else ``vbmstat-out`` in the working folder.
    participants : path, optional
        Table of covariates; the BIDS folder's participants.tsv by default.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    engine : {"classic", "cat"}
        Preprocessing engine; ``cat`` needs the extra ``vbmstat[cat]``.
    names : {"cat12", "bids"}
        How outputs are called.
    force : bool
        Whether to run scans again that are complete.
    on_event : callable
        Told of every step, scan done and failure.

    Returns
    -------
    Cohort
        The scans that are complete, as in ``cohort.tsv``: those of this run, and those of earlier runs into the same
        folder.

    Raises
    ------
    VbmstatError
        If no scan is found, an option is unknown, the participants table cannot be used, or every scan fails.
    """
    entries = [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(entry) for entry in inputs]
    parameters = {**_parameters(names), **engine_parameters(engine)}
    _check_option("names", names, naming.NAME_STYLES)
    where = choose_device(device)
    scans = naming.find_scans(entries)
    naming.check_output_names(scans, names)
    folder = Path(out) if out is not None else default_output(entries)
    people = _participants(entries, participants)
    rows: dict[naming.Scan, dict[str, Any]] = {}
    failures: list[dict[str, str]] = []
    _check_writable(folder)
    for scan in scans:
        step = "read"

        def tell(what: str, detail: str = "", scan: naming.Scan = scan) -> None:
            on_event(Event(scan, what, len(rows) + len(failures), len(scans), detail))

        def begin(name: str) -> None:
            nonlocal step
            step = name
            tell(name)

        try:
            begin("read")
            origin = provenance("preprocess", parameters, [scan.path], engine=engine, device=where)
            row = None if force else derivatives.completed_row(folder, scan, names, origin)
            if row is not None:
                rows[scan] = row
                tell("resumed")
                continue
            result = preprocess_scan(io.read_scan(scan.path), where, begin, engine)
            begin("write")
            derivatives.write_derivatives(folder, scan, result, names, origin)
            rows[scan] = derivatives.scan_row(result)
            done = {"scan": scan.stem, "event": "done", "seconds": result.seconds}
            runlog.append(folder / runlog.FOLDER / "preprocess.jsonl", done)
            tell("done", "; ".join(result.quality.warnings()))
        except Exception as error:  # one bad scan must not stop the batch; it is reported with its reason
            reason = _reason(error, scan)
            log.debug("scan %s failed", scan.stem, exc_info=True)
            failures.append({"scan": scan.stem, "path": str(scan.path), "step": step, "reason": reason})
            tell("failed", reason)
            _write_failures(folder, failures)
    _write_failures(folder, failures)
    if not rows:
        msg = f"none of {len(scans)} scans could be preprocessed; first reason: {failures[0]['reason']}"
        raise ScanError(msg)
    own = {scan: {**row, "engine": engine, "vbmstat_version": __version__} for scan, row in rows.items()}
    result_table = _cohort(folder, own, _earlier(folder, scans, names), people, names, scans)
    result_table = _with_quality(result_table)
    cohort.write_cohort(folder / "cohort.tsv", result_table, _descriptions(people))
    _write_description(folder)
    return result_table


def default_output(inputs: list[Path]) -> Path:
    """``derivatives/vbmstat`` in a single BIDS folder, else ``vbmstat-out`` in the working folder."""
    if len(inputs) == 1 and inputs[0].is_dir() and naming.is_bids(inputs[0]):
        return inputs[0] / "derivatives" / "vbmstat"
    return Path("vbmstat-out")


def read_failures(folder: Path) -> pd.DataFrame:
    """The scans that failed in a run: scan, path, step, reason."""
    return pd.read_csv(folder / "failures.tsv", sep="\t", dtype=str, keep_default_na=False)


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"expected {name} {' or '.join(allowed)}, got {value!r}"
        raise VbmstatError(msg)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot create the output folder ({error.strerror}); give another one with --out"
        raise VbmstatError(msg) from error
    if not os.access(folder, os.W_OK):
        msg = f"{folder}: the output folder is read-only; give another one with --out"
        raise VbmstatError(msg)


def _parameters(names: str) -> dict[str, Any]:
    return {"names": names, "assets": {name: asset.sha256 for name, asset in ASSETS.items()}}


def _reason(error: Exception, scan: naming.Scan) -> str:
    """One line that says what is wrong with which scan."""
    if isinstance(error, VbmstatError):
        text = str(error)
    elif isinstance(error, MemoryError) or "alloc" in str(error).lower():
        text = f"out of memory ({error}); free memory or use a smaller scan"
    else:
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if text.startswith(str(scan.path)) else f"{scan.stem}: {text}"


def _participants(inputs: list[Path], given: Path | str | None) -> tuple[pd.DataFrame, str] | None:
    tables = [Path(given)] if given is not None else [entry / "participants.tsv" for entry in inputs if entry.is_dir()]
    tables = [table for table in tables if given is not None or table.is_file()]
    if not tables:
        return None
    if len(tables) > 1:
        msg = f"several participants tables ({', '.join(map(str, tables))}); join them and give one with --participants"
        raise TableError(msg)
    return cohort.index_by_id(cohort.read_table(tables[0]), str(tables[0])), str(tables[0])


def _descriptions(people: tuple[pd.DataFrame, str] | None) -> dict[str, Any]:
    """What the participants.json beside a participants table says of its columns; empty if there is none."""
    try:
        content = json.loads(Path(people[1]).with_suffix(".json").read_text(encoding="utf-8-sig")) if people else {}
    except (OSError, ValueError):
        return {}
    return {name: words for name, words in content.items() if isinstance(words, dict)}


def _earlier(folder: Path, scans: list[naming.Scan], names: str) -> dict[naming.Scan, dict[str, Any]]:
    """Scans of earlier runs into the folder that this run did not ask for."""
    asked = {scan.stem for scan in scans}
    return {scan: row for scan, row in derivatives.completed_scans(folder, names).items() if scan.stem not in asked}


def _cohort(
    folder: Path,
    own: dict[naming.Scan, dict[str, Any]],
    earlier: dict[naming.Scan, dict[str, Any]],
    people: tuple[pd.DataFrame, str] | None,
    names: str,
    scans: list[naming.Scan],
) -> cohort.Cohort:
    """One row a scan, covariates in front, under ids of which each occurs once."""
    rows = dict(sorted({**own, **earlier}.items(), key=lambda item: item[0].stem)) if earlier else own
    records = []
    for scan, row in rows.items():
        maps = {kind: naming.output_path(folder, scan, kind, names) for kind in cohort.MAP_COLUMNS}
        records.append({
            "participant_id": scan.participant_id, "session_id": scan.session_id, "scan": scan.stem, **row,
            **{kind: path.relative_to(folder).as_posix() for kind, path in maps.items()},
        })  # fmt: skip
    table = pd.DataFrame(records).set_index(list(cohort.ID_COLUMNS))
    if people is not None:
        table, without = cohort.join_participants(table, *people)
        missing = sorted(set(without) & {"_".join(filter(None, _ids(scan))) for scan in own})
        if missing:
            log.warning("no participants row for %s; their covariates are missing in cohort.tsv", ", ".join(missing))
    table = _with_earlier_covariates(table, folder / "cohort.tsv", {scan.stem for scan in earlier})
    ids = naming.distinct_ids([*scans, *earlier])
    several = ["_".join(filter(None, ids[scan])) for scan in rows if ids[scan] != _ids(scan)]
    if several:
        table.index = pd.MultiIndex.from_tuples([ids[scan] for scan in rows], names=cohort.ID_COLUMNS)
        log.warning("several scans of one participant and session: the rows %s; keep one of each in a model",
                    ", ".join(several))  # fmt: skip
    return cohort.Cohort(table, folder)


def _ids(scan: naming.Scan) -> tuple[str, str]:
    return scan.participant_id, scan.session_id


def _with_earlier_covariates(table: pd.DataFrame, path: Path, stems: set[str]) -> pd.DataFrame:
    """Covariates that only the earlier cohort table has, for the scans that were in it."""
    if not stems or not path.is_file():
        return table
    old = cohort.read_table(path)
    if "scan" not in old:
        return table
    old = old.set_index("scan")
    made = {*table.columns[table.columns.get_loc("scan") :], *cohort.ID_COLUMNS}
    columns = [name for name in old.columns if name not in made and not name.startswith("qc_")]
    kept = table["scan"].where(table["scan"].isin(stems & set(old.index)))
    covariates = old[columns].reindex(kept).set_axis(table.index)
    both = table.columns.intersection(columns)
    table = table.assign(**{name: table[name].where(table[name].notna(), covariates[name]) for name in both})
    return pd.concat([covariates.drop(columns=both), table], axis=1)


def _with_quality(table: cohort.Cohort) -> cohort.Cohort:
    """Compare the scans with one another, and draw it; what cannot be compared stays as it is."""
    try:
        quality = cohort_quality.measure_cohort(table)
    except VbmstatError as error:
        log.warning("scans were not compared with one another: %s", error)
        return table
    flagged = cohort_quality.flag(table, quality)
    flags = cohort_quality.warnings(quality, table.table)
    standing_out = [scan for scan, found in zip(table.scan_ids, flags, strict=True) if found]
    if standing_out:
        more = ", …" if len(standing_out) > _MOST_NAMED else ""
        log.warning("%d of %d scans stand out among the others: %s%s; see qc_warnings in cohort.tsv",
                    len(standing_out), len(table.table), ", ".join(standing_out[:_MOST_NAMED]), more)  # fmt: skip
    if len(table.table) >= cohort_quality.LEAST_SCANS:
        figures.save_png(table.folder / "report" / "cohort.png", figures.cohort_report(flagged))
    return flagged


def _write_failures(folder: Path, failures: list[dict[str, str]]) -> None:
    tables.write_table(folder / "failures.tsv", pd.DataFrame(failures, columns=_FAILURE_COLUMNS), "failures")


def _write_description(folder: Path) -> None:
    io.write_json(
        folder / "dataset_description.json",
        {
            "Name": "vbmstat derivatives",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "vbmstat", "Version": __version__}],
        },
    )
