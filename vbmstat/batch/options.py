"""How scans are preprocessed, whichever they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from vbmstat.preproc.engines.deep import DEFAULT_WEIGHTS
from vbmstat.preproc.pipeline import DEEP, Preprocessed
from vbmstat.volume import Volume


class Process(Protocol):
    """What makes maps of a scan, as :func:`vbmstat.preproc.pipeline.preprocess_scan` does."""

    def __call__(
        self, t1w: Volume, device: torch.device | str, on_step: Callable[[str], None], engine: str, **options: Any
    ) -> Preprocessed:
        """Preprocess one scan."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How scans are preprocessed; can be pickled. Every field is a keyword of :func:`vbmstat.batch.run.preprocess`.

    Attributes
    ----------
    engine, names : str
        What makes maps, and how they are called.
    device : str
        ``auto`` is decided by the plan.
    force : bool
        Whether to run a scan that is complete.
    locking : bool
        Whether to lock a scan while it is worked at.
    weights : str, optional
        Networks of the engine `deep`.
    process : callable, optional
        In place of the pipeline, which it is by default; a function of a module that every process can import.
    """

    engine: str = "classic"
    device: str = "auto"
    names: str = "cat12"
    force: bool = False
    locking: bool = True
    weights: str | None = None
    process: Process | None = None

    @property
    def workload(self) -> str:
        """What time and memory go by: the engine, or ``deep cascade`` for networks that may be of 0.5 mm."""
        is_cascade = self.engine == DEEP and self.weights not in (None, DEFAULT_WEIGHTS)
        return "deep cascade" if is_cascade else self.engine
