from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from vbmstat.regions.reml import Likelihood, is_maximum, maximise

N_COLUMNS = 20


def random_likelihood(seed: int, n_eigenvalues: int, df_within: int) -> Likelihood:
    """Eigenvalues over three decades, columns from no variance between subjects to nearly nothing else."""
    rng = np.random.default_rng(seed)
    eigenvalues = 10 ** rng.uniform(-2, 1, (n_eigenvalues, 1))
    ratio = 10 ** rng.uniform(-3, 5, N_COLUMNS)
    between = (1 + ratio * eigenvalues) * rng.chisquare(1, (n_eigenvalues, N_COLUMNS))
    return Likelihood(eigenvalues, between, rng.chisquare(df_within, N_COLUMNS), n_eigenvalues + df_within)


cases = given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 30))


@cases
@settings(max_examples=50, deadline=None)
def test_nothing_on_a_fine_grid_is_lower(seed, n_eigenvalues, df_within):
    likelihood = random_likelihood(seed, n_eigenvalues, df_within)
    ratio = maximise(likelihood)
    grid = [0, *np.geomspace(1e-6, 1e9, 600)]
    lowest = np.min([likelihood.deviance(np.full(N_COLUMNS, g)) for g in grid], axis=0)
    assert (likelihood.deviance(ratio) <= lowest + 1e-9 * np.abs(lowest)).all()
    assert is_maximum(likelihood, ratio).all()


@cases
@settings(max_examples=50, deadline=None)
def test_beyond_the_largest_ratio_the_deviance_rises(seed, n_eigenvalues, df_within):
    likelihood = random_likelihood(seed, n_eigenvalues, df_within)
    for factor in (1, 3, 100):
        assert (likelihood.slope(factor * likelihood.largest_ratio()) > 0).all()


def test_slope_is_the_derivative_of_the_deviance():
    likelihood = random_likelihood(0, 12, 20)
    ratio = np.geomspace(0.01, 10, N_COLUMNS)
    step = 1e-5 * ratio
    numeric = (likelihood.deviance(ratio + step) - likelihood.deviance(ratio - step)) / (2 * step)
    np.testing.assert_allclose(likelihood.slope(ratio), numeric, rtol=1e-6, atol=1e-8)


def test_what_is_no_maximum_is_told():
    """Beside the maximum, and at 0 where the likelihood rises."""
    likelihood = random_likelihood(3, 12, 20)
    ratio = maximise(likelihood)
    inside = ratio > 0
    assert 0 < inside.sum() < N_COLUMNS
    assert not is_maximum(likelihood, ratio * 1.01 + 1e-3).any()
    assert (is_maximum(likelihood, np.zeros(N_COLUMNS)) == (likelihood.slope(np.zeros(N_COLUMNS)) >= 0)).all()
    assert not is_maximum(likelihood, np.zeros(N_COLUMNS))[inside].all()
