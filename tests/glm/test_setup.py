"""A model before any map is read: what is joined, dropped, noted and refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from tests.glm.conftest import make_table
from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io
from vbmstat.tables.cohort import Cohort, read_cohort


def t_of(results, name="age"):
    return results.maps[name]["t"].values


def test_missing_covariates_and_dropped_scans(cohort_folder):
    path = cohort_folder / "cohort.tsv"
    rows = pd.read_csv(path, sep="\t")
    rows.loc[4, "age"] = np.nan
    rows.to_csv(path, sep="\t", index=False, na_rep="n/a")
    with pytest.raises(TableError, match="missing covariates — age: sub-004"):
        fit_glm(None, "gm ~ age", path)
    results = fit_glm(None, "gm ~ age", path, missing="drop", repeats=3)
    assert "sub-004" not in results.design.scan_ids
    assert results.draws.shape == (3, 25)


def test_what_is_refused_before_any_map_is_read(cohort_folder):
    path = cohort_folder / "cohort.tsv"
    for file in (cohort_folder / "mri").iterdir():
        file.unlink()
    for formula, contrasts, options, match in (
        ("gm ~ agee", None, {}, "no column agee"),
        ("gm ~ age", ["sex"], {}, "no column 'sex'"),
        ("wm ~ age", None, {}, "wm needs a column s6mwp2"),
        ("grey ~ age", None, {}, "'grey' on the left names no maps"),
        ("gm ~ age", None, {"weights": "nothing"}, "no column 'nothing'"),
        ("gm ~ age", ["F(age)"], {"variance": "hc3"}, "--variance hc3 is for t-contrasts"),
        ("gm ~ age", None, {"tiv": "maybe"}, "expected one of none, covariate"),
        ("gm ~ age + site", ["site[T.ulm]"], {"repeats": 2, "fraction": 0.04}, "cannot be estimated in any subset"),
        ("gm ~ age", None, {}, "no map file for sub-000"),
    ):
        with pytest.raises((TableError, DesignError, ScanError), match=match):
            fit_glm(None, formula, path, contrasts, **options)


@pytest.mark.parametrize(
    "option",
    [
        {"weights": "extra"}, {"stratify": "extra", "repeats": 4}, {"variance": "groups:group"},
        {"variance": "sandwich:extra"}, {"tiv": "proportional"},
        {"blocks": "group", "inference": "fwe", "permutations": 8},
    ],
)  # fmt: skip
def test_scans_without_what_the_fit_reads_are_dropped(cohort_folder, option):
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    cohort.table["extra"] = [1.0 + i % 5 for i in range(26)]
    cohort.table["group"] = ["a", "b"] * 13
    named = [str(value).partition(":")[2] or value for value in option.values()]
    name = next((value for value in named if value in ("extra", "group")), "tiv_ml")
    cohort.table.iloc[7, cohort.table.columns.get_loc(name)] = "." if name == "group" else np.nan
    with pytest.raises(TableError, match=rf"no {name} \(.*\) for sub-007; fill it in or leave these scans out with --"):
        fit_glm(None, "gm ~ age + sex", cohort, ["age"], **{"repeats": 0, **option})
    dropped = fit_glm(None, "gm ~ age + sex", cohort, ["age"], **{"repeats": 0, **option}, missing="drop")
    assert f"dropped 1 scans without {name}: sub-007" in dropped.record["notes"]
    left = Cohort(cohort.table.drop(index=[("sub-007", "")]), cohort.folder)
    without = fit_glm(None, "gm ~ age + sex", left, ["age"], **{"repeats": 0, **option})
    np.testing.assert_array_equal(t_of(dropped), t_of(without))


@pytest.mark.parametrize(("option", "name"), [({"weights": "w"}, "w"), ({"tiv": "proportional"}, "tiv_ml")])
@pytest.mark.parametrize(("text", "match"), [("1.502,3", "of thousands"), ("many", "expected numbers, got sub-0")])
def test_columns_that_must_be_numbers(cohort_folder, option, name, text, match):
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    cohort.table[name] = text
    with pytest.raises(TableError, match=f"column {name}: .*{match}"):
        fit_glm(None, "gm ~ age", cohort, repeats=0, **option)


def test_a_weight_that_dominates_is_told(cohort_folder):
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    cohort.table["w"] = np.where(np.arange(26) == 3, 999.0, 1.0)
    notes = fit_glm(None, "gm ~ age", cohort, repeats=0, weights="w").record["notes"]
    told = [note for note in notes if "weight" in note]
    assert len(told) == 1
    assert told[0].startswith(
        "because of their weights, the fit nearly passes through sub-003 (leverage 0.99, 98% of the sum"
    )


def test_covariates_are_announced_and_recorded(cohort_folder):
    said = []
    cohort = read_cohort(cohort_folder / "cohort.tsv")
    results = fit_glm(None, "gm ~ age + sex", cohort, repeats=0, announce=said.append)
    assert said[1] == "sex: factor F 13 (reference), M 13"
    assert [one["line"] for one in results.record["covariates"]] == said
    assert json.loads(json.dumps(results.record["covariates"])) == results.record["covariates"]


def test_too_few_scans_are_called_that():
    table = make_table(3)
    with pytest.raises(DesignError, match=r"'age' cannot be estimated in any subset \(too few scans"):
        fit_glm(np.ones((3, 2)), "y ~ age", table, repeats=5)


def test_strata_that_differ_in_spelling_are_refused(table):
    table["group"] = ["a", "b", "A"] + ["b", "a"] * 11 + ["a"]
    with pytest.raises(DesignError, match=r"column group: 'a' .* and 'A' .* differ only in letter case"):
        fit_glm(np.random.default_rng(0).random((26, 2)), "y ~ age", table, stratify="group", repeats=3)


@pytest.mark.parametrize(
    "options", [{"stratify": "session_id"}, {"variance": "groups:session_id"}, {"weights": "Dose"}]
)
def test_ids_and_other_letter_cases_stand_for_columns_everywhere(options):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"participant_id": np.repeat([f"p{i}" for i in range(12)], 2), "session_id": ["1", "2"] * 12})
    table = table.assign(age=rng.uniform(20, 80, 24), dose=rng.uniform(1, 2, 24), visit=table["session_id"])
    values = rng.standard_normal((24, 20))
    same = {"session_id": "visit", "groups:session_id": "groups:visit", "Dose": "dose"}
    by_name = {name: same[value] for name, value in options.items()}
    found, expected = (fit_glm(values, "v ~ age", table, repeats=5, **one) for one in (options, by_name))
    np.testing.assert_array_equal(found.draws, expected.draws)
    np.testing.assert_array_equal(found.maps["age"]["t"].values, expected.maps["age"]["t"].values)


def test_default_contrasts_that_are_left_out_are_noted(table, images):
    values = images.reshape(len(images), -1)[:, 400:430].astype(float)
    found = fit_glm(values, "v ~ sex + scanner + age", table.assign(scanner=table["sex"] + "1"), repeats=0)
    assert list(found.maps) == ["age"]
    assert any(note.startswith("no contrast for sex[T.M], scanner[T.M1]: ") for note in found.record["notes"])


@pytest.mark.parametrize("variance", ["sandwich:family", "groups:sex"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"stratify": "sex"}, "--stratify"), ({"repeats": 50, "fraction": 0.5}, "--repeats, --fraction"),
        ({"draws": __file__}, "--draws"), ({}, None), ({"repeats": 0}, None),
    ],
)  # fmt: skip
def test_subsets_that_a_variance_does_not_fit_are_noted(table, variance, options, named):
    values = np.random.default_rng(0).random((26, 2))
    families = table.assign(family=[f"f{i // 2}" for i in range(26)])
    notes = fit_glm(values, "v ~ age", families, variance=variance, **options).record["notes"]
    expected = [] if named is None else [f"{named} not used: --variance {variance} fits no subsets"]
    assert [note for note in notes if "not used" in note] == expected


def test_a_stratum_that_is_not_used_drops_no_scan(table):
    values = np.random.default_rng(0).random((26, 2))
    holes = table.assign(band=[None, *["a", "b"] * 12, "a"])
    assert fit_glm(values, "v ~ age", holes, variance="groups:sex", stratify="band").record["n_scans"] == 26
    with pytest.raises(TableError, match=r"no band \(stratum\) for sub-000"):
        fit_glm(values, "v ~ age", holes, stratify="band", repeats=3)


@pytest.mark.parametrize("variance", ["ols", "groups:auto"])
def test_default_contrasts_that_cannot_be_permuted_are_left_out(table, variance):
    """Sex does not vary inside blocks of sex; a contrast that the user chose is still refused."""
    values = np.random.default_rng(0).standard_normal((26, 4))
    options = {"variance": variance, "blocks": "sex", "inference": "fwe", "permutations": 20, "repeats": 0}
    results = fit_glm(values, "v ~ sex + age", table, **options)
    assert list(results.maps) == ["age"]
    alone = fit_glm(values, "v ~ age + sex", table, ["age"], **options)
    np.testing.assert_array_equal(results.maps["age"]["pfwe"].values, alone.maps["age"]["pfwe"].values)
    (note,) = [note for note in results.record["notes"] if note.startswith("left out: ")]
    assert "contrast 'sex[T.M]': the exchangeability blocks leave nothing to permute" in note
    with pytest.raises(DesignError, match=r"contrast 'sex': the exchangeability blocks leave nothing to permute"):
        fit_glm(values, "v ~ age + sex", table, ["age", "sex"], **options)
    with pytest.raises(DesignError, match=r"'sex\[T.M\]': the exchangeability blocks leave nothing to permute"):
        fit_glm(values, "v ~ sex", table, **options)


def test_only_the_first_covariate_is_permuted_by_default(cohort_folder):
    """The others keep uncorrected p and q; a note says how to ask for theirs."""
    path, options = cohort_folder / "cohort.tsv", {"repeats": 0, "inference": "fdr,fwe", "permutations": 20}
    results = fit_glm(None, "gm ~ age + sex + tiv", path, **options)
    assert [name for name, maps in results.maps.items() if "pfwe" in maps] == ["age"]
    assert all("qfdr" in maps for maps in results.maps.values())
    (note,) = [note for note in results.record["notes"] if note.startswith("permuted")]
    assert note == (
        "permuted: age, the first covariate of the formula; sex[T.M], tiv keep uncorrected p (--contrast all permutes "
        'every column, --contrast "sex[T.M]" that one)'
    )
    for contrasts, permuted in (("all", ["age", "sex[T.M]", "tiv"]), (["tiv"], ["tiv"])):
        asked = fit_glm(None, "gm ~ age + sex + tiv", path, contrasts, **options)
        assert [name for name, maps in asked.maps.items() if "pfwe" in maps] == permuted
        assert not [note for note in asked.record["notes"] if note.startswith("permuted")]
    assert np.array_equal(
        fit_glm(None, "gm ~ age + sex + tiv", path, "all", **options).maps["age"]["pfwe"].values,
        results.maps["age"]["pfwe"].values,
    )


def test_the_next_covariate_is_permuted_where_the_first_cannot_be(cohort_folder):
    """No permutation inside sites changes the sites themselves."""
    results = fit_glm(
        None, "gm ~ site + age + sex", cohort_folder / "cohort.tsv", repeats=0, inference="fwe", permutations=20,
        blocks="site",
    )  # fmt: skip
    assert [name for name, maps in results.maps.items() if "pfwe" in maps] == ["age"]
    assert list(results.maps) == ["age", "sex[T.M]"]


def test_weights_and_odd_names_agree_with_statsmodels(cohort_folder):
    path = cohort_folder / "cohort.tsv"
    rows = pd.read_csv(path, sep="\t").rename(columns={"site": "ICD-10"})
    rows.to_csv(path, sep="\t", index=False)
    results = fit_glm(None, "gm ~ age + sex + ICD-10", path, ["0 1 -1", "ICD-10", "[0 0 0 1; 0 0 0 0 1]"], repeats=0)
    voxel = int(np.flatnonzero(results.mask)[50])
    values = np.array([io.read_volume(path.parent / one).data[0].numpy().ravel() for one in rows["s6mwp1"]])
    y = values[:, results.space.voxel_index[voxel]].astype(float)
    fit = smf.ols("y ~ age + sex + Q('ICD-10')", rows.assign(y=y)).fit()  # its columns: constant, sex, site, site, age
    assert results.maps["0 1 -1"]["t"].values[voxel] == pytest.approx(
        fit.t_test([0, -1, 0, 0, 1]).tvalue.item(), rel=1e-4
    )
    f = fit.f_test(np.eye(5)[2:4]).fvalue
    for name in ("ICD-10", "[0 0 0 1; 0 0 0 0 1]"):
        assert results.maps[name]["F"].values[voxel] == pytest.approx(f, rel=1e-4)
