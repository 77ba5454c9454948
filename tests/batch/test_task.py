"""One scan from file to files."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.conftest import left_behind
from tests.batch.interrupt import fingerprint
from tests.batch.light import STEPS, light
from vbmstat import naming
from vbmstat.batch.claim import FOLDER, claim, under_way
from vbmstat.batch.task import ScanRun, completed_row, publish, reason_of, run_scan
from vbmstat.errors import ScanError


def test_a_scan_is_done_then_resumed_then_forced(tasks):
    (task,) = tasks(1)
    told = []
    outcome = run_scan(task, told.append)
    assert outcome.status == "done"
    assert told == ["read", *STEPS, "write"]
    assert list(outcome.seconds) == ["read", *STEPS, "write"]
    assert outcome.peak_bytes > 50 << 20
    assert outcome.row["gm_ml"] > 600
    assert all(naming.output_path(task.out, task.scan, kind).is_file() for kind in naming.OUTPUT_KINDS)
    assert left_behind(task.out) == [task.out / ".partial"]  # empty: swept at the end of a run
    again = run_scan(task)
    assert (again.status, again.row) == ("resumed", outcome.row)
    assert completed_row(task) == outcome.row
    forced = run_scan(replace(task, options=replace(task.options, force=True)))
    assert (forced.status, forced.row) == ("done", outcome.row)


def test_tasks_and_outcomes_go_to_other_processes(tasks):
    (task,) = tasks(1)
    assert pickle.loads(pickle.dumps(task)) == task  # noqa: S301
    outcome = run_scan(task)
    assert pickle.loads(pickle.dumps(outcome)) == outcome  # noqa: S301


def test_a_scan_that_another_process_has_is_busy(tasks):
    (task,) = tasks(1)
    held = claim(task.out, task.scan.stem)
    assert run_scan(task).status == "busy"
    held.release()
    assert run_scan(task).status == "done"


def test_a_failure_has_its_step_and_leaves_nothing(tasks):
    def fails(t1w, device, on_step, engine):
        on_step("segment")
        msg = "no brain here"
        raise ScanError(msg)

    (task,) = tasks(1, process=fails)
    outcome = run_scan(task)
    assert (outcome.status, outcome.step) == ("failed", "segment")
    assert outcome.detail == "sub-01_T1w: no brain here"
    assert left_behind(task.out) == [task.out / ".partial"]
    assert under_way(task.out) == {}
    task.scan.path.unlink()
    assert run_scan(task).step == "read"


def test_an_interruption_is_raised_and_leaves_nothing(tasks):
    def interrupted(t1w, device, on_step, engine):
        raise KeyboardInterrupt

    (task,) = tasks(1, process=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_scan(task)
    assert under_way(task.out) == {}


def test_weights_reach_the_engine(tasks):
    seen = {}

    def engine(t1w, device, on_step, engine, **options):
        seen.update(options)
        return light(t1w, device, on_step, engine)

    (task,) = tasks(1, process=engine, weights="own")
    run_scan(task)
    assert seen == {"weights": "own"}


@pytest.mark.parametrize("n_renamed", [0, 1, 9, 18])
def test_whenever_the_renaming_is_cut_short_the_scan_counts_as_incomplete(tasks, monkeypatch, n_renamed):
    """An older result of other parameters is there: a mixture of both must not pass for either."""
    (task,) = tasks(1)
    (older,) = tasks(1, parameters={"older": True})
    assert run_scan(task).status == "done"
    whole = fingerprint(task.out)
    assert run_scan(older).status == "done"
    rename, n = os.replace, 0

    def cut(source, target):
        nonlocal n
        if FOLDER in Path(source).parts and FOLDER not in Path(target).parts:
            n += 1
            if n > n_renamed:
                raise KeyboardInterrupt  # as if killed
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            run_scan(task)
    assert completed_row(task) is None
    assert completed_row(older) is None
    assert run_scan(task).status == "done"
    assert fingerprint(task.out) == whole


def test_the_sidecar_is_renamed_last(tmp_path, monkeypatch):
    made, out = tmp_path / "made", tmp_path / "out"
    for name in ("z.nii", "a/sidecar.json", "b/x.nii"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    order, rename = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), rename(a, b)))
    publish(made, out, Path("a/sidecar.json"))
    assert order[-1] == "sidecar.json"
    assert sorted(order) == ["sidecar.json", "x.nii", "z.nii"]
    assert (out / "b" / "x.nii").read_text() == "b/x.nii"


def test_the_parts_may_run_in_turn_and_a_failed_one_ends_it(tasks):
    (task,) = tasks(1)
    task.scan.path.write_bytes(b"broken")
    with ScanRun(task) as run:
        run.read()
        run.process()
        assert run.write().step == "read"


def test_a_scan_that_was_only_read_cannot_be_written(tasks):
    (task,) = tasks(1)
    with ScanRun(task) as run:
        run.read()
        with pytest.raises(RuntimeError, match="processed before it is written"):
            run.write()
    assert left_behind(task.out) == [task.out / ".partial"]
    assert under_way(task.out) == {}


def test_reasons_are_one_line_with_the_scan_in_it(tmp_path):
    scan = naming.Scan(tmp_path / "a.nii", "a", "a")
    assert reason_of(ScanError(f"{scan.path}: broken"), scan) == f"{scan.path}: broken"
    assert reason_of(ValueError("two\nlines"), scan) == "a: ValueError: two lines"
    assert reason_of(MemoryError("1 GB"), scan).startswith("a: out of memory (1 GB); free memory")
    assert "out of memory" in reason_of(RuntimeError("can't allocate memory: 5 bytes"), scan)
