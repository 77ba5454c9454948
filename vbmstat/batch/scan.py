"""One scan from file to files: preprocess it, smooth its maps further, or leave it as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vbmstat.assets.provenance import provenance
from vbmstat.batch import derivatives
from vbmstat.batch.resources import Execution
from vbmstat.batch.scan_result import ScanResult
from vbmstat.batch.task import Parts, ScanOutcome, TaskRun, reason_of, run_task
from vbmstat.files import naming
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.preproc import pipeline
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import OnStep, ignore


@dataclass(frozen=True)
class ScanTask:
    """All that a process needs to preprocess one scan; picklable."""

    scan: naming.Scan
    out: Path  # output folder, absolute
    spec: PreprocSpec  # how to preprocess; the device is ``cpu`` or ``cuda``, not ``auto``
    execution: Execution = field(default_factory=Execution)
    parameters: dict[str, Any] = field(default_factory=dict)  # further parameters for the sidecar
    lesion_mask: Path | None = None  # mask of a lesion that the user brings for this scan
    # if it is one of a person's time points: what its sidecar says of them; see
    # :class:`vbmstat.batch.person.PersonTask`, which then does the work
    longitudinal: Mapping[str, Any] | None = None

    @property
    def scans(self) -> tuple[naming.Scan, ...]:
        """The scan."""
        return (self.scan,)

    def finished(self) -> dict[naming.Scan, derivatives.CompletedScan]:
        """The scan if it is complete and lacks nothing that is asked for."""
        one = self.completed()
        return {} if one is None or self.missing_widths(one) or self.lacks_outputs(one) else {self.scan: one}

    def reason(self, error: BaseException, scan: naming.Scan) -> str:
        """The scan and its problem, in one line."""
        return reason_of(error, scan)

    def check_names(self) -> None:
        """Raise ScanError if its outputs would have names that are too long, or are another scan's."""
        models = self.spec.models or ("",)
        naming.check_name_length(self.scan, self.spec.names, self.spec.fwhm_mm, models)
        derivatives.check_owner(self.out, self.scan, self.spec.names)

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
        origin = origin_of(spec, self.parameters, [self.scan.path, *masks])
        return origin if self.longitudinal is None else {**origin, "longitudinal": self.longitudinal}

    def sidecar(self) -> Path:
        """Name of its sidecar in an output folder."""
        return naming.output_path(Path(), self.scan, "sidecar", self.spec.names)

    def work(self, run: TaskRun) -> Parts:
        """Preprocess the scan, or smooth its maps further, or nothing."""
        self.check_names()
        completed = self.completed()
        if completed is None or self.lacks_outputs(completed):
            return (yield from self._preprocess(run, self.spec_with(completed)))
        if self.missing_widths(completed):
            return (yield from smooth_further(run, [(self, completed)]))
        return run.ended("resumed", {self.scan: completed})

    def _preprocess(self, run: TaskRun, spec: PreprocSpec) -> Parts:
        """Preprocess the whole scan; each part frees the images that the next does not need."""
        volume = io.read_scan(self.scan.path)  # before the hash: its messages about broken files are better
        lesion = {} if self.lesion_mask is None else {"lesion_mask": io.read_volume(self.lesion_mask)}
        origin = replace(self, spec=spec).origin()
        yield
        process = self.execution.process or pipeline.preprocess_scan
        result = process(volume, spec, run.begin, **lesion)
        del volume, lesion
        yield
        run.begin("write")
        written = ScanResult.of_scan(result)
        completed = derivatives.write_derivatives(run.folder, self.scan, written, spec, origin)
        run.publish([self.sidecar()], derivatives.stale_files(self.out, self.scan, spec.names, completed))
        return run.ended("done", {self.scan: completed}, result.seconds)


def smooth_further(run: TaskRun, complete: Sequence[tuple[ScanTask, derivatives.CompletedScan]]) -> Parts:
    """Compute only the smoothed maps that complete scans lack."""
    lacking = [(task, widths) for task, one in complete if (widths := task.missing_widths(one))]
    modulated = [derivatives.read_modulated(task.out, task.scan, task.spec.names) for task, _ in lacking]
    yield
    run.begin("smooth")
    smoothed = []
    for (task, widths), maps in zip(lacking, modulated, strict=True):
        device = task.spec.device
        on_device = {model: Volume(volume.data.to(device), volume.grid) for model, volume in maps.items()}
        smoothed.append({model: pipeline.smooth_maps(volume, widths) for model, volume in on_device.items()})
    yield
    run.begin("write")
    now = {task.scan: one for task, one in complete}
    for (task, _), by_model in zip(lacking, smoothed, strict=True):
        now[task.scan] = derivatives.write_smoothed(run.folder, task.out, task.scan, task.spec.names, by_model)
    run.publish([task.sidecar() for task, _ in lacking])
    outcomes = run.ended("done", now)
    return [replace(outcome, seconds={}) for outcome in outcomes]  # not to be counted in estimates of a scan's time


def origin_of(spec: PreprocSpec, parameters: Mapping[str, Any], inputs: Sequence[Path] = ()) -> dict[str, Any]:
    """Provenance of preprocessing, as recorded by sidecars and the manifest."""
    origin = provenance("preprocess", parameters, inputs, engine=spec.engine, device=spec.device)
    return {**origin, "spec": spec.record()}


def run_scan(task: ScanTask, on_step: OnStep = ignore) -> ScanOutcome:
    """The same for a single scan."""
    (outcome,) = run_task(task, on_step)
    return outcome
