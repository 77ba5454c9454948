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

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import numpy as np

from vbmstat.device import is_cpu, one_thread
from vbmstat.errors import DesignError
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import SUMMARIES, Stacked, Tensors
from vbmstat.glm.fit.stream import fit_tiles, pad_tile, solve_tile, stream, tile_layout
from vbmstat.glm.fit.tile import Fit, Tile
from vbmstat.glm.spec import Compute
from vbmstat.lazy import torch
from vbmstat.maps.store import Maps

_WORTH_COMPILING = 4e9  # scans × voxels × subsets: half a second of stacked products, three of the compiler (once)
_WHOLE_AS_SUBSETS = 30  # what torch takes for the whole sample
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
    repetitions, df = [len(one.repetitions) for one in plan.contrasts], [one.df for one in plan.contrasts]
    fit = Fit.empty(maps.mask, repetitions, df, plan.df_resid, SUMMARIES if len(plan.members) else ())
    return fit_tiles(fit, [maps], layout, partial(_fit_tile, solvers=solvers, floor=floor), compute)


class Solver(Protocol):
    """A way to fit tiles of whole 512 voxels: `Stacked`, or `Downdating` where it pays."""

    def solve(self, values: np.ndarray, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        """All statistics of a tile (n, v), and which columns are numerically unstable, (v,)."""
        ...

    def largest_variances(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Largest σ² in the whole sample and every subset, (1 + B,), but for unstable columns (v,)."""
        ...


def _choose_solvers(maps: Maps, plan: Plan, compute: Compute) -> tuple[Solver, Solver | None]:
    """The solver of tiles, and one in float64 for unstable columns (None if the first is)."""
    device, backend = compute.device, compute.backend
    can_compile = is_cpu(device) and maps.dtype == np.float32 and not plan.is_hc3
    if backend == "compiled" and not can_compile:
        msg = "the compiled backend fits float32 maps on the CPU without HC3; leave the backend out"
        raise DesignError(msg)
    exact = _Exact(plan, device)
    if maps.dtype == np.float64:
        return exact.stacked, None
    work = len(plan.basis) * maps.n_voxels * (_WHOLE_AS_SUBSETS + len(plan.members))
    if backend == "compiled" or (backend == "auto" and can_compile and work > _WORTH_COMPILING):
        from vbmstat.glm.fit.downdate import Downdating  # noqa: PLC0415 - half a second to import the compiler

        return Downdating(plan), exact
    return Stacked(plan, Tensors(plan, torch.float32, device)), exact


@dataclass(frozen=True)
class _Exact:
    """The solver in float64, made for the first unstable column: most images have none, and a fit needs no torch."""

    plan: Plan
    device: str

    @cached_property
    def stacked(self) -> Stacked:
        stacked = Stacked(self.plan, Tensors(self.plan, torch.float64, self.device))
        one_thread()
        return stacked

    def solve(self, values: np.ndarray, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        return self.stacked.solve(values, floor)

    def largest_variances(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.stacked.largest_variances(values)


def _fit_tile(
    tiles: list[np.ndarray], inside: np.ndarray, solvers: tuple[Solver, Solver | None], floor: np.ndarray | None
) -> Tile:
    first, exact = solvers
    return solve_tile(
        tiles, inside, partial(first.solve, floor=floor), None if exact is None else partial(exact.solve, floor=floor)
    )


def _largest_variances(
    tiles: list[np.ndarray], inside: np.ndarray, solvers: tuple[Solver, Solver | None]
) -> np.ndarray:
    """Largest σ² over the mask's voxels of a tile (n, v) in the whole sample and in every subset, (1 + B,)."""
    values, (first, exact) = tiles[0][:, inside], solvers
    largest, cancelled = first.largest_variances(pad_tile(values))
    columns = np.flatnonzero(cancelled[: values.shape[1]])
    if exact is not None and columns.size:
        largest = np.maximum(largest, exact.largest_variances(pad_tile(values[:, columns]))[0])
    return largest
