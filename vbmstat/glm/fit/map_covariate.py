"""A linear model with one covariate that is itself a map: gm ~ age + map(wm).

The model is y_v = X β_v + w_v γ_v + ε_v with n scans, v voxels and B subsets. By the theorem of Frisch, Waugh and
Lovell (doi:10.2307/1907330), with e and f the residuals of y and w on X: γ = f'e / f'f, RSS = e'e - γ f'e, and for a
contrast (c, g): c'β + gγ = c'β_y + γ (g - c'β_w), with variance σ² (c'(X'X)⁻c + (g - c'β_w)² / f'f). In a subset S
the sums are those of the full-sample residuals less those of their coordinates, as in the engine.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from vbmstat.glm.fit.engine import empty_fit, store_tile
from vbmstat.glm.fit.plan import CovariatePlan
from vbmstat.glm.fit.stacked import CANCELLED, FullFit, fit_full_sample, quantiles_of, reciprocal
from vbmstat.glm.fit.stream import solve_tile, stream, tile_layout
from vbmstat.glm.fit.tensors import Fit, Tensors, Tile, make_tensors
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import Maps


def fit_voxels_with_map(maps: Maps, covariate: Maps, plan: CovariatePlan, compute: Compute | None = None) -> Fit:
    """Fit y = X β + w γ at every voxel, in the whole sample and in all subsets.

    Parameters
    ----------
    maps, covariate : Maps
        y and w: (n_scans, n_voxels), same rows and columns.
    plan : CovariatePlan
        Factorised X, contrasts and subsets.
    compute : Compute, optional
        Where and how fast.

    Returns
    -------
    Fit
        Voxels in which either map is constant lie outside its mask.
    """
    compute = compute or Compute()
    exact = make_tensors(plan.base, torch.float64, compute.device)
    tensors = exact if maps.dtype == np.float64 else make_tensors(plan.base, torch.float32, compute.device)
    mask = maps.mask & covariate.mask
    fit = empty_fit(mask, plan.base, [len(kept) for kept in plan.repetitions], df_used=1.0)
    layout = tile_layout(compute, len(plan.base.basis))
    work = partial(_fit_tile, plan=plan, tensors=tensors, exact=exact)
    for start, tile in stream([maps, covariate], layout, work, mask, compute.cluster):
        store_tile(fit, start, tile)
        if compute.progress:
            compute.progress("fitting voxels", start + tile.width, maps.n_voxels)
    return fit


def _fit_tile(
    tiles: list[torch.Tensor], inside: torch.Tensor, plan: CovariatePlan, tensors: Tensors, exact: Tensors
) -> Tile:
    first, again = (partial(_solve, plan=plan, tensors=one) for one in (tensors, exact))
    return solve_tile(tiles, inside, first, first if tensors is exact else again)


def _solve(y: torch.Tensor, w: torch.Tensor, plan: CovariatePlan, tensors: Tensors) -> tuple[Tile, np.ndarray]:
    ours, theirs = fit_full_sample(y, tensors), fit_full_sample(w, tensors)
    ours = _over_sigma(ours)
    theirs = _over_sigma(theirs)
    crossed = ours.rest * theirs.rest  # (n, v)
    sums = [x.sum(dim=0).double()[None] for x in (ours.squares, theirs.squares, crossed)]  # (1, v) each
    gamma, rss, cancelled = _partial(sums, tensors)
    sigma2 = rss / (plan.base.df_resid - 1)
    y_scale, w_scale = ours.sigma, theirs.sigma  # (v,)
    rows = torch.as_tensor(plan.rows).to(y_scale)  # (K, r)
    on_map = torch.as_tensor(plan.on_map).to(y_scale)[:, None] * reciprocal(w_scale)  # (K, v)
    fit_y = rows @ (ours.coefficients * reciprocal(y_scale))  # (K, v)
    fit_w = rows @ (theirs.coefficients * reciprocal(w_scale))
    lever = on_map - fit_w
    effect = fit_y + gamma * lever
    variance = sigma2 * ((rows**2).sum(dim=1, keepdim=True) + lever**2 * reciprocal(sums[1]))
    statistic = effect * reciprocal(variance.sqrt())
    quantiles = {}
    if len(plan.base.members):
        values, lost = _subset_statistics(plan, ours, theirs, crossed, (fit_y, fit_w, on_map), tensors)
        cancelled = cancelled | lost
        found = [quantiles_of(value, critical) for value, critical in zip(values, plan.critical, strict=True)]
        quantiles = {name: np.stack([one[name] for one in found]) for name in found[0]}
    doubtful = (cancelled | ours.doubtful | theirs.doubtful).cpu().numpy()
    tile = Tile(
        (sigma2[0] * y_scale**2).cpu().numpy(), (effect * y_scale).cpu().numpy(),
        (variance * y_scale**2).cpu().numpy(), statistic.cpu().numpy(), quantiles,
    )  # fmt: skip
    return tile, doubtful


def _over_sigma(full: FullFit) -> FullFit:
    """Residuals in units of their standard deviation."""
    per_sigma = reciprocal(full.sigma).to(full.rest.dtype)
    full.rest *= per_sigma
    full.squares *= per_sigma**2
    return full


def _partial(sums: list[torch.Tensor], tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slope γ and RSS (b, v) from e'e, f'f and f'e (b, v), and where digits are lost (v,)."""
    ee, ff, fe = sums
    gamma = fe * reciprocal(ff)
    rss = ee - gamma * fe
    cancelled = ((rss < CANCELLED[tensors.dtype] * ee) & (ee > 0)).any(dim=0)
    return gamma, rss.clamp(min=0), cancelled


def _subset_statistics(
    plan: CovariatePlan,
    ours: FullFit,
    theirs: FullFit,
    crossed: torch.Tensor,
    full: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    tensors: Tensors,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """T of each contrast in its subsets, (b, v) each, and where digits are lost (v,)."""
    n_subsets, n_voxels = len(tensors.members), crossed.shape[1]
    z_y, z_w = (tensors.product(tensors.subset_basis, one.rest).view(n_subsets, -1, n_voxels) for one in (ours, theirs))
    present = [tensors.product(tensors.members, x) for x in (ours.squares, theirs.squares, crossed)]  # (B, v) each
    sums = [p - (a * b).sum(dim=1) for p, (a, b) in zip(present, ((z_y, z_y), (z_w, z_w), (z_y, z_w)), strict=True)]
    gamma, rss, cancelled = _partial(sums, tensors)
    for total, rest in zip(present[:2], sums[:2], strict=True):
        cancelled = cancelled | ((rest < CANCELLED[tensors.dtype] * total) & (total > 0)).any(dim=0)
    sigma2 = rss / (tensors.subset_df - 1)
    values = []
    for k, (kept, weights) in enumerate(zip(plan.repetitions, plan.on_rest, strict=True)):
        at = torch.as_tensor(kept, device=crossed.device)
        on_rest = torch.as_tensor(weights).to(z_y)  # (b, r)
        own = full[0][k].to(z_y) + (on_rest[:, :, None] * z_y[at]).sum(dim=1)  # (b, v)
        lever = full[2][k].to(z_y) - full[1][k].to(z_y) - (on_rest[:, :, None] * z_w[at]).sum(dim=1)
        spread = (on_rest**2).sum(dim=1, keepdim=True) + lever**2 * reciprocal(sums[1][at])
        values.append((own + gamma[at] * lever) * reciprocal((sigma2[at] * spread).sqrt()))
    return values, cancelled
