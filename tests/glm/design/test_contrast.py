from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.glm.conftest import make_table
from vbmstat.errors import DesignError
from vbmstat.files.filenames import same_file_key
from vbmstat.glm.design.contrast import (
    Contrast,
    build_contrasts,
    columns_of_interest,
    contrast_notes,
    file_label,
    file_labels,
)
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


def test_json_file(design, tmp_path):
    path = tmp_path / "contrasts.json"
    weights = [0.0] * len(design.columns)
    weights[1] = 1.0
    path.write_text(json.dumps({"älter": "age", "w": weights, "d": {"age": 1, "sex[T.M]": -2}, "f": [weights]}))
    contrasts = build_contrasts([str(path)], design)
    assert [c.name for c in contrasts] == ["älter", "w", "d", "f"]
    assert contrasts[2].weights[0, 2] == -2
    assert contrasts[0].label == "älter"


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


def test_default_contrasts_that_cannot_be_estimated_are_told():
    table = make_table()
    table["group"] = np.where(table["sex"] == "F", "a", "b")
    design = build_design("sex + group + age", table, list(table["participant_id"]))
    (note,) = contrast_notes(None, design)
    assert note.startswith("no contrast for sex[T.M], group[T.b]: ")
    assert "cannot be separated (the design has rank 3 of 4 columns)" in note
    assert contrast_notes(["age"], design) == ()
    assert contrast_notes(None, build_design("sex + age", table, list(table["participant_id"]))) == ()
    alone = build_design("1", table, list(table["participant_id"]))
    assert contrast_notes(None, alone) == ()


def test_all_is_one_contrast_a_column(design):
    every = [contrast.name for contrast in build_contrasts(None, design)]
    assert [contrast.name for contrast in build_contrasts(["all"], design)] == every
    table = make_table().rename(columns={"age": "all"})
    named = build_design("all + sex", table, list(table["participant_id"]))
    assert [contrast.name for contrast in build_contrasts(["all"], named)] == ["all"]


@pytest.mark.parametrize(
    ("formula", "first"),
    [
        ("sex + age + tiv", ["sex[T.M]"]), ("site * age + tiv", ["site[T.köln]", "site[T.ulm]", "site[T.köln]:age",
                                                                 "site[T.ulm]:age"]),
        ("poly(age, 2) + sex", ["poly(age, 2)[1]", "poly(age, 2)[2]"]), ("1", ["Intercept"]),
        ("sex:age + tiv", ["sex[F]:age", "sex[M]:age"]), ("age:sex + tiv", ["age:sex[F]", "age:sex[M]"]),
    ],
)  # fmt: skip
def test_the_first_covariate_is_of_interest_with_its_interactions(formula, first):
    table = make_table()
    assert columns_of_interest(build_design(formula, table, list(table["participant_id"])))[0] == first
