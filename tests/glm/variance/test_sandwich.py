from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.fit.plan import Plan, make_plan
from vbmstat.glm.spec import Compute
from vbmstat.glm.variance.sandwich import fit_sandwich, satterthwaite
from vbmstat.maps.store import ArrayMaps

VISITS = (3, 2, 4, 1, 3, 2, 3, 4, 2, 3)
COLUMNS = ("Intercept", "group[T.p]", "time", "age", "group[T.p]:time")


def visits() -> pd.DataFrame:
    """27 scans of 10 people, 1 to 4 visits each; y to four digits."""
    subject = np.repeat(np.arange(10), VISITS)
    i = np.arange(len(subject))
    table = pd.DataFrame({"id": [f"s{k}" for k in subject], "group": np.where(subject % 3 == 0, "p", "c")})
    table["time"] = np.concatenate([np.arange(k) for k in VISITS]).astype(float)
    table["age"] = 20.0 + (subject * 37) % 50
    y = 5 + 0.8 * np.sin(1.7 * subject) + 0.3 * np.cos(2.3 * i) + 0.01 * table["age"]
    table["y"] = (y - 0.2 * table["time"] * (1 + (table["group"] == "p"))).round(4)
    return table


def plan_of(table: pd.DataFrame, contrasts, formula="group * time + age") -> tuple[Design, Plan]:
    design = build_design(formula, table, [f"{i}" for i in range(len(table))])
    return design, make_plan(design, build_contrasts(list(contrasts), design), np.zeros((0, len(table)), dtype=bool))


def maps(values: np.ndarray) -> ArrayMaps:
    return ArrayMaps(values, tuple(f"{i}" for i in range(len(values))))


def test_standard_errors_are_those_of_r():
    """R 4.2.2, clubSandwich 0.5.8, d the table of visits().

    m <- lm(y ~ group * time + age, d); sqrt(diag(vcovCR(m, cluster = d$id, type = "CR2")))
    """
    se = [0.65520297563, 0.40204198962, 0.09066947922, 0.01067801277, 0.13718272293]
    table = visits()
    _, plan = plan_of(table, COLUMNS)
    fit = fit_sandwich(maps(table[["y"]].to_numpy()), plan, table["id"])
    np.testing.assert_allclose(np.sqrt(fit.variance[:, 0]), se, rtol=1e-9)


def test_t_f_and_degrees_of_freedom_are_those_of_r():
    """The same in R: coef_test(m, vcov = "CR2", cluster = d$id, test = "Satterthwaite") and
    Wald_test(m, constrain_zero(c("time", "groupp:time")), vcov = "CR2", cluster = d$id, test = "HTZ"); also of
    c("groupp", "age", "groupp:time").
    """
    table = visits()
    joint = ("F(time, group[T.p]:time)", "F(group, age, group[T.p]:time)")
    _, plan = plan_of(table, (*COLUMNS, *joint))
    fit = fit_sandwich(maps(table[["y"]].to_numpy()), plan, table["id"])
    t = [6.5825634062, -0.6403336209, -3.9153241027, 2.8303135594, -0.1358742939]
    df = [3.137110765, 5.186323243, 2.891347166, 3.457713752, 4.537787084]
    np.testing.assert_allclose(fit.statistic[:, 0], [*t, 11.01914283, 1.895497128], rtol=1e-8)
    np.testing.assert_allclose(fit.df[:, 0], [*df, 3.090192857, 2.680204721], rtol=1e-8)


def test_an_f_of_one_row_is_the_square_of_t():
    table = visits()
    _, plan = plan_of(table, ["time", "F(time)", "F(time, 2*time)"])
    fit = fit_sandwich(maps(table[["y"]].to_numpy()), plan, table["id"])
    t, *f = fit.statistic[:, 0]
    assert t == pytest.approx(-3.9153241027)
    np.testing.assert_allclose(f, t**2)
    np.testing.assert_allclose(fit.df[:, 0], fit.df[0, 0])


def test_order_of_scans_chunks_and_threads_do_not_matter(monkeypatch):
    rng = np.random.default_rng(2)
    table = visits()
    y = rng.standard_normal((27, 1100))
    _, plan = plan_of(table, ["time", "F(group, time)"])
    whole = fit_sandwich(maps(y), plan, table["id"])
    back = rng.permutation(27)
    other = table.iloc[back].reset_index(drop=True)
    shuffled = fit_sandwich(maps(y[back]), plan_of(other, ["time", "F(group, time)"])[1], other["id"])
    np.testing.assert_allclose(shuffled.statistic, whole.statistic, rtol=1e-9)
    monkeypatch.setattr("vbmstat.glm.variance.sandwich._READ_VOXELS", 512)
    pieces = fit_sandwich(maps(y), plan, table["id"], Compute(n_threads=1))
    np.testing.assert_allclose(pieces.statistic, whole.statistic, rtol=1e-12)


