"""Hostile inputs through the whole of ``vbmstat preprocess``: what comes of each, in what time and memory.

    python benchmarks/hostile/corpus.py               # all that is not in the results yet: 20 minutes on 2 cores
    python benchmarks/hostile/corpus.py --again bomb  # cases whose name holds a word, once more

Three families: files that no reader may trust (``tests/hostile.py``), whole heads that are odd (``heads.py``, made from
a person that ``vbmstat simulate`` draws), and hostile places (no space, no permission). Each runs the command in a
process of its own, forked when every module is loaded, so that its peak memory above that of the loaded interpreter is
its own. Odd heads are judged by the correlation of their smoothed GM map with that of the plain scan. Results go to
benchmarks/results/hostile.jsonl, one line a case as it ends, and all of them into the table hostile.md.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # for tests.hostile

from benchmarks.hostile import heads
from tests import hostile
from vbmstat import cli
from vbmstat.image import io, storage
from vbmstat.image.headers import IMAGE_SUFFIXES
from vbmstat.preproc import pipeline  # noqa: F401  loaded before the fork, as all that follows

import vbmstat.batch.run  # isort: skip
import vbmstat.figures.scans  # isort: skip  # noqa: F401
import deepbet  # isort: skip  # noqa: F401

RESULTS = Path(__file__).parents[1] / "results"
RECORDS = RESULTS / "hostile.jsonl"
BAR_MB, LIMIT_S = 100.0, 600


@dataclass(frozen=True)
class Outcome:
    """How one run of the command ended."""

    code: int  # of the exit; negative: killed by that signal
    seconds: float
    megabytes: float  # above the loaded interpreter
    stderr: str
    out: Path

    @property
    def line(self) -> str:
        """The reason of the failure: from the table of failures, else the last line of the error stream."""
        table = self.out / "failures.tsv"
        with contextlib.suppress(OSError):
            rows = table.read_text("utf-8").splitlines()[1:]
            if rows:
                return rows[0].split("\t")[-1]
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        return lines[-1].removeprefix("vbmstat: ") if lines else ""


def run(arguments: list[str], out: Path, prepare: Callable[[], None] = lambda: None) -> Outcome:
    """The command line in a fork of this process."""
    started = time.perf_counter()
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (the child writes to it)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(log.fileno(), 2)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            prepare()
            sys.argv = ["vbmstat", "preprocess", "--no-report", "--out", str(out), *arguments]
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1, errors="backslashreplace")
            try:
                cli.main()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(bool(end.code))
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            sys.stderr.write(f"\n{grown}\n")
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = _waited(child)
    log.seek(0)
    *lines, grown = log.read().rstrip("\n").split("\n")
    return Outcome(code, time.perf_counter() - started, int(grown) / 1024 if grown.isdigit() else np.nan,
                   "\n".join(lines), out)  # fmt: skip


def _waited(child: int) -> int:
    """Exit code of a child; a child that takes too long is killed."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -int(signal.SIGKILL)


def left_behind(folder: Path) -> list[str]:
    """Temporary files of writers, and maps of a scan that is not complete."""
    partial = [str(path.relative_to(folder)) for path in folder.rglob(".partial-*")]
    complete = any(folder.glob("report/vbmstat_*.json"))
    return partial + ([] if complete else [path.name for path in folder.glob("mri/*")])


def faults(outcome: Outcome, name: str) -> list[str]:
    """What no run may do: crash, hang, say more than a line, not name the scan, leave a part of a result."""
    found = []
    if outcome.code not in (0, 1, 2):
        found.append(f"ended with {outcome.code}")
    if "Traceback" in outcome.stderr:
        found.append("traceback")
    if re.search(r"\b[A-Z]\w+(Error|Exception): ", outcome.line):
        found.append("an error of Python")
    if outcome.code and name not in outcome.line:
        found.append("does not name the scan")
    if left_behind(outcome.out):
        found.append(f"left {left_behind(outcome.out)[0]}")
    return found


