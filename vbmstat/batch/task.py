"""One scan from file to files: read, process, write. Whoever runs it, it is the same and harms no other scan.

Outputs are made in the scan's own folder under ``.partial`` and renamed when all are there, the sidecar last.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from vbmstat import derivatives, naming
from vbmstat.assets.provenance import provenance
from vbmstat.batch.claim import Claim, claim
from vbmstat.batch.memory import peak_bytes, start_peak
from vbmstat.batch.options import Options
from vbmstat.errors import VbmstatError, one_line
from vbmstat.image import io, storage
from vbmstat.preproc import pipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanTask:
    """All that a process needs to know to preprocess one scan; can be pickled.

    Attributes
    ----------
    scan : Scan
        The scan.
    out : Path
        Output folder, absolute.
    options : Options
        How; the device is ``cpu`` or ``cuda``, not ``auto``.
    parameters : dict
        What the sidecar records beside engine and device.
    """

    scan: naming.Scan
    out: Path
    options: Options
    parameters: dict[str, Any] = field(default_factory=dict)

    def origin(self) -> dict[str, Any]:
        """Provenance of the scan's outputs; reads the whole input."""
        engine, device = self.options.engine, self.options.device
        return provenance("preprocess", self.parameters, [self.scan.path], engine=engine, device=device)


@dataclass(frozen=True)
class ScanOutcome:
    """What became of a scan; can be pickled.

    Attributes
    ----------
    scan : Scan
        The scan.
    status : {"done", "resumed", "failed", "busy"}
        Resumed: it was complete. Busy: another process works at it.
    row : dict, optional
        Its columns in the cohort table, where it is complete.
    step, reason : str
        Where and why it failed.
    seconds : dict of str to float
        Wall time of each step.
    peak_bytes : int
        Most memory that the process took meanwhile.
    """

    scan: naming.Scan
    status: Literal["done", "resumed", "failed", "busy"]
    row: dict[str, Any] | None = None
    step: str = ""
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0

    @property
    def detail(self) -> str:
        """What is to be said of it: the reason of a failure, or warnings."""
        return self.reason or str((self.row or {}).get("qc_warnings") or "")


def run_scan(task: ScanTask, tell: Callable[[str], None] = lambda _: None) -> ScanOutcome:
    """Preprocess one scan and write its outputs, unless they are complete or another process makes them.

    Parameters
    ----------
    task : ScanTask
        The scan and how.
    tell : callable
        Told the name of each step when it begins.

    Returns
    -------
    ScanOutcome
        Also of a scan that fails: only what is no `Exception` (an interruption) is raised, and leaves nothing behind.
    """
    with ScanRun(task, tell) as run:
        run.read()
        run.process()
        return run.write()


def completed_row(task: ScanTask) -> dict[str, Any] | None:
    """Cohort columns of a scan whose outputs are complete and were made in the same way; None if it must be run."""
    names = task.options.names
    if task.options.force or not derivatives.is_complete(task.out, task.scan, names):
        return None
    return derivatives.completed_row(task.out, task.scan, names, task.origin())


class ScanRun:
    """One scan on its way. Its three parts may be run by three threads, one after the other; none fails with its scan.

    It is a context: when it ends, the scan is free for others and nothing unfinished is left.
    """

    def __init__(self, task: ScanTask, tell: Callable[[str], None] = lambda _: None) -> None:
        self.task = task
        self.outcome: ScanOutcome | None = None
        self._tell = tell
        self._step = "read"
        self._seconds: dict[str, float] = {}
        self._claim: Claim | None = None
        self._parts = self._work()

    def __enter__(self) -> ScanRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the scan; what is unfinished goes."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def read(self) -> None:
        """Claim the scan, look whether it is complete, and read it."""
        self._go_on()

    def process(self) -> None:
        """Run the engine."""
        self._go_on()

    def write(self) -> ScanOutcome:
        """Write the outputs.

        Raises
        ------
        RuntimeError
            If the other two parts were not run before.
        """
        self._go_on()
        if self.outcome is None:
            msg = "a scan is read and processed before it is written"
            raise RuntimeError(msg)
        return self.outcome

    def _go_on(self) -> None:
        """Run the next part, unless the scan is at its end."""
        if self.outcome is not None:
            return
        try:
            next(self._parts)
        except StopIteration as end:
            self.outcome = end.value
        except Exception as error:  # one bad scan must not stop the batch; it is reported with its reason
            log.debug("scan %s failed", self.task.scan.stem, exc_info=True)
            self.outcome = self._ended("failed", step=self._step, reason=reason_of(error, self.task.scan))

    def _work(self) -> Generator[None, None, ScanOutcome]:
        """The three parts; the images of one are not kept in memory longer than the next needs them."""
        task, options = self.task, self.task.options
        with self._timed("read"):
            start_peak()
            held = self._claim = claim(task.out, task.scan.stem, options.locking)
            if held is None:
                return self._ended("busy")
            self._begin("read")
            naming.check_name_length(task.scan, options.names)
            row = completed_row(task)
            if row is not None:
                return self._ended("resumed", row=row)
            volume = io.read_scan(task.scan.path)  # first, for what it says of a file that is none
            origin = task.origin()
        yield
        process = options.process or pipeline.preprocess_scan
        chosen = {"weights": options.weights} if options.weights else {}
        result = process(volume, options.device, self._begin, options.engine, **chosen)
        del volume
        yield
        with self._timed("write"):
            self._begin("write")
            derivatives.write_derivatives(held.folder, task.scan, result, options.names, origin)
            publish(held.folder, task.out, naming.output_path(Path(), task.scan, "sidecar", options.names))
            self._seconds |= result.seconds
            return self._ended("done", row=derivatives.scan_row(result))

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = round(time.perf_counter() - start, 2)

    def _begin(self, step: str) -> None:
        self._step = step
        if self._claim is not None:
            self._claim.note(step)
        self._tell(step)

    def _ended(self, status: Literal["done", "resumed", "failed", "busy"], **known: Any) -> ScanOutcome:
        return ScanOutcome(self.task.scan, status, **known, seconds=self._seconds, peak_bytes=peak_bytes())


def publish(made: Path, out: Path, last: Path) -> None:
    """Rename a scan's files to their places, the one that proves it complete last.

    Parameters
    ----------
    made, out : Path
        Folders on one file system: where the files are, and where they belong under the same relative names.
    last : Path
        Relative name of the sidecar. An older one is removed first, so that the scan counts as incomplete meanwhile.
    """
    if (out / last).exists():
        (out / last).unlink()
        storage.fsync_folder((out / last).parent)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    rest = [name for name in files if name != last]
    for name in rest:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, out / name)
    for folder in {name.parent for name in rest}:
        storage.fsync_folder(out / folder)
    (out / last).parent.mkdir(parents=True, exist_ok=True)
    os.replace(made / last, out / last)
    storage.fsync_folder((out / last).parent)


def reason_of(error: BaseException, scan: naming.Scan) -> str:
    """One line that says what is wrong with which scan."""
    if isinstance(error, VbmstatError):
        text = str(error)
    elif isinstance(error, MemoryError) or "alloc" in str(error).lower():
        text = f"out of memory ({error}); free memory or use a smaller scan"
    else:
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if text.startswith(one_line(str(scan.path))) else one_line(f"{scan.stem}: {text}")
