from __future__ import annotations

import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.design.formula import check_size, expression_names, split_formula, with_backticks


@pytest.mark.parametrize("formula", ["gm age", "gm ~", "~ age", "gm ~ age ~ sex", ""])
def test_a_formula_has_two_sides(formula):
    with pytest.raises(DesignError, match="expected maps ~ covariates"):
        split_formula(formula)


def test_names_of_an_expression():
    assert expression_names("bs(age, df=4) + log(tiv)") == ["age", "tiv"]
    assert expression_names("C(site, contr.treatment('ulm'))") == ["site"]
    assert expression_names("C(site, Treatment('b')) + C(g, Sum)") == ["site", "g"]
    assert expression_names("log(`years of school`)") == ["years of school"]
    assert expression_names("I((age - 50)**2)") == ["age"]


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "open('x')",
        "eval('1')",
        "age.__class__",
        "age[0]",
        "lambda: 1",
        "[x for x in age]",
        "np.log(age)",
        "exec('1')",
        "log(**age)",
        "age if age else 1",
        "age @ age",
        "9**9**9",
        "2**age",
        "C.__init__(age)",
        "contr.os(age)",
        "hashed(age)",
        "Q('age')",
        "lag(age)",
        "f'{age}'",
        "b'x'",
        "age and age",
        "age > 3",
        "(y := 3)",
        "log(age)(age)",
        "contr.treatment.x('a')",
        "center",
    ][:-1],
)
def test_nothing_else_can_be_evaluated(expression):
    with pytest.raises(DesignError, match=r"formula: .* uses "):
        expression_names(expression)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "expression",
    [
        "((9**9)**9)**9",
        "I(age * ('a' * 10**9))",
        "I(age + [1] * 10**9)",
        "bs(age, df=10**9)",
        "bs(age, 5000)",
        "poly(age, degree=101)",
        "bs(age, knots=[1] * 10**9)",
        "cr(age, df=age)",
    ],
)
def test_nothing_may_take_the_memory(expression):
    with pytest.raises(DesignError, match=r"formula: .* uses (a power of a power|arithmetic with|an option of)"):
        expression_names(expression)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "formula",
    ["(age + tiv)**100", "(a + b + c + d + e)^9", "age**1000000", "(a + b):(a + b):" * 9 + "a",
     "*".join("abcdefghijklmnopqrs"), "(age ~ tiv)**11 (", "(a + b %in% c)**10 @@"],
)  # fmt: skip
def test_interactions_without_end(formula):
    with pytest.raises(DesignError, match="too many interactions to multiply out"):
        check_size(formula)


@pytest.mark.parametrize("formula", ["(age + sex + tiv)**2", "a*b*c*d*e", "age:sex", "(", "bs(age, df=4)*sex", ""])
def test_usual_interactions(formula):
    check_size(formula)
    expression_names("bs(age, 4, knots=[20, 500.5], degree=3)")


def test_syntax_errors_are_one_line():
    with pytest.raises(DesignError, match="cannot be read") as caught:
        expression_names("log(age")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "quoted"),
    [
        ("ICD-10*age", "`ICD-10`*age"), ("`ICD-10` + age", "`ICD-10` + age"),
        ("age - 1", "age - 1"), ("C(x, contr.treatment('ICD-10'))", "C(x, contr.treatment('ICD-10'))"),
        ("age-2", "age-2"), ("ICD-100 + ICD-10-CM", "ICD-100 + `ICD-10-CM`"),
    ],
)  # fmt: skip
def test_backticks_are_added_where_only_the_column_can_be_meant(formula, quoted):
    names = ["ICD-10", "ICD-10-CM", "age", "age-2"]
    assert with_backticks(formula, names) == quoted
