"""Locks of scans: one holder, released by its death; nothing unfinished stays."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from vbmstat.batch import claim as claims
from vbmstat.batch.claim import claim, steps_in_progress, sweep, tables_claim
from vbmstat.errors import VbmstatError

HOLDER = """
import sys, time
from pathlib import Path
from vbmstat.batch.claim import claim
held = claim(Path(sys.argv[1]), "a")
held.note("warp")
held.folder.mkdir(parents=True)
(held.folder / "half").write_text("x")
print("held", flush=True)
time.sleep(60)
"""


def test_one_holder_at_a_time(tmp_path):
    first = claim(tmp_path, "a")
    assert claim(tmp_path, "a") is None
    other = claim(tmp_path, "b")
    first.release()
    again = claim(tmp_path, "a")
    assert again is not None
    other.release()
    again.release()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_keeps_two_apart(tmp_path):
    first, second = claim(tmp_path, "a", locking=False), claim(tmp_path, "a", locking=False)
    assert second is not None
    first.release()
    second.release()


def test_a_lock_ends_with_its_process_and_the_next_holder_finds_nothing_unfinished(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    assert claim(tmp_path, "a") is None
    sweep(tmp_path)  # what is at work stays
    assert (tmp_path / ".partial" / "scans" / "a" / "half").is_file()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert steps_in_progress(tmp_path) == {"a": "warp"}  # where it was killed
    held = claim(tmp_path, "a")
    assert not held.folder.exists()
    held.release()


def test_sweep_removes_what_killed_runs_left(tmp_path):
    for name in ("scans/a/mri/half", "locks/a", "scans/b/half"):
        path = tmp_path / ".partial" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    held = claim(tmp_path, "c")
    sweep(tmp_path, locking=False)  # whose they are cannot be known
    assert (tmp_path / ".partial" / "scans" / "a").exists()
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / ".partial").rglob("*")] == ["locks", "c"]
    held.release()
    sweep(tmp_path)
    assert not (tmp_path / ".partial").exists()


def test_a_lock_file_that_its_holder_removed_since_it_was_opened_guards_nothing(tmp_path, monkeypatch):
    lock, n_tries = fcntl.flock, 0

    def removed_meanwhile(handle, operation):
        nonlocal n_tries
        n_tries += 1
        if n_tries == 1:
            (tmp_path / ".partial" / "locks" / "a").unlink()
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    held = claim(tmp_path, "a")
    assert n_tries == 2
    assert claim(tmp_path, "a") is None
    held.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_in_one_line(tmp_path, monkeypatch, number):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(VbmstatError, match=r"files cannot be locked there .* --no-lock") as caught:
        claim(tmp_path, "a")
    assert "\n" not in str(caught.value)
    claim(tmp_path, "a", locking=False).release()


def test_a_system_without_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "fcntl", None)
    with pytest.raises(VbmstatError, match="this system has none"):
        claim(tmp_path, "a")


def test_tables_are_written_by_one_run_at_a_time_and_unfinished_ones_go(tmp_path):
    (tmp_path / "report").mkdir()
    for name in (".partial-1.tsv", "report/.partial-2.png"):
        (tmp_path / name).write_text("x")
    order = []

    def second():
        with tables_claim(tmp_path):
            order.append("second")

    with tables_claim(tmp_path):
        assert [path.name for path in tmp_path.rglob(".partial-*")] == []
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not (tmp_path / ".partial").exists()
