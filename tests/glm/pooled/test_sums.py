"""Sums of a site against sums over its scans."""

from __future__ import annotations

import numpy as np
import pytest

from tests.glm.pooled.conftest import sums_of
from vbmstat.glm.design.matrix import build_design


def test_the_sums_are_those_of_the_normal_equations(three):
    table, maps, sites = three
    rows = (table["site"] == "ulm").to_numpy()
    x = build_design("age + sex + group", table[rows], list(table["participant_id"][rows])).matrix
    y, sums = maps[rows].astype(np.float64), sites["ulm"]
    np.testing.assert_allclose(sums.factor.T @ sums.factor, x.T @ x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sums.factor.T @ sums.coordinates, x.T @ y, rtol=1e-12)
    np.testing.assert_allclose(
        (sums.coordinates**2).sum(axis=0) + sums.residual_squares, (y**2).sum(axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(np.tril(sums.factor, -1), 0, atol=1e-12)
    assert (np.diagonal(sums.factor) > 0).all()  # so that equal sums make equal files
    assert sums.means["age"] == pytest.approx(table["age"][rows].mean())
    assert sums.map_mean == pytest.approx(y.mean())


def test_order_of_the_scans_does_not_matter(three):
    table, maps, sites = three
    rows = np.flatnonzero(table["site"] == "ulm")[::-1]
    again, sums = sums_of(table.iloc[rows], maps[rows]), sites["ulm"]
    np.testing.assert_allclose(again.factor, sums.factor, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(again.coordinates, sums.coordinates, rtol=1e-7, atol=1e-9)


def test_residuals_of_a_voxel_of_tiny_variance_keep_their_digits(three):
    table, maps, sites = three
    rows = (table["site"] == "ulm").to_numpy()
    x = build_design("age + sex + group", table[rows], list(table["participant_id"][rows])).matrix
    y = maps[rows].astype(np.float64)
    expected = ((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum(axis=0)
    np.testing.assert_allclose(sites["ulm"].residual_squares, expected, rtol=1e-9)


def test_voxels_are_in_the_order_of_the_grid(three):
    index = three[2]["ulm"].space.voxel_index
    assert (np.diff(index) > 0).all()


def test_two_files_with_one_person_more_show_them(three):
    """What docs/pooling.md says of differences; the reason why limits on one file are no guarantee."""
    table, maps, _ = three
    rows = np.flatnonzero(table["site"] == "ulm")
    more, fewer = (sums_of(table.iloc[some], maps[some], "age + sex") for some in (rows, rows[1:]))
    xx = more.factor.T @ more.factor - fewer.factor.T @ fewer.factor
    xy = more.factor.T @ more.coordinates - fewer.factor.T @ fewer.coordinates
    assert xx[0, 1] == pytest.approx(table["age"].iloc[rows[0]])
    np.testing.assert_allclose(xy[0], maps[rows[0]], rtol=1e-6)
