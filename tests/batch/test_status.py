"""What is told of scans: log lines and events."""

from __future__ import annotations

import json
from pathlib import Path

from vbmstat.batch.derivatives import CompletedScan
from vbmstat.batch.status import Status
from vbmstat.batch.task import ScanOutcome
from vbmstat.files.naming import Scan
from vbmstat.files.runlog import scan_times

ONE, TWO = (Scan(Path(f"{name}.nii"), name, name) for name in ("one", "two"))


def test_lines_and_events(tmp_path):
    told = []
    log = tmp_path / "logs" / "status.jsonl"
    status = Status(log, "abc", 2, told.append)
    status.write("start", jobs=2)
    status.step(ONE, "warp")
    status.end(ScanOutcome(ONE, "busy"))
    noisy = CompletedScan({"qc_warnings": "noisy"}, (), "classic", "1")
    status.end(ScanOutcome(ONE, "done", noisy, seconds={"warp": 2.0}, peak_bytes=3 << 20))
    status.end(ScanOutcome(TWO, "failed", step="read", reason="two: broken", seconds={"read": 1.0}))
    status.end(ScanOutcome(TWO, "resumed", {}))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line.pop("time").endswith("+00:00") and line.pop("run") == "abc" for line in lines)
    assert lines == [
        {"event": "start", "jobs": 2},
        {"event": "step", "scan": "one", "step": "warp"},
        {"event": "busy", "scan": "one"},
        {"event": "done", "scan": "one", "detail": "noisy", "seconds": {"warp": 2.0}, "peak_mb": 3},
        {"event": "failed", "scan": "two", "step": "read", "detail": "two: broken"},
    ]
    assert [(event.scan.stem, event.what, event.done, event.total, event.detail) for event in told] == [
        ("one", "warp", 0, 2, ""), ("one", "busy", 0, 2, ""), ("one", "done", 1, 2, "noisy"),
        ("two", "failed", 2, 2, "two: broken"), ("two", "resumed", 3, 2, ""),
    ]  # fmt: skip
    assert list(scan_times(tmp_path)) == ["one"]  # a failed scan has no time
