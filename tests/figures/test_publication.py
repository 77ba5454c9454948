from __future__ import annotations

import io as bytes_io

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from tests.report.conftest import GRID, blob
from vbmstat.figures import publication
from vbmstat.figures.view import View
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume


def volume(data: np.ndarray, grid: Grid = GRID) -> Volume:
    return Volume(torch.from_numpy(data.astype(np.float32))[None], grid)


def pixels(figure: Figure) -> np.ndarray:
    stream = bytes_io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    stream.seek(0)
    return imread(stream)[..., :3]


def tint(image: np.ndarray) -> np.ndarray:
    """Red minus blue: above 0 for what is positive in a map, below for what is negative."""
    return image[..., 0] - image[..., 2]


def words(figure: Figure) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in [*axes.texts, *axes.get_yticklabels(), axes.title]}


@pytest.fixture(scope="module")
def left_positive() -> Figure:
    """A positive ball on the left at z = 12, a smaller negative one on the right."""
    values = 6.0 * blob((-40, -20, 12)) - 4.0 * blob((40, -20, 12), 9.0)
    return publication.stat_map_figure(volume(values), "a $title", "t", threshold=3.0, view=View(limit=6.0))


def panel(figure: Figure, name: str) -> np.ndarray:
    """Pixels of the slice below a label, at 100 dpi."""
    image = pixels(figure)
    axes = figure.axes[0]
    label = next(text for text in axes.texts if text.get_text() == name)
    x, y = axes.transData.transform(label.get_position()) / figure.dpi * 100
    half = 148 / (axes.get_xlim()[1] / 720) / 2  # of the 148 mm that a panel shows
    row = image.shape[0] - round(y)
    return image[row : row + round(2.4 * half), max(0, round(x - half)) : round(x + half)]


def test_left_is_left_and_positive_is_orange(left_positive) -> None:
    slice_ = tint(panel(left_positive, "z = 12"))
    middle = slice_.shape[1] // 2
    assert (slice_[:, :middle] > 0.3).sum() > 50
    assert (slice_[:, :middle] < -0.2).sum() == 0
    assert (slice_[:, middle:] < -0.3).sum() > 20
    assert (slice_[:, middle:] > 0.2).sum() == 0


def test_coordinates_sides_and_threshold_are_written(left_positive) -> None:
    written = words(left_positive)
    assert {"z = −44", "z = 60", "y = 6", "x = −48", "L", "R", "P", "A"} <= written
    assert {"−6", "6", "3", "−3"} <= written  # ends of a symmetric scale, and the threshold on both sides


def test_below_the_threshold_colours_fade_with_the_square() -> None:
    def strength(value: float) -> float:
        figure = publication.stat_map_figure(volume(value * blob((-40, -20, 12))), "", "t", 4.0, view=View(limit=8.0))
        return float(figure.axes[0].images[-1 - 26 + 8].get_array()[..., 3].max())  # the slice z = 12

    assert strength(2.0) == pytest.approx(0.25, abs=0.01)
    assert strength(5.0) == pytest.approx(1.0)


def test_a_statistic_without_negative_values_has_a_scale_from_zero() -> None:
    written = words(publication.stat_map_figure(volume(9.0 * blob((0, 0, 12))), "", "F", 5.0, view=View(limit=9.0)))
    assert {"0", "9", "5"} <= written
    assert "−9" not in written


def test_a_map_that_does_not_reach_a_slice_is_drawn_without_it() -> None:
    small = Grid((5, 5, 5), np.diag([6.0, 6.0, 6.0, 1.0]))
    figure = publication.stat_map_figure(volume(np.ones((5, 5, 5)), small), "", "t")
    assert (np.abs(tint(panel(figure, "z = −44"))) > 0.2).sum() == 0


def test_any_image_is_drawn_in_grey_on_its_own_slices() -> None:
    data = np.zeros((40, 50, 60))
    data[5:35, 10:40, 20:50] = 1.0
    figure = publication.image_figure(volume(data, Grid((40, 50, 60), np.diag([2.0, 2.0, 2.0, 1.0]))), "scan")
    heights = [float(text.get_text()[4:]) for text in figure.axes[0].texts if text.get_text().startswith("z = ")]
    assert len(heights) == 14
    assert min(heights) > 39
    assert max(heights) < 99
    assert np.abs(tint(pixels(figure))).max() < 0.02


def test_a_mosaic_is_a_file_with_text_and_a_picture_as_wide_as_a_page(tmp_path, left_positive) -> None:
    vector, picture = publication.save_publication(tmp_path / "one.two", left_positive)
    assert (vector.name, picture.name) == ("one.two.svg", "one.two.png")
    written = vector.read_text()
    assert ">a $title</text>" in written
    assert ">z = −44</text>" in written
    assert imread(picture).shape[1] == 2160  # 183 mm at 300 dpi


def test_equal_figures_are_equal_files(tmp_path) -> None:
    table = pd.DataFrame(np.eye(2), columns=["a", "b"])
    one, two = (publication.save_publication(tmp_path / n, publication.correlation_figure(table)) for n in "12")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_correlations_are_written_in_their_cells() -> None:
    table = pd.DataFrame([[1.0, -0.25], [-0.25, np.nan]], columns=["age", "a$b"])
    written = [text.get_text() for text in publication.correlation_figure(table).axes[0].texts]
    assert written == ["1.00", "−0.25", "−0.25", "–"]
    tiny = pd.DataFrame([[1.0, -1e-17], [-1e-17, 1.0]], columns=["age", "within(years)"])
    assert publication.correlation_figure(tiny).axes[0].texts[1].get_text() == "0.00"


def test_stability_shows_the_slope_and_the_spread() -> None:
    full = np.linspace(-5, 5, 2000)
    figure = publication.stability_figure(full, 0.9 * full, np.full_like(full, 2.0), "t", 0.894)
    left, right = figure.axes
    assert left.get_legend().get_texts()[0].get_text() == "slope √share = 0.89"
    assert right.lines[0].get_ydata() == pytest.approx(2.0)


def test_marked_scans_stand_out_in_the_strips() -> None:
    table = pd.DataFrame({"tiv ml": [1.0, 2.0, 3.0], "noise": [1.0, np.nan, 2.0]})
    figure = publication.strips_figure(table, [False, True, False])
    others, marked = figure.axes[0].collections
    assert others.get_offsets()[:, 0].tolist() == [1.0, 3.0]
    assert marked.get_offsets()[:, 0].tolist() == [2.0]
    assert figure.axes[0].get_title(loc="left") == "tiv ml"
