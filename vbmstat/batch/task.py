"""Preprocess one scan: read, process, write. Scans are independent of one another.

Outputs are written to the scan's folder under ``.partial`` and renamed when complete, the sidecar last. Over
300 lines: each way a scan can end has its line.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from vbmstat.assets.provenance import provenance
from vbmstat.batch import derivatives
from vbmstat.batch.claim import Claim, claim
from vbmstat.batch.resources import Execution
from vbmstat.device import peak_bytes, start_peak
from vbmstat.errors import VbmstatError, one_line
from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.preproc import pipeline
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import OnStep, ignore

Status = Literal["done", "resumed", "failed", "busy"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanTask:
    """All that a process needs to preprocess one scan; picklable.

    Attributes
    ----------
    scan : Scan
        The scan.
    out : Path
        Output folder, absolute.
    spec : PreprocSpec
        How to preprocess; the device is ``cpu`` or ``cuda``, not ``auto``.
    execution : Execution
        How to run.
    parameters : dict
        Further parameters for the sidecar.
    lesion_mask : Path, optional
        Mask of a lesion that the user brings for this scan.
    """

    scan: naming.Scan
    out: Path
    spec: PreprocSpec
    execution: Execution = field(default_factory=Execution)
    parameters: dict[str, Any] = field(default_factory=dict)
    lesion_mask: Path | None = None

    def completed(self) -> derivatives.CompletedScan | None:
        """The scan's outputs if complete and made in the same way; what is written may differ."""
        names = self.spec.names
        if self.execution.force or derivatives.completed_scan(self.out, self.scan, names) is None:
            return None  # without reading the scan for its hash
        return derivatives.completed_scan(self.out, self.scan, names, self.origin())

    def lacks_outputs(self, completed: derivatives.CompletedScan) -> bool:
        """Whether a complete scan lacks files that are asked for and cannot be made from the others."""
        unsmoothed = ("mwp",) if self.missing_widths(completed) else ()
        return not {*self.spec.outputs, *unsmoothed} <= set(completed.outputs)

    def missing_widths(self, completed: derivatives.CompletedScan) -> list[float]:
        """Smoothing widths that a complete scan lacks."""
        return [width for width in self.spec.fwhm_mm if width not in completed.fwhm_mm]

    def spec_with(self, completed: derivatives.CompletedScan | None) -> PreprocSpec:
        """The spec that also keeps what a complete scan has."""
        if completed is None:
            return self.spec
        outputs = (*self.spec.outputs, *completed.outputs)
        return replace(self.spec, outputs=outputs, fwhm_mm=(*self.spec.fwhm_mm, *completed.fwhm_mm))

    def origin(self) -> dict[str, Any]:
        """Provenance of the scan's outputs; reads the whole input."""
        masks = [] if self.lesion_mask is None else [self.lesion_mask]
        spec = self.spec if masks else replace(self.spec, lesion_mask=None)
        return origin_of(spec, self.parameters, [self.scan.path, *masks])


def origin_of(spec: PreprocSpec, parameters: Mapping[str, Any], inputs: Sequence[Path] = ()) -> dict[str, Any]:
    """Provenance of preprocessing, as recorded by sidecars and the manifest."""
    origin = provenance("preprocess", parameters, inputs, engine=spec.engine, device=spec.device)
    return {**origin, "spec": spec.record()}


@dataclass(frozen=True)
class ScanOutcome:
    """Result of a task; picklable.

    Attributes
    ----------
    scan : Scan
        The scan.
    status : {"done", "resumed", "failed", "busy"}
        Resumed: already complete. Busy: locked by another process.
    completed : CompletedScan, optional
        Its entry in the cohort if it is complete.
    step, reason : str
        Step at which it failed, and why.
    seconds : dict of str to float
        Wall time of each step.
    peak_bytes : int
        Peak memory of the process during the task.
    """

    scan: naming.Scan
    status: Status
    completed: derivatives.CompletedScan | None = None
    step: str = ""
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0

    @property
    def detail(self) -> str:
        """The reason of a failure, or warnings."""
        return self.reason or str((self.completed.row if self.completed else {}).get("qc_warnings") or "")


def run_scan(task: ScanTask, on_step: OnStep = ignore) -> ScanOutcome:
    """Preprocess one scan and write its outputs, unless it is complete or locked by another process.

    Parameters
    ----------
    task : ScanTask
        The task.
    on_step : callable
        Called with the name of each step that begins.

    Returns
    -------
    ScanOutcome
        Also for a scan that fails: only interruptions are raised, and they leave nothing behind.
    """
    with ScanRun(task, on_step) as run:
        run.read()
        run.process()
        return run.write()


