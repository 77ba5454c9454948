"""Raw files that are read and written in large pieces, bypassing the page cache (O_DIRECT) where possible.

A matrix of thousands of maps is larger than memory and is written and read once, so caching its pages can cost as much
CPU time as decoding the maps. Ordinary reads and writes are used where the cache cannot be bypassed (network and memory
file systems, systems other than Linux) and for unaligned pieces.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Lock
from types import TracebackType

import numpy as np

from vbmstat.errors import VbmstatError

BLOCK_BYTES = 4096  # alignment of offsets, lengths and addresses for O_DIRECT
_DIRECT, _BINARY = getattr(os, "O_DIRECT", 0), getattr(os, "O_BINARY", 0)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RawFile:
    """A file of numbers that several threads read or write.

    Parameters
    ----------
    path : Path
        The file.
    n_bytes : int, optional
        Create the file with this size; by default it is opened for reading.

    Raises
    ------
    VbmstatError
        If there is no space for it.
    """

    def __init__(self, path: Path, n_bytes: int | None = None) -> None:
        self.path = path
        self._lock = Lock()
        flags = _BINARY | (os.O_RDONLY if n_bytes is None else os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._cached = os.open(path, flags, 0o666)
        self._direct: int | None = None
        try:
            if n_bytes is not None:
                self._allocate(n_bytes)
            if _DIRECT:
                self._direct = os.open(path, flags & ~os.O_TRUNC | _DIRECT)
        except OSError:
            pass  # O_DIRECT is optional
        except VbmstatError:
            os.close(self._cached)
            path.unlink()
            raise

    def __enter__(self) -> RawFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._cached)
        if self._direct is not None:
            os.close(self._direct)

    def _allocate(self, n_bytes: int) -> None:
        os.ftruncate(self._cached, n_bytes)
        try:
            if hasattr(os, "posix_fallocate"):  # contiguous, and a full disk shows now
                os.posix_fallocate(self._cached, 0, n_bytes)
        except OSError as error:
            if error.errno in _NO_ROOM:
                msg = f"{self.path}: no room for {n_bytes / 1e9:.1f} GB of packed maps; choose another folder"
                raise VbmstatError(msg) from error

    def read(self, out: np.ndarray, offset: int) -> int:
        """Fill an array from an offset in the file; return the number of bytes read."""
        return self._transfer(out, offset, is_write=False)

    def write(self, values: np.ndarray, offset: int) -> None:
        """Write an array at an offset in the file."""
        self._transfer(values, offset, is_write=True)

    def sync(self) -> None:
        """Wait until everything is on disk."""
        os.fsync(self._cached)

    def _transfer(self, values: np.ndarray, offset: int, is_write: bool) -> int:
        view = values.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            at, piece = offset + done, view[done:]
            try:
                moved = self._direct_once(piece, at, is_write)
            except OSError as error:
                if error.errno in _NO_ROOM:
                    msg = f"{self.path}: no room left for packed maps; make room or choose another folder"
                    raise VbmstatError(msg) from error
                raise
            if moved == 0:
                break
            done += moved
        return done

    def _direct_once(self, piece: memoryview, at: int, is_write: bool) -> int:
        """Read or write with one system call, bypassing the cache if piece and file system allow it."""
        if self._direct is not None and at % BLOCK_BYTES == 0 and len(piece) % BLOCK_BYTES == 0:
            try:
                return os.pwritev(self._direct, [piece], at) if is_write else os.preadv(self._direct, [piece], at)
            except OSError as error:
                if error.errno != errno.EINVAL:  # EINVAL: another alignment is needed
                    raise
        if hasattr(os, "preadv"):
            return os.pwritev(self._cached, [piece], at) if is_write else os.preadv(self._cached, [piece], at)
        with self._lock:
            os.lseek(self._cached, at, os.SEEK_SET)
            if is_write:
                return os.write(self._cached, piece)
            content = os.read(self._cached, len(piece))
            piece[: len(content)] = content
            return len(content)
