from __future__ import annotations

import numpy as np
import pytest

from tests.preproc.group import coarse_template
from vbmstat.figures.template import template_figure
from vbmstat.image.volume import Volume


def test_each_level_has_a_row_of_the_same_slices():
    template = coarse_template()
    levels = [Volume(template.data * share, template.grid) for share in (1.0, 0.5, 0.25)]
    figure = template_figure(levels, 12)
    images = [np.asarray(image.get_array()) for image in figure.axes[0].images]
    rows = np.array([image.max() for image in images]).reshape(3, -1)
    assert rows.shape == (3, 7)
    for number, share in enumerate((1.0, 0.5, 0.25)):
        np.testing.assert_allclose(rows[number], rows[0] * share, rtol=1e-5)
    assert any("12 people" in text.get_text() for text in figure.texts)
    tops = [image.get_extent()[3] for image in figure.axes[0].images]
    assert tops[0] == pytest.approx(max(tops))  # level 0 is at the top
