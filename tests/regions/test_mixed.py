from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from tests.glm.variance.test_sandwich import COLUMNS, VISITS, plan_of, visits
from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast, build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.regions.mixed import fit_mixed, joint_df

JOINT = ("F(time, group[T.p]:time)", "F(group, age, group[T.p]:time)")


def fit(values=None, contrasts=COLUMNS, subjects=None, table=None, formula="group * time + age"):
    table = visits() if table is None else table
    design, _ = plan_of(table, contrasts, formula)
    values = table[["y"]].to_numpy() if values is None else values
    return fit_mixed(values, design, build_contrasts(list(contrasts), design), subjects or table["id"].tolist())


def persons(n_scans, seed=0):
    """A table of persons with so many scans each: age between them, time within."""
    person = np.repeat(np.arange(len(n_scans)), n_scans)
    age = np.random.default_rng(seed).uniform(20, 80, len(n_scans)).round()[person]
    time = np.concatenate([np.arange(k) for k in n_scans]).astype(float)
    return pd.DataFrame({"id": [f"s{k}" for k in person], "age": age, "time": time}), person


def null_columns(person, count, icc, seed):
    """Noise with a share `icc` of its variance between persons."""
    rng = np.random.default_rng(seed)
    between, within = rng.standard_normal((person.max() + 1, count)), rng.standard_normal((len(person), count))
    return np.sqrt(icc) * between[person] + np.sqrt(1 - icc) * within


def deviance(values, design, person, ratio):
    """-2 log of the restricted likelihood (2 π and constants left out), from V = I + γ ZZ' written out."""
    x, shared = design.matrix, person[:, None] == person
    v = np.eye(len(x)) + ratio * shared
    inverse = np.linalg.inv(v)
    information = x.T @ inverse @ x
    projected = inverse - inverse @ x @ np.linalg.solve(information, x.T @ inverse)
    m = len(x) - x.shape[1]
    determinants = np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1]
    return determinants + m * np.log(np.einsum("nv,nm,mv->v", values, projected, values) / m)


def test_agrees_with_lmertest():
    """R 4.2.2, lme4 1.1.31, lmerTest 3.1.3, d the table of test_sandwich.visits().

    m <- lmer(y ~ group * time + age + (1 | id), d); coef(summary(m)); as.data.frame(VarCorr(m))$vcov
    L <- rbind(c(0,0,1,0,0), c(0,0,0,0,1)); X <- getME(m, "X")   # and K <- diag(5)[c(2, 4, 5), ]
    contest(m, solve(t(chol(L %*% solve(crossprod(X)) %*% t(L)))) %*% L)
    The rows are made orthonormal first, or the degrees of freedom depend on the units of age and time.
    """
    found = fit(contrasts=(*COLUMNS, *JOINT))
    effect = [4.1725548402247, -0.2063700499569, -0.2580059282320, 0.0322684524481, -0.1740275199382]
    se = [0.5977587058987, 0.3541547726859, 0.0745595234650, 0.0105907696118, 0.1338152919988]
    df = [6.71055949621, 8.36405512517, 15.66027555645, 6.37394188826, 15.81350473988, 15.8257462276, 7.80541112922]
    p = [
        0.000261155516731, 0.575457088117664, 0.003309983809490, 0.020954261467369, 0.212062263454860,
        0.00036285548104, 0.0156843091498,
    ]  # fmt: skip
    np.testing.assert_allclose(found.effect[:5, 0], effect, rtol=1e-7)
    np.testing.assert_allclose(found.se[:5, 0], se, rtol=1e-7)
    np.testing.assert_allclose(found.statistic[:, 0], [*np.divide(effect, se), 13.6200253065, 6.5694277294], rtol=1e-7)
    np.testing.assert_allclose(found.df[:, 0], df, rtol=1e-7)
    np.testing.assert_allclose(found.p[:, 0], p, rtol=1e-6)
    assert np.isnan(found.effect[5:]).all()
    assert np.isnan(found.se[5:]).all()
    assert found.random_variance[0] == pytest.approx(0.1604116105971, rel=1e-7)
    assert found.residual_variance[0] == pytest.approx(0.0768669276447, rel=1e-7)
    assert found.converged.all()
    assert (found.df_between, found.df_within) == (7, 15)


