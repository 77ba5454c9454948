"""The people behind places of a finished model; the latest model's maps stay packed, so that a click takes no time."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import VbmstatError
from vbmstat.glm.record import RECORD
from vbmstat.image import io
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.segment import Packing
from vbmstat.maps.store import CHUNK_VOXELS, PackedMaps
from vbmstat.report.look import look_in, open_places
from vbmstat.report.places import PEAK, RegionPlaces, VoxelPlaces
from vbmstat.tables.cohort import is_tiv_name
from vbmstat.ui.commands import command_line
from vbmstat.ui.study import Study, result_folder


@dataclass
class Places:
    """Looks at places of results; those of the latest are kept open, its maps packed, so that a click takes no time.

    Attributes
    ----------
    study : Study
        The folder.
    """

    study: Study
    _key: tuple[str, int] = ("", 0)
    _opened: VoxelPlaces | RegionPlaces | None = None
    _packed: dict[tuple[Path, ...], PackedMaps] = field(default_factory=dict)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _lock: Any = field(default_factory=threading.RLock)

    def look(self, result: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Adjusted data at a place: `contrast`, `at` (``x,y,z``, ``peak`` or a region), `by` (a column)."""
        folder = result_folder(self.study, result)
        at, contrast, by = query.get("at") or PEAK, query.get("contrast") or None, query.get("by") or None
        with self._lock:
            (look,) = look_in(self._open(folder), [(at, contrast)], by)
        fit, unit = look.fit, "mL" if is_tiv_name(look.fit.covariate) else ""
        made = ["plot", str(folder), f"--at={at}", "--contrast", fit.contrast, *(["--by", by] if by else [])]
        points = fit.scans.rename(columns={
            "scan_id": "scan", "covariate": "x", "adjusted": "y", "cooks_distance": "cook",
        })[["scan", "x", "y", "value", "group", "residual", "cook", "leverage"]]  # fmt: skip
        lines = [
            {"group": group, **{name: list(rows[of]) for name, of in
             (("x", "covariate"), ("y", "fit"), ("low", "lower"), ("high", "upper"))}}
            for group, rows in fit.line.groupby("group", sort=False)
        ]  # fmt: skip
        return {
            "place": {
                "name": look.place, "mm": look.at.mm, "region": look.at.region, "statistic": fit.statistic,
                "kind": fit.kind, "df": fit.df, "p": fit.p, "result": fit.result,
            },
            "x": {"name": fit.covariate, "unit": unit, "is_factor": fit.is_factor},
            "y": {"name": look.response}, "grouped_by": fit.grouped_by, "adjusted_for": fit.adjusted_for,
            "points": points, "lines": lines, "notes": fit.notes, "command": command_line(made),
        }  # fmt: skip

    def prepare(self, result: str) -> None:
        """Open a result before its first click, in a thread of its own; what is wrong is said when it is clicked."""

        def look() -> None:
            with suppress(VbmstatError, OSError):
                self.look(result, {})

        threading.Thread(target=look, daemon=True).start()

    def _open(self, folder: Path) -> VoxelPlaces | RegionPlaces:
        key = (str(folder), (folder / RECORD).stat().st_mtime_ns)
        if self._opened is None or key != self._key:
            self.close()
            self._opened, self._key = open_places(folder, (), self._read), key
        return self._opened

    def close(self) -> None:
        """Delete the packed maps."""
        with self._lock:
            if self._folder is not None:
                self._folder.cleanup()
            self._opened, self._folder, self._packed = None, None, {}

    def _read(
        self, paths: Mapping[str, Path], voxels: np.ndarray, fwhm_mm: float, then: Mapping[str, Any]
    ) -> tuple[np.ndarray, list[str]]:
        """As :func:`vbmstat.report.places.read_voxels`, from packed maps of the whole mask."""
        key = tuple(paths.values())
        if key not in self._packed:
            mask = io.read_volume(Path(self._key[0]) / "mask.nii.gz")
            how = Packing(fwhm_mm, {}, np.flatnonzero(mask.data.numpy().ravel() > 0), durable=False)
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="vbmstat-ui-")
            store = Path(self._folder.name) / str(len(self._packed))
            self._packed[key] = pack_maps(paths, store, MaskRule(None), how)
        packed = self._packed[key]
        columns = np.searchsorted(packed.space.voxel_index, voxels)
        blocks = np.split(columns, np.flatnonzero(np.diff(columns // CHUNK_VOXELS)) + 1)  # a chunk is read once
        read = (packed.read(int(block[0]), int(block[-1]) + 1)[:, block - block[0]] for block in blocks)
        rows = np.concatenate([one.copy() for one in read], axis=1)
        digests = packed.manifest["files"]
        return rows, [scan for scan in paths if digests[scan]["sha256"] != then[scan]["sha256"]]
