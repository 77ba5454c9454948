"""The frequency of white-matter hypointensities over a cohort, on slices of the average brain."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vbmstat.figures.mosaic import Image, Mosaic, axis_parallel, content_box, grey_average_brain, row_of, spread_over
from vbmstat.image.volume import Volume

_COLOURS = "inferno"
_LEAST_PERCENT = 1.0  # of the scans; below, only the brain is shown


def frequency_figure(frequency: Volume, n_scans: int) -> Figure:
    """Share of the scans that have a hypointensity at each point.

    Parameters
    ----------
    frequency : Volume, (1, X, Y, Z)
        In template space, 0 to 1.
    n_scans : int
        Number of scans.

    Returns
    -------
    Figure
        Axial and coronal slices; the scale ends at the highest frequency.
    """
    brain, percent = grey_average_brain(), axis_parallel(Volume(100 * frequency.data, frequency.grid))
    box = content_box(Image(np.nan_to_num(brain.data), brain.grid))
    rows = [row_of("axial", spread_over(box[2], 7)), row_of("coronal", spread_over(box[1], 6))]
    mosaic = Mosaic(f"White-matter hypointensities, % of scans (n = {n_scans})", box, rows)
    mosaic.draw(brain)
    least = max(_LEAST_PERCENT, 50.0 / max(n_scans, 1))  # half a scan: interpolation gives no less
    scale = Normalize(0.0, max(float(percent.data.max()), least))
    for axes, cut, extent in mosaic.cuts(percent):
        shown = np.ma.masked_less(cut, least)
        axes.imshow(shown, cmap=_COLOURS, norm=scale, origin="lower", extent=extent, aspect="auto",
                    interpolation="nearest")  # fmt: skip
    mosaic.add_scale(ScalarMappable(scale, _COLOURS), "%", 0.0, False)
    return mosaic.finished()