def test_zero_variance_agrees_with_lmertest():
    """The same in R of d$z <- round(3 + .5 * cos(2.3 * i) + .3 * sin(5.1 * i), 4), i <- 0:26; isSingular(m) is TRUE."""
    i = np.arange(27)
    found = fit((3 + 0.5 * np.cos(2.3 * i) + 0.3 * np.sin(5.1 * i)).round(4)[:, None], (*COLUMNS, *JOINT))
    t = [7.8523558779005, 0.3785729296604, -0.5272313086478, -0.0445279021639, -0.6420139449758]
    assert found.random_variance[0] == 0
    assert found.residual_variance[0] == pytest.approx(0.204699602205, rel=1e-11)
    np.testing.assert_allclose(found.statistic[:, 0], [*t, 0.776163316716, 0.147859475954], rtol=1e-9)
    np.testing.assert_allclose(found.df[:, 0], 22, rtol=1e-12)
    np.testing.assert_allclose(found.p[[3, 6], 0], [9.64885312061e-01, 0.929955850547], rtol=1e-9)


def test_null_columns_without_variance_between_persons():
    """8 persons, 3 scans: lme4 1.1.31 finds 51 of these 100 columns singular; variances of the first 8, to its 1e-7."""
    table, person = persons([3] * 8)
    table["age"] = np.repeat([34.0, 61, 47, 25, 72, 55, 39, 66], 3)
    y = np.random.default_rng(16).standard_normal((24, 100)).round(3)
    found = fit(y, ["age", "time"], table=table, formula="age + time")
    expected = [0.12313463, 0.28586550, 0.20044067, 0, 0.13395371, 0.81847962, 0.22484389, 0]
    np.testing.assert_allclose(found.random_variance[:8], expected, atol=2e-7)
    assert (found.random_variance == 0).sum() == 51
    assert found.converged.all()
    design = build_design("age + time", table, [f"{i}" for i in range(24)])
    ratio = found.random_variance / found.residual_variance
    grid = np.array([deviance(y, design, person, g) for g in (0, *np.geomspace(1e-4, 10, 200))])
    ours = np.array([deviance(y[:, [k]], design, person, g)[0] for k, g in enumerate(ratio)])
    assert (ours <= grid.min(axis=0) + 1e-10).all()
    without = found.random_variance == 0
    plain = [sm.OLS(y[:, k], design.matrix).fit() for k in np.flatnonzero(without)]
    np.testing.assert_allclose(found.p[:, without].T, [one.pvalues[1:] for one in plain], rtol=1e-9)


def test_the_lowest_of_several_minima_is_found():
    """20 persons, three of them scanned twice: -2 log L of some columns has two minima."""
    table, person = persons([2] * 3 + [1] * 17)
    y = null_columns(person, 400, 0.3, 1)
    found = fit(y, ["time"], table=table, formula="time")
    design = build_design("time", table, [f"{i}" for i in range(23)])
    grid = np.array([deviance(y, design, person, g) for g in (0, *np.geomspace(1e-3, 1e4, 300))])
    turns = ((grid[1:-1] < grid[:-2]) & (grid[1:-1] < grid[2:])).sum(axis=0) + (grid[0] < grid[1])
    several = np.flatnonzero(turns > 1)
    assert len(several) >= 5
    assert found.converged.all()
    for k in several:
        ratio = found.random_variance[k] / found.residual_variance[k]
        assert deviance(y[:, [k]], design, person, ratio)[0] <= grid[:, k].min() + 1e-10


def test_nearly_all_variance_between_persons():
    """An ICC of 1 - 1e-8, as of the same scans processed twice, is a maximum as any other."""
    table, person = persons([2] * 12)
    found = fit(null_columns(person, 50, 1 - 1e-8, 2), ["age"], table=table, formula="age + time")
    assert found.converged.all()
    icc = found.random_variance / (found.random_variance + found.residual_variance)
    assert ((icc > 1 - 1e-7) & (icc < 1)).all()
    np.testing.assert_allclose(found.df, 10, rtol=1e-5)


def test_balanced_means_of_persons_are_regression_on_means():
    """Equal numbers of scans, variance between persons: age is tested as in a regression of the persons' means."""
    table, person = persons([3] * 10)
    y = null_columns(person, 40, 0.9, 3)
    found = fit(y, ["age"], table=table, formula="age + time")
    means = y.reshape(10, 3, 40).mean(axis=1)
    x = sm.add_constant(table["age"].to_numpy()[::3])
    assert (found.random_variance > 0).all()
    np.testing.assert_allclose(found.df[0], 8, rtol=1e-9)
    np.testing.assert_allclose(found.p[0], [sm.OLS(one, x).fit().pvalues[1] for one in means.T], rtol=1e-8)


