"""How a run is executed; nothing here changes the outputs of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vbmstat.image.volume import Volume
from vbmstat.preproc.pipeline import Preprocessed
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import OnStep

Process = Callable[[Volume, PreprocSpec, OnStep], Preprocessed]  # as vbmstat.preproc.pipeline.preprocess_scan


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How to run; fields are keywords of :func:`vbmstat.batch.run.preprocess`, which explains them. Picklable."""

    jobs: int | None = 1
    memory_gb: float | None = None
    threads: int | None = None
    shard: tuple[int, int] | None = None
    force: bool = False
    locking: bool = True
    stop_on_first_failure: bool = False
    process: Process | None = None
