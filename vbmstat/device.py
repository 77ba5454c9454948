"""Where the work is done: the choice of device, its free memory, and the reuse of freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from pathlib import Path

import torch

from vbmstat.errors import VbmstatError

DEVICES = ("auto", "cpu", "cuda")
# glibc, malloc.h. Large blocks are normally mapped and unmapped one by one, so that every temporary tensor
# is paid for again in page faults; these two settings keep freed memory in the process.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER_TRIM_BYTES = 2**31 - 1  # mallopt takes an int
_CONTROL_GROUPS, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def choose_device(name: str = "auto") -> torch.device:
    """Device for a name that a user gives.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda"}
        ``auto`` is CUDA where there is one, else the CPU. ``cuda:1`` names one of several GPUs.

    Raises
    ------
    VbmstatError
        If the name is none of these, or CUDA is asked for and there is no such device.

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


def free_memory_bytes(device: torch.device | str) -> int:
    """Memory that a process may still take on a device, bytes.

    On the CPU the memory that the kernel calls available, or what is left under the control group's limit
    (containers, SLURM) where that is less.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available_bytes(), _left_in_control_group())


def total_memory_bytes() -> int:
    """Memory that this process may ever have, bytes: that of the machine, or the least limit of its control groups."""
    sizes = [sys.maxsize]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for folder in _groups("memory", _CONTROL_GROUPS, _OWN_GROUPS):
        limits = (_number(folder / name) for name in ("memory.max", "memory.limit_in_bytes"))
        sizes += [limit for limit in limits if limit is not None]
    return min(sizes) if min(sizes) < sys.maxsize else _available_bytes()


def _available_bytes() -> int:
    """Available memory of the machine; half of the installed memory where that is all that can be known."""
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
    """What this process's control groups still allow; very large where there is no limit.

    What the disk cache holds counts as free: the kernel gives it up when memory is asked for.
    """
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
    """Processor cores that this process may use: the least of affinity, control groups and SLURM's allocation.

    joblib's ``cpu_count`` looks at the outermost control group alone, and knows nothing of SLURM.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores = [len(affinity(0)) if affinity else os.cpu_count() or 1]
    allocated = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if allocated.isdecimal():
        cores.append(int(allocated))
    return max(min([*cores, _cores_of_control_group()]), 1)


def _cores_of_control_group() -> int:
    """Cores that the quotas of this process's control groups amount to, rounded up; very large where there is none."""
    cores = sys.maxsize
    for folder in _groups("cpu", _CONTROL_GROUPS, _OWN_GROUPS):
        quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        with contextlib.suppress(OSError, ValueError):  # version 2: "200000 100000", or "max 100000"
            quota, period = (int(part) for part in (folder / "cpu.max").read_text(encoding="ascii").split())
        if quota is not None and period is not None and quota > 0:
            cores = min(cores, math.ceil(quota / period))
    return cores


def _groups(controller: str, root: Path, own: Path) -> list[Path]:
    """Folders of this process's control group and of those around it (versions 2 and 1)."""
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
    """A whole number that a file holds; None where there is no such file, or it says ``max``."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its next large temporaries.

    Page faults cost more than the arithmetic in networks and warps of whole brains, above all on virtual
    machines: forty temporaries of 16 to 32 MB took 1.6 s, and 0.15 s after this call. Memory goes back to the
    system only when the process ends, and the peak grows somewhat (blocks are not reused at their exact size),
    so this is for the command line, not for a notebook. Call it before the first tensor is made: torch then
    also asks for huge pages.

    Returns
    -------
    bool
        Whether the C library took the settings (glibc on Linux); nothing happens elsewhere.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM_BYTES))
