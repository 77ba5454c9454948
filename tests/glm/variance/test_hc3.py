"""HC3: what it cannot know is refused or left out, and its p are right on null data of any design."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.variance.hc3 import hc3_df, hc3_plan

N = 24


def study(rare: int = 1) -> pd.DataFrame:
    """24 scans: the last `rare` have a flag, the last one has a site of its own."""
    rng = np.random.default_rng(33)
    return pd.DataFrame({
        "participant_id": [f"s{i:02d}" for i in range(N)], "age": rng.uniform(20, 80, N),
        "flag": (np.arange(N) >= N - rare).astype(float), "site": [*("ab" * 11), "a", "c"],
    })  # fmt: skip


def noise(voxels: int = 4000, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((N, voxels)).astype(dtype)


def fit(formula, contrasts=None, table=None, **options):
    table = study() if table is None else table
    return fit_glm(noise(), formula, table, contrasts, **{"variance": "hc3", "repeats": 0} | options)


@pytest.mark.parametrize(
    ("formula", "contrast", "name"),
    [("gm ~ age + flag", "flag", "flag"), ("gm ~ age + site", "c = site[T.c]", "c"), ("gm ~ flag", "2 * flag", "2")],
)
def test_a_scan_of_leverage_one_is_refused_by_name(formula, contrast, name):
    with pytest.raises(DesignError, match=rf"contrast '{name}.*': HC3 cannot estimate .* fits s23 exactly"):
        fit(formula, [contrast])


def test_the_other_contrasts_of_such_a_model_are_fitted():
    found = fit("gm ~ age + flag", ["age"]).maps["age"]
    assert (found["p"].values < 0.05).mean() == pytest.approx(0.05, abs=0.01)
    default = fit("gm ~ age + flag")
    assert list(default.maps) == ["age"]
    np.testing.assert_array_equal(default.maps["age"]["t"].values, found["t"].values)
    assert [note for note in default.record["notes"] if note.startswith("contrast 'flag' left out: HC3")]
    with pytest.raises(DesignError, match="no contrast can be tested: contrast 'flag' left out"):
        fit("gm ~ flag")


def test_a_plan_of_leverage_one_is_refused():
    design = build_design("flag", study(), [f"s{i:02d}" for i in range(N)])
    plan = make_plan(design, build_contrasts(["flag"], design), np.empty((0, N), bool))
    with pytest.raises(DesignError, match="fits s23 exactly"):
        hc3_plan(plan, design.scan_ids)


def test_subsets_in_which_a_scan_has_leverage_one_do_not_count():
    """Two scans have a flag: where a subset drew one of them, its t has no variance."""
    draws = draw_subsets([f"s{i:02d}" for i in range(N)], 40, 0.8, 0)
    both = draws[:, -2:].all(axis=1)
    assert 10 < both.sum() < 36  # of 40
    results = fit("gm ~ age + flag", ["flag", "age"], study(2), repeats=40)
    counted = [entry["repetitions_estimated"] for entry in results.record["contrasts"]]
    assert counted == [both.sum(), 40]
    shares = [results.maps[name]["replication"].values.mean() for name in ("flag", "age")]
    assert shares == pytest.approx([0.05, 0.05], abs=0.015)
    design = build_design("flag", study(2), [f"s{i:02d}" for i in range(N)])
    plan = make_plan(design, build_contrasts(["flag"], design), draws[~both & draws[:, -2:].any(axis=1)])
    with pytest.raises(DesignError, match="in every subset the model fits a scan exactly"):
        hc3_plan(plan, design.scan_ids)


@pytest.mark.parametrize("rare", [2, 3, 4, 8, 12])
def test_p_of_null_data(rare):
    """At n - r degrees of freedom 14 % would be found with two scans, 9 % with three."""
    found = fit("gm ~ age + flag", ["flag"], study(rare)).maps["flag"]
    for level in (0.05, 0.01):
        assert (found["p"].values < level).mean() <= 1.2 * level + 0.003
    assert (found["p"].values < 0.05).mean() >= 0.033
    if rare > 4:
        assert "df" not in found
    else:
        df = found["df"].values[0]
        np.testing.assert_allclose(found["p"].values, 2 * stats.t.sf(np.abs(found["t"].values), df))
        assert found["t"].intent == ("t test", (df,))


@pytest.mark.parametrize("distance", [20.0, 60.0, 200.0])
def test_one_scan_far_out_is_never_anticonservative_and_told(distance):
    table = study().assign(dose=np.append(np.sin(np.arange(23)), distance))
    results = fit("gm ~ dose", ["dose"], table)
    p = results.maps["dose"]["p"].values
    assert [(p < level).mean() <= 1.2 * level + 0.003 for level in (0.05, 0.01)] == [True, True]
    told = any(re.match("contrast 'dose': p are (a little )?too large: on", note) for note in results.record["notes"])
    assert told == ((p < 0.05).mean() < 0.04)


def test_the_record_has_the_degrees_of_freedom_of_each_contrast():
    results = fit("gm ~ age + flag", ["age", "flag"], study(2))
    age, flag = (entry["df"] for entry in results.record["contrasts"])
    assert age == results.record["df_resid"] == 21
    assert flag == pytest.approx(results.maps["flag"]["df"].values[0], abs=1e-4)


def test_q_of_fdr_goes_by_the_same_degrees_of_freedom():
    found = fit("gm ~ age + flag", ["flag"], study(2), inference="fdr").maps["flag"]
    np.testing.assert_allclose(found["qfdr"].values, stats.false_discovery_control(found["p"].values))


def test_degrees_of_freedom_of_an_ordinary_design_are_n_minus_r():
    rng = np.random.default_rng(2)
    for n in (24, 100, 1000):
        x = np.column_stack([np.ones(n), np.arange(n) % 3 == 0, rng.standard_normal(n)]).astype(float)
        q, r = np.linalg.qr(x)
        assert hc3_df(np.linalg.inv(r)[1], q, n - 3.0) == n - 3


def test_degrees_of_freedom_with_two_scans_against_very_many_are_one():
    """V is then about (y1 - y2)² / 2, and t is Cauchy's over sqrt(2)."""
    n = 20_000
    q, r = np.linalg.qr(np.column_stack([np.ones(n), np.arange(n) >= n - 2]).astype(float))
    df = hc3_df(np.linalg.inv(r)[1], q, n - 2.0)
    critical = stats.t.isf(0.025, df)
    assert 2 * stats.cauchy.sf(np.sqrt(2) * critical) == pytest.approx(0.05, rel=0.02)
