from __future__ import annotations

import numpy as np
import pytest

from vbmstat.glm.fit import kernel
from vbmstat.glm.fit.stacked import SUMMARIES, quantile_ranks


def test_sums_over_the_rows_of_a_subset():
    rng = np.random.default_rng(0)
    rest, basis = rng.standard_normal((13, kernel.TILE), np.float32), rng.standard_normal((13, 8), np.float32)
    rest[12], basis[12] = 0, 0
    rows = np.array([0, 3, 4, 7, 11, 12, 12, 12])
    sums = np.ones((5, 2, kernel.TILE), np.float32)
    kernel._sum_subset(rest, basis, rows, sums)
    chosen = rows[:5]
    np.testing.assert_allclose(sums[4, 0], (rest[chosen] ** 2).sum(axis=0), rtol=1e-5)
    expected = basis[chosen].T @ rest[chosen]
    for k in range(8):
        np.testing.assert_allclose(sums[k % 4, k // 4], expected[k], rtol=1e-4, atol=1e-5)


def test_without_a_place_for_machine_code(monkeypatch):
    """As in an installation that is read-only, for a user without a home: compiled in every process, then."""

    def no_place(**options):
        if options:
            msg = "cannot cache function: no locator available"
            raise RuntimeError(msg)
        return lambda function: function

    monkeypatch.setattr(kernel, "_njit", no_place)
    assert kernel.compiled(len) is len


@pytest.mark.parametrize("n", [1, 2, 3, 5, 16, 31, 100])
def test_a_network_sorts_every_column(n):
    rng = np.random.default_rng(n)
    values = rng.standard_normal((n, kernel.TILE)).astype(np.float32)
    values[:, :200] = rng.integers(0, 2, (n, 200))  # a network that sorts all zeros and ones sorts everything
    ranks, out = np.arange(n), np.empty((n, kernel.TILE), np.float32)
    kernel.order_columns(values, kernel.sorting_network(n), ranks, out)
    np.testing.assert_array_equal(out, np.sort(values, axis=0))


def test_values_beyond_their_rows_critical_one_are_counted():
    values = np.array([[-3.0, 1.0], [2.5, -2.0], [0.0, 9.0]], np.float32).repeat(kernel.TILE // 2, axis=1)
    out = np.empty(kernel.TILE)
    kernel.count_beyond(values, np.array([2.0, 2.0, 10.0], np.float32), out)
    np.testing.assert_array_equal(out, np.repeat([2.0, 0.0], kernel.TILE // 2))


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_quantiles_of_columns_are_numpys(n):
    rng = np.random.default_rng(n)
    values, critical = rng.standard_normal((n, kernel.TILE)).astype(np.float32), np.full(n, 1.5, np.float32)
    out = np.empty((len(SUMMARIES), kernel.TILE))
    kernel.summarise_columns(values, critical, kernel.sorting_network(n), *quantile_ranks(n), out)
    np.testing.assert_allclose(out[:3], np.quantile(values.astype(float), [0.5, 0.25, 0.75], axis=0), atol=1e-12)
    np.testing.assert_allclose(out[3], (np.abs(values) > 1.5).mean(axis=0))
