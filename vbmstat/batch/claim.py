"""Locks that keep a scan to one run at a time, and the folders of unfinished outputs.

During runs an output folder contains ``.partial``, with a lock file and a folder of unfinished outputs for each scan in
progress. Locks are ``flock``: they end with their process, however it ends. Both are removed by their owner, or by the
next run if the owner is gone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vbmstat.errors import VbmstatError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FOLDER = ".partial"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_POLL_S = 0.2


@dataclass(frozen=True)
class Claim:
    """An exclusive claim on a scan until :meth:`release`."""

    folder: Path  # folder of its unfinished outputs; created with the first of them
    _lock: Path
    _handle: int

    def note(self, step: str) -> None:
        """Write the current step into the lock file, for other processes."""
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, step.encode(), 0)

    def release(self) -> None:
        """Remove unfinished outputs and free the scan."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.unlink(missing_ok=True)  # while still held: see _acquire
        os.close(self._handle)


def claim(out: Path, name: str, locking: bool = True) -> Claim | None:
    """Claim a scan in an output folder; None if another process holds it.

    Parameters
    ----------
    out : Path
        Output folder of the run.
    name : str
        Stem of the scan's files.
    locking : bool
        False if the file system has no locks; then nothing keeps two runs apart.

    Raises
    ------
    VbmstatError
        If the file system has no locks.
    """
    lock = out / FOLDER / "locks" / name
    handle = _acquire(lock, locking)
    if handle is None:
        return None
    held = Claim(out / FOLDER / "scans" / name, lock, handle)
    shutil.rmtree(held.folder, ignore_errors=True)  # of a process that was killed
    return held


@contextlib.contextmanager
def tables_claim(out: Path, locking: bool = True) -> Iterator[None]:
    """Wait for and hold the lock of the run's tables; remove unfinished ones."""
    lock = out / FOLDER / "tables"
    while (handle := _acquire(lock, locking)) is None:
        time.sleep(_POLL_S)
    try:
        if locking:
            for folder in (out, out / "report", out / "figures", out / "logs"):
                for path in folder.glob(".partial-*"):  # the names of vbmstat.image.storage.atomic_path
                    path.unlink(missing_ok=True)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)
        _tidy(out)


def steps_in_progress(out: Path) -> dict[str, str]:
    """Current step of each scan in progress, from the lock files; for a killed process, its last step."""
    notes = {}
    for path in _listed(out / FOLDER / "locks"):
        with contextlib.suppress(OSError):
            notes[path.name] = path.read_text(encoding="utf-8")
    return notes


def sweep(out: Path, locking: bool = True) -> None:
    """Remove what killed runs left behind, but nothing of scans in progress."""
    if locking:
        for name in {path.name for kind in ("locks", "scans") for path in _listed(out / FOLDER / kind)}:
            left = claim(out, name)
            if left is not None:
                left.release()
    _tidy(out)


def _tidy(out: Path) -> None:
    for folder in (out / FOLDER / "locks", out / FOLDER / "scans", out / FOLDER):
        with contextlib.suppress(OSError):  # in use, or already gone
            folder.rmdir()


def _acquire(path: Path, locking: bool) -> int | None:
    """Open and lock a file; None if it is locked. Its holder may remove it, which voids the lock."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder was removed since
            continue
        try:
            if locking and not _locked(handle, path):
                os.close(handle)
                return None
            if _still_at_path(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last holder removed it between the two calls: the lock is void


def _locked(handle: int, path: Path) -> bool:
    if fcntl is None:
        raise VbmstatError(_no_locks(path, "this system has none"))
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise VbmstatError(_no_locks(path, os.strerror(error.errno))) from error
        raise
    return True


def _no_locks(path: Path, why: str) -> str:
    return (
        f"{path.parent}: files cannot be locked there ({why}), which keeps two runs from writing the same scan; choose "
        "another --out, or give --no-lock and never start two runs on the same scans"
    )


def _still_at_path(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
