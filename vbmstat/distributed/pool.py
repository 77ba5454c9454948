"""Workers in other processes and on other machines: a dask cluster as a map whose results outlive its workers.

A worker runs one task at a time on one thread. What a task needs beside its item is sent to a worker once; a task
whose worker dies is run again by another one, and results come in the order of the items, so that nothing depends on
how many workers there are or on how long they live.
"""

from __future__ import annotations

import logging
import pickle
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from concurrent.futures import Future as PlainFuture
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from vbmstat import __version__
from vbmstat.device import keep_freed_memory
from vbmstat.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client, Future

Item = TypeVar("Item")
Result = TypeVar("Result")
_KEPT_JOBS = 2  # that a worker holds unpacked
_PATIENCE_SECONDS = 10  # without a worker before the user is told what is waited for
log = logging.getLogger(__name__)


class Cluster:
    """Workers of a dask scheduler.

    Parameters
    ----------
    client : distributed.Client
        Connected to the scheduler.
    scheduler : str
        What the user calls it.
    wanted : int
        Workers that were asked for; some may still wait in a queue.
    """

    def __init__(self, client: Client, scheduler: str, wanted: int = 1) -> None:
        self._client, self._scheduler, self._wanted = client, scheduler, wanted

    @property
    def n_workers(self) -> int:
        """Tasks that will run at a time: one a thread of each worker."""
        return max(sum(self._client.nthreads().values()), self._wanted)

    def map(self, job: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results of ``job(item)`` in the order of the items, as soon as each and all before it are there.

        Parameters
        ----------
        job : callable
            Can be pickled; sent to each worker once. It must not matter how often and where it runs.
        items : iterable
            Small; can be pickled.

        Raises
        ------
        ClusterError
            If a task's workers die again and again, or a worker has other versions or does not see a file.
        """
        _wait_for_a_worker(self._client, self._scheduler)
        futures = self._submit(job, items)
        try:
            while futures:
                yield _result(futures.pop(0))
        finally:
            self._client.cancel(futures)

    def executor(self) -> Executor:
        """The workers as an executor of `concurrent.futures`: for tasks that are not alike and come one by one.

        A future fails with ClusterError as :meth:`map` does. Shutting the executor down gives up what is not done.
        """
        _wait_for_a_worker(self._client, self._scheduler)
        return _ClusterExecutor(self._client)

    def _submit(self, job: Callable[[Item], Result], items: Iterable[Item]) -> list[Future]:
        """A task an item; the job is a task, too, so that it is there again after the death of its worker."""
        sent = self._client.submit(bytes, pickle.dumps(job), pure=False)
        name = uuid4().hex
        return [self._client.submit(_run, sent, name, item, versions(), pure=False) for item in items]


class _ClusterExecutor(Executor):
    """An executor whose tasks outlive workers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._under_way: set[Future] = set()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> PlainFuture[Result]:
        """Have a worker call ``fn(*args, **kwargs)``."""
        given: PlainFuture[Result] = PlainFuture()
        given.set_running_or_notify_cancel()
        future = self._client.submit(_call, partial(fn, *args, **kwargs), versions(), pure=False)
        self._under_way.add(future)
        future.add_done_callback(partial(self._pass_on, to=given))
        return given

    def _pass_on(self, future: Future, to: PlainFuture[Any]) -> None:
        self._under_way.discard(future)
        try:
            to.set_result(_result(future))
        except Exception as error:  # whoever waits is told
            to.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Give up what is not done; workers stay."""
        self._client.cancel(list(self._under_way))


def _result(future: Future) -> Any:
    """A task's result; what went wrong on the cluster as one line."""
    from distributed import KilledWorker  # noqa: PLC0415 - an extra
    from distributed.client import FutureCancelledError  # noqa: PLC0415

    try:
        return future.result()
    except KilledWorker as error:
        msg = (
            f"{error.allowed_failures + 1} worker(s) died at the same task (the last: {error.last_worker.address}); "
            "most likely for want of memory: give each more, or start fewer on a machine"
        )
        raise ClusterError(msg) from error
    except FutureCancelledError as error:
        msg = "the scheduler went away or dropped the work; start it again and run the command once more"
        raise ClusterError(msg) from error
    except FileNotFoundError as error:
        msg = f"a worker does not see {error.filename}; put it on a file system that all machines share"
        raise ClusterError(msg) from error


def versions() -> dict[str, str]:
    """What workers must have in common with the process that sends them work."""
    python = ".".join(map(str, sys.version_info[:2]))
    return {"vbmstat": __version__, "python": python, **{p: metadata.version(p) for p in ("numpy", "torch")}}


_jobs: OrderedDict[str, Any] = OrderedDict()  # of this worker
_lock = threading.Lock()


def _run(job: bytes, name: str, item: Any, expected: dict[str, str]) -> Any:
    """One task of a job, on a worker."""
    with _lock:
        if name not in _jobs:
            _make_ready(expected)
            _jobs[name] = pickle.loads(job)  # noqa: S301 - from the scheduler, which may run what it likes here
        while len(_jobs) > _KEPT_JOBS:
            _jobs.popitem(last=False)
        found = _jobs[name]
    return found(item)


def _call(task: Callable[[], Result], expected: dict[str, str]) -> Result:
    """One task on its own, on a worker."""
    _make_ready(expected)
    return task()


def _make_ready(expected: dict[str, str]) -> None:
    """Make a worker one that keeps its memory, after a look at what it is."""
    from distributed import get_worker  # noqa: PLC0415 - an extra

    _check_versions(expected)
    keep_freed_memory()
    get_worker().memory_manager.memory_pause_fraction = False  # kept memory would stop it for ever


def _check_versions(expected: dict[str, str]) -> None:
    own = versions()
    for package, version in expected.items():
        if own[package] != version:
            msg = f"a worker has {package} {own[package]}, expected {version}; give all machines one environment"
            raise ClusterError(msg)


def _wait_for_a_worker(client: Client, scheduler: str) -> None:
    """Return when there is a worker; say what is waited for if that takes long, as it may in a queue."""
    began = time.monotonic()
    is_told = False
    while not client.nthreads():
        if not is_told and time.monotonic() - began > _PATIENCE_SECONDS:
            hint = "see squeue --me, and the jobs' logs" if scheduler == "slurm" else "start it with dask worker"
            log.warning("waiting for the first worker of %s (%s)", scheduler, hint)
            is_told = True
        time.sleep(0.1)
