from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vbmstat.glm.inference import cohens_d, p_of_f, p_two_sided, partial_r, z_of_f, z_of_t


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
