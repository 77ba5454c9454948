from __future__ import annotations

import numpy as np
import pytest

from vbmstat.errors import DesignError
from vbmstat.harmonize.combat import learn_site_effects, shrink
from vbmstat.maps.store import ArrayMaps


def maps(values: np.ndarray) -> ArrayMaps:
    return ArrayMaps(values, tuple(f"sub-{i}" for i in range(len(values))))


def small() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    site = np.repeat(["a", "b", "c"], [5, 4, 3])
    age, sex = np.arange(20.0, 80.0, 5.0), np.array([0, 1] * 6)
    y = 0.5 + 0.1 * rng.standard_normal((12, 5)) - 0.003 * (age[:, None] - 50) + 0.1 * (site == "b")[:, None]
    return y, site, np.column_stack([sex, age])


def test_agrees_with_neurocombat():
    """Values of neuroCombat 0.2.12 (PyPI, 2021), its iteration run to the end.

    pip install --no-deps neuroCombat==0.2.12, then (y, site, sex and age as above):
    neuroCombat.neuroCombat.it_sol.__defaults__ = (1e-12,)
    neuroCombat(y.T, DataFrame({"site": site, "age": age, "sex": sex}), "site", ["sex"], ["age"])
    """
    y, site, covariates = small()
    effects = learn_site_effects(maps(y), site, covariates)
    gamma = [[-0.30095971, -0.26782688, -1.15849227, -0.43061302, -1.57259843],
             [0.55912529, 0.54585863, 0.83701971, 0.79972775, 1.4351487],
             [-0.04261843, 0.00112461, 0.51337068, -0.12441686, 0.29125649]]  # fmt: skip
    delta = [[1.12623432, 0.85463607, 1.07550354, 1.1010376, 0.79846342],
             [0.84898968, 1.1584219, 1.09475896, 0.85216124, 0.82009739],
             [2.06227429, 2.09298592, 1.91572407, 2.10114735, 2.6028309]]  # fmt: skip
    data = [[0.61360879, 0.64597453, 0.62871326, 0.52592511, 0.64694799],
            [0.38808542, 0.50789785, 0.45557814, 0.46647514, 0.61009185],
            [0.48355888, 0.41852102, 0.44748579, 0.55637242, 0.35806815]]  # fmt: skip
    np.testing.assert_allclose(effects.gamma, gamma, atol=2e-7)
    np.testing.assert_allclose(effects.delta, delta, atol=2e-7)
    np.testing.assert_allclose(effects.adjust(y, site, covariates)[[0, 6, 11]], data, atol=2e-8)


def test_takes_out_sites_and_keeps_the_covariate():
    """The order of the scans does not matter; site differences shrink, the slope of age stays."""
    rng = np.random.default_rng(1)
    n, v = 120, 800
    site = np.array(["x", "y", "z"])[rng.integers(0, 3, n)]
    age = rng.uniform(20, 80, n)
    shift = {"x": 0.0, "y": 0.08, "z": -0.05}
    spread = {"x": 1.0, "y": 2.0, "z": 0.7}
    y = 0.5 - 0.002 * age[:, None] + 0.03 * rng.standard_normal((n, v)) * np.array([spread[s] for s in site])[:, None]
    y += np.array([shift[s] for s in site])[:, None]
    effects = learn_site_effects(maps(y), site, age[:, None])
    new = effects.adjust(y, site, age[:, None])
    rest = new + 0.002 * age[:, None]
    means = np.array([rest[site == s].mean() for s in "xyz"])
    assert np.ptp(means) < 0.002
    assert np.ptp([(y + 0.002 * age[:, None])[site == s].mean() for s in "xyz"]) > 0.1
    sds = [rest[site == s].std() for s in "xyz"]
    assert max(sds) / min(sds) < 1.1
    assert np.polyfit(age, new.mean(axis=1), 1)[0] == pytest.approx(-0.002, abs=2e-4)
    back = rng.permutation(n)
    shuffled = learn_site_effects(maps(y[back]), site[back], age[back, None])
    np.testing.assert_allclose(shuffled.gamma, effects.gamma, atol=1e-9)


def test_constant_voxels_are_left_alone_and_do_not_count():
    y, site, covariates = small()
    y = np.hstack([y, np.full((12, 1), 0.3), y[:, :1]])
    y[site == "c", 6] = 0.4  # constant in one site only
    effects = learn_site_effects(maps(y), site, covariates)
    assert effects.constant.tolist() == [False] * 5 + [True, True]
    new = effects.adjust(y, site, covariates)
    np.testing.assert_array_equal(new[:, 5:], y[:, 5:])
    alone = learn_site_effects(maps(y[:, :5]), site, covariates)
    np.testing.assert_array_equal(effects.gamma[:, :5], alone.gamma)


def test_chunks_do_not_matter(monkeypatch):
    rng = np.random.default_rng(3)
    y, site = rng.standard_normal((20, 1500)), np.repeat(["a", "b"], 10)
    whole = learn_site_effects(maps(y), site, np.empty((20, 0)))
    monkeypatch.setattr("vbmstat.harmonize.combat._READ_VOXELS", 512)
    pieces = learn_site_effects(maps(y), site, np.empty((20, 0)))
    np.testing.assert_allclose(pieces.delta, whole.delta, rtol=1e-12)


def test_shrink_solves_its_equations():
    rng = np.random.default_rng(5)
    shift, spread, n = rng.normal(0.3, 0.5, 400), rng.gamma(5, 0.2, 400), 9
    gamma, delta = shrink(shift, spread, n)
    m, s2, tau2 = spread.mean(), spread.var(ddof=1), shift.var(ddof=1)
    rate, shape = m * (m**2 + s2) / s2, 2 + m**2 / s2
    np.testing.assert_allclose(gamma, (n * tau2 * shift + delta * shift.mean()) / (n * tau2 + delta), atol=1e-7)
    squares = (n - 1) * spread + n * (shift - gamma) ** 2
    np.testing.assert_allclose(delta, (rate + squares / 2) / (n / 2 + shape - 1), atol=1e-7)


@pytest.mark.parametrize(
    ("sites", "covariates", "match"),
    [
        (["a"] * 6 + ["b"], [], "site b has one scan"),
        (["a"] * 7, [], "one site a"),
        (["a"] * 3 + ["b"] * 4, [0, 0, 0, 1, 1, 1, 1], "site and group cannot be separated"),
    ],
)
def test_what_cannot_be_learned(sites, covariates, match):
    y = np.random.default_rng(0).standard_normal((7, 4))
    x = np.array(covariates, dtype=float).reshape(7, -1) if covariates else np.empty((7, 0))
    with pytest.raises(DesignError, match=match):
        learn_site_effects(maps(y), sites, x, ["group"])


def test_too_few_columns_and_an_unknown_site():
    y, site, covariates = small()
    with pytest.raises(DesignError, match="2 voxels or columns vary"):
        learn_site_effects(maps(y[:, :2]), site, covariates)
    effects = learn_site_effects(maps(y), site, covariates)
    with pytest.raises(DesignError, match=r"site d was not in .* \(a, b, c\)"):
        effects.adjust(y[:1], ["d"], covariates[:1])
