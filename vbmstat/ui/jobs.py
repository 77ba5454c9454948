"""Jobs: commands of `vbmstat` in processes of their own, which outlive the page and the server.

A job is a folder ``.vbmstat-ui/jobs/ID`` with its command (spec.json), what it said (output.log) and how it ended
(status.json); nothing about it is only in the server's memory.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import anyio
from filelock import FileLock, Timeout

from vbmstat.errors import VbmstatError
from vbmstat.image import storage
from vbmstat.ui.child import LOCK, LOG, SPEC, STATUS
from vbmstat.ui.commands import arguments, command_line, result_folder
from vbmstat.ui.study import OWN, MissingError, Study

RUNNING, DONE, FAILED, STOPPED, INTERRUPTED = "running", "done", "failed", "stopped", "interrupted"
_CHILD = ("-m", "vbmstat.ui.child")
_STOP = "stop"  # file that says the page asked for it
_START_S, _LOOK_S = 20.0, 0.3  # a process may take to begin; between looks at what a job says
_PROGRESS = re.compile(
    r"^(?P<text>[^:\[\]]+): (?P<done>[\d,]+) of (?P<total>[\d,]+)(?:, about .+ left)?$"
)  # of vbmstat.cli.progress
_SCANS = re.compile(r"\[(?P<done>\d+)/(?P<total>\d+)\] (?P<text>.*)")  # of vbmstat.cli.live
_LOOKING = threading.Lock()


@dataclass(frozen=True)
class Job:
    """A job's folder, and the folder that is served."""

    folder: Path
    study: Study

    @property
    def spec(self) -> dict[str, Any]:
        """Command, options, arguments."""
        return _read(self.folder / SPEC)

    @property
    def state(self) -> str:
        """``running``, ``done``, ``failed``, ``stopped`` or ``interrupted`` (by nobody that wrote it down)."""
        status = _read(self.folder / STATUS)
        code = status.get("exit_code")
        if code is None:
            return RUNNING if _is_held(self.folder / LOCK) else INTERRUPTED
        if code == 0:
            return DONE
        return STOPPED if (self.folder / _STOP).exists() else FAILED

    def record(self) -> dict[str, Any]:
        """The job for the page."""
        spec, status, state, lines = self.spec, _read(self.folder / STATUS), self.state, self.lines()
        found = (progress_of(line) for line in reversed(lines) if state != DONE)
        return {
            "id": self.folder.name, "command": spec.get("command_line"), "title": spec.get("title"),
            "state": state, "started": _time(status.get("started")), "ended": _time(status.get("ended")),
            "exit_code": status.get("exit_code"), "progress": next(filter(None, found), None),
            "result": spec.get("result"), "last": lines[-1] if lines else "",
        }  # fmt: skip

    def lines(self) -> list[str]:
        """What it said so far."""
        try:
            return (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []

    def start(self) -> None:
        """Start it, or start it again; it goes on where the command itself resumes.

        Its arguments are made anew of its options: what came with somebody else's folder is not run as it lies there.

        Raises
        ------
        VbmstatError
            If it or one that writes the same runs already, its options are not valid, or its process does not begin.
        """
        options = self.spec.get("options")
        spec = specified(self.study, str(self.spec.get("command")), options if isinstance(options, dict) else {})
        with Jobs(self.study).starting(spec):
            self.begin(spec)

    def begin(self, spec: dict[str, Any]) -> None:
        """Start its process, inside :meth:`Jobs.starting`."""
        storage.write_json(self.folder / SPEC, spec)
        for name in (STATUS, _STOP):
            (self.folder / name).unlink(missing_ok=True)
        child = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, *_CHILD, str(self.folder)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self.folder, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=child.wait, daemon=True).start()  # so that none stays a zombie
        until = time.monotonic() + _START_S
        while not (self.folder / STATUS).exists():
            if child.returncode is not None or time.monotonic() > until:
                msg = f"{self.folder}: the job's process did not begin; is there room on the disk?"
                raise VbmstatError(msg)
            time.sleep(0.02)

    def stop(self) -> None:
        """Ask its processes to end as Ctrl-C does, so that they tidy up; who asks again is not kept waiting."""
        if self.state == RUNNING:
            sent = signal.SIGTERM if (self.folder / _STOP).exists() else signal.SIGINT
            (self.folder / _STOP).touch()
            os.killpg(int(_read(self.folder / STATUS)["pid"]), sent)


