"""How figures look: colours, the width of a page, resolution, fonts."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

# A statistic is blue where negative and orange where positive: colour-blind readers tell these apart.
BLUE, ORANGE, GREY = "#2166AC", "#D9660F", "#8A8A8A"
DIVERGING = LinearSegmentedColormap.from_list(
    "vbmstat", ["#042B53", BLUE, "#74ADD1", "#DCEBF3", "#F7F7F7", "#FBDDB6", "#F39B3F", ORANGE, "#5F2102"]
)
SEQUENTIAL = LinearSegmentedColormap.from_list("vbmstat_up", DIVERGING(np.linspace(0.5, 1.0, 128)))
WIDTH_INCH = 7.2  # two columns of a journal's page (183 mm)
DPI = 300  # in print
PRINT_STYLE: dict[Any, Any] = {  # in SVG text stays text, and equal figures are equal files
    "font.size": 7, "axes.linewidth": 0.6, "svg.fonttype": "none", "svg.hashsalt": "vbmstat",
}  # fmt: skip


def plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")
