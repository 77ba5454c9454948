"""Compiled inner loops of the engine: one tile of voxels, all scans, all subsets, inside the processor's caches.

Since Q'E = 0 for full-sample residuals E and their basis Q, the sums over a subset S follow from the rows L that it
leaves out: with u = Σ_L q_i e_i, its coordinates are z = Q_S'E_S = -T'u, where T makes Q orthonormal on S, and its sum
of squares is |E_S|² = |E|² - Σ_L e_i². Where a subset keeps fewer rows than it leaves out, its own are summed instead
(`signs` is +1, else -1).

The innermost axis is always TILE voxels, so that every loop is whole vectors and a voxel's bits do not depend on its
neighbours. Rows come in fours and directions in groups of four: each loaded residual serves five sums.

Work of a tile: B · |L| · (r + 1) multiply-adds a voxel, a fifth of what all rows of 80 % subsets cost. With 500 scans,
100 subsets and r = 4, 26 million: 0.3 ms at the full rate of a 2.5 GHz core with 512-bit vectors, 0.6 ms with the 256
bits that LLVM prefers and in fact takes. Beside them the whole sample's fit (0.4 ms), contrasts (0.3) and quantiles
(0.3): wider vectors would save a tenth. With 4,017 scans the residuals (8 MB) are read from the third cache instead.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from vbmstat.maps.store import CHUNK_VOXELS as TILE

ROWS = DIRECTIONS = 4  # that one step takes together
_BLOCK = 64 * ROWS  # rows that are summed in their own precision before they go into a float64 sum
_CENTRE_ROWS = 64  # any constant near a voxel's mean will do to keep its numbers small
_LANES = 64  # columns that are sorted at a time: 100 subsets of them fit into the first cache
_ZERO, _ONE, _SMALLEST = np.float32(0), np.float32(1), np.float32(1e-30)


Array = np.ndarray
_njit = partial(njit, nogil=True, fastmath={"contract"}, error_model="numpy")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Machine code that releases the interpreter's lock; cached on disk where possible."""
    try:
        return _njit(cache=True)(function)
    except RuntimeError:  # the cache folder cannot be written: compile in every process
        return _njit()(function)


@compiled
def _add_rows(residuals: Array, basis: Array, i0: int, i1: int, i2: int, i3: int, sums: Array) -> None:
    """Add the products of four rows with the basis, and their squares, to sums (5, groups, TILE)."""
    for g in range(sums.shape[1]):
        k = g * DIRECTIONS
        a0, a1, a2, a3 = basis[i0, k], basis[i0, k + 1], basis[i0, k + 2], basis[i0, k + 3]
        b0, b1, b2, b3 = basis[i1, k], basis[i1, k + 1], basis[i1, k + 2], basis[i1, k + 3]
        c0, c1, c2, c3 = basis[i2, k], basis[i2, k + 1], basis[i2, k + 2], basis[i2, k + 3]
        d0, d1, d2, d3 = basis[i3, k], basis[i3, k + 1], basis[i3, k + 2], basis[i3, k + 3]
        for v in range(TILE):
            a, b, c, d = residuals[i0, v], residuals[i1, v], residuals[i2, v], residuals[i3, v]
            sums[0, g, v] += a0 * a + b0 * b + c0 * c + d0 * d
            sums[1, g, v] += a1 * a + b1 * b + c1 * c + d1 * d
            sums[2, g, v] += a2 * a + b2 * b + c2 * c + d2 * d
            sums[3, g, v] += a3 * a + b3 * b + c3 * c + d3 * d
            sums[4, g, v] += a * a + b * b + c * c + d * d


