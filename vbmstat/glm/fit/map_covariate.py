"""A linear model with one covariate that is itself a map: gm ~ age + map(wm).

The model is y_v = X β_v + w_v γ_v + ε_v with n scans, v voxels and B subsets. By the theorem of Frisch, Waugh and
Lovell (doi:10.2307/1907330), with e and f the residuals of y and w on X: γ = f'e / f'f, RSS = e'e - γ f'e, and for a
contrast (c, g): c'β + gγ = c'β_y + γ (g - c'β_w), with variance σ² (c'(X'X)⁻c + (g - c'β_w)² / f'f). In a subset S
the sums are those of the full-sample residuals less those of their coordinates, as in the engine.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from vbmstat.glm.fit.plan import CovariatePlan
from vbmstat.glm.fit.stacked import CANCELLED, SUMMARIES, FullFit, Tensors, fit_full_sample, quantiles_of, reciprocal
from vbmstat.glm.fit.stream import fit_tiles, solve_tile, tile_layout
from vbmstat.glm.fit.tile import Fit, Tile
from vbmstat.glm.spec import Compute
from vbmstat.lazy import torch
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
    base, device = plan.base, compute.device
    exact = None if maps.dtype == np.float64 else Tensors(base, torch.float64, device)
    tensors = Tensors(base, torch.float64 if exact is None else torch.float32, device)
    repetitions, df_resid = [len(kept) for kept in plan.repetitions], base.df_resid - 1
    summaries = SUMMARIES if len(base.members) else ()
    fit = Fit.empty(maps.mask & covariate.mask, repetitions, [df_resid] * len(repetitions), df_resid, summaries)
    work = partial(_fit_tile, plan=plan, tensors=tensors, exact=exact)
    return fit_tiles(fit, [maps, covariate], tile_layout(compute, len(base.basis)), work, compute)


def _fit_tile(
    tiles: list[np.ndarray], inside: np.ndarray, plan: CovariatePlan, tensors: Tensors, exact: Tensors | None
) -> Tile:
    again = None if exact is None else partial(_solve, plan=plan, tensors=exact)
    return solve_tile(tiles, inside, partial(_solve, plan=plan, tensors=tensors), again)


def _solve(y: np.ndarray, w: np.ndarray, plan: CovariatePlan, tensors: Tensors) -> tuple[Tile, np.ndarray]:
    of_y, of_w = (_over_sigma(fit_full_sample(one, tensors)) for one in (y, w))
    crossed = of_y.residuals * of_w.residuals  # (n, v)
    sums = [x.sum(dim=0).double()[None] for x in (of_y.squares, of_w.squares, crossed)]  # (1, v) each
    gamma, rss, cancelled = _regress(sums, tensors)
    sigma2 = rss / (plan.base.df_resid - 1)
    y_scale, w_scale = of_y.sigma, of_w.sigma  # (v,)
    rows = torch.as_tensor(plan.rows).to(y_scale)  # (K, r)
    fit_y = rows @ (of_y.coefficients * reciprocal(y_scale))  # (K, v)
    fit_w = rows @ (of_w.coefficients * reciprocal(w_scale))
    on_map = torch.as_tensor(plan.on_map).to(y_scale)[:, None] * reciprocal(w_scale)  # (K, v)
    lever = on_map - fit_w
    effect = fit_y + gamma * lever
    variance = sigma2 * ((rows**2).sum(dim=1, keepdim=True) + lever**2 * reciprocal(sums[1]))
    statistic = effect * reciprocal(variance.sqrt())
    quantiles = {}
    if len(plan.base.members):
        subsets = _regress_subsets(of_y, of_w, crossed, tensors)
        cancelled = cancelled | subsets.cancelled
        values = [_subset_t(k, plan, subsets, (fit_y[k], fit_w[k], on_map[k])) for k in range(len(rows))]
        of_each = [quantiles_of(value, critical) for value, critical in zip(values, plan.critical, strict=True)]
        quantiles = {name: np.stack([one[name] for one in of_each]) for name in SUMMARIES}
    tile = Tile(
        residual_variance=(sigma2[0] * y_scale**2).cpu().numpy(), effect=(effect * y_scale).cpu().numpy(),
        variance=(variance * y_scale**2).cpu().numpy(), statistic=statistic.cpu().numpy(), quantiles=quantiles,
    )  # fmt: skip
    return tile, (cancelled | of_y.doubtful | of_w.doubtful).cpu().numpy()


def _over_sigma(full: FullFit) -> FullFit:
    """Residuals in units of their standard deviation."""
    per_sigma = reciprocal(full.sigma).to(full.residuals.dtype)
    full.residuals *= per_sigma
    full.squares *= per_sigma**2
    return full


def _regress(sums: list[torch.Tensor], tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Slope γ and RSS (b, v) from e'e, f'f and f'e (b, v), and where digits are lost (v,)."""
    ee, ff, fe = sums
    gamma = fe * reciprocal(ff)
    rss = ee - gamma * fe
    cancelled = ((rss < CANCELLED[tensors.dtype.itemsize] * ee) & (ee > 0)).any(dim=0)
    return gamma, rss.clamp(min=0), cancelled


class _Subsets(NamedTuple):
    """Coordinates of e and f (B, r, v), γ, σ² and f'f (B, v) in all subsets, and where digits are lost (v,)."""

    z_y: torch.Tensor
    z_w: torch.Tensor
    gamma: torch.Tensor
    sigma2: torch.Tensor
    ff: torch.Tensor
    cancelled: torch.Tensor


def _regress_subsets(of_y: FullFit, of_w: FullFit, crossed: torch.Tensor, tensors: Tensors) -> _Subsets:
    n_subsets, n_voxels = len(tensors.members), crossed.shape[1]
    z_y, z_w = (tensors.product(tensors.subset_basis, x.residuals).view(n_subsets, -1, n_voxels) for x in (of_y, of_w))
    present = [tensors.product(tensors.members, x) for x in (of_y.squares, of_w.squares, crossed)]  # (B, v) each
    sums = [p - (a * b).sum(dim=1) for p, (a, b) in zip(present, ((z_y, z_y), (z_w, z_w), (z_y, z_w)), strict=True)]
    gamma, rss, cancelled = _regress(sums, tensors)
    for total, left in zip(present[:2], sums[:2], strict=True):
        cancelled = cancelled | ((left < CANCELLED[tensors.dtype.itemsize] * total) & (total > 0)).any(dim=0)
    return _Subsets(z_y, z_w, gamma, rss / (tensors.subset_df - 1), sums[1], cancelled)


def _subset_t(k: int, plan: CovariatePlan, subsets: _Subsets, full: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """T of one contrast in its subsets, (b, v); `full` are its c'β_y, c'β_w and weight on the map, (v,) each."""
    at = torch.as_tensor(plan.repetitions[k], device=subsets.gamma.device)
    weights = torch.as_tensor(plan.on_residual[k]).to(subsets.z_y)  # (b, r)
    fit_y, fit_w, on_map = (one.to(subsets.z_y) for one in full)
    own = fit_y + (weights[:, :, None] * subsets.z_y[at]).sum(dim=1)  # (b, v)
    lever = on_map - fit_w - (weights[:, :, None] * subsets.z_w[at]).sum(dim=1)
    spread = (weights**2).sum(dim=1, keepdim=True) + lever**2 * reciprocal(subsets.ff[at])
    return (own + subsets.gamma[at] * lever) * reciprocal((subsets.sigma2[at] * spread).sqrt())
