"""A task of a run, be it a single scan or all of a person's: locked, read, processed, written, with what became of it.

Outputs are written to the task's folder under ``.partial`` and renamed when complete, the sidecars last.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from vbmstat.batch import derivatives
from vbmstat.batch.claim import Claim, claim
from vbmstat.batch.resources import Execution
from vbmstat.device import peak_bytes, start_peak
from vbmstat.errors import VbmstatError, one_line
from vbmstat.files import naming
from vbmstat.image import storage
from vbmstat.progress import OnStep, ignore

Status = Literal["done", "resumed", "failed", "busy"]
log = logging.getLogger(__name__)


class Task(Protocol):
    """What one process does at once: all that it needs to preprocess some scans; picklable."""

    @property
    def scans(self) -> tuple[naming.Scan, ...]:
        """The scans; the stem of the first names the task."""

    @property
    def out(self) -> Path:
        """Output folder, absolute."""

    @property
    def execution(self) -> Execution:
        """How to run."""

    def finished(self) -> dict[naming.Scan, derivatives.CompletedScan]:
        """The scans, if they need no work; none if they do. May read them; an unreadable one raises VbmstatError."""

    def work(self, run: TaskRun) -> Parts:
        """Read, process and write the scans: three parts, each up to a ``yield``."""

    def reason(self, error: BaseException, scan: naming.Scan) -> str:
        """Why a scan has failed, in one line."""


@dataclass(frozen=True)
class ScanOutcome:
    """What became of a scan; picklable."""

    scan: naming.Scan
    status: Status  # resumed: already complete; busy: locked by another process
    completed: derivatives.CompletedScan | None = None  # its entry in the cohort if it is complete
    # step at which it failed, and why
    step: str = ""
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # wall time of each step
    peak_bytes: int = 0  # peak memory of the process during the task

    @property
    def detail(self) -> str:
        """The reason of a failure, or warnings."""
        return self.reason or str((self.completed.row if self.completed else {}).get("qc_warnings") or "")


Parts = Generator[None, None, list[ScanOutcome]]


def run_task(task: Task, on_step: OnStep = ignore) -> list[ScanOutcome]:
    """Preprocess the scans of a task and write their outputs, unless complete or locked by another process.

    Parameters
    ----------
    task : Task
        The task.
    on_step : callable
        Called with the name of each step that begins.

    Returns
    -------
    list of ScanOutcome
        Of each scan, also if it fails: only interruptions are raised, and they leave nothing behind.
    """
    with TaskRun(task, on_step) as run:
        run.read()
        run.process()
        return run.write()


class TaskRun:
    """A task in progress: three parts that different threads may run in turn; a failing scan raises in none.

    A context manager: at its end the scans are unlocked and no unfinished file is left.
    """

    def __init__(self, task: Task, on_step: OnStep = ignore) -> None:
        self.task = task
        self.outcomes: list[ScanOutcome] | None = None
        self._on_step = on_step
        self._step = "read"
        self._seconds: dict[str, float] = {}
        self._claims: list[Claim] = []
        self._parts = self._work()

    def __enter__(self) -> TaskRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the scans; unfinished files are deleted."""
        while self._claims:
            self._claims.pop().release()

    def read(self) -> None:
        """Claim the scans, check whether they are complete, and read them."""
        self._next_part("read")

    def process(self) -> None:
        """Run the engine."""
        self._next_part()

    def write(self) -> list[ScanOutcome]:
        """Write the outputs.

        Raises
        ------
        RuntimeError
            If the scans were not read and processed before.
        """
        self._next_part("write")
        if self.outcomes is None:
            msg = "a scan is read and processed before it is written"
            raise RuntimeError(msg)
        return self.outcomes

    @property
    def folder(self) -> Path:
        """Folder of the unfinished outputs."""
        return self._claims[0].folder

    def begin(self, step: str) -> None:
        """A step begins."""
        self._step = step
        for held in self._claims[:1]:
            held.note(step)
        self._on_step(step)

    def publish(self, last: Sequence[Path], stale: Sequence[Path] = ()) -> None:
        """Move the finished outputs to the output folder, these sidecars last, in place of stale files."""
        for path in stale:  # before the sidecar that lists it goes
            path.unlink(missing_ok=True)
        publish(self.folder, self.task.out, *last)

    def ended(
        self,
        status: Status,
        completed: Mapping[naming.Scan, derivatives.CompletedScan] | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> list[ScanOutcome]:
        """The outcomes of all scans; the seconds of steps are those of each."""
        self._seconds |= seconds or {}
        found, peak = completed or {}, peak_bytes()
        return [
            ScanOutcome(scan, status, found.get(scan), seconds=self._seconds, peak_bytes=peak)
            for scan in self.task.scans
        ]

    def _failed(self, error: Exception) -> list[ScanOutcome]:
        log.debug("scan %s failed", self.task.scans[0].stem, exc_info=True)
        reasons = {scan: self.task.reason(error, scan) for scan in self.task.scans}
        failed = self.ended("failed")
        return [replace(outcome, step=self._step, reason=reasons[outcome.scan]) for outcome in failed]

    def _next_part(self, timed: str = "") -> None:
        """Run the next part, unless the scans have outcomes already."""
        if self.outcomes is not None:
            return
        start = time.perf_counter()
        try:
            next(self._parts)
        except StopIteration as end:
            self.outcomes = end.value
        except Exception as error:  # one bad scan must not stop the batch; its reason is reported
            self.outcomes = self._failed(error)
        if timed:
            share = (time.perf_counter() - start) / len(self.task.scans)
            self._seconds[timed] = round(share, 2)

    def _work(self) -> Parts:
        """The three parts, each up to a ``yield``."""
        start_peak()
        for scan in self.task.scans:
            held = claim(self.task.out, scan.stem, self.task.execution.locking)
            if held is None:
                self.close()
                return self.ended("busy")
            self._claims.append(held)
        self.begin("read")
        return (yield from self.task.work(self))


def publish(made: Path, out: Path, *last: Path) -> None:
    """Move the files of scans to their destination, the sidecars last.

    Parameters
    ----------
    made, out : Path
        Source and destination folder on one file system; relative names stay the same.
    last : Path
        Relative names of the sidecars. Older ones are removed first, so that the scans count as incomplete meanwhile.
    """
    for name in last:
        if (out / name).exists():
            (out / name).unlink()
            storage.fsync_folder((out / name).parent)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    others = [name for name in files if name not in last]
    for name in others:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, out / name)
    for folder in {name.parent for name in others}:
        storage.fsync_folder(out / folder)
    for name in last:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, out / name)
        storage.fsync_folder((out / name).parent)


def reason_of(error: BaseException, scan: naming.Scan) -> str:
    """The scan and its problem, in one line."""
    if isinstance(error, VbmstatError):
        text = str(error)
    elif isinstance(error, MemoryError) or "alloc" in str(error).lower():
        text = f"out of memory ({error}); free memory or use a smaller scan"
    else:
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if text.startswith(one_line(str(scan.path))) else one_line(f"{scan.stem}: {text}")
