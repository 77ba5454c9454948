"""Which matrix product is fastest here, after a look at whether it is right.

On the same CPU, MKL (``torch.mm``) and oneDNN (``torch.nn.functional.linear``) have differed by a factor of two
either way. oneDNN wants its second factor transposed and contiguous, so that copy counts as part of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch.nn.functional import linear

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_MAX_ERROR = 1e-5  # of a product of unit-norm rows; TF32 gives 1e-3, bf16 1e-2
_MUST_WIN_BY = 1.25  # so that noise does not change the choice (and the last bit) from run to run


def _matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(m, n) @ (n, v) through BLAS."""
    return a @ b


def _linear(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(m, n) @ (n, v) through oneDNN on the CPU."""
    return linear(a, b.t().contiguous())


COMPILED = "compiled"
BACKENDS: dict[str, Product] = {"mm": _matmul, "linear": _linear}


@contextmanager
def single_threaded() -> Iterator[None]:
    """One torch thread a product: the engine's own threads each work on a tile, and bits do not depend on them."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def choose_product(backend: str, device: str) -> Product:
    """The product of this name; the fastest right one for ``"auto"`` and for what is no product."""
    return BACKENDS[backend if backend in BACKENDS else choose_backend(device)]


@cache
def has_compiler() -> bool:
    """Whether numba, which makes the compiled loops, can be imported (it lags behind new releases of Python)."""
    try:
        import numba  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


@cache
def choose_backend(device: str = "cpu") -> str:
    """Name of the fastest product whose float32 result is right; ``"mm"`` on a tie and off the CPU."""
    if device != "cpu":
        return "mm"
    generator = torch.Generator().manual_seed(0)
    a = torch.nn.functional.normalize(torch.randn(256, 1024, generator=generator), dim=1)
    b = torch.randn(1024, 512, generator=generator)
    exact = a.double() @ b.double()
    seconds = {}
    with single_threaded():
        for name, product in BACKENDS.items():
            error = float((product(a, b).double() - exact).abs().max())
            if error < _MAX_ERROR:
                seconds[name] = min(_time(product, a, b) for _ in range(3))
    if "mm" not in seconds:
        return min(seconds, key=lambda name: seconds[name])
    return "linear" if seconds.get("linear", torch.inf) * _MUST_WIN_BY < seconds["mm"] else "mm"


def _time(product: Product, a: torch.Tensor, b: torch.Tensor) -> float:
    start = time.perf_counter()
    product(a, b)
    return time.perf_counter() - start
