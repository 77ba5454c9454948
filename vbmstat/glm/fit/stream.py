"""Voxels in chunks and tiles: read, worked on several at a time, results in the order of the voxels.

Every fit, permutation and estimate that goes over all voxels uses :func:`stream`, and :func:`solve_tile` where a tile
is solved in float32 first: columns in which that leaves too few digits are solved again in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
import torch

from vbmstat.device import n_cores, single_threaded
from vbmstat.distributed.pool import Cluster
from vbmstat.glm.fit.tensors import Tile
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import CHUNK_VOXELS, Maps, Scratch

_CUDA_TILE = 32 * CHUNK_VOXELS
_CUDA_BYTES = 1 << 30  # of a tile; about ten such are held at a time
_CUDA_WORKERS = 2  # one reads while the other computes
_TASKS_A_WORKER = 8  # in a pass over the voxels: few for the scheduler, and enough to share out to the end

Result = TypeVar("Result")


@dataclass(frozen=True)
class Layout:
    """How voxels are dealt out: voxels read at a time, voxels in a tile, tiles worked on at a time."""

    chunk: int
    tile: int
    workers: int


def tile_layout(compute: Compute, n_scans: int = 1) -> Layout:
    """The layout for a device.

    Whole tiles only: a voxel's neighbours in a product, and with them its last bit, never depend on the chunk.
    """
    if torch.device(compute.device).type == "cpu":
        workers = (compute.n_threads or n_cores()) + 1  # one waits for the disk
        return Layout(_whole_tiles(compute.chunk_voxels or CHUNK_VOXELS), CHUNK_VOXELS, workers)
    chunk = _whole_tiles(compute.chunk_voxels or min(_CUDA_TILE, _CUDA_BYTES // (4 * n_scans)))
    return Layout(chunk, chunk, _CUDA_WORKERS)


def _whole_tiles(n_voxels: int) -> int:
    return max(-(-n_voxels // CHUNK_VOXELS), 1) * CHUNK_VOXELS


def stream(
    sources: Sequence[Maps],
    layout: Layout,
    work: Callable[[list[torch.Tensor], torch.Tensor], Result],
    mask: np.ndarray | None = None,
    cluster: Cluster | None = None,
) -> Iterator[tuple[int, Result]]:
    """Read chunks of aligned maps and work on their tiles, several at a time, leaving out tiles without mask.

    In a thread each, or on a cluster's workers, many chunks at a time; the results come in the order of the voxels.
    """
    inside = sources[0].mask if mask is None else mask
    chunks = _Chunks(sources, [Scratch() for _ in sources], layout, work, inside)
    starts = range(0, len(inside), layout.chunk)
    if cluster is not None:
        a_task = max(len(starts) // (_TASKS_A_WORKER * max(cluster.n_workers, 1)), 1)
        spans = [starts[i : i + a_task] for i in range(0, len(starts), a_task)]
        yield from chain.from_iterable(cluster.map(chunks, spans))
        return
    # torch's number of threads is each thread's own: that of the main thread is not theirs
    one_each = ThreadPoolExecutor(layout.workers, initializer=torch.set_num_threads, initargs=(1,))
    with single_threaded(), one_each as pool:
        yield from chain.from_iterable(pool.map(chunks.run, starts))


@dataclass(frozen=True)
class _Chunks(Generic[Result]):
    """Work on the tiles of a chunk of voxels, or on those of many chunks, one after the other; see :func:`stream`."""

    sources: Sequence[Maps]
    scratches: Sequence[Scratch]
    layout: Layout
    work: Callable[[list[torch.Tensor], torch.Tensor], Result]
    inside: np.ndarray

    def __call__(self, starts: range) -> list[tuple[int, Result]]:
        """Results of the tiles of many chunks, on one thread: a task of a cluster."""
        with single_threaded():
            return [result for start in starts for result in self.run(start)]

    def run(self, start: int) -> list[tuple[int, Result]]:
        """Results of the tiles of one chunk."""
        stop = min(start + self.layout.chunk, len(self.inside))
        if not self.inside[start:stop].any():
            return []
        chunks = [
            _owned(source.read(start, stop, scratch))
            for source, scratch in zip(self.sources, self.scratches, strict=True)
        ]
        results = []
        for at in range(start, stop, self.layout.tile):
            end = min(at + self.layout.tile, stop)
            if self.inside[at:end].any():
                tiles = [torch.from_numpy(values[:, at - start : end - start]) for values in chunks]
                results.append((at, self.work(tiles, torch.from_numpy(self.inside[at:end]))))
        return results


def _owned(values: np.ndarray) -> np.ndarray:
    """An array that torch may call its own."""
    return values if values.flags.writeable else values.copy()


def pad_tile(values: torch.Tensor) -> torch.Tensor:
    """Columns up to a whole tile: one shape of product, whatever is left over at the end."""
    return torch.nn.functional.pad(values, (0, -values.shape[1] % CHUNK_VOXELS))


Solve = Callable[..., tuple[Tile, np.ndarray]]


def solve_tile(tiles: Sequence[torch.Tensor], inside: torch.Tensor, solve: Solve, exact: Solve) -> Tile:
    """All statistics of one tile of each map (n, v); columns of the mask with too few digits are solved in float64.

    Parameters
    ----------
    tiles : sequence of Tensor, (n, v)
        Aligned.
    inside : Tensor, (v,), bool
        The mask.
    solve, exact : callable
        Padded tiles to a `Tile` and the columns with too few digits (v,); in the maps' precision and in float64.
    """
    width = tiles[0].shape[1]
    tile, cancelled = solve(*map(pad_tile, tiles))
    columns = np.flatnonzero(cancelled[:width] & inside.numpy())
    if solve is not exact and columns.size:
        again, _ = exact(*(pad_tile(values[:, columns]) for values in tiles))
        tile.replace(columns, again)
    return tile.crop(width)
