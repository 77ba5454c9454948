"""Figures of one scan's segmentation and registration, and of a cohort's quality.

Slices are upright, in neurological order (left is left) and true proportions. Colours are those of Okabe and Ito, which
colour-blind readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vbmstat.figures.mosaic import VIEWS, Image, axis_parallel, box_of, mark_sides
from vbmstat.image.volume import Volume
from vbmstat.tables.cohort import Cohort

ORANGE, SKY_BLUE, GREEN = "#E69F00", "#56B4E9", "#009E73"
PURPLE, VERMILLION = "#CC79A7", "#D55E00"
BACKGROUND, TEXT = "black", "white"
_WIDTH_INCH, _DPI = 16.0, 100
_N_COLUMNS = 7
_SPAN = np.linspace(0.12, 0.88, _N_COLUMNS)  # positions of the slices in the brain's extent
_MARGIN_MM = 6.0  # shown around the brain
_GAP_INCH, _LINE_INCH = 0.04, 0.27
_PANEL_INCH = (_WIDTH_INCH - _GAP_INCH * (_N_COLUMNS + 1)) / _N_COLUMNS
_CSF_GM, _GM_WM = 1.5, 2.5  # borders in a p0 map (0 background, 1 CSF, 2 GM, 3 WM)
_TEMPLATE_LEVEL = 0.5
_LESION_LEVEL = 0.5
_MOST_NAMES = 20  # in a figure of a cohort


@dataclass(frozen=True)
class Overlay:
    """An image, (1, X, Y, Z), and the one that is outlined on it; raises ValueError if their grids differ."""

    image: Volume
    outlined: Volume
    lesions: Mapping[str, Volume] = field(default_factory=dict)  # at most two, by name, outlined at one half

    def __post_init__(self) -> None:
        for outlined in (self.outlined, *self.lesions.values()):
            if not self.image.grid.matches(outlined.grid):
                msg = f"expected the grid {self.image.grid} of the image below, got {outlined.grid}"
                raise ValueError(msg)


def scan_report(scan: Overlay, warped: Overlay, title: str, metrics: Mapping[str, str]) -> Figure:
    """One scan's segmentation and registration, for visual checks.

    Parameters
    ----------
    scan : Overlay
        The scan (RAS+, any unit) and its p0 map: 0 background, 1 CSF, 2 GM, 3 WM, values between for partial volume.
    warped : Overlay
        The scan's unmodulated GM in template space (0 to 1) and the template's.
    title : str
        Scan id and engine.
    metrics : mapping of str to str
        Names and values (with units) for the header, in order.
    lesions : mapping of str to Volume, optional
        At most two images of lesions on the scan's grid by name, outlined at one half.

    Returns
    -------
    Figure
        1600 pixels wide at its own dpi; rows of axial, coronal and sagittal slices of the scan with the outlines of
        WM and of the cortex, then of the warped GM with the template's outline.
    """
    t1w, labels, gm, template = map(axis_parallel, (scan.image, scan.outlined, warped.image, warped.outlined))
    brain = labels.data > 0.5
    outlines = [(labels, _CSF_GM, ORANGE), (labels, _GM_WM, SKY_BLUE)]
    keys = [("grey matter | CSF", ORANGE), ("white | grey matter", SKY_BLUE)]
    for (name, lesion), colour in zip(scan.lesions.items(), (PURPLE, VERMILLION), strict=False):
        keys.append((name, colour))
        outlines.append((axis_parallel(lesion), _LESION_LEVEL, colour))
    scan_rows = _Rows(t1w, _window(t1w.data, brain), box_of(brain, labels.grid), outlines)
    head = box_of(template.data > 0.1, template.grid)
    warp_rows = _Rows(gm, (0.0, 1.0), head, [(template, _TEMPLATE_LEVEL, ORANGE)])
    header = [title, *_wrapped([f"{name} {value}" for name, value in metrics.items()], n_characters=200)]
    heights = scan_rows.heights_inch + warp_rows.heights_inch
    captions = 2 * _LINE_INCH
    figure = Figure(figsize=(_WIDTH_INCH, sum(heights) + captions + _LINE_INCH * (len(header) + 0.6)), dpi=_DPI)
    figure.set_facecolor(BACKGROUND)
    y = write_header(figure, header)
    y = caption(figure, y, "Scan, outlines:", keys)
    y = scan_rows.draw(figure, y)
    y = caption(figure, y, "Grey matter in template space, outline:", [("the template's grey matter", ORANGE)])
    warp_rows.draw(figure, y)
    return figure


def outlined_scan(t1w: Volume, labels: Volume, structures: Sequence[tuple[str, Volume, str]], title: str) -> Figure:
    """Slices of a scan with the outlines of structures, at one half.

    Parameters
    ----------
    t1w, labels : Volume, (1, X, Y, Z)
        The scan and its p0 map (brain above .5), on one grid.
    structures : sequence of (str, Volume, str)
        Name, map (0 to 1) on the scan's grid, and colour.
    title : str
        First line.
    """
    image, tissue = axis_parallel(t1w), axis_parallel(labels)
    brain = tissue.data > 0.5
    outlines = [(axis_parallel(volume), _LESION_LEVEL, colour) for _, volume, colour in structures]
    rows = _Rows(image, _window(image.data, brain), box_of(brain, tissue.grid), outlines)
    size = (_WIDTH_INCH, sum(rows.heights_inch) + _LINE_INCH * 2.8)
    figure = Figure(figsize=size, dpi=_DPI)
    figure.set_facecolor(BACKGROUND)
    y = write_header(figure, [title])
    y = caption(figure, y, "Outlines:", [(name, colour) for name, _, colour in structures])
    rows.draw(figure, y)
    return figure


def cohort_report(cohort: Cohort) -> Figure:
    """Similarity and image quality of a cohort's scans; flagged ones with their ids.

    Parameters
    ----------
    cohort : Cohort
        With the columns ``qc_mean_correlation``, ``qc_image_rating`` and ``qc_warnings``.

    Returns
    -------
    Figure
        Left: sorted mean correlation of each GM map with the others. Right: the same against the image rating.
    """
    table = cohort.table
    r, rating = (pd.to_numeric(table[name]).to_numpy(float) for name in ("qc_mean_correlation", "qc_image_rating"))
    flagged = table["qc_warnings"].notna().to_numpy()
    figure = Figure(figsize=(12.0, 5.2), dpi=_DPI, layout="constrained")
    ranked, compared = figure.subplots(1, 2)
    order = np.argsort(r)
    place = np.empty(len(r))
    place[order] = np.arange(1, len(r) + 1)
    for axes, x, label in ((ranked, place, "scan, by its rank"), (compared, rating, "image rating (%)")):
        axes.scatter(x[~flagged], r[~flagged], s=22, color=SKY_BLUE, label="scans")
        axes.scatter(x[flagged], r[flagged], s=30, color=ORANGE, edgecolors="black", linewidths=0.6, label="flagged")
        axes.axhline(np.median(r), color="grey", linewidth=0.8, label="median")
        axes.set(xlabel=label, ylabel="mean correlation of the GM map with the others'")
        _name_points(axes, x, r, [scan if bad else "" for scan, bad in zip(cohort.scan_ids, flagged, strict=True)])
        axes.spines[["top", "right"]].set_visible(False)
    ranked.xaxis.set_major_locator(MaxNLocator(integer=True))
    ranked.legend(frameon=False, loc="lower right")
    figure.suptitle(f"{len(r)} scans, {int(flagged.sum())} flagged (reasons: qc_warnings in cohort.tsv)", fontsize=12)
    return figure


def _name_points(axes: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str]) -> None:
    """Label the lowest named points, as many as are legible; close labels are moved apart."""
    named = [i for i in np.argsort(y) if names[i] and np.isfinite(x[i])][:_MOST_NAMES]
    room = (axes.get_ylim()[1] - axes.get_ylim()[0]) / 30  # a line of text
    middle, last = np.mean(axes.get_xlim()), -np.inf
    for i in named:
        last = max(y[i], last + room)
        right = x[i] > middle
        axes.annotate(
            names[i], (x[i], y[i]), (-8 if right else 8, (last - y[i]) / room * 11), textcoords="offset points",
            ha="right" if right else "left", va="center", fontsize=8, parse_math=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"},
        )  # fmt: skip


@dataclass(frozen=True)
class _Rows:
    """Rows of axial, coronal and sagittal slices of an image around the box of its content, with outlines."""

    image: Image
    window: tuple[float, float]
    tight_mm: np.ndarray
    outlines: Sequence[tuple[Image, float, str]]  # image, level, colour

    @property
    def box_mm(self) -> np.ndarray:
        """Field of view of the panels, (3, 2)."""
        box: np.ndarray = self.tight_mm + np.array([-_MARGIN_MM, _MARGIN_MM])
        return box

    @property
    def heights_inch(self) -> list[float]:
        """Height of each row with its gap."""
        size = np.ptp(self.box_mm, axis=1)
        ratios = [float(np.clip(size[up] / size[across], 0.3, 2.0)) for _, across, up, _, _ in VIEWS.values()]
        return [_PANEL_INCH * ratio + _GAP_INCH for ratio in ratios]

    def draw(self, figure: Figure, y_inch: float) -> float:
        """Draw all rows below `y_inch` (from the figure's bottom); return their lower end."""
        width, height = figure.get_size_inches()
        for view, row_inch in zip(VIEWS, self.heights_inch, strict=True):
            y_inch -= row_inch
            share = (width - 2 * _GAP_INCH) / width
            axes = figure.add_axes((_GAP_INCH / width, y_inch / height, share, (row_inch - _GAP_INCH) / height))
            axes.set_axis_off()
            self._draw_row(axes, view)
            mark_sides(axes, VIEWS[view][4], TEXT, 11, _PANEL_INCH / (share * width))
        return y_inch

    def _draw_row(self, axes: Axes, view: str) -> None:
        """Slices side by side in one pair of axes: a pair for each slice would take longer than the slices."""
        axis, across, up, _, _ = VIEWS[view]
        low, high = self.window
        left, right = self.box_mm[across]
        step_mm = (right - left) * (1 + _GAP_INCH / _PANEL_INCH)
        for column, at_mm in enumerate(self.tight_mm[axis] @ np.array([1 - _SPAN, _SPAN])):
            beside = np.array([column * step_mm] * 2 + [0, 0])
            cut, extent = self.image.cut(view, at_mm, self.box_mm)
            axes.imshow(cut, cmap="gray", vmin=low, vmax=high, origin="lower", extent=tuple(extent + beside))
            for overlay, level, colour in self.outlines:
                cut, extent = overlay.cut(view, at_mm, self.box_mm)
                if cut.min() < level < cut.max():
                    axes.contour(cut, levels=[level], colors=[colour], linewidths=0.6, origin="lower",
                                 extent=tuple(extent + beside))  # fmt: skip
        axes.set(xlim=(left, right + (_N_COLUMNS - 1) * step_mm), ylim=self.box_mm[up])


def _window(image: np.ndarray, brain: np.ndarray) -> tuple[float, float]:
    """Black and white levels: 0 or the minimum, and just above the brain's 99th percentile."""
    values = image[brain] if brain.any() else image.reshape(-1)
    low, high = min(0.0, float(values.min())), 1.1 * float(np.percentile(values, 99.0))
    return low, high if high > low else low + 1.0


def _wrapped(entries: Sequence[str], n_characters: int) -> list[str]:
    """Entries joined by dots into lines of at most `n_characters`, without breaking an entry."""
    lines: list[str] = []
    for entry in entries:
        joined = f"{lines[-1]}  ·  {entry}" if lines else entry
        if lines and len(joined) <= n_characters:
            lines[-1] = joined
        else:
            lines.append(entry)
    return lines


def write_header(figure: Figure, lines: Sequence[str]) -> float:
    """Write title and metrics at the top; return their lower end (inch from the bottom)."""
    width, height = figure.get_size_inches()
    y_inch = height - 0.3 * _LINE_INCH
    for number, line in enumerate(lines):
        figure.text(
            0.1 / width, y_inch / height, line, color=TEXT, va="top", parse_math=False,
            fontsize=14 if number == 0 else 11, fontweight="bold" if number == 0 else "normal",
        )  # fmt: skip
        y_inch -= _LINE_INCH * (1.3 if number == 0 else 1.0)
    return float(y_inch)


def caption(figure: Figure, y_inch: float, text: str, keys: Sequence[tuple[str, str]]) -> float:
    """Write a line of text with coloured keys; return its lower end."""
    width, height = figure.get_size_inches()
    x_inch = 0.1
    for part, colour in [(text, TEXT), *keys]:
        figure.text(x_inch / width, y_inch / height, part, color=colour, va="top", fontsize=11, parse_math=False)
        x_inch += 0.095 * len(part) + 0.15
    return y_inch - _LINE_INCH
