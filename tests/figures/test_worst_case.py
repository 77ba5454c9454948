"""The slices are those in which the maps differ, and the colours say in which direction."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from vbmstat.figures.mosaic import VIEWS, Image
from vbmstat.figures.scans import ORANGE, SKY_BLUE
from vbmstat.figures.worst_case import worst_case_figure, worst_slices
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

SHAPE = (40, 50, 30)
AFFINE = np.array([[2.0, 0, 0, -40], [0, 1.5, 0, -37], [0, 0, 3.0, -45], [0, 0, 0, 1]])
GRID = Grid(SHAPE, AFFINE)
LESION = (slice(8, 11), slice(30, 34), slice(20, 22))  # left, in front, above


def brain(lesion: float | None = None) -> Volume:
    """A box of grey matter around white matter, and a lesion."""
    data = np.zeros(SHAPE, np.float32)
    data[5:-5, 5:-5, 5:-5], data[12:-12, 12:-12, 9:-9] = 2, 3
    if lesion is not None:
        data[LESION] = lesion
    return Volume(torch.from_numpy(data)[None], GRID)


def figure(tissue: Volume, reference: Volume) -> Figure:
    return worst_case_figure(tissue, reference, ("ours", "theirs"), "sub-01", {"Dice of GM": "0.9"})


def rows(made: Figure) -> list[list[Axes]]:
    """Panels by row, from top to bottom."""
    n = len(made.axes) // 3
    return [made.axes[row * n : (row + 1) * n] for row in range(3)]


def picture(axes: Axes) -> np.ndarray:
    return np.asarray(axes.images[0].get_array())


def is_coloured(axes: Axes, colour: str) -> np.ndarray:
    return np.abs(picture(axes) - to_rgb(colour)).max(axis=-1) < 1e-6


def test_three_rows_of_nine_slices_of_tissue_reference_and_difference() -> None:
    made = figure(brain(1), brain())
    top, middle, bottom = rows(made)
    assert [axes.get_title()[0] for axes in top] == list("zzzyyyxxx")
    assert [axes.get_title() for axes in top] == [axes.get_title() for axes in bottom]
    assert min(picture(axes)[picture(axes) > 0].min() for axes in top) == 1
    assert min(picture(axes)[picture(axes) > 0].min() for axes in middle) == 2
    texts = [text.get_text() for text in made.texts]
    assert texts == [
        "sub-01", "Dice of GM 0.9", "ours: CSF dark, grey matter grey, white matter white", "theirs", "Difference:",
        "blue: theirs has the higher value", "orange: the lower",
    ]  # fmt: skip


@pytest.mark.parametrize(("lesion", "colour"), [(1, SKY_BLUE), (3, ORANGE)])
def test_the_colour_says_which_is_higher_and_lies_where_they_differ(lesion: int, colour: str) -> None:
    other = {SKY_BLUE: ORANGE, ORANGE: SKY_BLUE}[colour]
    n_hit = 0
    for axes in rows(figure(brain(lesion), brain()))[2]:
        found = np.argwhere(is_coloured(axes, colour))
        assert not is_coloured(axes, other).any()
        view, at = {"z": "axial", "y": "coronal", "x": "sagittal"}[axes.get_title()[0]], axes.get_title()[4:-3]
        axis, across, up = VIEWS[view][:3]
        index = (float(at.replace("−", "-")) - AFFINE[axis, 3]) / AFFINE[axis, axis]
        if not LESION[axis].start - 0.5 <= index <= LESION[axis].stop - 0.5:
            assert found.size == 0
            continue
        left, right, low, high = axes.images[0].get_extent()
        n_hit += 1
        row, column = (found.mean(axis=0) + 0.5) / picture(axes).shape[:2]
        centre = [AFFINE[i, 3] + AFFINE[i, i] * (LESION[i].start + LESION[i].stop - 1) / 2 for i in (up, across)]
        assert [low + row * (high - low), left + column * (right - left)] == pytest.approx(centre)
    assert n_hit >= 3  # one of each view


def test_half_a_class_is_half_a_colour() -> None:
    whole, half = (
        np.concatenate([picture(axes).reshape(-1, 3) for axes in rows(figure(brain(lesion), brain()))[2]])
        for lesion in (1, 1.5)
    )
    where = np.abs(whole - to_rgb(SKY_BLUE)).max(axis=-1) < 1e-6
    assert where.sum() > 10
    assert half[where] == pytest.approx((whole[where] + 0.38 * 2 / 3) / 2, abs=1e-6)  # over grey matter, dimmed


def test_slices_with_the_largest_difference_are_found_some_mm_apart() -> None:
    difference = np.zeros(SHAPE)
    difference[:, :, 4], difference[:, :, 6], difference[:, :, 20], difference[:, :, 12] = -3, 2.9, 1, 2
    content = Image(np.ones(SHAPE) * np.arange(SHAPE[2]), GRID)  # most where nothing differs
    found = worst_slices(Image(difference, GRID), content, "axial")
    assert found == [-45 + 3 * index for index in (4, 12, 20)]  # 6 is 6 mm from 4
    difference[:, :, 7] = 2.9
    assert worst_slices(Image(difference, GRID), content, "axial")[1] == -45 + 3 * 7


def test_equal_maps_are_shown_where_most_tissue_is() -> None:
    content = np.zeros(SHAPE)
    content[:, 30], content[:, 10], content[:, 44] = 3, 2, 1
    found = worst_slices(Image(np.zeros(SHAPE), GRID), Image(content, GRID), "coronal")
    assert found == pytest.approx([-37 + 1.5 * index for index in (10, 30, 44)])
    for axes in rows(figure(brain(), brain()))[2]:
        assert not is_coloured(axes, SKY_BLUE).any()
        assert not is_coloured(axes, ORANGE).any()


def test_a_mm_has_one_length_in_all_panels_and_they_do_not_overlap() -> None:
    made = figure(brain(1), brain())
    made.draw_without_rendering()
    scales = []
    for axes in made.axes:
        panel = axes.get_window_extent()
        scales += [panel.width / np.ptp(axes.get_xlim()), panel.height / np.ptp(axes.get_ylim())]
    assert scales == pytest.approx([scales[0]] * len(scales))
    for row in rows(made):
        ends = [(axes.get_window_extent().x0, axes.get_window_extent().x1) for axes in row]
        assert all(one[1] < other[0] for one, other in pairwise(ends))
        assert ends[0][0] > 0
        assert ends[-1][1] < made.get_size_inches()[0] * made.dpi
    lows = [min(axes.get_window_extent().y0 for axes in row) for row in rows(made)]
    assert lows[0] > lows[1] > lows[2] > 0


def test_the_first_panel_of_each_view_tells_its_sides() -> None:
    letters = [[text.get_text() for text in axes.texts] for axes in rows(figure(brain(1), brain()))[0]]
    assert letters == [["L", "R"], [], [], ["L", "R"], [], [], ["P", "A"], [], []]


def test_maps_on_different_grids_are_refused() -> None:
    moved = Volume(brain().data, Grid(SHAPE, np.diag([2.0, 1.5, 3.0, 1.0])))
    with pytest.raises(ValueError, match="reference: expected the grid"):
        figure(brain(), moved)
