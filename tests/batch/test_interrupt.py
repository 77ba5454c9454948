"""Batches killed with all that they started, and two on one folder: the folder is that of an undisturbed run.

With a quick stand-in for the engine and 3 kills; benchmarks/batch/interrupted.py has more of them, and the engine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.batch.interrupt import Forked, differences, fingerprint, kill_batches


@pytest.mark.timeout(300)
def test_a_folder_is_the_same_after_kills_and_with_two_runs_on_it(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "tests.batch.interrupt", str(tmp_path), "3"], cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(finished.stdout)
    killed, both = found["killed"], found["together"]
    assert found["files"] == 6 * 18 + 9  # cohort, failures, inputs with dictionaries; cohort.png, description, manifest
    assert killed["n_kills"] == 3
    assert killed["exit_codes"] == [0]
    assert killed["files_that_differ"] == []
    assert both == {
        "exit_codes": [0, 0], "scans_complete": [6, 6], "scans_done_twice": 0, "files_that_differ": [],
    }  # fmt: skip


def test_the_comparison_finds_what_is_missing_left_over_or_other(tmp_path):
    for name in ("same", "other", "missing", "logs/status.jsonl", "logs/manifest-1.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    before = fingerprint(tmp_path)
    (tmp_path / "missing").unlink()
    (tmp_path / ".partial-over").write_text("x")
    for name in ("other", "logs/status.jsonl", "logs/manifest-1.json"):
        (tmp_path / name).write_text("changed")
    assert differences(fingerprint(tmp_path), before) == [".partial-over", "logs/manifest-1.json", "missing", "other"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Python 3.12: this process has threads
def test_a_batch_that_writes_in_place_is_found_out(tmp_path):
    """What kill_batches is for: a program that takes a file for whole because it is there."""
    out = tmp_path / "out"

    def naive():
        out.mkdir(exist_ok=True)
        for number in range(20):
            if not (out / f"{number}").exists():
                with (out / f"{number}").open("wb") as stream:
                    for _ in range(200):
                        stream.write(os.urandom(1) * 0 + b"x" * 10000)
                        stream.flush()

    Forked(naive).wait()
    found = kill_batches(lambda: Forked(naive), out, longest_s=0.03, n_kills=10, kills_a_folder=5, seed=1)
    assert found.n_kills == 10
    assert found.files_that_differ != []