def test_units_of_the_column_and_columns_without_a_result():
    """Litres in place of mL change nothing but the unit; without variance within persons there is no result."""
    y = visits()[["y"]].to_numpy()
    person = np.repeat(np.arange(10), VISITS)
    of_person = np.random.default_rng(0).uniform(500, 600, 10)[person, None]
    found = fit(np.hstack([y, y / 1000, np.ones_like(y), of_person, np.full_like(y, np.nan)]), (*COLUMNS, *JOINT))
    np.testing.assert_allclose(found.statistic[:, 1], found.statistic[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.df[:, 1], found.df[:, 0], rtol=1e-9)
    assert found.random_variance[1] == pytest.approx(found.random_variance[0] / 1e6, rel=1e-9)
    assert found.converged.tolist() == [True, True, False, False, False]
    for values in (found.effect, found.se, found.statistic, found.df, found.p):
        assert np.isnan(values[:, 2:]).all()
    assert np.isnan(found.random_variance[2:]).all()


def test_one_constant_person_and_persons_with_one_scan_are_no_trouble():
    table = visits()
    y = table[["y"]].to_numpy(copy=True)
    y[table["id"] == "s6"] = 5.5
    assert fit(y).converged.all()


def test_units_of_covariates_and_order_of_scans_do_not_matter():
    table = visits()
    found = fit(contrasts=("time", *JOINT))
    other = table.assign(age=table["age"] * 12, time=table["time"] / 10)
    order = np.random.default_rng(5).permutation(27)
    other = other.iloc[order].reset_index(drop=True)
    same = fit(other[["y"]].to_numpy(), ("time", *JOINT), table=other)
    np.testing.assert_allclose(same.statistic, found.statistic, rtol=1e-8)
    np.testing.assert_allclose(same.df, found.df, rtol=1e-8)


def test_collinear_columns():
    """Sites inside groups: what can be estimated is as without the superfluous column; what cannot is refused."""
    table = visits()
    person = np.repeat(np.arange(10), VISITS)
    table["site"] = table["group"] + (person % 2).astype(str)
    names = ("time", "age", "F(time, group[T.p]:time)")
    found = fit(contrasts=names, table=table, formula="group * time + site + age")
    full_rank = fit(contrasts=names, table=table, formula="site + time + age + group:time")
    np.testing.assert_allclose(found.p, full_rank.p, rtol=1e-7)
    design = build_design("group * time + site + age", table, [f"{i}" for i in range(27)])
    assert design.rank < len(design.columns)
    group = Contrast("group", np.eye(len(design.columns))[[design.columns.index("group[T.p]")]], "t")
    with pytest.raises(DesignError, match="'group' cannot be estimated"):
        fit_mixed(table[["y"]].to_numpy(), design, [group], table["id"])


@pytest.mark.parametrize(
    ("formula", "match"),
    [("time + id", "no differences between subjects"), ("age + time:id", "no differences within subjects")],
)
def test_formulas_that_leave_one_variance_out_are_refused(formula, match):
    table, _ = persons([2] * 4)
    with pytest.raises(DesignError, match=match):
        fit(np.arange(8.0)[:, None] ** 2, ["Intercept"], table=table, formula=formula)


def test_one_scan_each_is_refused():
    with pytest.raises(DesignError, match="every subject has one scan"):
        fit(subjects=[str(i) for i in range(27)])


def test_joint_degrees_of_freedom():
    """lmerTest:::get_Fstat_ddf(c(5, 10)), of c(7, 7) and of c(2, 30)."""
    np.testing.assert_allclose(joint_df(np.array([[5, 7, 2], [10, 7, 30.0]])), [6.363636363636, 7, 2])


@pytest.mark.parametrize("icc", [0.3, 0.9])
@pytest.mark.parametrize("n_scans", [[3] * 8, [1, 2, 3, 4] * 3])
def test_null_columns_have_five_percent(n_scans, icc):
    """Between and within persons, and both together; 4,000 columns."""
    table, person = persons(n_scans)
    found = fit(null_columns(person, 4000, icc, 7), ["age", "time", "F(age, time)"], table=table, formula="age + time")
    share = (found.p <= 0.05).mean(axis=1)
    assert ((share > 0.04) & (share < 0.06)).all()
