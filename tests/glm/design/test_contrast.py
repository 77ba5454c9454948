from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.glm.conftest import make_table
from vbmstat.errors import DesignError
from vbmstat.files.filenames import same_file_key
from vbmstat.glm.design.contrast import Contrast, build_contrasts, file_label, file_labels, left_out_notes
from vbmstat.glm.design.matrix import build_design


@pytest.fixture
def design():
    table = make_table()
    return build_design("age + sex + site + bs(tiv, df=4)", table, list(table["participant_id"]))


def only(spec, design):
    (contrast,) = build_contrasts([spec], design)
    return contrast


def test_default_is_one_t_a_column(design):
    contrasts = build_contrasts(None, design)
    assert [c.name for c in contrasts] == list(design.columns[1:])
    assert {c.kind for c in contrasts} == {"t"}


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


def test_json_file(design, tmp_path):
    path = tmp_path / "contrasts.json"
    weights = [0.0] * len(design.columns)
    weights[1] = 1.0
    path.write_text(json.dumps({"älter": "age", "w": weights, "d": {"age": 1, "sex[T.M]": -2}, "f": [weights]}))
    contrasts = build_contrasts([str(path)], design)
    assert [c.name for c in contrasts] == ["älter", "w", "d", "f"]
    assert contrasts[2].weights[0, 2] == -2
    assert contrasts[0].label == "älter"


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("agee", "no column 'agee' .nearest age"),
        ("age * sex", "expected a linear combination"),
        ("age + 1", "expected a linear combination"),
        ("1", "names no column"),
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


def test_equal_names(design):
    with pytest.raises(DesignError, match="two contrasts would be called age"):
        build_contrasts(["age", "age = age"], design)


@pytest.mark.parametrize(
    "spec",
    [
        "age = sex[T.M]", "age = -age", "sex = age", "site = age", "sex[T.F] = sex[T.M]", "age=0.5*age - sex",
    ],
)  # fmt: skip
def test_a_name_of_the_design_tests_what_it_says(design, spec):
    specs = [spec]
    with pytest.raises(DesignError, match="has the name of a column or level of the design, but tests something else"):
        build_contrasts(specs, design)


def test_names_of_a_mapping_are_the_callers_labels(design):
    (site,) = build_contrasts({"site": "F(age, sex)"}, design)
    assert (site.name, site.kind) == ("site", "F")


@pytest.mark.parametrize(
    "spec",
    [
        "age = age", "age = 2 * age", "sex = sex[T.M]", {"age": [0, 1, 0, 0, 0, 0, 0, 0, 0]},
        {"site": "F(site[T.ulm], site[T.köln])"},
    ],
)  # fmt: skip
def test_its_own_name_is_allowed(design, spec):
    (contrast,) = build_contrasts(spec if isinstance(spec, dict) else [spec], design)
    assert contrast.name in ("age", "sex", "site")


@pytest.mark.parametrize("name", ["M > F", "a>b", "😀", "1) sex: men", "[x]", "patients < controls", "%"])
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


@pytest.mark.parametrize("levels", [("<65", "=65", ">65"), ("3T", "1.5T", "15T")])
def test_levels_that_differ_in_signs_only_have_files_of_their_own(levels):
    table = make_table()
    table["grp"] = [levels[i % 3] for i in range(len(table))]
    contrasts = build_contrasts(None, build_design("age + grp", table, list(table["participant_id"])))
    assert [c.name for c in contrasts][1:] == [f"grp[T.{level}]" for level in sorted(levels)[1:]]
    assert contrasts[0].label == "age"
    assert len({same_file_key(c.label) for c in contrasts}) == 3
    assert all(c.label.isalnum() for c in contrasts)


@given(st.lists(st.text(max_size=12), unique=True, max_size=6))
@example(["sex[T.M]", "sex[T.m]"])
@example(["site[T.é]", "site[T.e\u0301]", "site[T.e]"])
def test_labels_are_one_to_one(names):
    labels = file_labels(names)
    assert len({same_file_key(label) for label in labels}) == len(names)
    assert all(label.isalnum() for label in labels)
    assert [Contrast(name, np.ones((1, 1)), "t").label for name in names[:1]] == file_labels(names[:1])


def test_contrast_that_cannot_be_estimated():
    table = make_table()
    table["group"] = np.where(table["sex"] == "F", "a", "b")
    design = build_design("sex + group + age", table, list(table["participant_id"]))
    with pytest.raises(DesignError, match=r"contrast 'group' cannot be estimated: .* collinear .rank 3 of 4"):
        build_contrasts(["group"], design)
    total = only("sex[T.M] + group[T.b]", design)
    assert total.kind == "t"
    assert [c.name for c in build_contrasts(None, design)] == ["age"]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("age", "age"),
        ("sex[T.M]", "sexM"),
        ("age:sex[T.M]", "ageBySexM"),
        ("a - b", "aMinusB"),
        ("köln", "köln"),
        ("sub-cortical", "subCortical"),
        ("../../etc", "etc"),
    ],
)
def test_file_labels(name, label):
    assert file_label(name) == label


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
        only("1 -1", design)


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


def test_default_contrasts_that_cannot_be_estimated_are_told():
    table = make_table()
    table["group"] = np.where(table["sex"] == "F", "a", "b")
    design = build_design("sex + group + age", table, list(table["participant_id"]))
    (note,) = left_out_notes(None, design)
    assert note.startswith("no contrast for sex[T.M], group[T.b]: ")
    assert "cannot be separated (the design has rank 3 of 4 columns)" in note
    assert left_out_notes(["age"], design) == ()
    assert left_out_notes(None, build_design("sex + age", table, list(table["participant_id"]))) == ()
    alone = build_design("1", table, list(table["participant_id"]))
    assert left_out_notes(None, alone) == ()
