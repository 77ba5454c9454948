from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.regions.test_mixed import null_columns, persons
from vbmstat.errors import DesignError, TableError
from vbmstat.glm.spec import ModelSpec
from vbmstat.regions.mixed_analysis import fit_mixed_glm


def regions(n_scans, n_regions, icc, seed=0):
    table, person = persons(n_scans)
    table = table.assign(participant_id=[f"sub-{i:02d}" for i in range(len(person))])
    values = 5 + null_columns(person, n_regions, icc, seed)
    return table, pd.DataFrame(values, table["participant_id"], [f"r{k}" for k in range(n_regions)])


def notes(table, values, formula="gm ~ age + time"):
    return " | ".join(fit_mixed_glm(values, ModelSpec(formula, ["age"]), table, "id").record["notes"])


def test_regions_without_variance_between_subjects_are_told():
    said = notes(*regions([3] * 12, 40, 0.0))
    assert "of 40 regions the estimated variance between people is 0; they were tested as if" in said
    assert "of 40 regions" in said
    assert "few subjects" not in said
    assert "variance between people is 0" not in notes(*regions([3] * 12, 40, 0.9))


@pytest.mark.parametrize(
    ("n_scans", "told"),
    [([3] * 6, "4 degrees of freedom between and 11 "), ([2] * 5 + [1] * 20, "23 degrees of freedom between and 4 ")],
)
def test_few_subjects_are_told(n_scans, told):
    assert told in notes(*regions(n_scans, 3, 0.9))


def test_regions_without_a_result_are_named_and_the_record_says_how():
    table, values = regions([3] * 12, 4, 0.9)
    values["r1"] = 0.0
    values["r3"] = table["age"].to_numpy()
    results = fit_mixed_glm(values, ModelSpec("gm ~ age + time", ["age"]), table, "id")
    assert results.record["notes"][-1].endswith("(constant, or fitted exactly): r1, r3")
    assert np.isfinite(results.fit.p[0]).tolist() == [True, False, True, False]
    assert results.record["mixed_model"] == {
        "random_intercept": "id", "n_subjects": 12, "estimation": "REML", "degrees_of_freedom": "Satterthwaite",
        "df_between_subjects": 10, "df_within_subjects": 23,
    }  # fmt: skip


def test_contrasts_that_cannot_be_estimated_are_refused():
    table, values = regions([3] * 12, 2, 0.9)
    table["group"] = np.repeat(list("aabb"), 9)
    table["site"] = np.repeat(list("klmn"), 9)
    with pytest.raises(DesignError, match=r"'group\[T.b\]' cannot be estimated"):
        fit_mixed_glm(values, ModelSpec("gm ~ group + site + time", ["group[T.b]"]), table, "id")


def test_scans_without_a_subject_are_refused_or_dropped():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(24)], "age": rng.uniform(20, 80, 24).round(1)})
    table["family"] = [f"f{i // 2}" for i in range(24)]
    table.loc[5, "family"] = "n/a"
    values = pd.DataFrame({"a": rng.standard_normal(24)}, index=table["participant_id"])
    with pytest.raises(TableError, match=r"no family \(subject\) for s5; fill it in or leave .* --missing drop"):
        fit_mixed_glm(values, ModelSpec("gm ~ age"), table, "family")
    results = fit_mixed_glm(values, ModelSpec("gm ~ age", missing="drop"), table, "family")
    assert "dropped 1 scans without family: s5" in results.record["notes"]
    assert len(results.design.scan_ids) == 23
    assert results.record["covariates"][0]["line"].startswith("age: number, ")
