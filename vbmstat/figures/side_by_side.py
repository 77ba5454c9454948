"""Figures of two pipelines side by side: scatter and Bland–Altman plots, t-maps on the same slices, regions.

Slices are in neurological order (left is left), at the same MNI coordinates and with one colour scale for all maps of a
group; values below the threshold are faded, not hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from vbmstat.figures.mosaic import (
    Image,
    axis_parallel,
    colour_limit,
    draw_background,
    draw_statistic,
    fill_colour_bar,
    grey_average_brain,
    mark_sides,
)
from vbmstat.figures.style import BLUE, DIVERGING, DPI, GREY, ORANGE, PRINT_STYLE, WIDTH_INCH, minus, plain
from vbmstat.image.volume import Volume
from vbmstat.metrics import agreement

SLICES_MM = (-44, -30, -16, -4, 8, 20, 32, 44, 58)  # axial, from the cerebellum to the vertex
_MAX_DOTS = 2000  # more points are shown as a density
_BOX_MM = np.array([[-76.0, 76.0], [-110.0, 78.0], [-70.0, 84.0]])  # around the template's brain
_LEFT_INCH, _RIGHT_INCH, _TOP_INCH, _GAP_INCH, _TITLE_INCH = 0.75, 0.66, 0.06, 0.03, 0.32
_MANY_REGIONS = 36


@dataclass(frozen=True)
class PanelRow:
    """One row of slices."""

    name: str  # pipeline, written at the left
    volume: Volume  # (1, X, Y, Z): a statistic in MNI space, NaN (or 0) outside its mask


def agreement_figure(a: np.ndarray, b: np.ndarray, names: tuple[str, str], title: str, unit: str) -> Figure:
    """Scatter plot of B against A, and Bland–Altman plot, with the measures of agreement.

    Parameters
    ----------
    a, b : ndarray, (n,)
        Paired values; more than 2,000 are shown as a density (logarithmic).
    names : (str, str)
        Names of a and b.
    title : str
        Title.
    unit : str
        Symbol or unit of the values, at the axes.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    fit = agreement.agreement(a, b)
    low, high = _range(np.concatenate([a, b]))
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 3.5), dpi=DPI, layout="constrained")
        figure.suptitle(plain(title), fontsize=9, fontweight="bold")
        left, right = figure.subplots(1, 2)
        _cloud(left, a, b)
        ends = np.array([low, high])
        left.plot(ends, ends, color="black", linewidth=0.7, linestyle="--", label="equal")
        left.plot(ends, fit.intercept + fit.slope * ends, color=ORANGE, linewidth=1.1, label="regression of B on A")
        left.set(xlim=(low, high), ylim=(low, high), aspect="equal")
        left.set_xlabel(plain(f"A: {names[0]} ({unit})"))
        left.set_ylabel(plain(f"B: {names[1]} ({unit})"))
        left.legend(frameon=False, loc="lower right")
        sign = "+" if fit.intercept >= 0 else "−"
        numbers = f"r = {fit.r:.3f}, concordance {fit.ccc:.3f}, n = {fit.n:,}\nB = {fit.slope:.3g} A {sign} "
        _note(left, numbers + f"{abs(fit.intercept):.3g}, SD ratio B/A {fit.sd_ratio:.3g}")
        _cloud(right, (a + b) / 2, b - a)
        lines = ((fit.bias, ORANGE, "-"), (fit.loa_low, BLUE, "--"), (fit.loa_high, BLUE, "--"))
        for value, colour, style in lines:
            right.axhline(value, color=colour, linewidth=1.1, linestyle=style)
        right.axhline(0.0, color="black", linewidth=0.5)
        right.set_xlabel(plain(f"mean of A and B ({unit})"))
        right.set_ylabel(plain(f"B − A ({unit})"))
        _note(right, f"bias {fit.bias:.3g}\n95 % limits of agreement {fit.loa_low:.3g} to {fit.loa_high:.3g}")
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def panels_figure(
    groups: Mapping[str, Sequence[PanelRow]],
    symbol: str,
    threshold: float = 2.0,
    slices_mm: Sequence[float] = SLICES_MM,
) -> Figure:
    """Statistic maps of several pipelines on the same axial slices of the average brain.

    Parameters
    ----------
    groups : mapping of str to sequence of PanelRow
        Title (a variable) to its rows (one per pipeline), which share a colour scale.
    symbol : str
        Label of the colour bars.
    threshold : float
        Voxels beyond ±threshold are outlined; below, opacity falls with the square of the value. 0 shows all.
    slices_mm : sequence of float
        MNI z.
    """
    brain = grey_average_brain()
    width_mm, height_mm, _ = np.ptp(_BOX_MM, axis=1)
    panel = (WIDTH_INCH - _LEFT_INCH - _RIGHT_INCH) / len(slices_mm)
    row_inch = (panel - _GAP_INCH) * height_mm / width_mm + _GAP_INCH
    n_rows = sum(len(rows) for rows in groups.values())
    height = _TOP_INCH + len(groups) * _TITLE_INCH + n_rows * row_inch
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, height), dpi=DPI)
        y = height - _TOP_INCH
        for title, rows in groups.items():
            y -= _TITLE_INCH
            figure.text(0.005, (y + 0.16) / height, title, fontsize=8, fontweight="bold", parse_math=False)
            upright = [axis_parallel(row.volume) for row in rows]
            images = [Image(np.nan_to_num(image.data), image.grid) for image in upright]
            limit = colour_limit([image.data for image in images], threshold)
            colours = ScalarMappable(Normalize(-limit, limit), DIVERGING)
            top = y
            for number, (row, image) in enumerate(zip(rows, images, strict=True)):
                y -= row_inch
                figure.text(0.005, (y + row_inch / 2) / height, row.name, fontsize=7, va="center", parse_math=False)
                for column, z in enumerate(slices_mm):
                    x = (_LEFT_INCH + column * panel) / WIDTH_INCH
                    size = (panel - _GAP_INCH) / WIDTH_INCH, (row_inch - _GAP_INCH) / height
                    axes = figure.add_axes((x, y / height, *size))
                    axes.set_axis_off()
                    draw_background(axes, *brain.cut("axial", z, _BOX_MM))
                    draw_statistic(axes, *image.cut("axial", z, _BOX_MM), colours, threshold)
                    axes.set(xlim=_BOX_MM[0], ylim=_BOX_MM[1])
                    if number == 0:
                        axes.set_title(minus(f"z = {z:g}"), fontsize=6, pad=1.5)
                    if column == 0:
                        mark_sides(axes, ("L", "R"), "black", 6)
            span = (top - y) / height
            place = ((WIDTH_INCH - 0.46) / WIDTH_INCH, y / height + 0.16 * span, 0.08 / WIDTH_INCH, 0.6 * span)
            fill_colour_bar(figure.add_axes(place), colours, symbol, threshold)
    return figure


