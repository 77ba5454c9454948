from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vbmstat.report import page


@pytest.mark.parametrize(
    ("value", "text", "sort"),
    [
        (0.01234, "0.0123", "0.01234"), (-5, "−5", "-5.0"), (1234.56, "1235", "1234.56"), (None, "–", ""),
        (float("inf"), "inf", "inf"), (np.float32(2.5), "2.5", "2.5"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_sort_by_their_value(value, text, sort) -> None:
    found = page.number(value)
    assert (found.text, found.sort, found.is_number) == (text, sort, True)


def test_cells_of_any_kind() -> None:
    assert page.cell(np.int64(3)).is_number
    assert page.cell(True).text == "yes"
    assert page.cell("x") == page.Cell("x", "x")
    assert page.cell(float("nan")).text == "–"


def test_people_in_groups() -> None:
    people = pd.DataFrame({"age": [20.0, 30.0, 40.0, np.nan], "site": ["a", "b", "a", None], "sex": list("ffmm")})
    table = page.described(people, "People", by="sex")
    assert table.columns == ("", "all (n = 4)", "sex f (n = 2)", "sex m (n = 2)")
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["age"] == ["30 ± 10 (20 to 40), 1 missing", "25 ± 7.07 (20 to 30)", "40 ± – (40 to 40), 1 missing"]
    assert rows["site"][0] == "a: 2, b: 1, 1 missing"


def test_the_mean_of_deviations_is_zero() -> None:
    table = page.described(pd.DataFrame({"within(age)": [0.1, 0.2, -0.3]}), "")
    assert table.rows[0][1].text.startswith("0 ±")


def test_a_column_of_free_text_is_not_listed() -> None:
    notes = pd.DataFrame({"notes": [f"note {n}" for n in range(20)]})
    assert page.described(notes, "").rows[0][1].text == "20 different values"


def test_a_picture_is_made_smaller(tmp_path) -> None:
    Image.new("RGBA", (1600, 800), "red").save(tmp_path / "big.png")
    found = page.photograph(tmp_path / "big.png", 400, "alt", "caption", "here")
    assert (found.width, found.height, found.anchor) == (400, 200, "here")
    assert found.source.startswith("data:image/jpeg;base64,")
    assert len(found.source) < 5000


def test_a_column_without_values_is_a_dash() -> None:
    frame = pd.DataFrame({"scanner_change": [None, None], "age": [20.0, 30.0]})
    assert [row[1].text for row in page.described(frame, "").rows] == ["–", "25 ± 7.07 (20 to 30)"]