@compiled
def _centre_rows(
    values: Array, scale: Array, weights: Array, is_centred: bool, centre: Array, residuals: Array
) -> None:
    """Rows (values · scale - centre) · weights of a tile: (n, TILE) into `residuals` (n', TILE), zeros from n on.

    `scale` and `weights` (n,) are factors before and after centring; `centre` (TILE,) receives what is subtracted.
    """
    n = values.shape[0]
    step = max(n // _CENTRE_ROWS, 1)
    for v in range(TILE):
        centre[v] = 0
    if is_centred:
        share = scale.dtype.type(1 / ((n + step - 1) // step))
        for i in range(0, n, step):
            for v in range(TILE):
                centre[v] += values[i, v] * scale[i] * share
    for i in range(n):
        for v in range(TILE):
            residuals[i, v] = (values[i, v] * scale[i] - centre[v]) * weights[i]
    for i in range(n, residuals.shape[0]):
        for v in range(TILE):
            residuals[i, v] = 0


@compiled
def _subtract_row(residuals: Array, basis: Array, coefficients: Array, i: int) -> None:
    """Subtract row i of basis times coefficients, of which the first DIRECTIONS are used."""
    for g in range(coefficients.shape[1]):
        k = g * DIRECTIONS
        q0, q1, q2, q3 = basis[i, k], basis[i, k + 1], basis[i, k + 2], basis[i, k + 3]
        for v in range(TILE):
            residuals[i, v] -= (
                q0 * coefficients[0, g, v] + q1 * coefficients[1, g, v]
                + q2 * coefficients[2, g, v] + q3 * coefficients[3, g, v]
            )  # fmt: skip


@compiled
def subtract_rows(residuals: Array, basis: Array, coefficients: Array, factor: Array) -> None:
    """Subtract basis (n', 4 groups) times coefficients (4, groups, TILE) from `residuals`; times `factor` (TILE,)."""
    for i in range(residuals.shape[0]):
        _subtract_row(residuals, basis, coefficients, i)
        for v in range(TILE):
            residuals[i, v] *= factor[v]


@compiled
def _reduce_rows(residuals: Array, basis: Array, coefficients: Array, part: Array, totals: Array) -> None:
    """Subtract basis (n', 4 groups) times coefficients (5, groups, TILE) from `residuals` (n', TILE), and sum them.

    `totals`, zeros, float64, receives products of the new rows with the basis, and in ``totals[4]`` their sums of
    squares; `part`, zeros, is to work in; both have the shape of `coefficients`.
    """
    for i in range(0, residuals.shape[0], ROWS):
        for j in range(i, i + ROWS):
            _subtract_row(residuals, basis, coefficients, j)
        _add_rows(residuals, basis, i, i + 1, i + 2, i + 3, part)
        if i % _BLOCK == _BLOCK - ROWS or i + ROWS >= residuals.shape[0]:
            for d in range(DIRECTIONS + 1):
                for g in range(totals.shape[1]):
                    for v in range(TILE):
                        totals[d, g, v] += part[d, g, v]
                        part[d, g, v] = 0


@compiled
def fit_rows(
    values: Array, scale: Array, weights: Array, is_centred: bool, basis: Array, centre: Array, residuals: Array,
    fitted: Array, totals: Array,
) -> None:  # fmt: skip
    """Fit the whole sample: residuals of a tile on the basis, and what rounding has left of the basis in them.

    Parameters
    ----------
    values, scale, weights, is_centred, centre, residuals
        As in :func:`_centre_rows`; `residuals` receives those of the fit.
    basis : (n', 4 groups)
        Q with zeros beyond its rows and columns.
    fitted, totals : (5, groups, TILE), float64
        Receive the coordinates of the fit (the fifth is not used), and what :func:`_reduce_rows` sums over the
        residuals: coordinates of rounding, for :func:`subtract_rows`, and squares.
    """
    _centre_rows(values, scale, weights, is_centred, centre, residuals)
    coefficients, part = np.zeros(totals.shape, residuals.dtype), np.zeros(totals.shape, residuals.dtype)
    fitted[:] = 0
    for _ in range(2):  # the first time only sums
        fitted += coefficients
        totals[:] = 0
        _reduce_rows(residuals, basis, coefficients, part, totals)
        coefficients[:] = totals


def sorting_network(n: int) -> Array:
    """Pairs of places (n_pairs, 2), the lower first, whose exchange in turn sorts any n values.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 2nd ed., 5.2.2, algorithm M).
    """
    pairs = []
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p and n > 1:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@compiled
def order_columns(values: Array, pairs: Array, ranks: Array, out: Array) -> None:
    """Values of some ranks (k,) in each column of (b, TILE), into `out` (k, TILE), by a network of b places."""
    work = np.empty((values.shape[0], _LANES), values.dtype)
    for start in range(0, TILE, _LANES):
        for i in range(values.shape[0]):
            for v in range(_LANES):
                work[i, v] = values[i, start + v]
        for k in range(pairs.shape[0]):
            i, j = pairs[k, 0], pairs[k, 1]
            for v in range(_LANES):
                a, b = work[i, v], work[j, v]
                work[i, v] = a if a < b else b
                work[j, v] = b if a < b else a
        for k in range(ranks.shape[0]):
            for v in range(_LANES):
                out[k, start + v] = work[ranks[k], v]


@compiled
def count_beyond(values: Array, critical: Array, out: Array) -> None:
    """How many of the values (b, TILE) of a column are beyond plus or minus their row's critical one, (TILE,)."""
    out[:] = 0
    for i in range(values.shape[0]):
        for v in range(TILE):
            out[v] += 1 if abs(values[i, v]) > critical[i] else 0


@compiled
def summarise_columns(values: Array, critical: Array, pairs: Array, ranks: Array, shares: Array, out: Array) -> None:
    """Quantiles of each column of (b, TILE), and the share of its values beyond plus or minus `critical` (b,).

    Into `out` (q + 1, TILE), float64. Each quantile lies between two of the `ranks` (2 q,), as far from the first as
    its share (q,) says; `pairs` is the network of b places.
    """
    ordered = np.empty((ranks.shape[0], TILE), values.dtype)
    order_columns(values, pairs, ranks, ordered)
    count_beyond(values, critical, out[-1])
    for v in range(TILE):
        out[-1, v] /= values.shape[0]
    for k in range(shares.shape[0]):
        for v in range(TILE):
            low, high = np.float64(ordered[2 * k, v]), np.float64(ordered[2 * k + 1, v])
            out[k, v] = low + shares[k] * (high - low)


@compiled
def _sum_subset(residuals: Array, basis: Array, rows: Array, sums: Array) -> None:
    """Sums (5, groups, TILE) over some rows, a multiple of ROWS: products with the basis, then squares."""
    for d in range(sums.shape[0]):
        for g in range(sums.shape[1]):
            for v in range(TILE):
                sums[d, g, v] = 0
    for i in range(0, rows.shape[0], ROWS):
        _add_rows(residuals, basis, rows[i], rows[i + 1], rows[i + 2], rows[i + 3], sums)


@compiled
def _fit_subset(
    sums: Array, sign: np.float32, to_subset: Array, total: Array, per_sigma: Array, z: Array, rss: Array, least: Array
) -> None:
    """Coordinates `z` (r, TILE) and `rss` (TILE,) of a subset in units of σ, from `sums` of its rows or those left out.

    `least` (TILE,) is lowered to RSS as a share of the sum that it is taken from: digits are lost where this is small.
    """
    whole = np.float32(sign < 0)
    for v in range(TILE):
        rss[v] = (whole * total[v] + sign * sums[DIRECTIONS, 0, v]) * per_sigma[v] * per_sigma[v]
    for d in range(z.shape[0]):
        for v in range(TILE):
            z[d, v] = 0
        for k in range(z.shape[0]):
            weight = sign * to_subset[k, d]
            for v in range(TILE):
                z[d, v] += weight * sums[k % DIRECTIONS, k // DIRECTIONS, v]
        for v in range(TILE):
            z[d, v] *= per_sigma[v]
            rss[v] -= z[d, v] * z[d, v]
    for v in range(TILE):
        of = max(rss[v], whole * total[v] * per_sigma[v] * per_sigma[v])
        least[v] = min(least[v], rss[v] / max(of, _SMALLEST))


@compiled
def _contrast_in_subset(
    z: Array, variance: Array, estimate: Array, whiten: Array, on_residual: Array, is_f: bool, line: Array, out: Array
) -> None:
    """T or F of one contrast in a subset, into `out` (TILE,); `variance` is 0 or less for none, `line` to work in."""
    n_rows = estimate.shape[0]
    share = _ONE / np.float32(n_rows)
    for v in range(TILE):
        out[v] = 0
    for j in range(n_rows):
        for v in range(TILE):
            line[v] = 0
        for m in range(n_rows):
            for v in range(TILE):
                line[v] += whiten[j, m] * estimate[m, v]
        for d in range(z.shape[0]):
            for v in range(TILE):
                line[v] += on_residual[j, d] * z[d, v]
        for v in range(TILE):
            out[v] += share * line[v] * line[v] if is_f else line[v]
    for v in range(TILE):
        precision = _ONE / np.sqrt(max(variance[v], _SMALLEST)) if variance[v] > 0 else _ZERO
        out[v] *= precision * precision if is_f else precision


@compiled
def fit_subsets(
    residuals: Array, basis: Array, rows: Array, signs: Array, to_subset: Array, df: Array, floor: Array, total: Array,
    per_sigma: Array, estimate: Array, ends: Array, is_f: Array, whiten: Array, on_residual: Array, position: Array,
    variance: Array, statistic: Array, least: Array,
) -> None:  # fmt: skip
    """Statistics of a tile in all subsets.

    Parameters
    ----------
    residuals : (n', TILE), basis : (n', 4 groups)
        Residuals and Q, with rows of zeros from n on. Arrays are float32 unless another type is named.
    rows : (B, multiple of ROWS), int
        Rows to sum in each subset, filled up with rows of zeros.
    signs, df, floor : (B,)
        -1 where `rows` are those left out, else +1; residual degrees of freedom; SPM's addend to σ².
    to_subset : (B, r, r)
        T.
    total, per_sigma : (TILE,)
        The residuals' sum of squares, 1/σ.
    estimate : (M, TILE)
        Rows of all contrasts, one after the other, in the whole sample, in units of σ.
    ends : (K + 1,), int, is_f : (K,), bool
        Where each contrast's rows start and end; its kind.
    whiten : (B, M, m), on_residual : (B, M, r)
        Weights on a contrast's own rows of `estimate`, and on z.
    position : (K, B), int
        Row of each subset in a contrast's statistics, -1 where it cannot be estimated.
    variance : (B, TILE), statistic : (K, B, TILE), least : (TILE,)
        Receive σ² in units of the whole sample's, t or F, and the smallest share of a sum of squares left.
    """
    sums = np.empty((DIRECTIONS + 1, basis.shape[1] // DIRECTIONS, TILE), np.float32)
    z = np.empty((to_subset.shape[1], TILE), np.float32)
    rss, floored, line = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for v in range(TILE):
        least[v] = 1
    for b in range(rows.shape[0]):
        _sum_subset(residuals, basis, rows[b], sums)
        _fit_subset(sums, signs[b], to_subset[b], total, per_sigma, z, rss, least)
        for v in range(TILE):
            variance[b, v] = rss[v] / df[b]
            floored[v] = variance[b, v] + floor[b] * per_sigma[v] * per_sigma[v] if rss[v] > 0 else _ZERO
        for c in range(position.shape[0]):
            if position[c, b] >= 0:
                at = slice(ends[c], ends[c + 1])
                _contrast_in_subset(
                    z,
                    floored,
                    estimate[at],
                    whiten[b, at],
                    on_residual[b, at],
                    is_f[c],
                    line,
                    statistic[c, position[c, b]],
                )
