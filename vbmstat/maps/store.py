"""Masked maps as a matrix of scans by voxels, in memory or packed on disk in voxel chunks.

The packed form is a folder: ``manifest.json`` (ids, files with size, mtime and sha256, grid, mask rule), written
last; ``voxels.npy`` and ``mask.npy``; and one raw float32 file per segment (``segment-0000.f32``), chunk by chunk:
[n_chunks][n_scans of the segment, made even][chunk_voxels]. Packing more scans adds a segment. One chunk is read at
a time, into reused memory, so that the memory of a fit does not grow with the number of voxels.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vbmstat.errors import ScanError, listed
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.maps.rawfile import RawFile

CHUNK_VOXELS = 512  # one compute tile: 4,017 scans × 512 voxels × 4 bytes = 8 MB, inside the L3 cache


@dataclass(frozen=True)
class Space:
    """Voxel positions of a matrix's columns.

    Attributes
    ----------
    grid : Grid
        RAS+ grid.
    voxel_index : ndarray, (n_voxels,), int64
        RAS+ C-order index of each column.
    axcodes : str
        Axis order on disk of the input maps, and so of results.
    """

    grid: Grid
    voxel_index: np.ndarray
    axcodes: str = "LAS"

    @cached_property
    def _first_axis_fastest(self) -> np.ndarray:
        """Position of each column in an image whose first axis varies fastest, as in files."""
        at = np.unravel_index(self.voxel_index, self.grid.shape)
        return np.asarray(np.ravel_multi_index(at, self.grid.shape, order="F"))

    def unmask(self, values: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """Columns (n_voxels,) as an image (X, Y, Z), float32, RAS+, in the order of files: most are written."""
        image = np.full(int(np.prod(self.grid.shape)), outside, dtype=np.float32)
        image[self._first_axis_fastest] = values
        return image.reshape(self.grid.shape, order="F")

    def volume(self, values: np.ndarray, outside: float = 0.0) -> Volume:
        """The same with its grid, (1, X, Y, Z)."""
        return Volume(torch.from_numpy(np.ascontiguousarray(self.unmask(values, outside)))[None], self.grid)


class Scratch(threading.local):
    """Memory that a thread reuses for each tile: fresh pages cost more than the computation in them."""

    def __init__(self) -> None:
        self._held: dict[str, np.ndarray] = {}

    def __reduce__(self) -> tuple[type[Scratch], tuple[()]]:
        """Another process gets an empty one."""
        return Scratch, ()

    def array(self, name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array of this thread, page-aligned, with arbitrary content."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._held or self._held[name].size < n_bytes:
            self._held[name] = np.frombuffer(mmap.mmap(-1, max(n_bytes, 1)), dtype=np.uint8)
        return np.asarray(self._held[name][:n_bytes].view(dtype).reshape(shape))


class Maps(Protocol):
    """A matrix of scans by voxels that is read in voxel chunks."""

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """Row names."""

    @property
    def space(self) -> Space | None:
        """Voxel positions of the columns."""

    @property
    def n_voxels(self) -> int:
        """Number of columns."""

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64, the type that products are computed in."""

    @property
    def mask(self) -> np.ndarray:
        """Columns to analyse, (n_voxels,), bool."""

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> np.ndarray:
        """Columns ``start`` to ``stop``, (n_scans, stop - start); may use the memory of `scratch`."""

    def select(self, scan_ids: Sequence[str]) -> Maps:
        """The rows of these scans, in this order."""


