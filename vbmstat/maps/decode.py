"""Read maps from disk into rows of a masked matrix, as fast as they decompress; smooth them on the way if asked.

A NIfTI-1 file is inflated with igzip, its header compared with the first map's byte for byte, and the masked voxels
gathered straight from the stored order; nothing is reoriented, and there is no float64 copy. Unusual files (another
byte order, type or format) are read by :mod:`vbmstat.image.io`, which is slower.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import cast

import numpy as np
from isal import igzip
from isal.igzip_lib import IsalError

from vbmstat.errors import ScanError
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.maps.store import Scratch

_HEADER_BYTES = 348
_MAX_INFLATION = 1032  # the most that deflate can do; a larger size is damaged
_DTYPES = {2: "u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 256: "i1", 512: "<u2"}  # NIfTI-1 datatype codes
_GEOMETRY = ((40, 56), (76, 92), (252, 328))  # bytes of dim; qfac and voxel sizes; q- and s-form
_RAS_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
_READ_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    cast("type[Exception]", IsalError),
    struct.error,
)


@dataclass
class MapReader:
    """Reader of maps that share a grid.

    Attributes
    ----------
    grid : Grid
        RAS+ grid of the first map, required of all others.
    axcodes : str
        Axis order of the first map on disk.
    reference : Path
        The first map.
    fwhm_mm : float
        Width of the Gaussian that every map is smoothed with; 0 for none.
    """

    grid: Grid
    axcodes: str
    reference: Path
    fwhm_mm: float = 0.0
    _scratch: Scratch = field(default_factory=Scratch, repr=False)
    _orders: dict[bytes, np.ndarray] = field(default_factory=dict, repr=False)
    _positions: dict[bytes, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    @classmethod
    def like(cls, path: Path, fwhm_mm: float = 0.0) -> MapReader:
        """A reader for maps on the grid of this map."""
        return cls(io.read_grid(path), io.read_axcodes(path), path, fwhm_mm)

    @cached_property
    def _all_voxels(self) -> np.ndarray:
        return np.arange(np.prod(self.grid.shape), dtype=np.int32)

    def stored_order(self) -> np.ndarray:
        """RAS+ C-order index of each voxel of the first map, in storage order."""
        order = storage_index(self.grid.shape, self.axcodes)
        inverse = np.empty_like(order)
        inverse[order] = np.arange(order.size)
        return inverse

    def read(self, path: Path, voxel_index: np.ndarray, out: np.ndarray) -> str:
        """Read a map's values, smoothed if `fwhm_mm` is not 0, at some voxels.

        Infinite values and NaN count as 0 in the smoothing of their neighbours, and stay what they are.

        Parameters
        ----------
        path : Path
            The map.
        voxel_index : ndarray, (n_voxels,), int
            RAS+ C-order indices.
        out : ndarray, (n_voxels,), float32
            Receives the values.

        Returns
        -------
        str
            SHA-256 of the file on disk.

        Raises
        ------
        ScanError
            If the file is unreadable or truncated, or on another grid.
        """
        if not self.fwhm_mm:
            return self._read(path, voxel_index, out)
        whole = self._scratch.array("whole", (len(self._all_voxels),))
        digest = self._read(path, self._all_voxels, whole)
        if whole.min() == whole.max():  # refused as such later
            np.copyto(out, whole[voxel_index])
            return digest
        finite = np.isfinite(whole)
        image = np.where(finite, whole, 0).reshape(1, *self.grid.shape)  # (1, X, Y, Z)
        smoothed = smooth_map(Volume(torch.from_numpy(image), self.grid), self.fwhm_mm).data.numpy().reshape(-1)
        np.copyto(out, np.where(finite, smoothed, whole)[voxel_index])
        return digest

    def _read(self, path: Path, voxel_index: np.ndarray, out: np.ndarray) -> str:
        """Read a map's values as stored at some voxels; return the file's SHA-256."""
        try:
            packed = path.read_bytes()
            raw = self._inflated(packed) if path.name.endswith(".gz") else packed
        except _READ_ERRORS as error:
            io.read_grid(path)  # raises a better error if the header is at fault
            msg = f"{path}: expected a complete map, but reading failed ({error}); make or copy it again"
            raise ScanError(msg) from error
        values = self._values(path, raw, voxel_index)
        if values is None:
            self.check_grid(path)
            out[:] = io.read_volume(path).data.numpy().ravel()[voxel_index]
        elif values[0].dtype == out.dtype and values[1:3] == (1, 0):
            np.take(values[0], values[3], out=out, mode="clip")  # "raise" would make a copy
        else:
            flat, slope, intercept, positions = values
            np.multiply(flat[positions], slope, out=out, casting="unsafe")
            out += intercept
        return hashlib.sha256(packed).hexdigest()

    def _inflated(self, packed: bytes) -> memoryview | bytes:
        """The content of a gzip file, in memory that this thread reuses; its CRC is checked."""
        n_bytes = struct.unpack("<I", packed[-4:])[0] if len(packed) > 4 else 0  # of the last, usually only, member
        if n_bytes <= _MAX_INFLATION * len(packed):
            held = self._scratch.array("map", (n_bytes + 1,), np.uint8).data
            n_read = 0
            with igzip.GzipFile(fileobj=BytesIO(packed)) as stream:
                while count := stream.readinto(held[n_read:]):
                    n_read += count
            if n_read == n_bytes:
                return held[:n_bytes]
        return bytes(igzip.decompress(packed))

    def _values(
        self, path: Path, raw: memoryview | bytes, voxel_index: np.ndarray
    ) -> tuple[np.ndarray, float, float, np.ndarray] | None:
        """Stored values (all voxels), slope, intercept and stored position of each wanted voxel; None if unusual."""
        if len(raw) < _HEADER_BYTES or struct.unpack_from("<i", raw)[0] != _HEADER_BYTES:
            return None
        shape = struct.unpack_from("<8h", raw, 40)
        code = struct.unpack_from("<h", raw, 70)[0]
        offset, slope, intercept = struct.unpack_from("<3f", raw, 108)
        if not 3 <= shape[0] <= 7 or any(n > 1 for n in shape[4 : shape[0] + 1]) or code not in _DTYPES:
            return None
        if raw[344:347] != b"n+1":
            return None
        n_voxels = int(np.prod(shape[1:4], dtype=np.int64))
        dtype = np.dtype(_DTYPES[code])
        if len(raw) < int(offset) + n_voxels * dtype.itemsize:
            msg = f"{path}: truncated, {len(raw)} bytes for {n_voxels} voxels of {dtype}; make or copy it again"
            raise ScanError(msg)
        positions = self._stored_positions(path, b"".join(raw[a:b] for a, b in _GEOMETRY), voxel_index)
        flat = np.frombuffer(raw, dtype, count=n_voxels, offset=int(offset))
        scaled = np.isfinite(slope) and slope != 0
        return flat, float(slope) if scaled else 1.0, float(intercept) if scaled else 0.0, positions

    def _stored_positions(self, path: Path, geometry: bytes, voxel_index: np.ndarray) -> np.ndarray:
        """Stored positions of the wanted voxels in a file of this geometry, cached while the same voxels are wanted."""
        known = self._positions.get(geometry)
        if known is not None and known[0] is voxel_index:
            return known[1]
        if geometry not in self._orders:
            self.check_grid(path)
            self._orders[geometry] = storage_index(self.grid.shape, io.read_axcodes(path))
        positions: np.ndarray = self._orders[geometry][voxel_index]
        self._positions[geometry] = (voxel_index, positions)
        return positions

    def check_grid(self, path: Path) -> None:
        """Refuse a map on another grid."""
        grid = io.read_grid(path)
        if not grid.matches(self.grid):
            origin = "" if grid.shape != self.grid.shape else " with another origin or voxel axes"
            msg = (
                f"{path}: map grid {grid}{origin} differs from {self.grid} of {self.reference}; "
                "resample it or leave this scan out"
            )
            raise ScanError(msg)


def storage_index(shape: tuple[int, int, int], axcodes: str) -> np.ndarray:
    """Position in the file (first axis fastest) of each voxel of the RAS+ C-ordered image.

    Parameters
    ----------
    shape : tuple of int
        RAS+ shape.
    axcodes : str
        Axes on disk, e.g. ``"LAS"``.

    Returns
    -------
    ndarray, (n_voxels,), int32

    Examples
    --------
    >>> storage_index((2, 1, 2), "LAS").tolist()
    [1, 3, 0, 2]
    """
    axes = [_RAS_AXIS[code] for code in axcodes]
    stored = np.arange(np.prod(shape), dtype=np.int32).reshape([shape[a] for a in axes], order="F")
    flipped = stored[tuple(slice(None, None, -1) if code in "LPI" else slice(None) for code in axcodes)]
    return np.ascontiguousarray(flipped.transpose(np.argsort(axes))).ravel()  # (X, Y, Z)
