"""Cohort tables: one row per scan, joined strictly by id.

Columns of ``cohort.tsv``: ``participant_id`` and ``session_id`` (strings; the session is empty if there is none), the
columns of participants.tsv, volumes in mL (``tiv_ml``, ``gm_ml``, ``wm_ml``, ``csf_ml``), quality measures (``qc_*``),
``engine`` and ``vbmstat_version``, and paths of maps relative to the table's folder (``mwp1`` … ``s6mwp2``). Over 300
lines: reading, indexing and joining share the rules of ids.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.files.filenames import normalized
from vbmstat.files.naming import scan_id
from vbmstat.tables import dictionary
from vbmstat.tables.cells import (
    as_numbers,
    label,
    labels,
    points_among_hundreds,
    points_may_separate_thousands,
    without_missing_words,
)
from vbmstat.tables.flow import Step
from vbmstat.tables.sheets import Sheet, id_name, read_sheet

ID_COLUMNS = ("participant_id", "session_id")
_ID_ALIASES = (  # in the form of id_name: Subject ID, subject_id and SubjectID are the same
    "participantid", "subjectid", "subject", "participant", "id", "scanid", "sub", "subid", "subj", "subjid",
)  # fmt: skip
_SESSION_ALIASES = ("sessionid", "session", "ses", "sesid", "visit", "visitid")
ALIASES = {"tiv": "tiv_ml", "sex": "gender"}  # name -> column that stands in where the name is no column
TIME_POINTS = "time_points"  # sessions of the scan's person that were preprocessed together; 1 for a single scan
MAP_COLUMNS = ("mwp1", "mwp2", "mwp3", "s6mwp1", "s6mwp2")
TEXT_COLUMNS = (
    *ID_COLUMNS, "scan", "engine", "vbmstat_version", "group_template", "qc_image_grade", "qc_duplicate_of",
    "qc_local_region", "qc_odd_region", "qc_warnings", *MAP_COLUMNS,
)  # fmt: skip
_LEADING_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")


@dataclass(frozen=True)
class Cohort:
    """A table of scans.

    Attributes
    ----------
    table : DataFrame
        One row per scan, indexed by (participant_id, session_id), both strings.
    folder : Path
        Folder that relative paths in the table start from.
    notes : tuple of str
        What was skipped when the file was read, such as a title above the header line; what a selection left out.
    path : Path, optional
        The file.
    flow : tuple of Step
        Rows of the file, and those that :func:`vbmstat.tables.selection.select` left out.
    """

    table: pd.DataFrame
    folder: Path
    notes: tuple[str, ...] = ()
    path: Path | None = None
    flow: tuple[Step, ...] = ()

    @property
    def scan_ids(self) -> list[str]:
        """``sub-01`` or ``sub-01_ses-1``, one per row."""
        return [scan_id(key) for key in self.table.index]

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the scans that a selection left out."""
        return frozenset(scan for step in self.flow for scan in step.left_out)

    def paths(self, column: str) -> list[Path]:
        """Paths in a map column, e.g. ``"s6mwp1"``; raises TableError if it is absent or a scan has no path."""
        if column not in self.table:
            near = closest(column, self.table.columns) or "none"
            msg = f"expected a column {column!r} with map paths; the table has none of that name (nearest {near})"
            raise TableError(msg)
        values = self.table[column]
        without = [scan for scan, value in zip(self.scan_ids, values, strict=True) if pd.isna(value)]
        if without:
            how = ' (--where "time_points > 1")' if TIME_POINTS in self.table else ""
            msg = f"no {column} path for {', '.join(without)}; run preprocess for them or leave their rows out{how}"
            raise TableError(msg)
        return [self.folder / str(value) for value in values]


def read_cohort(path: Path | str) -> Cohort:
    """Read a cohort or participants table, in any format of :func:`read_table`."""
    path = Path(path)
    sheet = _read(path)
    table, notes = _typed(sheet)
    return Cohort(index_by_id(table, str(path), sheet.lines), path.parent, (*sheet.notes, *notes), path)


