"""``exclusions.tsv`` of a folder: read for the page, and changed a scan at a time; rows of a person's hand stay."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vbmstat.errors import TableError, one_line
from vbmstat.files.naming import scan_id
from vbmstat.image import storage
from vbmstat.tables.cohort import ID_COLUMNS, Cohort, read_table
from vbmstat.tables.selection import reasons_in, spellings

_REASON = "reason"


def read_exclusions(path: Path, cohort: Cohort) -> tuple[dict[str, str], list[str]]:
    """Reason of each scan of a cohort that a list names, and ids of the list that name none; of no file, none.

    Raises
    ------
    TableError
        If the file is no such list.
    """
    return reasons_in(path, cohort) if path.is_file() else ({}, [])


def exclusion_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the file: participant_id, session_id, reason."""
    table = _read(path)
    return [{name: str(row.get(name, "")) for name in (*ID_COLUMNS, _REASON)} for row in table.to_dict("records")]


def exclude(path: Path, key: tuple[str, str], reason: str) -> None:
    """Name a scan, (participant_id, session_id), in the file with a reason; one that it names already gets the new one.

    Raises
    ------
    TableError
        If the reason is empty, or the file has another form.
    """
    reason = one_line(" ".join(reason.split()))
    if not reason:
        msg = f"{scan_id(key)}: expected a reason for leaving it out, in a few words"
        raise TableError(msg)
    table = _read(path)
    own = _rows_of(table, key)
    if own.any():
        table.loc[own, _REASON] = reason
    else:
        row = {"participant_id": key[0], _REASON: reason} | ({"session_id": key[1]} if key[1] else {})
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True).fillna("")
    storage.write_table(path, table.replace("", None))


def include(path: Path, key: tuple[str, str]) -> None:
    """Take a scan out of the file again.

    Raises
    ------
    TableError
        If it is not in the file by itself, or the file has another form.
    """
    table = _read(path)
    own = _rows_of(table, key)
    if not own.any():
        scan = scan_id(key)
        whole = "the whole participant, so edit the file" if _rows_of(table, (key[0], "")).any() else "no such scan"
        msg = f"{path.name}: expected a row of {scan}, but it names {whole}"
        raise TableError(msg)
    if own.all():  # a table without rows is none
        path.unlink()
    else:
        storage.write_table(path, table[~own].replace("", None))


def _rows_of(table: pd.DataFrame, key: tuple[str, str]) -> pd.Series:
    """Rows that name this scan and no other, in any spelling of its id."""
    sessions = table["session_id"] if "session_id" in table else pd.Series("", index=table.index)
    ids = [scan_id(pair) for pair in zip(table["participant_id"], sessions, strict=True)]
    names = {*spellings(*key)}.difference(spellings(key[0], "") if key[1] else ())
    return pd.Series([one in names for one in ids], index=table.index, dtype=bool)


def _read(path: Path) -> pd.DataFrame:
    """The file as text, so that what is not changed stays as it was written."""
    if not path.is_file():
        return pd.DataFrame(columns=["participant_id", _REASON], dtype=str)
    read_table(path)  # refuses what is no table
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    if "participant_id" not in table:
        msg = f"{path}: expected columns participant_id and reason with tabs between them; correct it in an editor"
        raise TableError(msg)
    return table.replace("n/a", "") if _REASON in table else table.replace("n/a", "").assign(**{_REASON: ""})
