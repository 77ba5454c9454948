"""What of a map a picture shows: slices, colour scale, contours, crosshair, title."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vbmstat.errors import VbmstatError
from vbmstat.figures.mosaic import VIEWS, Panel
from vbmstat.image.volume import Volume

_NUMBER = r"\s*-?\d+(?:\.\d+)?\s*"
_CUT = re.compile(rf"\s*([xyz])\s*=((?:{_NUMBER},)*{_NUMBER}|{_NUMBER}:{_NUMBER}:{_NUMBER})")
_VIEW_OF = {letter: view for view, (*_, letter, _sides) in VIEWS.items()}
_A_ROW = 7  # slices
_MOST = 200  # slices of a picture


@dataclass(frozen=True)
class View:
    """What of a map a picture shows.

    Attributes
    ----------
    cuts : tuple of str
        Slices, a row of the picture each: ``"z=-20,0,20"``, or ``"z=-40:60:10"`` (start, end, step); mm. By default
        22 slices over the brain, or with a crosshair the three through it.
    columns : int
        Slices in a row at most; longer rows are wrapped.
    limit : float, optional
        End of the colour scale; by default near the largest absolute value.
    contours : tuple of float
        Values that are outlined, of the map or of `contour_of`.
    contour_of : Volume, optional
        Another image in the same space whose outline is drawn (at 0.5 without `contours`), such as a region.
    crosshair : tuple of 3 float, optional
        Position, mm.
    title : str, optional
        In place of the map's own.
    """

    cuts: tuple[str, ...] = ()
    columns: int = _A_ROW
    limit: float | None = None
    contours: tuple[float, ...] = ()
    contour_of: Volume | None = None
    crosshair: tuple[float, float, float] | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and not 0 < self.limit < np.inf:
            msg = f"--limit {self.limit:g}: expected the end of the colour scale, a number above 0"
            raise VbmstatError(msg)
        if self.columns < 1:
            msg = f"--columns {self.columns}: expected 1 or more slices in a row"
            raise VbmstatError(msg)

    def rows(self, default: Sequence[Sequence[Panel]], box_mm: np.ndarray) -> list[list[Panel]]:
        """Rows of slices, (view, mm) each, inside a field of view (3, 2) mm.

        Raises
        ------
        VbmstatError
            If a cut cannot be read, lies outside, or the crosshair is in no slice.
        """
        panels = [parse_cut(cut) for cut in self.cuts]
        if not panels and self.crosshair is not None:
            panels = [[(_VIEW_OF[letter], at) for letter, at in zip("xyz", self.crosshair, strict=True)]]
        for view, at in (panel for row in panels for panel in row):
            low, high = box_mm[VIEWS[view][0]]
            if not low <= at <= high:
                msg = (
                    f"slice {VIEWS[view][3]}={at:g}: outside of the picture, which goes from {low:.0f} to {high:.0f} mm"
                )
                raise VbmstatError(msg)
        if (
            self.crosshair is not None
            and self.cuts
            and not any(self.passes(view, at) for row in panels for view, at in row)
        ):
            x, y, z = self.crosshair
            msg = f"the crosshair at {x:g},{y:g},{z:g} is in none of the slices; add e.g. --cut z={z:g}"
            raise VbmstatError(msg)
        rows = [row[i : i + self.columns] for row in panels for i in range(0, len(row), self.columns)]
        return rows or [list(row) for row in default]

    def passes(self, view: str, at: float) -> bool:
        """Whether a slice goes through the crosshair, to half a millimetre."""
        return self.crosshair is not None and abs(self.crosshair[VIEWS[view][0]] - at) <= 0.5


def parse_cut(text: str) -> list[Panel]:
    """Slices of a cut.

    Examples
    --------
    >>> parse_cut("z=-20,0"), parse_cut("x=0:20:10")
    ([('axial', -20.0), ('axial', 0.0)], [('sagittal', 0.0), ('sagittal', 10.0), ('sagittal', 20.0)])
    """
    found = _CUT.fullmatch(text)
    places: list[float] = []
    if found and ":" in found[2]:
        start, stop, step = map(float, found[2].split(":"))
        places = list(np.arange(start, stop + step / 2, step)[:_MOST]) if step > 0 else []
    elif found:
        places = [float(place) for place in found[2].split(",")]
    if not found or not places:
        msg = f"--cut {text!r}: expected an axis and mm, e.g. z=-20,0,20 or y=-60:40:20 (start:end:step)"
        raise VbmstatError(msg)
    return [(_VIEW_OF[found[1]], float(place)) for place in places]


def parse_point(text: str, option: str = "--crosshair") -> tuple[float, float, float]:
    """A point ``x,y,z`` in mm.

    Examples
    --------
    >>> parse_point("-30, 12,4.5")
    (-30.0, 12.0, 4.5)
    """
    if not re.fullmatch(rf"{_NUMBER},{_NUMBER},{_NUMBER}", text):
        msg = f"{option} {text!r}: expected x,y,z in mm, e.g. -30,-18,12, or peak"
        raise VbmstatError(msg)
    x, y, z = map(float, text.split(","))
    return x, y, z
