"""Tasks with a stand-in for the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.batch.light import asked, write_scans
from vbmstat.batch.scan import ScanTask
from vbmstat.files.search import find_inputs
from vbmstat.image import storage


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures take a second each."""
    for drawing in ("derivatives._write_picture", "person.draw_change"):
        monkeypatch.setattr(f"vbmstat.batch.{drawing}", lambda at, *_: storage.write_text(at, "picture"))


@pytest.fixture
def tasks(tmp_path, undrawn) -> Callable[..., list[ScanTask]]:
    """Tasks of so many small scans, and marks of some of them: see tests/batch/light.py."""

    def make(
        n_scans: int, marks: dict[int, float] | None = None, parameters: dict | None = None, **options
    ) -> list[ScanTask]:
        scans = find_inputs([write_scans(tmp_path / "scans", n_scans, marks)]).scans
        return [ScanTask(scan, tmp_path / "out", *asked(**options), parameters or {}) for scan in scans]

    return make


def left_behind(out: Path) -> list[Path]:
    """What is unfinished in an output folder."""
    return list(out.rglob(".partial*"))
