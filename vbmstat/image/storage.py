"""Atomic writes of text, JSON and tables: written to a temporary file beside, flushed to disk, renamed."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.errors import VbmstatError, one_line

_WRITE_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTDIR,
    errno.EEXIST,
)  # fmt: skip
_UMASK_LOCK = threading.Lock()


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that is renamed to it when the block succeeds, else removed.

    Raises
    ------
    VbmstatError
        If it cannot be written: no permission, no space left, a name that is too long.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
        handle, name = tempfile.mkstemp(prefix=".partial-", suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        msg = f"{path}: cannot be written ({os.strerror(error.errno)}); choose another --out or make room there"
        raise VbmstatError(msg) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that renames survive a power cut (not on Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without fsync of folders
            raise
    finally:
        os.close(handle)


@cache
def _umask() -> int:
    """The process's umask, which can be read only by setting it: once, by one thread at a time."""
    with _UMASK_LOCK:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, content: dict[str, Any]) -> None:
    """Write a JSON object with a final newline, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Content of a JSON file.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        msg = "nested too deeply"
        raise ValueError(msg) from error


def write_table(path: Path | str, table: pd.DataFrame, index: bool = False) -> None:
    """Write a BIDS-style TSV (tab, ``n/a`` for missing; control characters escaped), whole or not at all."""
    table = table.copy(deep=False)
    for position, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe = table.iloc[:, position].map(lambda value: one_line(value) if isinstance(value, str) else value)
            table.isetitem(position, safe)
    write_text(path, table.to_csv(sep="\t", na_rep="n/a", index=index, lineterminator="\n"))
