"""Workers that die, differ or are missing: complete results in order, or one clear error."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path

import pytest

from vbmstat.distributed import pool
from vbmstat.distributed.start import DEATHS
from vbmstat.errors import ClusterError, ScanError


@dataclass(frozen=True)
class Slow:
    """Finish later items first; return the item and the process id."""

    seconds: float = 0.0

    def __call__(self, number: int) -> tuple[int, int]:
        time.sleep(self.seconds * (3 - number % 4))
        return number, os.getpid()


@dataclass(frozen=True)
class Deadly:
    """Kill the own process at one item, the first few times."""

    folder: Path
    at: int
    times: int

    def __call__(self, number: int) -> int:
        if number == self.at and len(list(self.folder.iterdir())) < self.times:
            (self.folder / f"{time.monotonic_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number


def refuse(number: int) -> int:
    msg = f"sub-{number}: no such voxel"
    raise ScanError(msg)


def read(path: Path) -> int:
    return len(path.read_bytes())


def test_results_come_in_order_from_several_processes(local):
    results = list(local.map(Slow(0.02), range(20)))
    assert [number for number, _ in results] == list(range(20))
    assert len({pid for _, pid in results} - {os.getpid()}) == 2
    assert local.n_workers == 2


def test_the_task_of_a_killed_worker_is_done_by_another(local, tmp_path):
    assert list(local.map(Deadly(tmp_path, 3, 1), range(8))) == list(range(8))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_task_that_kills_every_worker_is_given_up(local, tmp_path, monkeypatch):
    scheduler = local._client.cluster.scheduler
    assert scheduler.allowed_failures == DEATHS - 1
    monkeypatch.setattr(scheduler, "allowed_failures", 0)  # one death is enough here; more cost seconds
    with pytest.raises(ClusterError, match=r"1 worker.s. died during the same task .* memory"):
        list(local.map(Deadly(tmp_path, 0, 99), range(1)))
    assert len(list(tmp_path.iterdir())) == 1
    assert list(local.map(Deadly(tmp_path, 9, 0), range(3))) == [0, 1, 2]  # the other worker lives


def test_an_error_in_a_task_is_raised_in_the_caller(local):
    with pytest.raises(ScanError, match="sub-5: no such voxel"):
        list(local.map(refuse, [5]))


def test_a_file_that_a_worker_cannot_see(local, tmp_path):
    with pytest.raises(ClusterError, match=r"a worker cannot see .*/here\.f32; put it on a file system"):
        list(local.map(read, [tmp_path / "here.f32"]))


def test_workers_of_another_version_are_refused(local, monkeypatch):
    monkeypatch.setattr(pool, "versions", lambda: {"vbmstat": "99"})
    with pytest.raises(ClusterError, match=r"a worker has vbmstat .*, expected 99; install one environment"):
        list(local.map(Slow(), [1]))


@dataclass(frozen=True)
class Noted:
    """Write one file per call."""

    folder: Path

    def __call__(self, number: int) -> int:
        (self.folder / str(number)).touch()
        time.sleep(0.05)
        return number


def test_tasks_that_are_no_longer_needed_are_cancelled(local, tmp_path):
    results = local.map(Noted(tmp_path), range(200))
    assert next(results) == 0
    results.close()
    assert next(local.map(Slow(), [1]))[0] == 1  # the workers are free again
    assert len(list(tmp_path.iterdir())) < 150


def test_an_executor_s_futures_are_those_of_the_standard_library(local):
    executor = local.executor()
    done = executor.submit(Slow(), 1)
    refused = executor.submit(refuse, 7)
    slow = executor.submit(time.sleep, 60)
    finished, waiting = wait([done, refused], timeout=60)
    assert (len(finished), waiting) == (2, set())
    assert done.result()[0] == 1
    with pytest.raises(ScanError, match="sub-7"):
        refused.result()
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(ClusterError, match="dropped the tasks"):
        slow.result(timeout=10)
