"""Batches that are killed at random moments, and what is to be compared afterwards; the benchmark uses it, too.

``python -m tests.batch.interrupt FOLDER N`` kills N batches with the stand-in for the engine and prints what it found.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

LOGS = "logs"  # times and what happened stand here alone; of it only the manifests must be equal


class Process(Protocol):
    """A batch that runs in a process group of its own."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; `subprocess.TimeoutExpired` if it goes on."""


Start = Callable[[], Process]


class Forked:
    """A copy of this process that does some work: its imports are done, so that it is at work when it is killed.

    Only for a process that has not computed with several threads yet.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                work()
                code = 0
            finally:
                os._exit(code)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # whoever comes first
            os.setpgid(self.pid, self.pid)

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout if timeout is not None else 1e9)
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired([], timeout or 0)
            time.sleep(0.005)


def command(*words: str) -> Process:
    """Start a command as a process group of its own."""
    return subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder by its relative name, hidden ones too; of the logs only the manifests."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    return {
        name.as_posix(): sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if name.parts[0] != LOGS or name.name.startswith("manifest-")
    }


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Names of files that are missing, left over or not equal."""
    return sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))


@dataclass(frozen=True)
class Found:
    """What became of batches that were killed."""

    n_kills: int
    n_folders: int
    n_unfinished: int  # kills after which something unfinished lay about
    moments_s: list[float]  # of the kills, after the start
    exit_codes: list[int]  # of the last start in each folder, which went to its end
    files_that_differ: list[str]


def kill_batches(start: Start, out: Path, longest_s: float, n_kills: int, kills_a_folder: int, seed: int) -> Found:
    """Start a batch, kill it and all that it started, start it again, …; then let it end and look what there is.

    Parameters
    ----------
    start : callable
        Starts a batch that writes into `out`; what is there now was made by an undisturbed one.
    longest_s : float
        Kills come evenly distributed between the start and this time.
    kills_a_folder : int
        After so many, or when a batch is done before its kill, it may end, and the next begins with an empty folder.
    """
    expected, chance = fingerprint(out), random.Random(seed)  # noqa: S311 - moments, not secrets
    moments: list[float] = []
    codes, differing, n_folders, n_unfinished = set(), set(), 0, 0
    while len(moments) < n_kills:
        shutil.rmtree(out)
        n_folders += 1
        for _ in range(min(kills_a_folder, n_kills - len(moments))):
            process, moment = start(), chance.uniform(0, longest_s)
            try:
                process.wait(moment)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                moments.append(round(moment, 2))
                n_unfinished += any(out.rglob(".partial*/*/*"))
        codes.add(start().wait())
        differing |= set(differences(fingerprint(out), expected))
    return Found(len(moments), n_folders, n_unfinished, moments, sorted(codes), sorted(differing))


def run_together(start: Start, out: Path) -> dict[str, object]:
    """Start two batches at once on one folder, in which an undisturbed one has left what it made."""
    expected = fingerprint(out)
    shutil.rmtree(out)
    codes = [process.wait() for process in (start(), start())]
    lines = [json.loads(line) for line in (out / LOGS / "status.jsonl").read_text().splitlines()]
    done = [line["scan"] for line in lines if line["event"] == "done"]
    return {
        "exit_codes": codes, "scans_complete": [line["complete"] for line in lines if line["event"] == "end"],
        "scans_done_twice": len(done) - len(set(done)), "files_that_differ": differences(fingerprint(out), expected),
    }  # fmt: skip


def light_batches(
    place: Path, n_scans: int, n_kills: int, kills_a_folder: int, seed: int, jobs: int = 1
) -> dict[str, object]:
    """Undisturbed, killed, and two together: with the stand-in for the engine, by copies of this process."""
    from tests.batch.light import light_undrawn, write_scans  # noqa: PLC0415
    from vbmstat.batch.run import preprocess  # noqa: PLC0415

    scans, out = write_scans(place / "scans", n_scans), place / "out"

    def start() -> Process:
        return Forked(lambda: preprocess(scans, out, jobs=jobs, device="cpu", process=light_undrawn))

    begin = time.perf_counter()
    if start().wait():
        msg = "the undisturbed batch failed"
        raise RuntimeError(msg)
    took_s, n_files = time.perf_counter() - begin, len(fingerprint(out))
    killed = kill_batches(start, out, took_s, n_kills, kills_a_folder, seed)
    both = run_together(start, out)
    return {"undisturbed_s": round(took_s, 2), "files": n_files, "killed": asdict(killed), "together": both}


if __name__ == "__main__":
    print(json.dumps(light_batches(Path(sys.argv[1]), 6, int(sys.argv[2]), 3, seed=1)))
