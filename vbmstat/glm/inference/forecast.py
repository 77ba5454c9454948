"""How long permutations will take, from the first of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from vbmstat.progress import OnProgress, duration, ignore

WARM_UP, PILOT = 8, 16  # permutations at first, and those after them from which the time is told
_MIN_SECONDS = 1.0  # that they must have taken
_WORTH_TELLING_S = 10.0


class Forecast:
    """Passes progress on, and announces once what all permutations will take.

    Parameters
    ----------
    counts : mapping of str to int
        How many permutations each contrast gets.
    spare : sequence of str
        Contrasts that are not permuted unless they are asked for.
    announce, report : callable, optional
        Called with the line; with (stage, done, total).
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        counts: Mapping[str, int],
        spare: Sequence[str] = (),
        announce: Callable[[str], None] | None = None,
        report: OnProgress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts, self._spare, self._clock = counts, spare, clock
        self._announce, self._report = announce, report or ignore
        self._name = next(iter(counts), "")
        self._first, self._start = -1, (0.0, -1)

    def begin(self, name: str) -> None:
        """Say which contrast is permuted now."""
        self._name, self._first, self._start = name, -1, (0.0, -1)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take progress of the contrast."""
        more = len(self._counts) > 1
        self._report(
            f"permutations {list(self._counts).index(self._name) + 1}/{len(self._counts)}" if more else stage,
            done,
            total,
        )
        if self._announce is None:
            return
        if self._first < 0:
            self._first = done
        started, since = self._start
        if since < 0:
            if done - self._first >= WARM_UP:
                self._start = (self._clock(), done)
            return
        elapsed = self._clock() - started
        if done - since >= PILOT and elapsed >= _MIN_SECONDS:
            line = self.line(elapsed / (done - since))
            if line:
                self._announce(line)
            self._announce = None

    def line(self, seconds: float) -> str:
        """What all will take at so many seconds each; empty if that is soon.

        Examples
        --------
        >>> print(Forecast({"group": 5000}, ["age", "sex", "tiv"]).line(0.075))
        5,000 permutations of group: about 6 min (all 4 contrasts, --contrast all: 25 min)
        >>> print(Forecast({"group": 5000, "age": 5000}).line(0.075))
        2 contrasts × 5,000 permutations: about 12 min (--contrast "group" alone: 6 min)
        """
        total, most = sum(self._counts.values()), max(self._counts.values())
        if seconds * total < _WORTH_TELLING_S:
            return ""
        first, n = next(iter(self._counts)), len(self._counts)
        if n > 1:
            alone = f' (--contrast "{first}" alone: {duration(seconds * self._counts[first])})'
            return f"{n} contrasts × {most:,} permutations: about {duration(seconds * total)}{alone}"
        every = n + len(self._spare)
        others = f" (all {every} contrasts, --contrast all: {duration(seconds * most * every)})" if self._spare else ""
        return f"{most:,} permutations of {first}: about {duration(seconds * total)}{others}"
