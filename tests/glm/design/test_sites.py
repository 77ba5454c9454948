from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.design.sites import confounding_notes, site_confounding, site_notes


def test_r2_is_that_of_a_regression_on_the_sites():
    rng = np.random.default_rng(0)
    sites = np.array(["a", "b", "c"])[rng.integers(0, 3, 40)]
    age = rng.normal(50, 10, 40) + 12 * (sites == "b")
    report = site_confounding(np.column_stack([age, np.ones(40)]), ["age", "one"], sites)
    dummies = np.column_stack([np.ones(40), sites == "b", sites == "c"]).astype(float)
    r2 = sm.OLS(age, dummies).fit().rsquared
    assert report["r2_site"][0] == pytest.approx(r2)
    assert report["vif_site"][0] == pytest.approx(1 / (1 - r2))
    assert report.iloc[1, 1:].isna().all()


def test_only_confounded_covariates_are_told():
    x = np.array([[1.0, 1.0], [1.0, 2.0], [3.0, 1.0], [3.0, 2.0]])
    report = site_confounding(x, ["group", "age"], [1, 1, 2, 2])
    notes = confounding_notes(report)
    assert len(notes) == 1
    assert notes[0].startswith("site explains 100% of the variance of group (variance inflation inf)")
    assert notes[0].endswith(": their effects cannot be separated")


def test_notes_of_a_model():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"site": ["a"] * 10 + ["b"] * 10, "harmonization": "ComBat by site"})
    dose = np.arange(20.0)
    matrix = np.column_stack([np.ones(20), table["site"] == "b", dose, rng.normal(size=20)])
    columns = ("Intercept", "site[T.b]", "dose", "age")
    terms = {"Intercept": ("Intercept",), "site": ("site[T.b]",), "dose": ("dose",), "age": ("age",)}
    design = Design(matrix, columns, tuple("abcdefghijklmnopqrst"), terms=terms)
    notes = site_notes(table, design)
    assert notes[0] == "the maps were harmonised: ComBat by site"
    assert [note[:40] for note in notes[1:]] == ["site explains 75% of the variance of dos"]
    raw = table[["site"]]
    without = {name: terms[name] for name in ("Intercept", "age")}
    notes = site_notes(raw, Design(matrix[:, [0, 3]], ("Intercept", "age"), design.scan_ids, terms=without))
    assert notes == ("The table has a column site (2 sites) that is not in the model.",)
    assert site_notes(raw.iloc[:10], replace(design, matrix=matrix[:10])) == ()
    assert site_notes(table[[]], design) == ()


def test_design_report_has_the_share_of_each_column_between_sites():
    table = pd.DataFrame({"site": ["a", "b"] * 6, "age": np.arange(12.0)})
    report = variance_inflation(build_design("site + age", table, [str(i) for i in range(12)]))
    assert report["r2_site"].tolist() == pytest.approx([1.0, 1 - 35 * 4 / 143])
    assert variance_inflation(build_design("age", table, [str(i) for i in range(12)]))["r2_site"].isna().all()
