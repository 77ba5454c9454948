"""How long-running functions report where they are: one type each for steps and for counted stages."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[str], None]  # name of the step that begins, or a message
OnProgress = Callable[[str, int, int], None]  # stage, done, total


def ignore(*_: object) -> None:
    """Report nothing."""
