"""Full-sample and subset fits of a linear model at every voxel, in one pass over the maps.

The model is y_v = X β_v + ε_v with n scans (rows), p regressors, v voxels (columns, last axis) and B subsets of
scans; r = rank X. A voxel's statistics in a subset S follow from the full-sample residual E = Y - X B alone:
with z = Q_S'E and RSS_S = |E_S|² - |z|², t_S = (c'β + a'z) / (|a| sqrt(RSS_S / df_S)), so all subsets of a tile of
voxels are two stacked products. Products run in the maps' precision (float32 for images) on full-sample residuals,
everything small is float64, and a voxel whose residual cancels is fitted again in float64. Updating
formulas: Golub & Van Loan, Matrix Computations, 4th ed., §6.5; subset median t-maps: Fisch et al. 2024 (deepmriprep).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from vbmstat.glm.backend import BACKENDS, available_cpus, choose_backend, single_threaded
from vbmstat.glm.maps import CHUNK_VOXELS, Maps
from vbmstat.glm.plan import Plan
from vbmstat.glm.tensors import Fit, Tensors, Tile, make_tensors

QUANTILES = {"median": 0.5, "q25": 0.25, "q75": 0.75}
_TILE_VOXELS = {"cpu": CHUNK_VOXELS, "cuda": 32 * CHUNK_VOXELS}
_CANCELLED = {torch.float32: 0.02, torch.float64: 1e-10}  # RSS_S / |E_S|² below: too few digits are left
_CUDA_WORKERS = 2  # one reads while the other computes
_DOUBTFUL_FIT = 1e-5  # RSS / |X B|² below: float32 rounding of the fitted part shows in the residual
_UNDERFLOW = 1e-25  # RSS below: single squares may vanish in float32
_EXACT_FIT = 1e-26  # RSS / |X B|² below: nothing but float64 rounding is left
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
) -> Fit:
    """Fit a linear model and all its subset repetitions at every voxel.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels), rows in the order of the plan.
    plan : Plan
        Factorised design, contrasts and subsets.
    robust : bool
        HC3 variances for t (MacKinnon & White 1985), in the whole sample and in the subsets.
    spm_resms : bool
        Add ``1e-3 · max(σ²)`` over the mask to every σ², as SPM does outside fMRI.
    device : str
        ``"cpu"`` or ``"cuda"``.
    backend : {"auto", "mm", "linear"}
        Matrix product; auto takes the fastest right one.
    chunk_voxels : int, optional
        Voxels read at a time, rounded up to whole tiles of 512; results do not depend on it.
    n_threads : int, optional
        Tiles worked on at a time (CPU); results do not depend on it.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Fit
    """
    kind = torch.device(device).type
    product = BACKENDS[choose_backend(kind) if backend == "auto" else backend]
    dtype = torch.float64 if maps.dtype == np.float64 else torch.float32
    tensors = make_tensors(plan, dtype, device, product, robust)
    exact = tensors if dtype == torch.float64 else make_tensors(plan, torch.float64, device, product, robust)
    layout = tile_layout(kind, chunk_voxels, n_threads)
    floor = None
    if spm_resms:
        floor = np.zeros(1 + len(plan.members))
        maxima = stream([maps], layout, lambda y, at: _largest_variances(y[0][:, at], tensors))
        for _, largest in maxima:
            np.maximum(floor, SPM_RESMS_FLOOR * largest, out=floor)
    fit = empty_fit(maps.mask, plan, [len(contrast.repetitions) for contrast in plan.contrasts])
    tiles = stream([maps], layout, lambda y, at: _fit_tile(y[0], at, plan, tensors, exact, floor))
    for start, tile in tiles:
        store_tile(fit, start, tile)
        if progress:
            progress("fitting voxels", start + tile.width, maps.n_voxels)
    return fit


@dataclass(frozen=True)
class Layout:
    """How voxels are dealt out: voxels read at a time, voxels in a tile, tiles worked on at a time."""

    chunk: int
    tile: int
    workers: int


def tile_layout(kind: str, chunk_voxels: int | None, n_threads: int | None) -> Layout:
    """The layout for a kind of device.

    Whole tiles only: a voxel's neighbours in a product, and with them its last bit, never depend on the chunk.
    """
    wanted = chunk_voxels or _TILE_VOXELS.get(kind, CHUNK_VOXELS)
    chunk = -(-wanted // CHUNK_VOXELS) * CHUNK_VOXELS
    if kind == "cpu":
        return Layout(chunk, CHUNK_VOXELS, n_threads or available_cpus())
    return Layout(chunk, chunk, _CUDA_WORKERS)


def stream(
    sources: Sequence[Maps],
    layout: Layout,
    work: Callable[[list[torch.Tensor], torch.Tensor], Result],
    mask: np.ndarray | None = None,
) -> Iterator[tuple[int, Result]]:
    """Read chunks of aligned maps and work on their tiles, several at a time, leaving out tiles without mask."""
    inside = sources[0].mask if mask is None else mask
    n_voxels = len(inside)

    def run(start: int) -> list[tuple[int, Result]]:
        stop = min(start + layout.chunk, n_voxels)
        if not inside[start:stop].any():
            return []
        chunks = [_owned(source.read(start, stop)) for source in sources]
        results = []
        for at in range(start, stop, layout.tile):
            end = min(at + layout.tile, stop)
            if inside[at:end].any():
                tiles = [torch.from_numpy(values[:, at - start : end - start]) for values in chunks]
                results.append((at, work(tiles, torch.from_numpy(inside[at:end]))))
        return results

    with single_threaded(), ThreadPoolExecutor(layout.workers) as pool:
        for results in pool.map(run, range(0, n_voxels, layout.chunk)):
            yield from results


def _owned(values: np.ndarray) -> np.ndarray:
    """An array that torch may call its own."""
    return values if values.flags.writeable else values.copy()


def _fit_tile(
    values: torch.Tensor, inside: torch.Tensor, plan: Plan, tensors: Tensors, exact: Tensors, floor: np.ndarray | None
) -> Tile:
    """All statistics of one tile (n, v); columns of the mask without digits left are done again in float64."""
    tile, cancelled = _solve(pad_tile(values), plan, tensors, floor)
    columns = np.flatnonzero(cancelled[: values.shape[1]] & inside.numpy())
    if tensors is not exact and columns.size:
        again, _ = _solve(pad_tile(values[:, columns]), plan, exact, floor)
        tile.replace(columns, again)
    return tile.crop(values.shape[1])


def pad_tile(values: torch.Tensor) -> torch.Tensor:
    """Columns up to a whole tile: one shape of product, whatever is left over at the end."""
    return torch.nn.functional.pad(values, (0, -values.shape[1] % CHUNK_VOXELS))


def _solve(
    values: torch.Tensor, plan: Plan, tensors: Tensors, floor: np.ndarray | None
) -> tuple[Tile, np.ndarray]:
    full = fit_full_sample(values, tensors)
    tile = _full_statistics(plan, tensors, full, 0.0 if floor is None else floor[0])
    if not len(plan.members):
        return tile, full.doubtful.cpu().numpy()
    per_sigma = reciprocal(full.sigma)
    z, rss, present = _subset_residuals(full, per_sigma, tensors)
    cancelled = (rss < _CANCELLED[tensors.dtype] * present).any(dim=0) & (full.sigma > 0) | full.doubtful  # (v,)
    variance = rss / tensors.subset_df  # (B, v), in units of sigma²
    if floor is not None:
        variance = variance + (torch.as_tensor(floor[1:, None]).to(per_sigma) * per_sigma**2).to(variance)
    degenerate = rss <= _CANCELLED[torch.float64] * present if tensors.dtype == torch.float64 else rss <= 0
    precision = torch.where(degenerate, 0.0, variance.clamp(min=1e-30).rsqrt())  # (B, v)
    for index, contrast in enumerate(plan.contrasts):
        estimate = _subset_estimate(index, full.coefficients * per_sigma, z, tensors)  # (b, m, v)
        if tensors.subset_leverage:
            statistic = estimate[:, 0] * _subset_hc3(index, full, per_sigma, z, tensors)
        elif contrast.kind == "t":
            statistic = estimate[:, 0] * precision[tensors.repetitions[index]]
        else:
            statistic = (estimate**2).mean(dim=1) * precision[tensors.repetitions[index]] ** 2
        for name, row in quantiles_of(statistic).items():
            tile.quantiles[name][index] = row
    return tile, cancelled.cpu().numpy()


@dataclass
class FullFit:
    """The whole sample's fit of one tile.

    Attributes
    ----------
    coefficients : Tensor, (r, v), float64
        Coordinates of the fit in the basis.
    rest, squares : Tensor, (n, v)
        Residuals, and their squares.
    sigma : Tensor, (v,), float64
        Residual standard deviation; 0 where the fit is exact.
    doubtful : Tensor, (v,), bool
        Where float32 has too few digits for the residual.
    """

    coefficients: torch.Tensor
    rest: torch.Tensor
    squares: torch.Tensor
    sigma: torch.Tensor
    doubtful: torch.Tensor


def fit_full_sample(values: torch.Tensor, tensors: Tensors) -> FullFit:
    """Fit the whole sample, once more on the residual to be rid of rounding; one (n, v) buffer does for it all."""
    basis = tensors.basis
    rest = values.to(device=basis.device, dtype=basis.dtype)  # (n, v)
    if tensors.scan_scale is not None:
        rest = rest * tensors.scan_scale
    centre = rest.mean(dim=0) if tensors.is_centred else rest.new_zeros(rest.shape[1])
    rest = rest - centre  # any constant will do: it lies in the column space and is added back to the coordinates
    if tensors.scan_weights is not None:
        rest *= tensors.scan_weights
    first = basis.T @ rest
    rest.addmm_(basis, first, alpha=-1)
    second = basis.T @ rest
    rest.addmm_(basis, second, alpha=-1)
    squares = rest * rest
    rss = squares.sum(dim=0).double()
    fitted = first.double() + second.double()  # (r, v)
    explained = (fitted**2).sum(dim=0)
    doubtful = torch.zeros_like(rss, dtype=torch.bool)
    if basis.dtype == torch.float32:
        doubtful = (rss < _DOUBTFUL_FIT * explained) | ((rss > 0) & (rss < _UNDERFLOW))
    sigma = torch.where(rss <= _EXACT_FIT * explained, 0.0, (rss / tensors.df_resid).sqrt())
    coefficients = fitted + tensors.ones * centre.double()
    return FullFit(coefficients, rest.to(tensors.dtype), squares.to(tensors.dtype), sigma, doubtful)


def reciprocal(values: torch.Tensor) -> torch.Tensor:
    """1 / x, and 0 for 0."""
    return torch.where(values > 0, 1 / values, 0.0)


def _subset_residuals(
    full: FullFit, per_sigma: torch.Tensor, tensors: Tensors
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Subset coordinates z (B, r, v), RSS (B, v) and |E_S|² (B, v), in units of sigma²: the two big products."""
    n_subsets = len(tensors.members)
    z = tensors.product(tensors.subset_basis, full.rest).view(n_subsets, -1, len(per_sigma))
    present = tensors.product(tensors.members, full.squares)
    z *= per_sigma.to(z.dtype)
    present *= (per_sigma**2).to(z.dtype)
    rss = present.clone()
    for direction in z.unbind(dim=1):
        rss.addcmul_(direction, direction, value=-1)
    return z, rss, present


