"""Tables in the form of the paper's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vbmstat.compare import summary
from vbmstat.compare.config import ComparisonPlan, Variable

PLAN = ComparisonPlan(
    Path("out"), ("gm", "wm"), 6.0, "lpba40", {},
    {name: Variable(name, "age + gender", name, paper) for name, paper in (("gender", "sex"), ("BDI", ""))},
    {"repeats": 20, "fraction": 0.5},
)  # fmt: skip


def maps():
    rows = [
        {"cohort": cohort, "tissue": tissue, "a": "CAT12", "b": b, "variable": variable, "statistic": statistic,
         "r": 0.5 + 0.1 * i, "peak_a": -8.0 - i, "peak_b": 4.0 + i}
        for i, b in enumerate(("cat", "classic")) for cohort in ("one", "all") for tissue in ("gm", "wm")
        for variable in ("gender", "BDI") for statistic in ("median t", "t")
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.loc[table["statistic"] == "t", ["r", "peak_a", "peak_b"]] = 0.999
    return table


def rois():
    rows = [
        {"cohort": "one", "a": "CAT12", "b": "cat", "tissue": tissue, "region": region, "r": r, "n_scans": 9}
        for tissue in ("gm", "wm") for region, r in (("Brainstem", 0.7), ("Caudate", 0.95), ("Insula", np.nan))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def evaluation():
    rows = [("one", f"s{i}", folder, "CAT12", 0.9 + 0.01 * i) for i in range(3) for folder in ("cat", "classic")]
    return pd.DataFrame(rows, columns=["cohort", "scan", "folder", "reference", "dice_gm"])


TIMES = pd.DataFrame({"cohort": "one", "pipeline": "cat", "scan": list("abc"), "seconds": [100.0, 300.0, 200.0]})


@pytest.fixture(scope="module")
def tables():
    return summary.make_tables(PLAN, maps(), rois(), evaluation(), TIMES)


def test_correlations_are_of_the_median_maps_with_the_paper_below(tables):
    table = tables["correlation"]
    assert list(table.columns) == ["cohort", "tissue", "a", "b", "gender", "BDI"]
    by_pair = table.set_index(["cohort", "tissue", "b"])
    assert by_pair.loc[("all", "wm", "classic"), "gender"] == 0.6
    assert by_pair.loc[("paper", "gm", "deepmriprep"), "gender"] == "> .8"
    assert by_pair.loc[("paper", "wm", "deepmriprep"), "gender"] == ".73"
    assert by_pair.loc[("paper", "gm", "deepmriprep"), "BDI"] is None
    assert len(tables["tmaps"]) == 2 * len(table[table["cohort"] != "paper"]) * 2


def test_the_largest_t_is_absolute_and_once_a_pipeline(tables):
    table = tables["max_t"].set_index(["cohort", "tissue", "pipeline"])
    assert table.loc[("one", "gm", "CAT12"), "gender"] == 8.0
    assert table.loc[("one", "gm", "classic"), "BDI"] == 5.0
    assert [key[2] for key in table.index if key[:2] == ("all", "wm")] == ["CAT12", "cat", "classic"]
    assert table.index[-1][0] == "paper"


def test_without_subsets_the_full_t_is_shown():
    table = maps()
    only_t = table[table["statistic"] == "t"]
    found = summary.make_tables(PLAN, only_t, pd.DataFrame(), pd.DataFrame(), pd.DataFrame())
    assert set(found) == {"tmaps", "correlation", "max_t"}
    assert found["correlation"]["gender"][0] == 0.999


def test_regions_have_the_papers_number_for_its_atlas_alone(tables):
    table = tables["roi_correlation"].set_index(["tissue", "region"])
    assert table.loc[("gm", "Brainstem"), "paper"] == ".75"
    assert table.loc[("wm", "Brainstem"), "paper"] == "> .9"
    assert table.loc[("wm", "Caudate"), "paper"] == ".80"
    assert table.loc[("gm", "Caudate"), "one: CAT12, cat"] == 0.95
    assert np.isnan(table.loc[("gm", "Insula"), "one: CAT12, cat"])
    other = ComparisonPlan(PLAN.out, PLAN.tissues, 6.0, "aal3", {}, PLAN.variables)
    found = summary.make_tables(other, pd.DataFrame(), rois(), pd.DataFrame(), pd.DataFrame())
    assert "paper" not in found["roi_correlation"]


def test_medians_of_segmentation_and_time(tables):
    assert tables["segmentation"]["median"].tolist() == pytest.approx([0.91, 0.91])
    assert tables["time"][["n_scans", "median", "max"]].iloc[0].tolist() == [3, 200, 300]


def test_the_page_says_what_was_done_and_shows_every_table(tables):
    text = summary.as_markdown(PLAN, {"one": 9}, tables, ["left | out"])
    assert "one: 9 scans." in text
    assert "the median t over 20 subsets of 50 %" in text
    assert "Regions with r > 0.9: one, CAT12 and cat, gm: 1 of 3; one, CAT12 and cat, wm: 1 of 3." in text
    assert "| gm | Insula | – | > .9 |" in text
    assert "* left | out" in text
    rows = [line for line in text.splitlines() if line.startswith("| paper | deepmriprep")]
    assert rows == ["| paper | deepmriprep | CAT12, template | 0.960 |"]
    assert all(heading in text for heading in ("Table 7", "Tables 8 and 9", "Figs 16–21", "Segmentation", "time"))


def test_json_has_null_for_what_is_missing(tables):
    content = json.loads(json.dumps(summary.as_json(tables, ("n",)), allow_nan=False))
    assert content["notes"] == ["n"]
    assert content["tables"]["roi_correlation"][2]["one: CAT12, cat"] is None
