"""Figures are tested on what their axes hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection, PolyCollection

from vbmstat.figures import side_by_side
from vbmstat.figures.mosaic import Image
from vbmstat.figures.side_by_side import PanelRow, agreement_figure, panels_figure, roi_figure
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.metrics import agreement

GRID = Grid((26, 32, 26), np.array([[6.0, 0, 0, -75], [0, 6, 0, -108], [0, 0, 6, -66], [0, 0, 0, 1]]))


@pytest.fixture(autouse=True)
def coarse_brain(monkeypatch):
    """An average brain of coarse voxels: the real one takes seconds to resample."""
    monkeypatch.setattr(side_by_side, "grey_average_brain", lambda: Image(np.ones(GRID.shape), GRID))


def statistic(peak_mm=(39.0, -48.0, 30.0), value=6.0):
    index = tuple(np.rint(np.linalg.solve(GRID.affine, [*peak_mm, 1.0])[:3]).astype(int))
    data = torch.full((1, *GRID.shape), torch.nan)
    data[0, 3:-3, 3:-3, 3:-3] = 0.5
    data[(0, *(slice(i - 1, i + 2) for i in index))] = 0.8 * value
    data[(0, *index)] = value
    return Volume(data, GRID)


def slices(figure):
    """Axes with a brain in them, by row from top to bottom."""
    return [axes for axes in figure.axes if axes.images]


def text_of(figure):
    return [t.get_text() for t in figure.texts] + [t.get_text() for axes in figure.axes for t in axes.texts]


def test_points_lines_and_numbers_of_agreement():
    a = np.random.default_rng(0).normal(size=200)
    b = 2 * a + 0.5 + np.random.default_rng(1).normal(0, 0.1, 200)
    found = agreement.agreement(a, b)
    figure = agreement_figure(a, b, ("CAT12", "classic"), "age", "t")
    left, right = figure.axes
    dots = next(c for c in left.collections if isinstance(c, PathCollection))
    assert np.array_equal(np.asarray(dots.get_offsets()), np.column_stack([a, b]))
    ends = left.lines[1].get_xdata()
    assert left.lines[1].get_ydata() == pytest.approx(found.intercept + found.slope * np.asarray(ends))
    assert left.get_xlim() == left.get_ylim()
    assert left.get_xlabel() == "A: CAT12 (t)"
    assert f"r = {found.r:.3f}" in left.get_title(loc="left")
    assert f"SD ratio B/A {found.sd_ratio:.3g}" in left.get_title(loc="left")
    difference = next(c for c in right.collections if isinstance(c, PathCollection))
    assert np.asarray(difference.get_offsets()) == pytest.approx(np.column_stack([(a + b) / 2, b - a]))
    assert [line.get_ydata()[0] for line in right.lines[:3]] == pytest.approx(
        [found.bias, found.loa_low, found.loa_high]
    )


def test_many_points_are_a_density_that_counts_them_all():
    a = np.random.default_rng(0).normal(size=5000)
    figure = agreement_figure(a, a, ("A", "B"), "x", "t")
    density = next(c for c in figure.axes[0].collections if isinstance(c, PolyCollection))
    assert int(np.asarray(density.get_array()).sum()) == 5000
    assert density.get_rasterized()


def test_slices_show_the_peak_where_it_is_on_the_right_side():
    groups = {"age": [PanelRow("CAT12", statistic()), PanelRow("classic", statistic(value=-6.0))]}
    figure = panels_figure(groups, "median t", slices_mm=(0.0, 30.0))
    panels = slices(figure)
    assert len(panels) == 4
    assert [axes.get_title() for axes in panels] == ["z = 0", "z = 30", "", ""]
    empty, with_peak = (axes.images[1].get_array() for axes in panels[:2])
    assert empty[..., 3].max() < 0.1
    row, column = (int(np.mean(at)) for at in np.nonzero(with_peak[..., 3] == 1.0))
    left, right, bottom, top = panels[1].images[1].get_extent()
    across = left + (column + 0.5) * (right - left) / with_peak.shape[1]
    up = bottom + (row + 0.5) * (top - bottom) / with_peak.shape[0]
    assert (across, up) == pytest.approx((39.0, -48.0), abs=3.1)
    warm = with_peak[row, column]
    cold = panels[3].images[1].get_array()[row, column]
    assert warm[0] > warm[2]
    assert cold[2] > cold[0]
    assert {"L", "R", "CAT12", "classic", "age"} <= set(text_of(figure))
    assert panels[0].get_xlim()[0] < 0 < panels[0].get_xlim()[1]  # left of the reader is left of the person


def test_a_group_shares_one_symmetric_scale():
    groups = {"age": [PanelRow("A", statistic(value=6.0)), PanelRow("B", statistic(value=-9.0))]}
    figure = panels_figure(groups, "t", slices_mm=(30.0,))
    bars = [axes for axes in figure.axes if axes.get_title() == "t"]
    assert len(bars) == 1
    low, high = bars[0].get_ylim()
    assert low == -high
    assert high == pytest.approx(0.8 * 9.0, abs=1.8)  # near the largest of both
    near_zero = slices(figure)[0].images[1].get_array()[10, 10, :3]
    assert near_zero.min() > 0.85  # the middle of the scale is white


def test_what_lies_below_the_threshold_fades_and_zero_shows_all():
    faded = slices(panels_figure({"x": [PanelRow("A", statistic())]}, "t", 2.0, (30.0,)))[0].images[1].get_array()
    assert float(faded[10, 10, 3]) == pytest.approx((0.5 / 2.0) ** 2)
    shown = slices(panels_figure({"x": [PanelRow("A", statistic())]}, "t", 0.0, (30.0,)))[0].images[1].get_array()
    assert shown[10, 10, 3] == 1.0
    assert shown[0, 0, 3] == 0.0  # outside the mask


def test_maps_on_different_grids_are_drawn_at_the_same_coordinates():
    fine = statistic().grid.with_voxel_size(3.0)
    same = Volume(resample(statistic().data.nan_to_num(), GRID, fine), fine)
    figure = panels_figure({"x": [PanelRow("A", statistic()), PanelRow("B", same)]}, "t", slices_mm=(30.0,))
    centres = []
    for axes in slices(figure):
        left, right, bottom, top = axes.images[1].get_extent()
        shown = axes.images[1].get_array()[..., 3] == 1.0
        row, column = (np.mean(at) + 0.5 for at in np.nonzero(shown))
        rows, columns = shown.shape
        centres.append((left + column * (right - left) / columns, bottom + row * (top - bottom) / rows))
    assert centres[0] == pytest.approx(centres[1], abs=1.5)


def regions(n_regions, n_scans=5):
    rows = [(f"R{i}", 10.0 * i + s, 20.0 * i + 2 * s) for i in range(n_regions) for s in range(n_scans)]
    return pd.DataFrame(rows, columns=["region", "a_ml", "b_ml"])


def test_one_panel_a_region_with_its_own_points():
    table = regions(29)
    figure = roi_figure(table, ("CAT12", "classic"), "gm")
    drawn = [axes for axes in figure.axes if axes.collections]
    assert [axes.get_title().split("\n")[0] for axes in drawn] == [f"R{i}" for i in range(29)]
    for number in (0, 28):
        dots = np.asarray(drawn[number].collections[0].get_offsets())
        assert np.array_equal(dots, table[table["region"] == f"R{number}"][["a_ml", "b_ml"]].to_numpy())
    assert drawn[3].get_title().endswith("r = 1.00")
    assert figure.get_supxlabel() == "GM volume, CAT12 (mL)"


def test_a_region_of_one_scan_has_no_r_but_a_panel():
    figure = roi_figure(regions(2, n_scans=1), ("A", "B"), "wm")
    assert figure.axes[0].get_title() == "R0\nr = n/a"
