"""Random field theory against nipy 0.6.1 (densities, heights, p) and SPM's formulas worked out apart (extents)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from vbmstat.glm.inference.random_field import (
    Field,
    SearchVolume,
    expected_extent,
    extent_threshold,
    height_threshold,
    p_extent,
    p_height,
    p_peak_above,
    p_set,
)
from vbmstat.glm.inference.resels import resel_counts

RESELS = {"A": [1, 20, 150, 600], "B": [1, 30, 300, 1500], "D": [1, 10, 40, 100]}
Z, F3_50 = Field("z"), Field("F", 50, 3)


def search(name, n_voxels=10**12, sides=1):
    return SearchVolume(np.array(RESELS[name], float), n_voxels, sides)


NIPY = pd.read_csv(Path(__file__).with_name("nipy_rft.tsv"), sep="\t")
BOX = np.ones((40, 50, 60), bool)  # of the thresholds and p in the table


def of_nipy(what):
    """Rows of a kind: the field, the FWHM, where, and nipy's value."""
    for row in NIPY[NIPY["what"] == what].itertuples():
        yield Field(row.kind, row.df, row.df_contrast), (row.fwhm_x, row.fwhm_y, row.fwhm_z), row.at, row.value


@pytest.mark.parametrize("d", range(4))
def test_densities_of_nipy(d):
    mine, theirs = zip(*[(field.densities(u)[d], value) for field, _, u, value in of_nipy(f"density{d}")], strict=True)
    assert len(mine) == 87
    np.testing.assert_allclose(mine, theirs, rtol=1e-8)


@pytest.mark.parametrize("fwhm", [(3, 3, 3), (5, 6, 8), (12, 12, 12)])
def test_thresholds_and_p_of_nipy(fwhm):
    """Resel counts of a box, heights at p = .05 and .01, and p of heights."""
    box = SearchVolume(resel_counts(BOX, fwhm), 10**12)
    found = [(height_threshold(field, box, at), value) for field, f, at, value in of_nipy("threshold") if f == fwhm]
    assert len(found) == 54
    np.testing.assert_allclose(*zip(*found, strict=True), rtol=1e-5)
    found = [(p_height(field, at, box), value) for field, f, at, value in of_nipy("p") if f == fwhm]
    mine, theirs = np.array(found).T
    rising = mine < 1  # below the height of the largest E[EC], p is 1
    assert rising.sum() > 30
    np.testing.assert_allclose(mine[rising], theirs[rising], rtol=1e-5)


@pytest.mark.parametrize(
    ("field", "height", "densities"),
    [
        (Field("t", 50), 5.0, [3.7166061e-6, 1.2853666e-5, 4.2479410e-5, 1.3329089e-4]),
        (Field("t", 20), 4.0, [3.517616e-4, 9.958044e-4, 2.6131264e-3, 6.2397615e-3]),
        (Z, 4.5, [3.3976731e-6, 1.0617719e-5, 3.1739241e-5, 9.0191902e-5]),
        (F3_50, 12.0, [4.9172355e-6, 1.8820015e-5, 6.8997521e-5, 2.4087336e-4]),
    ],
)
def test_densities(field, height, densities):
    np.testing.assert_allclose(field.densities(height), densities, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "p", "heights"),
    [
        ("A", 0.05, [6.59748, 5.18106, 4.83551, 4.63053]),
        ("A", 0.01, [7.59377, 5.72732, 5.28914, 5.03271]),
        ("B", 0.05, [7.14493, 5.48603, 5.09002, 4.85690]),
        ("B", 0.01, [8.17046, 6.02180, 5.52816, 5.24146]),
        ("D", 0.05, [5.56888, 4.56588, 4.31050, 4.15668]),
        ("D", 0.01, [6.52336, 5.14185, 4.80343, 4.60238]),
    ],
)
def test_heights_of_t(name, p, heights):
    mine = [height_threshold(Field("t", df), search(name), p) for df in (20, 50, 100, 300)]
    np.testing.assert_allclose(mine, heights, atol=6e-6)


def test_heights_of_z_and_f():
    mine = [height_threshold(field, search(name)) for name in "ABD" for field in (Z, F3_50)]
    np.testing.assert_allclose(mine[:4] + mine[4:5], [4.53475, 13.58120, 4.74844, 14.91483, 4.08417], atol=6e-6)


@pytest.mark.parametrize(("name", "df", "height"), [("A", 50, 5.189805), ("B", 100, 5.097098), ("D", 20, 5.583688)])
def test_heights_where_a_twentieth_is_expected(name, df, height):
    """E[EC] = .05, without Poisson's clumping (nipy; SurfStat's stat_threshold in BrainStat to 5e-4)."""
    mine = optimize.brentq(lambda u: search(name).expected_ec(Field("t", df), u) - 0.05, 3, 9)
    assert mine == pytest.approx(height, abs=1e-6)


@pytest.mark.parametrize(
    ("field", "fwhm", "height"),
    [(Field("t", 8), 15, 3.785605325), (Field("t", 20), 10, 3.229317304), (Field("F", 8, 2), 15, 14.649013)],
)
def test_heights_along_a_line(field, fwhm, height):
    """rft1d 0.2.8: isf(.05) of a curve of 101 nodes."""
    line = SearchVolume(np.array([1, 100 / fwhm, 0, 0]), 10**12)
    assert height_threshold(field, line) == pytest.approx(height, abs=1e-6)


def test_p_of_heights():
    assert p_height(Field("t", 50), 5.0, search("A")) == pytest.approx(0.08296279, rel=1e-6)
    assert p_height(Z, 4.5, search("A")) == pytest.approx(0.05737975, rel=1e-6)


