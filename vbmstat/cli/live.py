"""A batch on the screen: a bar on a terminal, a line a scan in a file; and what Ctrl-C and SIGTERM do."""

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
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from vbmstat.batch.status import Event

_COLOURS = {"done": "", "failed": "red", "busy": "yellow"}
_MOST_SHOWN = 3  # scans under way beside the bar


class Screen(Protocol):
    """Where a batch is told."""

    n_complete: int
    n_scans: int

    def show(self, event: Event) -> None:
        """Something happened to a scan."""

    def say(self, text: str, colour: str = "") -> None:
        """A sentence about the whole run."""

    def stopped(self, by: str) -> None:
        """The run was interrupted."""


class _Base(ABC):
    """Counts scans; prints a line where one is at its end."""

    def __init__(self) -> None:
        self.n_complete = self.n_scans = self.n_resumed = 0

    @abstractmethod
    def say(self, text: str, colour: str = "") -> None:
        """A sentence about the whole run."""

    def show(self, event: Event) -> None:
        self.n_scans = event.total
        self.n_complete += event.what in ("done", "resumed")
        self.n_resumed += event.what == "resumed"
        if event.what == "failed":
            self.say(f"[{event.done}/{event.total}] failed {event.detail}", "red")
        elif event.what == "done":
            note = f": {event.detail}" if event.detail else ""
            self.say(f"[{event.done}/{event.total}] done {event.scan.stem}{note}", "yellow" if note else "")
        elif event.what == "busy":
            self.say(f"{event.scan.stem}: another run works at it; it comes again later")

    def stopped(self, by: str) -> None:
        known = f"{self.n_complete} of {self.n_scans} scans are complete; " if self.n_scans else ""
        self.say(f"stopped by {by}: {known}the same command goes on from there", "yellow")


class _Lines(_Base):
    """Lines with the time, for files and SLURM."""

    def say(self, text: str, colour: str = "") -> None:
        del colour
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        sys.stderr.write(f"{now} {text}\n")
        sys.stderr.flush()


class _Bar(_Base):
    """A bar with what is under way, and lines above it."""

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
        if event.what in ("done", "resumed", "failed", "busy"):
            self._steps.pop(event.scan.stem, None)
        else:
            self._steps[event.scan.stem] = event.what
        under_way = [f"{stem}: {step}" for stem, step in list(self._steps.items())[-_MOST_SHOWN:]]
        described = escape(", ".join(under_way))
        self._progress.update(self._task, total=event.total, completed=event.done, description=described)


@contextlib.contextmanager
def screen() -> Iterator[Screen]:
    """A bar on a terminal, plain lines elsewhere and under SLURM; warnings of the program among them."""
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
    """A signal that asks the program to end."""


@contextlib.contextmanager
def stoppable(tell: Callable[[str], None]) -> Iterator[None]:
    """End cleanly at Ctrl-C, SIGTERM (SLURM's time limit, `kill`) and SIGHUP: tell it, and exit with 128 + signal."""
    asked = signal.SIGINT

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = signal.Signals(number)
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
        tell("Ctrl-C" if asked == signal.SIGINT else asked.name)
        sys.exit(128 + asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