def _subset_estimate(index: int, scaled: torch.Tensor, z: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """Whitened estimates of one contrast in the subsets that can estimate it, (b, m, v), in units of sigma."""
    on_rest = tensors.on_rest[index]  # (b, m, r)
    estimate = (tensors.on_fit[index] @ scaled).to(z.dtype).view(*on_rest.shape[:2], -1)  # (b, m, v)
    z = z[tensors.repetitions[index]]
    for direction in range(z.shape[1]):
        estimate.addcmul_(on_rest[:, :, direction, None], z[:, direction, None, :])
    return estimate


def _subset_hc3(
    index: int, full: FullFit, per_sigma: torch.Tensor, z: torch.Tensor, tensors: Tensors
) -> torch.Tensor:
    """One over HC3's standard error of a whitened estimate in its subsets, (b, v)."""
    weights, on_basis, gram = tensors.subset_leverage[index]
    z = z[tensors.repetitions[index]]  # (b, r, v)
    scale = per_sigma.to(z.dtype)
    variance = tensors.product(weights, full.squares) * scale**2  # (b, v)
    crossed = tensors.product(on_basis, full.rest).view(z.shape) * scale
    variance += (z * (gram @ z - 2 * crossed)).sum(dim=1)
    return torch.where(variance > 0, variance.clamp(min=1e-30).rsqrt(), 0.0)


def quantiles_of(statistic: torch.Tensor) -> dict[str, np.ndarray]:
    """Median and quartiles over repetitions of (b, v), interpolated linearly (two middle values averaged)."""
    columns = statistic.T.contiguous()  # (v, b)
    if columns.device.type == "cpu":  # numpy sorts short contiguous rows 25 times faster than torch
        ordered = np.sort(columns.numpy(), axis=1)
    else:
        ordered = columns.sort(dim=1).values.cpu().numpy()
    out = {}
    for name, quantile in QUANTILES.items():
        position = quantile * (ordered.shape[1] - 1)
        below = int(position)
        low, high = (ordered[:, min(below + i, ordered.shape[1] - 1)].astype(np.float64) for i in (0, 1))
        out[name] = low + (position - below) * (high - low)
    return out


def _full_statistics(
    plan: Plan, tensors: Tensors, full: FullFit, floor: float
) -> Tile:
    """Effect, variance and t or F of every contrast in the whole sample, float64."""
    residual_variance = (full.sigma**2 + floor * (full.sigma > 0)).cpu().numpy()
    robust = None
    if tensors.leverage_weights is not None:
        robust = (tensors.leverage_weights @ full.squares).double().cpu().numpy()
    n_contrasts, n_voxels = len(plan.contrasts), len(residual_variance)
    effect, variance = np.zeros((2, n_contrasts, n_voxels))
    statistic = np.zeros_like(effect)
    found = full.coefficients.cpu().numpy()
    for k, contrast in enumerate(plan.contrasts):
        estimate = contrast.rows @ found  # (m, v)
        if contrast.kind == "t":
            effect[k] = estimate[0]
            variance[k] = residual_variance * contrast.norm**2 if robust is None else robust[k]
            scale = np.sqrt(variance[k])
        else:
            effect[k] = (estimate**2).mean(axis=0)
            variance[k] = scale = residual_variance
        np.divide(effect[k], scale, out=statistic[k], where=scale > 0)
    quantiles = {name: np.zeros_like(effect) for name in QUANTILES} if len(plan.members) else {}
    return Tile(residual_variance, effect, variance, statistic, quantiles)


def _largest_variances(values: torch.Tensor, tensors: Tensors) -> np.ndarray:
    """Largest σ² over some voxels (n, v) in the whole sample and in every subset, (1 + B,)."""
    full = fit_full_sample(pad_tile(values), tensors)
    largest = [(full.sigma**2).max().reshape(1)]
    if len(tensors.members):
        _, rss, _ = _subset_residuals(full, reciprocal(full.sigma), tensors)
        largest.append((rss.double() / tensors.subset_df.double() * full.sigma**2).amax(dim=1))
    return torch.cat(largest).cpu().numpy()


def empty_fit(mask: np.ndarray, plan: Plan, repetitions: Sequence[int], df_used: float = 0.0) -> Fit:
    """A fit full of zeros, for tiles to be stored in."""
    shape = (len(repetitions), len(mask))
    names = QUANTILES if len(plan.members) else ()
    return Fit(
        mask=mask,
        residual_variance=np.zeros(len(mask)),
        effect=np.zeros(shape),
        variance=np.zeros(shape),
        statistic=np.zeros(shape),
        quantiles={name: np.zeros(shape) for name in names},
        df_resid=plan.df_resid - df_used,
        repetitions=tuple(repetitions),
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
