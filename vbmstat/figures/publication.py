"""Maps and tables as publication figures: pure functions that return a matplotlib Figure.

Slices are shown in neurological order (the reader's left is the person's left) with their MNI coordinate. A statistic
is coloured symmetrically from blue to orange, which colour-blind readers tell apart, and what lies below the threshold
is faded, not hidden (Taylor et al. 2023, doi:10.1016/j.neuroimage.2023.120138).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vbmstat import assets, io
from vbmstat.figures.model import BLUE, DIVERGING, GREY, ORANGE, SEQUENTIAL
from vbmstat.grid import Grid, resample
from vbmstat.volume import Volume

WIDTH_INCH = 7.2  # two columns of a journal's page (183 mm)
_PRINT_DPI = 300
_Extent = tuple[float, float, float, float]  # left, right, bottom, top
PRINT_STYLE: dict[Any, Any] = {  # in SVG text stays text, and equal figures are equal files
    "font.size": 7, "axes.linewidth": 0.6, "svg.fonttype": "none", "svg.hashsalt": "vbmstat",
}  # fmt: skip
_GAP_MM = 4.0
_TOP_INCH, _LABEL_INCH = 0.26, 0.14
_BAR_INCH, _BAR_SPACE_INCH = 0.09, 1.0
_CLIPPED_PERCENTILE = 99.95  # colours reach this percentile of |value|: one voxel must not decide them
_TEMPLATE_BOX_MM = np.array([[-74.0, 74.0], [-108.0, 74.0], [-70.0, 84.0]])  # around the template's brain
_CONTENT_FROM = 0.02  # of the largest absolute value
_BRAIN_FROM = 0.05  # intensity of the average brain, 0 to 1
# view -> (axis that is sliced, horizontal axis, vertical axis, name of the axis, labels of the horizontal ends)
_VIEWS = {
    "axial": (2, 0, 1, "z", ("L", "R")), "coronal": (1, 0, 2, "y", ("L", "R")), "sagittal": (0, 1, 2, "x", ("P", "A")),
}  # fmt: skip
_TEMPLATE_ROWS = (  # view and MNI coordinates (mm) of each row of slices
    ("axial", tuple(range(-44, 5, 8))), ("axial", tuple(range(12, 61, 8))),
    ("coronal", (-90, -66, -42, -18, 6, 30, 54)), ("sagittal", (-48, -26, -4, 26, 48)),
)  # fmt: skip


def stat_map_figure(
    statistic: Volume, title: str, symbol: str = "t", threshold: float = 0.0, limit: float | None = None
) -> Figure:
    """A statistic or effect on slices of the average brain.

    Parameters
    ----------
    statistic : Volume, (1, X, Y, Z)
        In MNI space; 0 or NaN where nothing was estimated.
    title : str
        Above the picture.
    symbol : str
        Label of the colour bar.
    threshold : float
        Voxels beyond it in absolute value are outlined; below, colours fade with the square of the value. 0 shows all.
    limit : float, optional
        Where colours end; by default near the largest absolute value.

    Returns
    -------
    Figure
        183 mm wide: two rows of axial slices, one of coronal and one of sagittal ones with the colour bar.
    """
    image = _axis_parallel(statistic)
    values = np.nan_to_num(image.data)
    one_sided = bool(values.min() >= 0.0)
    limit = limit or max(_colour_limit(values), 1.5 * threshold)
    norm = Normalize(0.0 if one_sided else -limit, limit)
    cmap = SEQUENTIAL if one_sided else DIVERGING
    mosaic = _Mosaic(title, _TEMPLATE_BOX_MM, _TEMPLATE_ROWS)
    mosaic.draw(_average_brain_in_grey())
    for axes, cut, extent in mosaic.cuts(_Image(values, image.grid)):
        size = np.abs(cut)
        colours = cmap(norm(cut))  # (rows, columns, 4)
        colours[..., 3] = size > 0 if threshold <= 0 else np.clip((size / threshold) ** 2, 0.0, 1.0)
        axes.imshow(colours, origin="lower", extent=extent, interpolation="nearest", aspect="auto")
        if size.min(initial=0.0) < threshold < size.max(initial=0.0):
            axes.contour(size, levels=[threshold], colors="black", linewidths=0.35, origin="lower", extent=extent)
    mosaic.add_scale(ScalarMappable(norm, cmap), symbol, threshold, float(np.abs(values).max()) > limit)
    return mosaic.finished()


def image_figure(image: Volume, title: str, unit: str = "") -> Figure:
    """Any image in grey on slices spread over its own field of view.

    Parameters
    ----------
    image : Volume, (1, X, Y, Z)
        RAS+; an oblique image is shown along its own axes.
    title : str
        Above the picture.
    unit : str
        Label of the grey scale.
    """
    upright = _axis_parallel(image)
    values = np.nan_to_num(upright.data)
    box = _content_box(upright)
    rows = [("axial", 7), ("axial", 7), ("coronal", 7), ("sagittal", 5)]
    spread = {view: _spread(box[_VIEWS[view][0]], sum(n for name, n in rows if name == view)) for view in _VIEWS}
    places = [(rows[0][0], spread["axial"][:7]), (rows[1][0], spread["axial"][7:])]
    places += [("coronal", spread["coronal"]), ("sagittal", spread["sagittal"])]
    inside = values[values != 0]
    low = min(0.0, float(values.min()))
    high = float(np.percentile(inside, 99.5)) if inside.size else 1.0
    norm = Normalize(low, high if high > low else low + 1.0)
    mosaic = _Mosaic(title, box, places, ink="white")
    for axes, cut, extent in mosaic.cuts(_Image(values, upright.grid)):
        axes.imshow(cut, cmap="gray", norm=norm, origin="lower", extent=extent, interpolation="nearest", aspect="auto")
    mosaic.add_scale(ScalarMappable(norm, "gray"), unit, 0.0, bool(values.max() > high))
    return mosaic.finished()


def correlation_figure(correlations: pd.DataFrame) -> Figure:
    """Correlations of covariates as a table of coloured numbers.

    Parameters
    ----------
    correlations : DataFrame, (p, p)
        Pearson correlations, rows and columns of the same names; NaN where a column does not vary.
    """
    names = [_plain(str(name)) for name in correlations.columns]
    n = len(names)
    side = 0.6 + 0.5 * n
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(side + 1.2, side + 0.6), dpi=_PRINT_DPI, layout="constrained")
        axes: Axes = figure.subplots()
        axes.imshow(correlations.to_numpy(dtype=float), cmap=DIVERGING, vmin=-1, vmax=1)
        axes.set_xticks(range(n), names, rotation=45, ha="right")
        axes.set_yticks(range(n), names)
        axes.tick_params(length=0)
        for row, column in np.ndindex(n, n):
            value = correlations.iat[row, column]
            text = "–" if not np.isfinite(value) else f"{value:.2f}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def stability_figure(
    full: np.ndarray, median: np.ndarray, low: np.ndarray, high: np.ndarray, symbol: str, expected_slope: float
) -> Figure:
    """How the statistic of subsets relates to that of all scans.

    Parameters
    ----------
    full, median, low, high : ndarray, (n_voxels,)
        Statistic of all scans; median, lower and upper quartile over the subsets.
    symbol : str
        Its symbol.
    expected_slope : float
        Median over full statistic where an effect is real: the square root of the subsets' share of scans.
    """
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 2.7), dpi=_PRINT_DPI, layout="constrained")
        left, right = figure.subplots(1, 2)
        reach = float(np.abs(full).max(initial=1.0))
        left.hexbin(full, median, gridsize=70, bins="log", cmap="Greys", linewidths=0.1, mincnt=1, rasterized=True)
        left.plot([-reach, reach], [-reach * expected_slope, reach * expected_slope], color=ORANGE, linewidth=1,
                  label=f"slope √share = {expected_slope:.2f}")  # fmt: skip
        left.set(xlabel=f"{symbol} of all scans", ylabel=f"median {symbol} over subsets")
        left.legend(frameon=False, loc="upper left")
        bins = np.linspace(-reach, reach, 41)
        centre = (bins[1:] + bins[:-1]) / 2
        which = np.clip(np.digitize(full, bins) - 1, 0, len(centre) - 1)
        spread = pd.Series(high - low).groupby(which).quantile([0.25, 0.5, 0.75]).unstack()
        at = centre[spread.index]
        right.fill_between(at, spread[0.25], spread[0.75], color=BLUE, alpha=0.25, linewidth=0)
        right.plot(at, spread[0.5], color=BLUE, linewidth=1)
        right.set(xlabel=f"{symbol} of all scans", ylabel=f"quartile range of {symbol} over subsets", ylim=(0, None))
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def strips_figure(table: pd.DataFrame, marked: Sequence[bool]) -> Figure:
    """One strip of points a column: how scans lie, with the marked ones in colour.

    Parameters
    ----------
    table : DataFrame, (n_scans, n_columns)
        Numbers; each column has its own axis.
    marked : sequence of bool
        Scans to mark.
    """
    stands_out = np.asarray(marked, dtype=bool)
    n_columns = 2
    n_rows = max(1, -(-len(table.columns) // n_columns))
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(table))
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 0.62 * n_rows), dpi=_PRINT_DPI, layout="constrained")
        strips = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, name in zip(strips, table.columns, strict=False):
            values = table[name].to_numpy(dtype=float)
            axes.scatter(values[~stands_out], jitter[~stands_out], s=7, color=GREY, alpha=0.7, linewidths=0)
            axes.scatter(values[stands_out], jitter[stands_out], s=14, color=ORANGE, marker="D", linewidths=0)
            axes.axvline(np.nanmedian(values) if np.isfinite(values).any() else 0.0, color="black", linewidth=0.6)
            axes.set_title(_plain(str(name)), loc="left", fontsize=7, pad=2)
            axes.set_yticks([])
            axes.set_ylim(-0.6, 0.6)
            axes.spines[["top", "right", "left"]].set_visible(False)
        for axes in strips[len(table.columns) :]:
            axes.set_axis_off()
    return figure


def save_publication(stem: Path, figure: Figure) -> list[Path]:
    """Write a figure as SVG (text stays text) and as PNG (300 dpi), whole or not at all.

    Parameters
    ----------
    stem : Path
        Path without suffix.
    """
    vector, pixels = (stem.with_name(f"{stem.name}.{form}") for form in ("svg", "png"))
    with io.atomic_path(vector) as temporary, rc_context(PRINT_STYLE):
        figure.savefig(
            temporary, format="svg", dpi=_PRINT_DPI, facecolor="white", metadata={"Date": None, "Creator": "vbmstat"}
        )
    save_png(pixels, figure)
    return [vector, pixels]


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure as PNG at 300 dpi, whole or not at all."""
    with io.atomic_path(path) as temporary, rc_context(PRINT_STYLE):
        figure.savefig(
            temporary, format="png", dpi=_PRINT_DPI, facecolor="white", metadata={"Software": "vbmstat"},
            pil_kwargs={"compress_level": 4},
        )  # fmt: skip


