"""Contrasts as a user writes them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.glm.conftest import make_table
from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import build_contrasts, contrast_notes
from vbmstat.glm.design.matrix import build_design


@pytest.fixture
def design():
    table = make_table()
    return build_design("age + sex + site + bs(tiv, df=4)", table, list(table["participant_id"]))


def only(spec, design):
    (contrast,) = build_contrasts([spec], design)
    return contrast


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("age", {"age": 1}),
        ("sex", {"sex[T.M]": 1}),
        ("-age", {"age": -1}),
        ("sex[T.M] - sex[T.F]", {"sex[T.M]": 1}),
        ("site[T.köln] - site[T.ulm]", {"site[T.köln]": 1, "site[T.ulm]": -1}),
        ("2 * age - (sex + site[T.ulm]) / 4", {"age": 2, "sex[T.M]": -0.25, "site[T.ulm]": -0.25}),
        ("bs(tiv, df=4)[1] - bs(tiv, df=4)[2]", {"bs(tiv, df=4)[1]": 1, "bs(tiv, df=4)[2]": -1}),
        ("older = age", {"age": 1}),
    ],
)
def test_expressions(design, spec, expected):
    contrast = only(spec, design)
    found = dict(zip(design.columns, contrast.weights[0], strict=True))
    assert {name: weight for name, weight in found.items() if weight} == expected
    assert contrast.kind == "t"


def test_term_and_joint_tests(design):
    site = only("site", design)
    assert (site.kind, site.weights.shape) == ("F", (2, len(design.columns)))
    joint = only("both = F(age, sex)", design)
    assert (joint.kind, joint.name, joint.weights.shape[0]) == ("F", "both", 2)
    spline = only("F(bs(tiv, df=4))", design)
    assert spline.weights.shape[0] == 4


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("agee", "no column 'agee' .nearest age"),
        ("age * sex", "expected a linear combination"),
        ("age + 1", "expected a linear combination"),
        ("age - age + 1", "expected a linear combination"),
        ("age - age", "all weights are zero"),
        ("sex[T.F]", "all weights of a row are zero|all weights are zero"),
        ("age.__class__", "expected a linear combination|no column"),
        ("__import__('os')", "expected a linear combination"),
        ("age +", "no column"),
        ("missing.json", "missing.json: expected a JSON object"),
    ],
)
def test_bad_contrasts(design, spec, match):
    with pytest.raises(DesignError, match=match):
        build_contrasts([spec], design)


@pytest.mark.parametrize(
    "spec",
    [{"age": None}, {"age": "much"}, {"age": [1, 2]}, {"age": float("nan")}, [1, {}], [[1], [2, 3]], 10**400, None],
)
def test_weights_that_are_no_numbers(design, spec):
    with pytest.raises(DesignError, match="contrast odd: expected numbers as weights, got"):
        build_contrasts({"odd": spec}, design)


def test_wrong_number_of_weights(design):
    with pytest.raises(DesignError, match=r"contrast x: 2 weights for 9 columns"):
        build_contrasts({"x": [1, 2]}, design)


@pytest.mark.parametrize("name", ["M > F", "a>b", "😀", "1) sex: men", "[x]", "patients < controls", "%", "old >= 65"])
def test_any_name_before_the_sign(design, name):
    contrast = only(f"{name} = sex[T.M] - sex[T.F]", design)
    assert contrast.name == name
    assert contrast.label.isalnum()
    np.testing.assert_array_equal(contrast.weights, only("sex", design).weights)


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("a>b = sex[T.M] - sex[T.X]", r"contrast 'a>b', right of '=': no column 'sex\[T.X\]'"),
        ("older = agee", "contrast 'older', right of '=': no column 'agee' .nearest age"),
        ("= age", "expected 'name = contrast' with something on each side"),
        ("age = ", "expected 'name = contrast' with something on each side"),
        ("age == sex", "expected 'name = contrast'"),
        ("age >= sex", "expected 'name = contrast'"),
        ("bs(tiv, df=5)[1]", r"no column"),
    ],
)
def test_the_wrong_side_is_named(design, spec, match):
    with pytest.raises(DesignError, match=match):
        build_contrasts([spec], design)


@pytest.mark.parametrize(
    "spec",
    [
        'C(site, contr.treatment("ulm"))', "C(site,contr.treatment( 'ulm' ))", 'x = C(site, contr.treatment("ulm"))',
    ],
)  # fmt: skip
def test_a_term_may_be_written_as_in_the_formula(spec):
    table = make_table()
    design = build_design('age + C(site, contr.treatment("ulm"))', table, list(table["participant_id"]))
    (contrast,) = build_contrasts([spec], design)
    np.testing.assert_array_equal(contrast.weights, np.eye(4)[2:])
    (difference,) = build_contrasts(['C(site, contr.treatment("ulm"))[T.berlin] - age'], design)
    np.testing.assert_array_equal(difference.weights, [[0, -1, 1, 0]])


@pytest.mark.parametrize("spec", ["0 1 -1 0 0", "[0, 1, -1, 0, 0]", "mine = 0 1.0 -1 0e0 +0"])
def test_weights_of_all_columns(spec):
    table = make_table()
    design = build_design("age + sex + site", table, list(table["participant_id"]))
    np.testing.assert_array_equal(only(spec, design).weights, [[0, 1, -1, 0, 0]])
    message = r"2 weights for 5 columns \(Intercept, age, sex\[T.M\], site\[T.köln\], site\[T.ulm\]\)"
    with pytest.raises(DesignError, match=message):
        build_contrasts({"x": [1, -1]}, design)
    with pytest.raises(
        DesignError, match=r"6 weights for 5 columns .* write one for each in this order, e.g. '0 1 0 0 0'"
    ):
        only("0 1 -1 0 0 0", design)


def test_short_weights_are_filled_with_zeros_as_in_spm():
    table = make_table()
    design = build_design("age + sex + site", table, list(table["participant_id"]))
    np.testing.assert_array_equal(only("0 1 -1", design).weights, [[0, 1, -1, 0, 0]])
    f = only("[0 0 0 1; 0 0 0 0 1]", design)
    assert f.kind == "F"
    np.testing.assert_array_equal(f.weights, np.eye(5)[3:])
    assert contrast_notes(["mine = 0 1 -1", "[0 0 0 1; 0 0 0 0 1]", "0 1 0 0 0", "age"], design) == (
        "contrast 'mine = 0 1 -1': filled with zeros to 5 columns, as SPM does: 1 × age − 1 × sex[T.M]",
        "contrast '[0 0 0 1; 0 0 0 0 1]': filled with zeros to 5 columns, as SPM does: 1 × site[T.köln]; "
        "1 × site[T.ulm]",
    )


@pytest.mark.parametrize(("formula", "spec", "weights"), [
    ("age + ICD-10", "ICD-10[T.F33.1] - ICD-10[T.none]", [[0, 0, 1, -1]]),
    ("age + `ICD-10`", "x = `ICD-10`", np.eye(4)[2:]), ("age + C(ICD-10)", "C(ICD-10)[T.none]", [[0, 0, 0, 1]]),
    ("age + my score", "my score - age", [[0, -1, 1]]),
    ("age + center(my score)", "-center(my score)", [[0, 0, -1]]),
])  # fmt: skip
def test_names_that_are_no_python_names_need_no_backticks(formula, spec, weights):
    table = make_table()
    table["ICD-10"] = np.resize(["F32.0", "F33.1", "none"], len(table))
    table["my score"] = np.arange(len(table)) ** 2.0
    design = build_design(formula, table, list(table["participant_id"]))
    np.testing.assert_array_equal(only(spec, design).weights, weights)


@pytest.mark.parametrize(("spec", "hint"), [
    ("F - M", "for F − M write -sex[T.M]"), ("berlin - ulm", "for berlin − ulm write -site[T.ulm]"),
    ("site[berlin] - site[köln]", "for berlin − köln write -site[T.köln]"),
    ("sex[T.F]", "for F − M write -sex[T.M]"),
])  # fmt: skip
def test_how_a_difference_of_levels_is_written(spec, hint):
    table = make_table()
    design = build_design("age + sex + site", table, list(table["participant_id"]))
    with pytest.raises(DesignError) as caught:
        only(spec, design)
    assert str(caught.value).endswith(hint)
    assert "the design has Intercept, age, sex[T.M]," in str(caught.value)
    only(hint.split(" write ")[1], design)