def reader_case(case: hostile.Case, folder: Path) -> dict[str, object]:
    """A file that must be refused with its line, in little memory."""
    path = case.write(folder)
    outcome = run([str(path)], folder / "out")
    wrong = faults(outcome, path.name.split("\n")[0].encode("utf-8", "backslashreplace").decode()[:2])
    if outcome.code == 0:
        wrong.append("was not refused")
    elif not re.search(case.match or "", outcome.line):
        wrong.append(f"expected a message with {case.match!r}")
    if not outcome.megabytes < BAR_MB:
        wrong.append("memory")
    return _record(case.name, "refused: a line", outcome, wrong, "refused", path)


def head_case(head: heads.Head, person: heads.Person, folder: Path, plain: Path) -> dict[str, object]:
    """A whole head: done right, refused, or done and told of."""
    path = head.write(person, folder)
    outcome = run([str(path)], folder / "out")
    wrong = faults(outcome, path.name.split(".")[0][:10])
    r, warning = None, ""
    if outcome.code == 0:
        r, warning = _correlation(folder / "out", plain), _warnings(folder / "out")
    if isinstance(head.expected, float):
        expected = f"r ≥ {head.expected:g} with plain"
        if r is None or r < head.expected:
            wrong.append("not the plain scan's map")
    elif head.expected == heads.TOLD:
        expected = "refused, or done with a warning"
        if outcome.code == 0 and not warning:
            wrong.append("no warning")
    else:
        expected = "refused: a line"
        if outcome.code == 0 or not re.search(head.expected, outcome.line):
            wrong.append(f"expected a message with {head.expected!r}")
    came = "refused" if outcome.code else f"r = {r:.4f}" + (f"; {warning}" if warning else "")
    return _record(head.name, expected, outcome, wrong, came, path)


def _correlation(out: Path, plain: Path) -> float:
    """Correlation of a run's smoothed GM map with the plain scan's where that exceeds 0.1."""
    (own,) = out.glob("mri/s6mwp1*")
    (reference,) = plain.glob("mri/s6mwp1*")
    a, b = (io.read_volume(path).data[0].numpy() for path in (own, reference))
    return float(np.corrcoef(a[b > 0.1], b[b > 0.1])[0, 1])


def _warnings(out: Path) -> str:
    header, row = (line.split("\t") for line in (out / "cohort.tsv").read_text("utf-8").splitlines()[:2])
    text = row[header.index("qc_warnings")]
    return "" if text == "n/a" else text


def _record(name: str, expected: str, outcome: Outcome, wrong: list[str], came: str, path: Path) -> dict[str, object]:
    reason = outcome.line.replace(f"{path.parent}/", "").replace(f"{outcome.out.parent}/", "") if outcome.code else ""
    return {
        "case": name, "expected": expected, "came": came, "line": reason, "seconds": round(outcome.seconds, 1),
        "megabytes": None if np.isnan(outcome.megabytes) else round(outcome.megabytes), "wrong": wrong,
    }  # fmt: skip


# Places: each makes what must be made, returns the arguments and what to do in the child, and the message to expect.
Place = Callable[[Path, Path], tuple[list[str], Path, Callable[[], None], str]]


def _as_anybody() -> None:
    """Root may read and write everything: give up those two rights (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface, this process
    rights = (ctypes.c_uint32 * 6)()
    libc.capget(header, rights)
    for at in (0, 1):  # effective, permitted
        rights[at] &= ~0b110
    if libc.capset(header, rights):
        raise OSError(ctypes.get_errno(), "capset")


def read_only_output(scan: Path, folder: Path) -> tuple[list[str], Path, Callable[[], None], str]:
    (folder / "locked").mkdir()
    (folder / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    return [str(scan)], folder / "locked" / "out", _as_anybody, "cannot create the output folder|cannot be written"


def output_is_a_file(scan: Path, folder: Path) -> tuple[list[str], Path, Callable[[], None], str]:
    (folder / "out").write_text("a file")
    return [str(scan)], folder / "out", lambda: None, "output folder"


def no_read_permission(scan: Path, folder: Path) -> tuple[list[str], Path, Callable[[], None], str]:
    own = Path(shutil.copy(scan, folder / "secret.nii.gz"))
    own.chmod(0)
    folder.chmod(0o777)
    return [str(own)], folder / "out", _as_anybody, "secret.*Permission denied"


def full_disk(scan: Path, folder: Path) -> tuple[list[str], Path, Callable[[], None], str]:
    """3 MB: room for the first maps only. Needs root, for a file system of its own."""
    (folder / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder / "small")], check=True)
    return [str(scan)], folder / "small" / "out", lambda: None, "No space left on device"


def read_only_disk(scan: Path, folder: Path) -> tuple[list[str], Path, Callable[[], None], str]:
    """Needs root, for a file system of its own."""
    (folder / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder / "small")], check=True)
    return [str(scan)], folder / "small" / "out", lambda: None, "Read-only file system"


def file_size_limit(scan: Path, folder: Path) -> tuple[list[str], Path, Callable[[], None], str]:
    """As of a quota: no file above 200 kB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    return [str(scan)], folder / "out", limit, "File too large"


