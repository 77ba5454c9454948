"""A dask cluster as an ordered map whose results survive the death of workers.

A worker runs one task at a time on one thread. The job is sent to each worker once, and a task whose worker dies is
run again by another. Results come in the order of the items, so that they do not depend on the number of workers or on
how long workers live.
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
_KEPT_JOBS = 2  # unpickled jobs that a worker keeps
_PATIENCE_SECONDS = 10  # wait for the first worker before a warning
log = logging.getLogger(__name__)


class Cluster:
    """Workers of a dask scheduler.

    Parameters
    ----------
    client : distributed.Client
        Client connected to the scheduler.
    scheduler : str
        The user's name for it, as in ``--scheduler``.
    wanted : int
        Number of workers requested; some may still be queued.
    """

    def __init__(self, client: Client, scheduler: str, wanted: int = 1) -> None:
        self._client, self._scheduler, self._wanted = client, scheduler, wanted

    @property
    def n_workers(self) -> int:
        """Number of tasks that run at a time, one per worker thread."""
        return max(int(sum(self._client.nthreads().values())), self._wanted)

    def map(self, job: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield ``job(item)`` in the order of the items, each as soon as it and all earlier ones are done.

        Parameters
        ----------
        job : callable
            Picklable; sent to each worker once. It must be safe to run more than once and on any worker.
        items : iterable
            Small, picklable items.

        Raises
        ------
        ClusterError
            If the workers of a task die repeatedly, a worker has different versions, or it cannot see a file.
        """
        _wait_for_a_worker(self._client, self._scheduler)
        futures = self._submit(job, items)
        try:
            while futures:
                yield _result(futures.pop(0))
        finally:
            self._client.cancel(futures)

    def executor(self) -> Executor:
        """The workers as an executor of `concurrent.futures`, for different tasks that arrive one by one.

        Its futures raise ClusterError like :meth:`map`. Shutting it down cancels unfinished tasks.
        """
        _wait_for_a_worker(self._client, self._scheduler)
        return _ClusterExecutor(self._client)

    def _submit(self, job: Callable[[Item], Result], items: Iterable[Item]) -> list[Future[Any]]:
        """One task per item; the job is a task itself, so that dask recreates it if its worker dies."""
        sent = self._client.submit(bytes, pickle.dumps(job), pure=False)
        name = uuid4().hex
        return [self._client.submit(_run, sent, name, item, versions(), pure=False) for item in items]


class _ClusterExecutor(Executor):
    """An executor whose tasks survive the death of workers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._under_way: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> PlainFuture[Result]:
        """Run ``fn(*args, **kwargs)`` on a worker."""
        result: PlainFuture[Result] = PlainFuture()
        result.set_running_or_notify_cancel()
        future = self._client.submit(_call, partial(fn, *args, **kwargs), versions(), pure=False)
        self._under_way.add(future)
        future.add_done_callback(partial(self._pass_on, to=result))
        return result

    def _pass_on(self, future: Future[Any], to: PlainFuture[Any]) -> None:
        self._under_way.discard(future)
        try:
            to.set_result(_result(future))
        except Exception as error:  # raised in the caller
            to.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel unfinished tasks; the workers stay."""
        self._client.cancel(list(self._under_way))


def _result(future: Future[Any]) -> Any:
    """Result of a task; a failure of the cluster becomes a one-line ClusterError."""
    from distributed import KilledWorker  # noqa: PLC0415 - an extra
    from distributed.client import FutureCancelledError  # noqa: PLC0415

    try:
        return future.result()
    except KilledWorker as error:
        msg = (
            f"{error.allowed_failures + 1} worker(s) died during the same task (last: {error.last_worker.address}), "
            "most likely out of memory; give each worker more, or start fewer per machine"
        )
        raise ClusterError(msg) from error
    except FutureCancelledError as error:
        msg = "the scheduler stopped or dropped the tasks; restart it and run the command again"
        raise ClusterError(msg) from error
    except FileNotFoundError as error:
        msg = f"a worker cannot see {error.filename}; put it on a file system that all machines share"
        raise ClusterError(msg) from error


def versions() -> dict[str, str]:
    """Versions that workers must share with the process that sends them tasks."""
    python = ".".join(map(str, sys.version_info[:2]))
    return {"vbmstat": __version__, "python": python, **{p: metadata.version(p) for p in ("numpy", "torch")}}


_jobs: OrderedDict[str, Any] = OrderedDict()  # unpickled jobs of this worker
_lock = threading.Lock()


def _run(job: bytes, name: str, item: Any, expected: dict[str, str]) -> Any:
    """Run a job on one item, on a worker."""
    with _lock:
        if name not in _jobs:
            _make_ready(expected)
            _jobs[name] = pickle.loads(job)  # noqa: S301 - from the scheduler, which may run any code here
        while len(_jobs) > _KEPT_JOBS:
            _jobs.popitem(last=False)
        unpickled = _jobs[name]
    return unpickled(item)


def _call(task: Callable[[], Result], expected: dict[str, str]) -> Result:
    """Run a single task, on a worker."""
    _make_ready(expected)
    return task()


def _make_ready(expected: dict[str, str]) -> None:
    """Check a worker's versions and let it keep freed memory."""
    from distributed import get_worker  # noqa: PLC0415 - an extra

    _check_versions(expected)
    keep_freed_memory()
    get_worker().memory_manager.memory_pause_fraction = False  # else kept memory would pause it for ever


def _check_versions(expected: dict[str, str]) -> None:
    own = versions()
    for package, version in expected.items():
        if own[package] != version:
            msg = f"a worker has {package} {own[package]}, expected {version}; install one environment on all machines"
            raise ClusterError(msg)


def _wait_for_a_worker(client: Client, scheduler: str) -> None:
    """Wait for the first worker; warn if that takes long, as in a queue."""
    began = time.monotonic()
    warned = False
    while not client.nthreads():
        if not warned and time.monotonic() - began > _PATIENCE_SECONDS:
            hint = "see squeue --me and the job logs" if scheduler == "slurm" else "start it with dask worker"
            log.warning("waiting for the first worker of %s (%s)", scheduler, hint)
            warned = True
        time.sleep(0.1)
