"""Many scans: each that is not complete yet is preprocessed, then all are put into one cohort table.

A scan that fails gets a line in ``failures.tsv`` and the batch goes on. Runs may be killed at any moment, and any
number may work on one folder: see :mod:`vbmstat.batch.claim` and :mod:`vbmstat.batch.task`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import cohort, naming, tables
from vbmstat.batch import estimate, resources
from vbmstat.batch.claim import claim, sweep, tables_claim
from vbmstat.batch.collect import cohort_of, write_cohort
from vbmstat.batch.manifest import write_inputs, write_manifest
from vbmstat.batch.options import Options, Process
from vbmstat.batch.plan import Places, Plan, completed, make_plan
from vbmstat.batch.status import Event, Status
from vbmstat.batch.task import ScanOutcome, ScanTask
from vbmstat.batch.workers import Work, Workers, workforce
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.runlog import FOLDER

FAILURE_COLUMNS = ["scan", "path", "step", "reason"]
_BUSY_POLL_S = 1.0


@dataclass(frozen=True)
class Result:
    """What a run has done.

    Attributes
    ----------
    out : Path
        Output folder.
    rows : dict of Scan to dict
        Cohort columns of the scans of this run that are complete.
    cohort : Cohort
        All complete scans, as in ``cohort.tsv``; of a shard its own scans, which it does not write there.
    failures : list of dict
        scan, path, step, reason of each scan that failed.
    failures_path : Path
        The table of them.
    is_whole : bool
        Whether no scan was left out because another had failed.
    """

    out: Path
    rows: dict[naming.Scan, dict[str, Any]]
    cohort: cohort.Cohort
    failures: list[dict[str, str]]
    failures_path: Path
    is_whole: bool = True


def preprocess(
    inputs: Places,
    out: Path | str | None = None,
    *,
    participants: Path | str | None = None,
    device: str = "auto",
    engine: str = "classic",
    names: str = "cat12",
    force: bool = False,
    jobs: int | None = 1,
    memory_gb: float | None = None,
    shard: tuple[int, int] | None = None,
    stop_on_first_failure: bool = False,
    locking: bool = True,
    weights: str | None = None,
    workers: Workers | None = None,
    process: Process | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
) -> cohort.Cohort:
    """Preprocess T1-weighted scans into smoothed, modulated tissue maps.

    Parameters
    ----------
    inputs : path, iterable of path, or Inputs
        BIDS folders, folders of images, or image files (.nii, .nii.gz, .mgz); or what
        :func:`vbmstat.inputs.find_inputs` found there.
    out : path, optional
        Output folder; ``derivatives/vbmstat`` in a BIDS folder, else ``vbmstat-out`` in the working folder.
    participants : path, optional
        Table of covariates; the BIDS folder's participants.tsv by default.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    engine : {"classic", "cat", "deep"}
        Preprocessing engine; ``cat`` needs the extra ``vbmstat[cat]``, ``deep`` networks.
    names : {"cat12", "bids"}
        How outputs are called.
    force : bool
        Whether to run scans again that are complete.
    jobs : int, optional
        Scans worked at together, each in a process of its own; 1 is this process. None takes as many as cores and
        memory allow. A script that asks for more than 1 must be guarded by ``if __name__ == "__main__":``.
    memory_gb : float, optional
        Memory that all of them may take together, GB; nine tenths of what is free by default.
    shard : (int, int), optional
        Do the i-th of n parts only, from 1 to n, and leave the tables to a run without a shard.
    stop_on_first_failure : bool
        Whether to leave the rest undone when a scan fails.
    locking : bool
        Whether to keep other runs from the scans under way; off only where files cannot be locked.
    weights : str, optional
        Networks of the engine `deep`: ``deepmriprep`` (default), ``vbmstat`` or a folder.
    workers : Workers, optional
        Other processes to give the scans to, in place of `jobs`, such as those of a cluster.
    process : callable, optional
        What makes maps of a scan in place of the engine; see :class:`vbmstat.batch.options.Process`.
    on_event : callable
        Told of every step, scan done and failure.

    Returns
    -------
    Cohort
        The scans that are complete, as in ``cohort.tsv``: those of this run, and those of earlier runs into the same
        folder. Of a shard, its own scans.

    Raises
    ------
    VbmstatError
        If no scan is found, an option is unknown, the participants table cannot be used, or every scan fails.
    """
    options = Options(
        engine=engine, device=device, names=names, force=force, locking=locking, weights=weights, process=process
    )  # fmt: skip
    plan = make_plan(inputs, out, options, participants=participants, shard=shard)
    return run_plan(
        plan, jobs=jobs, memory_gb=memory_gb, stop_on_first_failure=stop_on_first_failure, workers=workers,
        on_event=on_event,
    ).cohort  # fmt: skip


def run_plan(
    plan: Plan,
    *,
    jobs: int | None = 1,
    memory_gb: float | None = None,
    stop_on_first_failure: bool = False,
    workers: Workers | None = None,
    on_event: Callable[[Event], None] = lambda _: None,
    on_start: Callable[[str], None] = lambda _: None,
) -> Result:
    """Do what is planned; parameters and errors are those of :func:`preprocess`.

    Parameters
    ----------
    on_start : callable
        Told once how the machine is shared out, in a sentence.
    """
    _check_writable(plan.out)
    sweep(plan.out, plan.options.locking)
    with tables_claim(plan.out, plan.options.locking):
        write_manifest(plan.out, plan.manifest)
        if plan.shard is None:
            write_inputs(plan.out, plan.inputs)
    status = Status(plan.out / FOLDER / plan.in_logs("status", ".jsonl"), plan.id, len(plan.tasks), on_event)
    progress = _Progress(plan, status)
    for scan, row in completed(plan).items():
        progress.add(ScanOutcome(scan, "resumed", row))
    todo = [task for task in plan.tasks if task.scan not in progress.rows]
    share = share_out(plan, len(todo), jobs, memory_gb)
    on_start(estimate.sharing(share, workers))
    status.write("start", scans=len(plan.tasks), complete=len(progress.rows), jobs=share.jobs, threads=share.threads)
    try:
        with workforce(share, plan.options.device, workers) as work:
            progress.work_off(todo, work, stop_on_first_failure)
    except BaseException:
        status.write("stopped", complete=len(progress.rows), failed=len(progress.failures))
        raise
    finally:
        sweep(plan.out, plan.options.locking)
    status.write("end", complete=len(progress.rows), failed=len(progress.failures))
    return _finished(plan, progress)


def share_out(plan: Plan, n_todo: int, jobs: int | None, memory_gb: float | None) -> resources.Allotment:
    """How this machine is shared out among the scans of a plan."""
    a_scan = estimate.memory_bytes(plan.options.workload, estimate.grids(plan.tasks))
    return resources.allot(resources.probe(plan.options.device), len(plan.tasks), a_scan, jobs, memory_gb, n_todo)


@dataclass
class _Progress:
    """The scans at their end."""

    plan: Plan
    status: Status
    rows: dict[naming.Scan, dict[str, Any]] = field(default_factory=dict)
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
        elif outcome.row is not None:
            self.rows[outcome.scan] = outcome.row
        self.status.end(outcome)

    def work_off(self, tasks: Sequence[ScanTask], work: Work, stop_on_first_failure: bool) -> None:
        """Until none is left; scans that another run works at come again when it has let them go."""
        by_stem = {task.scan.stem: task for task in tasks}
        waiting, busy = list(tasks), list[ScanTask]()
        while waiting:
            with contextlib.closing(work(waiting, lambda task, step: self.status.step(task.scan, step))) as outcomes:
                for outcome in outcomes:
                    self.add(outcome)
                    if outcome.status == "busy":
                        busy.append(by_stem[outcome.scan.stem])
                    if outcome.status == "failed" and stop_on_first_failure:
                        self.is_whole = False
                        return
            waiting, busy = _when_free(busy)


def _when_free(tasks: list[ScanTask]) -> tuple[list[ScanTask], list[ScanTask]]:
    """Wait until others have let go of some scans: those, and those that they still have."""
    free: list[ScanTask] = []
    while tasks and not free:
        time.sleep(_BUSY_POLL_S)
        free = [task for task in tasks if _is_free(task)]
    return free, [task for task in tasks if task not in free]


def _is_free(task: ScanTask) -> bool:
    held = claim(task.out, task.scan.stem, task.options.locking)
    if held is not None:
        held.release()
    return held is not None


def _finished(plan: Plan, progress: _Progress) -> Result:
    """Write the tables of the whole cohort; a shard writes none but its failures."""
    path = write_failures(plan, progress.failures)
    rows = {task.scan: progress.rows[task.scan] for task in plan.tasks if task.scan in progress.rows}
    if not rows and progress.failures:
        msg = (
            f"none of {len(plan.tasks)} scans could be preprocessed; first reason: {progress.failures[0]['reason']}"
        )
        raise ScanError(msg)
    if plan.shard is None:
        with tables_claim(plan.out, plan.options.locking):
            whole = write_cohort(plan.out, rows, plan.scans, plan.people, plan.options.names, plan.options.engine)
        sweep(plan.out, plan.options.locking)
    else:
        whole = cohort_of(plan.out, rows, plan.people, plan.options.names, plan.options.engine)
    return Result(plan.out, rows, whole, progress.failures, path, progress.is_whole)


def write_failures(plan: Plan, failures: list[dict[str, str]]) -> Path:
    """Write ``failures.tsv``; of a shard, a table of its own among the logs."""
    folder = plan.out if plan.shard is None else plan.out / FOLDER
    path = folder / plan.in_logs("failures", ".tsv")
    with tables_claim(plan.out, plan.options.locking):
        tables.write_table(path, pd.DataFrame(failures, columns=FAILURE_COLUMNS), "failures")
    return path


def read_failures(folder: Path) -> pd.DataFrame:
    """The scans that failed in a run: scan, path, step, reason."""
    return pd.read_csv(folder / "failures.tsv", sep="\t", dtype=str, keep_default_na=False)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder}: cannot create the output folder ({error.strerror}); give another one with --out"
        raise VbmstatError(msg) from error
    if not os.access(folder, os.W_OK):
        msg = f"{folder}: the output folder is read-only; give another one with --out"
        raise VbmstatError(msg)
