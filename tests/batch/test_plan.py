"""Plans: what is checked before the work, and which scans are complete; unknown options are in test_run.py."""

from __future__ import annotations

import pytest

from tests.batch.light import asked, write_dates, write_people, write_scans
from vbmstat.batch.plan import completed, make_plan
from vbmstat.batch.scan import run_scan
from vbmstat.errors import VbmstatError
from vbmstat.preproc.engines.classic import Classic

pytestmark = pytest.mark.usefixtures("undrawn")


def plan_of(tmp_path, shard=None, **options):
    return make_plan(write_scans(tmp_path / "scans", 3), tmp_path / "out", *asked(shard=shard, **options))


def test_a_plan_writes_nothing_and_reaches_every_task(tmp_path):
    plan = plan_of(tmp_path, names="bids", locking=False, force=True)
    assert not (tmp_path / "out").exists()
    assert [scan.stem for scan in plan.scans] == ["sub-01_T1w", "sub-02_T1w", "sub-03_T1w"]
    given = {(t.spec.names, t.execution.locking, t.execution.force, t.spec.device) for t in plan.tasks}
    assert given == {("bids", False, True, "cpu")}
    assert all(task.out == tmp_path / "out" and task.out.is_absolute() for task in plan.tasks)


def test_shards_have_one_manifest_and_files_of_their_own(tmp_path):
    whole, part = plan_of(tmp_path), plan_of(tmp_path, shard=(2, 3))
    assert part.id == whole.id != plan_of(tmp_path, names="bids").id
    assert [scan.stem for scan in part.scans] == ["sub-02_T1w"]
    assert whole.log_name("status", ".jsonl") == "status.jsonl"
    assert part.log_name("status", ".jsonl") == "status_shard-2of3.jsonl"


def test_complete_scans_are_found_and_unreadable_ones_are_not_complete(tmp_path):
    plan = plan_of(tmp_path)
    assert completed(plan) == {}
    outcomes = [run_scan(task) for task in plan.tasks[:2]]
    assert completed(plan) == {outcome.scan: outcome.completed for outcome in outcomes}
    plan.tasks[0].scan.path.unlink()
    assert list(completed(plan)) == [plan.tasks[1].scan]
    assert completed(plan_of(tmp_path, force=True)) == {}


def test_dates_against_the_order_of_the_names_are_said(tmp_path, caplog):
    folder = write_people(tmp_path / "people", {"sub-1": 2, "sub-2": 2})
    write_dates(folder, "sub-1", "acq_time", ["2012-03-01", "2011-03-01"])
    write_dates(folder, "sub-2", "acq_time", ["2011-03-01", "2012-03-01"])
    make_plan(folder, tmp_path / "out", *asked(longitudinal="both"))
    assert "another order by date than by name: sub-1 (ses-2, ses-1); if a date is wrong" in caplog.text
    assert "sub-2" not in caplog.text


def test_an_engine_that_takes_no_priors_is_refused_before_any_work(tmp_path, monkeypatch):
    folder = write_people(tmp_path / "people", {"sub-1": 2})
    assert len(make_plan(folder, tmp_path / "out", *asked(longitudinal="both")).tasks) == 1
    monkeypatch.setattr(Classic, "takes_priors", False)
    make_plan(folder, tmp_path / "out", *asked())
    with pytest.raises(VbmstatError, match="engine classic takes no priors"):
        make_plan(folder, tmp_path / "out", *asked(longitudinal="both"))
