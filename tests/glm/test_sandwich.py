from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats

from vbmstat.errors import DesignError
from vbmstat.glm.contrast import build_contrasts
from vbmstat.glm.design import Design, build_design
from vbmstat.glm.maps import ArrayMaps
from vbmstat.glm.plan import Plan, make_plan
from vbmstat.glm.sandwich import fit_sandwich, guillaume

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


@pytest.mark.parametrize(
    ("correction", "se"),
    [
        ("c0", [0.477692538204, 0.331428462979, 0.077642005568, 0.007685057938, 0.119037353003]),
        ("cr2", [0.65520297563, 0.40204198962, 0.09066947922, 0.01067801277, 0.13718272293]),
        ("cr3", [0.91114559674, 0.49577469572, 0.10712081918, 0.01498958238, 0.16371177009]),
    ],
)
def test_standard_errors_are_those_of_r(correction, se):
    """R 4.2.2, clubSandwich 0.5.8 (c0: sandwich 3.0.2), d the table of visits().

    m <- lm(y ~ group * time + age, d)
    sqrt(diag(vcovCL(m, cluster = ~id, type = "HC0", cadjust = FALSE)))
    sqrt(diag(vcovCR(m, cluster = d$id, type = "CR2"))); the same with "CR3"
    """
    table = visits()
    _, plan = plan_of(table, COLUMNS)
    fit = fit_sandwich(maps(table[["y"]].to_numpy()), plan, table["id"], correction=correction)
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


def test_uncorrected_is_statsmodels_cluster_covariance():
    rng = np.random.default_rng(0)
    table = visits()
    design, plan = plan_of(table, COLUMNS)
    y = rng.standard_normal((27, 3))
    fit = fit_sandwich(maps(y), plan, table["id"], correction="c0")
    groups = pd.factorize(table["id"])[0]
    for v in range(3):
        expected = sm.OLS(y[:, v], design.matrix).fit(
            cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
        )
        np.testing.assert_allclose(np.sqrt(fit.variance[:, v]), expected.bse, rtol=1e-10)
        np.testing.assert_allclose(fit.effect[:, v], expected.params, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("correction", "power"), [("c2", -0.5), ("c3", -1.0)])
def test_leverage_corrections_by_hand(correction, power):
    """Guillaume et al. 2014, types 2 and 3: each residual over sqrt(1 - h) or 1 - h."""
    table = visits()
    design, plan = plan_of(table, COLUMNS)
    x, y = design.matrix, table["y"].to_numpy()
    hat = x @ np.linalg.inv(x.T @ x) @ x.T
    rest = (y - hat @ y) * (1 - np.diag(hat)) ** power
    bread, meat = np.linalg.inv(x.T @ x), np.zeros((5, 5))
    for subject in table["id"].unique():
        rows = (table["id"] == subject).to_numpy()
        score = x[rows].T @ rest[rows]
        meat += np.outer(score, score)
    fit = fit_sandwich(maps(table[["y"]].to_numpy()), plan, table["id"], correction=correction)
    np.testing.assert_allclose(fit.variance[:, 0], np.diag(bread @ meat @ bread), rtol=1e-10)


def test_guillaume_degrees_of_freedom_by_hand():
    """ν = (tr S² + (tr S)²) / (Σ (tr S_i² + (tr S_i)²) / ν_i), ν_i = 1 - p_B / n, of contributions S_i written out.

    Group and age are constant within people, and so is the intercept: p_B = 3 of 5.
    """
    table = visits()
    design, plan = plan_of(table, ["time", "F(time, group[T.p]:time)"])
    x, y = design.matrix, table["y"].to_numpy()
    rest = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    fit = fit_sandwich(maps(y[:, None]), plan, table["id"], correction="c0", dof="guillaume")
    for k, contrast in enumerate([np.eye(5)[[2]], None]):
        rows = contrast @ np.linalg.pinv(x) if contrast is not None else plan.contrasts[1].rows @ plan.basis.T
        parts = []
        for subject in table["id"].unique():
            at = (table["id"] == subject).to_numpy()
            u = rows[:, at] @ rest[at]
            parts.append(np.outer(u, u))
        total = np.sum(parts, axis=0)
        below = sum((np.trace(p @ p) + np.trace(p) ** 2) / (1 - 3 / 10) for p in parts)
        nu = (np.trace(total @ total) + np.trace(total) ** 2) / below
        assert fit.df[k, 0] == pytest.approx(nu - len(rows) + 1, rel=1e-9)


def test_guillaume_with_equal_contributions_counts_them():
    """Twelve subjects that contribute alike, nothing between them estimated: ν = 12."""
    assert guillaume(np.full((1, 1, 1), 12.0), np.array([12.0]), 12, 0)[0] == pytest.approx(12.0)


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
    monkeypatch.setattr("vbmstat.glm.sandwich._READ_VOXELS", 512)
    pieces = fit_sandwich(maps(y), plan, table["id"], n_threads=1)
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


@pytest.mark.parametrize(
    ("subjects", "options", "match"),
    [
        (list(range(27)), {}, "every subject has one scan"),
        ([0] * 9 + [1] * 9 + [2] * 9, {}, "3 subjects cannot carry a design of rank 5"),
        (None, {"correction": "hc9"}, "expected a correction of c0, c2"),
        (None, {"dof": "many"}, "dof of satterthwaite, guillaume"),
    ],
)
def test_bad_input(subjects, options, match):
    table = visits()
    _, plan = plan_of(table, COLUMNS)
    with pytest.raises(DesignError, match=match):
        fit_sandwich(maps(table[["y"]].to_numpy()), plan, subjects or table["id"], **options)