@cache
def average_brain(voxel_size_mm: float = 1.0) -> Volume:
    """The template's T1w brain, (1, X, Y, Z), 0 to 1, without skull: what maps are laid over."""
    brain = assets.template_brain()
    grid = brain.grid.with_voxel_size(voxel_size_mm)
    return Volume(resample(brain.data, brain.grid, grid), grid)


@dataclass(frozen=True)
class _Image:
    """An image whose axes are parallel to those of the world."""

    data: np.ndarray  # (X, Y, Z)
    grid: Grid

    def cut(self, view: str, at_mm: float, box_mm: np.ndarray) -> tuple[np.ndarray, _Extent]:
        """The nearest slice inside a box, as rows from bottom to top, and its extent in mm; zeros beyond the image."""
        axis, across, up = _VIEWS[view][:3]
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


def _axis_parallel(volume: Volume) -> _Image:
    """The image with its axes taken for those of the world; an oblique one loses its rotation."""
    size = volume.grid.voxel_size_mm
    affine = np.diag([*size, 1.0])
    centre = (np.array(volume.grid.shape) - 1) / 2
    affine[:3, 3] = volume.grid.affine[:3, :3] @ centre + volume.grid.affine[:3, 3] - size * centre
    return _Image(volume.data[0].detach().cpu().numpy(), Grid(volume.grid.shape, affine))


