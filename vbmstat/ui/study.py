"""The folder that is served: where its cohort lies, and which paths are inside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from filelock import FileLock

from vbmstat.errors import VbmstatError
from vbmstat.files.folders import is_hidden
from vbmstat.files.naming import Scan, split_ids
from vbmstat.files.search import is_bids
from vbmstat.glm.record import RECORD

OWN = ".vbmstat-ui"  # folder of the jobs, the only place beside exclusions.tsv that the server itself writes to
COHORT, INPUTS = "cohort.tsv", "inputs.tsv"  # the last and the first file that preprocess writes
_RUNS = ("", "derivatives/vbmstat", "vbmstat-out")
_DEPTH = 4  # folders below the served one that are searched for results
_WITHOUT_RESULTS = ("mri", "report", "label", "figures", "logs", "sourcedata")


class MissingError(VbmstatError):
    """What was asked for is not there."""


class RefusedError(VbmstatError):
    """What was asked for is outside the folder."""


@dataclass(frozen=True)
class Study:
    """A folder that is served.

    Attributes
    ----------
    root : Path
        Absolute, links resolved.
    """

    root: Path

    @property
    def run(self) -> Path:
        """The output folder of preprocess in it, or where it would be."""
        self.check()
        found = (
            self.root / place for name in (COHORT, INPUTS) for place in _RUNS if (self.root / place / name).is_file()
        )
        return next(found, self.root / _RUNS[1 if is_bids(self.root) else 2])

    @property
    def table(self) -> Path:
        """The cohort table; raises MissingError if there is none."""
        path = self.run / COHORT
        if not path.is_file():
            msg = (
                f"{self.root}: no cohort.tsv here; preprocess the scans first, or open the output folder of preprocess"
            )
            raise MissingError(msg)
        return path

    def check(self) -> None:
        """Refuse a folder that has gone."""
        if not self.root.is_dir():
            msg = f"{self.root}: the folder is gone; bring it back, or start vbmstat ui with another one"
            raise MissingError(msg)

    def path(self, relative: str) -> Path:
        """A path inside the folder, links resolved.

        Raises
        ------
        RefusedError
            If it leads out of the folder.
        MissingError
            If there is no such file or folder.
        """
        self.check()
        parts = relative.replace("\\", "/").split("/")
        if relative.startswith("/") or ".." in parts or "\0" in relative:
            msg = f"{relative!r}: expected a path inside the folder, without .."
            raise RefusedError(msg)
        path = self.root.joinpath(*filter(None, parts)).resolve()
        if not path.is_relative_to(self.root):
            msg = f"{relative!r}: a link that leads out of the folder is not followed; copy the file into it"
            raise RefusedError(msg)
        if not path.exists():
            msg = f"{relative!r}: no such file in {self.root}; load the page again"
            raise MissingError(msg)
        return path

    def lock(self, name: str) -> FileLock:
        """For what one tab, thread or server may do at a time in this folder."""
        self.check()
        (self.root / OWN).mkdir(exist_ok=True)
        return FileLock(self.root / OWN / f"{name}.lock")

    def relative(self, path: Path) -> str:
        """A path inside the folder as the page names it; ``.`` for the folder itself."""
        return path.relative_to(self.root).as_posix()

    def url(self, path: Path | None) -> str | None:
        """Where a file is served, which changes with the file, so that browsers may keep it; None if there is none."""
        if path is None or not path.is_file():
            return None
        return f"/api/file/{quote(self.relative(path))}?v={path.stat().st_mtime_ns:x}"

    def listed(self) -> dict[str, Scan]:
        """The scans that a run uses, by their stem; none before it has written ``inputs.tsv``."""
        if not (self.run / INPUTS).is_file():
            return {}
        table = pd.read_csv(self.run / INPUTS, sep="\t", dtype=str, keep_default_na=False).query("status == 'used'")
        return {
            stem: Scan(Path(path), stem, *split_ids(stem))
            for path, stem in zip(table["path"], table["scan"], strict=True)
        }

    def results(self) -> list[Path]:
        """Folders with results of ``vbmstat glm``, sorted."""
        self.check()
        return sorted(_results(self.root, _DEPTH))


def result_folder(study: Study, result: str) -> Path:
    """The folder of a result; raises MissingError if there is none."""
    folder = study.path("" if result == "." else result)
    if not (folder / RECORD).is_file():
        msg = f"{result}: no results of vbmstat glm (glm.json) there; load the page again"
        raise MissingError(msg)
    return folder


def _results(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / RECORD).is_file():
        yield folder
    if depth == 0:
        return
    for path in subfolders(folder):
        yield from _results(path, depth - 1)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder that may hold studies or results: no links, no scans' own; none if it cannot be read."""
    try:
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []
    own = (path.name.startswith("sub-") or path.name in _WITHOUT_RESULTS or is_hidden(path.name) for path in inside)
    return [path for path, is_own in zip(inside, own, strict=True) if not is_own]