def roi_figure(joined: pd.DataFrame, names: tuple[str, str], tissue: str) -> Figure:
    """A scatter panel per region: its volume in B against A over scans, with r.

    Parameters
    ----------
    joined : DataFrame
        Columns region, a_ml, b_ml; a row per scan and region.
    names : (str, str)
        Names of a and b.
    tissue : str
        Named at the axes.
    """
    parts = list(joined.groupby("region", sort=False))
    n_columns = 6 if len(parts) <= _MANY_REGIONS else 8
    n_rows = -(-len(parts) // n_columns)
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 0.35 + 1.28 * n_rows * 6 / n_columns), dpi=DPI, layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes, (region, part) in zip(panels, parts, strict=False):
            _region(axes, str(region), part["a_ml"].to_numpy(float), part["b_ml"].to_numpy(float))
        for axes in panels[len(parts) :]:
            axes.set_axis_off()
        figure.supxlabel(plain(f"{tissue.upper()} volume, {names[0]} (mL)"), fontsize=8)
        figure.supylabel(plain(f"{tissue.upper()} volume, {names[1]} (mL)"), fontsize=8)
    return figure


def _region(axes: Axes, region: str, a: np.ndarray, b: np.ndarray) -> None:
    """One scatter panel."""
    low, high = _range(np.concatenate([a, b]))
    fit = agreement.agreement(a, b)
    axes.plot([low, high], [low, high], color="black", linewidth=0.5, linestyle="--")
    axes.scatter(a, b, s=5, color=BLUE, alpha=0.7, linewidths=0)
    if np.isfinite(fit.slope):
        ends = np.array([a.min(), a.max()])
        axes.plot(ends, fit.intercept + fit.slope * ends, color=ORANGE, linewidth=0.9)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    r = "r = n/a" if np.isnan(fit.r) else minus(f"r = {fit.r:.2f}")
    axes.set_title(f"{plain(region)}\n{r}", fontsize=5.5, pad=2)
    axes.tick_params(labelsize=5, length=1.5, pad=1)
    axes.locator_params(nbins=3)
    axes.spines[["top", "right"]].set_visible(False)


def _cloud(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """Points, or their density if there are many."""
    if len(x) > _MAX_DOTS:
        axes.hexbin(x, y, gridsize=90, bins="log", cmap="Greys", linewidths=0.1, mincnt=1, rasterized=True)
    else:
        axes.scatter(x, y, s=9, color=GREY, alpha=0.8, linewidths=0)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value with a margin."""
    low, high = float(values.min()), float(values.max())
    margin = 0.04 * (high - low) or 0.5
    return low - margin, high + margin


def _note(axes: Axes, text: str) -> None:
    """Numbers above a plot, where they cover nothing."""
    axes.set_title(minus(text), loc="left", fontsize=7)
