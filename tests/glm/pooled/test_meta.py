"""Random-effects meta-analysis against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.pooled.combine import stack_rows
from vbmstat.glm.pooled.meta import meta_analysis, random_effects


@pytest.mark.parametrize("spread", [0.0, 0.1, 3.0])
def test_it_agrees_with_statsmodels(spread):
    rng = np.random.default_rng(4)
    variances = rng.uniform(0.01, 0.2, (5, 40))
    effects = 0.3 + spread * rng.standard_normal((5, 1)) + np.sqrt(variances) * rng.standard_normal((5, 40))
    ours = random_effects(effects, variances)
    for voxel in range(effects.shape[1]):
        with np.errstate(invalid="ignore"):  # it takes roots of a negative tau²
            theirs = combine_effects(effects[:, voxel], variances[:, voxel], method_re="dl")
        assert ours.q[voxel] == pytest.approx(theirs.q)
        assert ours.i2[voxel] == pytest.approx(max(theirs.i2, 0.0))
        tau2 = max(theirs.tau2, 0.0)
        weights = 1 / (variances[:, voxel] + tau2)
        assert ours.variance[voxel] == pytest.approx(1 / weights.sum())
        if theirs.tau2 > 0:
            assert ours.effect[voxel] == pytest.approx(theirs.mean_effect_re)
            assert ours.variance[voxel] == pytest.approx(theirs.sd_eff_w_re**2)
        else:
            assert ours.effect[voxel] == pytest.approx(theirs.mean_effect_fe)


def test_a_site_without_variance_gives_no_result():
    found = random_effects(np.array([[0.1, 0.1], [0.2, 0.2]]), np.array([[0.0, 0.1], [0.1, 0.1]]))
    assert found.effect[0] == found.variance[0] == found.q[0] == found.i2[0] == 0
    assert found.effect[1] == pytest.approx(0.15)


def test_effects_of_sites_are_those_of_their_own_models(three):
    table, maps, sites = three
    design = stack_rows(sites).design
    contrasts = build_contrasts(["age", "group[T.mci]", "site[T.ulm]", "group"], design)
    voxels = sites["ulm"].space.voxel_index
    found, note = meta_analysis(contrasts[0], design.columns, sites, voxels)
    assert set(found) == {
        "dleffect", "dlvariance", "q", "i2", "effectBerlin", "effectKöln", "effectUlm", "varianceBerlin",
        "varianceKöln", "varianceUlm",
    }  # fmt: skip
    assert not note
    rows = (table["site"] == "ulm").to_numpy()
    x = np.column_stack(
        [np.ones(rows.sum()), table["age"][rows], table["sex"][rows] == "M",
         *(table["group"][rows] == level for level in ("hc", "mci"))]
    ).astype(float)  # fmt: skip
    beta, rss, *_ = np.linalg.lstsq(x, maps[rows].astype(float), rcond=None)
    np.testing.assert_allclose(found["effectUlm"].values, beta[1], rtol=1e-7, atol=1e-10)
    variance = rss / (len(x) - 5) * np.linalg.inv(x.T @ x)[1, 1]
    np.testing.assert_allclose(found["varianceUlm"].values, variance, rtol=1e-7)
    found, note = meta_analysis(contrasts[1], design.columns, sites, voxels)
    assert "effectKöln" not in found
    assert note == "group[T.mci]: the meta-analysis is without köln, which cannot estimate it alone"
    for contrast, message in zip(contrasts[2:], ("0 of 3 sites", "F-contrast"), strict=True):
        found, note = meta_analysis(contrast, design.columns, sites, voxels)
        assert not found
        assert message in note
