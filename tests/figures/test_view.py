"""Which slices a picture shows, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.report.conftest import GRID, blob
from vbmstat.errors import VbmstatError
from vbmstat.figures import publication
from vbmstat.figures.style import CROSS
from vbmstat.figures.view import View
from vbmstat.image.volume import Volume

BOX = np.array([[-70.0, 70], [-100, 70], [-60, 80]])
pytestmark = pytest.mark.usefixtures("coarse_drawing")


def test_rows_are_the_cuts_wrapped():
    view = View(("z=0:40:10", "x=-30,30"), columns=3)
    letters = [["".join((view[0], f"{at:g}")) for view, at in row] for row in view.rows([], BOX)]
    assert letters == [["a0", "a10", "a20"], ["a30", "a40"], ["s-30", "s30"]]
    assert View().rows([[("axial", 1.0)]], BOX) == [[("axial", 1.0)]]
    three = View(crosshair=(1.0, 2.0, 3.0)).rows([], BOX)
    assert three == [[("sagittal", 1.0), ("coronal", 2.0), ("axial", 3.0)]]


@pytest.mark.parametrize(
    ("cuts", "options", "match"),
    [
        (("q=3",), {}, "expected an axis and mm, e.g. z=-20,0,20"), (("z=",), {}, "expected an axis and mm"),
        (("z=1:9:0",), {}, "expected an axis and mm"), (("z=81",), {}, "slice z=81: outside of the picture"),
        (("z=0",), {"crosshair": (0, 0, 9.0)}, "the crosshair at 0,0,9 is in none of the slices; add e.g. --cut z=9"),
        ((), {"limit": -1.0}, "--limit -1"), ((), {"columns": 0}, "--columns 0"),
    ],
)  # fmt: skip
def test_what_is_refused(cuts, options, match):
    with pytest.raises(VbmstatError, match=match):
        View(cuts, **options).rows([], BOX)


def statistic() -> Volume:
    return Volume(torch.from_numpy((6.0 * blob((-40, -20, 12))).astype(np.float32))[None], GRID)


def lines(figure) -> list:
    return [line for line in figure.axes[0].lines if line.get_color() == CROSS]


def test_slices_crosshair_and_contours_are_drawn():
    figure = publication.stat_map_figure(
        statistic(), "x", "t", 3.0, View(("z=0,12", "y=-20"), crosshair=(-40, -20, 12))
    )
    labels = [text.get_text() for text in figure.axes[0].texts if "=" in text.get_text()]
    assert labels == ["z = 0", "z = 12", "y = −20"]
    assert len(lines(figure)) == 4  # two slices go through the point
    plain, outlined = (
        publication.stat_map_figure(statistic(), "x", "t", 0.0, View(("z=12",), contours=contours))
        for contours in ((), (3.0,))
    )
    assert len(outlined.axes[0].collections) == len(plain.axes[0].collections) + 1
    region = Volume(torch.from_numpy(blob((20, 0, 12)).astype(np.float32))[None], GRID)
    of_other = publication.stat_map_figure(statistic(), "x", "t", 0.0, View(("z=12",), contour_of=region))
    assert len(of_other.axes[0].collections) == len(outlined.axes[0].collections)


def test_the_scale_ends_at_the_limit_and_the_title_is_the_users():
    figure = publication.stat_map_figure(statistic(), "file.nii", "t", 0.0, View(("z=12",), limit=2.5, title="Age"))
    assert figure.texts[0].get_text() == "Age"
    assert "2.5" in [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert figure.get_size_inches()[0] < publication.WIDTH_INCH / 1.5  # one slice is no page
