"""Full-sample and subset fits of a linear model at every voxel, in one pass over the maps.

The model is y_v = X β_v + ε_v with n scans (rows), p regressors, v voxels (columns, last axis) and B subsets of
scans; r = rank X. A voxel's statistics in a subset S follow from the full-sample residual E = Y - X B alone:
with z = Q_S'E and RSS_S = |E_S|² - |z|², t_S = (c'β + a'z) / (|a| sqrt(RSS_S / df_S)). On the CPU the sums over S are
those over the rows left out, in compiled loops (:mod:`vbmstat.glm.fit.downdate`); elsewhere all subsets of a tile are
two stacked products (:mod:`vbmstat.glm.fit.stacked`). Sums run in the maps' precision (float32 for images) on
full-sample residuals, everything small is float64, and a voxel whose residual cancels is fitted again in float64.
Updating formulas: Golub & Van Loan, Matrix Computations, 4th ed., §6.5; subset median t-maps: Fisch et al. 2024
(deepmriprep).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch

from vbmstat.device import n_cores
from vbmstat.distributed.pool import Cluster
from vbmstat.errors import DesignError
from vbmstat.glm.fit.backend import COMPILED, choose_product, has_compiler, single_threaded
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import SUMMARIES, Stacked, fit_full_sample  # noqa: F401 - part of the engine's offer
from vbmstat.glm.fit.tensors import Fit, Tile
from vbmstat.glm.variance.hc3 import hc3_plan
from vbmstat.maps.store import CHUNK_VOXELS, Maps, Scratch

_CUDA_TILE = 32 * CHUNK_VOXELS
_CUDA_BYTES = 1 << 30  # of a tile; about ten such are held at a time
_CUDA_WORKERS = 2  # one reads while the other computes
_TASKS_A_WORKER = 8  # in a pass over the voxels: few for the scheduler, and enough to share out to the end
_WORTH_COMPILING = 4e9  # scans × voxels × subsets: half a second of stacked products, three of the compiler (once)
SPM_RESMS_FLOOR = 1e-3  # of the largest residual mean square (spm_contrasts.m, SPM12, non-fMRI designs)


Result = TypeVar("Result")


def fit_voxels(
    maps: Maps,
    plan: Plan,
    *,
    robust: bool = False,
    spm_resms: bool = False,
    device: str = "cpu",
    backend: str = "auto",
    chunk_voxels: int | None = None,
    n_threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    cluster: Cluster | None = None,
) -> Fit:
    """Fit a linear model and all its subset repetitions at every voxel.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels), rows in the order of the plan.
    plan : Plan
        Factorised design, contrasts and subsets.
    robust : bool
        HC3 variances for t, in the whole sample and in the subsets (:mod:`vbmstat.glm.variance.hc3`).
    spm_resms : bool
        Add ``1e-3 · max(σ²)`` over the mask to every σ², as SPM does outside fMRI.
    device : str
        ``"cpu"`` or ``"cuda"``.
    backend : {"auto", "compiled", "mm", "linear"}
        Compiled loops over the rows left out, or one of two matrix products; auto takes what is fastest here.
    chunk_voxels : int, optional
        Voxels read at a time, rounded up to whole tiles of 512; results do not depend on it.
    n_threads : int, optional
        Tiles worked on at a time (CPU); results do not depend on it.
    progress : callable, optional
        Called with (stage, done, total).
    cluster : Cluster, optional
        Workers that read and fit the voxels in place of this process's threads, single-threaded each; results do not
        depend on how many there are. They need to see the packed maps' folder.

    Returns
    -------
    Fit

    Raises
    ------
    DesignError
        If the compiled backend is asked for where it cannot serve, or HC3 cannot estimate a contrast's variance.
    """
    plan = hc3_plan(plan, maps.scan_ids) if robust else plan
    kind = torch.device(device).type
    solvers = _choose_solvers(maps, plan, kind, device, backend, robust)
    layout = tile_layout(kind, chunk_voxels, n_threads, len(plan.basis))
    floor = None
    if spm_resms:
        floor = np.zeros(1 + len(plan.members))
        maxima = stream([maps], layout, partial(_largest_variances, solvers=solvers), cluster=cluster)
        for _, largest in maxima:
            np.maximum(floor, SPM_RESMS_FLOOR * largest, out=floor)
    fit = empty_fit(maps.mask, plan, [len(contrast.repetitions) for contrast in plan.contrasts])
    tiles = stream([maps], layout, partial(_fit_tile, solvers=solvers, floor=floor), cluster=cluster)
    for start, tile in tiles:
        store_tile(fit, start, tile)
        if progress:
            progress("fitting voxels", start + tile.width, maps.n_voxels)
    return fit


class Solver(Protocol):
    """A way to fit tiles of whole 512 voxels: `Stacked`, or `Downdating` where it pays."""

    def solve(self, values: torch.Tensor, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        """All statistics of a tile (n, v), and the columns with too few digits left, (v,)."""
        ...

    def largest_variances(self, values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Largest σ² in the whole sample and every subset, (1 + B,), but for columns with too few digits (v,)."""
        ...