class ScanRun:
    """One scan in progress: three parts that different threads may run in turn; a failing scan raises in none.

    A context manager: at its end the scan is unlocked and no unfinished file is left.
    """

    def __init__(self, task: ScanTask, on_step: OnStep = ignore) -> None:
        self.task = task
        self.outcome: ScanOutcome | None = None
        self._on_step = on_step
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
        """Release the scan; unfinished files are deleted."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def read(self) -> None:
        """Claim the scan, check whether it is complete, and read it."""
        self._next_part("read")

    def process(self) -> None:
        """Run the engine."""
        self._next_part()

    def write(self) -> ScanOutcome:
        """Write the outputs.

        Raises
        ------
        RuntimeError
            If the scan was not read and processed before.
        """
        self._next_part("write")
        if self.outcome is None:
            msg = "a scan is read and processed before it is written"
            raise RuntimeError(msg)
        return self.outcome

    def _next_part(self, timed: str = "") -> None:
        """Run the next part, unless the scan has an outcome already."""
        if self.outcome is not None:
            return
        start = time.perf_counter()
        try:
            next(self._parts)
        except StopIteration as end:
            self.outcome = end.value
        except Exception as error:  # one bad scan must not stop the batch; its reason is reported
            log.debug("scan %s failed", self.task.scan.stem, exc_info=True)
            self.outcome = self._ended("failed", step=self._step, reason=reason_of(error, self.task.scan))
        if timed:
            self._seconds[timed] = round(time.perf_counter() - start, 2)

    def _work(self) -> Generator[None, None, ScanOutcome]:
        """The three parts, each up to a ``yield``."""
        task, spec = self.task, self.task.spec
        start_peak()
        held = self._claim = claim(task.out, task.scan.stem, task.execution.locking)
        if held is None:
            return self._ended("busy")
        self._begin("read")
        naming.check_name_length(task.scan, spec.names, spec.fwhm_mm)
        derivatives.check_owner(task.out, task.scan, spec.names)
        completed = task.completed()
        if completed is None or task.lacks_outputs(completed):
            return (yield from self._preprocess(held.folder, task.spec_with(completed)))
        missing = task.missing_widths(completed)
        return (yield from self._smooth(held.folder, missing)) if missing else self._ended("resumed", completed)

    def _preprocess(self, made: Path, spec: PreprocSpec) -> Generator[None, None, ScanOutcome]:
        """Preprocess the whole scan; each part frees the images that the next does not need."""
        task = self.task
        volume = io.read_scan(task.scan.path)  # before the hash: its messages about broken files are better
        lesion = {} if task.lesion_mask is None else {"lesion_mask": io.read_volume(task.lesion_mask)}
        origin = replace(task, spec=spec).origin()
        yield
        process = task.execution.process or pipeline.preprocess_scan
        result = process(volume, spec, self._begin, **lesion)
        del volume, lesion
        yield
        self._begin("write")
        completed = derivatives.write_derivatives(made, task.scan, result, spec, origin)
        self._publish(made, derivatives.stale_files(task.out, task.scan, spec.names, completed))
        self._seconds |= result.seconds
        return self._ended("done", completed)

    def _smooth(self, made: Path, widths: Sequence[float]) -> Generator[None, None, ScanOutcome]:
        """Compute only the smoothed maps that a complete scan lacks."""
        task, spec = self.task, self.task.spec
        modulated = derivatives.read_modulated(task.out, task.scan, spec.names)
        yield
        self._begin("smooth")
        on_device = Volume(modulated.data.to(spec.device), modulated.grid)
        smoothed = pipeline.smooth_maps(on_device, widths)
        yield
        self._begin("write")
        completed = derivatives.write_smoothed(made, task.out, task.scan, spec.names, smoothed)
        self._publish(made)
        return replace(self._ended("done", completed), seconds={})  # not to be counted in estimates of a scan's time

    def _publish(self, made: Path, stale: Sequence[Path] = ()) -> None:
        for path in stale:  # before the sidecar that lists it goes
            path.unlink(missing_ok=True)
        publish(made, self.task.out, naming.output_path(Path(), self.task.scan, "sidecar", self.task.spec.names))

    def _begin(self, step: str) -> None:
        self._step = step
        if self._claim is not None:
            self._claim.note(step)
        self._on_step(step)

    def _ended(
        self, status: Status, completed: derivatives.CompletedScan | None = None, step: str = "", reason: str = ""
    ) -> ScanOutcome:
        return ScanOutcome(self.task.scan, status, completed, step, reason, self._seconds, peak_bytes())


def publish(made: Path, out: Path, last: Path) -> None:
    """Move a scan's files to their destination, the sidecar last.

    Parameters
    ----------
    made, out : Path
        Source and destination folder on one file system; relative names stay the same.
    last : Path
        Relative name of the sidecar. An older one is removed first, so that the scan counts as incomplete meanwhile.
    """
    if (out / last).exists():
        (out / last).unlink()
        storage.fsync_folder((out / last).parent)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    others = [name for name in files if name != last]
    for name in others:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, out / name)
    for folder in {name.parent for name in others}:
        storage.fsync_folder(out / folder)
    (out / last).parent.mkdir(parents=True, exist_ok=True)
    os.replace(made / last, out / last)
    storage.fsync_folder((out / last).parent)


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
