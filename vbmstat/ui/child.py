"""A job's own process: runs its command, and writes down how it ended, whether or not a server is there to see it.

``python -m vbmstat.ui.child FOLDER``. A lock on the folder is held as long as the process lives: who finds it free, and
no end written down, knows that the machine or somebody stopped it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from vbmstat.progress import LIVE

SPEC, STATUS, LOG, LOCK = "spec.json", "status.json", "output.log", "lock"
# The folder's own Python files must not stand in for modules, as they would in the working folder of `python -c`.
_RUN = (
    "import sys; sys.path = [one for one in sys.path if one]; sys.argv[0] = 'vbmstat'; "
    "from vbmstat.cli import main; main()"
)


def run(folder: Path) -> int:
    """Run the command of a job's folder."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # the whole group gets it: the command stops, this one notes how
        signal.signal(stop, lambda *_: None)
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    status = {"pid": os.getpid(), "started": time.time(), "ended": None, "exit_code": None}
    environment = {**os.environ, LIVE: "1", "PYTHONUNBUFFERED": "1"}
    with FileLock(folder / LOCK), (folder / LOG).open("ab") as log:
        _write(folder / STATUS, status)
        log.write(f"$ {spec['command_line']}\n".encode())
        log.flush()
        done = subprocess.run(  # noqa: S603 - our own command line, without a shell
            [sys.executable, "-c", _RUN, *spec["arguments"]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            cwd=spec["cwd"], env=environment, check=False,
        )  # fmt: skip
        _write(folder / STATUS, {**status, "ended": time.time(), "exit_code": done.returncode})
    return done.returncode


def _write(path: Path, status: dict[str, Any]) -> None:
    """Whole or not at all; without pandas, which takes longer to import than some commands to run."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(status) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
