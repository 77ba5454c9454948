"""Whose residuals vanish, and the distribution of an estimated variance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vbmstat.errors import DesignError
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.fit.leverage import (
    hc3_weights,
    leave_out,
    null_share,
    spread_of_variance,
    unestimated_blocks,
    weight_notes,
)


def basis_of(*columns):
    """Q, and what a column's coefficient is in its coordinates (1, r) each."""
    q, r = np.linalg.qr(np.column_stack(columns).astype(float))
    return q, np.linalg.inv(r)[:, None, :]


def test_a_scan_that_only_its_own_column_explains():
    n = 24
    q, on = basis_of(np.ones(n), np.linspace(20, 80, n), np.arange(n) == 7)
    starts = np.arange(n)
    assert unestimated_blocks(on[2], q, starts).tolist() == [7]
    assert unestimated_blocks(on[1], q, starts).tolist() == []
    assert unestimated_blocks(np.linalg.qr(np.vstack([on[1], on[2]]).T)[0].T, q, starts).tolist() == [7]


@pytest.mark.parametrize("distance", [1e2, 1e3])
def test_leverage_just_below_one_is_not_one(distance):
    far = np.append(np.sin(np.arange(23)), distance)
    q, on = basis_of(np.ones(24), far)
    assert (q[-1] ** 2).sum() > 0.99
    assert unestimated_blocks(on[1], q, np.arange(24)).size == 0


def test_clusters_are_unestimated_in_the_direction_that_the_model_takes_up():
    """Three visits of each of five people, a column for each person but the last: sums over a person are fitted."""
    person, time = np.repeat(np.arange(5), 3), np.tile([0.0, 1.0, 2.0], 5)
    q, on = basis_of(time, *(person == k for k in range(5)))
    starts = np.arange(0, 15, 3)
    assert unestimated_blocks(on[0], q, starts).size == 0  # inside people: deviations are left
    assert unestimated_blocks(on[1] - on[2], q, starts).tolist() == [0, 1]


def test_left_out_where_the_contrasts_are_the_program_s_refused_where_they_are_the_user_s():
    contrasts = [Contrast(name, np.eye(2)[[k]], "t") for k, name in enumerate(["age", "flag"])]
    who = [[], ["sub-07"]]
    kept, notes = leave_out(contrasts, who, "HC3", "leave it", is_default=True)
    assert kept == contrasts[:1]
    assert notes == (
        "contrast 'flag' left out: HC3 cannot estimate its variance, because the model fits sub-07 exactly (leverage 1)"
        "; leave it",
    )
    with pytest.raises(DesignError, match=r"contrast 'flag': HC3 cannot estimate .* fits sub-07 exactly"):
        leave_out(contrasts, who, "HC3", "leave it")
    with pytest.raises(DesignError, match="no contrast can be tested: contrast 'flag' left out"):
        leave_out(contrasts[1:], who[1:], "HC3", "leave it", is_default=True)
    with pytest.raises(DesignError, match="fits s0, s1, s2, s3, s4, s5 and 3 more exactly"):
        leave_out(contrasts[:1], [[f"s{i}" for i in range(9)]], "HC3", "leave it")


@pytest.mark.parametrize("df", [1, 2, 5, 15, 40, 400])
@pytest.mark.parametrize("scale", [0.5, 1.0, 30.0])
@pytest.mark.parametrize("p", [0.05, 0.001])
def test_null_share_of_a_chi2_is_that_of_t(df, scale, p):
    critical = stats.t.isf(p / 2, df) / np.sqrt(scale)
    one_term = null_share(critical, (np.array([scale / df]), np.array([float(df)])))
    many = null_share(critical, (np.full(df, scale / df), np.ones(df)))
    assert one_term == pytest.approx(p, rel=2e-4)
    assert many == pytest.approx(p, rel=2e-4)


@pytest.mark.parametrize("n", [24, 180])
def test_distribution_of_an_hc3_variance_is_that_of_simulated_residuals(n):
    rng = np.random.default_rng(n)
    q, on = basis_of(np.ones(n), np.arange(n) >= n - 3, rng.standard_normal(n))
    weights = hc3_weights(on[1, 0], q)
    form = spread_of_variance(weights, q, float((on[1] ** 2).sum()))
    y = rng.standard_normal((n, 40_000))
    variance = ((weights[:, None] * (y - q @ (q.T @ y))) ** 2).sum(axis=0)
    scales, df = form
    scaled = variance / (on[1] ** 2).sum()
    assert (scales * df).sum() == pytest.approx(scaled.mean(), rel=0.02)
    assert 2 * (scales**2 * df).sum() == pytest.approx(scaled.var(), rel=0.06)
    t = np.abs(on[1, 0] @ (q.T @ y)) / np.sqrt(variance)
    for critical in (1.5, 2.0, 3.0):
        assert null_share(critical, form) == pytest.approx((t > critical).mean(), rel=0.04)


def test_a_scan_that_dominates_by_its_weight_is_named():
    """The leverage of statsmodels: sm.WLS(y, X, weights=w).fit() has hat values whose maximum is that of the note."""
    ids, x = [f"s{i:02d}" for i in range(24)], np.linspace(20, 80, 24)
    matrix, weights = np.column_stack([np.ones(24), x]), np.ones(24)
    assert weight_notes(matrix, weights, ids) == ()
    assert weight_notes(matrix, np.random.default_rng(0).uniform(0.2, 5, 24), ids) == ()
    weights[7] = 1000
    root = np.sqrt(weights)[:, None] * matrix
    hat = np.diag(root @ np.linalg.pinv(root))
    (note,) = weight_notes(matrix, weights, ids)
    assert f"s07 (leverage {hat[7]:.2f}, 98% of the sum of the weights)" in note
    assert hat[7] > 0.9
    flag = np.column_stack([matrix, np.arange(24) == 3])
    assert weight_notes(flag, np.ones(24), ids) == ()  # the design's doing, not the weights'
    assert weight_notes(matrix, np.where(np.arange(24) == 7, np.nan, 1), ids) == ()
