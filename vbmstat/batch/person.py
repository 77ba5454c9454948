"""Preprocess the scans of one person together: a task as that of a single scan, with an outcome for each session."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vbmstat.batch import derivatives
from vbmstat.batch.resources import Execution
from vbmstat.batch.scan import ScanTask, origin_of, smooth_further
from vbmstat.batch.scan_result import ScanResult
from vbmstat.batch.stored_images import write_image
from vbmstat.batch.task import Parts, TaskRun, reason_of
from vbmstat.batch.visits import scanner_changes
from vbmstat.errors import one_line
from vbmstat.figures import publication
from vbmstat.figures.style import save_png
from vbmstat.files import bids, naming
from vbmstat.image import io, storage
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Volume
from vbmstat.preproc.longitudinal import Person, TimePoint, preprocess_person
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.tables.cohort import TIME_POINTS

# Scans of one head have r of 0.99 within the brain; those below 0.8 are refused
_LEAST_R = 0.95
_RATES = ("rate1", "rate2")
_DRAWN_FWHM_MM = 6.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PersonTask:
    """All that a process needs to preprocess the scans of a person; picklable.

    Attributes
    ----------
    scans : tuple of Scan
        Two or more, one a session, the earliest first.
    out, spec, execution, parameters
        As of a :class:`vbmstat.batch.scan.ScanTask`; the spec has longitudinal models.
    years : tuple of float, optional
        Years of each scan since the first; None if they are not known.
    """

    scans: tuple[naming.Scan, ...]
    out: Path
    spec: PreprocSpec
    execution: Execution = field(default_factory=Execution)
    parameters: dict[str, Any] = field(default_factory=dict)
    years: tuple[float, ...] | None = None

    @property
    def participant(self) -> str:
        """Whose scans they are."""
        return self.scans[0].participant_id

    def finished(self) -> dict[naming.Scan, derivatives.CompletedScan]:
        """The scans if all are complete, made together from the same files, and lack nothing that is asked for."""
        self._say_what_changed()
        parts = [task.finished() for task in self._tasks()] if self._may_be_complete() else [{}]
        return {scan: one for part in parts for scan, one in part.items()} if all(parts) else {}

    def reason(self, error: BaseException, scan: naming.Scan) -> str:
        """Why a scan has failed: the error's own scan, if it names one, or that this one of the same person failed."""
        guilty = [one for one in self.scans if str(error).startswith(one_line(str(one.path)))]
        text = reason_of(error, guilty[0] if guilty else scan)
        if str(error).startswith("time point"):
            guilty += [self.scans[int(number) - 1] for number in re.findall(r"time point (\d+)", str(error))]
            text = one_line(re.sub(r"time point (\d+)", lambda k: self.scans[int(k[1]) - 1].stem, str(error)))
        if not guilty or scan in guilty:
            return text
        return one_line(f"{scan.stem}: not made, as another scan of {self.participant} failed ({text})")

    def work(self, run: TaskRun) -> Parts:
        """Preprocess the person, or smooth the maps further, or nothing."""
        tasks = self._tasks(hashed=False)
        for task in tasks:
            task.check_names()
        complete: list[tuple[ScanTask, derivatives.CompletedScan]] = []
        if self._may_be_complete():
            complete = [(task, one) for task in self._tasks() if (one := task.completed()) is not None]
        if len(complete) < len(self.scans) or any(task.lacks_outputs(one) for task, one in complete):
            spec = complete[0][0].spec_with(complete[0][1]) if complete else self.spec
            return (yield from self._preprocess(run, spec))
        if any(task.missing_widths(one) for task, one in complete):
            return (yield from smooth_further(run, complete))
        return run.ended("resumed", {task.scan: one for task, one in complete})

    def _preprocess(self, run: TaskRun, spec: PreprocSpec) -> Parts:
        """Preprocess all scans; each part frees the images that the next does not need."""
        volumes = [io.read_scan(scan.path) for scan in self.scans]
        changes, twins = scanner_changes(scan.path for scan in self.scans), twins_of(volumes, self.scans)
        tasks = self._tasks(spec)
        yield
        start = time.perf_counter()
        process = self.execution.process_person or preprocess_person
        person = process(volumes, spec, spec.models, self.years, run.begin)
        del volumes
        seconds = {"person": round((time.perf_counter() - start) / len(self.scans), 2)}
        yield
        run.begin("write")
        completed, stale = {}, []
        for task, result in zip(tasks, time_points(person, spec, self.years, changes, twins), strict=True):
            one = derivatives.write_derivatives(run.folder, task.scan, result, spec, task.origin())
            completed[task.scan] = one
            stale += derivatives.stale_files(self.out, task.scan, spec.names, one)
        rates = [] if person.rate is not None else self._images(_RATES)
        stale += [file for path in rates for file in (path, _json_beside(path)) if file.is_file()]
        self._write_images(run.folder, person)
        span = "" if self.years is None else f", {self.years[-1]:.2g} years"
        title = f"{self.participant}: change of grey matter, {self.scans[0].stem} to {self.scans[-1].stem}{span}"
        (picture,) = self._images(["change_picture"], run.folder)
        draw_change(picture, person, title)
        run.publish([task.sidecar() for task in tasks], stale)
        return run.ended("done", completed, seconds)

    def _tasks(self, spec: PreprocSpec | None = None, hashed: bool = True) -> list[ScanTask]:
        """A task for each scan, for its names, origin and what it lacks; unless `hashed`, without reading the scans."""
        spec = spec or self.spec
        record = None
        if hashed:
            inputs = origin_of(spec, self.parameters, [scan.path for scan in self.scans])["inputs"]
            scans = [{"scan": scan.stem, **file} for scan, file in zip(self.scans, inputs, strict=True)]
            years = None if self.years is None else list(self.years)
            record = {"models": list(spec.models), "scans": scans, "years": years}
        return [
            ScanTask(scan, self.out, spec, self.execution, self.parameters, longitudinal=record) for scan in self.scans
        ]

    def _recorded(self) -> list[derivatives.CompletedScan | None]:
        return [derivatives.completed_scan(self.out, scan, self.spec.names) for scan in self.scans]

    def _may_be_complete(self) -> bool:
        """Whether all outputs are there, made in any way: found without reading the scans."""
        images = self._images(("avg", *(_RATES if self.years else ())))
        return not self.execution.force and all(self._recorded()) and all(path.is_file() for path in images)

    def _say_what_changed(self) -> None:
        """Warn that the person is run again because its scans, dates or models have changed since an earlier run."""
        earlier = [one.longitudinal for one in self._recorded() if one is not None and one.longitudinal]
        if not earlier or self.execution.force:
            return
        before = [str(entry["scan"]) for entry in earlier[0]["scans"]]
        now = [scan.stem for scan in self.scans]
        years, models = earlier[0]["years"], [*earlier[0]["models"]]
        if set(before) != set(now):
            log.warning("%s is run again: its scans are %s, and were %s",
                        self.participant, ", ".join(now), ", ".join(before))  # fmt: skip
        elif years != (None if self.years is None else list(self.years)):
            log.warning("%s is run again: the dates of its sessions have changed", self.participant)
        elif models != [*self.spec.models]:
            log.warning("%s is run again: its maps of %s are replaced by those of %s (--model)",
                        self.participant, " and ".join(models), " and ".join(self.spec.models))  # fmt: skip

    def _images(self, kinds: Iterable[str], out: Path | None = None) -> list[Path]:
        person = naming.Scan(self.scans[0].path, self.participant, self.participant)
        return [naming.output_path(out or self.out, person, kind, self.spec.names) for kind in kinds]

    def _write_images(self, made: Path, person: Person) -> None:
        """Write the average, and the yearly rates if there are any."""
        volumes = {"avg": person.average}
        if person.rate is not None:
            volumes |= {kind: person.rate.channel(i) for i, kind in enumerate(_RATES)}
        grid = person.time_points[0].preprocessed.warped.grid
        for (kind, volume), path in zip(volumes.items(), self._images(volumes, made), strict=True):
            write_image(path, kind, volume)
            if self.spec.names == "bids":
                every = [bids.image_metadata(kind, scan, grid) for scan in self.scans]
                content = {**every[0], "Sources": [source for each in every for source in each.get("Sources", [])]}
                if kind == "avg":  # in a space of its own
                    content.pop("SpatialReference", None)
                storage.write_json(_json_beside(path), content)


