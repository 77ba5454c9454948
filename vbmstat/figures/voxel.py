"""The figure of one voxel or region: adjusted data with the fitted line or means, and residuals against the fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure

from vbmstat.figures.style import BLUE, DPI, GREY, ORANGE, PRINT_STYLE, WIDTH_INCH, plain
from vbmstat.tables.cells import sorted_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vbmstat.glm.voxel import VoxelFit

Colour = str | tuple[float, float, float, float]
Colours = dict[str, Colour]
_COLOURS: tuple[Colour, ...] = (
    BLUE,
    ORANGE,
    *(colormaps["Dark2"](i) for i in (0, 3, 5, 2)),
)  # Dark2's are also told apart
_MOST_COLOURS = 12  # with more groups, points are grey
_NAMED = 3  # scans named in the figure
_JITTER = 0.18  # of the distance between levels
_MANY_LEVELS = 5  # whose names are turned


def voxel_figure(fit: VoxelFit, place: str, response: str, unit: str = "") -> Figure:
    """Adjusted data and fit of a contrast at one place, and residuals; the most influential scans are named.

    Parameters
    ----------
    fit : VoxelFit
        The numbers.
    place, response : str
        Where it is; what was measured, with its unit.
    unit : str
        Of the covariate on the axis.
    """
    with rc_context(PRINT_STYLE):
        figure = Figure(figsize=(WIDTH_INCH, 3.6), dpi=DPI, layout="constrained")
        figure.suptitle(plain(place), fontsize=9, fontweight="bold")
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        groups = sorted_labels(set(fit.scans["group"]) | set(fit.line["group"]) - {""})
        colours = {group: _colour(at, len(groups)) for at, group in enumerate(groups)}
        adjusted, fitted, residual = (fit.scans[name].to_numpy() for name in ("adjusted", "fitted", "residual"))
        (_levels if fit.is_factor or not fit.covariate else _lines)(left, fit, colours)
        along = _along(fit)
        _join_people(left, along, adjusted, fit.scans["participant_id"])
        _points(left, along, adjusted, fit.scans, colours)
        left.set_title(plain(f"{fit.contrast}: {fit.result}"), fontsize=7)
        left.set_xlabel(plain(f"{fit.covariate}{f' ({unit})' if unit else ''}"))
        held = f"\nadjusted for {_listed(fit.adjusted_for)}" if fit.adjusted_for else ""
        left.set_ylabel(plain(f"{response}{held}"))
        _points(right, fitted, residual, fit.scans, colours)
        right.axhline(0.0, color="black", linewidth=0.6)
        right.set_title("residuals; named: largest Cook's distances", fontsize=7)
        right.set_xlabel(plain(f"fitted {response}"))
        right.set_ylabel("residual")
        shown = [group for group in groups if group] if len(groups) <= _MOST_COLOURS else []
        if shown and not (fit.is_factor and set(shown) == set(fit.line["covariate"])):
            handles = [left.scatter([], [], s=12, color=colours[group], label=plain(group)) for group in shown]
            names = {"title": plain(f"{fit.grouped_by}:"), "title_fontsize": 7, "alignment": "left"}
            figure.legend(handles=handles, loc="outside lower left", ncols=min(len(shown), 6), frameon=False, **names)
        figure.supxlabel(plain(f"95 % confidence limits with {fit.variance}"), x=0.99, ha="right", fontsize=6)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.margins(x=0.06, y=0.08)
    return figure


def _colour(at: int, n_groups: int) -> Colour:
    return GREY if n_groups > _MOST_COLOURS else _COLOURS[at % len(_COLOURS)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} covariates"


def _along(fit: VoxelFit) -> np.ndarray:
    """Places of the scans on the axis: the covariate, or the level with a fixed jitter, (n_scans,)."""
    if not fit.is_factor and fit.covariate:
        return np.asarray(fit.scans["covariate"], dtype=float)
    places = {level: at for at, level in enumerate(fit.line["covariate"])}
    spread = np.random.default_rng(0).uniform(-_JITTER, _JITTER, len(fit.scans))
    return np.asarray(fit.scans["covariate"].map(places), dtype=float) + spread


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, scans: pd.DataFrame, colours: Colours) -> None:
    """Points of the scans, the most influential ones with a ring and their name."""
    size = float(np.clip(600 / len(scans), 4, 16))
    axes.scatter(x, y, s=size, c=[colours[group] for group in scans["group"]], alpha=0.75, linewidths=0, zorder=2)
    middle = np.nanmean(np.array([x.min(), x.max()]))
    above: list[tuple[float, float]] = []  # names so far, in shares of the axes
    span = [np.ptp(x) or 1.0, np.nanmax(y) - np.nanmin(y) or 1.0]
    for at in range(min(_NAMED, len(scans))):
        axes.scatter(x[at], y[at], s=size + 14, facecolors="none", edgecolors="black", linewidths=0.6, zorder=3)
        place = ((x[at] - x.min()) / span[0], (y[at] - np.nanmin(y)) / span[1])
        near = sum(abs(place[0] - a) < 0.7 and abs(place[1] - b) < 0.05 for a, b in above)
        above.append(place)
        axes.annotate(
            plain(scans["scan_id"][at]), (x[at], y[at]), xytext=(5 if x[at] < middle else -5, 3 + 7 * near),
            textcoords="offset points", ha="left" if x[at] < middle else "right", fontsize=6, zorder=4,
        )  # fmt: skip


def _join_people(axes: Axes, x: np.ndarray, y: np.ndarray, people: pd.Series) -> None:
    """A thin line through the scans of each person with several."""
    order = np.argsort(x, kind="stable")
    for own in people.iloc[order].groupby(people.iloc[order]).indices.values():
        if len(own) > 1:
            axes.plot(x[order[own]], y[order[own]], color=GREY, linewidth=0.4, zorder=1.5)


def _lines(axes: Axes, fit: VoxelFit, colours: Colours) -> None:
    """The fitted line of each group with its band."""
    for group, line in fit.line.groupby("group", sort=False):
        x, colour = line["covariate"].to_numpy(dtype=float), colours[group] if group else "black"
        axes.plot(x, line["fit"], color=colour, linewidth=1.2, zorder=3)
        axes.fill_between(x, line["lower"], line["upper"], color=colour, alpha=0.15, linewidth=0, zorder=1)


def _levels(axes: Axes, fit: VoxelFit, colours: Colours) -> None:
    """The adjusted mean of each level with its interval."""
    line = fit.line
    half = [line["fit"] - line["lower"], line["upper"] - line["fit"]]
    axes.errorbar(range(len(line)), line["fit"], half, fmt="_", color="black", markersize=14, capsize=3, zorder=4)
    counts = fit.scans["covariate"].value_counts()
    names = [plain(f"{level}\nn = {counts[level]}" if level else f"n = {counts[level]}") for level in line["covariate"]]
    axes.set_xticks(range(len(line)), names)
    if len(line) > _MANY_LEVELS:
        axes.tick_params(axis="x", rotation=90)
    axes.set_xlim(-0.6, len(line) - 0.4)
