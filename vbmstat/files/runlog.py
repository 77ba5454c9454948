"""The log of a run: one JSON object a line, with the time.

Times are kept here and not with the results, so that equal runs write byte-identical results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FOLDER = "logs"  # inside an output folder


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Append a line with the time (UTC) to a log, in one write, so that processes can share the log."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, **entry}, ensure_ascii=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(handle, line.encode("utf-8", "backslashreplace"))
    finally:
        os.close(handle)


def scan_times(folder: Path) -> dict[str, dict[str, Any]]:
    """The last log entry of each scan that has the seconds of its steps, by scan stem.

    Parameters
    ----------
    folder : Path
        An output folder; every ``logs/*.jsonl`` in it is read, and lines cut short by a crash are skipped.

    Returns
    -------
    dict of str to dict
        With ``time`` (UTC, ISO 8601) and ``seconds`` (by step), among other keys.
    """
    entries = [entry for path in sorted((folder / FOLDER).glob("*.jsonl")) for entry in _lines(path)]
    timed = [entry for entry in entries if "scan" in entry and isinstance(entry.get("seconds"), dict)]
    return {entry["scan"]: entry for entry in sorted(timed, key=lambda entry: str(entry.get("time", "")))}


def _lines(path: Path) -> list[dict[str, Any]]:
    entries = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
