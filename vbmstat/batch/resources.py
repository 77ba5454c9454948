"""How to run: what the user asks, what this machine has, what a scan needs, and so how many scans run at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vbmstat.device import free_memory_bytes, n_cores, total_memory_bytes
from vbmstat.errors import VbmstatError
from vbmstat.image.volume import Volume
from vbmstat.preproc.results import Preprocessed
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import OnStep

_GB = 1e9
_SHARE = 0.9  # of the free memory; the disk cache and other programs get the rest
_GPU_SHARERS = 3  # processes per GPU: one computes while the others read and write
# Peak memory of a process by workload: bytes, and bytes per voxel of the scan. Upper bounds for classic and deep, from
# scans of 6 to 40 million voxels (benchmarks/preproc/steps.py). A process that runs scan after scan keeps freed memory
# and stays at 4.1 GB even for small scans (benchmarks/batch/memory.py).
_TAKEN = {"classic": (4.1e9, 24.0), "cat": (4.1e9, 24.0), "deep": (4.1e9, 36.0), "deep cascade": (8e9, 36.0)}
_TAKEN_BY_UNKNOWN = (5e9, 40.0)
_GPU_TAKEN_BYTES = 8e9
_VOXELS_UNKNOWN = 256**3


Process = Callable[[Volume, PreprocSpec, OnStep], Preprocessed]  # as vbmstat.preproc.pipeline.preprocess_scan
ProcessPerson = Callable[..., Any]  # as vbmstat.preproc.longitudinal.preprocess_person


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How to run; nothing here changes the outputs of a scan. Picklable.

    Attributes
    ----------
    jobs : int, optional
        Scans at once, each in its own process; 1 uses this process. None runs as many as cores and memory allow.
        Scripts with more than 1 need ``if __name__ == "__main__":``.
    memory_gb : float, optional
        Memory of all scans together, GB; nine tenths of the free memory by default.
    threads : int, optional
        Threads of each scan; by default the cores are divided among the scans.
    shard : (int, int), optional
        Run only the i-th of n parts, from 1 to n, and leave the tables to a run without a shard.
    force : bool
        Whether to run complete scans again.
    locking : bool
        Whether to lock scans in progress against other runs; False only where files cannot be locked.
    stop_on_first_failure : bool
        Whether to end the run when a scan fails.
    process : callable, optional
        Replaces :func:`vbmstat.preproc.pipeline.preprocess_scan`.
    process_person : callable, optional
        Replaces :func:`vbmstat.preproc.longitudinal.preprocess_person`.
    """

    jobs: int | None = 1
    memory_gb: float | None = None
    threads: int | None = None
    shard: tuple[int, int] | None = None
    force: bool = False
    locking: bool = True
    stop_on_first_failure: bool = False
    process: Process | None = None
    process_person: ProcessPerson | None = None


@dataclass(frozen=True)
class Machine:
    """Resources of a run."""

    cores: int  # processor cores within affinity, control group and SLURM allocation
    # free and total memory within the control group's limit
    free_bytes: int
    total_bytes: int
    gpus: int = 0  # CUDA devices
    gpu_memory_bytes: int = 0  # free memory of the fullest CUDA device


@dataclass(frozen=True)
class Allotment:
    """How scans share a machine."""

    jobs: int  # scans at once
    threads: int  # threads of each
    bytes_per_scan: int  # expected memory of each
    note: str = ""  # a remark for the user, or empty


def probe(device: str = "cpu") -> Machine:
    """The resources that this process may use now."""
    gpus = torch.cuda.device_count() if torch.device(device).type == "cuda" else 0
    if torch.device(device).index is not None:
        gpus = 1  # that one
    free = [free_memory_bytes(f"cuda:{number}") for number in range(gpus)]
    return Machine(n_cores(), free_memory_bytes("cpu"), total_memory_bytes(), gpus, min(free, default=0))


def taken_bytes(workload: str, n_voxels: Iterable[int]) -> int:
    """Peak memory of a process, bytes, for the largest of some scans."""
    base, a_voxel = _TAKEN.get(workload, _TAKEN_BY_UNKNOWN)
    return int(base + a_voxel * max(n_voxels, default=_VOXELS_UNKNOWN))


def allot(
    machine: Machine, execution: Execution, bytes_per_scan: int, n_scans: int, n_todo: int | None = None
) -> Allotment:
    """Share a machine: run as many scans at once as cores and memory allow, and divide the cores among them.

    The threads of a scan depend only on the machine and the whole run, not on free memory or scans left: the number of
    threads changes the last digits of the maps, and a run that continues another must write the same files.

    Parameters
    ----------
    machine : Machine
        Its resources.
    execution : Execution
        With the user's `jobs`, of which `memory_gb` may allow only some, and `memory_gb`.
    bytes_per_scan : int
        Memory of a process.
    n_scans : int
        Scans of the run.
    n_todo : int, optional
        Scans left to do; all by default.

    Raises
    ------
    VbmstatError
        If `jobs` or `memory_gb` is not positive.

    Examples
    --------
    >>> machine = Machine(cores=16, free_bytes=12 * 10**9, total_bytes=20 * 10**9)
    >>> allot(machine, Execution(jobs=None), bytes_per_scan=3 * 10**9, n_scans=99)
    Allotment(jobs=3, threads=2, bytes_per_scan=3000000000, note='10.8 GB are enough for 3 at once')
    """
    jobs, memory_gb = execution.jobs, execution.memory_gb
    if jobs is not None and jobs < 1:
        msg = f"expected --jobs of 1 or more, got {jobs}"
        raise VbmstatError(msg)
    if memory_gb is not None and not memory_gb > 0:
        msg = f"expected --memory above 0 GB, got {memory_gb:g}"
        raise VbmstatError(msg)
    free, total = _SHARE * machine.free_bytes, _SHARE * machine.total_bytes
    if memory_gb is not None:
        free = total = memory_gb * _GB
    wanted = max(min(jobs or _by_processors(machine), n_scans), 1)
    is_bounded = jobs is None or memory_gb is not None
    at_best = min(wanted, _fitting(total, bytes_per_scan)) if is_bounded else wanted
    together = min(at_best, _fitting(free, bytes_per_scan)) if is_bounded else wanted
    together = min(together, max(n_scans if n_todo is None else n_todo, 1))
    return Allotment(
        together, max(machine.cores // at_best, 1), bytes_per_scan, _note(together, wanted, bytes_per_scan, free)
    )


def _fitting(memory: float, bytes_per_scan: int) -> int:
    return max(int(memory // bytes_per_scan), 1)


def _by_processors(machine: Machine) -> int:
    """As many scans as cores; on GPUs, as many as keep each busy."""
    if not machine.gpus:
        return machine.cores
    sharers = min(max(int(machine.gpu_memory_bytes // _GPU_TAKEN_BYTES), 1), _GPU_SHARERS)
    return min(machine.gpus * sharers, machine.cores)


def _note(together: int, wanted: int, bytes_per_scan: int, memory: float) -> str:
    needed = together * bytes_per_scan
    if needed > memory:
        return (
            f"{together} at once may take {needed / _GB:.1f} GB and {memory / _GB:.1f} GB are available: "
            "a scan whose process is killed for that is run again alone"
        )
    if together < wanted and together == _fitting(memory, bytes_per_scan):
        return f"{memory / _GB:.1f} GB are enough for {together} at once"
    return ""


def disk_free_bytes(folder: Path) -> int:
    """Free disk space at a folder that may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
