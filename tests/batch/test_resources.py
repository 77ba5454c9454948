"""How a machine is shared out among scans."""

from __future__ import annotations

import pytest

from vbmstat.batch import resources
from vbmstat.batch.resources import Execution, Machine, allot, disk_free_bytes, probe, taken_bytes
from vbmstat.errors import VbmstatError
from vbmstat.preproc.spec import find_engine

GB = 10**9


def as_asked(jobs=None, memory_gb=None) -> Execution:
    return Execution(jobs=jobs, memory_gb=memory_gb)


def shared(cores=16, free=60, total=64, *, gpus=0, gpu_gb=0, n_scans=100, n_todo=None, **options) -> tuple[int, int]:
    machine = Machine(cores, free * GB, total * GB, gpus, gpu_gb * GB)
    share = allot(machine, as_asked(**options), 3 * GB, n_scans, n_todo)
    return share.jobs, share.threads


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (16, 1)),
        ({"free": 20, "total": 20}, (6, 2)),  # memory for 6
        ({"free": 20}, (6, 1)),  # of 64 GB others hold 44 now: as many threads as without them
        ({"n_scans": 4}, (4, 4)),
        ({"n_scans": 100, "n_todo": 1}, (1, 1)),  # the last of 100: threads as for the others
        ({"n_scans": 1}, (1, 16)),
        ({"cores": 2, "free": 1, "total": 1}, (1, 2)),  # too little for one: it is tried
        ({"jobs": 4}, (4, 4)),
        ({"jobs": 40, "free": 10, "total": 10}, (40, 1)),  # what the user wants
        ({"jobs": 40, "memory_gb": 10.0}, (3, 5)),  # unless the user bounds it
        ({"memory_gb": 31.0}, (10, 1)),
        ({"gpus": 2, "gpu_gb": 80}, (6, 2)),  # three processes a GPU
        ({"gpus": 2, "gpu_gb": 9}, (2, 8)),
        ({"n_scans": 0}, (1, 16)),
    ],
)
def test_shares(given, expected):
    assert shared(**given) == expected


def test_what_a_user_should_know_is_said():
    machine = Machine(8, 10 * GB, 64 * GB)
    assert allot(machine, as_asked(), GB, 100).note == ""
    assert allot(machine, as_asked(), 3 * GB, 100).note == "9.0 GB are enough for 3 at once"
    assert allot(machine, as_asked(), 3 * GB, 2).note == ""
    assert "5 at once may take 15.0 GB and 9.0 GB are available" in allot(machine, as_asked(jobs=5), 3 * GB, 100).note


@pytest.mark.parametrize(
    ("given", "message"),
    [({"jobs": 0}, "--jobs of 1 or more, got 0"), ({"memory_gb": 0.0}, "--memory above 0 GB, got 0")],
)
def test_impossible_wishes(given, message):
    with pytest.raises(VbmstatError, match=message):
        allot(Machine(8, GB, GB), as_asked(**given), GB, 1)


def test_larger_scans_take_more_and_engines_differ():
    assert taken_bytes("classic", [10**6, 10**8]) > taken_bytes("classic", [10**6]) > 2 * GB
    assert taken_bytes("classic", []) == taken_bytes("classic", [256**3])
    assert taken_bytes(find_engine("deep", "deepmriprep").workload, [10**6]) > 8 * GB
    assert taken_bytes(find_engine("deep").workload, [10**6]) < 5 * GB
    assert taken_bytes("of tomorrow", [10**6]) > taken_bytes("classic", [10**6])


def test_this_machine(tmp_path, monkeypatch):
    machine = probe()
    assert machine.cores >= 1
    assert 0 < machine.free_bytes < machine.total_bytes
    assert machine.gpus == 0
    monkeypatch.setattr(resources.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(resources, "free_memory_bytes", lambda device: {"cuda:0": 5, "cuda:1": 4, "cpu": 9}[device])
    assert (probe("cuda").gpus, probe("cuda").gpu_memory_bytes) == (2, 4)
    assert probe("cuda:1").gpus == 1
    assert disk_free_bytes(tmp_path / "not" / "yet" / "made") == disk_free_bytes(tmp_path) > 0
