"""Peak memory of this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def start_peak() -> None:
    """Reset the peak (only Linux; elsewhere the peak is since the process began)."""
    with contextlib.suppress(OSError):
        _RESET.write_text("5", encoding="ascii")  # proc(5): resets VmHWM to the current resident memory


def peak_bytes() -> int:
    """Peak resident memory, bytes; 0 if unknown."""
    try:
        lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
