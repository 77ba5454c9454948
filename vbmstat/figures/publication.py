"""Publication figures of maps and tables.

Slices are in neurological order (left is left) with their MNI coordinate. A statistic is coloured symmetrically from
blue to orange, which colour-blind readers can distinguish; values below the threshold are faded, not hidden (Taylor et
al. 2023, doi:10.1016/j.neuroimage.2023.120138).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vbmstat.figures.mosaic import (
    VIEWS,
    Image,
    Mosaic,
    axis_parallel,
    colour_limit,
    content_box,
    draw_statistic,
    grey_average_brain,
    row_of,
    spread_over,
)
from vbmstat.figures.style import (
    BLUE,
    CROSS,
    DIVERGING,
    DPI,
    GREY,
    ORANGE,
    PRINT_STYLE,
    SEQUENTIAL,
    WIDTH_INCH,
    minus,
    plain,
    save_figure,
    save_png,
)
from vbmstat.figures.view import View
from vbmstat.image.volume import Volume

_TEMPLATE_BOX_MM = np.array([[-74.0, 74.0], [-108.0, 74.0], [-70.0, 84.0]])  # around the template's brain
_TEMPLATE_ROWS = (  # view and MNI coordinates (mm) of each row of slices
    row_of("axial", range(-44, 5, 8)), row_of("axial", range(12, 61, 8)),
    row_of("coronal", (-90, -66, -42, -18, 6, 30, 54)), row_of("sagittal", (-48, -26, -4, 26, 48)),
)  # fmt: skip


def stat_map_figure(
    statistic: Volume, title: str, symbol: str = "t", threshold: float = 0.0, view: View | None = None
) -> Figure:
    """A statistic or effect on slices of the average brain.

    Parameters
    ----------
    statistic : Volume, (1, X, Y, Z)
        In MNI space; 0 or NaN where nothing was estimated.
    title : str
        Title.
    symbol : str
        Label of the colour bar.
    threshold : float
        Voxels beyond ±threshold are outlined; below, opacity falls with the square of the value. 0 shows all.
    view : View, optional
        Slices, colour scale, contours, crosshair.

    Returns
    -------
    Figure
        At most 183 mm wide, with the colour bar; by default two rows of axial slices, one of coronal and one of
        sagittal ones.
    """
    view = view or View()
    image = axis_parallel(statistic)
    values = np.nan_to_num(image.data)
    one_sided = bool(values.min() >= 0.0)
    limit = view.limit or colour_limit([values], threshold)
    colours = ScalarMappable(Normalize(0.0 if one_sided else -limit, limit), SEQUENTIAL if one_sided else DIVERGING)
    rows = view.rows(_TEMPLATE_ROWS, _TEMPLATE_BOX_MM)
    mosaic = Mosaic(title if view.title is None else view.title, _TEMPLATE_BOX_MM, rows)
    mosaic.draw(grey_average_brain())
    for axes, cut, extent in mosaic.cuts(Image(values, image.grid)):
        draw_statistic(axes, cut, extent, colours, threshold)
    levels = [sign * level for level in view.contours for sign in (1, -1)]
    _mark(mosaic, Image(values, image.grid), view, levels)
    mosaic.add_scale(colours, symbol, threshold, float(np.abs(values).max()) > limit)
    return mosaic.finished()


def _mark(mosaic: Mosaic, image: Image, view: View, levels: Sequence[float], colour: str = "black") -> None:
    """Draw the contours and the crosshair of a view."""
    if view.contour_of is not None:
        other = axis_parallel(view.contour_of)
        mosaic.outline(Image(np.nan_to_num(other.data), other.grid), view.contours or (0.5,), CROSS)
    elif levels:
        mosaic.outline(image, levels, colour)
    if view.crosshair is not None:
        mosaic.cross(view.crosshair, view.passes)


def image_figure(image: Volume, title: str, view: View | None = None) -> Figure:
    """Any image (1, X, Y, Z) in grey, on slices over its field of view; an oblique one is shown along its own axes."""
    view = view or View()
    upright = axis_parallel(image)
    values = np.nan_to_num(upright.data)
    box = content_box(upright)
    rows = [("axial", 7), ("axial", 7), ("coronal", 7), ("sagittal", 5)]
    spread = {view: spread_over(box[VIEWS[view][0]], sum(n for name, n in rows if name == view)) for view in VIEWS}
    places = [row_of("axial", spread["axial"][:7]), row_of("axial", spread["axial"][7:])]
    places += [row_of(name, spread[name]) for name in ("coronal", "sagittal")]
    inside = values[values != 0]
    low = min(0.0, float(values.min()))
    high = view.limit or (float(np.percentile(inside, 99.5)) if inside.size else 1.0)
    norm = Normalize(low, high if high > low else low + 1.0)
    mosaic = Mosaic(title if view.title is None else view.title, box, view.rows(places, box), ink="white")
    for axes, cut, extent in mosaic.cuts(Image(values, upright.grid)):
        axes.imshow(cut, cmap="gray", norm=norm, origin="lower", extent=extent, interpolation="nearest", aspect="auto")
    _mark(mosaic, Image(values, upright.grid), view, view.contours, ORANGE)
    mosaic.add_scale(ScalarMappable(norm, "gray"), "", 0.0, bool(values.max() > high))
    return mosaic.finished()


def correlation_figure(correlations: pd.DataFrame) -> Figure:
    """Correlations of covariates as a heat map with numbers.

    Parameters
    ----------
    correlations : DataFrame, (p, p)
        Pearson correlations; NaN for constant columns.
    """
    names = [plain(str(name)) for name in correlations.columns]
    n = len(names)
    side = 0.6 + 0.5 * n
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(side + 1.2, side + 0.6), dpi=DPI, layout="constrained")
        axes: Axes = figure.subplots()
        axes.imshow(correlations.to_numpy(dtype=float), cmap=DIVERGING, vmin=-1, vmax=1)
        axes.set_xticks(range(n), names, rotation=45, ha="right")
        axes.set_yticks(range(n), names)
        axes.tick_params(length=0)
        for row, column in np.ndindex(n, n):
            value = correlations.iat[row, column]
            text = "–" if not np.isfinite(value) else minus(f"{round(value, 2) + 0.0:.2f}")  # no −0.00
            axes.text(column, row, text, ha="center", va="center", color="white" if abs(value) > 0.6 else "black")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


def stability_figure(
    full: np.ndarray, median: np.ndarray, quartile_range: np.ndarray, symbol: str, expected_slope: float
) -> Figure:
    """The statistic of subsets against that of all scans.

    Parameters
    ----------
    full, median, quartile_range : ndarray, (n_voxels,)
        Statistic of all scans; its median and interquartile range over the subsets.
    symbol : str
        Symbol of the statistic.
    expected_slope : float
        Expected ratio of median to full statistic for a true effect: the square root of the subsets' share of scans.
    """
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 2.7), dpi=DPI, layout="constrained")
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
        spread = pd.Series(quartile_range).groupby(which).quantile([0.25, 0.5, 0.75]).unstack()
        at = centre[spread.index]
        right.fill_between(at, spread[0.25], spread[0.75], color=BLUE, alpha=0.25, linewidth=0)
        right.plot(at, spread[0.5], color=BLUE, linewidth=1)
        right.set(xlabel=f"{symbol} of all scans", ylabel=f"quartile range of {symbol} over subsets", ylim=(0, None))
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def strips_figure(table: pd.DataFrame, marked: Sequence[bool]) -> Figure:
    """Strip plots of a table (n_scans, n_columns), one per column, each with its own axis; marked scans in colour."""
    is_marked = np.asarray(marked, dtype=bool)
    n_columns = 2
    n_rows = max(1, -(-len(table.columns) // n_columns))
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, len(table))
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 0.62 * n_rows), dpi=DPI)
        # placed by hand: a layout of matplotlib's draws everything twice
        below, above = 0.36 / n_rows, 1 - 0.25 / n_rows  # of a row: for the numbers, for the title
        places = {"left": 0.03, "right": 0.97, "bottom": below, "top": above, "hspace": 1.6, "wspace": 0.1}
        strips = figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw=places).ravel()
        for axes, name in zip(strips, table.columns, strict=False):
            values = table[name].to_numpy(dtype=float)
            axes.scatter(values[~is_marked], jitter[~is_marked], s=7, color=GREY, alpha=0.7, linewidths=0)
            axes.scatter(values[is_marked], jitter[is_marked], s=14, color=ORANGE, marker="D", linewidths=0)
            axes.axvline(np.nanmedian(values) if np.isfinite(values).any() else 0.0, color="black", linewidth=0.6)
            axes.set_title(plain(str(name)), loc="left", fontsize=7, pad=2)
            axes.set_yticks([])
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_ylim(-0.6, 0.6)
            axes.spines[["top", "right", "left"]].set_visible(False)
        for axes in strips[len(table.columns) :]:
            axes.set_axis_off()
    return figure


def save_publication(stem: Path, figure: Figure) -> list[Path]:
    """Write a figure as ``STEM.svg`` (text stays text) and ``STEM.png`` (300 dpi), atomically."""
    vector, pixels = (stem.with_name(f"{stem.name}.{form}") for form in ("svg", "png"))
    save_figure(vector, figure)
    save_png(pixels, figure)
    return [vector, pixels]
