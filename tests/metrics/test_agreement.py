"""Measures of agreement against known values and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from vbmstat.errors import ScanError, TableError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.metrics import agreement

GRID = Grid((8, 9, 10), np.array([[2.0, 0, 0, -8], [0, 2, 0, -8], [0, 0, 3, -12], [0, 0, 0, 1]]))
EVERYWHERE = torch.ones(GRID.shape, dtype=torch.bool)


def volume(values: np.ndarray, grid: Grid = GRID) -> Volume:
    return Volume(torch.from_numpy(values.astype(np.float32))[None], grid)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=GRID.shape)


def test_agreement_matches_scipy_and_the_definitions():
    a = np.random.default_rng(0).normal(3.0, 2.0, 400)
    b = 0.7 * a + 1.0 + np.random.default_rng(1).normal(0, 0.5, 400)
    result = agreement.agreement(a, b)
    oracle = stats.linregress(a, b)
    assert result.n == 400
    assert [result.r, result.slope, result.intercept] == pytest.approx(
        [oracle.rvalue, oracle.slope, oracle.intercept], rel=1e-12
    )
    assert result.sd_ratio == pytest.approx(b.std() / a.std())
    difference = b - a
    assert result.bias == pytest.approx(difference.mean())
    assert [result.loa_low, result.loa_high] == pytest.approx(
        [difference.mean() - 1.96 * difference.std(ddof=1), difference.mean() + 1.96 * difference.std(ddof=1)]
    )
    covariance = np.cov(a, b, ddof=0)[0, 1]
    assert result.ccc == pytest.approx(2 * covariance / (a.var() + b.var() + (a.mean() - b.mean()) ** 2))


def test_a_correlation_is_blind_to_scale_but_slope_and_concordance_are_not():
    a = np.linspace(-3, 3, 50)
    result = agreement.agreement(a, 2 * a + 1)
    assert (result.r, result.slope, result.intercept, result.sd_ratio) == pytest.approx((1, 2, 1, 2))
    assert result.ccc < 0.85
    equal = agreement.agreement(a, a)
    assert (equal.r, equal.ccc, equal.bias, equal.loa_high) == pytest.approx((1, 1, 0, 0))


def test_constant_or_few_values_have_no_correlation():
    assert np.isnan(agreement.agreement(np.ones(9), np.arange(9.0)).r)
    assert np.isnan(agreement.agreement(np.array([1.0, 2.0]), np.array([1.0, 3.0])).r)


def test_large_offsets_do_not_cost_precision():
    a = np.random.default_rng(0).normal(size=1000)
    b = a + np.random.default_rng(1).normal(size=1000)
    assert agreement.agreement(a + 1e7, b + 1e7).r == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-8)


def test_overlap_counts_signs_apart_and_levels_strictly():
    a, b = np.array([2.5, 2.5, -2.5, 0.0, 2.0]), np.array([2.5, -2.5, -2.5, 2.5, 9.0])
    assert agreement.overlap_at(a, b, 2.0) == (3, 5, 2 * 2 / 8)
    assert np.isnan(agreement.overlap_at(a, b, 10.0)[2])


def test_peaks_are_in_mm_and_may_be_negative():
    a, b = np.zeros(GRID.shape), np.zeros(GRID.shape)
    a[1, 2, 3], a[6, 6, 6] = -7.0, 5.0
    b[1, 2, 5], b[6, 7, 6] = -4.0, 6.0
    row = agreement.compare_maps(volume(a), volume(b), EVERYWHERE, EVERYWHERE)
    assert (row["peak_a"], row["peak_b"]) == (-7.0, 6.0)
    assert [row[f"peak_a_{axis}"] for axis in "xyz"] == [2 - 8, 4 - 8, 9 - 12]
    assert row["peak_distance_mm"] == pytest.approx(np.linalg.norm([10, 10, 9]))
    assert row["positive_peak_distance_mm"] == pytest.approx(2.0)
    assert row["negative_peak_distance_mm"] == pytest.approx(6.0)


def test_maps_are_compared_where_both_have_values():
    a, b = noise(0), noise(1)
    mask_a, mask_b = EVERYWHERE.clone(), EVERYWHERE.clone()
    mask_a[0], mask_b[:, 0] = False, False
    row = agreement.compare_maps(volume(a), volume(b), mask_a, mask_b)
    common = (mask_a & mask_b).numpy()
    assert (row["n_voxels_a"], row["n_voxels_b"], row["n_voxels"]) == (7 * 90, 8 * 80, 7 * 80)
    assert row["r"] == pytest.approx(np.corrcoef(a[common], b[common])[0, 1], abs=1e-6)
    with pytest.raises(ScanError, match="no voxel in common"):
        agreement.compare_maps(volume(a), volume(b), mask_a, ~mask_a)
    with pytest.raises(ScanError, match="on one grid"):
        agreement.compare_maps(volume(a), volume(b, Grid(GRID.shape, np.eye(4))), mask_a, mask_b)


def test_a_peak_outside_the_other_mask_still_counts():
    a = noise(0)
    a[0, 0, 0] = 50.0
    mask_b = EVERYWHERE.clone()
    mask_b[0, 0, 0] = False
    row = agreement.compare_maps(volume(a), volume(a), EVERYWHERE, mask_b)
    assert row["peak_a"] == 50.0
    assert row["peak_b"] < 10.0


def test_resampling_ignores_values_outside_the_mask():
    values = np.full(GRID.shape, 4.0)
    mask = EVERYWHERE.clone()
    mask[:3] = False
    values[:3] = 1e6  # must not be seen
    finer = Grid((15, 9, 10), GRID.affine @ np.diag([0.5, 1, 1, 1]))
    moved, inside = agreement.on_grid(volume(values), mask, finer)
    assert moved.data[0][inside].unique().tolist() == [4.0]
    assert inside[6:].all()
    assert not inside[:6].any()  # the sixth is half-way between voxels inside and outside


def test_one_sided_maps_are_told_from_whole_ones():
    t = noise(3).ravel()
    assert agreement.one_sided(t, t) is None
    assert agreement.one_sided(t[t > 0], t) == "a"
    assert agreement.one_sided(t, t[t < 0]) == "b"
    assert agreement.one_sided(np.abs(t), np.abs(t) * 2) is None  # an effect that is positive in both


def test_ids_are_text_and_near_misses_are_named():
    assert agreement.match_ids(["b", "a", "c"], ["a", "b"]) == ["b", "a"]
    with pytest.raises(TableError, match=r"2 would match without 'sub-' and leading zeros \('sub-01' and '1'\)"):
        agreement.match_ids(["sub-01", "sub-02"], ["2", "1"])
    with pytest.raises(TableError, match=r"no scan in common \(A: p, q; B: r\)"):
        agreement.match_ids(["p", "q"], ["r"])
