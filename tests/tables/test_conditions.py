"""Conditions on a table's columns: what they keep, and that nothing but comparisons is understood."""

from __future__ import annotations

import pandas as pd
import pytest

from vbmstat.errors import TableError
from vbmstat.tables.cohort import index_by_id
from vbmstat.tables.conditions import Condition


@pytest.fixture
def people():
    table = pd.DataFrame({
        "participant_id": list("abcdef"), "age": [20.0, 35, 50, 65, None, 80],
        "group": ["patient", "control", "patient", "control", "patient", None],
        "ICD-10": ["F32", "F33", "F32", "F41", "F32", "F33"], "site": ["1", "2", "1", "2", "3", "3"],
        "qc_image_rating": [82.0, 71, 65, 90, 77, 70], "limit": [30.0, 30, 60, 60, 30, 90],
    })  # fmt: skip
    return index_by_id(table, "the table")


@pytest.mark.parametrize(
    "text",
    [
        "qc_image_rating > 70", "age >= 35 and group == 'patient'", "(age < 40) & (group != 'control')",
        "20 < age <= 65", "age > limit", "group in ['patient']", "not group == 'patient'", "age < 30 or age > 70",
        "`ICD-10` == 'F32' and age > -1.5", "`ICD-10` not in ['F32', 'F41']", "'patient' == group",
    ],
)  # fmt: skip
def test_rows_are_those_that_pandas_keeps(people, text):
    """Oracle: pandas' query on the rows without a missing value, where two-valued logic is enough."""
    known = people.dropna()
    meets = Condition(text, people).meets
    assert known.index[meets[known.index].astype(bool)].equals(known.query(text, engine="python").index)


def test_a_missing_value_decides_only_where_it_matters(people):
    assert Condition("age > 30 or group == 'patient'", people).meets.tolist() == [True] * 6  # e: patient, f: 80
    assert Condition("not age > 30", people).meets.isna().tolist() == [False] * 4 + [True, False]


def test_names_ids_and_numbers_in_text(people):
    assert Condition("Group == 'patient'", people).columns == ["group"]
    assert Condition("participant_id != 'b'", people).meets.tolist() == [True, False, True, True, True, True]
    assert Condition("site == 2", people).meets.tolist() == [False, True, False, True, False, False]


def test_in_takes_cells_as_equality_does():
    """Texts in decomposed Unicode, truth and numbers among texts are never left out by `in` alone."""
    table = pd.DataFrame({
        "participant_id": list("abc"), "site": ["ko\u0308ln", "ulm", None], "smokes": [True, False, True],
        "code": pd.Series([1, 2, "x"], dtype=object), "arm": pd.Categorical(["a", "b", "c"]),
    })  # fmt: skip
    people = index_by_id(table, "the table")
    for name, value in (("site", "'k\u00f6ln'"), ("smokes", "True"), ("code", "1"), ("arm", "'a'")):
        alone, listed = (Condition(f"{name} {how}", people).meets for how in (f"== {value}", f"in [{value}]"))
        assert alone.iloc[0] is True or bool(alone.iloc[0])
        pd.testing.assert_series_equal(alone, listed, check_names=False)
    assert Condition("arm < 'b'", people).meets.tolist() == [True, False, False]


def test_text_with_numbers_has_no_order(people):
    """'100' > '30' is false in the alphabet: the wrong scans would stay."""
    dose = people.assign(dose=["100", "30", "n.d.", "5", "12", "7"], day=["2020-01-31", *["2021-12-01"] * 5])
    for text in ("dose > '30'", "'30' < dose", "dose < group", "dose >= dose"):
        with pytest.raises(TableError, match="is text, with '100', so that '100' is below '30'"):
            Condition(text, dose)
    assert Condition("day > '2020-06-01'", dose).meets.tolist() == [False, *[True] * 5]
    assert Condition("participant_id > 'b'", dose).meets.sum() == 4


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("agee > 3", r"no column 'agee' in the table \(nearest age"),
        ("group == 'contorl'", r"group is never 'contorl' \(nearest control\)"),
        ("age > 'old'", "age holds numbers, 'old' is none"), ("group > 3", "group holds text"),
        ("age > group", "text and numbers"), ("age = 3", "it cannot be read"), ("age", "'age' is no comparison"),
        ("ICD-10 == 'F32'", "no column or value"), ("3 > 2", "needs a column"),
        ("age > 30 & group == 'patient'", "no column or"), ("age > 3 or " * 200 + "age > 3", "longer than"),
        ("(" * 900, "cannot be read"), ("~" * 990 + "(age>1)", "cannot be read|too deeply"),
    ],
)  # fmt: skip
def test_what_is_no_condition_is_said(people, text, match):
    with pytest.raises(TableError, match=match):
        Condition(text, people)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {}')", "age.__class__ == 3", "age > open('{}', 'w')", "@age > 3",
        "age > (lambda: 3)()", "[x for x in age] == 3", "age > age.max()", "age ** 9 > 3", "f'{{age}}' == group",
        "age > 9 ** 9 ** 9", "(x := 3) > age",
    ],
)  # fmt: skip
def test_nothing_is_executed(people, tmp_path, text):
    with pytest.raises(TableError):
        Condition(text.format(tmp_path / "made"), people)
    assert not list(tmp_path.iterdir())