def _content_box(image: _Image) -> np.ndarray:
    """Faces of the box around what stands out from zero, (3, 2), mm."""
    size = np.abs(np.nan_to_num(image.data))
    used = size > _CONTENT_FROM * size.max()
    box = []
    for axis in range(3):
        along = np.flatnonzero(used.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (along[0], along[-1]) if along.size else (0, image.grid.shape[axis] - 1)
        start, step = image.grid.affine[axis, 3], image.grid.affine[axis, axis]
        box.append([start + step * (first - 0.5), start + step * (last + 0.5)])
    return np.array(box)


def _spread(faces_mm: np.ndarray, n: int) -> tuple[float, ...]:
    """`n` positions inside a range, none at its ends."""
    return tuple(np.linspace(faces_mm[0], faces_mm[1], n + 2)[1:-1])


def _colour_limit(values: np.ndarray) -> float:
    size = np.abs(values[values != 0])
    return float(np.percentile(size, _CLIPPED_PERCENTILE)) if size.size else 1.0


class _Mosaic:
    """Rows of slices in one scale of mm, all in one pair of axes, with a colour scale at the lower right.

    Parameters
    ----------
    title : str
        Above the picture.
    box_mm : ndarray, (3, 2)
        What each slice shows, mm.
    rows : sequence of (str, sequence of float)
        View and positions (mm) of each row.
    ink : str
        Colour of what is written on the slices.
    """

    def __init__(
        self, title: str, box_mm: np.ndarray, rows: Sequence[tuple[str, Sequence[float]]], ink: str = "black"
    ) -> None:
        self.box = box_mm
        size = box_mm[:, 1] - box_mm[:, 0]
        widths_mm = [len(places) * (size[_VIEWS[view][1]] + _GAP_MM) for view, places in rows]
        inch = min(WIDTH_INCH / max(widths_mm), (WIDTH_INCH - _BAR_SPACE_INCH) / widths_mm[-1])  # of a mm
        heights_mm = [size[_VIEWS[view][2]] + _LABEL_INCH / inch for view, _ in rows]
        self.height = _TOP_INCH + sum(heights_mm) * inch
        self.row_inch = size[_VIEWS[rows[-1][0]][2]] * inch
        self.panels: list[tuple[str, float, float, float]] = []  # view, position, and where it goes on the page
        with rc_context(PRINT_STYLE):
            self.figure = Figure(figsize=(WIDTH_INCH, self.height), dpi=_PRINT_DPI)
            self.axes = self.figure.add_axes((0, 0, 1, 1))
            self.axes.set_axis_off()
            self.figure.text(
                0.005, 1 - 0.06 / self.height, title, va="top", fontsize=9, fontweight="bold", parse_math=False
            )
            y = sum(heights_mm)
            for (view, places), row_mm in zip(rows, heights_mm, strict=True):
                _, across, up, letter, sides = _VIEWS[view]
                y -= row_mm
                for number, at in enumerate(places):
                    x = number * (size[across] + _GAP_MM)
                    self.panels.append((view, float(at), x - box_mm[across, 0], y - box_mm[up, 0]))
                    name = f"{letter} = {at:.0f}".replace("-", "−")
                    self.axes.text(x + size[across] / 2, y + size[up] + 3.0, name, fontsize=6, ha="center")
                for side, x, align in ((sides[0], 0.0, "left"), (sides[1], size[across], "right")):
                    self.axes.text(x, y, side, fontsize=6, ha=align, va="bottom", color=ink)
        self.limits = (0.0, WIDTH_INCH / inch, 0.0, self.height / inch)

    def cuts(self, image: _Image) -> Iterator[tuple[Axes, np.ndarray, _Extent]]:
        """Axes, slice and its extent on the page, for each panel."""
        for view, at, x, y in self.panels:
            cut, (left, right, bottom, top) = image.cut(view, at, self.box)
            yield self.axes, cut, (left + x, right + x, bottom + y, top + y)

    def draw(self, grey: _Image) -> None:
        """Lay a picture of grey values under all panels; NaN is left white."""
        for axes, cut, extent in self.cuts(grey):
            axes.imshow(cut, cmap="gray", vmin=-0.6, vmax=1.05, origin="lower", extent=extent, aspect="auto",
                        interpolation="nearest")  # fmt: skip

    def add_scale(self, colours: ScalarMappable, symbol: str, threshold: float, is_clipped: bool) -> None:
        """The colour scale: its ends on the right, the threshold on the left."""
        low, high = (float(value) for value in colours.get_clim())
        one_sided = low >= 0
        with rc_context(PRINT_STYLE):
            bar = self.figure.add_axes((
                (WIDTH_INCH - 0.55 * _BAR_SPACE_INCH) / WIDTH_INCH, 0.12 * self.row_inch / self.height,
                _BAR_INCH / WIDTH_INCH, 0.7 * self.row_inch / self.height,
            ))  # fmt: skip
            ends = ("max" if one_sided else "both") if is_clipped else "neither"
            scale = self.figure.colorbar(colours, cax=bar, extend=ends)
            scale.outline.set_linewidth(0.4)
            at = [low, high] if one_sided else [low, 0.0, high]
            bar.set_yticks(at, [_tick(value) for value in at], fontsize=6)
            for value in (threshold,) if one_sided else (threshold, -threshold):
                if threshold > 0:
                    bar.axhline(value, color="black", linewidth=0.6)
                    bar.annotate(_tick(value), (0, value), (-3, 0), xycoords=("axes fraction", "data"),
                                 textcoords="offset points", ha="right", va="center", fontsize=6)  # fmt: skip
            bar.set_title(_plain(symbol), fontsize=7, pad=9)

    def finished(self) -> Figure:
        """The figure in its scale, whatever was drawn."""
        self.axes.set_xlim(*self.limits[:2])
        self.axes.set_ylim(*self.limits[2:])
        return self.figure


@cache
def _average_brain_in_grey() -> _Image:
    brain = _axis_parallel(average_brain())
    return _Image(np.where(brain.data > _BRAIN_FROM, brain.data, np.nan), brain.grid)


def _tick(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")


def _plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")