@dataclass(frozen=True)
class Jobs:
    """The jobs of a folder."""

    study: Study

    @property
    def _folder(self) -> Path:
        return self.study.root / OWN / "jobs"

    def all(self) -> list[Job]:
        """Every job, the latest first."""
        folders = sorted(self._folder.glob("*/" + SPEC), reverse=True)
        return [Job(path.parent, self.study) for path in folders]

    def find(self, name: str) -> Job:
        """A job by its id; raises MissingError if there is none."""
        found = next((job for job in self.all() if job.folder.name == name), None)
        if found is None:
            msg = f"job {name!r}: no such job; load the page again"
            raise MissingError(msg)
        return found

    def start(self, command: str, options: Mapping[str, Any]) -> Job:
        """Start a command with the page's options.

        Raises
        ------
        VbmstatError
            As :func:`vbmstat.ui.commands.arguments`; also if a job with the same command line runs.
        """
        self.study.check()
        spec = specified(self.study, command, options)
        now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%f")
        folder = self._folder / f"{now}-{secrets.token_hex(2)}"
        with self.starting(spec):
            folder.mkdir(parents=True)
            job = Job(folder, self.study)
            job.begin(spec)
        return job

    @contextmanager
    def starting(self, spec: Mapping[str, Any]) -> Iterator[None]:
        """Nothing else starts meanwhile, in no server: of two clicks the second sees the first one's job.

        Raises
        ------
        VbmstatError
            If a job with the same command line or the same results runs.
        """
        with self.study.lock("starting"):
            for job in self.all():
                other = job.spec
                same = any(spec[one] and other.get(one) == spec[one] for one in ("command_line", "result"))
                if same and job.state == RUNNING:
                    what = (
                        "the same command"
                        if other["command_line"] == spec["command_line"]
                        else "a job with the same results"
                    )
                    msg = f"{what} runs already; wait for its job, or stop it"
                    raise VbmstatError(msg)
            yield


def specified(study: Study, command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A job's file: the page's options, and what comes of them; errors as :func:`vbmstat.ui.commands.arguments`."""
    given, is_model = arguments(study, command, options), command == "glm"
    return {
        "command": command, "options": dict(options), "arguments": given, "command_line": command_line(given),
        "cwd": str(study.root), "title": f"{command} {options['formula']}" if is_model else command,
        "result": result_folder(study, options) if is_model else None,
    }  # fmt: skip


async def events(job: Job, after: int) -> AsyncIterator[dict[str, Any]]:
    """What a job said from its first line on, or those after the first `after`, and its state; ends when it ends.

    Yields
    ------
    dict
        id (number of lines), state, progress, line.
    """
    said, state = after, ""
    while True:
        now, lines = await anyio.to_thread.run_sync(
            lambda: (job.state, job.lines())
        )  # no line of an ended job is missed
        for line in lines[said:]:
            said += 1
            yield {"id": said, "state": now, "progress": progress_of(line), "line": line}
        if now != state:
            yield {"id": said, "state": now, "progress": None, "line": None}
        if now != RUNNING:
            return
        state = now
        await anyio.sleep(_LOOK_S)


def progress_of(line: str) -> dict[str, Any] | None:
    """Progress that a line of a command tells; None for any other.

    Examples
    --------
    >>> progress_of("permutations: 1,200 of 5,000, about 3 min left")
    {'done': 1200, 'total': 5000, 'text': 'permutations'}
    """
    match = _PROGRESS.search(line) or _SCANS.search(line)
    if match is None:
        return None
    done, total = (int(match[name].replace(",", "")) for name in ("done", "total"))
    return {"done": done, "total": total, "text": match["text"].strip()}


def _is_held(lock: Path) -> bool:
    """Whether a process holds a lock."""
    if not lock.exists():  # to look for it would make a folder that has gone anew
        return False
    try:
        with _LOOKING, FileLock(lock, timeout=0):  # two of our own threads must not meet there
            return False
    except Timeout:
        return True
    except OSError:  # the folder has gone
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content = storage.read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _time(seconds: Any) -> str | None:
    if not isinstance(seconds, int | float):
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
