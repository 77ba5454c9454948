"""Tracts on a scan: outlines of four that show whether the rest can be trusted."""

from __future__ import annotations

from matplotlib.figure import Figure

from vbmstat.figures.scans import GREEN, ORANGE, PURPLE, SKY_BLUE, outlined_scan
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.tracts.names import TRACTS
from vbmstat.tracts.outputs import TractMaps

_SHOWN = {  # the largest first: later outlines lie on top
    "corpus callosum": (("CC",), SKY_BLUE), "corticospinal tract": (("CST_left", "CST_right"), ORANGE),
    "fornix (weak)": (("FX_left", "FX_right"), GREEN), "uncinate fasciculus (weak)": (("UF_left", "UF_right"), PURPLE),
}  # fmt: skip


def tracts_figure(t1w: Volume, labels: Volume, maps: TractMaps, title: str) -> Figure:
    """Outlines of the masks of CST, CC, FX and UF on slices of the scan.

    Parameters
    ----------
    t1w, labels : Volume, (1, X, Y, Z)
        The scan and its p0 map (brain above .5), on one grid.
    maps : TractMaps
        The scan's tracts.
    title : str
        Scan and source of the tracts.
    """
    masks, outlines = maps.mask, []
    for name, (tracts, colour) in _SHOWN.items():
        rows = torch.tensor([TRACTS.index(tract) for tract in tracts])
        union = masks.data[rows].amax(0, keepdim=True).float()
        outlines.append((name, Volume(resample(union, masks.grid, t1w.grid), t1w.grid), colour))
    return outlined_scan(t1w, labels, outlines, title)
