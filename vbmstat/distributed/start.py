"""From ``--scheduler`` to workers: those of a running dask scheduler, processes of this machine, or jobs of SLURM."""

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

from vbmstat.device import n_cores
from vbmstat.distributed.pool import Cluster
from vbmstat.errors import ClusterError

if TYPE_CHECKING:
    from distributed import Security
    from distributed.deploy import Cluster as DaskCluster

LOCAL, SLURM = "local", "slurm"
DEATHS = 3  # of workers at one task before it is given up: with more, a task that eats memory empties a cluster
_SLURM_WORKERS, _SLURM_MEMORY = 2, "4 GB"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")  # read at import
_ROLES = ("scheduler", "worker", "client")
_CONNECT_SECONDS = 10
_SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # a task that waits for another one could die with its worker
    "distributed.deploy.lost-worker-timeout": "2 minutes",  # to start again; on a busy machine it takes a while
    "distributed.admin.large-graph-warning-threshold": "1 TB",  # a job is sent once, however large
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
        ``local``: processes of this machine; ``slurm``: jobs of a SLURM cluster; else the address of a running
        scheduler (``tcp://host:8786``, ``tls://…``), whose workers then are what they are. None: no cluster.
    workers : int, optional
        How many processes or jobs to start; by default one for every `cores` of this machine, and 2 jobs. A job that
        ends, whatever the reason, is replaced.
    cores : int
        Of a worker: its tasks run one at a time, on so many threads where they can use them.
    memory : int, optional
        Of a worker, bytes: dask restarts one that takes more. By default an even share of this machine's, and 4 GB in a
        SLURM job. What dask's own configuration says of jobs (``jobqueue.slurm``: ``memory``, ``job-cpu``, ``queue``,
        ``account``, ``walltime`` …) goes before it.
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
        stack.enter_context(_quiet(logging.getLogger("distributed")))
        if scheduler == LOCAL:
            wanted = workers or max(n_cores() // cores, 1)
            where = stack.enter_context(_local(wanted, cores, memory))
        elif scheduler == SLURM:
            wanted = workers or _SLURM_WORKERS
            where = stack.enter_context(_slurm(wanted, cores, memory, folder or Path.cwd()))
        try:
            client = stack.enter_context(Client(where, timeout=_CONNECT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            msg = f"no dask scheduler answers at {scheduler}; expected local, slurm, or an address such as tcp://host:8786"
            raise ClusterError(msg) from error
        yield Cluster(client, scheduler, wanted)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Dask tells every connection; what matters to a user comes as a result or an error."""
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _local(workers: int, cores: int, memory: int | None) -> DaskCluster:
    """Processes of this machine."""
    from distributed import LocalCluster, Security  # noqa: PLC0415

    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, memory_limit=memory or "auto",
        security=Security.temporary(), dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        env=dict.fromkeys(_THREADS, str(cores)),
    )  # fmt: skip
    cluster.adapt(minimum=workers, maximum=workers)  # keeps so many
    return cluster


@contextmanager
def _slurm(workers: int, cores: int, memory: int | None, folder: Path) -> Iterator[DaskCluster]:
    """Jobs of a SLURM cluster; what else a job needs (partition, account, time) is in dask's own configuration."""
    import dask  # noqa: PLC0415
    from dask_jobqueue import SLURMCluster  # noqa: PLC0415

    if shutil.which("sbatch") is None:
        msg = "--scheduler slurm: there is no sbatch here; run it on a machine from which jobs are submitted"
        raise ClusterError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    cores = dask.config.get("jobqueue.slurm.job-cpu") or cores
    a_job = dask.config.get("jobqueue.slurm.memory") or memory or _SLURM_MEMORY
    before = dask.config.get("jobqueue.slurm.job-script-prologue")
    with ExitStack() as stack:
        cluster = stack.enter_context(SLURMCluster(
            cores=1, processes=1, job_cpu=cores, memory=a_job, job_name="vbmstat", python=sys.executable,
            log_directory=str(folder.absolute()), security=stack.enter_context(_certificate(folder.absolute())),
            protocol="tls://", scheduler_options={"dashboard_address": ":0"}, silence_logs=logging.CRITICAL,
            job_script_prologue=[*before, *(f"export {name}={cores}" for name in _THREADS)],
        ))  # fmt: skip
        _check_job(cluster.job_script())
        cluster.adapt(minimum=workers, maximum=workers)  # a job that ends, as by its time limit, is replaced
        yield cluster


@contextmanager
def _certificate(folder: Path) -> Iterator[Security]:
    """A certificate for one run, in files that only their owner can read and jobs know by their paths."""
    from distributed import Security  # noqa: PLC0415

    made = Security.temporary().get_tls_config_for_role("worker")
    with tempfile.TemporaryDirectory(prefix=".tls-", dir=folder) as private:
        paths = {name: Path(private, name) for name in ("ca_file", "cert", "key")}
        for name, path in paths.items():
            path.touch(mode=0o600)
            path.write_text(made[name])
        roles = {f"tls_{role}_{name}": str(paths[name]) for role in _ROLES for name in ("cert", "key")}
        yield Security(tls_ca_file=str(paths["ca_file"]), require_encryption=True, **roles)


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
