"""Read table files as text cells (.tsv, .csv with any separator, .xlsx) and find their header line."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.files.filenames import normalized

_SEPARATORS = ("\t", ",", ";")
_SEARCHED_ROWS = 10  # for a header line below a title
_MAX_FIELD = 10_000_000  # characters in a cell; csv's own limit is 131,072
_BYTE_ORDER_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@dataclass(frozen=True)
class Sheet:
    """A table as text."""

    cells: pd.DataFrame  # columns named as in the header line; empty cells are "". Empty rows and columns are left out
    lines: tuple[int, ...]  # line in the file (row of a worksheet) of each row, for messages
    decimal_comma: bool  # whether a comma may be a decimal mark: not if it separates the cells
    notes: tuple[str, ...] = ()  # what was skipped


def id_name(name: str) -> str:
    """A column name in lower case, letters and digits only, to compare names of id columns.

    Examples
    --------
    >>> id_name("Subject ID"), id_name("participant_id")
    ('subjectid', 'participantid')
    """
    return "".join(c for c in name.casefold() if c.isalnum())


def read_sheet(path: Path, id_names: Iterable[str]) -> Sheet:
    """Read the cells of a table.

    Parameters
    ----------
    path : Path
        ``.xlsx``, ``.xls``, or text in UTF-8 (or UTF-16 with its mark) separated by tab, comma or semicolon.
    id_names : iterable of str
        Names of id columns, in the form of :func:`id_name`. They identify the header line below a title, and the
        worksheet in a workbook; without one, the first line is the header.

    Raises
    ------
    TableError
        If a row has more cells than the header, two columns have one name, or the table has no rows.
    OSError, UnicodeError, ValueError
        From Python, openpyxl and pandas on damaged files.
    """
    known = set(id_names)
    if path.suffix.lower() == ".xlsx":
        rows, notes = _worksheet(path, known)
        return _sheet(path, rows, known, True, notes)
    if path.suffix.lower() == ".xls":
        frame = pd.read_excel(path, header=None, dtype=str, keep_default_na=False).fillna("")
        return _sheet(path, [(i + 1, row) for i, row in enumerate(frame.to_numpy().tolist())], known, True)
    text = _decoded(path.read_bytes())
    first, _, after = text.partition("\n")
    directive = first.strip().strip('"').casefold()  # Excel's own first line, sep=;
    is_directive = directive.startswith("sep=") and len(directive) == 5
    separator = directive[4] if is_directive else _separator(text, path.suffix.lower(), known)
    rows = _split(after if is_directive else text, separator, 1 if is_directive else 0)
    return _sheet(path, rows, known, separator != ",")


def _decoded(content: bytes) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8-sig")
    return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _separator(text: str, suffix: str, known: set[str]) -> str:
    """The separator that gives an id column in the first lines; among equals, the one that gives most columns."""
    lines = [line for line in islice(io.StringIO(text), 2 * _SEARCHED_ROWS) if line.strip()]
    lines = lines[:_SEARCHED_ROWS]

    def merit(separator: str) -> tuple[bool, bool, int]:
        rows = [[cell.strip(" \"'") for cell in line.strip("\n").split(separator)] for line in lines]
        header = next((row for row in rows if _has_id(row, known)), None)
        n_cells = len(header or (rows[0] if rows else []))
        return header is not None, n_cells > 1 and separator == "\t" and suffix != ".csv", n_cells

    return max(_SEPARATORS, key=merit)


def _has_id(row: Sequence[str], known: set[str]) -> bool:
    return any(id_name(cell) in known for cell in row)


def _split(text: str, separator: str, line: int) -> list[tuple[int, list[str]]]:
    """Rows with the number of the line in which each starts."""
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    rows, start = [], 0
    try:
        for row in reader:
            rows.append((line + start + 1, row))
            start = reader.line_num
    except csv.Error as error:
        msg = f"line {line + start + 1}: {error} (an unclosed quotation mark?)"
        raise ValueError(msg) from error
    return rows


def _sheet(
    path: Path, rows: list[tuple[int, list[str]]], known: set[str], decimal_comma: bool, notes: tuple[str, ...] = ()
) -> Sheet:
    """The table below its header line, without empty rows and columns."""
    filled = [(line, [normalized(cell) for cell in row]) for line, row in rows]
    filled = [(line, row) for line, row in filled if any(row)]
    at = _header(filled, known)
    if at:
        title = " ".join(filter(None, filled[0][1]))[:60]
        notes = (*notes, f"{path.name}: the header is line {filled[at][0]}; skipped above it: {title!r}")
    if not filled:
        msg = f"{path}: expected a UTF-8 table (.tsv, .csv or .xlsx) with one header line, but it is empty"
        raise TableError(msg)
    (line, header), body = filled[at], filled[at + 1 :]
    width = max(i + 1 for i, name in enumerate(header) if name)
    for here, row in body:
        n_cells = max((i + 1 for i, cell in enumerate(row) if cell), default=0)
        if n_cells > len(header):
            msg = (
                f"{path}: expected a UTF-8 table with {width} columns as in its header (line {line}), but line {here} "
                f"has {n_cells} cells ({row[n_cells - 1]!r} is the last); correct the line or name the column"
            )
            raise TableError(msg)
    columns = [[row[i] if i < len(row) else "" for _, row in body] for i in range(len(header))]
    kept = [i for i, name in enumerate(header) if name or any(columns[i])]
    names = [header[i] or f"column {i + 1}" for i in kept]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"{path}: two columns are called {', '.join(map(repr, twice))}; rename one"
        raise TableError(msg)
    if not body:
        msg = f"{path}: expected a header line and one line per scan, but the table has no rows"
        raise TableError(msg)
    cells = pd.DataFrame(dict(zip(names, (columns[i] for i in kept), strict=True)), dtype=str)
    return Sheet(cells, tuple(here for here, _ in body), decimal_comma, notes)


def _header(rows: list[tuple[int, list[str]]], known: set[str]) -> int:
    """Position of the header: the first line with an id column below titles (one cell), else the first."""
    for at, (_, row) in enumerate(rows[:_SEARCHED_ROWS]):
        if _has_id(row, known):
            return at
        if sum(map(bool, row)) > 1:
            break
    return 0


def _worksheet(path: Path, known: set[str]) -> tuple[list[tuple[int, list[str]]], tuple[str, ...]]:
    """Rows of the first worksheet with an id column, else of the first that is not empty."""
    try:
        import openpyxl  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = f"{path}: reading Excel tables needs another package; pip install openpyxl, or save it as .tsv"
        raise TableError(msg) from error
    book = openpyxl.load_workbook(path, data_only=True)
    rows = {
        sheet.title: [(i + 1, [_cell_text(cell) for cell in row]) for i, row in enumerate(sheet.iter_rows())]
        for sheet in book.worksheets
    }
    filled = {title: [(i, row) for i, row in sheet if any(row)] for title, sheet in rows.items()}
    with_id = [title for title, sheet in filled.items() if sheet and _has_id(sheet[_header(sheet, known)][1], known)]
    chosen = next(iter([*with_id, *(title for title, sheet in filled.items() if sheet), *filled]))
    others = [title for title, sheet in filled.items() if sheet and title != chosen]
    if any(not text for _, row in filled[chosen] for text in row):
        _check_formulas(path, chosen, openpyxl.load_workbook(path)[chosen], rows[chosen])
    notes = (f"{path.name}: worksheet {chosen!r} is read, not {', '.join(map(repr, others))}",) if others else ()
    return rows[chosen], notes


def _check_formulas(path: Path, title: str, sheet: Any, rows: list[tuple[int, list[str]]]) -> None:
    """Refuse a worksheet with formulas that were never computed, as scripts write them."""
    for (_, texts), row in zip(rows, sheet.iter_rows(), strict=False):
        for text, cell in zip(texts, row, strict=False):
            if not text and cell.data_type == "f":
                msg = (
                    f"{path}: cell {cell.coordinate} of worksheet {title!r} holds a formula without its value; "
                    "open the file in a spreadsheet program and save it, or save the values as .tsv"
                )
                raise TableError(msg)


def _cell_text(cell: Any) -> str:
    """A worksheet cell as it is displayed: whole numbers with their leading zeros, dates without a time."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    zeros = (cell.number_format or "").strip('"')
    if isinstance(value, int) and not isinstance(value, bool) and set(zeros) == {"0"}:
        return f"{value:0{len(zeros)}d}"
    return str(value)
