"""Progress of commands: one bar per stage; and the files of an earlier run that were removed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vbmstat.progress import OnProgress


@contextmanager
def stages() -> Iterator[OnProgress]:
    """Yield ``report(stage, n_done, n_total)``, which draws one bar per stage on standard error."""
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done, total=total)

        yield report


def print_removed(folder: Path, earlier: Sequence[str]) -> None:
    """Print the files of an earlier run that are gone; nothing if new ones replaced them all."""
    gone = [name for name in earlier if not (folder / name).exists()]
    if gone:
        more = f", {gone[1]} …" if len(gone) > 1 else ""
        typer.echo(f"removed {len(gone)} files of the earlier run in {folder}: {gone[0]}{more}")
