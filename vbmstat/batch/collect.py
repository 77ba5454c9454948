"""The cohort table of an output folder: complete scans, covariates, homogeneity."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.batch import derivatives
from vbmstat.batch.derivatives import CompletedScan
from vbmstat.errors import TableError, VbmstatError, listed
from vbmstat.figures import scans
from vbmstat.figures.publication import stat_map_figure
from vbmstat.figures.style import save_png
from vbmstat.figures.view import View
from vbmstat.files import bids, map_kinds, naming
from vbmstat.image import storage
from vbmstat.maps.origins import GROUP_TEMPLATE
from vbmstat.metrics import homogeneity
from vbmstat.metrics.departures import BEYOND_Z
from vbmstat.tables import cohort, dictionary
from vbmstat.tables.schema import group_names

TRACTS = "tracts.tsv"  # table of all scans' tracts
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class People:
    """Covariates of participants."""

    table: pd.DataFrame  # indexed by (participant_id, session_id)
    source: str

    def descriptions(self) -> dict[str, Any]:
        """Descriptions of the columns from the participants.json beside the table, if it can be read."""
        try:
            content = storage.read_json(Path(self.source).with_suffix(".json"))
        except (OSError, ValueError):
            return {}
        entries = content.items() if isinstance(content, dict) else ()
        return {name: words for name, words in entries if isinstance(words, dict)}


def read_people(places: Iterable[Path], given: Path | str | None) -> People | None:
    """The given participants table, else that of the BIDS folder; None if there is none.

    Raises
    ------
    TableError
        If a table cannot be used, or two tables have the same participant.
    """
    tables = [Path(given)] if given is not None else [place / "participants.tsv" for place in places if place.is_dir()]
    tables = [table for table in tables if given is not None or table.is_file()]
    if not tables:
        return None
    if len(tables) > 1:
        msg = f"several participants tables ({', '.join(map(str, tables))}); join them and give one with --participants"
        raise TableError(msg)
    people = cohort.read_cohort(tables[0])
    for note in people.notes:
        log.warning("%s", note)
    return People(people.table, str(tables[0]))


def write_cohort(
    out: Path, own: Mapping[naming.Scan, CompletedScan], scans: Sequence[naming.Scan], people: People | None, names: str
) -> cohort.Cohort:
    """Write the complete scans of a run, and of earlier runs in its folder, to ``cohort.tsv``.

    Parameters
    ----------
    out : Path
        Output folder.
    own : mapping of Scan to CompletedScan
        The complete scans of this run.
    scans : sequence of Scan
        All scans of this run; a scan that fails now is not taken from an earlier run.
    people : People, optional
        Covariates.
    names : str
        Naming convention.
    """
    asked = {scan.stem for scan in scans}
    in_folder = derivatives.completed_scans(out, names)
    earlier = {scan: one for scan, one in in_folder.items() if scan.stem not in asked}
    earlier = _of_whole_people(earlier, own)
    everything = dict(sorted({**own, **earlier}.items(), key=lambda item: item[0].stem)) if earlier else own
    table = _with_people(_rows(out, everything, names), people, own)
    table = _with_earlier_covariates(table, out / "cohort.tsv", {scan.stem for scan in earlier})
    whole = _with_quality(cohort.Cohort(_with_unique_ids(table, list(everything), [*scans, *earlier]), out), names)
    cohort.write_cohort(out / "cohort.tsv", whole, people.descriptions() if people else {})
    bids.write_dataset_files(out, scans, names)
    write_tracts(out)  # a scan that is new has none yet
    return whole


def _of_whole_people(
    earlier: Mapping[naming.Scan, CompletedScan], own: Mapping[naming.Scan, CompletedScan]
) -> dict[naming.Scan, CompletedScan]:
    """Earlier scans without time points that were made together with scans that are now made otherwise, or gone."""
    made = {scan.stem: one.longitudinal for scan, one in (*earlier.items(), *own.items())}
    kept = {
        scan: one for scan, one in earlier.items()
        if one.longitudinal is None
        or all(made.get(entry["scan"]) == one.longitudinal for entry in one.longitudinal["scans"])
    }  # fmt: skip
    left = [scan.stem for scan in earlier if scan not in kept]
    if left:
        log.warning("left out of cohort.tsv, as the other sessions of the person were since run without them: %s",
                    listed(left))  # fmt: skip
    return kept


def cohort_of(out: Path, own: Mapping[naming.Scan, CompletedScan], people: People | None, names: str) -> cohort.Cohort:
    """The complete scans of a run, neither written nor compared; arguments as in :func:`write_cohort`."""
    table = _with_people(_rows(out, own, names), people, own)
    return cohort.Cohort(_with_unique_ids(table, list(own), list(own)), out)


def write_tracts(out: Path) -> None:
    """Write the tracts of all scans that have them to ``tracts.tsv``; remove it if none has."""
    tables = []
    for names in naming.NAME_STYLES:
        for scan, record in derivatives.recorded_scans(out, names):
            path = naming.output_path(out, scan, "tract_volumes", names)
            if record.get("tracts") and path.is_file():  # not if someone removed it
                tables.append(pd.read_csv(path, sep="\t").assign(scan=scan.stem))
    path = out / TRACTS
    if tables:
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, "scan", table.pop("scan"))
        about = {"additive": "no: tracts overlap; do not add their volumes"}
        dictionary.write_table(path, table, "tract_volumes", about=about)
    else:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)


def _rows(folder: Path, completed: Mapping[naming.Scan, CompletedScan], names: str) -> pd.DataFrame:
    """One row per scan, indexed by its ids."""
    records = []
    for scan, one in completed.items():
        maps = {kind: naming.output_path(folder, scan, kind, names) for kind in one.maps}
        records.append({
            "participant_id": scan.participant_id, "session_id": scan.session_id, "scan": scan.stem, **one.columns,
            **{kind: path.relative_to(folder).as_posix() for kind, path in maps.items()},
        })  # fmt: skip
    table = pd.DataFrame(records, columns=None if records else [*cohort.ID_COLUMNS]).set_index([*cohort.ID_COLUMNS])
    if cohort.TIME_POINTS in table:
        table[cohort.TIME_POINTS] = table[cohort.TIME_POINTS].fillna(1).astype(int)  # single scans beside time points
    return table


def _with_people(table: pd.DataFrame, people: People | None, own: Iterable[naming.Scan]) -> pd.DataFrame:
    """The table with covariates in front."""
    if people is None or table.empty:
        return table
    hidden = [str(name) for name in people.table if name in table]
    if hidden:
        log.warning("columns of %s that cohort.tsv has of its own are left out: %s; rename them to have both",
                    people.source, listed(hidden))  # fmt: skip
    table, without = cohort.join_participants(table, people.table, people.source)
    missing = sorted(set(without) & {naming.scan_id(_ids(scan)) for scan in own})
    if missing:
        log.warning("no participants row for %s; their covariates are missing in cohort.tsv", ", ".join(missing))
    return table


def _with_unique_ids(table: pd.DataFrame, rows: list[naming.Scan], known: list[naming.Scan]) -> pd.DataFrame:
    """The table with ids that tell all known scans apart."""
    ids = naming.distinct_ids(known)
    several = [naming.scan_id(ids[scan]) for scan in rows if ids[scan] != _ids(scan)]
    if not several:
        return table
    log.warning("several scans of one participant and session: the rows %s; keep one of each in a model",
                ", ".join(several))  # fmt: skip
    return table.set_axis(pd.MultiIndex.from_tuples([ids[scan] for scan in rows], names=cohort.ID_COLUMNS))


def _ids(scan: naming.Scan) -> tuple[str, str]:
    return scan.participant_id, scan.session_id


def _with_earlier_covariates(table: pd.DataFrame, path: Path, stems: set[str]) -> pd.DataFrame:
    """The table with covariates that only the earlier cohort table has, for the scans in that table."""
    if not stems or not path.is_file():
        return table
    old = cohort.read_table(path)
    if "scan" not in old:
        return table
    old = old.set_index("scan")
    made = {*table.columns[table.columns.get_loc("scan") :], *cohort.ID_COLUMNS}
    made |= {name for name in old.columns if name.startswith("qc_") or map_kinds.is_map_column(name)}
    made |= {*group_names("lesions"), GROUP_TEMPLATE}
    columns = [name for name in old.columns if name not in made]
    kept = table["scan"].where(table["scan"].isin(stems & set(old.index)))
    covariates = old[columns].reindex(kept).set_axis(table.index)
    both = table.columns.intersection(columns)
    table = table.assign(**{name: table[name].where(table[name].notna(), covariates[name]) for name in both})
    return pd.concat([covariates.drop(columns=both), table], axis=1)


def _with_quality(table: cohort.Cohort, names: str) -> cohort.Cohort:
    """Compare the scans with one another and draw the figures; a cohort that cannot be compared stays unchanged."""
    try:
        quality = homogeneity.measure_cohort(table)
    except VbmstatError as error:
        log.warning("scans were not compared with one another: %s", error)
        return table
    flagged = homogeneity.flag(table, quality)
    flags = homogeneity.warnings(quality, table.table)
    outliers = [scan for scan, flag in zip(table.scan_ids, flags, strict=True) if flag]
    if outliers:
        log.warning("%d of %d scans are outliers: %s; see qc_warnings in cohort.tsv",
                    len(outliers), len(table.table), listed(outliers, 10))  # fmt: skip
    if len(table.table) >= homogeneity.LEAST_SCANS:
        save_png(table.folder / "report" / "cohort.png", scans.cohort_report(flagged))
    for stem, departure in zip(table.table["scan"], quality.departures, strict=True):
        path = naming.output_path(table.folder, naming.Scan.of_stem(stem), "local_picture", names)
        path.unlink(missing_ok=True)
        if departure is not None:
            title = f"{stem}: GM + WM against the other scans, around {departure.region}"
            save_png(path, stat_map_figure(departure.image, title, "z", BEYOND_Z, View(crosshair=departure.at_mm)))
    return flagged
