"""Figure of two tissue maps of a scan, on the slices in which they differ most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from vbmstat.figures.mosaic import VIEWS, Image, axis_parallel, content_box, mark_sides
from vbmstat.figures.scans import BACKGROUND, ORANGE, SKY_BLUE, TEXT, caption, write_header
from vbmstat.figures.style import minus
from vbmstat.image.volume import Volume

_N_SLICES = 3  # of each view
_APART_MM = 8.0  # smallest distance between slices of a view
_MARGIN_MM = 4.0  # shown around the brain
_WIDTH_INCH, _DPI = 16.0, 200
_GAP_INCH, _LINE_INCH, _LABEL_INCH = 0.04, 0.27, 0.17
_HIGHEST = 3.0  # white matter in a tissue map
_DIMMED = 0.38  # the reference below the differences
_GREY: dict[str, Any] = {"cmap": "gray", "vmin": 0.0, "vmax": _HIGHEST}


def worst_case_figure(
    tissue: Volume, reference: Volume, names: tuple[str, str], title: str, metrics: Mapping[str, str]
) -> Figure:
    """A tissue map, its reference and their difference, on the slices that differ most.

    Parameters
    ----------
    tissue, reference : Volume, (1, X, Y, Z)
        0 background, 1 CSF, 2 GM, 3 WM, values between for partial volume; on one grid.
    names : (str, str)
        Names of the two.
    title : str
        Scan and comparison.
    metrics : mapping of str to str
        Names and values for the header, in order.

    Returns
    -------
    Figure
        3200 pixels wide at its own dpi; a row each for tissue, reference and difference, of three axial, three coronal
        and three sagittal slices in one scale. Positions are mm along the scan's own axes. Colours are full where the
        maps are one class or more apart.

    Raises
    ------
    ValueError
        If the maps are on different grids.
    """
    if not tissue.grid.matches(reference.grid):
        msg = f"reference: expected the grid {tissue.grid} of the tissue map, got {reference.grid}"
        raise ValueError(msg)
    own, true = axis_parallel(tissue), axis_parallel(reference)
    lacking = Image(true.data - own.data, true.grid)
    either = Image(np.maximum(own.data, true.data), true.grid)
    box = content_box(either) + np.array([-_MARGIN_MM, _MARGIN_MM])
    row = _Row(box, [(view, at) for view in VIEWS for at in worst_slices(lacking, either, view)])
    header = [title, "  ·  ".join(f"{name} {value}" for name, value in metrics.items())]
    figure = Figure(figsize=(_WIDTH_INCH, _LINE_INCH * (len(header) + 3.6) + 3 * row.height), dpi=_DPI)
    figure.set_facecolor(BACKGROUND)
    y = write_header(figure, header)
    y = caption(figure, y, f"{names[0]}: CSF dark, grey matter grey, white matter white", [])
    y = row.draw(figure, y, own)
    y = caption(figure, y, names[1], [])
    y = row.draw(figure, y, true)
    keys = [(f"blue: {names[1]} has the higher value", SKY_BLUE), ("orange: the lower", ORANGE)]
    y = caption(figure, y, "Difference:", keys)
    row.draw(figure, y, true, lacking)
    return figure


def worst_slices(difference: Image, content: Image, view: str) -> list[float]:
    """Positions (mm, ascending) of the slices with the largest sum of absolute differences, at least 8 mm apart.

    Ties are broken by content, so that equal images are shown too.
    """
    axis = VIEWS[view][0]
    others = tuple(other for other in range(3) if other != axis)
    step, first = difference.grid.affine[axis, axis], difference.grid.affine[axis, 3]
    sums = [np.abs(image.data).sum(others, dtype=float) for image in (content, difference)]
    chosen: list[int] = []
    for index in np.lexsort(sums)[::-1]:  # by difference, then by content
        if all(abs(index - other) * step > _APART_MM - 1e-6 for other in chosen):
            chosen.append(int(index))
    return sorted(float(first + step * index) for index in chosen[:_N_SLICES])


class _Row:
    """Slices at one scale beside one another; lengths in inches."""

    def __init__(self, box_mm: np.ndarray, slices: list[tuple[str, float]]) -> None:
        self.box, self.slices = box_mm, slices
        widths_mm = [float(np.ptp(box_mm[VIEWS[view][1]])) for view, _ in slices]
        self.inch = (_WIDTH_INCH - _GAP_INCH * (len(slices) + 1)) / sum(widths_mm)  # of a mm
        tallest_mm = max(np.ptp(box_mm[up]) for _, _, up, _, _ in VIEWS.values())
        self.height = float(self.inch * tallest_mm) + _LABEL_INCH + 2 * _GAP_INCH

    def draw(self, figure: Figure, top: float, image: Image, lacking: Image | None = None) -> float:
        """Draw a tissue map, or a reference and the difference to it, below `top`; return the lower end."""
        width, height = figure.get_size_inches()
        x, seen = _GAP_INCH, set[str]()
        for view, at in self.slices:
            _, across, up, letter, sides = VIEWS[view]
            wide, tall = (float(np.ptp(self.box[axis])) * self.inch for axis in (across, up))
            bottom = top - self.height + (self.height - _LABEL_INCH - tall) / 2
            axes = figure.add_axes((x / width, bottom / height, wide / width, tall / height))
            cut, extent = image.cut(view, at, self.box)
            shown = cut if lacking is None else _coloured(cut, lacking.cut(view, at, self.box)[0])
            axes.imshow(shown, origin="lower", extent=extent, interpolation="nearest", aspect="auto", **_GREY)
            axes.set(xlim=self.box[across], ylim=self.box[up])
            axes.set_axis_off()
            axes.set_title(minus(f"{letter} = {at:.0f} mm"), color=TEXT, fontsize=9, pad=2)
            if view not in seen:
                mark_sides(axes, sides, TEXT, 11)
            seen.add(view)
            x += wide + _GAP_INCH
        return top - self.height


def _coloured(reference: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """The reference in dim grey; blue where it is higher, orange where it is lower, (rows, columns, 3)."""
    amount = np.abs(lacking).clip(max=1.0)[..., None]
    colour = np.where(lacking[..., None] > 0, to_rgb(SKY_BLUE), to_rgb(ORANGE))
    grey = _DIMMED * (reference / _HIGHEST).clip(0.0, 1.0)[..., None]
    shown: np.ndarray = (1 - amount) * grey + amount * colour
    return shown
