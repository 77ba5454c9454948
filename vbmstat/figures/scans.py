"""Figures of one scan's segmentation and registration, and of a cohort's quality.

Slices are upright, in neurological order (left is left) and true proportions. Colours are those of Okabe and Ito, which
colour-blind readers can distinguish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vbmstat.image import storage
from vbmstat.image.volume import Volume
from vbmstat.tables.cohort import Cohort

ORANGE, SKY_BLUE, GREEN = "#E69F00", "#56B4E9", "#009E73"
PURPLE, VERMILLION = "#CC79A7", "#D55E00"
BACKGROUND, TEXT = "black", "white"
_WIDTH_INCH, _DPI = 16.0, 100
_N_COLUMNS = 7
_SPAN = (0.12, 0.88)  # part of the brain's extent that the slices are spread over
_MARGIN_MM = 6.0  # shown around the brain
_GAP_INCH, _LINE_INCH = 0.04, 0.27
_CSF_GM, _GM_WM = 1.5, 2.5  # borders in a p0 map (0 background, 1 CSF, 2 GM, 3 WM)
_TEMPLATE_LEVEL = 0.5
_LESION_LEVEL = 0.5
_MOST_NAMES = 20  # in a figure of a cohort
# view -> (sliced axis, horizontal axis, vertical axis, labels of the horizontal ends)
_VIEWS = {"axial": (2, 0, 1, ("L", "R")), "coronal": (1, 0, 2, ("L", "R")), "sagittal": (0, 1, 2, ("P", "A"))}

_Contours = Sequence[tuple[np.ndarray, float, str]]  # (image (X, Y, Z), level, colour)
_Box = tuple[slice, slice, slice]


def scan_report(
    t1w: Volume,
    tissue: Volume,
    warped_gm: Volume,
    template_gm: Volume,
    title: str,
    metrics: Mapping[str, str],
    lesions: Mapping[str, Volume] | None = None,
) -> Figure:
    """One scan's segmentation and registration, for visual checks.

    Parameters
    ----------
    t1w : Volume, (1, X, Y, Z)
        The scan, RAS+, any unit.
    tissue : Volume, (1, X, Y, Z)
        Its p0 map on the same grid: 0 background, 1 CSF, 2 GM, 3 WM, values between for partial volume.
    warped_gm : Volume, (1, A, B, C)
        The scan's GM in template space, 0 to 1 (unmodulated).
    template_gm : Volume, (1, A, B, C)
        The template's GM on the same grid.
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

    Raises
    ------
    ValueError
        If the two images of a pair are on different grids.
    """
    marked = lesions or {}
    pairs = [("tissue", t1w, tissue), ("template_gm", warped_gm, template_gm)]
    for name, image, overlay in [*pairs, *((name, t1w, lesion) for name, lesion in marked.items())]:
        if not image.grid.matches(overlay.grid):
            msg = f"{name}: expected the grid {image.grid} of the image below it, got {overlay.grid}"
            raise ValueError(msg)
    scan, labels = t1w.data[0].cpu().numpy(), tissue.data[0].cpu().numpy()
    gm, template = warped_gm.data[0].cpu().numpy(), template_gm.data[0].cpu().numpy()
    brain, head = labels > 0.5, template > 0.1
    scan_rows = _Rows(scan, t1w.grid.voxel_size_mm, brain, _window(scan, brain))
    warp_rows = _Rows(gm, warped_gm.grid.voxel_size_mm, head, (0.0, 1.0))
    header = [title, *_wrapped([f"{name} {value}" for name, value in metrics.items()], n_characters=200)]
    heights = scan_rows.heights_inch + warp_rows.heights_inch
    captions = 2 * _LINE_INCH
    figure = Figure(figsize=(_WIDTH_INCH, sum(heights) + captions + _LINE_INCH * (len(header) + 0.6)), dpi=_DPI)
    figure.set_facecolor(BACKGROUND)
    y = write_header(figure, header)
    keys = [("grey matter | CSF", ORANGE), ("white | grey matter", SKY_BLUE)]
    outlines = [(labels, _CSF_GM, ORANGE), (labels, _GM_WM, SKY_BLUE)]
    for (name, lesion), colour in zip(marked.items(), (PURPLE, VERMILLION), strict=False):
        keys.append((name, colour))
        outlines.append((lesion.data[0].cpu().numpy(), _LESION_LEVEL, colour))
    y = caption(figure, y, "Scan, outlines:", keys)
    y = scan_rows.draw(figure, y, outlines)
    y = caption(figure, y, "Grey matter in template space, outline:", [("the template's grey matter", ORANGE)])
    warp_rows.draw(figure, y, [(template, _TEMPLATE_LEVEL, ORANGE)])
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


def save_png(path: Path | str, figure: Figure) -> None:
    """Write a figure as PNG at its own dpi, whole or not at all."""
    with storage.atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor(), metadata={"Software": "vbmstat"})


class _Rows:
    """Rows of axial, coronal and sagittal slices of one image around one mask."""

    def __init__(
        self, image: np.ndarray, voxel_size_mm: np.ndarray, mask: np.ndarray, window: tuple[float, float]
    ) -> None:
        self.image, self.window, self.size = image, window, voxel_size_mm
        self.tight = _bounding_box(mask, np.zeros(3))
        self.box = _bounding_box(mask, np.ceil(_MARGIN_MM / voxel_size_mm))
        self.panel_inch = (_WIDTH_INCH - _GAP_INCH * (_N_COLUMNS + 1)) / _N_COLUMNS

    @property
    def heights_inch(self) -> list[float]:
        """Height of each row with its gap."""
        return [self.panel_inch * self._aspect(view) + _GAP_INCH for view in _VIEWS]

    def _aspect(self, view: str) -> float:
        """Height over width of the view's panels."""
        _, across, up, _ = _VIEWS[view]
        extent = [(part.stop - part.start) * size for part, size in zip(self.box, self.size, strict=True)]
        return float(np.clip(extent[up] / extent[across], 0.3, 2.0))

    def draw(self, figure: Figure, y_inch: float, contours: _Contours) -> float:
        """Draw all rows below `y_inch` (from the figure's bottom); return their lower end."""
        width, height = figure.get_size_inches()
        for view, row_inch in zip(_VIEWS, self.heights_inch, strict=True):
            y_inch -= row_inch
            for column, index in enumerate(self._slices(view)):
                x_inch = _GAP_INCH + column * (self.panel_inch + _GAP_INCH)
                place = (x_inch / width, y_inch / height, self.panel_inch / width, (row_inch - _GAP_INCH) / height)
                axes = figure.add_axes(place)
                self._draw_slice(axes, view, index, contours)
                if column == 0:
                    mark_sides(axes, _VIEWS[view][3])
        return y_inch

    def _slices(self, view: str) -> list[int]:
        """Indices of the slices, spread evenly over the mask's extent."""
        part = self.tight[_VIEWS[view][0]]
        n = part.stop - part.start - 1
        return [round(part.start + n * at) for at in np.linspace(*_SPAN, _N_COLUMNS)]

    def _draw_slice(self, axes: Axes, view: str, index: int, contours: _Contours) -> None:
        across, up = _VIEWS[view][1:3]
        aspect = self.size[up] / self.size[across]
        low, high = self.window
        axes.imshow(
            self._cut(self.image, view, index), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect,
        )  # fmt: skip
        for overlay, level, colour in contours:
            cut = self._cut(overlay, view, index)
            if cut.min() < level < cut.max():
                axes.contour(cut, levels=[level], colors=[colour], linewidths=0.6)
        axes.set_axis_off()

    def _cut(self, image: np.ndarray, view: str, index: int) -> np.ndarray:
        """One slice as rows from bottom to top, (up, across)."""
        part: list[slice | int] = list(self.box)
        part[_VIEWS[view][0]] = index
        return image[tuple(part)].T  # remaining axes are (across, up) in this order for all views


def _bounding_box(mask: np.ndarray, margin: np.ndarray) -> _Box:
    """The box around a mask with a margin in voxels; the whole image if the mask is empty."""
    if not mask.any():
        mask = np.ones_like(mask)
    parts = []
    for axis in range(3):
        used = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        start, stop = used[0] - int(margin[axis]), used[-1] + 1 + int(margin[axis])
        parts.append(slice(max(int(start), 0), min(int(stop), mask.shape[axis])))
    return parts[0], parts[1], parts[2]


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


def mark_sides(axes: Axes, sides: tuple[str, str]) -> None:
    """Write letters at the left and right end of a panel."""
    for side, x, align in ((sides[0], 0.02, "left"), (sides[1], 0.98, "right")):
        axes.text(x, 0.02, side, color=TEXT, fontsize=11, ha=align, va="bottom", transform=axes.transAxes)
