"""Style of figures: colours, page width, resolution, fonts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from vbmstat.image import storage

# Negative values are blue and positive ones orange: colour-blind readers can distinguish them.
BLUE, ORANGE, GREY = "#2166AC", "#D9660F", "#8A8A8A"
CROSS = "#1B7837"  # green: neither negative nor positive
DIVERGING = LinearSegmentedColormap.from_list(
    "vbmstat", ["#042B53", BLUE, "#74ADD1", "#DCEBF3", "#F7F7F7", "#FBDDB6", "#F39B3F", ORANGE, "#5F2102"]
)
SEQUENTIAL = LinearSegmentedColormap.from_list("vbmstat_up", DIVERGING(np.linspace(0.5, 1.0, 128)))
WIDTH_INCH = 7.2  # two columns of a journal page (183 mm)
DPI, _SCREEN_DPI = 300, 120  # for print, in a notebook
PRINT_STYLE: dict[Any, Any] = {  # text stays text in SVG, and equal figures give equal files
    "font.size": 7, "axes.linewidth": 0.6, "svg.fonttype": "none", "svg.hashsalt": "vbmstat",
}  # fmt: skip


def plain(text: str) -> str:
    """Text escaped so that matplotlib does not read it as mathematics."""
    return text.replace("$", r"\$")


def minus(text: str) -> str:
    """A number with a true minus sign."""
    return text.replace("-", "−")


class Picture(Figure):
    """A figure that notebooks show, without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with rc_context(PRINT_STYLE):
            self.savefig(stream, format="png", dpi=_SCREEN_DPI)
        return stream.getvalue()


def save_png(path: Path | str, figure: Figure) -> None:
    """Write a figure as PNG at its own dpi, atomically."""
    with storage.atomic_path(path) as temporary, rc_context(PRINT_STYLE):
        figure.savefig(temporary, format="png", facecolor=figure.get_facecolor(), metadata={"Software": "vbmstat"},
                       pil_kwargs={"compress_level": 3})  # fmt: skip


def save_figure(path: Path | str, figure: Figure) -> None:
    """Write a figure atomically in the form of its suffix: ``.png``, ``.svg`` (text stays text) or ``.pdf``."""
    form = Path(path).suffix.removeprefix(".").lower()
    if form == "png":
        save_png(path, figure)
        return
    metadata = {"Date": None, "Creator": "vbmstat"} if form == "svg" else {"CreationDate": None, "Creator": "vbmstat"}
    with storage.atomic_path(path) as temporary, rc_context(PRINT_STYLE):
        figure.savefig(temporary, format=form, dpi=DPI, facecolor="white", metadata=metadata)