def write_cohort(path: Path | str, cohort: Cohort, given: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write a cohort as TSV with its data dictionary, without the session column if no scan has a session.

    Parameters
    ----------
    given : mapping, optional
        Descriptions of the participants' own columns, as a participants.json holds them.
    """
    table = cohort.table.reset_index()
    if not table["session_id"].any():
        table = table.drop(columns="session_id")
    dictionary.write_table(path, table, "cohort", given)


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a participants table: ``.tsv``, ``.csv`` separated by tab, comma or semicolon, or ``.xlsx``.

    Ids stay strings (``001`` is not ``1``). A byte-order mark, Excel's ``sep=;``, a title above the header line, and
    empty rows and columns are skipped; words such as ``n/a`` and ``.`` are missing (:mod:`vbmstat.tables.cells`).
    Columns of numbers without leading zeros become numeric (with decimal commas, except in comma-separated files).
    Nothing is recoded.

    Raises
    ------
    TableError
        If the file cannot be read, is empty, or has two columns of one name.
    """
    return _typed(_read(Path(path)))[0]


def _read(path: Path) -> Sheet:
    try:
        return read_sheet(path, _ID_ALIASES)
    except FileNotFoundError as error:
        msg = f"{path}: no such table"
        raise TableError(msg) from error
    except TableError:
        raise
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        msg = f"{path}: expected a UTF-8 table, but line {line} has other bytes; save it as UTF-8 (Excel: CSV UTF-8)"
        raise TableError(msg) from error
    except Exception as error:  # pandas and openpyxl raise anything on damaged files
        reason = " ".join(str(error).split())[:300]
        msg = f"{path}: expected a UTF-8 table (.tsv, .csv or .xlsx) with one header line, but reading failed: {reason}"
        raise TableError(msg) from error


def _typed(sheet: Sheet) -> tuple[pd.DataFrame, list[str]]:
    """The table with missing values and numeric columns, and notes on ambiguous decimal points."""
    table = sheet.cells.apply(without_missing_words)
    as_text = {*_ID_ALIASES, *map(id_name, TEXT_COLUMNS)}
    read_with_point: dict[str, str] = {}  # column -> why that is doubtful
    of_points, has_decimal_commas = [], False
    for name in table.columns:
        if id_name(name) in as_text:
            continue
        text = table[name]
        table[name] = as_numbers(text, sheet.decimal_comma)
        if points_among_hundreds(text):
            read_with_point[name] = "though all numbers without one lie from 100 to 999"
        elif sheet.decimal_comma and pd.api.types.is_numeric_dtype(table[name]):
            has_decimal_commas |= bool(text.str.contains(",", regex=False, na=False).any())
            of_points += [name] if points_may_separate_thousands(text) else []
    if has_decimal_commas:
        read_with_point |= dict.fromkeys(of_points, "though other columns have decimal commas")
    doubtful = [
        f"column {name}: {next(cell for cell in sheet.cells[name] if '.' in cell)} is read with a decimal point, "
        f"{why}; leave the point out if it separates thousands"
        for name, why in read_with_point.items()
    ]
    return table, doubtful


def find_column(name: str, table: pd.DataFrame) -> str | None:
    """The column or id level that a name stands for; None if there is none.

    The name itself, then its stand-in (`ALIASES`), then the one column that is either but for letter case.

    Examples
    --------
    >>> people = index_by_id(pd.DataFrame({"participant_id": ["a"], "TIV": [1400.0]}), "the table")
    >>> [find_column(name, people) for name in ("TIV", "tiv", "participant_id", "age")]
    ['TIV', 'TIV', 'participant_id', None]
    """
    have = [*map(str, table.columns), *(str(level) for level in table.index.names if level is not None)]
    for wanted in (name, ALIASES.get(name, name)):
        if wanted in have:
            return wanted
    for wanted in (name, ALIASES.get(name.casefold(), name)):
        alike = [one for one in have if one.casefold() == wanted.casefold()]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def read_column(name: str, table: pd.DataFrame) -> pd.Series:
    """Values of a column or id level of the table, one per row."""
    if name in table:
        return table[name]
    return pd.Series(table.index.get_level_values(name), index=table.index, name=name)


def is_tiv_name(name: str) -> bool:
    """Whether a column's name is that of total intracranial volume, in any case of letters."""
    return name.casefold() in ("tiv", ALIASES["tiv"])


def is_id_name(name: str) -> bool:
    """Whether a column holds ids, by its name; their numbers are labels."""
    return id_name(name) in _ID_ALIASES


def is_session_name(name: str) -> bool:
    """Whether a column holds sessions, by its name."""
    return id_name(name) in _SESSION_ALIASES


def index_by_id(table: pd.DataFrame, source: str, lines: Sequence[int] | None = None) -> pd.DataFrame:
    """Index a table by (participant_id, session_id), both strings.

    Ids and column names are composed (Unicode NFC). If participants have several rows and there is no ``session_id``,
    a column ``session``, ``ses`` or ``visit`` (any letter case) is copied to it.

    Parameters
    ----------
    table : DataFrame
        With a column of ids.
    source : str
        Name of the file, for messages.
    lines : sequence of int, optional
        Line of each row in the file; by default rows follow the header without gaps.

    Raises
    ------
    TableError
        If there is no id column, an id is missing, or an id occurs twice.
    """
    table = table.rename(columns=lambda name: normalized(name) if isinstance(name, str) else name)
    by_id_name = {id_name(str(column)): column for column in reversed(table.columns)}
    name = next((by_id_name[alias] for alias in _ID_ALIASES if alias in by_id_name), None)
    if name is None:
        msg = f"{source}: expected a column participant_id; the table has {', '.join(map(str, table.columns))}"
        raise TableError(msg)
    table = table.rename(columns={name: "participant_id"})
    empty = [row for row, missing in enumerate(table["participant_id"].isna()) if missing]
    if empty:
        where = ", ".join(str(lines[row] if lines else row + 2) for row in empty)
        msg = f"{source}: no participant_id in line {where}; fill it in or delete the line"
        raise TableError(msg)
    table["participant_id"] = labels(table["participant_id"])
    sessions = next((by_id_name[alias] for alias in _SESSION_ALIASES if alias in by_id_name), None)
    if sessions is not None and id_name(str(sessions)) == "sessionid":
        table = table.rename(columns={sessions: "session_id"})
    elif sessions is not None and table["participant_id"].duplicated().any():
        table["session_id"] = table[sessions]
    if "session_id" not in table:
        table["session_id"] = ""
    table["session_id"] = ["" if pd.isna(value) else label(value) for value in table["session_id"]]
    table = table.set_index(list(ID_COLUMNS))
    twice = table.index[table.index.duplicated()].unique()
    if len(twice):
        ids = ", ".join(map(scan_id, twice))
        advice = "keep one row per scan, or name the column of the visits session_id"
        msg = f"{source}: duplicate id {ids}; {advice}"
        raise TableError(msg)
    return table


def join_participants(scans: pd.DataFrame, participants: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """Add the participants' columns to a table of scans, strictly by id.

    A participants row without a session holds for all sessions of its participant, as does a session that all rows
    share where no scan has one; ``sub-`` (and ``ses-``) may be missing in front of the participants' ids if it is
    missing everywhere.

    Returns
    -------
    table : DataFrame
        The scans' rows in their order, participants' columns first; missing values for scans without a row.
    without : list of str
        Ids of scans that have no participants row.
    """
    people = participants.reset_index()
    written = list(people["participant_id"])
    for name, prefix in zip(ID_COLUMNS, ("sub-", "ses-"), strict=True):
        ours = scans.index.get_level_values(name)
        ours, theirs = ours[ours != ""], people[name]
        if len(ours) and ours.str.startswith(prefix).all() and not theirs.str.casefold().str.startswith(prefix).any():
            people[name] = theirs.where(theirs == "", prefix + theirs)
    if people["session_id"].nunique() == 1 and not any(scans.index.get_level_values("session_id")):
        people["session_id"] = ""
    by_key = {(row.participant_id, row.session_id): position for position, row in enumerate(people.itertuples())}
    columns = [column for column in people.columns if column not in (*ID_COLUMNS, *scans.columns)]
    positions = [by_key.get(key, by_key.get((key[0], ""))) for key in scans.index]
    without = [scan_id(key) for key, at in zip(scans.index, positions, strict=True) if at is None]
    if len(without) == len(scans):
        near = closest(without[0], written) or "none"
        why = _why_apart(scans.index[0], by_key) or "participant_id must be equal to the scan's"
        msg = (
            f"{source}: no scan has a row in the table, whose first id is {written[0]!r} (first scan {without[0]!r}, "
            f"nearest id {near}); {why}"
        )
        raise TableError(msg)
    joined = people[columns].reindex([-1 if at is None else at for at in positions])
    joined.index = scans.index
    return pd.concat([joined, scans], axis=1), without


def _why_apart(scan: tuple[str, str], rows: Collection[tuple[str, str]]) -> str:
    """Why a scan has no row though its participant has one; empty if there is no such participant."""
    sessions = [session for participant, session in rows if participant == scan[0]]
    if sessions:
        theirs = f"session_id {', '.join(map(repr, sessions))}"
        return f"{scan[0]} has {theirs} in the table, but {repr(scan[1]) if scan[1] else 'none'} in the map's name"
    return spelling_hint(scan[0], [participant for participant, _ in rows])


def spelling_hint(scan: str, ids: Collection[str]) -> str:
    """What to do about an id that a table has in other letter case or with other leading zeros; empty if it has not.

    Examples
    --------
    >>> spelling_hint("sub-01", ["SUB-01", "SUB-02"])
    "'SUB-01' of the table differs in letter case only; write its ids as the maps' names do"
    """
    write = "write its ids as the maps' names do"
    folded = scan.casefold()
    near = next((one for one in ids if one.casefold() == folded and one != scan), None)
    if near is not None:
        return f"{near!r} of the table differs in letter case only; {write}"
    bare = folded.removeprefix("sub-")
    for one in ids:
        other = one.casefold().removeprefix("sub-")
        if other != bare and _LEADING_ZEROS.sub("", other) == _LEADING_ZEROS.sub("", bare):
            return f"{one!r} of the table differs in leading zeros only; {write} (format them as text in a spreadsheet)"
    return ""


def closest(name: str, candidates: Iterable[str]) -> str:
    """The names nearest to a misspelt one, ignoring letter case, comma separated; empty if none is near."""
    by_key: dict[str, str] = {}
    for candidate in map(str, candidates):
        by_key.setdefault(candidate.casefold(), candidate)
    return ", ".join(by_key[key] for key in difflib.get_close_matches(name.casefold(), by_key, cutoff=0.4))
