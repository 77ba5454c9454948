"""All subsets of a tile as stacked matrix products in torch: any device, any precision, HC3.

A voxel's statistics in a subset S follow from the full-sample residual E = Y - X B alone: z = Q_S'E_S for all subsets
is one product of stacked bases with E, |E_S|² one of memberships with E². Products run in the maps' precision
(float32 for images), everything small is float64, and a voxel whose residual cancels is reported, to be fitted again
in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.tensors import Tensors, Tile, make_tensors

QUANTILES = {"median": 0.5, "q25": 0.25, "q75": 0.75}
SUMMARIES = (*QUANTILES, "replication")  # what is kept of a statistic over the repetitions
# RSS over the sum it is taken from; below, too few digits are left
CANCELLED = {torch.float32: 0.02, torch.float64: 1e-10}
_DOUBTFUL_FIT = 1e-5  # RSS / |X B|² below: float32 rounding of the fitted part shows in the residual
_UNDERFLOW = 1e-25  # RSS below: single squares may vanish in float32
_EXACT_FIT = 1e-26  # RSS / |X B|² below: nothing but float64 rounding is left


@dataclass(frozen=True)
class Stacked:
    """A plan and its tensors, in the precision and on the device of the products."""

    plan: Plan
    tensors: Tensors

    @classmethod
    def make(cls, plan: Plan, dtype: torch.dtype, device: str) -> Stacked:
        """Tensors for a plan; see :func:`vbmstat.glm.fit.tensors.make_tensors`."""
        return cls(plan, make_tensors(plan, dtype, device))

    def solve(self, values: torch.Tensor, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        """All statistics of a tile.

        Parameters
        ----------
        values : Tensor, (n, v)
            Maps.
        floor : ndarray, (1 + B,), or None
            SPM's addend to σ² in the whole sample and in every subset.

        Returns
        -------
        Tile
            (n_contrasts, v) each.
        ndarray, (v,), bool
            Columns with too few digits left.
        """
        full = fit_full_sample(values, self.tensors)
        robust = None
        if self.tensors.leverage_weights is not None:
            robust = (self.tensors.leverage_weights @ full.squares).double().cpu().numpy()
        coefficients, sigma = full.coefficients.cpu().numpy(), full.sigma.cpu().numpy()
        tile = full_statistics(self.plan, coefficients, sigma, 0.0 if floor is None else floor[0], robust)
        if not len(self.plan.members):
            return tile, full.doubtful.cpu().numpy()
        per_sigma = reciprocal(full.sigma)
        z, rss, present = _subset_residuals(full, per_sigma, self.tensors)
        cancelled = _is_cancelled(full, rss, present)
        variance = rss / self.tensors.subset_df  # (B, v), in units of sigma²
        if floor is not None:
            variance = variance + (torch.as_tensor(floor[1:, None]).to(per_sigma) * per_sigma**2).to(variance)
        degenerate = rss <= CANCELLED[torch.float64] * present if self.tensors.dtype == torch.float64 else rss <= 0
        precision = torch.where(degenerate, 0.0, variance.clamp(min=1e-30).rsqrt())  # (B, v)
        for index, contrast in enumerate(self.plan.contrasts):
            estimate = _subset_estimate(index, full.coefficients * per_sigma, z, self.tensors)  # (b, m, v)
            if self.tensors.subset_leverage:
                statistic = estimate[:, 0] * _subset_hc3(index, full, per_sigma, z, self.tensors)
            elif contrast.kind == "t":
                statistic = estimate[:, 0] * precision[self.tensors.repetitions[index]]
            else:
                statistic = (estimate**2).mean(dim=1) * precision[self.tensors.repetitions[index]] ** 2
            for name, row in quantiles_of(statistic, contrast.critical).items():
                tile.quantiles[name][index] = row
        return tile, cancelled.cpu().numpy()

    def largest_variances(self, values: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Largest σ² in the whole sample and every subset, (1 + B,), but for columns with too few digits (v,)."""
        full = fit_full_sample(values, self.tensors)
        variances, lost = full.sigma[None] ** 2, full.doubtful
        if len(self.plan.members):
            _, rss, present = _subset_residuals(full, reciprocal(full.sigma), self.tensors)
            subsets = rss.double() / self.tensors.subset_df.double() * full.sigma**2
            variances, lost = torch.cat([variances, subsets]), _is_cancelled(full, rss, present)
        return torch.where(lost, 0.0, variances).amax(dim=1).cpu().numpy(), lost.cpu().numpy()


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
    sigma, doubtful = residual_deviation(rss, (fitted**2).sum(dim=0), tensors.df_resid, basis.dtype == torch.float32)
    coefficients = fitted + tensors.ones * centre.double()
    return FullFit(coefficients, rest.to(tensors.dtype), squares.to(tensors.dtype), sigma, doubtful)


