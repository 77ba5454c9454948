"""How a map is thresholded, as a user writes it: ``3.1``, ``p=0.001``, ``fwe=0.05``; extents ``50``, ``ml=0.5``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vbmstat.errors import VbmstatError

_HEIGHT = {
    "value": "a value of the statistic, e.g. 3.1",
    "p": "p=0.001 (uncorrected)",
    "fdr": "fdr=0.05",
    "fwe": "fwe=0.05",
}
_EXTENT = {
    "voxels": "a number of voxels, e.g. 50",
    "ml": "ml=0.5",
    "p": "p=0.05 (uncorrected, by random fields)",
    "fwe": "fwe=0.05",
}
_PROBABILITIES = ("p", "fdr", "fwe")


@dataclass(frozen=True)
class Rule:
    """A rule for heights or extents."""

    by: str  # for heights ``value``, ``p``, ``fdr``, ``fwe``; for extents ``voxels``, ``ml``, ``p``, ``fwe``
    level: float  # the value, size or largest p

    @property
    def label(self) -> str:
        """For file names: ``fwe0.05``, ``3.1``, ``k50``."""
        return {"value": "", "voxels": "k"}.get(self.by, self.by) + f"{self.level:g}"


def read_height(text: str) -> Rule:
    """The rule for heights.

    Examples
    --------
    >>> read_height("p=.001"), read_height("3.1").by
    (Rule(by='p', level=0.001), 'value')

    Raises
    ------
    VbmstatError
        If it is none.
    """
    return _read(text, "--height", _HEIGHT)


def read_extent(text: str) -> Rule:
    """The rule for extents of clusters; errors as in :func:`read_height`."""
    return _read(text, "--extent", _EXTENT)


def _read(text: str, option: str, forms: dict[str, str]) -> Rule:
    by, _, number = text.replace("<", "=").strip().rpartition("=")
    by = by.strip().lower() or next(iter(forms))
    try:
        level = float(number)
    except ValueError:
        level = math.nan
    inside = 0 < level < 1 if by in _PROBABILITIES else 0 <= level < math.inf
    if by not in forms or not inside:
        expected = "; ".join(forms.values())
        msg = f"{option} {text}: expected one of: {expected}"
        raise VbmstatError(msg)
    return Rule(by, level)
