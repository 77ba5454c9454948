"""Figures of the engines' robustness to artefacts and sensitivity to atrophy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from vbmstat.figures.scans import GREEN, SKY_BLUE
from vbmstat.figures.style import BLUE, DPI, GREY, ORANGE, PRINT_STYLE, WIDTH_INCH
from vbmstat.image.volume import Volume

_COLOURS = (BLUE, ORANGE, GREEN, SKY_BLUE, "#CC79A7", "#D55E00", GREY)
_N_COLUMNS = 5
_HEAD_FROM = 0.15  # of the 99.5th percentile
_HIGHEST_SLICE = 0.62  # of the image's height: the middle of most brains


def artefacts_figure(table: pd.DataFrame) -> Figure:
    """Dice of GM by artefact and engine: median over heads (medium open, strong filled) and range.

    Parameters
    ----------
    table : DataFrame
        Columns head, artefact, strength, engine and dice_gm; artefact none is drawn as a horizontal line.
    """
    engines = list(dict.fromkeys(table["engine"]))
    names = [artefact for artefact in dict.fromkeys(table["artefact"]) if artefact != "none"]
    width = 0.8 / (2 * len(engines))
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 3.2), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for number, engine in enumerate(engines):
            own = table[table["engine"] == engine]
            colour = _COLOURS[number % len(_COLOURS)]
            clean = own.loc[own["artefact"] == "none", "dice_gm"].astype(float)
            axes.axhline(clean.median(), color=colour, linewidth=0.7, linestyle=":")
            for at, artefact in enumerate(names):
                for side, strength in enumerate(("medium", "strong")):
                    chosen = (own["artefact"] == artefact) & (own["strength"] == strength)
                    values = own.loc[chosen, "dice_gm"].astype(float).dropna()
                    x = at - 0.4 + width * (2 * number + side + 0.5)
                    if len(values):
                        axes.plot([x, x], [values.min(), values.max()], color=colour, linewidth=0.8)
                    face = colour if side else "white"
                    axes.plot(x, values.median(), "o", markersize=4, color=colour, markerfacecolor=face)
            axes.plot([], [], "o", markersize=4, color=colour, label=engine)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("Dice of GM")
        for at in range(1, len(names)):
            axes.axvline(at - 0.5, color=GREY, linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(
            "open: medium, filled: strong, bars: range over heads, dotted: no artefact", fontsize=7, loc="left"
        )
        axes.legend(frameon=False, fontsize=7, loc="best")
    return figure


def contact_sheet(images: Sequence[tuple[str, Volume]], title: str) -> Figure:
    """The same axial slice of each image, on one grey scale.

    Parameters
    ----------
    images : sequence of (str, Volume)
        Caption and image, on one grid; the first decides slice, window and grey scale.
    title : str
        Above.
    """
    first = images[0][1].data[0].numpy()
    top = float(np.percentile(first, 99.5))
    head = first > _HEAD_FROM * top
    z = int(np.quantile(np.flatnonzero(head.any((0, 1))), _HIGHEST_SLICE))
    x, y = (slice(used.min(), used.max() + 1) for used in np.nonzero(head[:, :, z]))
    size = images[0][1].grid.voxel_size_mm
    shape = ((y.stop - y.start) * size[1]) / ((x.stop - x.start) * size[0])
    n_rows = -(-len(images) // _N_COLUMNS)
    panel = WIDTH_INCH / _N_COLUMNS
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, n_rows * (panel * shape + 0.3) + 0.3), dpi=DPI, layout="constrained")
        figure.suptitle(title, fontsize=8, fontweight="bold", parse_math=False)
        panels = figure.subplots(n_rows, _N_COLUMNS, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, (caption, image) in zip(panels, images, strict=False):
            cut = image.data[0, x, y, z].numpy().T
            axes.imshow(cut, cmap="gray", vmin=0, vmax=1.05 * top, origin="lower", aspect=size[1] / size[0])
            axes.set_title(caption, fontsize=5.5, pad=2, parse_math=False)
    return figure


def atrophy_figure(table: pd.DataFrame) -> Figure:
    """Measured against true change of GM volume (table of :mod:`vbmstat.evaluate.atrophy`): a panel per engine."""
    known = table.dropna(subset=["true_change_percent", "found_change_percent"])
    engines = list(dict.fromkeys(table["engine"]))
    both = known[["true_change_percent", "found_change_percent"]].to_numpy(float)
    low = min(float(both.min()) if both.size else 0.0, -1.0) * 1.05
    high = max(float(both.max()) if both.size else 0.0, 0.0) - 0.03 * low
    n_columns = min(len(engines), 3)
    n_rows = -(-len(engines) // n_columns)
    with rc_context(PRINT_STYLE):
        side = WIDTH_INCH / max(n_columns, 2)
        figure = Figure(figsize=(side * n_columns, side * n_rows), dpi=DPI, layout="constrained")
        panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for axes in panels[len(engines) :]:
            axes.set_axis_off()
        for number, (axes, engine) in enumerate(zip(panels, engines, strict=False)):
            axes.plot([low, high], [low, high], color="black", linewidth=0.6, linestyle="--")
            for _, part in known[known["engine"] == engine].groupby("head"):
                line = part.sort_values("true_change_percent")
                x, y = line["true_change_percent"], line["found_change_percent"]
                axes.plot(x, y, "o-", color=_COLOURS[number % len(_COLOURS)], markersize=2.5, linewidth=0.8, alpha=0.8)
            axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axes.set_title(engine, fontsize=8, parse_math=False)
            axes.spines[["top", "right"]].set_visible(False)
        figure.supxlabel("true change of GM volume (%)", fontsize=8)
        figure.supylabel("measured change (%)", fontsize=8)
    return figure
