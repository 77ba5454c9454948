from __future__ import annotations

import numpy as np

from vbmstat.glm.fit import kernel


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
    assert kernel._compiled(len) is len
