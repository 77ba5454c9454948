"""How long-running functions report where they are: one type each for steps and for counted stages."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[str], None]  # name of the step that begins, or a message
OnProgress = Callable[[str, int, int], None]  # stage, done, total
LIVE = (
    "VBMSTAT_PROGRESS_SECONDS"  # environment: seconds between lines of commands in a file, whose reader shows them live
)
_HOUR_S, _MINUTE_S = 3600, 60


def ignore(*_: object) -> None:
    """Report nothing."""


def duration(seconds: float) -> str:
    """A time in readable units.

    Examples
    --------
    >>> duration(40), duration(3000), duration(90000)
    ('40 s', '50 min', '25 h')
    """
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE_S:.0f} min" if seconds < 2 * _HOUR_S else f"{seconds / _HOUR_S:.0f} h"
