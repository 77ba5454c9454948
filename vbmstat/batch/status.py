"""The status of scans: events are written to ``logs/status.jsonl`` and passed to a listener."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vbmstat.batch.task import ScanOutcome
from vbmstat.files import runlog
from vbmstat.files.naming import Scan
from vbmstat.progress import ignore


@dataclass(frozen=True)
class Event:
    """An event of a scan."""

    scan: Scan
    # the step that begins, or ``done``, ``resumed`` (already complete), ``failed``, ``busy`` (locked by another run; it
    # is tried again)
    what: str
    # finished scans, and all scans of the run
    done: int
    total: int
    detail: str = ""  # reason of a failure; warnings


OnEvent = Callable[[Event], None]


class Status:
    """Counts scans, writes the log and calls the listener; thread-safe.

    Parameters
    ----------
    log : Path
        File to append to.
    run : str
        Hash of the manifest, part of every line.
    total : int
        Scans of the run.
    on_event : callable
        The listener.
    """

    def __init__(self, log: Path, run: str, total: int, on_event: OnEvent = ignore) -> None:
        self._log, self._run, self._total, self._on_event = log, run, total, on_event
        self._done = 0
        self._lock = threading.Lock()

    def write(self, event: str, **known: object) -> None:
        """Append a line about the run as a whole."""
        runlog.append(self._log, {"run": self._run, "event": event, **known})

    def step(self, scan: Scan, step: str) -> None:
        """A step of a scan begins."""
        runlog.append(self._log, {"run": self._run, "event": "step", "scan": scan.stem, "step": step})
        self._notify(Event(scan, step, self._done, self._total))

    def end(self, outcome: ScanOutcome) -> None:
        """A scan is finished, or locked by another run."""
        with self._lock:
            self._done += outcome.status != "busy"
        if outcome.status != "resumed":  # the start's line counts these
            entry = {"run": self._run, "event": outcome.status, "scan": outcome.scan.stem}
            known = {
                "step": outcome.step, "detail": outcome.detail, "seconds": outcome.seconds,
                "peak_mb": outcome.peak_bytes >> 20,
            }  # fmt: skip
            if outcome.status == "failed":
                known.pop("seconds")  # only of complete scans
            runlog.append(self._log, {**entry, **{key: value for key, value in known.items() if value}})
        self._notify(Event(outcome.scan, outcome.status, self._done, self._total, outcome.detail))

    def _notify(self, event: Event) -> None:
        with self._lock:
            self._on_event(event)
