"""Libraries that take a second to import, imported when they are first used: a plain fit needs none of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["functional", "ndimage", "optimize", "stats", "torch"]

if TYPE_CHECKING:
    import torch
    from scipy import ndimage, optimize, stats
    from torch.nn import functional
else:

    class _Module:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self._name), name)

    torch, functional = _Module("torch"), _Module("torch.nn.functional")
    ndimage, optimize, stats = map(_Module, ("scipy.ndimage", "scipy.optimize", "scipy.stats"))
