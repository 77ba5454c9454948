from __future__ import annotations

import numpy as np
import pandas as pd
import patsy
import pytest

from tests.glm.conftest import make_table
from vbmstat.errors import DesignError, TableError
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import build_design


def build(formula: str, table: pd.DataFrame | None = None, **options):
    table = make_table() if table is None else table
    return build_design(formula, table, list(table["participant_id"]), **options)


def test_columns_terms_and_references():
    design = build("age + sex + site + age:sex")
    assert design.columns == (
        "Intercept", "age", "sex[T.M]", "site[T.köln]", "site[T.ulm]", "age:sex[T.M]",
    )  # fmt: skip
    assert design.terms["site"] == ("site[T.köln]", "site[T.ulm]")
    assert set(design.references) == {"sex[T.F]", "site[T.berlin]"}
    assert design.matrix.dtype == np.float64
    assert design.matrix.shape == (26, 6)
    assert design.rank == 6


def test_aliases_are_noted():
    table = make_table().rename(columns={"sex": "gender"})
    design = build("sex + tiv", table)
    assert design.columns == ("Intercept", "sex[T.M]", "tiv")
    assert design.notes == ("sex is read from the column gender", "tiv is read from the column tiv_ml")
    np.testing.assert_array_equal(design.matrix[:, 2], table["tiv_ml"])


def test_every_allowed_transform_is_evaluated():
    table = make_table()
    age = table["age"].to_numpy()
    for name, expected in {
        "log(age)": np.log(age), "log10(age)": np.log10(age), "log1p(age)": np.log1p(age), "sqrt(age)": np.sqrt(age),
        "exp(age / 100)": np.exp(age / 100), "abs(age - 50)": np.abs(age - 50), "I(age**2)": age**2,
        "center(age)": age - age.mean(), "scale(age)": (age - age.mean()) / age.std(ddof=1),
    }.items():  # fmt: skip
        np.testing.assert_allclose(build(name, table).matrix[:, 1], expected, rtol=1e-12, err_msg=name)
    assert build("bs(age, df=4)", table).matrix.shape[1] == 5
    assert build("cr(age, df=4) - 1", table).matrix.shape[1] == 4
    quadratic = build("poly(age, 2)", table).matrix[:, 1:]  # orthonormal, as R's poly()
    np.testing.assert_allclose(quadratic.T @ quadratic, np.eye(2), atol=1e-12)


def test_text_levels_are_sorted_and_may_be_unicode():
    table = make_table()
    assert build("site", table.iloc[::-1]).columns == build("site", table).columns
    assert "site[T.köln]" in build("site").columns


def test_columns_with_spaces():
    table = make_table().rename(columns={"age": "age in years"})
    assert build("`age in years` + log(`age in years`)", table).columns == (
        "Intercept", "age in years", "log(`age in years`)",
    )  # fmt: skip


def test_unknown_columns_with_the_nearest_names():
    with pytest.raises(DesignError, match=r"no column agee, sexx .*agee: nearest age.*sexx: nearest sex"):
        build("agee + sexx")


def test_formula_that_cannot_be_read_is_one_line():
    with pytest.raises(DesignError, match="cannot be read") as caught:
        build("age + (sex")
    assert "\n" not in str(caught.value)


def test_no_python_is_run():
    with pytest.raises(DesignError, match="cannot be read"):
        build("age + __import__('os').getcwd()")
    with pytest.raises(DesignError, match="uses the function"):
        build("age + __import__('os')")
    with pytest.raises(DesignError, match="uses the function"):
        build("{open('x', 'w')}")


def test_empty_cells_of_factors_are_allowed():
    table = make_table()
    table["group"] = np.where(table["sex"] == "F", "a", table["site"])
    design = build("sex * group", table)
    assert design.rank < len(design.columns)


def test_one_level_factor():
    with pytest.raises(DesignError, match="factor sex has the one level 'F'"):
        build("age + sex", make_table().query("sex == 'F'"))


def test_missing_covariates_are_listed_or_dropped():
    table = make_table()
    table.loc[[2, 5], "age"] = np.nan
    table.loc[5, "sex"] = None
    with pytest.raises(TableError, match=r"age: sub-002, sub-005; sex: sub-005"):
        build("age + sex", table)
    design = build("age + sex", table, missing="drop")
    assert len(design.scan_ids) == 24
    assert design.notes == ("dropped 2 scans with missing covariates: sub-002, sub-005",)
    assert len(build("tiv", table).scan_ids) == 26  # a missing value in an unused column is nobody's business


@pytest.mark.parametrize("missing", ["raise", "drop"])
def test_infinite_numbers_are_not_called_missing(missing):
    table = make_table()
    table.loc[4, "age"] = np.inf
    with pytest.raises(TableError, match="covariate age: an infinite or too large number for sub-004; correct it"):
        build("age", table, missing=missing)


def test_text_that_should_be_numbers():
    table = make_table()
    table["age"] = table["age"].astype(str).str.replace(".", ",")
    with pytest.raises(TableError, match="column age: decimal commas"):
        build("age", table)
    table = make_table()
    table["age"] = table["age"].astype(str)
    table.loc[3, "age"] = "about 40"
    with pytest.raises(TableError, match="column age: expected numbers, got sub-003: 'about 40'"):
        build("age", table)
    assert len(build("C(age)", table.assign(age=["1", "2"] * 13)).columns) == 2


