from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.glm.conftest import images, table  # noqa: F401 - fixtures
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.inference.power import MOST_SCANS, n_for_power


def test_smallest_size_with_80_percent_power():
    """R: p <- function(N) 1 - pt(qt(.975, N - 2), N - 2, 2 * sqrt(N / 20)); N <- 3:100; min(N[p(N) >= .8])

    and q <- function(N) 1 - pt(5.2, N - 4, 8 * sqrt(N / 60)); N <- 5:500; min(N[q(N) >= .8]).
    """
    assert n_for_power(np.array([2.0, -2.0]), 18.0, 20).tolist() == [42, 42]
    assert n_for_power(np.array([8.0]), 56.0, 60, threshold=5.2).tolist() == [36]


def test_power_is_reached_there_and_not_before():
    for t, n, rank in ((1.2, 40, 3), (3.0, 40, 3), (0.3, 500, 5)):
        found = n_for_power(np.array([t]), float(n - rank), n)[0]
        power = [stats.nct.sf(stats.t.isf(0.025, size - rank), size - rank, t * np.sqrt(size / n))
                 for size in (found, found / 1.006 - 1)]  # fmt: skip
        assert power[0] >= 0.8 > power[1]


def test_no_effect_needs_the_most():
    found = n_for_power(np.array([0.0, 1e-6, 60.0]), 18.0, 20)
    assert found[:2].tolist() == [MOST_SCANS, MOST_SCANS]
    assert found[2] == 3


def test_a_threshold_of_few_degrees_of_freedom_ends():
    """One value of SciPy's noncentrality takes a second there, and 2,386 sizes are tried."""
    assert n_for_power(np.array([2.0]), 4.0, 10, threshold=1e6).tolist() == [MOST_SCANS]
    size = next(n for n in range(3, 99) if 400 * np.sqrt(n / 3) > 1000 * np.sqrt(stats.chi2.isf(0.2, n - 2) / (n - 2)))
    assert n_for_power(np.array([400.0]), 1.0, 3, threshold=1000.0).tolist() == [size]  # where Z is nothing beside t


def test_ten_paired_scans_end(table):  # noqa: F811
    """Flips of the scans of a pair leave nothing of its residuals; 4 degrees of freedom."""
    pairs = table.iloc[:10].assign(time=["pre", "post"] * 5, person=[f"p{i // 2}" for i in range(10)])
    values = 100 + np.random.default_rng(0).standard_normal((10, 300)).astype(np.float32)
    for blocks in ((), "person"):
        results = fit_glm(values, "gm ~ time + person", pairs, ["time"], repeats=0, inference="fwe", blocks=blocks,
                          permutations=100, sign_flip=True)  # fmt: skip
        assert results.df_resid == 4
        assert np.isfinite(results.maps["time"]["n80fwe"].values).all()
        assert results.inference["time"].nulls.maxima["statistic"].max() < 1000


def test_maps_of_a_fit(images, table):  # noqa: F811
    inside = images.reshape(len(images), -1)[:, (images.min(axis=0) > 0.1).ravel()]
    results = fit_glm(inside[:, :60], "gm ~ age + sex", table, ["age", "F(age, sex)"], repeats=20, inference="fwe",
                      permutations=100)  # fmt: skip
    age = results.maps["age"]
    np.testing.assert_array_equal(age["n80"].values, n_for_power(age["t"].values, results.df_resid, 26))
    null = np.sort(results.inference["age"].nulls.maxima["statistic"])
    threshold = null[94]  # of 100; to be exceeded: then at most five are as large
    np.testing.assert_array_equal(age["n80fwe"].values, n_for_power(age["t"].values, results.df_resid, 26, threshold))
    assert (age["n80fwe"].values >= age["n80"].values).all()
    assert "n80" not in results.maps["F(age, sex)"]


def test_replication_is_the_share_of_significant_subsets(images, table):  # noqa: F811
    inside = images.reshape(len(images), -1)[:, (images.min(axis=0) > 0.1).ravel()][:, :40].astype(np.float64)
    whole = fit_glm(inside, "gm ~ age + sex", table, ["age", "F(age, sex)"], repeats=15)
    p = {"age": [], "F(age, sex)": []}
    for rows in whole.draws:
        part = fit_glm(inside[rows], "gm ~ age + sex", table[rows], list(p), repeats=0)
        for name, values in p.items():
            values.append(part.maps[name]["p"].values)
    for name, values in p.items():
        np.testing.assert_allclose(whole.maps[name]["replication"].values, (np.array(values) < 0.05).mean(axis=0))
    assert 0 < whole.maps["age"]["replication"].values.mean() < 1
    assert "replication" not in fit_glm(inside, "gm ~ age", table, repeats=0).maps["age"]


@pytest.mark.parametrize("backend", ["stacked", "compiled"])
def test_every_backend_counts_replications(images, table, backend):  # noqa: F811
    inside = images.reshape(len(images), -1)[:, (images.min(axis=0) > 0.1).ravel()]
    single = fit_glm(inside, "gm ~ age + sex", table, ["age"], repeats=30, backend=backend)
    double = fit_glm(inside.astype(np.float64), "gm ~ age + sex", table, ["age"], repeats=30)
    ours, theirs = (one.maps["age"]["replication"].values for one in (single, double))
    assert np.abs(ours - theirs).max() <= 1 / 30 + 1e-9  # a t at the very threshold
    assert (ours == theirs).mean() > 0.99
