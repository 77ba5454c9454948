"""Cohorts: one row a scan, joined strictly by id.

Columns of a cohort table (``cohort.tsv``): ``participant_id`` and ``session_id`` (strings; empty session where
there is none), the columns of participants.tsv, volumes in mL (``tiv_ml``, ``gm_ml``, ``wm_ml``, ``csf_ml``),
quality figures (``qc_*``), ``engine`` and ``vbmstat_version``, and paths of maps relative to the table's folder
(``mwp1``, ``mwp2``, ``mwp3``, ``s6mwp1``, ``s6mwp2``).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import tables
from vbmstat.errors import TableError

ID_COLUMNS = ("participant_id", "session_id")
MISSING = ("", "n/a", "N/A", "NA", "nan", "NaN", "NULL", "null")
_ID_ALIASES = ("participant_id", "subject_id", "subject", "participant", "id", "scan_id")  # in any case
MAP_COLUMNS = ("mwp1", "mwp2", "mwp3", "s6mwp1", "s6mwp2")
TEXT_COLUMNS = (
    *ID_COLUMNS, "scan", "engine", "vbmstat_version", "qc_image_grade", "qc_duplicate_of", "qc_warnings", *MAP_COLUMNS,
)  # fmt: skip


@dataclass(frozen=True)
class Cohort:
    """A table of scans.

    Attributes
    ----------
    table : DataFrame
        One row a scan, indexed by (participant_id, session_id), both strings.
    folder : Path
        What relative paths in the table are relative to.
    """

    table: pd.DataFrame
    folder: Path

    @property
    def scan_ids(self) -> list[str]:
        """``sub-01`` or ``sub-01_ses-1``, a row each."""
        return ["_".join(filter(None, key)) for key in self.table.index]

    def paths(self, column: str) -> list[Path]:
        """Paths in a map column, e.g. ``"s6mwp1"``.

        Raises
        ------
        TableError
            If the column is absent or a scan has no path in it.
        """
        if column not in self.table:
            msg = f"expected a column {column!r} with map paths; the table has {', '.join(self.table.columns)}"
            raise TableError(msg)
        values = self.table[column]
        without = [scan for scan, value in zip(self.scan_ids, values, strict=True) if pd.isna(value)]
        if without:
            msg = f"no {column} path for {', '.join(without)}; run preprocess for them or leave their rows out"
            raise TableError(msg)
        return [self.folder / str(value) for value in values]


def read_cohort(path: Path | str) -> Cohort:
    """Read a cohort or participants table; see :func:`read_table` for what is understood."""
    path = Path(path)
    return Cohort(index_by_id(read_table(path), str(path)), path.parent)


def write_cohort(
    path: Path | str, cohort: Cohort, given: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write a cohort as TSV with its data dictionary; the session column is left out when no scan has one.

    Parameters
    ----------
    given : mapping, optional
        Descriptions of the participants' own columns, as a participants.json holds them.
    """
    table = cohort.table.reset_index()
    if not table["session_id"].any():
        table = table.drop(columns="session_id")
    tables.write_table(path, table, "cohort", given)


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a participants table from ``.tsv``, ``.csv`` (comma or semicolon) or ``.xlsx``.

    Ids stay strings (``001`` is not ``1``), a byte-order mark is skipped, ``n/a`` and blanks are missing, columns
    whose every value is a number without leading zeros become numeric (decimal commas are understood except in
    comma-separated files). Nothing is recoded.

    Raises
    ------
    TableError
        If the file cannot be read, is empty, or has two columns of one name.
    """
    path = Path(path)
    try:
        raw, separator = _read_strings(path)
    except FileNotFoundError as error:
        msg = f"{path}: no such table"
        raise TableError(msg) from error
    except TableError:
        raise
    except Exception as error:  # whatever pandas and openpyxl make of damaged files
        reason = " ".join(str(error).split())[:300]
        msg = f"{path}: expected a UTF-8 table (.tsv, .csv or .xlsx) with one header line, but reading failed: {reason}"
        raise TableError(msg) from error
    names = [str(name).strip() for name in raw.iloc[0]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{path}: two columns are called {', '.join(map(repr, twice))}; rename one"
        raise TableError(msg)
    if len(raw) < 2:
        msg = f"{path}: expected a header line and one line a scan, but the table has no rows"
        raise TableError(msg)
    table = raw.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
    table = table.apply(lambda column: column.str.strip()).apply(lambda column: column.mask(column.isin(MISSING)))
    text = {*_ID_ALIASES, *TEXT_COLUMNS}
    for column in table.columns:
        if column.lower() not in text:
            table[column] = _numeric(table[column], decimal_comma=separator != ",")
    return table


def _read_strings(path: Path) -> tuple[pd.DataFrame, str]:
    """All cells, the header line among them, as strings ("" where there is none), and the separator."""
    if path.suffix.lower() in (".xlsx", ".xls"):
        try:
            return pd.read_excel(path, header=None, dtype=str, keep_default_na=False).fillna(""), ""
        except ImportError as error:
            msg = f"{path}: reading Excel tables needs another package; pip install openpyxl, or save it as .tsv"
            raise TableError(msg) from error
    separator = "\t"
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8-sig") as stream:
            head = stream.readline()
        separator = max(",;\t", key=head.count)
    # header=None: pandas would rename the second of two equal columns, and cut lines longer than the header
    cells = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", header=None)
    return cells.fillna(""), separator


def _numeric(column: pd.Series, decimal_comma: bool) -> pd.Series:
    """Numbers where every value is one; codes such as 01 stay text."""
    text = column.str.replace(",", ".", regex=False) if decimal_comma else column
    numbers = pd.to_numeric(text, errors="coerce")
    is_number = numbers.notna() | column.isna()
    is_code = text.str.match(r"[+-]?0\d", na=False)
    return numbers if is_number.all() and numbers.notna().any() and not is_code.any() else column


def index_by_id(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table indexed by (participant_id, session_id), strings.

    Raises
    ------
    TableError
        If there is no id column, an id is missing, or an id occurs twice.
    """
    table = table.copy()
    by_lower_case = {str(column).lower(): column for column in table.columns}
    name = next((by_lower_case[alias] for alias in _ID_ALIASES if alias in by_lower_case), None)
    if name is None:
        msg = f"{source}: expected a column participant_id; the table has {', '.join(map(str, table.columns))}"
        raise TableError(msg)
    table = table.rename(columns={name: "participant_id", by_lower_case.get("session_id"): "session_id"})
    if "session_id" not in table:
        table["session_id"] = ""
    empty = [str(row + 2) for row, missing in enumerate(table["participant_id"].isna()) if missing]
    if empty:
        msg = f"{source}: no participant_id in line {', '.join(empty)}; fill it in or delete the line"
        raise TableError(msg)
    table["participant_id"] = table["participant_id"].astype(str)
    table["session_id"] = table["session_id"].fillna("").astype(str)
    table = table.set_index(list(ID_COLUMNS))
    twice = table.index[table.index.duplicated()].unique()
    if len(twice):
        msg = f"{source}: duplicate id {', '.join('_'.join(filter(None, key)) for key in twice)}; keep one row a scan"
        raise TableError(msg)
    return table


