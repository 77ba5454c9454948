"""Devices: the choice and its messages; memory; reuse of freed memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from vbmstat import device
from vbmstat.errors import VbmstatError


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    for n_gpus, expected in ((0, "cpu"), (2, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda n=n_gpus: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda n=n_gpus: n)
        assert device.choose_device("auto").type == expected
        assert device.choose_device("cpu").type == "cpu"
    assert device.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(VbmstatError, match="device cuda:2 was asked for, but"):
        device.choose_device("cuda:2")


def test_cuda_that_is_absent(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(VbmstatError, match=r"device cuda was asked for, but .*; use --device cpu"):
        device.choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "", "cpu:1", "cuda:one", "auto:0"])
def test_unknown_device(name):
    with pytest.raises(VbmstatError, match="expected a device of auto, cpu, cuda or cuda:0"):
        device.choose_device(name)


@pytest.mark.gpu
def test_free_memory_of_a_gpu_shrinks():
    before = device.free_memory_bytes("cuda")
    kept = torch.zeros(64 << 20, dtype=torch.float32, device="cuda")
    assert before - device.free_memory_bytes("cuda") >= kept.nbytes


def test_free_memory_is_plausible():
    assert 50 << 20 < device.free_memory_bytes("cpu") < 1 << 46


def test_all_of_the_memory_is_more_than_what_is_free(tmp_path, monkeypatch):
    assert device.free_memory_bytes("cpu") < device.total_memory_bytes() < 1 << 46
    (tmp_path / "memory.max").write_text("5000\n")
    monkeypatch.setattr(device, "_CONTROL_GROUPS", tmp_path)
    assert device.total_memory_bytes() == 5000


def test_limit_of_a_container_counts(tmp_path, monkeypatch):
    nowhere = tmp_path / "nowhere"
    assert device._left_in_control_group(tmp_path, nowhere) == sys.maxsize
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert device._left_in_control_group(tmp_path, nowhere) == sys.maxsize
    (tmp_path / "memory.max").write_text("5000\n")
    assert device._left_in_control_group(tmp_path, nowhere) == 4000
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 600\n")  # the disk cache can be had
    assert device._left_in_control_group(tmp_path, nowhere) == 4600
    monkeypatch.setattr(device, "_left_in_control_group", lambda: 4000)
    assert device.free_memory_bytes("cpu") == 4000


@pytest.mark.parametrize(("line", "place"), [("0::/job/step", ""), ("4:cpu,memory:/job/step", "memory")])
def test_the_tightest_of_the_groups_around_a_process_counts(tmp_path, line, place):
    own = tmp_path / "own"
    own.write_text(f"9:pids:/elsewhere\n{line}\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if place else ("memory.max", "memory.current")
    for folder, limit in ((tmp_path / place / "job" / "step", 9000), (tmp_path / place / "job", 7000)):
        folder.mkdir(parents=True, exist_ok=True)
        for name, number in zip(names, (limit, 1000), strict=True):
            (folder / name).write_text(f"{number}\n")
    assert device._left_in_control_group(tmp_path, own) == 6000


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 64 cores, 16 of which this process may use, with control groups of our making and no SLURM."""
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(device, "_CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(device, "_OWN_GROUPS", tmp_path / "own")
    return tmp_path


def quota(folder, version: int, cores: float | None) -> None:
    """Write the quota of a control group as the kernel shows it; None for no limit."""
    folder.mkdir(parents=True, exist_ok=True)
    microseconds = None if cores is None else int(cores * 100_000)
    if version == 2:
        (folder / "cpu.max").write_text(f"{'max' if microseconds is None else microseconds} 100000\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{-1 if microseconds is None else microseconds}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("cores", "expected"), [(None, 16), (4, 4), (2.5, 3), (0.5, 1), (0.01, 1), (40, 16)])
def test_cores_within_the_quota_of_a_container(machine, version, cores, expected):
    quota(machine / "cgroup" / ("cpu" if version == 1 else ""), version, cores)
    assert device.n_cores() == expected


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_quota_of_the_groups_around_a_process_counts(machine, version):
    (machine / "own").write_text("0::/slurm/job/step\n" if version == 2 else "4:cpu,cpuacct:/slurm/job/step\n")
    home = machine / "cgroup" / ("cpu" if version == 1 else "")
    for place, cores in (("slurm", 8), ("slurm/job", 3), ("slurm/job/step", None), ("slurm/other", 1)):
        quota(home / place, version, cores)
    assert device.n_cores() == 3


def test_cores_within_affinity_and_what_slurm_allots(machine, monkeypatch):
    assert device.n_cores() == 16
    for told, expected in (("5", 5), ("", 16), ("99", 16), ("0", 1), ("8(x2)", 16)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", told)
        assert device.n_cores() == expected
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 4})
    assert device.n_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert device.n_cores() == 64


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_used_again():
    program = """
import resource, sys, torch
from vbmstat.device import keep_freed_memory
if sys.argv[1] == "keep": assert keep_freed_memory()
x = torch.ones(9 << 20)  # 36 MB: more than glibc keeps by itself
for n in range(20):
    if n == 10: before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt  # the pool has grown by now
    y = x + 1
    z = y * 2
    del y, z
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {}
    for mode in ("keep", "leave"):
        command = [sys.executable, "-c", program, mode]
        environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"}  # huge pages alone would do, where there are any
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        faults[mode] = int(done.stdout)
    if faults["leave"] < 100_000:
        pytest.skip("this system has large pages or keeps freed memory by itself")
    assert faults["keep"] < faults["leave"] / 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere it is the peak since the start")
def test_the_peak_rises_with_what_is_taken_and_starts_anew():
    """In a process of its own: elsewhere memory that other tests freed moves the figures."""
    code = """
import mmap
from vbmstat import device
device.start_peak()
peaks = [device.peak_bytes()]
taken = mmap.mmap(-1, 200 << 20)
for page in range(0, 200 << 20, mmap.PAGESIZE):
    taken[page] = 1
peaks.append(device.peak_bytes())
taken.close()
peaks.append(device.peak_bytes())
device.start_peak()
peaks.append(device.peak_bytes())
print(*peaks)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, with_it, after, anew = (int(peak) / (200 << 20) for peak in answer.stdout.split())
    assert with_it - before > 0.9
    assert after - before > 0.9
    assert anew - before < 0.5
