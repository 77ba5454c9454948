"""Progress of a batch: a bar on a terminal, one line per scan in a file; and how Ctrl-C and SIGTERM end it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vbmstat.progress import LIVE

if TYPE_CHECKING:
    from vbmstat.batch.status import Event

_MOST_SHOWN = 3  # running scans beside the bar
_ENDS = ("done", "resumed", "failed", "busy")


class Screen(ABC):
    """Output of a batch's progress: counts scans, and prints a line for each that ends."""

    def __init__(self) -> None:
        self.n_complete = self.n_scans = 0

    @abstractmethod
    def say(self, text: str, colour: str = "") -> None:
        """Print a message about the whole run."""

    def show(self, event: Event) -> None:
        """Show an event of a scan."""
        self.n_scans = event.total
        self.n_complete += event.what in ("done", "resumed")
        if event.what == "failed":
            self.say(f"[{event.done}/{event.total}] failed {event.detail}", "red")
        elif event.what == "done":
            note = f": {event.detail}" if event.detail else ""
            self.say(f"[{event.done}/{event.total}] done {event.scan.stem}{note}", "yellow" if note else "")
        elif event.what == "busy":
            self.say(f"{event.scan.stem}: in use by another run; will retry later")

    def stopped(self, by: str) -> None:
        """Say that a signal stopped the run."""
        known = f"{self.n_complete} of {self.n_scans} scans are complete; " if self.n_scans else ""
        self.say(f"stopped by {by}: {known}run the same command to resume", "yellow")


class _Lines(Screen):
    """Lines with a time stamp, for files and SLURM."""

    def show(self, event: Event) -> None:
        super().show(event)
        if LIVE in os.environ and event.what not in _ENDS:
            self.say(f"{event.scan.stem}: {event.what}")

    def say(self, text: str, colour: str = "") -> None:
        del colour
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        sys.stderr.write(f"{now} {text}\n")
        sys.stderr.flush()


class _Bar(Screen):
    """A bar with the running scans, and lines above it."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._task = progress.add_task("finding scans", total=None)
        self._steps: dict[str, str] = {}

    def say(self, text: str, colour: str = "") -> None:
        text = f"[{colour}]{escape(text)}[/{colour}]" if colour else escape(text)
        self._progress.console.print(text, highlight=False, soft_wrap=True)

    def show(self, event: Event) -> None:
        super().show(event)
        if event.what in _ENDS:
            self._steps.pop(event.scan.stem, None)
        else:
            self._steps[event.scan.stem] = event.what
        running = [f"{stem}: {step}" for stem, step in list(self._steps.items())[-_MOST_SHOWN:]]
        described = escape(", ".join(running))
        self._progress.update(self._task, total=event.total, completed=event.done, description=described)


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """A bar on a terminal, plain lines elsewhere and under SLURM; warnings of the program appear in between."""
    console = Console(stderr=True)
    if console.is_terminal and "SLURM_JOB_ID" not in os.environ:
        handler: logging.Handler = RichHandler(console=console, show_path=False)
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with _warnings_to(handler), Progress(*columns, console=console) as progress:
            yield _Bar(progress)
    else:
        with _warnings_to(logging.StreamHandler()):
            yield _Lines()


@contextlib.contextmanager
def _warnings_to(handler: logging.Handler) -> Iterator[None]:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    yield


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""


@contextlib.contextmanager
def stoppable(report: Callable[[str], None]) -> Iterator[None]:
    """End cleanly on Ctrl-C, SIGTERM (SLURM's time limit, `kill`) and SIGHUP: report it and exit with 128 + signal."""
    received = signal.SIGINT

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = signal.Signals(number)
        raise Stopped

    before = {
        number: signal.signal(number, stop)
        for name in ("SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None)) is not None  # no SIGHUP on Windows
        and signal.getsignal(number) != signal.SIG_IGN  # nohup
    }
    try:
        yield
    except KeyboardInterrupt:
        report("Ctrl-C" if received == signal.SIGINT else received.name)
        sys.exit(128 + received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
