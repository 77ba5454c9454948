from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd

from tests.report.conftest import EFFECT_AT_MM
from vbmstat.report.model import _participants, write_model_report


def test_the_page_tells_the_model(model_page) -> None:
    page = " ".join(model_page.read_text().split())
    assert "<h1>gm ~ age + sex + iq</h1>" in page
    assert "13 scans ·" in page
    assert "dropped 1 scans with missing covariates: sub-01" in page
    assert re.search(r"rows of cohort.tsv</th>.*>14</td>.*no value of a covariate</th>.*>1</td>.*>13</td>", page)
    assert "sub-01 (no iq)</td>" in page
    assert "Of 14 scans in the table, these were left out: 1 (no value of a covariate)." in page
    assert re.search(r"iq</th>|sex f \(n = ", page)
    assert re.search(r"sex m \(n = \d+\)</button>.*tiv_ml</th>", page)  # by group, though TIV is not in the formula
    assert "&lt;i&gt;Insula&lt;/i&gt; 80 %" in page  # the table of clusters
    assert re.search(r"Coding of the covariates.*sex</th>.*factor f \d+ \(reference\), m \d+</td>", page)
    assert page.count("<iframe") == 1
    assert "it has no p-value" in page
    names = {path.name for path in (model_page.parent / "figures").iterdir()}
    stems = ("age_t", "age_glassbrain", "age_r", "age_mediant", "age_stability")
    assert {f"contrast-{stem}.{form}" for stem in stems for form in ("svg", "png")} <= names
    assert {"design.svg", "correlations.png"} <= names


def test_extremes_are_where_the_effect_was_put(model_page) -> None:
    page = model_page.read_text()
    overview = page[page.index('id="overview"') : page.index('id="scans"')]
    numbers = re.findall(r">(−?\d+), (−?\d+), (−?\d+)<", overview)
    places = [[float(number.replace("−", "-")) for number in found] for found in numbers]
    assert np.linalg.norm(np.subtract(places[1], EFFECT_AT_MM)) < 14  # the most negative t


def test_results_far_from_their_cohort_still_make_a_page(copied, undrawn) -> None:
    for path in copied.glob("*_stat-[dqm]*"):
        path.unlink()  # no subset maps
    page = write_model_report(copied, copied / "report.html").read_text()
    assert "The maps have no vbmstat" in page
    assert "Stability over subsets" not in page
    assert "all (n = 13)" in page


def test_people_with_several_scans_count_once_among_the_participants() -> None:
    ids = ["sub-1_ses-1", "sub-1_ses-2", "sub-2_ses-1"]
    people = pd.DataFrame({"sex": list("FFM"), "age": [30.0, 32, 50]}, index=ids)
    record = {"covariates": [{"name": "sex", "kind": "factor"}], "scan_ids": ids}
    table = _participants(SimpleNamespace(is_pooled=False, people=people, record=record), None)
    assert table.caption.startswith("People in the model, each by the first scan: mean")
    assert table.columns == ("", "all (n = 2)", "sex F (n = 1)", "sex M (n = 1)")
    assert table.rows[0][1].text.startswith("40")
    single = SimpleNamespace(is_pooled=False, people=people[1:], record={**record, "scan_ids": ids[1:]})
    assert _participants(single, None).caption.startswith("Scans in the model: mean")
