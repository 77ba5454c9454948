"""What a run will take."""

from __future__ import annotations

import numpy as np
import pytest

from tests.batch.light import asked, write_people, write_scans
from vbmstat.batch import estimate
from vbmstat.batch.plan import make_plan
from vbmstat.batch.resources import Allotment
from vbmstat.files import runlog
from vbmstat.image.grid import Grid
from vbmstat.preproc.spec import PreprocSpec


def grid(size_mm: float, n: int = 200) -> Grid:
    return Grid((n, n, n), np.diag([size_mm, size_mm, size_mm, 1.0]))


MEASURED = (  # set, voxel size, MB: ds000011 (1 × 1.33 × 1.33 mm), ds002748 (0.87 × 0.87 × 1 mm)
    ("minimal", 1.78 ** (1 / 3), 4.8), ("vbm", 1.78 ** (1 / 3), 15.7), ("all", 1.78 ** (1 / 3), 53.6),
)  # fmt: skip


def test_disk_is_near_to_what_was_measured():
    """Sizes of whole outputs of engine classic: ds000011 (1 × 1.33 × 1.33 mm), ds002748 (0.87 × 0.87 × 1), 0.7 mm."""
    for outputs, size, measured_mb in MEASURED:
        spec = PreprocSpec(outputs=(outputs,))
        assert estimate.disk_bytes([grid(size)], spec) / 1e6 == pytest.approx(measured_mb, rel=0.1)
    spec = PreprocSpec()
    assert estimate.disk_bytes([grid(1), grid(0.5)], spec) > estimate.disk_bytes([grid(1)], spec)
    assert estimate.disk_bytes([grid(1)], PreprocSpec(voxel_size_mm=1)) > 1.5 * estimate.disk_bytes([grid(1)], spec)


def test_some_headers_are_looked_at_and_bad_ones_passed_by(tmp_path, tasks):
    some = tasks(40)
    assert len(estimate.grids(some)) == 32
    some[0].scan.path.write_bytes(b"broken")
    assert len(estimate.grids(some)) == 31
    assert estimate.grids([]) == []
    assert estimate.memory_bytes("classic", [grid(0.5, 500)]) > estimate.memory_bytes("classic", [grid(1)])


def test_time_is_that_of_this_folder_or_a_measured_one(tmp_path):
    classic, cat = (estimate.seconds_per_scan(tmp_path, engine, "cpu", 2)[0] for engine in ("classic", "cat"))
    assert 0 < classic < cat
    assert estimate.seconds_per_scan(tmp_path, "classic", "cuda", 1) == (0.0, "")
    for scan, seconds in (("a", 10.0), ("b", 30.0), ("c", 11.0)):
        runlog.append(tmp_path / "logs" / "status.jsonl", {"scan": scan, "seconds": {"x": seconds - 1, "y": 1.0}})
    assert estimate.seconds_per_scan(tmp_path, "classic", "cuda", 1) == (11.0, "median of 3 scans in this folder")


def test_outlook(tmp_path, monkeypatch):
    plan = make_plan(write_scans(tmp_path / "scans", 3), tmp_path / "out", *asked(shard=(1, 2)))
    lines = estimate.dry_run_lines(plan, 1, Allotment(2, 1, 3 * 10**9))
    assert lines[0] == f"2 scans of shard 1/2: 1 complete, 1 to do; output in {tmp_path / 'out'}"
    assert lines[1] == "engine classic on cpu: 2 scans at once, 1 thread each, up to 3.0 GB per scan"
    assert lines[2].startswith("time: about ")
    assert lines[3].startswith("disk: about ")
    assert len(lines) == 4
    monkeypatch.setattr(estimate, "disk_free_bytes", lambda _: 10)
    assert "more than is free" in estimate.dry_run_lines(plan, 1, Allotment(1, 2, 10**9, "careful"))[-1]
    assert not (tmp_path / "out").exists()


def test_sharing_is_a_sentence():
    assert estimate.sharing(Allotment(1, 2, 10**9, "careful")) == (
        "one scan at a time, 2 threads, up to 1.0 GB per scan; careful"
    )


def test_outlook_of_people_with_several_sessions(tmp_path):
    folder = write_people(tmp_path / "data", {"sub-1": 3, "sub-2": 2, "sub-3": 1})
    plan, single = (
        make_plan(folder, tmp_path / "out", *asked(longitudinal=model, shard=None)) for model in ("both", None)
    )
    lines = estimate.dry_run_lines(plan, 0, Allotment(1, 1, 3 * 10**9))
    assert lines[0].startswith("6 scans: 0 complete, 6 to do")
    assert lines[2] == "longitudinal: people with several sessions: 2 (5 scans), with one: 1"
    more = estimate.share_out(plan, 3).bytes_per_scan - estimate.share_out(single, 6).bytes_per_scan
    assert more == 2 * estimate._TIME_POINT_BYTES
    assert estimate.disk_bytes([], plan.spec) > estimate.disk_bytes([], single.spec)
