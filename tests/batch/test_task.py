"""One scan from file to files."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.conftest import left_behind
from tests.batch.interrupt import fingerprint
from tests.batch.light import STEPS, cut_short, light
from vbmstat.batch.claim import claim, steps_in_progress
from vbmstat.batch.scan import run_scan
from vbmstat.batch.task import TaskRun, publish, reason_of
from vbmstat.errors import ScanError
from vbmstat.files import naming
from vbmstat.files.outputs import OUTPUTS, output_kinds
from vbmstat.preproc.engines.deep import Deep


def test_a_scan_is_done_then_resumed_then_forced(tasks):
    (task,) = tasks(1)
    told = []
    outcome = run_scan(task, told.append)
    assert outcome.status == "done"
    assert told == ["read", *STEPS, "write"]
    assert list(outcome.seconds) == ["read", *STEPS, "write"]
    assert outcome.peak_bytes > 50 << 20
    assert outcome.completed.row["gm_ml"] > 0
    assert all(naming.output_path(task.out, task.scan, kind).is_file() for kind in output_kinds((6.0,)))
    assert left_behind(task.out) == [task.out / ".partial"]  # empty: swept at the end of a run
    again = run_scan(task)
    assert (again.status, again.completed) == ("resumed", outcome.completed)
    assert task.completed() == outcome.completed
    forced = run_scan(replace(task, execution=replace(task.execution, force=True)))
    assert (forced.status, forced.completed) == ("done", outcome.completed)


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
    def fails(t1w, spec, on_step):
        on_step("segment")
        msg = "no brain here"
        raise ScanError(msg)

    (task,) = tasks(1, process=fails)
    outcome = run_scan(task)
    assert (outcome.status, outcome.step) == ("failed", "segment")
    assert outcome.detail == "sub-01_T1w: no brain here"
    assert left_behind(task.out) == [task.out / ".partial"]
    assert steps_in_progress(task.out) == {}
    task.scan.path.unlink()
    assert run_scan(task).step == "read"


def test_an_interruption_is_raised_and_leaves_nothing(tasks):
    def interrupted(t1w, spec, on_step):
        raise KeyboardInterrupt

    (task,) = tasks(1, process=interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_scan(task)
    assert steps_in_progress(task.out) == {}


def test_weights_reach_the_engine(tasks):
    seen = []

    def engine(t1w, spec, on_step):
        seen.append(spec.find_engine())
        return light(t1w, spec, on_step)

    (task,) = tasks(1, process=engine, engine="deep", weights="own")
    run_scan(task)
    assert seen == [Deep("own")]


@pytest.mark.parametrize("n_renamed", [0, 1, 9, 17])
def test_whenever_the_renaming_is_cut_short_the_scan_counts_as_incomplete(tasks, n_renamed):
    """An older result of other parameters is there: a mixture of both must not pass for either."""
    (task,) = tasks(1)
    (older,) = tasks(1, parameters={"older": True})
    assert run_scan(task).status == "done"
    whole = fingerprint(task.out)
    assert run_scan(older).status == "done"
    with cut_short(n_renamed):
        run_scan(task)
    assert task.completed() is None
    assert older.completed() is None
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
    with TaskRun(task) as run:
        run.read()
        run.process()
        assert [outcome.step for outcome in run.write()] == ["read"]


def test_a_scan_that_was_only_read_cannot_be_written(tasks):
    (task,) = tasks(1)
    with TaskRun(task) as run:
        run.read()
        with pytest.raises(RuntimeError, match="processed before it is written"):
            run.write()
    assert left_behind(task.out) == [task.out / ".partial"]
    assert steps_in_progress(task.out) == {}


def test_reasons_are_one_line_with_the_scan_in_it(tmp_path):
    scan = naming.Scan(tmp_path / "a.nii", "a", "a")
    assert reason_of(ScanError(f"{scan.path}: broken"), scan) == f"{scan.path}: broken"
    assert reason_of(ValueError("two\nlines"), scan) == "a: ValueError: two lines"
    assert reason_of(MemoryError("1 GB"), scan).startswith("a: out of memory (1 GB); free memory")
    assert "out of memory" in reason_of(RuntimeError("can't allocate memory: 5 bytes"), scan)


@pytest.mark.parametrize("names", naming.NAME_STYLES)
def test_only_the_smoothed_maps_that_are_missing_are_made(tasks, names):
    """The same files as of a run that made all widths at once, and the engine does not run again."""
    (both,) = tasks(1, names=names, fwhm_mm=(6, 7.5))
    run_scan(both)
    at_once = fingerprint(both.out)
    shutil.rmtree(both.out)
    (first,) = tasks(1, names=names)
    (second,) = tasks(1, names=names, fwhm_mm=7.5, process=None)
    run_scan(first)
    told = []
    outcome = run_scan(second, told.append)
    assert (outcome.status, told) == ("done", ["read", "smooth", "write"])
    assert outcome.seconds == {}  # it must not count as the time of a scan
    assert outcome.completed.fwhm_mm == (6.0, 7.5)
    assert outcome.completed.maps == ("mwp1", "mwp2", "mwp3", "s6mwp1", "s6mwp2", "s7.5mwp1", "s7.5mwp2")
    assert fingerprint(both.out) == at_once
    for task in (first, second, both):
        assert run_scan(task).status == "resumed"


@pytest.mark.parametrize("names", naming.NAME_STYLES)
def test_a_minimal_scan_has_only_what_statistics_need(tasks, names):
    (task,) = tasks(1, names=names, outputs=("minimal",))
    outcome = run_scan(task)
    assert outcome.completed.maps == ("s6mwp1", "s6mwp2")
    images = {path for path in task.out.rglob("*.nii.gz")}
    assert images == {naming.output_path(task.out, task.scan, kind, names) for kind in outcome.completed.maps}
    assert run_scan(task).status == "resumed"


def test_more_outputs_of_a_finished_scan_are_added_and_fewer_take_nothing_away(tasks):
    """Whoever asks for fields later wants them beside the maps; only --force leaves the others out."""
    (first,) = tasks(1, fwhm_mm=(6, 8))
    run_scan(first)
    fewer = replace(first, spec=replace(first.spec, outputs=("minimal",)))
    assert run_scan(fewer).status == "resumed"
    more = replace(first, spec=replace(first.spec, outputs=("y", "wj"), fwhm_mm=(6,)))
    assert more.completed() is not None
    outcome = run_scan(more)
    assert outcome.status == "done"
    assert set(outcome.completed.outputs) == {*first.spec.outputs, "y", "wj"}
    assert outcome.completed.fwhm_mm == (6.0, 8.0)
    assert {"y", "mwp1", "s8mwp1"} <= set(outcome.completed.kinds)
    assert all(naming.output_path(first.out, first.scan, kind).is_file() for kind in outcome.completed.kinds)
    for task in (first, fewer, more):
        assert run_scan(task).status == "resumed"
    forced = replace(fewer, execution=replace(fewer.execution, force=True))
    assert run_scan(forced).completed.outputs == ()
    assert not list(first.out.glob("mri/y_*"))
    assert sorted(path.name for path in first.out.glob("mri/*wp1*")) == [
        "s6mwp1sub-01_T1w.nii.gz",
        "s8mwp1sub-01_T1w.nii.gz",
    ]


def test_another_width_of_a_minimal_scan_runs_the_engine_again(tasks):
    (first,) = tasks(1, outputs=("minimal",))
    run_scan(first)
    (second,) = tasks(1, outputs=("minimal",), fwhm_mm=8)
    outcome = run_scan(second)
    assert outcome.completed.fwhm_mm == (6.0, 8.0)
    assert outcome.completed.outputs == ()


def test_all_outputs_are_written(tasks):
    (task,) = tasks(1, outputs=("all",), wmh=True)
    completed = run_scan(task).completed
    assert set(completed.outputs) == set(OUTPUTS)
    assert {"rp1", "m0wp3", "wm", "wj", "iy", "velocity", "mwp7", "mask7"} <= set(completed.kinds)
    assert all(naming.output_path(task.out, task.scan, kind).is_file() for kind in completed.kinds)


def test_no_smoothed_maps(tasks):
    (task,) = tasks(1, fwhm_mm=0)
    assert run_scan(task).completed.maps == ("mwp1", "mwp2", "mwp3")
    assert not list(task.out.glob("mri/s*"))
    assert run_scan(task).status == "resumed"


@pytest.mark.parametrize("names", naming.NAME_STYLES)
def test_smoothed_maps_of_another_engine_do_not_stay(tasks, names):
    (old,) = tasks(1, names=names, fwhm_mm=(6, 8))
    run_scan(old)
    (new,) = tasks(1, names=names, fwhm_mm=8, engine="deep")
    assert run_scan(new).status == "done"
    assert new.completed().fwhm_mm == (8.0,)
    assert not [path for path in new.out.rglob("*") if "s6mwp" in path.name or "S6" in path.name]


def test_a_smoothed_map_that_is_lost_is_no_complete_scan(tasks):
    (task,) = tasks(1)
    run_scan(task)
    naming.output_path(task.out, task.scan, "s6mwp2").unlink()
    assert task.completed() is None
    assert run_scan(task).status == "done"
