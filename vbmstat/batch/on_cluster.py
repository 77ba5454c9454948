"""Workers of a cluster, each with the cores and the memory that a scan needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vbmstat.batch.estimate import share_out
from vbmstat.batch.plan import RunPlan
from vbmstat.batch.workers import Workers
from vbmstat.distributed.pool import Cluster
from vbmstat.distributed.start import LOCAL, SLURM, open_cluster
from vbmstat.files.runlog import FOLDER

_JOB_CORES = 2  # of a SLURM job; a scan gains little from more
_SPARE = 1.3  # memory of a job over that of a scan: dask kills a worker at 95 % of its limit


@contextmanager
def scheduled_workers(plan: RunPlan, scheduler: str | None) -> Iterator[Workers | None]:
    """Workers of a dask scheduler for the scans of a plan.

    Parameters
    ----------
    plan : RunPlan
        The size of its scans determines the memory of a worker, its execution the number of workers.
    scheduler : str, optional
        As in :func:`vbmstat.distributed.start.open_cluster`, also for errors; None for no cluster.
    """
    jobs, memory_gb = plan.execution.jobs, plan.execution.memory_gb
    share = share_out(plan, len(plan.tasks))
    cores, memory = share.threads, None
    if scheduler == SLURM:
        cores, memory = _JOB_CORES, int(_SPARE * share.bytes_per_scan)
        if jobs is not None and memory_gb is not None:
            memory = int(memory_gb * 1e9 / jobs)
    workers = share.jobs if scheduler == LOCAL else jobs
    folder = plan.out / FOLDER / "slurm"
    with open_cluster(scheduler, workers=workers, cores=cores, memory=memory, folder=folder) as cluster:
        yield None if cluster is None else of_cluster(cluster)


def of_cluster(cluster: Cluster) -> Workers:
    """The workers of a cluster; its executors survive a dead worker, and can be replaced."""
    return Workers(lambda _: cluster.executor(), cluster.n_workers)