def test_bonferroni_where_it_is_smaller():
    few = search("A", n_voxels=100)
    field = Field("t", 50)
    assert p_height(field, 4.0, few) == pytest.approx(100 * stats.t.sf(4.0, 50))
    assert height_threshold(field, few) == pytest.approx(stats.t.isf(0.05 / 100, 50), rel=1e-9)


def test_two_sides_are_two_searches():
    field = Field("t", 50)
    one, two = search("B"), search("B", sides=2)
    assert two.expected_ec(field, 5.0) == pytest.approx(2 * one.expected_ec(field, 5.0))
    assert height_threshold(field, two) == pytest.approx(
        height_threshold(field, one, -np.expm1(np.log(0.95) / 2)), 1e-6
    )


@pytest.mark.parametrize(
    ("name", "df", "size", "p_unc", "p_fwe"),
    [("A", 50, 2.0, 1.55112e-4, 1.0341e-3), ("B", 300, 1.0, 6.14725e-3, 0.0849), ("D", 20, 1.5, None, 3.18156e-4)],
)
def test_extents(name, df, size, p_unc, p_fwe):
    field = Field("t", df)
    uncorrected, corrected = p_extent(field, field.height(0.001), size, search(name))
    assert corrected == pytest.approx(p_fwe, rel=2e-5)
    if p_unc:
        assert uncorrected == pytest.approx(p_unc, rel=5e-6)


@pytest.mark.parametrize(("df", "size"), [(50, 0.102345), (300, 0.115701), (20, 0.081091)])
def test_expected_extent(df, size):
    field = Field("t", df)
    assert expected_extent(field, field.height(0.001)) == pytest.approx(size, abs=1e-6)


@pytest.mark.parametrize(("name", "df", "size"), [("A", 50, 0.826868), ("B", 100, 1.124357), ("D", 20, 0.377968)])
def test_critical_extent(name, df, size):
    field = Field("t", df)
    assert extent_threshold(field, field.height(0.001), search(name)) == pytest.approx(size, abs=1e-6)


def test_a_mask_with_holes():
    """Cavities and tunnels make R_0 and R_1 negative, and E[EC] at low heights: p stays a p and falls with height."""
    holes = SearchVolume(np.array([-8.0, -18.5, 260.0, 158.0]), 429_353, 2)
    heights = np.linspace(0, 12, 2000)
    p = p_height(Field("t", 7), heights, holes)
    assert (p[heights < 0.5] == 1).all()
    assert ((p >= 0) & (p <= 1)).all()
    assert (np.diff(p) <= 1e-12).all()
    assert (np.diff(p)[p[:-1] < 0.9] < 0).all()
    _, corrected = p_extent(Field("t", 7), 0.05, np.array([0.1, 5.0]), holes)
    assert ((corrected >= 0) & (corrected <= 1)).all()


def test_clusters_of_a_sheet_with_holes():
    """Its E[EC] is negative; no cluster or peak may be significant for that."""
    sheet = np.zeros((41, 41, 3), bool)
    sheet[:, :, 1] = True
    solid = SearchVolume(resel_counts(sheet, (12, 12, 12)), int(sheet.sum()), 2)
    sheet[1::2, 1::2, 1] = False
    field, holes = Field("t", 50), SearchVolume(resel_counts(sheet, (12, 12, 12)), int(sheet.sum()), 2)
    u = field.height(0.001)
    assert holes.expected_ec(field, u) < 0
    assert holes.expected_clusters(field, u) >= solid.expected_clusters(field, u) > 0.1
    assert (p_extent(field, u, np.array([0.0, 0.01]), holes)[1] > 0.3).all()
    assert p_set(field, u, 1, 0.0, holes) > 0.3
    p = p_peak_above(field, np.array([u, 4.0, 5.0]), u, holes)
    assert p == pytest.approx(p_peak_above(field, np.array([u, 4.0, 5.0]), u, solid), rel=0.6)
    assert p[0] == 1


@pytest.mark.parametrize("field", [Field("t", 1), Field("t", 2), Field("F", 1, 3), Field("F", 2, 2)])
@pytest.mark.parametrize("resels", [[1, 0, 0, 0], [1, 20, 150, 600]])
def test_few_degrees_of_freedom_and_volumes_without_extent(field, resels):
    one = SearchVolume(np.array(resels, float), 5000, 1)
    height = height_threshold(field, one)
    assert p_height(field, height, one) == pytest.approx(0.05, rel=1e-4)
    assert p_height(field, height * 1.1, one) < 0.05


def test_any_cluster_is_significant_where_none_is_expected():
    assert extent_threshold(Z, 7.0, search("D")) == 0


def test_expected_clusters():
    field = Field("t", 50)
    assert field.height(0.001) == pytest.approx(3.26141, abs=1e-5)
    assert search("A").expected_clusters(field, field.height(0.001)) == pytest.approx(6.67028, rel=1e-6)


def test_peaks_above_a_height():
    field = Field("t", 50)
    mine = p_peak_above(field, np.array([4.0, 5.0, 6.0]), field.height(0.001), search("A"))
    np.testing.assert_allclose(mine, [0.190062, 0.0129841, 6.53204e-4], rtol=5e-6)


def test_a_set_of_one_cluster_is_its_extent():
    field = Field("t", 50)
    forming = field.height(0.001)
    _, corrected = p_extent(field, forming, 2.0, search("A"))
    assert p_set(field, forming, 1, 2.0, search("A")) == pytest.approx(corrected, rel=1e-10)
    assert p_set(field, forming, 3, 0.0, search("A")) == pytest.approx(stats.poisson.sf(2, 6.67028), rel=1e-5)
