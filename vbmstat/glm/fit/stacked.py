"""All subsets of a tile as stacked matrix products in torch: any device, any precision, HC3.

A voxel's statistics in a subset S follow from the full-sample residual E = Y - X B alone: z = Q_S'E_S for all subsets
is one product of stacked bases with E, |E_S|² one of memberships with E². Products run in the maps' precision
(float32 for images), everything small is float64, and a voxel whose residual cancels is reported, to be fitted again
in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vbmstat.glm.fit.leverage import hc3_weights
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.product import choose_product
from vbmstat.glm.fit.tile import Tile
from vbmstat.lazy import torch

Values = TypeVar("Values", "torch.Tensor", np.ndarray)
QUANTILES = {"median": 0.5, "q25": 0.25, "q75": 0.75}
SUMMARIES = (*QUANTILES, "replication")  # what is kept of a statistic over the repetitions
# RSS over the sum it is taken from, by bytes of a number; below, too few digits are left
CANCELLED = {4: 0.02, 8: 1e-10}
_DOUBTFUL_FIT = 1e-5  # RSS / |X B|² below: float32 rounding of the fitted part shows in the residual
_UNDERFLOW = 1e-25  # RSS below: single squares may vanish in float32
_EXACT_FIT = 1e-26  # RSS / |X B|² below: nothing but float64 rounding is left


class Tensors:
    """A plan in one precision on one device; rows of stacked products are (repetition, direction)."""

    def __init__(self, plan: Plan, dtype: torch.dtype, device: str) -> None:
        def tensor(values: np.ndarray, to: torch.dtype = dtype) -> torch.Tensor:
            return torch.as_tensor(np.ascontiguousarray(values)).to(device=device, dtype=to)

        full = dtype if plan.is_plain else torch.float64  # else nothing keeps the numbers small
        has_factors = bool((plan.scan_weights != 1).any() or (plan.scan_scale != 1).any())
        n_scans, rank = plan.basis.shape
        n_subsets, contrasts = len(plan.members), plan.contrasts
        self.dtype = dtype  # of the subset products
        self.product = choose_product(device)  # (m, n) @ (n, v)
        self.df_resid = plan.df_resid
        self.is_centred = plan.is_centred
        self.scan_scale = tensor(plan.scan_scale[:, None], full) if has_factors else None  # (n, 1)
        self.scan_weights = tensor(plan.scan_weights[:, None], full) if has_factors else None  # (n, 1)
        self.basis = tensor(plan.basis, full)  # Q, (n, r)
        self.ones = tensor(plan.ones[:, None], torch.float64)  # (r, 1)
        self.members = tensor(plan.members.astype(np.float64))  # (B, n), 0 or 1
        self.subset_basis = tensor(plan.subset_basis.reshape(-1, n_scans))  # (B·r, n)
        self.subset_df = tensor(plan.subset_df[:, None])  # (B, 1)
        self.on_fit = [tensor((c.whiten @ c.rows).reshape(-1, rank), torch.float64) for c in contrasts]  # (b·m, r)
        self.on_residual = [tensor(c.on_residual) for c in contrasts]  # (b, m, r)
        self.repetitions = [
            slice(None) if len(c.repetitions) == n_subsets else torch.as_tensor(c.repetitions, device=device)
            for c in contrasts
        ]
        self.leverage_weights: torch.Tensor | None = None  # HC3's weights on squared residuals, (K, n)
        self.subset_leverage: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        if plan.is_hc3:
            self.leverage_weights = tensor(np.stack([hc3_weights(c.rows[0], plan.basis) for c in contrasts]) ** 2)
        if plan.is_hc3 and n_subsets:
            for c in contrasts:  # Σ W (E - q'z)² of a subset, expanded in z: W (b, n), W q (b·r, n), q'W q (b, r, r)
                basis = plan.subset_basis[c.repetitions]  # (b, r, n)
                w = hc3_weights(c.on_residual[:, 0], basis.transpose(0, 2, 1)) ** 2
                wq = basis * w[:, None]
                expanded = w, wq.reshape(-1, n_scans), wq @ basis.transpose(0, 2, 1)
                self.subset_leverage.append((tensor(expanded[0]), tensor(expanded[1]), tensor(expanded[2])))


@dataclass(frozen=True)
class Stacked:
    """A plan and its tensors, in the precision and on the device of the products."""

    plan: Plan
    tensors: Tensors

    def solve(self, values: np.ndarray, floor: np.ndarray | None) -> tuple[Tile, np.ndarray]:
        """All statistics of a tile (n, v), and which columns are numerically unstable, (v,), bool.

        `floor` is SPM's addend to σ² in the whole sample and in every subset, (1 + B,).
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
        degenerate = rss <= CANCELLED[8] * present if self.tensors.dtype == torch.float64 else rss <= 0
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

    def largest_variances(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Largest σ² in the whole sample and every subset, (1 + B,), but for unstable columns (v,)."""
        full = fit_full_sample(values, self.tensors)
        variances, lost = full.sigma[None] ** 2, full.doubtful
        if len(self.plan.members):
            _, rss, present = _subset_residuals(full, reciprocal(full.sigma), self.tensors)
            subsets = rss.double() / self.tensors.subset_df.double() * full.sigma**2
            variances, lost = torch.cat([variances, subsets]), _is_cancelled(full, rss, present)
        return torch.where(lost, 0.0, variances).amax(dim=1).cpu().numpy(), lost.cpu().numpy()


@dataclass
class FullFit:
    """The whole sample's fit of one tile."""

    coefficients: torch.Tensor  # (r, v): coordinates of the fit in the basis
    # (n, v): residuals, and their squares
    residuals: torch.Tensor
    squares: torch.Tensor
    sigma: torch.Tensor  # (v,): residual standard deviation; 0 where the fit is exact
    doubtful: torch.Tensor  # (v,): where float32 has too few digits for the residual


def fit_full_sample(values: np.ndarray, tensors: Tensors) -> FullFit:
    """Fit the whole sample, then the residuals again to remove rounding; works in one (n, v) buffer."""
    basis = tensors.basis
    residuals = torch.from_numpy(values).to(device=basis.device, dtype=basis.dtype)  # (n, v)
    if tensors.scan_scale is not None:
        residuals = residuals * tensors.scan_scale
    centre = residuals.mean(dim=0) if tensors.is_centred else residuals.new_zeros(residuals.shape[1])
    residuals = residuals - centre  # any constant in the column space will do; it is added back to the coordinates
    if tensors.scan_weights is not None:
        residuals *= tensors.scan_weights
    first = basis.T @ residuals
    residuals.addmm_(basis, first, alpha=-1)
    second = basis.T @ residuals
    residuals.addmm_(basis, second, alpha=-1)
    squares = residuals * residuals
    rss = squares.sum(dim=0).double()
    fitted = first.double() + second.double()  # (r, v)
    sigma, doubtful = residual_deviation(rss, (fitted**2).sum(dim=0), tensors.df_resid, basis.dtype == torch.float32)
    coefficients = fitted + tensors.ones * centre.double()
    return FullFit(coefficients, residuals.to(tensors.dtype), squares.to(tensors.dtype), sigma, doubtful)


def residual_deviation(rss: Values, explained: Values, df_resid: float, is_single: bool) -> tuple[Values, Values]:
    """Residual standard deviation (0 for an exact fit), and where float32 had too few digits for it, (v,) each."""
    doubtful = (rss < _DOUBTFUL_FIT * explained) | ((rss > 0) & (rss < _UNDERFLOW))
    return (rss / df_resid) ** 0.5 * (rss > _EXACT_FIT * explained), doubtful & is_single


def reciprocal(values: torch.Tensor) -> torch.Tensor:
    """1 / x, and 0 for 0."""
    return torch.where(values > 0, 1 / values, 0.0)


def _subset_residuals(
    full: FullFit, per_sigma: torch.Tensor, tensors: Tensors
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Subset coordinates z (B, r, v), RSS (B, v) and |E_S|² (B, v), in units of sigma²: the two big products."""
    n_subsets = len(tensors.members)
    z = tensors.product(tensors.subset_basis, full.residuals).view(n_subsets, -1, len(per_sigma))
    present = tensors.product(tensors.members, full.squares)
    z *= per_sigma.to(z.dtype)
    present *= (per_sigma**2).to(z.dtype)
    rss = present.clone()
    for direction in z.unbind(dim=1):
        rss.addcmul_(direction, direction, value=-1)
    return z, rss, present


def _is_cancelled(full: FullFit, rss: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Where the residuals of some subset are numerically unstable, (v,)."""
    return (rss < CANCELLED[rss.dtype.itemsize] * present).any(dim=0) & (full.sigma > 0) | full.doubtful


def _subset_estimate(index: int, scaled: torch.Tensor, z: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """Whitened estimates of one contrast in the subsets that can estimate it, (b, m, v), in units of sigma."""
    on_residual = tensors.on_residual[index]  # (b, m, r)
    estimate = (tensors.on_fit[index] @ scaled).to(z.dtype).view(*on_residual.shape[:2], -1)  # (b, m, v)
    z = z[tensors.repetitions[index]]
    for direction in range(z.shape[1]):
        estimate.addcmul_(on_residual[:, :, direction, None], z[:, direction, None, :])
    return estimate


def _subset_hc3(index: int, full: FullFit, per_sigma: torch.Tensor, z: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """One over HC3's standard error of a whitened estimate in its subsets, (b, v)."""
    weights, on_basis, gram = tensors.subset_leverage[index]
    z = z[tensors.repetitions[index]]  # (b, r, v)
    scale = per_sigma.to(z.dtype)
    variance = tensors.product(weights, full.squares) * scale**2  # (b, v)
    crossed = tensors.product(on_basis, full.residuals).view(z.shape) * scale
    variance += (z * (gram @ z - 2 * crossed)).sum(dim=1)
    return torch.where(variance > 0, variance.clamp(min=1e-30).rsqrt(), 0.0)


def quantiles_of(statistic: torch.Tensor, critical: np.ndarray) -> dict[str, np.ndarray]:
    """Median and quartiles over repetitions of (b, v), interpolated linearly; share beyond a critical value (b,)."""
    columns = statistic.T.contiguous()  # (v, b)
    ranks, shares = quantile_ranks(len(statistic))
    if columns.device.type == "cpu":  # numpy sorts short contiguous rows 25 times faster than torch
        ordered = np.sort(columns.numpy(), axis=1)[:, ranks].T
    else:
        ordered = columns.sort(dim=1).values.cpu().numpy()[:, ranks].T
    beyond = statistic.abs() > torch.as_tensor(critical).to(statistic)[:, None]
    return summaries(ordered, shares, beyond.sum(dim=0).cpu().numpy() / max(len(critical), 1))


def quantile_ranks(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of n sorted values around each of `QUANTILES`, (2 each,), and how far from the first to the second."""
    positions = np.array(list(QUANTILES.values())) * (n - 1)
    below = positions.astype(int)
    return np.stack([below, np.minimum(below + 1, n - 1)], axis=1).ravel(), positions - below


def summaries(ordered: np.ndarray, shares: np.ndarray, replication: np.ndarray) -> dict[str, np.ndarray]:
    """`SUMMARIES` from the values at :func:`quantile_ranks`, (2 each, v), and the share beyond a critical value."""
    low, high = ordered[0::2].astype(np.float64), ordered[1::2].astype(np.float64)
    return dict(zip(SUMMARIES, [*(low + shares[:, None] * (high - low)), replication], strict=True))


def full_statistics(
    plan: Plan, coefficients: np.ndarray, sigma: np.ndarray, floor: float, robust: np.ndarray | None = None
) -> Tile:
    """Effect, variance and t or F of every contrast in the whole sample, float64.

    From the coordinates of the fit in the basis (r, v), the residual standard deviation (v,), SPM's addend to σ² and,
    if given, HC3 variances of the effects (K, v).
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
    return Tile(
        effect=effect, variance=variance, statistic=statistic, residual_variance=residual_variance, quantiles=quantiles
    )
