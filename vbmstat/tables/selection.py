"""Which scans of a table take part, and further tables joined to it: the one owner of both.

Rules say who is left out: lists of ids, conditions on columns, and the ``exclusions.tsv`` (participant_id, session_id,
reason) of a folder. `select` applies them to a cohort, which then carries the flow of its scans.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.assets.provenance import file_record
from vbmstat.errors import TableError, listed
from vbmstat.files.naming import scan_id, split_ids
from vbmstat.tables.cells import label, without_missing_words
from vbmstat.tables.cohort import (
    ID_COLUMNS,
    Cohort,
    closest,
    find_column,
    index_by_id,
    is_session_name,
    read_table,
    spelling_hint,
)
from vbmstat.tables.conditions import Condition
from vbmstat.tables.flow import Step

EXCLUSIONS = "exclusions.tsv"
_LISTS = (".tsv", ".csv", ".txt", ".xlsx", ".xls")


@dataclass(frozen=True)
class Selection:
    """Who takes part.

    Attributes
    ----------
    exclude : tuple of str
        Ids of scans or participants, and files that list them (a table with participant_id, and if wished session_id
        and reason; or a ``.txt`` with one id a line).
    where : tuple of str
        Conditions that the scans meet, all of them; see :class:`vbmstat.tables.conditions.Condition`.
    tables : tuple of path
        Further tables whose columns are joined by id.
    exclusions : bool
        Whether an ``exclusions.tsv`` beside the table or the maps is honoured.
    """

    exclude: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    tables: tuple[Path | str, ...] = ()
    exclusions: bool = True

    def __post_init__(self) -> None:
        given = [str(one) for one in _several(self.exclude)]
        ids = [part.strip() for one in given for part in ([one] if Path(one).is_file() else one.split(","))]
        object.__setattr__(self, "exclude", tuple(filter(None, ids)))
        for name in ("where", "tables"):
            object.__setattr__(self, name, tuple(map(str, _several(getattr(self, name)))))

    def resolved(self, cohort: Cohort, folders: Iterable[Path | None] = ()) -> Selection:
        """The same with the ``exclusions.tsv`` of the cohort's folder, or of others, named among its lists."""
        places = [None if cohort.path is None else cohort.path.parent, *folders] if self.exclusions else []
        files = [place / EXCLUSIONS for place in places if place is not None and (place / EXCLUSIONS).is_file()]
        found = list({path.resolve(): str(path) for path in files}.values())
        return replace(self, exclude=(*found, *self.exclude), exclusions=False)

    def record(self) -> dict[str, Any]:
        """For JSON: files by name and sha256."""
        return {
            "exclude": [file_record(one) if _is_list(one) else one for one in self.exclude],
            "where": list(self.where), "tables": [file_record(path) for path in self.tables],
            "exclusions": self.exclusions,
        }  # fmt: skip


def _several(given: Any) -> Sequence[Any]:
    return (given,) if isinstance(given, str | Path) else tuple(given)


def _is_list(name: str) -> bool:
    return Path(name).suffix.lower() in _LISTS


ALL = Selection(exclusions=False)  # of a cohort that is selected already


def select(cohort: Cohort, rules: Selection) -> Cohort:
    """The rows of a cohort that the rules leave, with the columns of further tables, notes and the flow.

    Parameters
    ----------
    cohort : Cohort
        One row a scan.
    rules : Selection
        As :meth:`Selection.resolved` gives them.

    Raises
    ------
    TableError
        If an id or column is not in the table, two tables disagree on a value, or no scan is left.
    """
    for path in rules.tables:
        cohort = join_table(cohort, read_further(Path(path)), Path(path).name)
    source = "the table" if cohort.path is None else cohort.path.name
    flow = list(cohort.flow or [Step(f"rows of {source}", len(cohort.table))])
    ids, notes, known = cohort.scan_ids, list(cohort.notes), _spelled(cohort)
    kept = np.ones(len(ids), dtype=bool)

    def leave_out(name: str, why: Mapping[str, str]) -> None:
        gone = {scan: why[scan] for scan, keep in zip(ids, kept, strict=True) if keep and scan in why}
        kept[:] &= [scan not in why for scan in ids]
        if gone:
            flow.append(Step(name, int(kept.sum()), gone))
            notes.append(flow[-1].note)
        if not kept.any():
            msg = f"{name} leaves no scan of {source}; change the rule"
            raise TableError(msg)

    for path in (Path(one) for one in rules.exclude if _is_list(one)):
        reasons, unknown = _matched(_read_list(path, known), known)
        if unknown and not reasons and path.name != EXCLUSIONS:
            raise _unknown(unknown, f"{path}", cohort)
        _refuse_other_spellings(unknown, path, known)
        notes += [f"{path.name}: not in the table, so not needed: {listed(unknown)}"] if unknown else []
        leave_out(path.name, reasons)
    given = {one: "" for one in rules.exclude if not _is_list(one)}
    reasons, unknown = _matched(given, known)
    if unknown:
        raise _unknown(unknown, "--exclude", cohort)
    leave_out("--exclude", reasons)
    for text in rules.where:
        condition = Condition(text, cohort.table)
        fails = ~condition.meets.fillna(value=False).to_numpy(dtype=bool)
        values = [_values(cohort.table, row, condition.columns) if fails[row] else "" for row in range(len(ids))]
        leave_out(f"--where {text!r}", {scan: values[row] for row, scan in enumerate(ids) if fails[row]})
    return replace(cohort, table=cohort.table[kept], notes=tuple(notes), flow=tuple(flow))