def good_among_bad(scan: Path, folder: Path) -> tuple[list[str], Path, Callable[[], None], str]:
    """One good scan among every bad file: it is done, and each other has its line."""
    scans = folder / "scans"
    scans.mkdir()
    shutil.copy(scan, scans / "good.nii.gz")
    for number, case in enumerate(hostile.BAD):
        (folder / str(number)).mkdir()
        path = case.write(folder / str(number))
        suffix = next((s for s in IMAGE_SUFFIXES[::-1] if path.name.endswith(s)), "")
        if suffix in (".nii", ".nii.gz", ".mgz") and path.is_file():
            path.rename(scans / f"bad{number:03d}{suffix}")
    return [str(scans)], folder / "out", lambda: None, ""


_NEED_ROOT = ("full disk", "read-only disk")
PLACES: dict[str, Place] = {
    "read-only output folder": read_only_output, "output is a file": output_is_a_file,
    "no permission to read the scan": no_read_permission, "read-only disk": read_only_disk,
    "full disk": full_disk, "limit of the file size": file_size_limit,
}  # fmt: skip


def place_case(name: str, place: Place, scan: Path, folder: Path) -> dict[str, object]:
    """A place that cannot be read or written."""
    arguments, out, prepare, match = place(scan, folder)
    try:
        outcome = run(arguments, out, prepare)
        wrong = [fault for fault in faults(outcome, "") if not fault.startswith("left") or "partial" in fault]
        if any(out.glob("report/vbmstat_*.json")):
            wrong.append("the scan counts as complete")
        if outcome.code == 0 or not re.search(match, outcome.line + outcome.stderr):
            wrong.append(f"expected a message with {match!r}")
        return _record(name, "refused: a line", outcome, wrong, "refused", Path(arguments[0]))
    finally:
        if os.path.ismount(folder / "small"):
            subprocess.run(["umount", str(folder / "small")], check=True)


def mixed_case(scan: Path, plain: Path, folder: Path) -> dict[str, object]:
    """A folder of everything: the batch goes on."""
    arguments, out, _, _ = good_among_bad(scan, folder)
    outcome = run(arguments, out)
    n_bad = len(list(Path(arguments[0]).iterdir())) - 1
    n_lines = len((out / "failures.tsv").read_text("utf-8").splitlines()) - 1
    wrong = [fault for fault in faults(outcome, "") if not fault.startswith("left") or "partial" in fault]
    r = _correlation(out, plain)
    if outcome.code != 1 or n_lines != n_bad or r < heads.SAME:
        wrong.append("the batch did not go on")
    came = f"{n_lines} lines in failures.tsv, r = {r:.4f}, exit code {outcome.code}"
    return {**_record("", f"{n_bad} lines, r ≥ 0.999, exit code 1", outcome, wrong, came, scan), "line": ""}