def test_uncorrelated_data_have_uniform_p_and_correlated_ones_too():
    """Mean of p near 0.5 and 5 % below .05 for a between-person and a within-person contrast (4,000 voxels)."""
    rng = np.random.default_rng(4)
    subject = np.repeat(np.arange(30), 3)
    table = pd.DataFrame({"age": rng.uniform(20, 80, 30)[subject], "time": np.tile([0.0, 1.0, 2.0], 30)})
    _, plan = plan_of(table, ["age", "time", "F(age, time)"], "age + time")
    y = 2 * rng.standard_normal((30, 4000))[subject] + rng.standard_normal((90, 4000))
    fit = fit_sandwich(maps(y), plan, subject.astype(str))
    p = 2 * stats.t.sf(np.abs(fit.statistic[:2]), fit.df[:2])
    joint = stats.f.sf(fit.statistic[2], 2, fit.df[2])
    for one in (*p, joint):
        assert (one < 0.05).mean() == pytest.approx(0.05, abs=0.015)
        assert one.mean() == pytest.approx(0.5, abs=0.02)


def test_a_voxel_without_variance_and_voxels_outside_the_mask():
    table = visits()
    _, plan = plan_of(table, ["time", "F(group, time)"])
    y = np.column_stack([np.ones(27), table["time"], table["y"]])
    fit = fit_sandwich(maps(y), plan, table["id"])
    assert fit.mask.tolist() == [False, True, True]
    assert fit.statistic[:, :2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert np.isfinite(fit.statistic).all()
    assert (fit.df > 0).all()


def one_person_site() -> pd.DataFrame:
    """12 people with two visits; one of them is alone in site c."""
    person = np.repeat(np.arange(12), 2)
    table = pd.DataFrame({"participant_id": [f"s{k:02d}" for k in person], "time": np.tile([0.0, 1.0], 12)})
    site = np.where(person == 11, "c", np.array(["a", "b"])[person % 2])
    return table.assign(session_id=table["time"].astype(str), site=site)


@pytest.mark.parametrize("contrast", ["c = site[T.c]", "site", "site[T.c] - site[T.b]"])
def test_a_subject_that_a_contrast_rests_on_alone_is_refused_by_name(contrast):
    values = np.random.default_rng(0).standard_normal((24, 3))
    with pytest.raises(DesignError, match="the sandwich cannot estimate its variance, because the model fits s11"):
        fit_glm(values, "gm ~ time + site", one_person_site(), [contrast], variance="sandwich:participant_id")
    _, plan = plan_of(one_person_site(), [contrast], "time + site")
    with pytest.raises(DesignError, match="fits s11 exactly"):
        fit_sandwich(maps(values), plan, one_person_site()["participant_id"].tolist())


def test_the_other_contrasts_of_such_a_model_are_fitted():
    values = np.random.default_rng(0).standard_normal((24, 4000))
    results = fit_glm(values, "gm ~ time + site", one_person_site(), variance="sandwich:participant_id")
    assert list(results.maps) == ["time", "site[T.b]"]
    for found in results.maps.values():
        assert (found["p"].values < 0.05).mean() == pytest.approx(0.05, abs=0.012)
    assert [n for n in results.record["notes"] if n.startswith("contrast 'site[T.c]' left out: the sandwich cannot")]


def test_satterthwaite_of_many_subjects_needs_no_square_of_them():
    """30,000 families: the products of all pairs would take 7 GB."""
    rng = np.random.default_rng(1)
    family = np.repeat(np.arange(30_000), 2)
    basis = np.linalg.qr(np.column_stack([np.ones(60_000), rng.standard_normal(60_000)]))[0]
    starts = np.flatnonzero(np.diff(family, prepend=-1))
    assert satterthwaite(basis[:, 1:].T, basis, starts) == pytest.approx(15_000, rel=0.05)


@pytest.mark.parametrize(
    ("subjects", "match"),
    [
        (list(range(27)), "every subject has one scan"),
        ([0] * 9 + [1] * 9 + [2] * 9, "3 subjects are too few for a design of rank 5"),
    ],
)
def test_bad_input(subjects, match):
    table = visits()
    _, plan = plan_of(table, COLUMNS)
    with pytest.raises(DesignError, match=match):
        fit_sandwich(maps(table[["y"]].to_numpy()), plan, subjects)
