"""Kinds of maps: tissues and their numbers, modulated and smoothed maps (``s6mwp1``), which are also columns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

TISSUES = {"gm": "grey matter", "wm": "white matter", "csf": "cerebrospinal fluid"}  # in the order of p1, p2, p3
TISSUE_NUMBER = {tissue: number for number, tissue in enumerate(TISSUES, 1)}  # as in mwp1, mwp2, mwp3
WMH = "wmh"  # white-matter hypointensities: maps beside those of the tissues, with CAT12's number
MAP_NUMBER = {**TISSUE_NUMBER, WMH: 7}  # as in mwp1, mwp2, mwp3, mwp7
WARP = ("y", "iy", "velocity")  # kinds of files with a warp
# Modulated maps of a single scan (""), and of a person's time points by CAT12's models: what stands around the number
_MODULATED = {"": ("mwp", ""), "plasticity": ("mwp", "r"), "ageing": ("mwmwp", "r")}
_LEAST_FWHM_MM, _MAX_FWHM_MM = 0.1, 50
# Kinds mwp1, s7.5mwp2, s6mwp1r, s6mwmwp1r
_MAP_KIND = re.compile(r"(?:s(?P<width>\d+(?:\.\d+)?))?(?P<front>mwp|mwmwp(?=.r))(?P<number>[1237])(?P<end>r?)")


class MapKind(NamedTuple):
    """A kind of modulated maps: width of the smoothing (0 for none), number of the tissue, longitudinal model."""

    fwhm_mm: float
    number: int
    model: str


def is_fwhm(value: Any) -> bool:
    """Whether a value can be a smoothing width (FWHM): 0.1 to 50 mm, at most two decimals, as names write it."""
    return isinstance(value, int | float) and _LEAST_FWHM_MM <= value <= _MAX_FWHM_MM and round(value, 2) == value


def modulated_kind(number: int, model: str = "") -> str:
    """Kind and CAT12 prefix of a modulated map of a single scan, or of a time point by a longitudinal model.

    Examples
    --------
    >>> modulated_kind(1), modulated_kind(2, "plasticity"), modulated_kind(1, "ageing")
    ('mwp1', 'mwp2r', 'mwmwp1r')
    """
    front, end = _MODULATED[model]
    return f"{front}{number}{end}"


def smoothed_kind(fwhm_mm: float, number: int, model: str = "") -> str:
    """The same of a smoothed map; also its column in ``cohort.tsv``.

    Examples
    --------
    >>> smoothed_kind(6.0, 1), smoothed_kind(7.5, 2, "ageing")
    ('s6mwp1', 's7.5mwmwp2r')
    """
    return f"s{fwhm_mm:g}{modulated_kind(number, model)}"


def parse_kind(kind: str) -> MapKind | None:
    """What a kind of modulated maps says, which is also the column of their paths; None for any other text.

    Examples
    --------
    >>> parse_kind("s7.5mwmwp2r")
    MapKind(fwhm_mm=7.5, number=2, model='ageing')
    >>> parse_kind("mwp1").model, parse_kind("wp1")
    ('', None)
    """
    match = _MAP_KIND.fullmatch(kind)
    if match is None:
        return None
    model = next(name for name, around in _MODULATED.items() if around == (match["front"], match["end"]))
    return MapKind(float(match["width"] or 0), int(match["number"]), model)


def kinds_of_time_point(kind: str, models: Iterable[str]) -> tuple[str, ...]:
    """What a time point has in place of a kind of a single scan: the same, or maps by these longitudinal models.

    Examples
    --------
    >>> kinds_of_time_point("p1", ["ageing"]), kinds_of_time_point("wp1", ["ageing"])
    (('p1',), ('wp1r',))
    >>> kinds_of_time_point("mwp1", ["plasticity", "ageing"])
    ('mwp1r', 'mwmwp1r')
    """
    parsed = parse_kind(kind)
    if parsed is not None:
        width = kind[: kind.index("m")]  # s6
        return tuple(f"{width}{modulated_kind(parsed.number, model)}" for model in models)
    return (f"{kind}r",) if kind.startswith(("wp", "m0wp")) else (kind,)


def fwhm_of(kind: str) -> float | None:
    """Width in mm of a smoothed kind; None for any other text.

    Examples
    --------
    >>> fwhm_of("s7.5mwp2"), fwhm_of("mwp2")
    (7.5, None)
    """
    parsed = parse_kind(kind)
    return parsed.fwhm_mm or None if parsed else None


def is_map_column(name: str) -> bool:
    """Whether a column of ``cohort.tsv`` holds paths of modulated maps, such as ``s6mwp1``."""
    return parse_kind(name) is not None


def map_columns(names: Iterable[str], tissue: int) -> list[str]:
    """Columns with maps of one tissue (a value of `MAP_NUMBER`): smoothed ones by width, then the unsmoothed one."""
    columns = [name for name in names if (parsed := parse_kind(name)) and parsed.number == tissue]
    return sorted(columns, key=lambda name: fwhm_of(name) or float("inf"))
