"""The matrix product of the statistics, by processor: the same on every run of a machine.

On one CPU, MKL (``torch.mm``) and oneDNN (``torch.nn.functional.linear``) can differ by a factor of two: MKL is slow on
processors that are not Intel's. oneDNN wants its second factor transposed and contiguous.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

from vbmstat.lazy import functional, torch

Product = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(m, n) @ (n, v) through BLAS."""
    return a @ b


def through_onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(m, n) @ (n, v) through oneDNN on the CPU."""
    return functional.linear(a, b.t().contiguous())


def choose_product(device: str) -> Product:
    """The faster product of a device: oneDNN's on AMD's processors, else that of torch's BLAS."""
    return through_onednn if torch.device(device).type == "cpu" and _is_amd() else matmul


@cache
def _is_amd() -> bool:
    """Whether the processor is AMD's, if the system reports it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = platform.processor()
    return "AuthenticAMD" in text
