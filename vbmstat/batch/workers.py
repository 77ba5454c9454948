"""Run tasks in this process, in processes of this machine, or in any `concurrent.futures` executor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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
from vbmstat.batch.task import ScanOutcome, Task, TaskRun, run_task
from vbmstat.device import THREAD_VARIABLES, keep_freed_memory

OnTaskStep = Callable[[Task, str], None]  # a task, and the step that begins
Work = Callable[[Sequence[Task], OnTaskStep], Generator[ScanOutcome, None, None]]
_POLL_S = 1.0  # interval at which the steps of other processes are read
_KILLED = "its process was killed at the step {step}, most likely because memory ran out; free memory, lower --jobs or "
_KILLED += "--memory, or use a larger machine"


@dataclass(frozen=True)
class Workers:
    """Other processes that run scans."""

    # ``make(n)`` returns an executor with n workers: anything with `submit` and `shutdown` and `concurrent.futures`
    # futures (such as `distributed.Client.get_executor`). It is called again when an executor breaks
    make: Callable[[int], Executor]
    slots: int  # scans submitted at once; memory does not grow with it, as outcomes are small


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


def run_here(tasks: Sequence[Task], on_step: OnTaskStep) -> Generator[ScanOutcome, None, None]:
    """Run scans in this process: compute one while threads read the next and write the last (three scans in memory)."""
    waiting = iter(tasks)
    current: list[TaskRun] = []  # begun, not yet written
    with contextlib.ExitStack() as clean:
        clean.callback(_close, current)  # last: after the threads' end
        reader, writer = (clean.enter_context(ThreadPoolExecutor(1, name)) for name in ("read", "write"))

        def begin() -> Future[TaskRun] | None:
            task = next(waiting, None)
            if task is None:
                return None
            run = TaskRun(task, lambda step: on_step(task, step))
            current.append(run)
            return reader.submit(_read, run)

        reading, writing = begin(), None
        while reading is not None:
            run = reading.result()
            reading = begin()
            run.process()
            if writing is not None:
                yield from writing.result()
            writing = writer.submit(_write, run, current)
        if writing is not None:
            yield from writing.result()


def _close(runs: list[TaskRun]) -> None:
    for run in runs:
        run.close()


def _read(run: TaskRun) -> TaskRun:
    run.read()
    return run


def _write(run: TaskRun, current: list[TaskRun]) -> list[ScanOutcome]:
    with run:
        outcomes = run.write()
    current.remove(run)
    return outcomes


def run_elsewhere(tasks: Sequence[Task], workers: Workers, on_step: OnTaskStep) -> Generator[ScanOutcome, None, None]:
    """Run scans in other processes; a process that dies fails no other scan.

    When an executor breaks, any running scan may be the cause: each is run again, alone on a new executor, and fails if
    that breaks too. From then on, one scan fewer runs at once.

    Parameters
    ----------
    tasks : sequence of Task
        Scans, or people with all their scans.
    workers : Workers
        The other processes.
    on_step : callable
        Called with each scan and step that begins, read from the lock files: steps under a second may be missed.
    """
    waiting, running = deque(tasks), dict[Future[list[ScanOutcome]], Task]()
    slots, executor, seen = workers.slots, workers.make(workers.slots), dict[str, str]()
    try:
        while waiting or running:
            with contextlib.suppress(BrokenExecutor):  # the futures show it too
                while waiting and len(running) < slots:
                    running[executor.submit(run_task, waiting[0])] = waiting[0]
                    waiting.popleft()
            if not running:  # it broke while idle
                executor = workers.make(slots)
                continue
            finished, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            _report_steps(running.values(), seen, on_step)
            suspects = []
            for future in finished:
                task = running.pop(future)
                outcomes = _outcomes(future, task)
                if outcomes is None:
                    suspects.append(task)
                else:
                    yield from outcomes
            if suspects:
                suspects += running.values()
                running.clear()
                stop(executor)
                for task in suspects:
                    yield from _alone(task, workers)
                slots = max(slots - 1, 1)
                executor = workers.make(slots)
    finally:
        stop(executor)


def _outcomes(future: Future[list[ScanOutcome]], task: Task) -> list[ScanOutcome] | None:
    """The outcomes of a task; None if its executor broke."""
    try:
        return future.result()
    except BrokenExecutor:
        return None
    except Exception as error:  # from the executor itself, e.g. a task that it cannot pickle
        reasons = {scan: task.reason(error, scan) for scan in task.scans}
        return [ScanOutcome(scan, "failed", step=_step(task), reason=why) for scan, why in reasons.items()]


def _alone(task: Task, workers: Workers) -> list[ScanOutcome]:
    executor = workers.make(1)
    try:
        outcomes = _outcomes(executor.submit(run_task, task), task)
    finally:
        stop(executor)
    if outcomes is not None:
        return outcomes
    step = _step(task)
    reasons = {scan: f"{scan.stem}: {_KILLED.format(step=step)}" for scan in task.scans}
    return [ScanOutcome(scan, "failed", step=step, reason=why) for scan, why in reasons.items()]


def _step(task: Task) -> str:
    """The step of a task in another process, from its lock file."""
    return steps_in_progress(task.out).get(task.scans[0].stem) or "start"


def _report_steps(tasks: Iterable[Task], seen: dict[str, str], on_step: OnTaskStep) -> None:
    """Report new steps in the lock files."""
    by_stem = {task.scans[0].stem: task for task in tasks}
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
