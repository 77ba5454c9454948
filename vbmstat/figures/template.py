"""The levels of a group template, one row each, on the same slices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from matplotlib.figure import Figure

from vbmstat.figures.mosaic import Mosaic, axis_parallel, content_box, row_of, spread_over
from vbmstat.image.volume import Volume

_GM_GREY = 0.6  # of WM's, as in a T1w image


def template_figure(levels: Sequence[Volume], n_people: int) -> Figure:
    """GM and WM of each level in grey, as in a T1w image.

    Parameters
    ----------
    levels : sequence of Volume, (2, X, Y, Z)
        GM and WM, from the mean of linearly aligned people to the template.
    n_people : int
        People in it.
    """
    images = [axis_parallel(Volume((_GM_GREY * one.data[:1] + one.data[1:2]).clamp(0, 1), one.grid)) for one in levels]
    box = content_box(images[0])
    views = (("axial", 2, 3), ("coronal", 1, 2), ("sagittal", 0, 2))
    row = [panel for view, axis, n in views for panel in row_of(view, spread_over(box[axis], n))]
    title = f"Template of {n_people} people: levels 0 (top) to {len(levels) - 1}"
    mosaic = Mosaic(title, box, [row] * len(levels), ink="white")
    for number, image in enumerate(images):
        start = number * len(row)
        for axes, cut, extent in islice(mosaic.cuts(image), start, start + len(row)):
            axes.imshow(cut, cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent, aspect="auto",
                        interpolation="nearest")  # fmt: skip
    return mosaic.finished()
