"""Walk folders, following links."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from vbmstat.errors import ScanError
from vbmstat.image.headers import SCAN_SUFFIXES

_IMAGE_SUFFIXES = (*SCAN_SUFFIXES, ".mgh")


def files_below(folder: Path, *, skip_unreadable: bool = False) -> list[Path]:
    """All files in a folder and its sub-folders, sorted.

    Links to folders are followed, also out of `folder`. Each folder is entered once, so circular links end; a file that
    can be reached without a link has that path. Hidden files (``._*`` of macOS) and folders (``.git``) are left out. A
    folder named like an image is listed as a file, so that reading it fails and names it.

    Parameters
    ----------
    folder : Path
        Where to start.
    skip_unreadable : bool
        Skip folders that cannot be listed.

    Raises
    ------
    ScanError
        If a folder cannot be listed: its scans would be missing silently.
    """
    files: list[Path] = []
    entered: set[tuple[int, int]] = set()
    own, linked = deque([folder]), deque[Path]()
    while own or linked:
        here = own.popleft() if own else linked.popleft()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(here) as listed:
                entries = sorted((entry for entry in listed if not is_hidden(entry.name)), key=lambda entry: entry.name)
        except OSError as error:
            if skip_unreadable:
                continue
            msg = f"{here}: this folder cannot be listed ({error.strerror}); ask for permission, or move it elsewhere"
            raise ScanError(msg) from error
        for entry in entries:
            path = here / entry.name
            if entry.name.endswith(_IMAGE_SUFFIXES) or not _is_folder(entry):
                files.append(path)
            else:
                (linked if entry.is_symlink() else own).append(path)
    return sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_same_file(a: Path, b: Path) -> bool:
    """Whether two paths, or the links there, lead to the same file."""
    try:
        return a.samefile(b)
    except OSError:  # a broken link
        return False


def is_hidden(name: str) -> bool:
    """Whether a file is hidden by its name: macOS puts ``._NAME`` beside each file on foreign disks."""
    return name.startswith(".")
