from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.figures.lesions import frequency_figure
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

GRID = Grid((20, 24, 20), np.array([[9.0, 0, 0, -84], [0, 9, 0, -120], [0, 0, 9, -72], [0, 0, 0, 1]]))


@pytest.mark.parametrize("highest", [0.0, 0.4])
def test_the_scale_ends_at_the_highest_frequency(coarse_drawing, highest):
    frequency = torch.zeros(1, *GRID.shape)
    frequency[0, 6:13, 8:17, 6:14] = highest
    figure = frequency_figure(Volume(frequency, GRID), 50)
    bar = figure.axes[-1]
    assert bar.get_ylim()[1] == pytest.approx(max(100 * highest, 1.0))
    drawn = [np.ma.max(image.get_array()) for image in figure.axes[0].images if image.get_cmap().name == "inferno"]
    assert len(drawn) == 13
    assert max((value for value in drawn if value is not np.ma.masked), default=0.0) == pytest.approx(100 * highest)