def join_participants(scans: pd.DataFrame, participants: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[str]]:
    """Add participants' columns to a table of scans, strictly by id.

    A participants row without a session holds for all sessions of its participant; ``sub-`` (and ``ses-``) may be
    missing in front of the participants' ids if it is missing everywhere.

    Returns
    -------
    table : DataFrame
        The scans' rows in their order, with the participants' columns in front; scans without a row get missing
        values.
    without : list of str
        Scan ids that have no participants row.
    """
    people = participants.reset_index()
    for name, prefix in zip(ID_COLUMNS, ("sub-", "ses-"), strict=True):
        ours = scans.index.get_level_values(name)
        theirs = people[name]
        if ours[ours != ""].str.startswith(prefix).all() and not theirs.str.startswith(prefix).any():
            people[name] = theirs.where(theirs == "", prefix + theirs)
    by_key = {(row.participant_id, row.session_id): position for position, row in enumerate(people.itertuples())}
    columns = [column for column in people.columns if column not in (*ID_COLUMNS, *scans.columns)]
    positions = [by_key.get(key, by_key.get((key[0], ""))) for key in scans.index]
    without = ["_".join(filter(None, key)) for key, at in zip(scans.index, positions, strict=True) if at is None]
    if len(without) == len(scans):
        close = closest(without[0], people["participant_id"])
        msg = (
            f"{source}: no scan has a row (first scan {without[0]!r}, nearest id {close or 'none'}); "
            "participant_id must be equal to the scan's"
        )
        raise TableError(msg)
    joined = people[columns].reindex([-1 if at is None else at for at in positions])
    joined.index = scans.index
    return pd.concat([joined, scans], axis=1), without


def closest(name: str, candidates: Iterable[str], n: int = 3) -> str:
    """The nearest names to a misspelt one, comma separated; empty if none is near."""
    return ", ".join(difflib.get_close_matches(name, [str(c) for c in candidates], n=n, cutoff=0.4))