def test_codes_with_zeros_in_front_are_levels():
    table = pd.DataFrame({"site": ["01", "02", "01", "03", "02", "03"], "age": [20.0, 31, 45, 52, 60, 71]})
    design = build_design("age + site", table, list("abcdef"))
    assert design.columns == ("Intercept", "age", "site[T.02]", "site[T.03]")


@pytest.mark.parametrize("formula", ["C(site, levels=['01'])", "I('x')"])
def test_what_formulaic_only_warns_of(formula):
    table = pd.DataFrame({"site": ["01", "02", "01", "03", "02", "03"]})
    with pytest.raises(DesignError, match="cannot be evaluated"):
        build_design(formula, table, list("abcdef"))


@pytest.mark.parametrize(("factor", "unit"), [(1000, "mm³"), (0.001, "litres")])
def test_tiv_in_other_units(factor, unit):
    table = make_table()
    with pytest.raises(TableError, match=f"column tiv: median .* looks like {unit}, expected mL"):
        build("tiv", table.assign(tiv_ml=table["tiv_ml"] * factor))


def test_one_tiv_in_other_units():
    table = make_table()
    table.loc[7, "tiv_ml"] *= 1000
    with pytest.raises(TableError, match="TIV of sub-007 lies outside"):
        build("tiv", table)


def test_log_of_a_negative_number_names_the_scan():
    table = make_table()
    table.loc[3, "age"] = -1.0
    with pytest.raises(DesignError, match=r"log\(age\) is not finite for sub-003"):
        build("log(age)", table)


def test_natural_splines_stand_beside_a_constant():
    """As patsy's cr(constraints="center"); with the constant they span the natural splines of one knot more."""
    table = make_table()
    design = build("cr(age, df=4) + sex", table)
    found = design.matrix[:, [i for i, name in enumerate(design.columns) if name.startswith("cr(")]]
    centred = np.asarray(patsy.dmatrix("cr(age, df=4, constraints='center') - 1", table))
    np.testing.assert_allclose(found, centred, rtol=1e-9, atol=1e-12)
    whole = build("cr(age, df=5) - 1", table).matrix
    np.testing.assert_allclose(whole, np.asarray(patsy.dmatrix("cr(age, df=5) - 1", table)), rtol=1e-9, atol=1e-12)
    assert np.linalg.matrix_rank(np.column_stack([whole, found, np.ones(26)])) == 5
    assert build("0 + sex + cr(age, df=4)", table).rank == 6


def test_codings_by_name():
    """As patsy's codings, which are R's contr.sum and contr.helmert."""
    table = make_table()
    for name, coding in (("sum", "Sum"), ("helmert", "Helmert")):
        expected = np.asarray(patsy.dmatrix(f"C(site, {coding})", table))
        found = build(f"C(site, contr.{name})", table)
        scale = np.linalg.norm(expected, axis=0) / np.linalg.norm(found.matrix, axis=0)  # helmert: by levels
        np.testing.assert_allclose(found.matrix * scale, expected, atol=1e-12)
        np.testing.assert_array_equal(build(f"C(site, contr.{name}())", table).matrix, found.matrix)
    with pytest.raises(DesignError, match="uses"):
        build("C(site, contr.__class__)", table)


def test_participants_may_be_a_factor():
    table = make_table().assign(participant_id=[f"sub-{i // 2}" for i in range(26)])
    table = table.set_index(["participant_id"])
    design = build_design("age + participant_id", table, [str(i) for i in range(26)])
    assert len(design.terms["participant_id"]) == 12


def test_names_are_compared_in_composed_unicode():
    table = make_table().rename(columns={"age": "\u00c5lder"})
    assert build("A\u030alder + log(A\u030alder)", table).columns == ("Intercept", "\u00c5lder", "log(\u00c5lder)")


@pytest.mark.parametrize(("given", "formula"), [("TIV", "tiv"), ("Tiv_mL", "tiv"), ("tiv", "TIV"), ("Age", "age")])
def test_a_column_in_another_letter_case(given, formula):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({given: rng.uniform(1200, 1700, 12), "dose": rng.uniform(size=12)})
    design = build_design(f"dose + {formula}", table, [f"s{i}" for i in range(12)])
    np.testing.assert_array_equal(design.matrix[:, 2], table[given])
    assert design.taken[1].line.endswith(f"read from the column {given}")
    assert np.isfinite(variance_inflation(design)["r_tiv"]).all() == ("tiv" in given.lower())


def test_two_columns_that_differ_in_letter_case_are_not_guessed_at():
    table = pd.DataFrame({"TIV": [1.0, 2, 3, 4], "Tiv": [1.0, 3, 2, 4]})
    with pytest.raises(DesignError, match=r"no column tiv in the table \(tiv: nearest (TIV|Tiv)"):
        build_design("tiv", table, list("abcd"))


@pytest.mark.parametrize("patsy", ["Treatment('ulm')", 'Treatment("ulm")', "Treatment(reference='ulm')"])
def test_codings_in_the_spelling_of_patsy(patsy):
    table = make_table()
    ids = list(table["participant_id"])
    ours = build_design(f"age + C(site, {patsy})", table, ids)
    np.testing.assert_array_equal(ours.matrix, build_design("age + C(site, contr.treatment('ulm'))", table, ids).matrix)
    sums = [build_design(f"age + C(site, {name})", table, ids).matrix for name in ("Sum", "contr.sum")]
    np.testing.assert_array_equal(*sums)
    with pytest.raises(DesignError, match=r"no column Treatment in the table"):
        build_design("C(site, Treatment)", table, ids)
