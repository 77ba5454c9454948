"""Workers for ``--scheduler``: of a running dask scheduler, local processes, or SLURM jobs."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vbmstat.device import THREAD_VARIABLES, n_cores
from vbmstat.distributed.pool import Cluster
from vbmstat.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Security
    from distributed.deploy.cluster import Cluster as DaskCluster

LOCAL, SLURM = "local", "slurm"
DEATHS = 3  # of workers before a task is given up; more would let a task that eats memory empty a cluster
_SLURM_WORKERS, _SLURM_MEMORY = 2, "4 GB"
_ROLES = ("scheduler", "worker", "client")
_CONNECT_SECONDS = 10
_SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # no queue on a worker: a queued task would die with it
    "distributed.deploy.lost-worker-timeout": "2 minutes",  # to restart a worker; slow on a busy machine
    "distributed.admin.large-graph-warning-threshold": "1 TB",  # a job is sent only once, so its size is no problem
}


@contextmanager
def open_cluster(
    scheduler: str | None,
    *,
    workers: int | None = None,
    cores: int = 1,
    memory: int | None = None,
    folder: Path | None = None,
) -> Iterator[Cluster | None]:
    """Connect to a dask scheduler, or start one with its workers.

    Parameters
    ----------
    scheduler : str, optional
        ``local``: processes on this machine; ``slurm``: jobs of a SLURM cluster; otherwise the address of a running
        scheduler (``tcp://host:8786``, ``tls://…``), whose workers are used as they are. None: no cluster.
    workers : int, optional
        Number of processes or jobs to start; by default one per `cores` cores of this machine, or 2 jobs. A job that
        ends for any reason is replaced.
    cores : int
        Threads of a worker, which runs one task at a time.
    memory : int, optional
        Bytes per worker; dask restarts a worker that exceeds them. By default an equal share of this machine's memory,
        or 4 GB per SLURM job. dask's own configuration of jobs (``jobqueue.slurm``: ``memory``, ``job-cpu``,
        ``queue``, ``account``, ``walltime`` …) takes precedence.
    folder : Path, optional
        Folder for the logs of SLURM jobs, on a file system that all machines share; by default the working folder.
        While the run lasts, it also holds the key of the run's TLS certificate, readable only by its owner.

    Yields
    ------
    Cluster or None
        Workers started here use TLS, so that nobody else on the network can send them tasks.

    Raises
    ------
    ClusterError
        If dask is not installed, the scheduler does not answer, or SLURM is missing or rejects the job.
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
    address: DaskCluster | str = scheduler
    wanted = 1
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_SETTINGS))
        stack.enter_context(_quiet(logging.getLogger("distributed")))
        if scheduler == LOCAL:
            wanted = workers or max(n_cores() // cores, 1)
            address = stack.enter_context(_local(wanted, cores, memory))
        elif scheduler == SLURM:
            wanted = workers or _SLURM_WORKERS
            address = stack.enter_context(_slurm(wanted, cores, memory, folder or Path.cwd()))
        try:
            client = stack.enter_context(Client(address, timeout=_CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            msg = f"no dask scheduler answers at {scheduler}; expected local, slurm, or an address such as tcp://host:8786"
            raise ClusterError(msg) from error
        yield Cluster(client, scheduler, wanted)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence dask, which logs every connection; users learn what matters from results and errors."""
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _local(workers: int, cores: int, memory: int | None) -> DaskCluster:
    """Processes on this machine."""
    from distributed import LocalCluster, Security  # noqa: PLC0415

    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, memory_limit=memory or "auto",
        security=Security.temporary(), dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        env=dict.fromkeys(THREAD_VARIABLES, str(cores)),
    )  # fmt: skip
    cluster.adapt(minimum=workers, maximum=workers)  # replaces workers that die
    return cluster


@contextmanager
def _slurm(workers: int, cores: int, memory: int | None, folder: Path) -> Iterator[DaskCluster]:
    """SLURM jobs; partition, account and time limit come from dask's own configuration."""
    import dask  # noqa: PLC0415
    from dask_jobqueue.slurm import SLURMCluster  # noqa: PLC0415

    if shutil.which("sbatch") is None:
        msg = "--scheduler slurm: sbatch not found; run the command on a machine that can submit jobs"
        raise ClusterError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    cores = dask.config.get("jobqueue.slurm.job-cpu") or cores
    job_memory = dask.config.get("jobqueue.slurm.memory") or memory or _SLURM_MEMORY
    before = dask.config.get("jobqueue.slurm.job-script-prologue")
    with ExitStack() as stack:
        cluster = stack.enter_context(SLURMCluster(
            cores=1, processes=1, job_cpu=cores, memory=job_memory, job_name="vbmstat", python=sys.executable,
            log_directory=str(folder.absolute()), security=stack.enter_context(_certificate(folder.absolute())),
            protocol="tls://", scheduler_options={"dashboard_address": ":0"}, silence_logs=logging.CRITICAL,
            job_script_prologue=[*before, *(f"export {name}={cores}" for name in THREAD_VARIABLES)],
        ))  # fmt: skip
        _check_job(cluster.job_script())
        cluster.adapt(minimum=workers, maximum=workers)  # replaces jobs that end, e.g. at their time limit
        yield cluster


@contextmanager
def _certificate(folder: Path) -> Iterator[Security]:
    """A certificate for one run, in files that only their owner can read; jobs get the paths."""
    from distributed import Security  # noqa: PLC0415

    temporary = Security.temporary().get_tls_config_for_role("worker")
    with tempfile.TemporaryDirectory(prefix=".tls-", dir=folder) as private:
        paths = {name: Path(private, name) for name in ("ca_file", "cert", "key")}
        for name, path in paths.items():
            path.touch(mode=0o600)
            path.write_text(temporary[name])
        roles = {f"tls_{role}_{name}": str(paths[name]) for role in _ROLES for name in ("cert", "key")}
        yield Security(tls_ca_file=str(paths["ca_file"]), require_encryption=True, **roles)


def _check_job(script: str) -> None:
    """Ask SLURM whether it accepts the job: dask submits jobs later, where nobody sees why one is rejected."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(script)
        file.flush()
        answer = subprocess.run(  # noqa: S603 - the user's own SLURM
            ["sbatch", "--test-only", file.name],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode:
        reason = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        msg = f"SLURM rejects the job: {reason}; set partition, account, time in ~/.config/dask/jobqueue.yaml"
        raise ClusterError(msg)
