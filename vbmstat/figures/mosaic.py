"""Mosaics: rows of slices of an image, all at one scale, with a colour bar.

Slices are in neurological order (left is left).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from vbmstat import assets
from vbmstat.figures.style import CROSS, DPI, PRINT_STYLE, WIDTH_INCH, Picture, minus, plain
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume

Extent = tuple[float, float, float, float]  # left, right, bottom, top
Panel = tuple[str, float]  # view, mm along the sliced axis
CLIPPED_PERCENTILE = 99.95  # colours end at this percentile of |value|
_GAP_MM = 4.0
_TOP_INCH, _LABEL_INCH = 0.26, 0.14
_BAR_INCH, _BAR_SPACE_INCH = 0.09, 1.0
_LARGEST_INCH, _LEAST_WIDTH_INCH = 2.2, 3.2  # of a slice, of a page with few of them
_CONTENT_FROM = 0.02  # of the largest absolute value
_BRAIN_FROM = 0.05  # intensity of the average brain, 0 to 1
# view -> (sliced axis, horizontal axis, vertical axis, name of the sliced axis, labels of the horizontal ends)
VIEWS = {
    "axial": (2, 0, 1, "z", ("L", "R")), "coronal": (1, 0, 2, "y", ("L", "R")), "sagittal": (0, 1, 2, "x", ("P", "A")),
}  # fmt: skip


@cache
def average_brain(voxel_size_mm: float = 1.0) -> Volume:
    """The template's T1w brain, (1, X, Y, Z), 0 to 1, skull-stripped: the background of maps."""
    brain = assets.template_brain()
    grid = brain.grid.with_voxel_size(voxel_size_mm)
    return Volume(resample(brain.data, brain.grid, grid), grid)


@dataclass(frozen=True)
class Image:
    """An image (X, Y, Z) on a grid with axes parallel to the world's."""

    data: np.ndarray
    grid: Grid

    def cut(self, view: str, at_mm: float, box_mm: np.ndarray) -> tuple[np.ndarray, Extent]:
        """The nearest slice in a box, rows from bottom to top, and its extent in mm; zeros beyond the image."""
        axis, across, up = VIEWS[view][:3]
        index = int(np.rint((at_mm - self.grid.affine[axis, 3]) / self.grid.affine[axis, axis]))
        parts, extent = [], []
        for other in (across, up):
            step, first = self.grid.affine[other, other], self.grid.affine[other, 3]
            start = int(np.clip(np.ceil((box_mm[other, 0] - first) / step), 0, self.grid.shape[other] - 1))
            stop = int(np.clip(np.floor((box_mm[other, 1] - first) / step) + 1, start + 1, self.grid.shape[other]))
            parts.append(slice(start, stop))
            extent += [first + step * (start - 0.5), first + step * (stop - 0.5)]
        if not 0 <= index < self.grid.shape[axis]:
            shape = (parts[1].stop - parts[1].start, parts[0].stop - parts[0].start)
            return np.zeros(shape, dtype=self.data.dtype), (extent[0], extent[1], extent[2], extent[3])
        whole: list[slice | int] = [slice(None)] * 3
        whole[axis], whole[across], whole[up] = index, parts[0], parts[1]
        return self.data[tuple(whole)].T, (extent[0], extent[1], extent[2], extent[3])


def axis_parallel(volume: Volume) -> Image:
    """The image with its axes made parallel to the world's: an oblique image loses its rotation."""
    size = volume.grid.voxel_size_mm
    affine = np.diag([*size, 1.0])
    centre = (np.array(volume.grid.shape) - 1) / 2
    affine[:3, 3] = volume.grid.affine[:3, :3] @ centre + volume.grid.affine[:3, 3] - size * centre
    return Image(volume.data[0].detach().cpu().numpy(), Grid(volume.grid.shape, affine))


def content_box(image: Image) -> np.ndarray:
    """Faces of the box around the values that differ clearly from zero, (3, 2), mm."""
    size = np.abs(np.nan_to_num(image.data))
    return box_of(size > _CONTENT_FROM * size.max(), image.grid)