def cohort_of_ids(scans: Sequence[str]) -> Cohort:
    """Scans by their ids alone."""
    index = pd.MultiIndex.from_tuples([split_ids(scan) for scan in scans], names=[*ID_COLUMNS])
    return Cohort(pd.DataFrame(index=index), Path())


def select_ids(scans: Sequence[str], rules: Selection, folders: Iterable[Path | None] = ()) -> Cohort:
    """The scans, by their ids alone, that the rules leave; conditions read the rules' tables."""
    cohort = cohort_of_ids(scans)
    return select(cohort, rules.resolved(cohort, folders))


def _values(table: pd.DataFrame, row: int, columns: Sequence[str]) -> str:
    """Values that made a row fail: ``age = 17, no qc_image_rating``."""
    values = {name: table[name].iloc[row] for name in columns if name in table}
    return ", ".join(f"no {name}" if pd.isna(value) else f"{name} = {label(value)}" for name, value in values.items())


def _spelled(cohort: Cohort) -> dict[str, list[str]]:
    """Scans by every way to name them."""
    scans: dict[str, list[str]] = {}
    for scan, key in zip(cohort.scan_ids, cohort.table.index, strict=True):
        for name in spellings(*key):
            scans.setdefault(name, []).append(scan)
    return scans


def spellings(participant: str, session: str) -> tuple[str, ...]:
    """Ways to name a scan, the fullest first: with or without its session, ``sub-`` and ``ses-``.

    Examples
    --------
    >>> spellings("sub-01", "ses-2")
    ('sub-01_ses-2', 'sub-01', 'sub-01_2', '01_ses-2', '01', '01_2')
    >>> spellings("01", "")
    ('01', 'sub-01')
    """
    bare = participant.removeprefix("sub-")
    sessions = (f"_{session}", "", f"_{session.removeprefix('ses-')}") if session else ("",)
    other = bare if bare != participant else f"sub-{participant}"
    return tuple(dict.fromkeys(f"{one}{ending}" for one in (participant, other) for ending in sessions))


def is_left_out(scan: str, left_out: Collection[str]) -> bool:
    """Whether a scan, by the id in its map's name, is among those that a selection left out."""
    return bool(left_out) and any(name in left_out for name in (scan, *spellings(*split_ids(scan))))


def reasons_in(path: Path, cohort: Cohort) -> tuple[dict[str, str], list[str]]:
    """Reason of each scan of a cohort that a list names, and ids of the list that name none.

    Raises
    ------
    TableError
        If the file is no such list, or spells an id otherwise than the table.
    """
    known = _spelled(cohort)
    reasons, unknown = _matched(_read_list(path, known), known)
    _refuse_other_spellings(unknown, path, known)
    return reasons, unknown


def _matched(given: Mapping[str, str], known: Mapping[str, list[str]]) -> tuple[dict[str, str], list[str]]:
    """Scans of the table that ids name, with their reasons, and ids that name none."""
    reasons = {scan: why for name, why in given.items() for scan in known.get(name, ())}
    return reasons, [name for name in given if name not in known]


def _refuse_other_spellings(unknown: Sequence[str], path: Path, known: Collection[str]) -> None:
    """Refuse ids that differ from those of the table in letter case or leading zeros only: the scan would stay."""
    for name in unknown:
        hint = spelling_hint(name, known)
        if hint:
            msg = f"{path}: {name!r} is not in the table, but {hint.split(';')[0]}; write it as the table does"
            raise TableError(msg)


def _unknown(names: Sequence[str], source: str, cohort: Cohort) -> TableError:
    near = closest(names[0], cohort.scan_ids) or "none"
    return TableError(f"{source}: {listed(names)} not in the table (nearest to the first: {near}); correct the ids")


