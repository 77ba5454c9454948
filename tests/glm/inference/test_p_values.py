from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.multitest import multipletests

from vbmstat.glm.inference.p_values import (
    cohens_d,
    d_interval,
    hedges_g,
    noncentrality,
    p_of_f,
    p_one_sided,
    p_two_sided,
    partial_r,
    partial_r2,
    q_fdr,
    z_of_f,
    z_of_t,
)


def test_p_and_z_agree_with_scipy():
    t = np.array([-7.0, -2.0, 0.0, 1e-3, 2.5, 12.0])
    np.testing.assert_allclose(p_two_sided(t, 17), 2 * stats.t.sf(np.abs(t), 17), rtol=1e-12)
    np.testing.assert_allclose(stats.norm.sf(np.abs(z_of_t(t, 17))) * 2, p_two_sided(t, 17), rtol=1e-10)
    assert (np.sign(z_of_t(t, 17)) == np.sign(t)).all()
    f = np.array([0.01, 1.0, 30.0])
    np.testing.assert_allclose(p_of_f(f, 2, 30), stats.f.sf(f, 2, 30))
    np.testing.assert_allclose(stats.norm.sf(z_of_f(f, 2, 30)), p_of_f(f, 2, 30), rtol=1e-9)


def test_extreme_values_stay_finite():
    t = np.array([-1e6, 1e6, 0.0])
    assert np.isfinite(z_of_t(t, 4000)).all()
    assert np.abs(z_of_t(t, 4000)).max() == pytest.approx(37.5, abs=0.1)
    assert p_two_sided(t, 4000)[2] == 1


def test_partial_r_is_the_correlation_of_residuals():
    rng = np.random.default_rng(0)
    x, z = rng.standard_normal((2, 50))
    y = 0.5 * x + z + rng.standard_normal(50)
    nuisance = np.column_stack([np.ones(50), z])
    residuals = [v - nuisance @ np.linalg.lstsq(nuisance, v, rcond=None)[0] for v in (x, y)]
    r = np.corrcoef(*residuals)[0, 1]
    t = r * np.sqrt(47 / (1 - r**2))
    assert partial_r(np.array(t), 47) == pytest.approx(r, rel=1e-12)
    assert cohens_d(np.array(2.0), 16) == 1.0


def test_false_discovery_rates_are_statsmodels():
    p = np.random.default_rng(0).uniform(size=200) ** 2
    np.testing.assert_allclose(q_fdr(p), multipletests(p, method="fdr_bh")[1])
    assert q_fdr(np.empty(0)).shape == (0,)


def test_one_sided_p():
    t = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_allclose(p_one_sided(t, 12), stats.t.sf(t, 12), rtol=1e-12)


@pytest.mark.parametrize("df", [5.0, 20.0, 500.0])
def test_limits_of_d_are_noncentral_t(df):
    """At the limits, the t that was found cuts off 2.5 % of the noncentral t distribution."""
    t = np.random.default_rng(0).uniform(-12, 12, 40)
    low, high = d_interval(t, df)
    for value, lower, upper in zip(t, low, high, strict=True):
        assert stats.nct.sf(value, df, lower * np.sqrt(df) / 2) == pytest.approx(0.025, abs=2e-5)
        assert stats.nct.cdf(value, df, upper * np.sqrt(df) / 2) == pytest.approx(0.025, abs=2e-5)
    narrow = d_interval(t, df, 0.5)
    assert (narrow[0] > low).all()
    assert (narrow[1] < high).all()
    np.testing.assert_allclose(d_interval(-t, df)[0], -high, atol=1e-9)


def test_one_enormous_t_leaves_the_limits_of_the_others():
    t = np.linspace(-12, 12, 25)
    for huge in (300.0, 1e6):
        alone, together = d_interval(t, 4.0), d_interval(np.append(t, huge), 4.0)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(other[:-1], one, atol=2e-5)


def test_noncentralities_are_r_s():
    """R: for (x in c(-3, 0, 1, 5, 20)) uniroot(function(n) pt(x, df, n) - p, c(-30, 37), tol = 1e-10)$root"""
    t = np.array([-3.0, 0.0, 1.0, 5.0, 20.0])
    np.testing.assert_allclose(
        noncentrality(t, 4.0, 0.2), [-1.604632, 0.8416212, 1.828514, 6.346111, 24.53243], rtol=1e-6
    )
    np.testing.assert_allclose(
        noncentrality(t, 30.0, 0.025), [-0.8775655, 1.959964, 2.967926, 7.300104, 25.37624], rtol=1e-6
    )


def lower_tail(t, df, delta):
    """P(T < t) of the noncentral t distribution: the chi distribution integrated over the normal one."""
    sign = np.sign(t)  # for t < 0: P(-T > -t) with -delta

    def inside(z):
        s2 = np.maximum((z + sign * delta) / abs(t), 0.0) ** 2
        return stats.norm.pdf(z) * stats.chi2.sf(df * s2, df)

    below = integrate.quad(inside, -9, 9, limit=300, epsabs=1e-10)[0]
    return below if sign > 0 else 1 - below


@pytest.mark.parametrize("t", [120.0, -150.0, 1e3, 1e5, -1e6])
@pytest.mark.parametrize("df", [1.0, 4.0, 40.0, 2000.0])
@pytest.mark.parametrize("p", [0.2, 0.025, 0.975])
def test_large_noncentralities_cut_off_their_share(t, df, p):
    """Where SciPy takes a second for a single value."""
    assert lower_tail(t, df, noncentrality(t, df, p)) == pytest.approx(p, rel=2e-2)


def test_hedges_g():
    """Hedges' own approximation, 1 - 3 / (4 df - 1)."""
    for df in (10.0, 40.0):
        assert hedges_g(np.array(1.0), df) == pytest.approx(1 - 3 / (4 * df - 1), abs=5e-3 / df)
    assert np.isnan(hedges_g(np.array(1.0), 1.0))


def test_partial_r2_of_one_regressor_is_r_squared():
    t = np.array([-3.0, 1.0])
    np.testing.assert_allclose(partial_r2(t**2, 1, 20), partial_r(t, 20) ** 2)
