"""The numbers of a voxel's figure: against statsmodels, and against the maps of the same model."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from tests.glm.conftest import make_table
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.setup import set_up
from vbmstat.glm.spec import Compute, ModelSpec
from vbmstat.glm.voxel import voxel_fit
from vbmstat.maps.sources import as_cohort


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    table = make_table(30).assign(weight=np.linspace(0.5, 2, 30), family=[f"f{i // 2}" for i in range(30)])
    rng = np.random.default_rng(3)
    table["y"] = 1 - 0.004 * table["age"] + 0.1 * (table["sex"] == "M") + 0.0003 * table["tiv_ml"]
    table["y"] += rng.normal(0, 0.05, len(table))
    table.loc[7, "y"] += 0.5
    return table


def look(people, formula, contrast=None, **options):
    """The voxel's fit of a formula's contrast, and the results of the whole model."""
    spec = ModelSpec.make(f"y ~ {formula}", contrast, repeats=0, **options)
    values = people.set_index("participant_id")[["y"]]
    setup = set_up(spec, values, as_cohort(people.drop(columns="y")), Compute())
    found = voxel_fit(values["y"].to_numpy(), setup, setup.contrasts[0])
    return found, fit_glm(values, spec, people.drop(columns="y"))


def by_scan(found, people):
    return found.scans.set_index("scan_id").loc[people["participant_id"]]


def test_least_squares_is_that_of_statsmodels(people):
    found, _ = look(people, "age + sex + tiv_ml")
    fit = smf.ols("y ~ age + C(sex) + tiv_ml", people).fit()
    influence, scans = fit.get_influence(), by_scan(found, people)
    for name, expected in {
        "fitted": fit.fittedvalues, "residual": fit.resid, "leverage": influence.hat_matrix_diag,
        "studentized_residual": influence.resid_studentized_external, "cooks_distance": influence.cooks_distance[0],
    }.items():  # fmt: skip
        np.testing.assert_allclose(scans[name], expected, rtol=1e-8, atol=1e-10, err_msg=name)
    held = {"Intercept": 1.0, "C(sex)[T.M]": (people["sex"] == "M").mean(), "tiv_ml": people["tiv_ml"].mean()}
    for table, fitted in ((scans, "adjusted_fit"), (found.line, "fit")):
        at = pd.DataFrame({**held, "age": table["covariate"].to_numpy(dtype=float)})[fit.params.index]
        mean = fit.get_prediction(at.to_numpy(), transform=False)
        np.testing.assert_allclose(table[fitted], mean.predicted_mean, rtol=1e-9)
        np.testing.assert_allclose(table[["lower", "upper"]], mean.conf_int(alpha=0.05), rtol=1e-8)
    nuisance = fit.params["C(sex)[T.M]"] * ((people["sex"] == "M") - held["C(sex)[T.M]"])
    nuisance += fit.params["tiv_ml"] * (people["tiv_ml"] - held["tiv_ml"])
    np.testing.assert_allclose(scans["adjusted"], people["y"] - nuisance, rtol=1e-9)
    assert found.scans["scan_id"][0] == "sub-007"  # the scan that was moved is named first
    assert set(found.scans["group"]) == {"F", "M"}
    assert found.adjusted_for == ("sex", "tiv_ml")
    assert found.p == pytest.approx(fit.pvalues["age"])


def test_weights_are_those_of_statsmodels(people):
    found, _ = look(people, "age + sex", weights="weight")
    fit = smf.wls("y ~ age + C(sex)", people, weights=people["weight"]).fit()
    scans, root = by_scan(found, people), np.sqrt(people["weight"])
    whitened = smf.ols("y ~ 0 + one + age + male", pd.DataFrame({
        "y": people["y"] * root, "one": root, "age": people["age"] * root, "male": (people["sex"] == "M") * root,
    })).fit().get_influence()  # fmt: skip
    np.testing.assert_allclose(scans["fitted"], fit.fittedvalues, rtol=1e-9)
    np.testing.assert_allclose(scans["cooks_distance"], whitened.cooks_distance[0], rtol=1e-7)
    np.testing.assert_allclose(scans["studentized_residual"], whitened.resid_studentized_external, rtol=1e-7)
    at = np.column_stack([np.ones(50), np.full(50, (people["sex"] == "M").mean()), found.line["covariate"]])
    limits = fit.get_prediction(at, transform=False).conf_int(alpha=0.05)
    np.testing.assert_allclose(found.line[["lower", "upper"]], limits, rtol=1e-8)
    assert found.variance == "one variance for all scans, weights weight"


@pytest.mark.parametrize(
    ("formula", "contrast", "options"),
    [
        ("age + sex + tiv", "age", {}),
        ("bs(age, df=4) + sex", "bs(age, df=4)", {}),
        ("site * age", "site:age", {}),
        ("age + sex", "age", {"variance": "hc3"}),
        ("age + site", "site", {"variance": "sandwich:family"}),
        ("age + sex", "age", {"variance": "groups:sex"}),
        ("age + sex", "age", {"weights": "weight"}),
        ("age + sex", "sex[T.M]", {"tiv": "proportional"}),
    ],
)
def test_the_statistic_is_that_of_the_model(people, formula, contrast, options):
    found, results = look(people, formula, [contrast], **options)
    (maps,) = results.maps.values()
    assert found.statistic == pytest.approx(maps[found.kind].values[0], rel=1e-9)
    assert found.p == pytest.approx(maps["p"].values[0], rel=1e-7)
    scans = found.scans
    np.testing.assert_allclose(scans["adjusted"], scans["adjusted_fit"] + scans["residual"])
    assert (found.line["upper"] > found.line["lower"]).all()
    json.dumps(found.record())


def test_the_band_has_the_variance_of_the_model(people):
    found, _ = look(people, "age + sex", ["age"], variance="hc3")
    fit = smf.ols("y ~ age + C(sex)", people).fit(cov_type="HC3", use_t=True)
    at = np.column_stack([np.ones(50), np.full(50, (people["sex"] == "M").mean()), found.line["covariate"]])
    limits = fit.get_prediction(at, transform=False).conf_int(alpha=0.05)
    np.testing.assert_allclose(found.line[["lower", "upper"]], limits, rtol=0.02)  # where hc3_df has n - r, equal
    ordinary, _ = look(people, "age + sex", ["age"])
    assert not np.allclose(ordinary.line["lower"], found.line["lower"], rtol=1e-4)
    assert found.variance.startswith("HC3")


def test_levels_have_adjusted_means(people):
    found, _ = look(people, "age + site", ["site"])
    fit = smf.ols("y ~ age + C(site)", people).fit()
    assert (found.is_factor, found.covariate, found.line["covariate"].tolist()) == (
        True,
        "site",
        ["berlin", "köln", "ulm"],
    )
    at = pd.DataFrame({"age": people["age"].mean(), "site": found.line["covariate"]})
    np.testing.assert_allclose(found.line["fit"], fit.predict(at), rtol=1e-9)
    np.testing.assert_allclose(found.line[["lower", "upper"]], fit.get_prediction(at).conf_int(alpha=0.05), rtol=1e-8)


def test_an_interaction_has_a_line_for_each_group(people):
    found, _ = look(people, "sex * age + tiv", ["sex[T.M]:age"])
    fit = smf.ols("y ~ C(sex) * age + tiv_ml", people).fit()
    assert (found.covariate, found.is_factor, sorted(set(found.line["group"]))) == ("age", False, ["F", "M"])
    at = found.line.rename(columns={"covariate": "age", "group": "sex"}).assign(tiv_ml=people["tiv_ml"].mean())
    np.testing.assert_allclose(found.line["fit"], fit.predict(at), rtol=1e-9)
    for sex, line in found.line.groupby("group"):
        ages = people.loc[people["sex"] == sex, "age"]
        assert (line["covariate"].min(), line["covariate"].max()) == (ages.min(), ages.max())
    assert not found.notes


def test_a_slope_at_zero_of_another_covariate_is_told(people):
    found, _ = look(people, "age * tiv", ["age"])
    assert "held at its mean, though it interacts with what is shown: tiv" in found.notes
    assert any("is tested where" in note for note in found.notes)
    centred, _ = look(people, "center(age) * center(tiv)", ["center(age)"])
    assert not any("is tested where" in note for note in centred.notes)


def test_of_two_numbers_the_one_that_explains_more(people):
    found, _ = look(people, "weight + age", ["F(weight, age)"])
    assert found.covariate == "age"
    assert "tests weight, age; the figure shows age" in found.notes[0]
    assert found.adjusted_for == ("weight",)
    assert found.result.startswith(f"F(2, 27) = {found.statistic:.2f}, uncorrected p = ")


def test_a_mean(people):
    found, _ = look(people, "1")
    half = stats.t.isf(0.025, 29) * people["y"].std() / np.sqrt(30)
    assert (found.covariate, len(found.line)) == ("", 1)
    np.testing.assert_allclose(
        found.line[["lower", "upper"]].to_numpy()[0], people["y"].mean() + half * np.array([-1, 1])
    )


def test_a_scan_of_its_own_is_named_first(people):
    alone = people.assign(scanner=["b" if scan == "sub-004" else "a" for scan in people["participant_id"]])
    found, _ = look(alone, "age + scanner", ["age"])
    assert found.scans["scan_id"][0] == "sub-004"
    assert np.isnan(found.scans["cooks_distance"][0])
    assert "leverage 1, fitted exactly: sub-004" in found.notes
    assert found.record()["scans"]["cooks_distance"][0] is None


def test_limits_of_many_scans_are_interpolated(people, monkeypatch):
    exact, _ = look(people, "sex * age", ["sex[T.M]:age"])
    monkeypatch.setattr("vbmstat.glm.voxel._MOST_ROWS", 5)
    found, _ = look(people, "sex * age", ["sex[T.M]:age"])
    half = exact.scans["upper"] - exact.scans["adjusted_fit"]
    assert not np.array_equal(found.scans["upper"], exact.scans["upper"])
    np.testing.assert_allclose(found.scans["upper"], exact.scans["upper"], atol=float(half.max()) * 2e-3)
    pd.testing.assert_frame_equal(found.line, exact.line)
