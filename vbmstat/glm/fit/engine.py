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

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch

from vbmstat.errors import DesignError
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import SUMMARIES, Stacked
from vbmstat.glm.fit.stream import pad_tile, solve_tile, stream, tile_layout
from vbmstat.glm.fit.tensors import Fit, Tile
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import Maps

_WORTH_COMPILING = 4e9  # scans × voxels × subsets: half a second of stacked products, three of the compiler (once)
SPM_RESMS_FLOOR = 1e-3  # of the largest residual mean square (spm_contrasts.m, SPM12, non-fMRI designs)


def fit_voxels(maps: Maps, plan: Plan, compute: Compute | None = None, *, spm_floor: bool = False) -> Fit:
    """Fit a linear model and all its subset repetitions at every voxel.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels), rows in the order of the plan.
    plan : Plan
        Factorised design, contrasts and subsets; one for HC3 (:func:`vbmstat.glm.variance.hc3.hc3_plan`) gives HC3
        variances in the whole sample and in the subsets.
    compute : Compute, optional
        Where and how fast.
    spm_floor : bool
        Add ``1e-3 · max(σ²)`` over the mask to every σ², as SPM does outside fMRI.

    Returns
    -------
    Fit

    Raises
    ------
    DesignError
        If the compiled backend is asked for where it cannot serve.
    """
    compute = compute or Compute()
    solvers = _choose_solvers(maps, plan, compute)
    layout = tile_layout(compute, len(plan.basis))
    floor = None
    if spm_floor:
        floor = np.zeros(1 + len(plan.members))
        maxima = stream([maps], layout, partial(_largest_variances, solvers=solvers), cluster=compute.cluster)
        for _, largest in maxima:
            np.maximum(floor, SPM_RESMS_FLOOR * largest, out=floor)
    fit = empty_fit(maps.mask, plan, [len(contrast.repetitions) for contrast in plan.contrasts])
    tiles = stream([maps], layout, partial(_fit_tile, solvers=solvers, floor=floor), cluster=compute.cluster)
    for start, tile in tiles:
        store_tile(fit, start, tile)
        if compute.progress:
            compute.progress("fitting voxels", start + tile.width, maps.n_voxels)
    return fit


class Solver(Protocol):
    """A way to fit tiles of whole 512 voxels: `Stacked`, or `Downdating` where it pays."""

    def solve(self, values: torch.Tensor, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        """All statistics of a tile (n, v), and the columns with too few digits left, (v,)."""
        ...

    def largest_variances(self, values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Largest σ² in the whole sample and every subset, (1 + B,), but for columns with too few digits (v,)."""
        ...


def _choose_solvers(maps: Maps, plan: Plan, compute: Compute) -> tuple[Solver, Solver]:
    """The way to fit tiles, and the one in float64 for what has too few digits in it."""
    device, backend = compute.device, compute.backend
    can_compile = torch.device(device).type == "cpu" and maps.dtype == np.float32 and not plan.is_hc3
    if backend == "compiled" and not can_compile:
        msg = "the compiled backend fits float32 maps on the CPU without HC3; leave the backend out"
        raise DesignError(msg)
    exact = Stacked.make(plan, torch.float64, device)
    if maps.dtype == np.float64:
        return exact, exact
    work = len(plan.basis) * maps.n_voxels * len(plan.members)
    if backend == "compiled" or (backend == "auto" and can_compile and work > _WORTH_COMPILING):
        from vbmstat.glm.fit.downdate import Downdating  # noqa: PLC0415 - half a second to import the compiler

        return Downdating.make(plan), exact
    return Stacked.make(plan, torch.float32, device), exact


def _fit_tile(
    tiles: list[torch.Tensor], inside: torch.Tensor, solvers: tuple[Solver, Solver], floor: np.ndarray | None
) -> Tile:
    first, exact = (partial(solver.solve, floor=floor) for solver in solvers)
    return solve_tile(tiles, inside, first, first if solvers[0] is solvers[1] else exact)


def _largest_variances(tiles: list[torch.Tensor], inside: torch.Tensor, solvers: tuple[Solver, Solver]) -> np.ndarray:
    """Largest σ² over the mask's voxels of a tile (n, v) in the whole sample and in every subset, (1 + B,)."""
    values, (first, exact) = tiles[0][:, inside], solvers
    largest, cancelled = first.largest_variances(pad_tile(values))
    columns = np.flatnonzero(cancelled[: values.shape[1]])
    if first is not exact and columns.size:
        largest = np.maximum(largest, exact.largest_variances(pad_tile(values[:, columns]))[0])
    return largest


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