def _choose_solvers(
    maps: Maps, plan: Plan, kind: str, device: str, backend: str, robust: bool
) -> tuple[Solver, Solver]:
    """The way to fit tiles, and the one in float64 for what has too few digits in it."""
    can_compile = kind == "cpu" and maps.dtype == np.float32 and not robust
    if backend == COMPILED and not can_compile:
        msg = "the compiled backend fits float32 maps on the CPU without HC3; leave the backend out"
        raise DesignError(msg)
    exact = Stacked.make(plan, torch.float64, device, choose_product(backend, kind), robust)
    if maps.dtype == np.float64:
        return exact, exact
    work = len(plan.basis) * maps.n_voxels * len(plan.members)
    if backend == COMPILED or (backend == "auto" and can_compile and work > _WORTH_COMPILING and has_compiler()):
        from vbmstat.glm.fit.downdate import Downdating  # noqa: PLC0415 - half a second to import the compiler

        return Downdating.make(plan), exact
    return Stacked.make(plan, torch.float32, device, choose_product(backend, kind), robust), exact


@dataclass(frozen=True)
class Layout:
    """How voxels are dealt out: voxels read at a time, voxels in a tile, tiles worked on at a time."""

    chunk: int
    tile: int
    workers: int


def tile_layout(kind: str, chunk_voxels: int | None, n_threads: int | None, n_scans: int = 1) -> Layout:
    """The layout for a kind of device.

    Whole tiles only: a voxel's neighbours in a product, and with them its last bit, never depend on the chunk.
    """
    if kind == "cpu":
        workers = (n_threads or n_cores()) + 1  # one waits for the disk
        return Layout(_whole_tiles(chunk_voxels or CHUNK_VOXELS), CHUNK_VOXELS, workers)
    chunk = _whole_tiles(chunk_voxels or min(_CUDA_TILE, _CUDA_BYTES // (4 * n_scans)))
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


def _fit_tile(
    tiles: list[torch.Tensor], inside: torch.Tensor, solvers: tuple[Solver, Solver], floor: np.ndarray | None
) -> Tile:
    """All statistics of one tile (n, v); columns of the mask without digits left are done again in float64."""
    (values,), (first, exact) = tiles, solvers
    tile, cancelled = first.solve(pad_tile(values), floor)
    columns = np.flatnonzero(cancelled[: values.shape[1]] & inside.numpy())
    if first is not exact and columns.size:
        again, _ = exact.solve(pad_tile(values[:, columns]), floor)
        tile.replace(columns, again)
    return tile.crop(values.shape[1])


def _largest_variances(
    tiles: list[torch.Tensor], inside: torch.Tensor, solvers: tuple[Solver, Solver]
) -> np.ndarray:
    """Largest σ² over the mask's voxels of a tile (n, v) in the whole sample and in every subset, (1 + B,)."""
    values, (first, exact) = tiles[0][:, inside], solvers
    largest, cancelled = first.largest_variances(pad_tile(values))
    columns = np.flatnonzero(cancelled[: values.shape[1]])
    if first is not exact and columns.size:
        largest = np.maximum(largest, exact.largest_variances(pad_tile(values[:, columns]))[0])
    return largest


def pad_tile(values: torch.Tensor) -> torch.Tensor:
    """Columns up to a whole tile: one shape of product, whatever is left over at the end."""
    return torch.nn.functional.pad(values, (0, -values.shape[1] % CHUNK_VOXELS))


def empty_fit(mask: np.ndarray, plan: Plan, repetitions: Sequence[int], df_used: float = 0.0) -> Fit:
    """A fit full of zeros, for tiles to be stored in."""
    shape = (len(repetitions), len(mask))
    names = SUMMARIES if len(plan.members) else ()
    return Fit(
        mask=mask,
        residual_variance=np.zeros(len(mask)),
        effect=np.zeros(shape),
        variance=np.zeros(shape),
        statistic=np.zeros(shape),
        quantiles={name: np.zeros(shape) for name in names},
        df_resid=plan.df_resid - df_used,
        repetitions=tuple(repetitions),
        df=tuple(contrast.df for contrast in plan.contrasts) or (plan.df_resid - df_used,) * len(repetitions),
    )


def store_tile(fit: Fit, start: int, tile: Tile) -> None:
    """Copy a tile into its columns; columns outside the mask stay zero."""
    here = slice(start, start + tile.width)
    inside = fit.mask[here]
    fit.residual_variance[here] = tile.residual_variance * inside
    for name in ("effect", "variance", "statistic"):
        getattr(fit, name)[:, here] = np.where(inside, getattr(tile, name), 0.0)
    for name, values in tile.quantiles.items():
        fit.quantiles[name][:, here] = np.where(inside, values, 0.0)