def box_of(used: np.ndarray, grid: Grid) -> np.ndarray:
    """Faces of the box around the voxels of a mask, (3, 2), mm; the whole image if there are none."""
    box = []
    for axis in range(3):
        along = np.flatnonzero(used.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (along[0], along[-1]) if along.size else (0, grid.shape[axis] - 1)
        start, step = grid.affine[axis, 3], grid.affine[axis, axis]
        box.append([start + step * (first - 0.5), start + step * (last + 0.5)])
    return np.array(box)


def spread_over(faces_mm: np.ndarray, n: int) -> tuple[float, ...]:
    """`n` evenly spaced positions inside a range, without its ends."""
    return tuple(np.linspace(faces_mm[0], faces_mm[1], n + 2)[1:-1])


def row_of(view: str, places: Sequence[float]) -> list[Panel]:
    """A row of slices of one view."""
    return [(view, float(at)) for at in places]


class Mosaic:
    """Rows of slices at one scale, all in one pair of axes, with a colour bar at the lower right.

    Parameters
    ----------
    title : str
        Title.
    box_mm : ndarray, (3, 2)
        Field of view of the slices, mm.
    rows : sequence of sequence of (str, float)
        View and position (mm) of each slice of each row.
    ink : str
        Colour of the text on the slices.
    """

    def __init__(self, title: str, box_mm: np.ndarray, rows: Sequence[Sequence[Panel]], ink: str = "black") -> None:
        self.box = box_mm
        size = box_mm[:, 1] - box_mm[:, 0]
        widths_mm = [sum(size[VIEWS[view][1]] + _GAP_MM for view, _ in row) for row in rows]
        inch = min(  # of a mm
            WIDTH_INCH / max(widths_mm), (WIDTH_INCH - _BAR_SPACE_INCH) / widths_mm[-1], _LARGEST_INCH / max(size)
        )
        needed = max(max(widths_mm) * inch, widths_mm[-1] * inch + _BAR_SPACE_INCH)
        self.width = min(WIDTH_INCH, max(_LEAST_WIDTH_INCH, needed))
        heights_mm = [max(size[VIEWS[view][2]] for view, _ in row) + _LABEL_INCH / inch for row in rows]
        self.height = _TOP_INCH + sum(heights_mm) * inch
        self.row_inch = heights_mm[-1] * inch - _LABEL_INCH
        self.panels: list[tuple[str, float, float, float]] = []  # view, position, offsets on the page
        with rc_context(PRINT_STYLE):
            self.figure = Picture(figsize=(self.width, self.height), dpi=DPI)
            self.axes = self.figure.add_axes((0, 0, 1, 1))
            self.axes.set_axis_off()
            self.figure.text(
                0.005, 1 - 0.06 / self.height, title, va="top", fontsize=9, fontweight="bold", parse_math=False
            )
            y = sum(heights_mm)
            for row, row_mm in zip(rows, heights_mm, strict=True):
                y -= row_mm
                x, before = 0.0, ""
                for view, at in row:
                    _, across, up, letter, sides = VIEWS[view]
                    self.panels.append((view, float(at), x - box_mm[across, 0], y - box_mm[up, 0]))
                    name = minus(f"{letter} = {at:.0f}")
                    self.axes.text(x + size[across] / 2, y + size[up] + 3.0, name, fontsize=6, ha="center")
                    if view != before:
                        for side, end, align in ((sides[0], 0.0, "left"), (sides[1], size[across], "right")):
                            self.axes.text(x + end, y, side, fontsize=6, ha=align, va="bottom", color=ink)
                    x, before = x + size[across] + _GAP_MM, view
        self.limits = (0.0, self.width / inch, 0.0, self.height / inch)

    def cuts(self, image: Image) -> Iterator[tuple[Axes, np.ndarray, Extent]]:
        """Axes, slice and its extent on the page, for each panel."""
        for view, at, x, y in self.panels:
            cut, (left, right, bottom, top) = image.cut(view, at, self.box)
            yield self.axes, cut, (left + x, right + x, bottom + y, top + y)

    def draw(self, grey: Image) -> None:
        """Draw a grey-scale background in all panels; NaN is white."""
        for axes, cut, extent in self.cuts(grey):
            draw_background(axes, cut, extent)

    def outline(self, image: Image, levels: Sequence[float], colour: str = "black") -> None:
        """Draw contours of an image's values."""
        for axes, cut, extent in self.cuts(image):
            inside = sorted(level for level in set(levels) if cut.min() < level < cut.max())
            if inside:
                axes.contour(cut, levels=inside, colors=colour, linewidths=0.5, origin="lower", extent=extent)

    def cross(self, point_mm: Sequence[float], panels: Callable[[str, float], bool]) -> None:
        """Draw a crosshair in the slices of which `panels` is true."""
        for view, at, x, y in self.panels:
            if panels(view, at):
                _, across, up, *_ = VIEWS[view]
                here = point_mm[across] + x, point_mm[up] + y
                for ends in ((self.box[across] + x, [here[1]] * 2), ([here[0]] * 2, self.box[up] + y)):
                    self.axes.plot(*ends, color=CROSS, linewidth=0.4)

    def add_scale(self, colours: ScalarMappable, symbol: str, threshold: float, is_clipped: bool) -> None:
        """Add the colour bar."""
        with rc_context(PRINT_STYLE):
            bar = self.figure.add_axes((
                (self.width - 0.55 * _BAR_SPACE_INCH) / self.width, 0.12 * self.row_inch / self.height,
                _BAR_INCH / self.width, 0.7 * self.row_inch / self.height,
            ))  # fmt: skip
            fill_colour_bar(bar, colours, symbol, threshold, is_clipped)

    def finished(self) -> Figure:
        """The figure, with its axes set to scale."""
        self.axes.set_xlim(*self.limits[:2])
        self.axes.set_ylim(*self.limits[2:])
        return self.figure


@cache
def grey_average_brain() -> Image:
    """The average brain, NaN around it."""
    brain = axis_parallel(average_brain())
    return Image(np.where(brain.data > _BRAIN_FROM, brain.data, np.nan), brain.grid)


def mark_sides(axes: Axes, sides: tuple[str, str], colour: str, size: float, share: float = 1.0) -> None:
    """Write letters at the left and right end of a panel, which is the first and has this share of the axes' width."""
    for side, x, align in ((sides[0], 0.02 * share, "left"), (sides[1], 0.98 * share, "right")):
        axes.text(x, 0.02, side, color=colour, fontsize=size, ha=align, va="bottom", transform=axes.transAxes)


def draw_background(axes: Axes, cut: np.ndarray, extent: Extent) -> None:
    """Draw a slice of the average brain in grey; NaN is white."""
    axes.imshow(cut, cmap="gray", vmin=-0.6, vmax=1.05, origin="lower", extent=extent, aspect="auto",
                interpolation="nearest")  # fmt: skip


def draw_statistic(axes: Axes, cut: np.ndarray, extent: Extent, colours: ScalarMappable, threshold: float) -> None:
    """Draw a slice of a statistic over a background.

    Voxels beyond ±threshold are outlined; below, opacity falls with the square of the value. 0 shows all.
    """
    size = np.abs(cut)
    shown = colours.to_rgba(cut)  # (rows, columns, 4)
    shown[..., 3] = size > 0 if threshold <= 0 else np.clip((size / threshold) ** 2, 0.0, 1.0)
    axes.imshow(shown, origin="lower", extent=extent, interpolation="nearest", aspect="auto")
    if size.min(initial=0.0) < threshold < size.max(initial=0.0):
        axes.contour(size, levels=[threshold], colors="black", linewidths=0.35, origin="lower", extent=extent)


def colour_limit(images: Sequence[np.ndarray], threshold: float) -> float:
    """End of the colour scale of some images: near the largest absolute value, which a single voxel does not set."""
    size = np.abs(np.concatenate([image[image != 0] for image in images]))
    return max(float(np.percentile(size, CLIPPED_PERCENTILE)) if size.size else 1.0, 1.5 * threshold)


def fill_colour_bar(bar: Axes, colours: ScalarMappable, symbol: str, threshold: float, is_clipped: bool = True) -> None:
    """Draw a colour bar in its axes: the ends labelled on the right, the threshold on the left."""
    low, high = (float(value) for value in colours.get_clim())
    one_sided = low >= 0
    ends = ("max" if one_sided else "both") if is_clipped else "neither"
    scale = bar.figure.colorbar(colours, cax=bar, extend=ends)
    scale.outline.set_linewidth(0.4)
    at = [low, high] if one_sided else [low, 0.0, high]
    bar.set_yticks(at, [minus(f"{value:.3g}") for value in at], fontsize=6)
    for value in (threshold,) if one_sided else (threshold, -threshold):
        if threshold > 0:
            bar.axhline(value, color="black", linewidth=0.6)
            bar.annotate(minus(f"{value:.3g}"), (0, value), (-3, 0), xycoords=("axes fraction", "data"),
                         textcoords="offset points", ha="right", va="center", fontsize=6)  # fmt: skip
    bar.set_title(plain(symbol), fontsize=7, pad=9)
