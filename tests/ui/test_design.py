"""A model before the fit is what glm would take."""

from __future__ import annotations

import numpy as np
import pytest

from tests.report.conftest import N_SCANS
from tests.ui.conftest import VOXELS, table
from vbmstat.report.model_folder import read_model


def test_it_is_the_design_of_the_fit(client, folder):
    options = {"formula": "gm ~ age + sex", "contrasts": {"": "age", "men": "sex"}, "repeats": 4, "inference": ["fdr"]}
    told = client.post("/api/designs", json=options).json()
    model = read_model(folder / VOXELS)
    assert (told["ok"], told["error"], told["response"]) == (True, None, "gm")
    assert told["n_scans"] == N_SCANS
    assert told["regressors"] == list(model.design.columns)
    fitted = model.design.to_numpy()
    low, spread = fitted.min(axis=0), np.ptp(fitted, axis=0)
    scaled = np.where(spread > 0, (fitted - low) / np.where(spread > 0, spread, 1), 1)
    np.testing.assert_allclose(sorted(told["matrix"]), sorted(scaled.tolist()), atol=1e-4)
    assert told["vif"] == pytest.approx({row["column"]: row["vif"] for row in model.record["design_report"]})
    r = np.corrcoef(fitted[:, 1], fitted[:, 2])[0, 1]
    assert told["correlations"][1][2] == pytest.approx(r, abs=1e-4)
    assert told["correlations"][0] == [None, None, None]  # the constant
    assert [(one["name"], one["kind"], one["text"]) for one in told["contrasts"]] == [
        ("age", "t", "1 × age"), ("men", "t", "1 × sex[T.m]"),
    ]  # fmt: skip
    assert [(one["name"], one["kind"]) for one in told["columns"]] == [("age", "number"), ("sex", "factor")]
    assert told["columns"][1]["levels"] == {"f": 7, "m": 7}


@pytest.mark.parametrize(
    ("options", "message"),
    {
        "no column": ({"formula": "gm ~ aeg"}, "no column aeg"),
        "no formula": ({}, "such as 'gm ~ age"),
        "collinear": ({"formula": "gm ~ age + I(2 * age)", "contrasts": {"": "age"}}, "linear combination"),
        "missing value": ({"formula": "gm ~ iq"}, "--missing drop"),
        "contrast": ({"formula": "gm ~ age", "contrasts": {"x": "nothing"}}, "nothing"),
        "too few permutations": ({"formula": "gm ~ age", "inference": ["fwe"], "permutations": 1}, "at least 2"),
        "text for a number": ({"formula": "gm ~ age", "repeats": "many"}, "expected a whole number"),
        "condition": ({"formula": "gm ~ age", "where": ["age > 1000"]}, "leaves no scan"),
        "variance": ({"formula": "gm ~ age", "variance": "magic"}, "expected one of"),
    }.values(),
    ids=lambda value: None,
)
def test_what_glm_would_refuse_is_a_sentence(client, options, message):
    answer = client.post("/api/designs", json=options)
    assert (answer.status_code, answer.json()["ok"]) == (200, False)
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    "code", ["__import__('os').mkdir('owned')", "I(__import__('os').mkdir('owned'))", "{open('owned', 'w')}"]
)
def test_code_in_a_formula_or_a_contrast_is_not_run(client, folder, monkeypatch, code):
    monkeypatch.chdir(folder)
    told = client.post("/api/designs", json={"formula": f"gm ~ age + {code}"}).json()
    assert not told["ok"]
    told = client.post("/api/designs", json={"formula": "gm ~ age", "contrasts": {"x": code}}).json()
    assert not told["ok"]
    told = client.post("/api/designs", json={"formula": "gm ~ age", "where": [code]}).json()
    assert not told["ok"]
    assert not (folder / "owned").exists()


def test_what_to_look_at_is_told(client, folder):
    cohort_table = table(folder)
    cohort_table.loc[3, "age"] = "999"
    cohort_table.to_csv(folder / "cohort.tsv", sep="\t", index=False)
    told = client.post("/api/designs", json={"formula": "gm ~ age"}).json()
    assert any("lies apart from all others" in one for one in told["warnings"])


def test_a_model_of_regions_is_told_without_measuring_them(client):
    told = client.post("/api/designs", json={"formula": "gm ~ age + sex", "level": "roi"}).json()
    assert (told["ok"], told["n_scans"], told["regressors"]) == (True, N_SCANS, ["Intercept", "age", "sex[T.m]"])


def test_a_body_that_is_none_is_a_sentence(client):
    for content in (b"", b"[1]", b"{", b"\xff", b"3"):
        answer = client.post("/api/designs", content=content)
        assert (answer.status_code, "JSON object" in answer.json()["error"]) == (400, True)
