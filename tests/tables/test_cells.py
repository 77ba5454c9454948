"""What cells mean: one rule for text and numbers, no guess about separators, labels that stay apart."""

from __future__ import annotations

import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbmstat.tables import cells


@pytest.mark.parametrize(
    "word", ["", " ", "n/a", "NA", "NaN", "null", ".", "None", "<NA>", "#N/A", "#NULL!", "#DIV/0!"]
)
def test_words_of_every_program_mean_missing(word):
    assert cells.is_missing(word)
    column = cells.without_missing_words(pd.Series(["F", word, "M"]))
    assert column.isna().tolist() == [False, True, False]


@pytest.mark.parametrize("word", ["none", "-", "unknown", "missing", "?"])
def test_words_that_may_be_levels_are_kept(word):
    assert not cells.is_missing(word)
    assert cells.may_mean_missing(word)
    assert not cells.may_mean_missing("F")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (["1,5", "2"], [1.5, 2]),
        (["1,502", "2,25"], [1.502, 2.25]),
        (["0,512", "1,502"], [0.512, 1.502]),
        (["−0.5", "1"], [-0.5, 1]),
        (["1,502", "980"], None),  # 1502 in English, 1.502 in German
        (["1.502,3", "2"], None),
        (["007", "12"], None),
        (["12%", "13%"], None),
    ],
)
def test_numbers_are_read_where_they_can_be_nothing_else(text, numbers):
    column = cells.as_numbers(pd.Series(text), decimal_comma=True)
    assert list(column) == (text if numbers is None else numbers)


def test_labels_of_different_numbers_are_different():
    codes = [1000001.0, 1000002.0, 1.0, 1.5]
    assert cells.labels(codes) == ["1000001", "1000002", "1", "1.5"]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), unique=True))
def test_labels_are_one_to_one(values):
    values = [value + 0.0 for value in values]  # -0.0 and 0.0 are one number
    assert len(set(cells.labels(values))) == len(set(values))


@given(st.lists(st.text(max_size=5)))
def test_spellings_of_one_word_are_grouped_once(words):
    groups = cells.same_but_for_spelling(words)
    each = [word for group in groups for word in group]
    assert len(each) == len(set(each)) <= len(set(words))
    assert all(len(group) > 1 for group in groups)


@pytest.mark.parametrize("other", ["m", " M", "M\u200b", "M\u00a0", "\uff2d", "m.", "M,", "\u041c", "\u043c"])
def test_what_prints_alike_is_one_word(other):
    assert cells.same_but_for_spelling(["M", "F", other]) == [["M", other]]


def test_signs_that_mean_something_keep_words_apart():
    assert cells.same_but_for_spelling(["A", "A+", "A-", "<65", ">65", "65", "...", "?", "."]) == []


def test_points_among_whole_hundreds():
    """A German spreadsheet writes 843 and 2.561 for whole numbers."""
    assert cells.points_among_hundreds(pd.Series(["2.561", "1.006", None, "595", "843"]))
    for plain in ("84", "1843", "0.5", "843.1"):
        assert not cells.points_among_hundreds(pd.Series(["2.561", "1.006", "595", plain]))
    assert not cells.points_among_hundreds(pd.Series(["2.561", "1.006"]))
    assert not cells.points_among_hundreds(pd.Series(["595", "843"]))


def test_accents_composed_and_not_are_one_word():
    assert cells.normalized(unicodedata.normalize("NFD", "Åse ")) == unicodedata.normalize("NFC", "Åse")


@pytest.mark.parametrize("word", ["1.502,3", "1,502.3", "1,502", "12 345", "1'502'300"])
def test_separators_of_thousands(word):
    assert cells.has_thousands(word)
    assert not cells.has_thousands("1502.3")


def test_numbers_with_words():
    assert cells.number_with_word("1960-01-02")[1] == "date"
    found = [cells.number_with_word(word) for word in ("12 y", "12%", "<5", "≥ 40", "20-30", "site 1", "R")]
    assert found == [(12, "y"), (12, "%"), (5, ""), (40, ""), None, None, None]


def test_padded_numbers_are_codes():
    assert cells.is_padded(pd.Series(["01", "10", None])).tolist() == [True, False, False]
    assert np.isnan(cells.numbers_in(pd.Series([None, "x"], dtype=object))).all()
