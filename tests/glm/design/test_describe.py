"""A line on each covariate, and notes on codes, words and levels that may mean something else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vbmstat.glm.design.matrix import Design, build_design

N = 20


AGE = np.linspace(20, 70, N).round(1)


def build(formula: str, **columns) -> Design:
    """A design over twenty scans with an age and other columns; shorter ones are repeated."""
    repeated = {name: np.resize(np.array(list(values), dtype=object), N) for name, values in columns.items()}
    table = pd.DataFrame({"age": AGE} | repeated)
    return build_design(formula, table.infer_objects(), [f"sub-{i:02d}" for i in range(1, N + 1)])


def lines(design: Design) -> list[str]:
    return [covariate.line for covariate in design.taken]


def test_one_line_a_covariate():
    design = build("age + sex + group + flag", sex=["M", "F"], group=[1, 2, 3, 4, 5], flag=[0, 1, 1])
    assert lines(design) == [
        "age: number, 20–70",
        "sex: factor F 10 (reference), M 10",
        "group: number 1–5, five values: C(group) for a factor?",
        "flag: number, 0–1, two values",
    ]
    assert design.notes == ()
    assert design.taken[1].record == {
        "name": "sex", "kind": "factor", "levels": {"F": 10, "M": 10}, "reference": "F",
        "line": "sex: factor F 10 (reference), M 10",
    }  # fmt: skip


def test_the_reference_is_that_of_the_coding():
    design = build('age + C(sex, contr.treatment("M")) + C(group, contr.sum)', sex=["M", "F"], group=[1, 2, 3, 4])
    assert lines(design)[1:] == ["sex: factor F 10, M 10 (reference)", "group: factor 1 5, 2 5, 3 5, 4 5"]
    assert lines(build("0 + sex", sex=["M", "F"])) == ["sex: factor F 10, M 10"]


def test_many_levels_are_shortened():
    (line,) = lines(build("word", word=[f"w{i}" for i in range(10)]))
    assert line.endswith("w7 2 and 2 more levels")


def test_words_that_may_mean_missing_are_levels_with_a_note():
    design = build("sex", sex=["M", "F"] * 9 + ["unknown", "F"])
    assert design.columns == ("Intercept", "sex[T.M]", "sex[T.unknown]")
    assert design.notes == ("sex: 'unknown' of sub-19 is taken as a level; write n/a if it means missing",)


def test_few_levels_like_numbers_are_a_factor_with_a_note():
    design = build("field", field=["1.5T", "3T"])
    assert lines(design) == ["field: factor 1.5T 10 (reference), 3T 10"]
    assert design.notes == ("field: text like numbers, e.g. '1.5T', is taken as levels of a factor",)
    (note,) = build("hand", hand=["R", "L", "R", "L", "1"]).notes
    assert note == "hand: '1' of sub-05, sub-10, sub-15, sub-20 looks like a number, and is taken as a level"
    assert build("band", band=["<65", "=65", ">65"]).notes == ()
    assert build("band", band=["20-30", "31-40"]).notes == ()
    assert lines(build("code", code=["01", "02"])) == ["code: factor 01 10 (reference), 02 10; text such as '01'"]


@pytest.mark.parametrize("code", [-999, -99, -9, 99, 999, 9999, -1, 0])
def test_codes_for_missing_values_are_noted(code):
    age = AGE.copy()
    age[3] = code
    (note,) = build("age", age=age).notes
    low, high = np.delete(age, 3).min(), np.delete(age, 3).max()
    shown = str(code).replace("-", "−")
    assert note == (
        f"age: {shown} of sub-04 lies apart from all others ({low:g}–{high:g}); write n/a if it means missing"
    )


def test_several_codes_and_questionnaires():
    age = AGE.copy()
    age[[3, 4, 5]] = -999, -888, -999
    first, second = build("age", age=age).notes
    assert first.startswith("age: −999 of sub-04, sub-06 lies apart")
    assert second.startswith("age: −888 of sub-05")
    assert build("sex", sex=[1, 2, 1, 2, 9]).notes[0].startswith("sex: 9 of sub-05, sub-10")


@pytest.mark.parametrize(
    "values",
    [
        AGE + 29,
        np.linspace(-3, 3, N),
        [0, 1],
        [-1, 1],
        range(1, 10),
        [0, 0, 0, 100, 150, 200],
        [7, 8, 9],
        range(-9, 10),
    ],
)
def test_ordinary_values_are_no_codes(values):
    assert build("x", x=values).notes == ()


def test_a_code_beside_zero_and_one_is_noted():
    (note,) = build("age + dx", dx=[0, 1] * 9 + [-999, 0]).notes
    assert note == "dx: −999 of sub-19 lies apart from all others (0–1); write n/a if it means missing"


@pytest.mark.parametrize(
    ("formula", "column", "note"),
    [
        ("C(g)", {"g": [1, 2] * 9 + [-999, -999]},
         "g: −999 of sub-19, sub-20 lies apart from all others (1–2) and is the reference level; write n/a"),
        ("site", {"site": [1, 2, 3, 4] * 4 + [99] * 4}, "site: 99 of sub-17, sub-18, sub-19, sub-20 lies apart from"),
        ("sex", {"sex": ["M", "F"] * 9 + ["9", "9"]},
         "sex: '9' of sub-19, sub-20 is taken as a level, the reference; write n/a if it means missing"),
        ("C(sex)", {"sex": ["M", "F"] * 9 + ["-999", "F"]}, "sex: '-999' of sub-19 is taken as a level, the"),
    ],
)  # fmt: skip
def test_codes_among_the_levels_of_a_factor_are_noted(formula, column, note):
    (found,) = build(formula, **column).notes
    assert found.startswith(note)


@pytest.mark.parametrize(
    ("formula", "column"),
    [
        ("site", {"site": [101, 102, 205, 99]}), ("C(g)", {"g": [0, 1, 2]}), ("subject", {"subject": [1, 2, 3, 99]}),
        ("sex", {"sex": ["M", "F", "unknown"]}),
    ],
)  # fmt: skip
def test_ordinary_levels_are_no_codes(formula, column):
    assert not [note for note in build(formula, **column).notes if "apart" in note or "levels" in note]


@pytest.mark.parametrize("name", ["sex", "Gender"])
def test_a_third_sex_may_be_a_spelling(name):
    (note,) = build(name, **{name: ["M", "F", "male", "female"]}).notes
    assert note.startswith(f"{name}: 4 levels ('F' 5, 'M' 5, 'female' 5, 'male' 5); if some are spellings of")
    assert build(name, **{name: ["M", "F"]}).notes == ()


@pytest.mark.parametrize("form", ["{} Mar 1990", "{}y{}m", "({})", "{}:30", "#{}"])
def test_text_with_a_level_for_most_scans_is_noted(form):
    words = [form.format(i, i) for i in [*range(1, 17), 1, 2, 3, 4]]
    (note,) = build("x", x=words).notes
    assert note.startswith(f"x: text with 16 levels in 20 scans, e.g. {words[0]!r}, is taken as a factor; write plain")
    assert build("C(x)", x=words).notes == ()
    assert build("site", site=words).notes == ()
    assert build("x", x=words[:10]).notes == ()
