"""Run scan tasks in this process, in processes of this machine, or in any `concurrent.futures` executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import torch

from vbmstat.batch.claim import steps_in_progress
from vbmstat.batch.resources import Allotment
from vbmstat.batch.task import ScanOutcome, ScanRun, ScanTask, reason_of, run_scan
from vbmstat.device import THREAD_VARIABLES, keep_freed_memory

OnTaskStep = Callable[[ScanTask, str], None]  # a scan, and the step that begins
Work = Callable[[Sequence[ScanTask], OnTaskStep], Generator[ScanOutcome, None, None]]
_POLL_S = 1.0  # interval at which the steps of other processes are read
_KILLED = "its process was killed at the step {step}, most likely because memory ran out; free memory, lower --jobs or "
_KILLED += "--memory, or use a larger machine"


@dataclass(frozen=True)
class Workers:
    """Other processes that run scans.

    Attributes
    ----------
    make : callable
        ``make(n)`` returns an executor with n workers: anything with `submit` and `shutdown` and `concurrent.futures`
        futures (such as `distributed.Client.get_executor`). It is called again when an executor breaks.
    slots : int
        Scans submitted at once; memory does not grow with it, as outcomes are small.
    """

    make: Callable[[int], Executor]
    slots: int


@contextlib.contextmanager
def workforce(share: Allotment, device: str, given: Workers | None = None) -> Iterator[Work]:
    """The given workers, or this process with one scan at a time, or processes of this machine."""
    if given is not None:
        yield lambda tasks, on_step: run_elsewhere(tasks, given, on_step)
    elif share.jobs == 1:
        torch.set_num_threads(share.threads)
        yield run_here
    else:
        with local_workers(share.jobs, share.threads, device) as local:
            yield lambda tasks, on_step: run_elsewhere(tasks, local, on_step)


def run_here(tasks: Sequence[ScanTask], on_step: OnTaskStep) -> Generator[ScanOutcome, None, None]:
    """Run scans in this process: compute one while threads read the next and write the last (three scans in memory)."""
    waiting = iter(tasks)
    current: list[ScanRun] = []  # begun, not yet written
    with contextlib.ExitStack() as clean:
        clean.callback(_close, current)  # last: after the threads' end
        reader, writer = (clean.enter_context(ThreadPoolExecutor(1, name)) for name in ("read", "write"))

        def begin() -> Future[ScanRun] | None:
            task = next(waiting, None)
            if task is None:
                return None
            run = ScanRun(task, lambda step: on_step(task, step))
            current.append(run)
            return reader.submit(_read, run)

        reading, writing = begin(), None
        while reading is not None:
            run = reading.result()
            reading = begin()
            run.process()
            if writing is not None:
                yield writing.result()
            writing = writer.submit(_write, run, current)
        if writing is not None:
            yield writing.result()


def _close(runs: list[ScanRun]) -> None:
    for run in runs:
        run.close()


def _read(run: ScanRun) -> ScanRun:
    run.read()
    return run


def _write(run: ScanRun, current: list[ScanRun]) -> ScanOutcome:
    with run:
        outcome = run.write()
    current.remove(run)
    return outcome


def run_elsewhere(
    tasks: Sequence[ScanTask], workers: Workers, on_step: OnTaskStep
) -> Generator[ScanOutcome, None, None]:
    """Run scans in other processes; a process that dies fails no other scan.

    When an executor breaks, any running scan may be the cause: each is run again, alone on a new executor, and fails if
    that breaks too. From then on, one scan fewer runs at once.

    Parameters
    ----------
    tasks : sequence of ScanTask
        The scans.
    workers : Workers
        The other processes.
    on_step : callable
        Called with each scan and step that begins, read from the lock files: steps under a second may be missed.
    """
    waiting, running = deque(tasks), dict[Future[ScanOutcome], ScanTask]()
    slots, executor, seen = workers.slots, workers.make(workers.slots), dict[str, str]()
    try:
        while waiting or running:
            with contextlib.suppress(BrokenExecutor):  # the futures show it too
                while waiting and len(running) < slots:
                    running[executor.submit(run_scan, waiting[0])] = waiting[0]
                    waiting.popleft()
            if not running:  # it broke while idle
                executor = workers.make(slots)
                continue
            finished, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            _report_steps(running.values(), seen, on_step)
            suspects = []
            for future in finished:
                task = running.pop(future)
                outcome = _outcome(future, task)
                if outcome is None:
                    suspects.append(task)
                else:
                    yield outcome
            if suspects:
                suspects += running.values()
                running.clear()
                stop(executor)
                for task in suspects:
                    yield _alone(task, workers)
                slots = max(slots - 1, 1)
                executor = workers.make(slots)
    finally:
        stop(executor)


def _outcome(future: Future[ScanOutcome], task: ScanTask) -> ScanOutcome | None:
    """The outcome of a scan; None if its executor broke."""
    try:
        return future.result()
    except BrokenExecutor:
        return None
    except Exception as error:  # from the executor itself, e.g. a task that it cannot pickle
        step = steps_in_progress(task.out).get(task.scan.stem) or "start"
        return ScanOutcome(task.scan, "failed", step=step, reason=reason_of(error, task.scan))


def _alone(task: ScanTask, workers: Workers) -> ScanOutcome:
    executor = workers.make(1)
    try:
        outcome = _outcome(executor.submit(run_scan, task), task)
    finally:
        stop(executor)
    if outcome is not None:
        return outcome
    step = steps_in_progress(task.out).get(task.scan.stem) or "start"
    reason = f"{task.scan.stem}: {_KILLED.format(step=step)}"
    return ScanOutcome(task.scan, "failed", step=step, reason=reason)


def _report_steps(tasks: Any, seen: dict[str, str], on_step: OnTaskStep) -> None:
    """Report new steps in the lock files."""
    by_stem = {task.scan.stem: task for task in tasks}
    if not by_stem:
        return
    for stem, step in steps_in_progress(next(iter(by_stem.values())).out).items():
        if step and stem in by_stem and seen.get(stem) != step:
            seen[stem] = step
            on_step(by_stem[stem], step)


def stop(executor: Executor) -> None:
    """Stop an executor now; scans in progress are abandoned, and the next run repeats them."""
    processes = list((getattr(executor, "_processes", None) or {}).values())  # other executors have none
    executor.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    for process in processes:
        process.join()


@contextlib.contextmanager
def local_workers(jobs: int, threads: int, device: str = "cpu") -> Iterator[Workers]:
    """Spawned processes with some threads each, spread over GPUs; they ignore Ctrl-C and end with their parent."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))  # read by the processes before they load torch
    context = multiprocessing.get_context("spawn")

    def make(n: int) -> Executor:
        gpus = context.SimpleQueue()
        for number in range(n):
            gpus.put(number)
        return ProcessPoolExecutor(n, context, _start_worker, (threads, device, gpus))

    try:
        yield Workers(make, jobs)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _start_worker(threads: int, device: str, gpus: Any) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to the whole group, or SLURM job: the parent ends us
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    keep_freed_memory()
    set_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(gpus.get() % torch.cuda.device_count())
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def set_threads(threads: int) -> None:
    """Limit the threads of all computation in this process."""
    torch.set_num_threads(threads)
    with contextlib.suppress(RuntimeError):  # it can be set only once, before any work
        torch.set_num_interop_threads(1)


def _end_with(sentinel: int) -> None:
    """End this process when its parent has ended for any reason."""
    connection.wait([sentinel])
    os._exit(1)
