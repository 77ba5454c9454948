"""Progress of commands: one bar per stage, lines in a file; and the files of an earlier run that were removed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vbmstat.progress import LIVE, OnProgress, duration

_SECONDS_A_LINE = 20.0  # between lines in a file


@contextmanager
def stages() -> Iterator[OnProgress]:
    """Yield ``report(stage, n_done, n_total)``: a bar per stage on a terminal, now and then a line elsewhere."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


class Lines:
    """Progress as lines on standard error; a stage that is soon over has none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._every = clock, float(os.environ.get(LIVE, _SECONDS_A_LINE))
        self._stage, self._since, self._first, self._last = "", 0.0, 0, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print a line if the last is old enough."""
        now = self._clock()
        if stage != self._stage:
            self._stage, self._since, self._first, self._last = stage, now, done, now
        if now - self._last < self._every:
            return
        self._last = now
        left = (now - self._since) / (done - self._first) * (total - done) if done > self._first else 0.0
        typer.echo(f"{stage}: {done:,} of {total:,}{f', about {duration(left)} left' if left else ''}", err=True)


def print_removed(folder: Path, earlier: Sequence[str]) -> None:
    """Print the files of an earlier run that are gone; nothing if new ones replaced them all."""
    gone = [name for name in earlier if not (folder / name).exists()]
    if gone:
        more = f", {gone[1]} …" if len(gone) > 1 else ""
        typer.echo(f"removed {len(gone)} files of the earlier run in {folder}: {gone[0]}{more}")
