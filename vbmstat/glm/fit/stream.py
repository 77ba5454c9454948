"""Voxels in chunks and tiles, in parallel: :func:`stream` for any pass over the maps, :func:`fit_tiles` for fits.

:func:`solve_tile` solves a tile in float32, and again in float64 the columns in which that leaves too few digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from threading import Semaphore
from typing import Any, Generic, TypeVar

import numpy as np

from vbmstat.device import is_cpu, n_cores, one_thread, single_threaded
from vbmstat.distributed.pool import Cluster
from vbmstat.glm.fit.tile import Fit, Tile
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import CHUNK_VOXELS, Maps, Scratch

_CUDA_TILE = 32 * CHUNK_VOXELS
_CUDA_BYTES = 1 << 30  # of a tile; about ten such are held at a time
_CUDA_WORKERS = 2  # one copies its tile while the other computes
_TASKS_A_WORKER = 8  # in a pass over the voxels: little to schedule, yet enough to keep all workers busy to the end

Result = TypeVar("Result")


@dataclass(frozen=True)
class Layout:
    """Voxels read at a time, voxels in a tile, and tiles worked on at a time; one thread more reads ahead."""

    chunk: int
    tile: int
    workers: int


def tile_layout(compute: Compute, n_scans: int = 1) -> Layout:
    """The layout for a device: whole tiles only, so that no bit of a product depends on the chunk."""
    if is_cpu(compute.device):
        workers = compute.n_threads or n_cores()
        return Layout(_whole_tiles(compute.chunk_voxels or CHUNK_VOXELS), CHUNK_VOXELS, workers)
    chunk = _whole_tiles(compute.chunk_voxels or min(_CUDA_TILE, _CUDA_BYTES // (4 * n_scans)))
    return Layout(chunk, chunk, _CUDA_WORKERS)


def _whole_tiles(n_voxels: int) -> int:
    return max(-(-n_voxels // CHUNK_VOXELS), 1) * CHUNK_VOXELS


def stream(
    sources: Sequence[Maps],
    layout: Layout,
    work: Callable[[list[np.ndarray], np.ndarray], Result],
    mask: np.ndarray | None = None,
    cluster: Cluster | None = None,
) -> Iterator[tuple[int, Result]]:
    """Results of `work` on tiles of aligned maps and their mask, with where they start, in the order of the voxels.

    Chunks are read and worked on in parallel, in threads or on a cluster's workers; tiles outside the mask are skipped.
    """
    inside = sources[0].mask if mask is None else mask
    chunks = _Chunks(sources, [Scratch() for _ in sources], layout, work, inside)
    starts = range(0, len(inside), layout.chunk)
    if cluster is not None:
        a_task = max(len(starts) // (_TASKS_A_WORKER * max(cluster.n_workers, 1)), 1)
        spans = [starts[i : i + a_task] for i in range(0, len(starts), a_task)]
        yield from chain.from_iterable(cluster.map(chunks, spans))
        return
    turns = Semaphore(layout.workers)
    with single_threaded(), ThreadPoolExecutor(layout.workers + 1, initializer=one_thread) as pool:
        yield from chain.from_iterable(pool.map(partial(chunks.run, turns=turns), starts))


@dataclass(frozen=True)
class _Chunks(Generic[Result]):
    """The task of a thread (one chunk of voxels) or of a cluster's worker (several); see :func:`stream`."""

    sources: Sequence[Maps]
    scratches: Sequence[Scratch]
    layout: Layout
    work: Callable[[list[np.ndarray], np.ndarray], Result]
    inside: np.ndarray

    def __call__(self, starts: range) -> list[tuple[int, Result]]:
        """Results of the tiles of several chunks, on one thread."""
        with single_threaded():
            return [result for start in starts for result in self.run(start, nullcontext())]

    def run(self, start: int, turns: AbstractContextManager[Any]) -> list[tuple[int, Result]]:
        """Results of the tiles of one chunk, computed once `turns` lets this thread."""
        stop = min(start + self.layout.chunk, len(self.inside))
        if not self.inside[start:stop].any():
            return []
        read = [source.read(start, stop, own) for source, own in zip(self.sources, self.scratches, strict=True)]
        chunks = [values if values.flags.writeable else values.copy() for values in read]  # torch needs them writeable
        results = []
        for at in range(start, stop, self.layout.tile):
            end = min(at + self.layout.tile, stop)
            if self.inside[at:end].any():
                tiles = [values[:, at - start : end - start] for values in chunks]
                with turns:
                    results.append((at, self.work(tiles, self.inside[at:end])))
        return results


def pad_tile(values: np.ndarray) -> np.ndarray:
    """Pad columns with zeros to whole tiles: all products have one shape."""
    missing = -values.shape[1] % CHUNK_VOXELS
    return np.pad(values, ((0, 0), (0, missing))) if missing else values


def fit_tiles(
    fit: Fit,
    sources: Sequence[Maps],
    layout: Layout,
    work: Callable[[list[np.ndarray], np.ndarray], Tile],
    compute: Compute,
) -> Fit:
    """Fill a fit with the tiles that `work` makes of aligned maps; local degrees of freedom give it their fewest."""
    for start, tile in stream(sources, layout, work, fit.mask, compute.cluster):
        fit.store(start, tile)
        if compute.progress:
            compute.progress("fitting voxels", start + tile.width, len(fit.mask))
    return replace(fit, df_resid=min(fit.typical_df)) if fit.has_local_df else fit


Solve = Callable[..., tuple[Tile, np.ndarray]]


def solve_tile(tiles: Sequence[np.ndarray], inside: np.ndarray, solve: Solve, exact: Solve | None) -> Tile:
    """All statistics of one tile of each map (n, v); unstable columns of the mask are solved in float64.

    `solve` and `exact`, in the maps' precision and in float64 (None if that is theirs), turn padded tiles into a `Tile`
    and the numerically unstable columns (v,).
    """
    width = tiles[0].shape[1]
    tile, cancelled = solve(*map(pad_tile, tiles))
    columns = np.flatnonzero(cancelled[:width] & inside)
    if exact is not None and columns.size:
        tile.replace(columns, exact(*(pad_tile(values[:, columns]) for values in tiles))[0])
    return tile.crop(width)
