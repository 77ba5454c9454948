"""Who works scans off: here, in processes that may die, in any executor."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch

from tests.batch.light import KILLS, light, light_undrawn
from vbmstat.batch.claim import claim, steps_in_progress
from vbmstat.batch.scan import run_scan
from vbmstat.batch.workers import Workers, _end_with, local_workers, run_elsewhere, run_here


def statuses(outcomes) -> list[tuple[str, str]]:
    return [(outcome.scan.participant_id, outcome.status) for outcome in outcomes]


def ignore(*_) -> None:
    pass


def test_here_in_order_each_step_told(tasks):
    told = []
    some = tasks(3)
    found = statuses(run_here(some, lambda task, step: told.append((task.scan.participant_id, step))))
    assert found == [("sub-01", "done"), ("sub-02", "done"), ("sub-03", "done")]
    assert [step for scan, step in told if scan == "sub-02"] == ["read", "brain", "segment", "warp", "write"]
    assert steps_in_progress(some[0].out) == {}


def test_here_a_bad_scan_is_passed_by(tasks):
    some = tasks(3)
    some[1].scan.path.write_bytes(b"broken")
    assert [status for _, status in statuses(run_here(some, ignore))] == ["done", "failed", "done"]
    assert list(run_here([], ignore)) == []


def test_here_the_next_scan_is_read_while_this_one_is_under_work(tasks):
    """The first engine call waits until the second scan has been read; without that it would wait in vain."""
    read, was_read = threading.Event(), []

    def waits(t1w, spec, on_step):
        was_read.append(read.wait(5))
        return light(t1w, spec, on_step)

    some = tasks(2, process=waits)

    def tell(task, step):
        if task is some[1] and step == "read":
            read.set()

    assert len(list(run_here(some, tell))) == 2
    assert was_read == [True, True]


@pytest.mark.parametrize("where", ["read ahead", "given up"])
def test_here_an_interruption_frees_all_scans(tasks, where):
    def interrupted(t1w, spec, on_step):
        raise KeyboardInterrupt

    some = tasks(3, process=interrupted if where == "read ahead" else light)
    outcomes = run_here(some, ignore)
    if where == "read ahead":
        with pytest.raises(KeyboardInterrupt):
            next(outcomes)
    else:
        next(outcomes)
        outcomes.close()
    for task in some:
        held = claim(task.out, task.scan.stem)
        assert held is not None
        held.release()


class Breaks(ThreadPoolExecutor):
    """An executor that breaks when it is given a certain scan, as a pool does of which a process dies."""

    made: list[int] = []  # noqa: RUF012
    culprit = ""
    is_broken = False

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.made.append(n)

    def submit(self, function, task):
        if self.is_broken:
            raise BrokenProcessPool
        if task.scan.participant_id == self.culprit:
            self.is_broken = True
        future: Future = Future()
        if self.is_broken:
            future.set_exception(BrokenProcessPool("a process died"))
        else:
            future.set_result(function(task))
        return future


def test_a_process_that_dies_takes_one_scan_with_it(tasks, monkeypatch):
    monkeypatch.setattr(Breaks, "culprit", "sub-03")
    monkeypatch.setattr(Breaks, "made", [])
    some = tasks(6)
    outcomes = {outcome.scan.participant_id: outcome for outcome in run_elsewhere(some, Workers(Breaks, 3), ignore)}
    assert {scan: outcome.status for scan, outcome in outcomes.items()} == {
        f"sub-{number:02d}": "failed" if number == 3 else "done" for number in range(1, 7)
    }
    assert outcomes["sub-03"].detail.startswith("sub-03_T1w: its process was killed at the step start")
    assert Breaks.made[0] == 3
    assert Breaks.made[-1] == 2  # one less together from then on
    assert set(Breaks.made[1:-1]) == {1}  # those under way, alone


def test_an_executor_that_breaks_idle_is_replaced(tasks, monkeypatch):
    made = []

    class BrokenAtFirst(ThreadPoolExecutor):
        def __init__(self, n):
            super().__init__(n)
            made.append(self)

        def submit(self, function, task):
            if self is made[0]:
                raise BrokenProcessPool
            return super().submit(function, task)

    assert [s for _, s in statuses(run_elsewhere(tasks(2), Workers(BrokenAtFirst, 2), ignore))] == ["done", "done"]


def test_an_executor_that_gives_up_a_scan_fails_that_scan(tasks):
    class GivesUp(ThreadPoolExecutor):
        def submit(self, function, task):
            if task.scan.participant_id == "sub-02":
                return super().submit(int, "no number")
            return super().submit(function, task)

    outcomes = {o.scan.participant_id: o for o in run_elsewhere(tasks(3), Workers(GivesUp, 2), ignore)}
    assert [outcomes[scan].status for scan in sorted(outcomes)] == ["done", "failed", "done"]
    assert "ValueError: invalid literal" in outcomes["sub-02"].reason


def test_no_more_is_submitted_than_there_are_slots(tasks):
    under_work, most = [], []

    class Counts(ThreadPoolExecutor):
        def submit(self, function, task):
            def counted(task):
                outcome = function(task)
                under_work.remove(task)
                return outcome

            under_work.append(task)
            most.append(len(under_work))
            return super().submit(counted, task)

    assert len(list(run_elsewhere(tasks(6), Workers(Counts, 2), ignore))) == 6
    assert max(most) <= 2


@pytest.mark.timeout(300)
def test_processes_of_this_machine(tasks):
    """A real pool, in which one scan kills its process, as the system does for want of memory."""
    some = tasks(4, marks={2: KILLS}, process=light_undrawn)
    before = dict(os.environ)
    with local_workers(2, threads=1) as workers:
        assert os.environ["OMP_NUM_THREADS"] == "1"
        outcomes = {o.scan.participant_id: o for o in run_elsewhere(some, workers, ignore)}
    assert dict(os.environ) == before
    assert {scan: outcome.status for scan, outcome in outcomes.items()} == {
        "sub-01": "done", "sub-02": "failed", "sub-03": "done", "sub-04": "done",
    }  # fmt: skip
    assert (outcomes["sub-02"].step, outcomes["sub-02"].seconds) == ("segment", {})
    assert "killed at the step segment, most likely because memory ran out" in outcomes["sub-02"].reason


@pytest.mark.parametrize("before", ["7", None])
def test_the_threads_of_processes_are_told_to_them_and_to_nobody_else(monkeypatch, before):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    if before is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    with local_workers(2, threads=3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_threads_are_bounded():
    from vbmstat.batch.workers import set_threads  # noqa: PLC0415

    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_outcomes_do_not_depend_on_who_works(tasks):
    some = tasks(2)
    here = {o.scan: o.completed for o in run_here(some, ignore)}
    again = [replace(task, execution=replace(task.execution, force=True)) for task in some]
    assert {o.scan: o.completed for o in map(run_scan, again)} == here


def test_a_worker_ends_with_its_parent(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    ours, parents = multiprocessing.Pipe()
    watcher = threading.Thread(target=_end_with, args=(ours,))
    watcher.start()
    assert not ended.wait(0.1)
    parents.close()  # as the system does when a process ends
    watcher.join(5)
    assert ended.is_set()
    ours.close()
