"""Workers that die, lie, or are not there: results in order and whole, or one clear line."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from distributed import LocalCluster

from vbmstat import cluster
from vbmstat.cluster import open_cluster
from vbmstat.errors import ClusterError, ScanError


@dataclass(frozen=True)
class Slow:
    """Later items are done first; the answer says which process it is from."""

    seconds: float = 0.0

    def __call__(self, number: int) -> tuple[int, int]:
        time.sleep(self.seconds * (3 - number % 4))
        return number, os.getpid()


@dataclass(frozen=True)
class Deadly:
    """Kills its own process at an item, the first few times."""

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
    found = list(local.map(Slow(0.02), range(20)))
    assert [number for number, _ in found] == list(range(20))
    assert len({pid for _, pid in found} - {os.getpid()}) == 2
    assert local.n_workers == 2


def test_the_task_of_a_killed_worker_is_done_by_another(local, tmp_path):
    assert list(local.map(Deadly(tmp_path, 3, 1), range(8))) == list(range(8))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_task_that_kills_every_worker_is_given_up(local, tmp_path):
    with pytest.raises(ClusterError, match=r"3 workers died at the same task .* memory"):
        list(local.map(Deadly(tmp_path, 0, 99), range(1)))
    assert len(list(tmp_path.iterdir())) == 3
    assert list(local.map(Deadly(tmp_path, 9, 0), range(3))) == [0, 1, 2]  # the workers are back


def test_an_error_of_a_task_is_the_caller_s(local):
    with pytest.raises(ScanError, match="sub-5: no such voxel"):
        list(local.map(refuse, [5]))


def test_a_file_that_a_worker_does_not_see(local, tmp_path):
    with pytest.raises(ClusterError, match=r"a worker does not see .*/here\.f32; put it on a file system"):
        list(local.map(read, [tmp_path / "here.f32"]))


def test_workers_of_another_version_are_refused(local, monkeypatch):
    monkeypatch.setattr(cluster, "versions", lambda: {"vbmstat": "99"})
    with pytest.raises(ClusterError, match=r"a worker has vbmstat .*, expected 99; give all machines one environment"):
        list(local.map(Slow(), [1]))


def test_tasks_that_nobody_waits_for_are_cancelled(local):
    found = local.map(Slow(0.1), range(200))
    next(found)
    found.close()
    start = time.monotonic()
    assert next(local.map(Slow(), [1]))[0] == 1
    assert time.monotonic() - start < 5  # 200 tasks took 15 s of two workers


def test_a_scheduler_by_its_address():
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as running:
        with open_cluster(running.scheduler_address) as found:
            assert [number for number, _ in found.map(Slow(), range(3))] == [0, 1, 2]
        assert list(running.scheduler.workers)  # those of the user stay


def test_no_cluster():
    with open_cluster(None) as found:
        assert found is None


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://no.such.host.invalid:8786"])
def test_no_scheduler_there(address, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(ClusterError, match="no dask scheduler answers at"), open_cluster(address):
        pass


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ClusterError, match=r"--scheduler local needs dask; install vbmstat\[cluster\]"):
        open_cluster("local").__enter__()


def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="there is no sbatch here"):
        open_cluster("slurm", folder=tmp_path).__enter__()


def test_slurm_takes_no_job(monkeypatch, tmp_path):
    """The job that SLURM is asked about: one process, its cores and memory; and the reason why it is refused."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\ncp "$2" {tmp_path}/job.sh\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    with pytest.raises(ClusterError, match="SLURM takes no job of vbmstat: sbatch: error: invalid partition; set"):
        open_cluster("slurm", cores=2, memory="3 GB", folder=tmp_path / "logs").__enter__()
    job = (tmp_path / "job.sh").read_text()
    for words in ("--cpus-per-task=2", "--mem=3G", "-J vbmstat", f"-o {tmp_path}/logs/vbmstat-%J", "--nthreads 1", "tls:"):
        assert words in job
    assert not list((tmp_path / "logs").iterdir())  # the key of the refused run is gone