def residual_deviation(
    rss: torch.Tensor, explained: torch.Tensor, df_resid: float, is_single: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Residual standard deviation (0 for an exact fit), and where float32 had too few digits for it, (v,) each."""
    doubtful = (rss < _DOUBTFUL_FIT * explained) | ((rss > 0) & (rss < _UNDERFLOW))
    sigma = torch.where(rss <= _EXACT_FIT * explained, 0.0, (rss / df_resid).sqrt())
    return sigma, doubtful & is_single


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


def _is_cancelled(full: FullFit, rss: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Where too few digits of a residual are left in some subset, (v,)."""
    return (rss < CANCELLED[rss.dtype] * present).any(dim=0) & (full.sigma > 0) | full.doubtful


def _subset_estimate(index: int, scaled: torch.Tensor, z: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """Whitened estimates of one contrast in the subsets that can estimate it, (b, m, v), in units of sigma."""
    on_rest = tensors.on_rest[index]  # (b, m, r)
    estimate = (tensors.on_fit[index] @ scaled).to(z.dtype).view(*on_rest.shape[:2], -1)  # (b, m, v)
    z = z[tensors.repetitions[index]]
    for direction in range(z.shape[1]):
        estimate.addcmul_(on_rest[:, :, direction, None], z[:, direction, None, :])
    return estimate


def _subset_hc3(index: int, full: FullFit, per_sigma: torch.Tensor, z: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """One over HC3's standard error of a whitened estimate in its subsets, (b, v)."""
    weights, on_basis, gram = tensors.subset_leverage[index]
    z = z[tensors.repetitions[index]]  # (b, r, v)
    scale = per_sigma.to(z.dtype)
    variance = tensors.product(weights, full.squares) * scale**2  # (b, v)
    crossed = tensors.product(on_basis, full.rest).view(z.shape) * scale
    variance += (z * (gram @ z - 2 * crossed)).sum(dim=1)
    return torch.where(variance > 0, variance.clamp(min=1e-30).rsqrt(), 0.0)


def quantiles_of(statistic: torch.Tensor, critical: np.ndarray) -> dict[str, np.ndarray]:
    """Median and quartiles over repetitions of (b, v), interpolated linearly; share beyond a critical value (b,)."""
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
    beyond = statistic.abs() > torch.as_tensor(critical).to(statistic)[:, None]
    out["replication"] = beyond.sum(dim=0).double().cpu().numpy() / max(len(critical), 1)
    return out


def full_statistics(
    plan: Plan, coefficients: np.ndarray, sigma: np.ndarray, floor: float, robust: np.ndarray | None = None
) -> Tile:
    """Effect, variance and t or F of every contrast in the whole sample, float64.

    Parameters
    ----------
    plan : Plan
        Contrasts.
    coefficients : ndarray, (r, v)
        Coordinates of the fit in the basis.
    sigma : ndarray, (v,)
        Residual standard deviation.
    floor : float
        SPM's addend to σ².
    robust : ndarray, (K, v), optional
        HC3 variances of the effects.
    """
    residual_variance = sigma**2 + floor * (sigma > 0)
    effect, variance, statistic = np.zeros((3, len(plan.contrasts), len(sigma)))
    for k, contrast in enumerate(plan.contrasts):
        estimate = contrast.rows @ coefficients  # (m, v)
        if contrast.kind == "t":
            effect[k] = estimate[0]
            variance[k] = residual_variance * contrast.norm**2 if robust is None else robust[k]
            scale = np.sqrt(variance[k])
        else:
            effect[k] = (estimate**2).mean(axis=0)
            variance[k] = scale = residual_variance
        np.divide(effect[k], scale, out=statistic[k], where=scale > 0)
    quantiles = {name: np.zeros_like(effect) for name in SUMMARIES} if len(plan.members) else {}
    return Tile(residual_variance, effect, variance, statistic, quantiles)