def _read_list(path: Path, known: Mapping[str, list[str]]) -> dict[str, str]:
    """Ids of a list, with the reason of each if it has that column; its sessions count where the scans have any."""
    if path.suffix.lower() == ".txt":
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            msg = f"{path}: expected a text file with one id a line; it cannot be read"
            raise TableError(msg) from error
        return {line: "" for line in lines if line and not line.startswith("#")}
    if path.suffix.lower() in (".tsv", ".csv") and _is_only_a_header(path):
        return {}
    table = read_table(path)
    sessions = next((name for name in map(str, table.columns) if is_session_name(name)), "session_id")
    table = index_by_id(table.rename(columns={sessions: "session_id"}), str(path))
    column = find_column("reason", table)
    reasons = [None] * len(table) if column is None else table[column].tolist()
    ids = []
    for participant, session in table.index:
        has_no_sessions = set(known.get(participant, ())) & {participant, *spellings(participant, "")}
        ids.append(participant if has_no_sessions or not session else f"{participant}_{session}")
    return {scan: "" if why is None or pd.isna(why) else str(why)
            for scan, why in zip(ids, reasons, strict=True)}  # fmt: skip


def _is_only_a_header(path: Path) -> bool:
    """Whether a list names nobody any more: only its columns are left."""
    try:
        return sum(bool(line.strip()) for line in path.read_text(encoding="utf-8-sig").splitlines()) == 1
    except (OSError, UnicodeDecodeError):  # `read_table` says what is wrong
        return False


def read_further(path: Path) -> pd.DataFrame:
    """A further table, indexed by id; also the volumes (.csv) that SPM's Tissue Volumes writes, in mL.

    Raises
    ------
    TableError
        As :func:`read_table` and :func:`index_by_id`; also for a list of numbers without ids, as CAT12 writes TIV.
    """
    table = read_table(path)
    numbers = pd.to_numeric(pd.Series(list(map(str, table.columns))), errors="coerce")
    if numbers.notna().all():
        msg = (
            f"{path}: numbers without ids cannot be joined, as their order is that in which someone chose the files; "
            "TIV is found in CAT12's report/cat_*.xml beside the maps, or give a table with participant_id"
        )
        raise TableError(msg)
    litres = [name for name in ("Volume1", "Volume2", "Volume3") if name in table]
    if "File" not in table or len(litres) < len(("gm", "wm", "csf")):
        return index_by_id(table, str(path))
    stems = [Path(str(name).strip("'\"").replace("\\", "/")).name for name in table["File"]]
    ids = [scan_id(split_ids(stem.removesuffix(".mat").removesuffix("_seg8"))) for stem in stems]
    volumes = table[litres].set_axis(["gm_ml", "wm_ml", "csf_ml"], axis=1).astype(float) * 1000
    volumes = volumes.assign(participant_id=ids, tiv_ml=volumes.sum(axis=1))
    return index_by_id(volumes, str(path))


def join_table(cohort: Cohort, other: pd.DataFrame, source: str) -> Cohort:
    """A cohort with the columns of another table, strictly by id; a row without session holds for all sessions.

    Raises
    ------
    TableError
        If no id is in both, or the tables have different values in a column of one name.
    """
    ids = [scan_id(key) for key in other.index]
    position = {scan: at for at, scan in enumerate(ids)}
    names = [spellings(*key) for key in cohort.table.index]
    rows = [next((position[name] for name in each if name in position), -1) for each in names]
    without = [scan for scan, row in zip(cohort.scan_ids, rows, strict=True) if row < 0]
    if len(without) == len(rows):
        hint = spelling_hint(without[0], ids) or f"its first id is {ids[0]!r}, the first scan {without[0]!r}"
        msg = f"{source}: no scan has a row in this table; {hint}"
        raise TableError(msg)
    found = other.reset_index(drop=True).reindex(rows).set_axis(cohort.table.index)
    table = cohort.table.copy()
    for name in found:
        if name not in table:
            table[name] = found[name]
            continue
        ours, theirs = (without_missing_words(column) for column in (table[name], found[name]))
        differ = [at for at in range(len(rows)) if not _agree(ours.iloc[at], theirs.iloc[at])]
        if differ:
            at = differ[0]
            msg = (
                f"{source}: {name} of {cohort.scan_ids[at]} is {label(theirs.iloc[at])}, but "
                f"{label(ours.iloc[at])} in the other table ({len(differ)} scans differ); rename or remove one column"
            )
            raise TableError(msg)
        table[name] = ours.where(ours.notna(), theirs)
    what = f"{listed(list(map(str, found)))} joined by id for {len(rows) - len(without)} of {len(rows)} scans"
    note = f"{source}: {what}" + (f"; not in it: {listed(without)}" if without else "")
    return replace(cohort, table=table, notes=(*cohort.notes, note))


def _agree(one: Any, other: Any) -> bool:
    """Whether two cells are equal, or one is missing."""
    return bool(pd.isna(one) or pd.isna(other) or label(one) == label(other))
