"""The cohort table of an output folder: what is complete there, covariates, each scan's place among the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import __version__, bids, cohort, cohort_quality, derivatives, naming
from vbmstat.errors import TableError, VbmstatError
from vbmstat.figures import scans
from vbmstat.image import storage

log = logging.getLogger(__name__)
_MOST_NAMED = 10  # scans in a message


@dataclass(frozen=True)
class People:
    """Covariates of participants.

    Attributes
    ----------
    table : DataFrame
        Indexed by (participant_id, session_id).
    source : str
        Path of the table.
    """

    table: pd.DataFrame
    source: str

    def descriptions(self) -> dict[str, Any]:
        """What the participants.json beside the table says of its columns, if there is one that can be read."""
        try:
            found = storage.read_json(Path(self.source).with_suffix(".json"))
        except (OSError, ValueError):
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {name: words for name, words in entries if isinstance(words, dict)}


def read_people(places: Iterable[Path], given: Path | str | None) -> People | None:
    """The participants table given, else those of the BIDS folders; None if there is none.

    Raises
    ------
    TableError
        If a table cannot be used, or two tables have the same participant.
    """
    found = [Path(given)] if given is not None else [place / "participants.tsv" for place in places if place.is_dir()]
    found = [table for table in found if given is not None or table.is_file()]
    if not found:
        return None
    if len(found) > 1:
        msg = f"several participants tables ({', '.join(map(str, found))}); join them and give one with --participants"
        raise TableError(msg)
    people = cohort.read_cohort(found[0])
    for note in people.notes:
        log.warning("%s", note)
    return People(people.table, str(found[0]))


def write_cohort(
    out: Path, own: dict[naming.Scan, dict[str, Any]], scans: list[naming.Scan], people: People | None,
    names: str, engine: str,
) -> cohort.Cohort:  # fmt: skip
    """Put the complete scans of a run, and of earlier runs into its folder, into ``cohort.tsv``.

    Parameters
    ----------
    out : Path
        Output folder.
    own : dict of Scan to dict
        Cohort columns of the complete scans of this run.
    scans : list of Scan
        All that this run was asked for: what failed now is not taken from an earlier run.
    people : People, optional
        Covariates.
    names, engine : str
        Of this run.
    """
    earlier = _earlier(out, scans, names)
    table = _with_quality(_joined(out, _stamped(own, engine), earlier, people, names, scans))
    cohort.write_cohort(out / "cohort.tsv", table, people.descriptions() if people else {})
    bids.write_dataset_files(out, scans, names)
    return table


def cohort_of(
    out: Path, own: dict[naming.Scan, dict[str, Any]], people: People | None, names: str, engine: str
) -> cohort.Cohort:
    """The complete scans of a run alone, written nowhere and compared with none; see :func:`write_cohort`."""
    if not own:
        return cohort.Cohort(pd.DataFrame(columns=list(cohort.ID_COLUMNS)).set_index(list(cohort.ID_COLUMNS)), out)
    return _joined(out, _stamped(own, engine), {}, people, names, list(own))


def _stamped(own: dict[naming.Scan, dict[str, Any]], engine: str) -> dict[naming.Scan, dict[str, Any]]:
    return {scan: {**row, "engine": engine, "vbmstat_version": __version__} for scan, row in own.items()}


def _earlier(folder: Path, scans: list[naming.Scan], names: str) -> dict[naming.Scan, dict[str, Any]]:
    """Scans of earlier runs into the folder that this run did not ask for."""
    asked = {scan.stem for scan in scans}
    return {scan: row for scan, row in derivatives.completed_scans(folder, names).items() if scan.stem not in asked}


def _joined(
    folder: Path,
    own: dict[naming.Scan, dict[str, Any]],
    earlier: dict[naming.Scan, dict[str, Any]],
    people: People | None,
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
        table, without = cohort.join_participants(table, people.table, people.source)
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
        scans.save_png(table.folder / "report" / "cohort.png", scans.cohort_report(flagged))
    return flagged

