"""Scans on a cluster's workers: the files of an undisturbed run, whatever dies; one that kills workers is reported."""

from __future__ import annotations

import os
import re
import signal
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.batch.light import KILLS, asked, light, read_failures, write_scans
from vbmstat.batch import derivatives, estimate, on_cluster, run
from vbmstat.batch.on_cluster import of_cluster, scheduled_workers
from vbmstat.batch.plan import make_plan
from vbmstat.files.runlog import FOLDER
from vbmstat.image import storage


def no_picture(path: Path, *_) -> None:
    """Pictures take a second each."""
    storage.write_text(path, "picture")


def quick(t1w, spec, on_step, killed: Path | None = None):
    """The light engine on a worker; the first to leave no file at `killed` dies in the middle of its scan."""
    derivatives._write_picture = no_picture

    def begin(step: str) -> None:
        on_step(step)
        if step == "warp" and killed is not None and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return light(t1w, spec, begin)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(derivatives, "_write_picture", no_picture)


def files(out: Path) -> dict[str, bytes]:
    """All outputs but the logs, which say when things happened, and the threads, which workers have of their own."""
    paths = (path for path in out.rglob("*") if path.is_file() and FOLDER not in path.relative_to(out).parts)
    return {str(path.relative_to(out)): re.sub(rb'"threads": \d+', b"", path.read_bytes()) for path in paths}


def test_a_worker_killed_in_the_middle_leaves_no_trace(tmp_path, local):
    scans = write_scans(tmp_path / "in", 5)
    run.preprocess(scans, tmp_path / "alone", device="cpu", process=light)
    process = partial(quick, killed=tmp_path / "killed")
    told = []
    cohort = run.preprocess(
        scans, tmp_path / "together", device="cpu", process=process, workers=of_cluster(local),
        on_event=lambda event: told.append((event.scan.stem, event.what)),
    )  # fmt: skip
    assert (tmp_path / "killed").exists()
    assert len(cohort.table) == 5
    assert {stem for stem, what in told if what == "done"} == {f"sub-{i:02d}_T1w" for i in range(1, 6)}
    alone, together = files(tmp_path / "alone"), files(tmp_path / "together")
    assert alone.keys() == together.keys()
    assert [name for name in alone if alone[name] != together[name]] == []
    assert not (tmp_path / "together" / ".partial").exists()


def test_a_scan_that_kills_its_workers_is_reported_and_the_batch_goes_on(tmp_path, local, monkeypatch):
    monkeypatch.setattr(local._client.cluster.scheduler, "allowed_failures", 0)  # one death: each costs seconds
    scans = write_scans(tmp_path / "in", 4, {2: KILLS})
    cohort = run.preprocess(scans, tmp_path / "out", device="cpu", process=quick, workers=of_cluster(local))
    assert list(cohort.table["scan"]) == ["sub-01_T1w", "sub-03_T1w", "sub-04_T1w"]
    (failure,) = read_failures(tmp_path / "out").to_dict("records")
    assert (failure["scan"], failure["step"]) == ("sub-02_T1w", "segment")
    assert "1 worker(s) died during the same task" in failure["reason"]
    assert not (tmp_path / "out" / ".partial").exists()


@pytest.mark.parametrize(
    ("scheduler", "limits", "expected"),
    [
        ("slurm", {"jobs": 20}, {"workers": 20, "cores": 2, "memory": 1.3}),
        ("slurm", {"jobs": 20, "memory_gb": 60.0}, {"workers": 20, "cores": 2, "memory": 3e9}),
        ("local", {"jobs": 2, "memory_gb": 60.0}, {"workers": 2, "memory": None}),
        ("tcp://head:8786", {}, {"workers": None}),
    ],
)
def test_what_workers_are_asked_for(tmp_path, monkeypatch, scheduler, limits, expected):
    """A worker of a SLURM job has room for the largest scan and a third more, or what the user says."""
    given = {}

    @contextmanager
    def open_cluster(scheduler, **options):
        given.update(options, scheduler=scheduler)
        yield None

    monkeypatch.setattr(on_cluster, "open_cluster", open_cluster)
    plan = make_plan(write_scans(tmp_path / "in", 3), tmp_path / "out", *asked(**{"jobs": None, **limits}))
    with scheduled_workers(plan, scheduler) as workers:
        assert workers is None
    if expected.get("memory") == 1.3:
        expected = expected | {"memory": int(1.3 * estimate.share_out(plan, 3).bytes_per_scan)}
    assert given["scheduler"] == scheduler
    assert {name: given[name] for name in expected} == expected
    assert given["folder"] == plan.out / FOLDER / "slurm"
