"""Workers in other processes and on other machines: a dask cluster as a map whose results outlive its workers.

A worker runs one task at a time on one thread. What a task needs beside its item is sent to a worker once; a task
whose worker dies is run again by another one, and results come in the order of the items, so that nothing depends on
how many workers there are or on how long they live.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from vbmstat import __version__
from vbmstat.device import keep_freed_memory, n_cores
from vbmstat.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Client, Future
    from distributed.deploy import Cluster as DaskCluster

Item = TypeVar("Item")
Result = TypeVar("Result")
LOCAL, SLURM = "local", "slurm"
DEATHS = 3  # of workers at one task before it is given up: with more, a task that eats memory empties a cluster
_CONNECT_SECONDS = 10
_PATIENCE_SECONDS = 10  # without a worker before the user is told what is waited for
_SLURM_WORKERS, _SLURM_MEMORY = 2, "4 GB"
_KEPT_JOBS = 2  # that a worker holds unpacked
_SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # a task that waits for another one could die with its worker
    "distributed.admin.large-graph-warning-threshold": "1 TB",  # a job is sent once, however large
    "distributed.comm.timeouts.connect": f"{_CONNECT_SECONDS}s",
}
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

    def _submit(self, job: Callable[[Item], Result], items: Iterable[Item]) -> list[Future]:
        """A task an item; the job is a task, too, so that it is there again after the death of its worker."""
        sent = self._client.submit(bytes, pickle.dumps(job), pure=False)
        name = uuid4().hex
        return [self._client.submit(_run, sent, name, item, versions(), pure=False) for item in items]


def _result(future: Future) -> Any:
    """A task's result; what went wrong on the cluster as one line."""
    from distributed import KilledWorker  # noqa: PLC0415 - an extra
    from distributed.client import FutureCancelledError  # noqa: PLC0415

    try:
        return future.result()
    except KilledWorker as error:
        msg = (
            f"{error.allowed_failures + 1} workers died at the same task (the last: {error.last_worker.address}); "
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
    """One task, on a worker."""
    with _lock:
        if name not in _jobs:
            _check_versions(expected)
            keep_freed_memory()
            _jobs[name] = pickle.loads(job)  # noqa: S301 - from the scheduler, which may run what it likes here
        while len(_jobs) > _KEPT_JOBS:
            _jobs.popitem(last=False)
        found = _jobs[name]
    return found(item)


def _check_versions(expected: dict[str, str]) -> None:
    own = versions()
    for package, version in expected.items():
        if own[package] != version:
            msg = f"a worker has {package} {own[package]}, expected {version}; give all machines one environment"
            raise ClusterError(msg)


@contextmanager
def open_cluster(
    scheduler: str | None,
    *,
    workers: int | None = None,
    cores: int = 1,
    memory: str | None = None,
    folder: Path | None = None,
) -> Iterator[Cluster | None]:
    """Connect to a dask scheduler, or start one with its workers.

    Parameters
    ----------
    scheduler : str, optional
        ``local``: processes of this machine; ``slurm``: jobs of a SLURM cluster; else the address of a running
        scheduler (``tcp://host:8786``, ``tls://…``), whose workers then are what they are. None: no cluster.
    workers : int, optional
        How many processes or jobs to start; by default one for every `cores` of this machine, and 2 jobs. A job that
        ends, whatever the reason, is replaced.
    cores : int
        CPUs of a worker; its tasks run one at a time.
    memory : str, optional
        Of a worker, such as ``"4 GB"``: dask restarts one that takes more. A local one has an even share of this
        machine's by default; for a SLURM job, ``jobqueue.slurm.memory`` in dask's configuration goes before it.
    folder : Path, optional
        Of the SLURM jobs' logs, on a file system that all machines share; by default the working folder. The key of
        the run's TLS certificate lies there, too, readable by its owner alone, as long as the run lasts.

    Yields
    ------
    Cluster or None
        Workers that are started here speak TLS, so that nobody else on the network can send them work.

    Raises
    ------
    ClusterError
        If dask is not installed, the scheduler does not answer, or SLURM is not there or takes no job.
    """
    if scheduler is None:
        yield None
        return
    try:
        import dask  # noqa: PLC0415 - an extra
        from distributed import Client  # noqa: PLC0415
    except ImportError as error:
        msg = f"--scheduler {scheduler} needs dask; install vbmstat[cluster]"
        raise ClusterError(msg) from error
    where: DaskCluster | str = scheduler
    wanted = 1
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        if scheduler == LOCAL:
            wanted = workers or max(n_cores() // cores, 1)
            where = stack.enter_context(_local(wanted, memory))
        elif scheduler == SLURM:
            wanted = workers or _SLURM_WORKERS
            where = stack.enter_context(_slurm(wanted, cores, memory, folder or Path.cwd()))
        try:
            client = stack.enter_context(Client(where, timeout=_CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            msg = f"no dask scheduler answers at {scheduler}; expected local, slurm, or an address such as tcp://host:8786"
            raise ClusterError(msg) from error
        yield Cluster(client, scheduler, wanted)


def _local(workers: int, memory: str | None) -> DaskCluster:
    """Processes of this machine."""
    from distributed import LocalCluster, Security  # noqa: PLC0415

    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, memory_limit=memory or "auto",
        security=Security.temporary(), dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
    )  # fmt: skip


def _slurm(workers: int, cores: int, memory: str | None, folder: Path) -> DaskCluster:
    """Jobs of a SLURM cluster; what else a job needs (partition, account, time) is in dask's own configuration."""
    import dask  # noqa: PLC0415
    from dask_jobqueue import SLURMCluster  # noqa: PLC0415
    from distributed import Security  # noqa: PLC0415

    if shutil.which("sbatch") is None:
        msg = "--scheduler slurm: there is no sbatch here; run it on a machine from which jobs are submitted"
        raise ClusterError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    cluster = SLURMCluster(
        cores=1, processes=1, job_cpu=cores, job_name="vbmstat", security=Security.temporary(),
        protocol="tls://", shared_temp_directory=str(folder), log_directory=str(folder), python=sys.executable,
        memory=dask.config.get("jobqueue.slurm.memory") or memory or _SLURM_MEMORY,
        scheduler_options={"dashboard_address": ":0"}, silence_logs=logging.CRITICAL,
    )  # fmt: skip
    try:
        _check_job(cluster.job_script())
        cluster.adapt(minimum=workers, maximum=workers)  # keeps so many: a job that ends is replaced
    except BaseException:
        cluster.close()
        raise
    return cluster


def _check_job(script: str) -> None:
    """Ask SLURM whether it would take a job: dask submits them later, where nobody sees the reason of a refusal."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        found = subprocess.run(  # noqa: S603 - the user's own SLURM
            ["sbatch", "--test-only", file.name], capture_output=True, text=True, check=False  # noqa: S607
        )
    if found.returncode:
        reason = " ".join(found.stderr.split()) or f"exit code {found.returncode}"
        msg = f"SLURM takes no job of vbmstat: {reason}; set partition, account, time in ~/.config/dask/jobqueue.yaml"
        raise ClusterError(msg)


def _wait_for_a_worker(client: Client, scheduler: str) -> None:
    """Return when there is a worker; say what is waited for if that takes long, as it may in a queue."""
    began = time.monotonic()
    is_told = False
    while not client.nthreads():
        if not is_told and time.monotonic() - began > _PATIENCE_SECONDS:
            log.warning("waiting for the first worker of %s%s", scheduler, _HINT.get(scheduler, _HINT[""]))
            is_told = True
        time.sleep(0.1)


_HINT = {SLURM: " (squeue --me; the jobs' logs are in the output folder)", LOCAL: "", "": " (dask worker ADDRESS)"}
