"""Run a batch: preprocess each scan that is not complete, then write the cohort table.

A scan that fails gets a line in ``failures.tsv`` and the batch goes on. Runs may be killed at any moment, and any
number may work on one folder: see :mod:`vbmstat.batch.claim` and :mod:`vbmstat.batch.task`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.batch import estimate
from vbmstat.batch.claim import claim, sweep, tables_claim
from vbmstat.batch.collect import cohort_of, write_cohort
from vbmstat.batch.derivatives import CompletedScan
from vbmstat.batch.manifest import write_inputs, write_manifest
from vbmstat.batch.plan import Places, RunPlan, completed, make_plan
from vbmstat.batch.resources import Execution
from vbmstat.batch.status import OnEvent, Status
from vbmstat.batch.task import ScanOutcome, Task
from vbmstat.batch.visits import read_subjects
from vbmstat.batch.workers import Work, Workers, workforce
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.files import naming
from vbmstat.files.runlog import FOLDER
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import OnStep, ignore
from vbmstat.tables import cohort, dictionary

FAILURE_COLUMNS = ["scan", "path", "step", "reason"]
_BUSY_POLL_S = 1.0


@dataclass(frozen=True)
class Result:
    """Outcome of a run.

    Attributes
    ----------
    out : Path
        Output folder.
    n_complete : int
        Complete scans of this run.
    cohort : Cohort
        All complete scans, as in ``cohort.tsv``; for a shard, its own scans, which are not written there.
    failures : list of dict
        scan, path, step, reason of each scan that failed.
    failures_path : Path
        Their table.
    is_whole : bool
        False if the run stopped at a failure.
    """

    out: Path
    n_complete: int
    cohort: cohort.Cohort
    failures: list[dict[str, str]]
    failures_path: Path
    is_whole: bool = True


def preprocess(
    inputs: Places | None = None,
    out: Path | str | None = None,
    spec: PreprocSpec | None = None,
    *,
    workers: Workers | None = None,
    on_event: OnEvent = ignore,
    **options: Any,
) -> cohort.Cohort:
    """Preprocess T1-weighted scans into smoothed, modulated tissue maps.

    Parameters
    ----------
    inputs : path, iterable of path, or Inputs
        BIDS folders, folders of images, or image files (.nii, .nii.gz, .mgz); or the result of
        :func:`vbmstat.files.search.find_inputs`.
    out : path, optional
        Output folder; ``derivatives/vbmstat`` in a BIDS folder, else ``vbmstat-out`` in the working folder.
    spec : PreprocSpec, optional
        How to preprocess.
    workers : Workers, optional
        Other processes that run the scans in place of `jobs`, such as those of a cluster.
    on_event : callable
        Called at every step, finished scan and failure.
    **options
        ``participants``, a table of covariates (by default the BIDS folder's participants.tsv); ``subjects``, a table
        of scans in place of `inputs` (:func:`vbmstat.batch.visits.read_subjects`); and any field of
        :class:`vbmstat.preproc.spec.PreprocSpec` (``engine``, ``weights``, ``fwhm_mm``, ``device``, ``names``,
        ``longitudinal``) or :class:`vbmstat.batch.resources.Execution` (``jobs``, ``memory_gb``, ``threads``,
        ``shard``, ``force``, …).

    Returns
    -------
    Cohort
        The complete scans, as in ``cohort.tsv``: those of this run and of earlier runs in the same folder. For a shard,
        its own scans.

    Raises
    ------
    TypeError
        If there is no such option.
    VbmstatError
        If no scan is found, a value is not allowed, the participants table cannot be used, or every scan fails.

    Notes
    -----
    A complete scan is not run again. If it only lacks smoothed maps of some widths, these are computed from its
    modulated maps.
    """
    of_spec, of_execution = ({one.name for one in fields(kind)} for kind in (PreprocSpec, Execution))
    participants, subjects = options.pop("participants", None), options.pop("subjects", None)
    if (inputs is None) == (subjects is None):
        msg = "preprocess takes inputs or subjects, one of them"
        raise TypeError(msg)
    places = inputs if inputs is not None else read_subjects(subjects)
    unknown = options.keys() - of_spec - of_execution
    if unknown:
        name = min(unknown)
        near = cohort.closest(name, [*of_spec, *of_execution, "participants", "subjects"]) or "none"
        msg = f"preprocess has no option {name!r} (nearest {near})"
        raise TypeError(msg)
    named = {name: value for name, value in options.items() if name in of_spec}
    spec = PreprocSpec(**named) if spec is None else replace(spec, **named)
    execution = Execution(**{name: value for name, value in options.items() if name in of_execution})
    return run_plan(make_plan(places, out, spec, execution, participants), workers, on_event).cohort


def run_plan(
    plan: RunPlan, workers: Workers | None = None, on_event: OnEvent = ignore, on_start: OnStep = ignore
) -> Result:
    """Run a plan; parameters and errors are those of :func:`preprocess`.

    Parameters
    ----------
    on_start : callable
        Called once with a sentence on how the scans share the machine.
    """
    locking = plan.execution.locking
    _check_writable(plan.out)
    sweep(plan.out, locking)
    with tables_claim(plan.out, locking):
        write_manifest(plan.out, plan.manifest)
        if plan.shard is None:
            write_inputs(plan.out, plan.inputs)
    status = Status(plan.out / FOLDER / plan.log_name("status", ".jsonl"), plan.id, len(plan.scans), on_event)
    progress = _Progress(plan, status)
    for scan, one in completed(plan).items():
        progress.add(ScanOutcome(scan, "resumed", one))
    todo = [task for task in plan.tasks if not set(task.scans) <= set(progress.completed)]
    share = estimate.share_out(plan, len(todo))
    on_start(estimate.sharing(share, workers))
    status.write(
        "start", scans=len(plan.scans), complete=len(progress.completed), jobs=share.jobs, threads=share.threads
    )
    try:
        with workforce(share, plan.spec.device, workers) as work:
            progress.run(todo, work)
    except BaseException:
        status.write("stopped", complete=len(progress.completed), failed=len(progress.failures))
        raise
    finally:
        sweep(plan.out, locking)
    status.write("end", complete=len(progress.completed), failed=len(progress.failures))
    return _finished(plan, progress)


@dataclass
class _Progress:
    """The finished scans."""

    plan: RunPlan
    status: Status
    completed: dict[naming.Scan, CompletedScan] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    is_whole: bool = True

    def add(self, outcome: ScanOutcome) -> None:
        if outcome.status == "failed":
            scan = outcome.scan
            self.failures.append(
                {"scan": scan.stem, "path": str(scan.path), "step": outcome.step, "reason": outcome.reason}
            )
            self.failures.sort(key=lambda entry: entry["scan"])
            write_failures(self.plan, self.failures)
        elif outcome.completed is not None:
            self.completed[outcome.scan] = outcome.completed
        self.status.end(outcome)

    def run(self, tasks: Sequence[Task], work: Work) -> None:
        """Run all tasks; those with scans locked by another run are tried again when these are free."""
        task_of = {scan: task for task in tasks for scan in task.scans}
        waiting, busy = list(tasks), list[Task]()
        while waiting:
            with contextlib.closing(
                work(waiting, lambda task, step: self.status.step(task.scans[0], step))
            ) as outcomes:
                for outcome in outcomes:
                    self.add(outcome)
                    task = task_of[outcome.scan]
                    if outcome.status == "busy" and task not in busy:
                        busy.append(task)
                    is_last = outcome.scan == task.scans[-1]  # a person's scans fail together
                    if outcome.status == "failed" and is_last and self.plan.execution.stop_on_first_failure:
                        self.is_whole = False
                        return
            waiting, busy = _poll_locks(busy)


def _poll_locks(tasks: list[Task]) -> tuple[list[Task], list[Task]]:
    """Poll the locks until some are free; return (free, locked)."""
    free: list[Task] = []
    while tasks and not free:
        time.sleep(_BUSY_POLL_S)
        free = [task for task in tasks if all(_is_free(task, scan) for scan in task.scans)]
    return free, [task for task in tasks if task not in free]


def _is_free(task: Task, scan: naming.Scan) -> bool:
    held = claim(task.out, scan.stem, task.execution.locking)
    if held is not None:
        held.release()
    return held is not None


def _finished(plan: RunPlan, progress: _Progress) -> Result:
    """Write the cohort table, unless this is a shard."""
    path = write_failures(plan, progress.failures)
    own = {scan: progress.completed[scan] for scan in plan.scans if scan in progress.completed}
    if not own and progress.failures:
        reason = progress.failures[0]["reason"]
        msg = f"none of {len(plan.scans)} scans could be preprocessed; first reason: {reason}"
        raise ScanError(msg)
    if plan.shard is None:
        with tables_claim(plan.out, plan.execution.locking):
            whole = write_cohort(plan.out, own, plan.scans, plan.people, plan.spec.names)
        sweep(plan.out, plan.execution.locking)
    else:
        whole = cohort_of(plan.out, own, plan.people, plan.spec.names)
    return Result(plan.out, len(own), whole, progress.failures, path, progress.is_whole)


def write_failures(plan: RunPlan, failures: list[dict[str, str]]) -> Path:
    """Write ``failures.tsv``; for a shard, its own table in the logs."""
    folder = plan.out if plan.shard is None else plan.out / FOLDER
    path = folder / plan.log_name("failures", ".tsv")
    with tables_claim(plan.out, plan.execution.locking):
        dictionary.write_table(path, pd.DataFrame(failures, columns=FAILURE_COLUMNS), "failures")
    return path


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot create the output folder ({error.strerror}); give another one with --out"
        raise VbmstatError(msg) from error
    if not os.access(folder, os.W_OK):
        msg = f"{folder}: the output folder is read-only; give another one with --out"
        raise VbmstatError(msg)