def draw_change(path: Path, person: Person, title: str) -> None:
    """Draw the change of grey matter (mL/mL) from the first to the last time point on slices of the average brain."""
    first, last = (
        point.preprocessed.modulated if point.aged is None else point.aged
        for point in (person.time_points[0], person.time_points[-1])
    )
    change = smooth_map(Volume(last.data[:1] - first.data[:1], first.grid), _DRAWN_FWHM_MM)
    save_png(path, publication.stat_map_figure(change, title, "mL/mL"))


def _json_beside(image: Path) -> Path:
    return image.with_suffix("").with_suffix(".json")


def twins_of(images: Sequence[Volume], scans: Sequence[naming.Scan]) -> list[str]:
    """The earlier scan that has the same image as each; empty where none has."""
    return [
        next((scans[j].stem for j in range(k) if torch.equal(images[j].data, image.data)), "")
        for k, image in enumerate(images)
    ]


def time_points(
    person: Person, spec: PreprocSpec, years: Sequence[float] | None, scanners: Sequence[str], twins: Sequence[str]
) -> list[ScanResult]:
    """What is written of each time point: maps by model, and columns that compare it with the first and the others.

    Parameters
    ----------
    person : Person
        Result of the person.
    spec : PreprocSpec
        With the models to write.
    years : sequence of float, optional
        Years since the first time point.
    scanners : sequence of str
        What differs from the first scan's scanner.
    twins : sequence of str
        The earlier scan that has the same image.
    """
    first = person.time_points[0].preprocessed.segmented
    results = []
    for k, (point, scanner, twin) in enumerate(zip(person.time_points, scanners, twins, strict=True)):
        now = point.preprocessed.segmented
        pairs = zip(now.volumes_ml, first.volumes_ml, strict=True)
        gm, wm, csf = (round(100 * (later / earlier - 1), 3) for later, earlier in pairs)
        columns = {
            TIME_POINTS: len(person.time_points), "years": None if years is None else years[k],
            "gm_change_percent": gm, "wm_change_percent": wm, "csf_change_percent": csf,
            "scanner_change": scanner or None, "qc_time_point_r": round(float(point.similarity), 4),
        }  # fmt: skip
        warnings = (
            f"unlike the person's other scans (r = {point.similarity:.2f}): check whose scan it is"
            * (point.similarity < _LEAST_R),
            f"other scanner than at the person's first scan ({scanner})" * bool(scanner),
            f"the same image as {twin}: a copy has no change; leave one out" * bool(twin),
        )
        modulated, smoothed = _maps(point, spec.models)
        results.append(ScanResult(point.preprocessed, modulated, smoothed, columns, tuple(filter(None, warnings))))
    return results


def _maps(point: TimePoint, models: Iterable[str]) -> tuple[dict[str, Volume], dict[str, dict[float, Volume]]]:
    """Modulated maps of a time point, and smoothed ones, by model."""
    modulated, smoothed = {}, {}
    for model in models:
        aged = point.aged if model == "ageing" else None
        modulated[model] = point.preprocessed.modulated if aged is None else aged
        smoothed[model] = point.preprocessed.smoothed if aged is None else point.aged_smoothed
    return modulated, smoothed
