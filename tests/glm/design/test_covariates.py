"""How covariates are taken: said in a line each, refused where two readings are possible, never in silence."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vbmstat.errors import DesignError, TableError
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


@pytest.mark.parametrize("name", ["site", "Scanner", "centre_id", "subject"])
def test_numbers_of_sites_and_subjects_are_names(name):
    design = build(f"age + {name}", **{name: [10, 1, 2, 3]})
    assert design.columns == ("Intercept", "age", f"{name}[T.2]", f"{name}[T.3]", f"{name}[T.10]")
    assert lines(design)[1].startswith(f"{name}: factor 1 5 (reference), 2 5, 3 5, 10 5; numbers of a {name} are names")
    as_number = build(f"age + I({name})", **{name: [10, 1, 2, 3]})
    assert as_number.columns == ("Intercept", "age", f"I({name})")
    np.testing.assert_array_equal(as_number.matrix[:4, 2], [10, 1, 2, 3])
    np.testing.assert_array_equal(build(f"age + C({name})", **{name: [10, 1, 2, 3]}).matrix, design.matrix)


def test_whole_numbers_as_a_factor_have_names_without_a_point():
    assert build("C(group)", group=[1, 2]).columns == ("Intercept", "C(group)[T.2]")


@pytest.mark.parametrize("words", [["M", "F", "m"], ["M", "F", "M "], ["M", "F", "M\u200b"]])
def test_spellings_of_one_level_are_refused(words):
    if words[2].strip() != words[0]:  # blanks around a word are taken off
        with pytest.raises(DesignError, match=r"column sex: 'M' \(7 scans\) and .* \(6 scans\) differ only in letter"):
            build("age + sex", sex=words)
        assert len(build("age + C(sex)", sex=words).columns) == 4
    else:
        assert lines(build("sex", sex=words)) == ["sex: factor F 7 (reference), M 13"]


@pytest.mark.parametrize("word", [".", "#N/A", "None", "<NA>", "#NULL!"])
def test_a_word_for_missing_is_no_level(word):
    sex = ["M", "F"] * 9 + [word, "F"]
    with pytest.raises(TableError, match="missing covariates — sex: sub-19;"):
        build("age + sex", sex=sex)


def test_a_word_for_missing_is_no_category():
    table = pd.DataFrame({"sex": pd.Categorical(["M", "F", "."] * 4)})
    assert build_design("sex", table, list(map(str, range(12))), "drop").columns == ("Intercept", "sex[T.M]")


@pytest.mark.parametrize("quoted", ["'{}'", '"{}"', "“{}”", '="{}"', "{}"])
def test_numbers_in_quotes_are_numbers(quoted):
    values = [8, 9, 10, 11, 12]
    design = build("age + edu", edu=[quoted.format(value) for value in values])
    np.testing.assert_array_equal(design.matrix[:5, 2], values)
    read = "" if quoted == "{}" else f", read without the quotation marks of {quoted.format(8)}"
    assert lines(design)[1] == f"edu: number 8–12, five values{read}: C(edu) for a factor?"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (["8 y", "9 y", "10 y", "11 y", "12 y"], "'8 y' of sub-01 and others look like numbers with a unit"),
        (["8%", "9%", "10%", "11%", "12%"], "'8%' of sub-01 and others look like numbers with a unit"),
        (["<5", "<6", "<7", "<8", ">9"], "'<5' of sub-01 and others look like numbers with a unit"),
        (["1960-01-02", "1961-01-02", "1962-01-02", "1963-01-02", "1964-01-02"], "look like dates"),
        (["-", "-", "1.5", "-", "2", "-", "3", "-", "4", "5", "-"], "expected numbers, got sub-01: '-'"),
        (["<5", "6", "7", "8"], "expected numbers, got sub-01: '<5'"),
        (["1.502,3", "1.512,3"], r"'1.502,3' of sub-01 seems to have a separator of thousands; .*\(1502.3\)"),
        (["1,502", "980"], "'1,502' of sub-01 seems to have a separator of thousands"),
        (["1 502", "1 602"], "'1 502' of sub-01 seems to have a separator of thousands"),
        (["05", "7", "12"], "'05' of sub-01 has a zero in front, others have none"),
    ],
)
def test_text_like_numbers_is_refused_with_the_way_out(values, match):
    with pytest.raises(TableError, match=match) as caught:
        build("age + x", x=values)
    assert "or C(x) for a factor" in str(caught.value)
    assert len(build("C(x)", x=values).columns) == len(set(values))


def test_the_use_of_a_column_is_not_guessed_from_another_of_its_name():
    """C(age2) said nothing of age, but was taken to."""
    with pytest.raises(TableError, match="column age: expected numbers"):
        build("age + C(age2)", age=[*map(str, AGE[:-1]), "forty"], age2=[1, 2])


@pytest.mark.parametrize("other", ["m.", "\u041c"])  # a Cyrillic M
def test_more_spellings_of_one_level_are_refused(other):
    with pytest.raises(DesignError, match=rf"column sex: 'M' \(7 scans\) and '{other}' \(6 scans\) differ only in"):
        build("age + sex", sex=["M", "F", other])


def test_tiv_that_is_no_number():
    design = build("age + tiv", tiv_ml=["large", "small"])
    assert design.columns[-1] == "tiv[T.small]"
    with pytest.raises(TableError, match=r"column tiv: '1.502,3' of sub-01 seems to have a separator of thousands"):
        build("age + tiv", tiv_ml=["1.502,3", "1.512,3"])
