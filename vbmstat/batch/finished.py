"""Measure more in the scans of a finished output folder, from the images that the run left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbmstat.batch import derivatives
from vbmstat.batch.claim import claim
from vbmstat.batch.task import publish, reason_of
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.files import map_kinds, naming
from vbmstat.files.warps import ScanWarp
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.progress import OnProgress


@dataclass(frozen=True)
class FinishedScan:
    """A preprocessed scan in its output folder."""

    folder: Path  # output folder of the run
    scan: naming.Scan  # the scan; its input is unknown, so `path` is the stem
    names: str  # naming convention: cat12 or bids

    def path(self, kind: str, folder: Path | None = None) -> Path:
        """Path of an output in the folder, or in another."""
        return naming.output_path(self.folder if folder is None else folder, self.scan, kind, self.names)

    @property
    def record(self) -> dict[str, Any]:
        """Its sidecar."""
        return derivatives.read_sidecar(self.path("sidecar"))

    @property
    def warp(self) -> ScanWarp:
        """Its warp."""
        return ScanWarp({kind: self.path(kind) for kind in (*map_kinds.WARP, "sidecar")})

    def images(self, kinds: Collection[str], remedy: str) -> dict[str, Volume]:
        """Images by kind; raises ScanError, which ends with the remedy, if one is missing."""
        paths = {kind: self.path(kind) for kind in kinds}
        missing = [path.name for path in paths.values() if not path.is_file()]
        if missing:
            msg = f"{', '.join(missing)} is missing; {remedy}"
            raise ScanError(msg)
        return {kind: io.read_channels(path) for kind, path in paths.items()}

    @contextmanager
    def adding(self, locking: bool) -> Iterator[Path]:
        """A folder for new outputs, which appear together when the block ends, the sidecar last.

        Raises
        ------
        ScanError
            If another run works on the scan.
        """
        held = claim(self.folder, self.scan.stem, locking)
        if held is None:
            msg = "another run works on it; try again later"
            raise ScanError(msg)
        try:
            yield held.folder
            publish(held.folder, self.folder, self.path("sidecar", Path()))
        finally:
            held.release()


@dataclass(frozen=True)
class FinishedRun:
    """What became of each scan of a folder."""

    measured: dict[str, Mapping[str, Any]]  # what was measured, by scan stem
    kept: tuple[str, ...]  # scans that had been measured before
    failures: dict[str, str]  # why a scan could not be measured


def measure_finished(
    folder: Path, measure: Callable[[FinishedScan], Mapping[str, Any] | None], stage: str, report: OnProgress
) -> FinishedRun:
    """Measure every preprocessed scan of a folder; one that fails does not stop the others.

    Parameters
    ----------
    folder : Path
        Output folder of ``vbmstat preprocess``.
    measure : callable
        Measures a scan and writes its outputs; returns None if the scan has them.
    stage : str
        Reported as (stage, done, total) before the first and after each scan.
    report : callable
        Takes it.

    Raises
    ------
    VbmstatError
        If the folder has no preprocessed scan.
    """
    found = [
        FinishedScan(folder, scan, names)
        for names in naming.NAME_STYLES for scan, _ in derivatives.recorded_scans(folder, names)
    ]  # fmt: skip
    if not found:
        why = "no preprocessed scan (report/vbmstat_NAME.json)" if folder.is_dir() else "no such folder"
        msg = f"{folder}: {why}; expected an output folder of vbmstat preprocess"
        raise VbmstatError(msg)
    measured, kept, failures = dict[str, Mapping[str, Any]](), list[str](), dict[str, str]()
    report(stage, 0, len(found))  # a scan may take a minute
    for number, one in enumerate(found, start=1):
        try:
            made = measure(one)
        except (VbmstatError, MemoryError) as error:
            failures[one.scan.stem] = reason_of(error, one.scan)
        else:
            measured |= {} if made is None else {one.scan.stem: made}
            kept += [] if made is not None else [one.scan.stem]
        report(stage, number, len(found))
    return FinishedRun(measured, tuple(kept), failures)
