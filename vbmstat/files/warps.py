"""The warp of a finished scan, whichever program made it: the only reader of ``y_``, ``iy_`` and velocities.

A field that is there is read. One that is not is made from the velocity and the linear matrix in the scan's record, or
(``iy_`` from ``y_``) by inversion.

A velocity is stored at half its resolution, in steps of 1/32 mm: three volumes of means over 2 × 2 × 2 voxels (the
velocity at 3 mm, as it is), then what trilinear interpolation of them leaves of each of the eight voxels. The rest is
small, so that the file has 2 MB instead of 30 and gives both fields again to 0.05 mm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import ScanError
from vbmstat.files import map_kinds
from vbmstat.image import deform, io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Displacement, Volume
from vbmstat.lazy import functional, torch

VELOCITY_STEP_MM = 1 / 32  # of velocities on disk
# Keys of `affine` in a record: the matrix, the grids of ``y_``, of the scan, and of ``iy_``
LINEAR, TEMPLATE, SCAN, BOX = "template_mm_to_scan_mm", "template_grid", "scan_grid", "box_grid"
_HALVES = (2, 4, 6)  # axes of 2 in (3, x, 2, y, 2, z, 2)


@dataclass(frozen=True)
class ScanWarp:
    """A scan's warp to the template and back."""

    # ``y``, ``iy``, ``velocity`` and ``sidecar``, which need not exist; see :func:`vbmstat.files.naming.native_paths`
    paths: Mapping[str, Path]

    @property
    def is_known(self) -> bool:
        """Whether any file with the warp is there."""
        return any(self.paths[kind].is_file() for kind in ("y", "iy", "velocity"))

    @property
    def source(self) -> Path:
        """The file that :attr:`to_scan` is made from, which need not exist."""
        return self.paths["y" if self.paths["y"].is_file() else "velocity"]

    @cached_property
    def to_scan(self) -> Volume:
        """``y``: the scan point (RAS+ mm) of each voxel of the template, (3, X, Y, Z).

        Raises
        ------
        ScanError
            If there is neither the field nor a velocity, or a file cannot be used.
        """
        if self.paths["y"].is_file():
            return _points(self.paths["y"])
        return deform.deformation(self._flow(1), self._linear)

    def to_template(self, on: Grid) -> Volume:
        """``iy``: the template point (RAS+ mm) of each voxel of a grid of the scan, (3, X, Y, Z).

        Parameters
        ----------
        on : Grid
            Where the points are wanted; a field that is there has a grid of its own.
        """
        if self.paths["iy"].is_file():
            return _points(self.paths["iy"])
        if self.paths["velocity"].is_file() or not self.paths["y"].is_file():
            return deform.inverse_deformation(self._flow(-1), self._linear, on)
        linear = self._linear if self._affine else deform.fit_linear(self.to_scan)
        forward = deform.displacement_of(self.to_scan, linear)
        whole = Displacement(forward.data.nan_to_num(), forward.grid)  # SPM's fields may hold NaN
        return deform.inverse_deformation(deform.inverse_of(whole), linear, on)

    @cached_property
    def _affine(self) -> Mapping[str, Any]:
        try:
            affine = storage.read_json(self.paths["sidecar"])["affine"]
            return affine if isinstance(affine, dict) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    @property
    def _linear(self) -> np.ndarray:
        """Template mm -> scan mm, (4, 4)."""
        if LINEAR not in self._affine:
            msg = f"{self.paths['sidecar']}: expected the scan's record with its linear matrix, which a velocity needs"
            raise ScanError(msg)
        return np.array(self._affine[LINEAR], dtype=np.float64)

    @property
    def box(self) -> Grid | None:
        """The box around the brain in the scan in which it was segmented, if the record has it."""
        return self._grid(BOX)

    @property
    def scan_grid(self) -> Grid | None:
        """The scan's own grid: from the record, or that of its tissue maps."""
        images = (self.paths[tissue] for tissue in map_kinds.MAP_NUMBER if tissue in self.paths)
        return self._grid(SCAN) or next((io.read_grid(path) for path in images if path.is_file()), None)

    def _grid(self, key: str) -> Grid | None:
        """A grid in the scan's record."""
        known = self._affine.get(key)
        return grid_of(known) if isinstance(known, dict) else None

    def _flow(self, sign: int) -> Displacement:
        """Displacement, mm, of the flow of the velocity, forwards or backwards, on the template's grid."""
        velocity = self._velocity()
        spacing, grid = float(velocity.grid.voxel_size_mm.mean()), self._grid(TEMPLATE) or velocity.grid
        moved = deform.exponential(sign * velocity.data / spacing) * spacing
        start = np.rint(np.linalg.inv(velocity.grid.affine) @ grid.affine[:, 3])[:3].astype(int)
        inside = tuple(slice(first, first + n) for first, n in zip(start, grid.shape, strict=True))
        return Displacement(moved[(slice(None), *inside)].contiguous(), grid)

    def _velocity(self) -> Volume:
        if not self.paths["velocity"].is_file():
            names = ", ".join(self.paths[kind].name for kind in ("y", "iy", "velocity"))
            advice = "write them with the maps (vbmstat preprocess --outputs)"
            msg = f"{self.paths['y'].parent}: none of {names} is there; {advice}"
            raise ScanError(msg)
        stored = io.read_channels(self.paths["velocity"])
        if len(stored.data) != 27:
            msg = f"{self.paths['velocity']}: expected a velocity by vbmstat, 27 volumes, got {len(stored.data)}"
            raise ScanError(msg)
        return unpacked(stored)


def packed(velocity: Volume) -> Volume:
    """A velocity (3, 2a, 2b, 2c) as it is stored, (27, a, b, c), multiples of `VELOCITY_STEP_MM`."""
    step, shape = VELOCITY_STEP_MM, velocity.grid.shape
    half = velocity.grid.with_voxel_size(2 * velocity.grid.voxel_size_mm)
    means = torch.round(functional.avg_pool3d(velocity.data[None], 2)[0] / step) * step
    remainder = torch.round((velocity.data - _enlarged(means)) / step) * step
    split = remainder.reshape(3, shape[0] // 2, 2, shape[1] // 2, 2, shape[2] // 2, 2)
    return Volume(torch.cat([means, split.movedim(_HALVES, (1, 2, 3)).reshape(24, *half.shape)]), half)


def unpacked(stored: Volume) -> Volume:
    """The velocity that :func:`packed` stored."""
    grid = stored.grid.with_voxel_size(stored.grid.voxel_size_mm / 2)
    split = stored.data[3:].reshape(3, 2, 2, 2, *stored.grid.shape)
    remainder = split.movedim((1, 2, 3), _HALVES).reshape(3, *grid.shape)
    return Volume(_enlarged(stored.data[:3]) + remainder, grid)


def _enlarged(means: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(means[None], scale_factor=2, mode="trilinear", align_corners=False)[0]


def grid_record(grid: Grid) -> dict[str, object]:
    """A grid for a record."""
    return {"shape": list(grid.shape), "affine": grid.affine.tolist()}


def grid_of(record: Mapping[str, Any]) -> Grid:
    """The grid of a record."""
    return Grid(tuple(record["shape"]), np.array(record["affine"]))


def _points(path: Path) -> Volume:
    """A file of three channels, mm."""
    field = io.read_channels(path)
    if field.data.shape[0] != 3:
        msg = f"{path}: expected a field of 3 mm coordinates, got {field.data.shape[0]}"
        raise ScanError(msg)
    return field
