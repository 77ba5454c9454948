"""Tables as spreadsheets and statistics programs save them: read as the same eight people, or refused in one line."""

from __future__ import annotations

import datetime

import pytest

from vbmstat.errors import TableError
from vbmstat.tables.cohort import read_cohort, read_table

openpyxl = pytest.importorskip("openpyxl")
HEADER = ("participant_id", "age", "sex")
PEOPLE = [(f"sub-{i:02d}", 15 + 5 * i, "FM"[i % 2]) for i in range(1, 9)]


def lines(separator: str = ",", end: str = "") -> list[str]:
    """The people, a line each, below their header."""
    return [separator.join(map(str, row)) + end for row in (HEADER, *PEOPLE)]


def is_of_the_people(path) -> tuple[str, ...]:
    """Check that a table is read as the people; its notes."""
    cohort = read_cohort(path)
    assert cohort.scan_ids == [row[0] for row in PEOPLE]
    assert list(cohort.table["age"]) == [row[1] for row in PEOPLE]
    assert list(cohort.table["sex"]) == [row[2] for row in PEOPLE]
    return cohort.notes


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("sep.csv", ["sep=;", *lines(";")]),
        ("quoted_sep.csv", ['"sep=;"', *lines(";")]),
        ("empty_rows.csv", [*lines(";"), ";;", ";;", ""]),
        ("empty_columns.csv", lines(";", ";;")),
        ("one_more_separator.csv", lines(",", ",")),
        ("commas.tsv", lines(",")),
        ("commas.txt", lines(",")),
        ("semicolons.txt", lines(";")),
        ("tabs.csv", lines("\t")),
        ("cell_with_a_line.csv", [*lines()[:-1], '"sub-08","55","F\n"']),
        ("nbsp.csv", [line.replace(",", "\u00a0,") for line in lines()]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts(tmp_path, name, rows, end):
    (tmp_path / name).write_bytes(end.join(rows).encode("utf-8"))
    assert is_of_the_people(tmp_path / name) == ()


def test_utf_16(tmp_path):
    (tmp_path / "unicode.txt").write_text("\n".join(lines("\t")), encoding="utf-16")
    assert is_of_the_people(tmp_path / "unicode.txt") == ()


@pytest.mark.parametrize("title", ["Demographics of study X,,", "Demographics\n\nas of 2020,,"])
def test_a_title_above_the_header_is_passed_over_and_noted(tmp_path, title):
    (tmp_path / "a.csv").write_text("\n".join([title, *lines()]))
    (note,) = is_of_the_people(tmp_path / "a.csv")
    assert "a.csv: the header is line" in note
    assert "'Demographics" in note


def test_a_table_without_ids_has_its_header_in_the_first_line(tmp_path):
    (tmp_path / "a.tsv").write_text("label\tname\n1\tid\n2\tsubject\n")
    assert list(read_table(tmp_path / "a.tsv").columns) == ["label", "name"]


def test_a_column_without_a_name_is_kept(tmp_path):
    rows = [f"{i if i else ''},{line}" for i, line in enumerate(lines())]
    (tmp_path / "pandas.csv").write_text("\n".join(rows))
    is_of_the_people(tmp_path / "pandas.csv")
    assert list(read_table(tmp_path / "pandas.csv").columns) == ["column 1", *HEADER]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([*lines(), "sub-09,33,M,extra"], r"3 columns .*\(line 1\).* line 10 has 4 cells \('extra' is the last\)"),
        ([*lines(), "", ",33,M"], "no participant_id in line 11"),
        (["sep=;", *lines(";"), ";33;M"], "no participant_id in line 11"),
        ([*lines(), 'sub-09,"33,M'], "an unclosed quotation mark"),
        ([",,", ",,"], "it is empty"),
    ],
)
def test_the_line_is_named(tmp_path, rows, match):
    (tmp_path / "a.csv").write_text("\n".join(rows))
    with pytest.raises(TableError, match=match):
        read_cohort(tmp_path / "a.csv")


def test_the_line_that_is_no_utf_8_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("\n".join([*lines(), "sub-09,33,männlich"]).encode("latin-1"))
    with pytest.raises(TableError, match=r"line 10 has other bytes; save it as UTF-8"):
        read_cohort(tmp_path / "a.csv")


def workbook(path, rows, sheets=()):
    """A workbook with the rows in its last worksheet."""
    book = openpyxl.Workbook()
    for title, cell in sheets:
        book.active.title, book.active["A1"] = title, cell
        book.active = book.create_sheet("data")
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_worksheets(tmp_path):
    assert is_of_the_people(workbook(tmp_path / "a.xlsx", [HEADER, *PEOPLE, ["", "", None]])) == ()
    notes = is_of_the_people(workbook(tmp_path / "b.xlsx", [HEADER, *PEOPLE], [("Notes", "Read me first")]))
    assert notes == ("b.xlsx: worksheet 'data' is read, not 'Notes'",)
    (note,) = is_of_the_people(workbook(tmp_path / "c.xlsx", [["Demographics"], [], HEADER, *PEOPLE]))
    assert note == "c.xlsx: the header is line 3; skipped above it: 'Demographics'"


def test_ids_are_as_a_worksheet_shows_them(tmp_path):
    path = workbook(tmp_path / "a.xlsx", [("ID", "birth", "patient"), (7, datetime.datetime(1960, 1, 2), True)])
    book = openpyxl.load_workbook(path)
    book.active["A2"].number_format = "000"
    book.save(path)
    table = read_cohort(path).table
    assert list(table.index) == [("007", "")]
    assert table.iloc[0].tolist() == ["1960-01-02", "True"]


def test_formulas_that_were_never_computed(tmp_path):
    path = workbook(tmp_path / "a.xlsx", [HEADER, ("sub-01", "=20+1", "M")])
    with pytest.raises(TableError, match="cell B2 of worksheet 'Sheet' holds a formula without its value"):
        read_cohort(path)