def write_tables(records: dict[str, dict[str, object]]) -> None:
    """The records as a table."""
    rows = list(records.values())
    n_wrong = sum(bool(row["wrong"]) for row in rows)
    absurd = [row["megabytes"] or 0 for row in rows if row["case"] in {case.name for case in hostile.BAD}]
    lines = [
        "Made by `python benchmarks/hostile/corpus.py`, which runs `vbmstat preprocess` on each case in a process of",
        "its own; MB is the peak above the interpreter with every module loaded. r is the correlation of the smoothed",
        "GM map with that of the plain scan where the latter exceeds 0.1. Whole heads are simulated, voxels of 2 mm",
        "where nothing else is said.",
        "Seconds are those of a machine that was busy with other work.",
        "",
        f"{len(rows)} cases, {n_wrong} not as expected. Files that no reader may trust: at most {max(absurd)} MB.",
        "",
        "| case | expected | what came | message | s | MB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        wrong = f" **{'; '.join(row['wrong'])}**" if row["wrong"] else ""  # type: ignore[arg-type]
        cells = (row["case"], row["expected"], f"{row['came']}{wrong}", row["line"], row["seconds"], row["megabytes"])
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    storage.write_text(RESULTS / "hostile.md", "\n".join(lines) + "\n")


_SIMULATE = (  # in a process of its own: a fork of one that has run torch's threads may hang
    "import sys; from vbmstat.simulate import Settings, simulate_cohort; "
    "simulate_cohort(sys.argv[1], Settings(1, voxel_size_mm=float(sys.argv[2]), seed=1), write_maps=True)"
)


class Corpus:
    """All cases, and what is known of them."""

    def __init__(self, work: Path, again: str | None) -> None:
        self.work, self.again = work, again
        lines = RECORDS.read_text("utf-8").splitlines() if RECORDS.is_file() else []
        self.records: dict[str, dict[str, object]] = {row["case"]: row for row in map(json.loads, lines)}
        self.people: dict[int, heads.Person] = {}

    def run(self) -> None:
        """Every case that is not known yet, or to be run again."""
        for case in hostile.BAD:
            self.case(case.name, lambda folder, case=case: reader_case(case, folder))
        for name, place in PLACES.items():
            if name in _NEED_ROOT and os.geteuid() != 0:
                print(name, "needs root")
                continue
            self.case(name, lambda folder, name=name, place=place: place_case(name, place, self.plain(2)[0], folder))
        for head in heads.HEADS:
            self.case(f"head: {head.name}", lambda folder, head=head: self.head(head, folder))
        self.case("a good scan among bad ones", lambda folder: mixed_case(*self.plain(2), folder))

    def case(self, name: str, work: Callable[[Path], dict[str, object]]) -> None:
        """Run one case in a folder of its own, and write down what came."""
        if name in self.records and (self.again is None or self.again not in name):
            return
        folder = Path(tempfile.mkdtemp(dir=self.work))
        folder.chmod(0o755)
        try:
            record = {**work(folder), "case": name}
        finally:
            shutil.rmtree(folder)
        self.records[name] = record
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.records.values()]
        storage.write_text(RECORDS, "".join(lines))
        write_tables(self.records)
        print(name, "|", record["came"], "|", record["line"], "|", record["wrong"] or "as expected", flush=True)

    def head(self, head: heads.Head, folder: Path) -> dict[str, object]:
        """A whole head against the plain scan of its voxel size."""
        return head_case(head, self.person(head.millimetres), folder, self.plain(head.millimetres)[1])

    def person(self, mm: int) -> heads.Person:
        """The simulated person with voxels of so many mm."""
        if mm not in self.people:
            folder = self.work / f"{mm}mm"
            if not (folder / "participants.tsv").is_file():
                subprocess.run([sys.executable, "-c", _SIMULATE, str(folder), str(mm)], check=True)
            self.people[mm] = heads.read_person(folder)
        return self.people[mm]

    def plain(self, mm: int) -> tuple[Path, Path]:
        """The person as a sound file, and the folder of its maps."""
        folder = self.work / f"plain-{mm}mm"
        scan, out = folder / "scan.nii.gz", folder / "out"
        if not (out / "cohort.tsv").is_file():
            folder.mkdir(exist_ok=True)
            outcome = run([str(heads.HEADS[0].write(self.person(mm), folder))], out)
            if outcome.code:
                sys.exit(outcome.stderr)
        return scan, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", help="Run cases whose name holds this again.")
    parser.add_argument("--work", type=Path, help="Folder for the simulated heads and the plain results, to keep them.")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp(prefix="hostile-"))
    work.mkdir(parents=True, exist_ok=True)
    work.chmod(0o755)
    corpus = Corpus(work, options.again)
    corpus.run()
    sys.exit(any(row["wrong"] for row in corpus.records.values()))


if __name__ == "__main__":
    main()
