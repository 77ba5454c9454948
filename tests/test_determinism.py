"""The same scan on the same machine gives the same bytes; other threads and devices stay within published limits.

``benchmarks/determinism`` measures the same on real scans; the limits here are several times what it found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vbmstat.image import io
from vbmstat.rerun import compare_outputs

COMMAND = Path(sys.executable).with_name("vbmstat")
STEM = "sub-01_T1w"
# What the difference of a map stays below in 99.9 % of the brain's voxels.
LIMITS = {"p1": 1e-4, "p2": 1e-4, "mwp1": 1e-4, "s6mwp1": 1e-5}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(simulated, tmp_path_factory):
    """Outputs of a light scan by (threads, device, run); each run is a process of its own."""
    folder = tmp_path_factory.mktemp("determinism")

    def make(threads: int, device: str = "cpu", again: str = "") -> Path:
        out = folder / f"{threads}{device}{again}"
        if not out.exists():
            scan = simulated / "sub-01" / "anat" / f"{STEM}.nii.gz"
            command = [COMMAND, "preprocess", scan, "--out", out, "--device", device, "--jobs", "1", "--no-report"]
            env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            subprocess.run([str(one) for one in command], check=True, env=env, capture_output=True)
        return out

    return make


def names(folder: Path) -> list[str]:
    return [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.parent.name != "logs"]


def assert_within_limits(one: Path, other: Path) -> None:
    for prefix, limit in LIMITS.items():
        a, b = (io.read_volume(folder / "mri" / f"{prefix}{STEM}.nii.gz").data for folder in (one, other))
        apart = (a - b).abs()[a > 0.01]
        assert float(apart.kthvalue(int(0.999 * apart.numel())).values) < limit, prefix


def test_the_same_bytes_in_another_process(made):
    one, other = made(1), made(1, again="again")
    found = compare_outputs(one, other, names(one))
    assert len(found) >= 25
    assert {entry.status for entry in found} == {"same bytes"}


def test_two_threads_differ_in_the_last_bits(made):
    assert_within_limits(made(1), made(2))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_bytes_again_and_stays_near_the_cpu(made):
    one, other = made(1, "cuda"), made(1, "cuda", "again")
    assert {entry.status for entry in compare_outputs(one, other, names(one))} == {"same bytes"}
    assert_within_limits(made(1), one)
