"""On a real SLURM, which `slurm_machine.sh` starts on this machine; skipped where none is installed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest

from tests.batch.light import asked, light, write_scans
from tests.batch.test_on_cluster import files, no_picture, quick
from vbmstat.batch import derivatives, run
from vbmstat.batch.on_cluster import scheduled_workers
from vbmstat.batch.plan import make_plan
from vbmstat.distributed.start import open_cluster
from vbmstat.errors import ClusterError

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples" / "slurm"
# The command line with the light engine, as batch files call it
COMMAND = f"""#!{sys.executable}
import sys
sys.path.insert(0, {str(HERE.parent)!r})
from tests.batch.light import light
from tests.batch.test_on_cluster import no_picture
from vbmstat import cli, derivatives
from vbmstat.preproc import pipeline
derivatives._write_picture, pipeline.preprocess_scan = no_picture, light
cli.main()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which("slurmctld") and shutil.which("munged")), reason="no SLURM here"),
]


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    """A cluster of this machine, for this module alone."""
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patched:
        subprocess.run([HERE / "slurm_machine.sh", "start", folder], check=True, timeout=120)
        patched.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patched.setenv("PYTHONPATH", str(HERE.parent))  # workers import the tests' functions
        yield folder
        subprocess.run([HERE / "slurm_machine.sh", "stop", folder], check=True, timeout=60)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(derivatives, "_write_picture", no_picture)


def say(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def wait_and_square(number: int) -> int:
    time.sleep(0.3)
    return number**2


def test_a_job_that_ends_in_the_middle_is_replaced(tmp_path):
    with open_cluster("slurm", workers=2, memory=10**9, folder=tmp_path) as cluster:
        (key,) = tmp_path.glob(".tls-*/key")
        assert (key.stat().st_mode | key.parent.stat().st_mode) & 0o077 == 0
        found = []
        for square in cluster.map(wait_and_square, range(60)):
            found.append(square)
            if len(found) == 3:
                jobs = say("squeue", "--noheader", "--format=%i").split()
                assert len(jobs) in (1, 2)  # the second may come later
                say("scancel", jobs[0])
        assert found == [number**2 for number in range(60)]
        assert set(say("squeue", "--noheader", "--format=%i").split()) != set(jobs)
    assert not key.parent.exists()


def test_a_partition_that_does_not_exist(tmp_path, monkeypatch):

    with dask.config.set({"jobqueue.slurm.queue": "nowhere"}), pytest.raises(ClusterError, match="invalid partition"):
        open_cluster("slurm", folder=tmp_path).__enter__()


def test_scans_as_tasks_of_two_jobs(tmp_path):
    scans = write_scans(tmp_path / "in", 4)
    run.preprocess(scans, tmp_path / "alone", device="cpu", process=light)
    plan = make_plan(scans, tmp_path / "together", *asked(process=quick, jobs=2, memory_gb=4.0))
    with scheduled_workers(plan, "slurm") as workers:
        result = run.run_plan(plan, workers=workers)
    assert not result.failures
    assert files(tmp_path / "alone") == files(tmp_path / "together")


def test_a_job_array_of_shards(tmp_path, slurm, monkeypatch):
    """The batch files of the examples: two parts, then the table of all and packed maps."""
    scans = write_scans(tmp_path / "in", 4)
    run.preprocess(scans, tmp_path / "alone", device="cpu", process=light)
    command = tmp_path / "vbmstat"
    command.write_text(COMMAND)
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.chdir(tmp_path)
    where = {**os.environ, "VBMSTAT": str(command), "SBATCH_MEM_PER_NODE": "2G"}
    told = subprocess.run(
        [EXAMPLES / "submit.sh", scans, tmp_path / "out", "2"], check=True, capture_output=True, text=True, env=where
    ).stdout
    last = told.split("then ")[1].split(";")[0]
    deadline = time.monotonic() + 120
    while f"JobId={last} " not in (slurm / "completed.txt").read_text():
        assert time.monotonic() < deadline, say("squeue")
        time.sleep(0.5)
    logs = "".join(path.read_text() for path in tmp_path.glob("vbmstat-*.log"))
    assert "shard 1/2" in logs
    assert "shard 2/2" in logs
    assert files(tmp_path / "alone").items() <= files(tmp_path / "out").items(), logs
