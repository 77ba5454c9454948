"""How a run of many scans is carried out; none of it changes the outputs of a scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vbmstat.preproc.pipeline import Preprocessed
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import OnStep
from vbmstat.volume import Volume

Process = Callable[[Volume, PreprocSpec, OnStep], Preprocessed]  # as vbmstat.preproc.pipeline.preprocess_scan


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Keywords of :func:`vbmstat.batch.run.preprocess` that say how to run; picklable.

    Attributes
    ----------
    jobs : int, optional
        Scans at once; None takes as many as cores and memory allow.
    memory_gb : float, optional
        Memory of all of them together; nine tenths of the free memory by default.
    threads : int, optional
        Threads of each scan; by default the cores are shared out.
    shard : (int, int), optional
        Run only the i-th of n parts, counted from 1.
    force : bool
        Whether to run complete scans again.
    locking : bool
        Whether to lock a scan while it is in work.
    stop_on_first_failure : bool
        Whether to end the run when a scan fails.
    process : callable, optional
        Replaces the pipeline; a function of a module that every process can import.
    """

    jobs: int | None = 1
    memory_gb: float | None = None
    threads: int | None = None
    shard: tuple[int, int] | None = None
    force: bool = False
    locking: bool = True
    stop_on_first_failure: bool = False
    process: Process | None = None
