"""The choice of device, free and peak memory, cores, and the reuse of freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from vbmstat.errors import VbmstatError
from vbmstat.lazy import torch

DEVICES = ("auto", "cpu", "cuda")
# read by libraries when they are imported
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# glibc, malloc.h. By default large blocks are mapped and unmapped one by one, so every temporary tensor causes page
# faults; these two settings keep freed memory in the process.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER_TRIM_BYTES = 2**31 - 1  # mallopt takes an int
_CONTROL_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def choose_device(name: str = "auto") -> torch.device:
    """Device for a name that a user gives.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        ``auto`` is CUDA if available, else the CPU. ``cuda:1`` selects one of several GPUs.

    Raises
    ------
    VbmstatError
        If the name is unknown, or the CUDA device does not exist.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and (kind != "cuda" or not number.isdecimal())):
        msg = f"expected a device of {', '.join(DEVICES)} or cuda:0, cuda:1, …, got {name!r}"
        raise VbmstatError(msg)
    n_gpus = torch.cuda.device_count() if kind != "cpu" and torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= n_gpus:
        why = "this torch is a CPU build" if torch.version.cuda is None else f"torch sees {n_gpus} CUDA device(s)"
        msg = f"device {name} was asked for, but {why}; use --device cpu or install a CUDA build of torch"
        raise VbmstatError(msg)
    return torch.device(name if kind == "cuda" else "cuda" if n_gpus else "cpu")


def is_cpu(device: torch.device | str) -> bool:
    """Whether a device is the CPU."""
    return str(device) == "cpu" or torch.device(device).type == "cpu"


def free_memory_bytes(device: torch.device | str) -> int:
    """Free memory of a device, bytes; on the CPU, within the limit of the control group (containers, SLURM)."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available_bytes(), _left_in_control_group())


def total_memory_bytes() -> int:
    """Total memory of the machine within the limits of this process's control groups, bytes."""
    sizes = [sys.maxsize]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder in _groups("memory", _CONTROL_GROUPS, _OWN_GROUPS):
        limits = (_number(folder / name) for name in ("memory.max", "memory.limit_in_bytes"))
        sizes += [limit for limit in limits if limit is not None]
    return min(sizes) if min(sizes) < sys.maxsize else _available_bytes()


def _available_bytes() -> int:
    """Available memory of the machine; half of the installed memory if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):  # Windows
        return 4 << 30


def _left_in_control_group(root: Path = _CONTROL_GROUPS, own: Path = _OWN_GROUPS) -> int:
    """Memory left under the limits of this process's control groups; the disk cache counts as free."""
    left = sys.maxsize
    for folder in _groups("memory", root, own):
        for limit_file, use_file in (
            ("memory.max", "memory.current"),  # version 2
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit, use = (_number(folder / name) for name in (limit_file, use_file))
            if limit is not None and use is not None:
                left = min(left, max(limit - use + _cached_bytes(folder / "memory.stat"), 0))
    return left


def start_peak() -> None:
    """Reset the peak of :func:`peak_bytes` (only Linux; elsewhere the peak is since the process began)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): VmHWM to the current memory


def peak_bytes() -> int:
    """Peak resident memory of this process, bytes; 0 if unknown."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def n_cores() -> int:
    """Processor cores within affinity, control groups and SLURM's allocation.

    joblib's ``cpu_count`` checks only the outermost control group, and not SLURM.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if allocated.isdecimal():
        cores.append(int(allocated))
    return max(min([*cores, _cores_of_control_group()]), 1)


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """One torch thread a product: threads each work on a tile, and bits do not depend on how many there are.

    It does not import torch for this; who does so in the block calls :func:`one_thread`.
    """
    n_threads = torch.get_num_threads() if "torch" in sys.modules else n_cores()
    one_thread()
    try:
        yield
    finally:
        if "torch" in sys.modules:
            torch.set_num_threads(n_threads)


def one_thread() -> None:
    """One torch thread a product in this thread, for which torch counts separately; none if torch is not imported."""
    if "torch" in sys.modules:
        torch.set_num_threads(1)


def _cores_of_control_group() -> int:
    """Cores within the CPU quotas of this process's control groups, rounded up; very large without a quota."""
    cores = sys.maxsize
    for folder in _groups("cpu", _CONTROL_GROUPS, _OWN_GROUPS):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        with contextlib.suppress(OSError, ValueError):  # version 2: "200000 100000", or "max 100000"
            quota, period = (int(part) for part in (folder / "cpu.max").read_text(encoding="ascii").split())
        if quota is not None and period is not None and quota > 0:
            cores = min(cores, math.ceil(quota / period))
    return cores


def _groups(controller: str, root: Path, own: Path) -> list[Path]:
    """Folders of this process's control groups and their parents (versions 2 and 1)."""
    folders = [root, root / controller]
    with contextlib.suppress(OSError):
        for line in own.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            top = root if not controllers else root / controller if controller in controllers.split(",") else None
            if top is not None:
                inner = top / path.strip("/")
                folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _cached_bytes(path: Path) -> int:
    """Disk cache among the memory of a control group."""
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    return 0


def _number(path: Path) -> int | None:
    """The whole number in a file; None if the file is missing or says ``max``."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def keep_freed_memory() -> bool:
    """Keep freed memory in this process, for its next large temporaries.

    Page faults cost more than the arithmetic in networks and warps of whole brains, above all on virtual machines:
    forty temporaries of 16 to 32 MB took 1.6 s, and 0.15 s after this call. Memory returns to the system only when the
    process ends, and the peak grows somewhat, so this is for the command line, not for notebooks. Call it before the
    first tensor is made: torch then also requests huge pages.

    Returns
    -------
    bool
        Whether the C library accepted the settings (glibc on Linux only).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM_BYTES))
