from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from vbmstat.figures.model import design_figure, glass_brain_figure
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

GRID = Grid((19, 23, 19), np.array([[10.0, 0, 0, -90], [0, 10.0, 0, -125], [0, 0, 10.0, -70], [0, 0, 0, 1]]))


def png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_design_columns_fill_the_grey_scale():
    matrix = np.column_stack([np.ones(5), np.arange(5.0), [1e9, 2e9, 3e9, 4e9, 5e9]])
    figure = design_figure(matrix, ["Intercept", "age$", "tiv"], list("abcde"))
    shades = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shades[:, 0], 1)
    np.testing.assert_allclose(shades[:, 1], shades[:, 2])
    assert (shades[:, 1].min(), shades[:, 1].max()) == (0, 1)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["Intercept", r"age\$", "tiv"]
    assert png(figure).startswith(b"\x89PNG")


def test_many_scans_have_no_row_labels():
    figure = design_figure(np.ones((300, 1)), ["Intercept"], [str(i) for i in range(300)])
    assert figure.axes[0].get_ylabel() == "300 scans"


@pytest.mark.filterwarnings("ignore::UserWarning:nilearn")
def test_glass_brain_shows_what_exceeds_the_threshold():
    data = torch.zeros(1, *GRID.shape)
    data[0, 10, 12, 9] = 6.0
    data[0, 0, 0, 0] = float("nan")
    figure = glass_brain_figure(Volume(data, GRID), "age", 3.0)
    assert png(figure).startswith(b"\x89PNG")
    assert len(figure.axes) > 4
    nothing = glass_brain_figure(Volume(data, GRID), "age", 7.0)
    assert nothing.axes[0].texts[0].get_text() == "no voxel with |t| > 7.00 (largest 6.00)"
