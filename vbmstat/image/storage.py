"""Atomic writes of text, JSON and tables: written beside their destination, flushed to disk, renamed.

`replacing` does the same for the results of a whole run: they replace those of an earlier run, whose record lists its
files.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from vbmstat.errors import VbmstatError, one_line

_WRITE_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTDIR,
    errno.EEXIST,
)  # fmt: skip
FILES = "files"  # key of a record: what the run wrote, relative to its folder
MADE_FROM = "made_from"  # key of a report's record: name of the record, in the same folder, of the results it shows
_PAGE_RECORDS = "*figures/report.json"
_PARTIAL = ".partial-"  # how the names of files begin that are not whole yet
_STAGED = f"{_PARTIAL}run-"  # and of the folder of a run, whose files are flushed together
_FLUSHED_AT_ONCE = 16  # files: the disk writes them together, in a fraction of the time that one by one takes
_UMASK_LOCK = threading.Lock()


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path` that is renamed to it when the block succeeds, else removed.

    It is flushed to disk first; in the folder of :func:`replacing` with all others, before these are renamed.

    Raises
    ------
    VbmstatError
        If it cannot be written: no permission, no space, a name too long.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
        handle, name = tempfile.mkstemp(prefix=_PARTIAL, suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        is_staged = any(parent.name.startswith(_STAGED) for parent in path.parents)
        if not is_staged:
            _fsync_file(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        if not is_staged:
            fsync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> Exception:
    """The error for a path that cannot be written; `error` itself if it has another cause."""
    if error.errno not in _WRITE_ERRORS:
        return error
    why = os.strerror(error.errno)
    return VbmstatError(f"{path}: cannot be written ({why}); choose another --out or make room there")


def _fsync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


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


@contextmanager
def replacing(folder: Path | str, record: str, keep: Collection[str] = ()) -> Iterator[Path]:
    """A new folder whose files replace those of an earlier run in `folder` when the block succeeds.

    The files that the earlier record lists are deleted, and so are reports made from them; nothing is lost when the
    block fails. The old record goes first and the new one comes last, so a folder with a record holds one run's files.

    Parameters
    ----------
    folder : path
        Destination of the results; created if absent.
    record : str
        Name of the JSON file that the block writes among its files; the list of files is added to it.
    keep : collection of str
        Files of the earlier run that are still valid; the new record lists them too.

    Yields
    ------
    Path
        The new folder, inside `folder`.

    Raises
    ------
    VbmstatError
        As :func:`listed_files`; also if the folder cannot be written to.
    """
    folder = Path(folder)
    listed_files(folder, record)  # refuse before anything is done
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=_STAGED, dir=folder))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield staged
        _replace(folder, staged, record, keep)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def listed_files(folder: Path | str, record: str) -> list[str]:
    """Files of an earlier run, relative to `folder`: those that its record lists and that lie inside the folder.

    Raises
    ------
    VbmstatError
        If the record has no such list, so that its files would stay beside new ones.
    """
    folder = Path(folder)
    names = [*(_names_in(_journal(folder, record)) or [])]
    path = folder / record
    if path.exists():
        listed = _names_in(path)
        if listed is None:
            msg = (
                f"{path}: the record of an earlier run does not list its files, so they would stay beside the new "
                "ones; choose another --out, or delete the earlier results"
            )
            raise VbmstatError(msg)
        names += listed
    for page in sorted(folder.glob(_PAGE_RECORDS)):
        about = _content(page)
        if about.get(MADE_FROM) == record:
            names += [*(_names_in(page) or []), page.relative_to(folder).as_posix()]
    return [name for name in dict.fromkeys(names) if _inside(folder, name)]


def _replace(folder: Path, staged: Path, record: str, keep: Collection[str]) -> None:
    """Remove an earlier run's files and rename the new ones to their places, the record last."""
    old = set(listed_files(folder, record)) - set(keep)
    new = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    new.remove(record)
    kept = [name for name in keep if (folder / name).is_file() and name not in new]
    write_json(staged / record, {**_content(staged / record), FILES: sorted({*new, *kept})})
    try:
        with ThreadPoolExecutor(_FLUSHED_AT_ONCE) as pool:
            list(pool.map(_fsync_file, [staged / name for name in (*new, record)]))
    except OSError as error:
        raise _unwritable(folder, error) from error
    journal = _journal(folder, record)
    write_json(journal, {FILES: sorted({*old, *new})})  # files that a run killed from here on leaves behind
    (folder / record).unlink(missing_ok=True)
    fsync_folder(folder)
    for name in old.difference(new):
        (folder / name).unlink(missing_ok=True)
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).replace(folder / name)
    for place in {(folder / name).parent for name in new}:
        fsync_folder(place)
    (folder / record).parent.mkdir(parents=True, exist_ok=True)
    (staged / record).replace(folder / record)
    journal.unlink()
    fsync_folder(folder)
    _remove_empty(folder, old)


def _journal(folder: Path, record: str) -> Path:
    return folder / f".{PurePosixPath(record).as_posix().replace('/', '-')}"


def _remove_empty(folder: Path, names: Collection[str]) -> None:
    """Remove folders that held these files and are now empty."""
    for name in names:
        for parent in list(PurePosixPath(name).parents)[:-1]:
            place = folder / parent
            if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
                place.rmdir()


def _content(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _names_in(path: Path) -> list[str] | None:
    """The list of files in a record; None if it has none."""
    names = _content(path).get(FILES)
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _inside(folder: Path, name: str) -> bool:
    """Whether a name in a record is a file inside the folder: plain, relative, and no link leads out."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(sign in name for sign in "\\\0"):
        return False
    path = folder.joinpath(*parts)
    if Path(parts[0]).drive or path.is_dir() or not (path.is_file() or path.is_symlink()):
        return False
    return path.parent.resolve().is_relative_to(folder.resolve())


@cache
def _umask() -> int:
    """The process's umask; it can only be read by setting it, so once, under a lock."""
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
    """Write a BIDS-style TSV (``n/a`` for missing, control characters escaped), whole or not at all."""
    table = table.copy(deep=False)
    for position, kind in enumerate(table.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            safe = table.iloc[:, position].map(lambda value: one_line(value) if isinstance(value, str) else value)
            table.isetitem(position, safe)
    write_text(path, table.to_csv(sep="\t", na_rep="n/a", index=index, lineterminator="\n"))
