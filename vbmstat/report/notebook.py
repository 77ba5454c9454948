"""Pictures and names of places for results in a notebook: what `GlmResults` shows by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbmstat.glm.inference.places import Regions
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import Atlas, load_atlas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def regions_of(atlases: Sequence[Atlas | Path | str]) -> Regions | None:
    """Atlases as names of places, each for what those before it leave without a name; None without any."""
    regions = None
    for one in reversed(atlases):
        atlas = one if isinstance(one, Atlas) else load_atlas(one)
        names = {int(label): str(name) for label, name in atlas.table["name"].items()}
        regions = Regions(atlas.image, names, regions, atlas.name)
    return regions


def plot(volume: Volume, title: str, symbol: str | None, threshold: float, /, **of_view: Any) -> Figure:
    """A map on slices, of p without a symbol; `of_view` are the fields of :class:`vbmstat.figures.view.View`.

    A single cut or contour may be one text or number.

    Raises
    ------
    TypeError
        If `View` has no such field.
    """
    from vbmstat.figures.view import View  # noqa: PLC0415 - a second for pictures, which names of places do not need
    from vbmstat.report.show import P_SYMBOL, picture  # noqa: PLC0415

    known = [one.name for one in fields(View)]
    for name, value in of_view.items():
        if name not in known:
            msg = f"plot has no option {name!r}; it takes contrast, stat, threshold, {', '.join(known)}"
            raise TypeError(msg)
        if name in ("cuts", "contours"):
            of_view[name] = (value,) if isinstance(value, str | int | float) else tuple(value)
    return picture(volume, title, symbol or P_SYMBOL, threshold, View(**of_view))