@dataclass(frozen=True)
class ArrayMaps:
    """Maps in memory: any matrix, such as an ROI table.

    Attributes
    ----------
    data : ndarray, (n_scans, n_voxels), float32 or float64
        One row per scan; other types become float64.
    scan_ids : tuple of str
        Row names.
    space : Space, optional
        Voxel positions of the columns.
    features : tuple of str
        Column names of a table; empty for voxels.
    """

    data: np.ndarray
    scan_ids: tuple[str, ...]
    space: Space | None = None
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.data.dtype != np.float32:
            object.__setattr__(self, "data", self.data.astype(np.float64, copy=False))
        if self.data.ndim != 2 or len(self.data) != len(self.scan_ids):
            msg = f"expected a matrix with {len(self.scan_ids)} rows (one per scan), got shape {self.data.shape}"
            raise ScanError(msg)
        if len(self.data) and not np.isfinite(self._range).all():
            bad = ~np.isfinite(self.data)
            rows = [self.scan_ids[i] for i in np.flatnonzero(bad.any(axis=1))]
            msg = f"{int(bad.sum())} values are missing or infinite, in {listed(rows)}; fill them in or leave these out"
            raise ScanError(msg)

    @property
    def n_voxels(self) -> int:
        """Number of columns."""
        return int(self.data.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return self.data.dtype

    @cached_property
    def _range(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest value of each column, (n_voxels,) each; NaN where one is."""
        return self.data.min(axis=0), self.data.max(axis=0)

    @cached_property
    def mask(self) -> np.ndarray:
        """Columns that vary over the scans, (n_voxels,), bool."""
        low, high = self._range
        return np.asarray(high > low)

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> np.ndarray:
        """Columns ``start`` to ``stop``, (n_scans, stop - start)."""
        return self.data[:, start:stop]

    def select(self, scan_ids: Sequence[str]) -> ArrayMaps:
        """The rows of these scans, in this order."""
        rows = row_positions(self.scan_ids, scan_ids)
        return replace(self, data=self.data[rows], scan_ids=tuple(scan_ids))


@dataclass(frozen=True)
class PackedMaps:
    """Maps packed in a folder; see the module's docstring for the format.

    Attributes
    ----------
    folder : Path
        The store.
    scan_ids : tuple of str
        Row names, in reading order.
    space : Space
        Voxel positions of the columns.
    mask : ndarray, (n_voxels,), bool
        Columns inside the mask of the packed scans.
    segments : tuple of (Path, int)
        Raw files with their number of scans.
    rows : ndarray, (n_scans,), int
        Position of each row among the packed scans.
    manifest : dict
        The manifest as read.
    """

    folder: Path
    scan_ids: tuple[str, ...]
    space: Space
    mask: np.ndarray
    segments: tuple[tuple[Path, int], ...]
    rows: np.ndarray
    manifest: dict[str, Any]

    def __getstate__(self) -> dict[str, Any]:
        """The state without the manifest, which other processes do not need: 30 MB for 100,000 scans."""
        return {**vars(self), "manifest": {}}

    @property
    def file_ids(self) -> tuple[str, ...]:
        """The scans whose files are read."""
        return self.scan_ids

    @property
    def n_voxels(self) -> int:
        """Number of columns."""
        return int(self.space.voxel_index.size)

    @property
    def dtype(self) -> np.dtype:
        """Type of the values: float32."""
        return np.dtype(np.float32)

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> np.ndarray:
        """Columns ``start`` to ``stop``, (n_scans, stop - start), float32; in memory of `scratch`, if given."""
        stop = min(stop, self.n_voxels)
        first, last = start // CHUNK_VOXELS, -(-stop // CHUNK_VOXELS)
        held = scratch or Scratch()
        if last - first == 1:
            block = self._chunk(first, held)
        else:
            block = held.array("wide", (len(self.rows), (last - first) * CHUNK_VOXELS))
            for i in range(last - first):
                block[:, i * CHUNK_VOXELS : (i + 1) * CHUNK_VOXELS] = self._chunk(first + i, held)
        offset = first * CHUNK_VOXELS
        return block[:, start - offset : stop - offset]

    def _chunk(self, index: int, scratch: Scratch) -> np.ndarray:
        """One chunk (n_scans, CHUNK_VOXELS) of all segments."""
        n_packed = sum(n_scans for _, n_scans in self.segments)
        block = scratch.array("packed", (n_packed + 1, CHUNK_VOXELS))  # one spare row, as segments have even numbers
        first = 0
        for path, n_scans in self.segments:
            n_read = even(n_scans)
            with RawFile(path) as stored:
                n_bytes = stored.read(block[first : first + n_read], index * n_read * CHUNK_VOXELS * 4)
            if n_bytes < n_scans * CHUNK_VOXELS * 4:
                msg = f"{path}: the packed maps are truncated; delete the folder {path.parent} and pack again"
                raise ScanError(msg)
            first += n_scans
        if len(self.rows) == n_packed and bool((self.rows == np.arange(n_packed)).all()):
            return block[:n_packed]
        return np.take(block, self.rows, axis=0, out=scratch.array("rows", (len(self.rows), CHUNK_VOXELS)), mode="clip")

    def select(self, scan_ids: Sequence[str]) -> PackedMaps:
        """The rows of these scans, in this order."""
        positions = row_positions(self.scan_ids, scan_ids)
        return replace(self, scan_ids=tuple(scan_ids), rows=self.rows[positions])


def even(n_scans: int) -> int:
    """Rows of a segment's chunk on disk: an even number, so that chunks start at multiples of 4,096 bytes."""
    return n_scans + n_scans % 2


def row_positions(have: Sequence[str], want: Sequence[str]) -> np.ndarray:
    """Position in `have` of each id in `want`.

    Raises
    ------
    ScanError
        If an id has no map.
    """
    position = {scan: i for i, scan in enumerate(have)}
    absent = [scan for scan in want if scan not in position]
    if absent:
        msg = f"no map for {listed(absent)}; there are maps of {len(have)} scans"
        raise ScanError(msg)
    return np.array([position[scan] for scan in want], dtype=np.int64)
