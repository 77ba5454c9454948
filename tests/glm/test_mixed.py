from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.glm.test_sandwich import COLUMNS, plan_of, visits
from vbmstat.errors import DesignError
from vbmstat.glm.contrast import build_contrasts
from vbmstat.glm.mixed import fit_mixed


def fit(values=None, contrasts=COLUMNS, subjects=None):
    table = visits()
    design, _ = plan_of(table, COLUMNS)
    values = table[["y"]].to_numpy() if values is None else values
    return fit_mixed(values, design, build_contrasts(list(contrasts), design), subjects or table["id"].tolist())


def test_agrees_with_lmer():
    """R 4.2.2, lme4 1.1.31, d the table of test_sandwich.visits().

    m <- lmer(y ~ group * time + age + (1 | id), d)
    coef(summary(m)); as.data.frame(VarCorr(m))$vcov
    L <- rbind(c(0,0,1,0,0), c(0,0,0,0,1)); b <- fixef(m); V <- as.matrix(vcov(m))
    t(L %*% b) %*% solve(L %*% V %*% t(L)) %*% (L %*% b) / 2
    """
    found = fit(contrasts=(*COLUMNS, "F(time, group[T.p]:time)"))
    effect = [4.17255484022, -0.20637004996, -0.25800592823, 0.03226845245, -0.17402751994]
    se = [0.59775870590, 0.35415477269, 0.07455952347, 0.01059076961, 0.13381529200]
    np.testing.assert_allclose(found.effect[:5, 0], effect, rtol=1e-6)
    np.testing.assert_allclose(found.se[:5, 0], se, rtol=1e-6)
    np.testing.assert_allclose(found.statistic[:5, 0], np.divide(effect, se), rtol=1e-6)
    assert found.statistic[5, 0] == pytest.approx(13.62002531, rel=1e-6)
    assert found.p[5, 0] == pytest.approx(stats.chi2.sf(2 * 13.62002531, 2), rel=1e-4)
    assert np.isnan(found.effect[5, 0])
    assert found.random_variance[0] == pytest.approx(0.16041161060, rel=1e-6)
    assert found.residual_variance[0] == pytest.approx(0.07686692764, rel=1e-6)
    assert found.converged.all()


def test_without_variance_between_subjects_it_is_least_squares():
    """Subjects whose means agree more than chance: σ_b² = 0, and standard errors are those of least squares."""
    rng = np.random.default_rng(0)
    table = visits()
    design, plan = plan_of(table, COLUMNS)
    y = rng.standard_normal(27)
    for subject in table["id"].unique():
        rows = (table["id"] == subject).to_numpy()
        y[rows] -= y[rows].mean()
    found = fit(y[:, None])
    assert found.random_variance[0] == pytest.approx(0, abs=1e-4)
    x = design.matrix
    beta, rss = np.linalg.lstsq(x, y, rcond=None)[:2]
    np.testing.assert_allclose(found.effect[:, 0], beta, atol=1e-5)
    expected = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * rss[0] / plan.df_resid)
    np.testing.assert_allclose(found.se[:, 0], expected, rtol=1e-3)


def test_units_and_constant_columns():
    """Litres in place of mL change nothing but the unit; a constant column has no result."""
    y = visits()[["y"]].to_numpy()
    found = fit(np.hstack([y, y / 1000, np.ones_like(y)]))
    np.testing.assert_allclose(found.statistic[:, 1], found.statistic[:, 0], rtol=1e-6)
    assert found.random_variance[1] == pytest.approx(found.random_variance[0] / 1e6, rel=1e-5)
    assert np.isnan(found.statistic[:, 2]).all()
    assert not found.converged[2]


def test_one_scan_each_is_refused():
    with pytest.raises(DesignError, match="every subject has one scan"):
        fit(subjects=[str(i) for i in range(27)])
