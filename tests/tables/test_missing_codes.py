"""Numbers that may stand for missing values: codes apart from the other values, also beside 0 and 1."""

from __future__ import annotations

import numpy as np
import pytest

from vbmstat.tables.missing_codes import is_missing_code, suspects

AGE = np.linspace(20, 70, 20).round(1)
SOME_AGES = np.array([22, 23, 32, 34, 37, 40, 41, 41, 46, 48, 49, 53, 56, 58, 60, 61, 63, 66, 67, 68, 70])


@pytest.mark.parametrize(
    ("others", "code"),
    [
        ([0, 1] * 10, -999), ([0, 1] * 10, 9), ([0, 1] * 10, 99), ([0, 1] * 10, -9), ([0, 1] * 10, -1),
        ([0, 1, 2] * 7, -999), ([-1, 0, 1] * 7, 99), ([-1, 1] * 10, 999), ([1, 2] * 10, 9), ([1, 2, 3, 4, 5] * 4, 9),
        ([7, 8] * 10, 999), ([7, 8, 9] * 7, -999), ([1] * 20, -999), ([0] * 20, -999), ([1] * 20, 99),
        (AGE, -99.9), (AGE, -99.99), (AGE, 999.9), (AGE, -5), (AGE, 0), (SOME_AGES, 9), (SOME_AGES, 99),
    ],
)  # fmt: skip
def test_a_code_apart_from_the_others(others, code):
    values = np.append(np.asarray(others, dtype=float), code)
    assert suspects(values) == {code: (min(others), max(others))}


def test_several_codes_and_their_share():
    assert suspects(np.append(AGE, [999, 888, 777, -99])).keys() == {-99, 777, 888, 999}
    tiv = np.linspace(1300, 1600, 21)
    assert suspects(np.append(tiv, [0.0] * 5)) == {0: (1300, 1600)}
    assert suspects(np.append(tiv, [0.0] * 10)) == {}  # a dose, half of the people have none
    assert suspects(np.array([0.0, 1] * 6 + [-999] * 12)) == {-999: (0, 1)}


@pytest.mark.parametrize(
    "values",
    [
        AGE, AGE + 29, np.linspace(-3, 3, 20), [0, 1] * 9, [-1, 1] * 9, [-1, 0, 1] * 9, range(1, 10), [7, 8, 9] * 5,
        [0, 0, 0, 100, 150, 200], range(-9, 10), [9, 11, 12, 13, 14, 15, 16, 17, 18] * 3, np.append(AGE, 666),
        np.append(AGE, 1000), np.append(AGE / 10 - 1.9, -0.2), [99] * 9, [0] * 9, [1, 9] * 8,
    ],
)  # fmt: skip
def test_ordinary_values(values):
    assert suspects(np.asarray(list(values), dtype=float)) == {}


def test_digits():
    codes = [-1, 0, 7, 88, 999, -9999, 99999, 9.9, 99.99, -77.7]
    assert all(map(is_missing_code, codes))
    assert not any(map(is_missing_code, [1, 2, 6, 66, 98, 9.8, 99.5, 0.9, 1e9, float("nan"), float("inf")]))
