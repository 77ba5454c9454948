"""--scheduler gives workers, or one line that says why there are none."""

from __future__ import annotations

import logging
import os
import sys

import pytest
from distributed import LocalCluster

from vbmstat.distributed import start
from vbmstat.distributed.start import open_cluster
from vbmstat.errors import ClusterError


def test_a_scheduler_by_its_address():
    with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as running:
        with open_cluster(running.scheduler_address) as cluster:
            assert list(cluster.map(abs, [-1, 2, -3])) == [1, 2, 3]
        assert list(running.scheduler.workers)  # the user's workers stay


def test_dask_is_quiet(caplog):
    """dask's log would clutter the screen of a batch; the level is restored afterwards."""
    before = logging.getLogger("distributed").level
    with caplog.at_level(logging.INFO):
        quiet = LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0")
        caplog.clear()
        with quiet as running, open_cluster(running.scheduler_address) as cluster:
            assert list(cluster.map(abs, [-1])) == [1]
            assert not [record for record in caplog.records if record.name.startswith("distributed")]
    assert logging.getLogger("distributed").level == before


def test_no_cluster():
    with open_cluster(None) as cluster:
        assert cluster is None


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://no.such.host.invalid:8786"])
def test_no_scheduler_there(address, monkeypatch):
    monkeypatch.setattr(start, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(ClusterError, match="no dask scheduler answers at"), open_cluster(address):
        pass


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask", None)
    with pytest.raises(ClusterError, match=r"--scheduler local needs dask; install vbmstat\[cluster\]"):
        open_cluster("local").__enter__()


def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="sbatch not found"):
        open_cluster("slurm", folder=tmp_path).__enter__()


def test_slurm_rejects_the_job(monkeypatch, tmp_path):
    """The job script asks for one process with its cores and memory; the error holds SLURM's reason."""
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(f'#!/bin/sh\ncp "$2" {tmp_path}/job.sh\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
    with pytest.raises(ClusterError, match="SLURM rejects the job: sbatch: error: invalid partition; set"):
        open_cluster("slurm", cores=2, memory=3 * 2**30, folder=tmp_path / "logs").__enter__()
    job = (tmp_path / "job.sh").read_text()
    logs = f"-o {tmp_path}/logs/vbmstat-%J"
    for words in ("--cpus-per-task=2", "--mem=3G", "-J vbmstat", logs, "--nthreads 1", "tls:"):
        assert words in job, words
    assert not list((tmp_path / "logs").iterdir())  # the key of the rejected run is deleted
