"""What goes into the engine and comes out of it: a plan as tensors, a tile of results, a whole fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vbmstat.glm.fit.leverage import hc3_weights
from vbmstat.glm.fit.plan import ContrastPlan, Plan
from vbmstat.glm.fit.product import Product, choose_product

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Fit:
    """What the engine returns: arrays over voxels, float64; voxels outside the mask hold zeros.

    Attributes
    ----------
    mask : ndarray, (n_voxels,), bool
        Columns that were fitted.
    residual_variance : ndarray, (n_voxels,)
        σ² = RSS / df_resid.
    effect, variance, statistic : ndarray, (n_contrasts, n_voxels)
        c'β and its variance (for F: the mean square and σ²); t or F.
    quantiles : dict of str to ndarray, (n_contrasts, n_voxels)
        ``median``, ``q25``, ``q75`` of the statistic over repetitions, and ``replication``, the share of them with an
        uncorrected p below .05; empty without repetitions.
    df_resid : float
        Of the full sample.
    repetitions : tuple of int
        How many subsets could estimate each contrast.
    df : tuple of float
        Degrees of freedom of each t, or denominator's of each F; with HC3 perhaps fewer than `df_resid`.
    """

    mask: np.ndarray
    residual_variance: np.ndarray
    effect: np.ndarray
    variance: np.ndarray
    statistic: np.ndarray
    quantiles: dict[str, np.ndarray]
    df_resid: float
    repetitions: tuple[int, ...]
    df: tuple[float, ...]

    @property
    def typical_df(self) -> tuple[float, ...]:
        """Degrees of freedom of each contrast."""
        return self.df

    def df_inside(self, index: int) -> float:
        """Degrees of freedom of a contrast at the voxels of the mask: one number."""
        return self.df[index]

    def forming_df(self, index: int) -> float:
        """Degrees of freedom that turn a cluster-forming p into a threshold of a contrast."""
        return self.df[index]


@dataclass(frozen=True)
class LocalDfFit:
    """A fit whose degrees of freedom differ between voxels: arrays over them, float64; zeros outside the mask.

    Attributes
    ----------
    mask : ndarray, (n_voxels,), bool
        Columns that were fitted.
    effect, variance, statistic : ndarray, (n_contrasts, n_voxels)
        c'β, its variance, and a statistic like t; for a contrast of several rows one like F, without the other two.
    df : ndarray, (n_contrasts, n_voxels)
        Denominator degrees of freedom; 1 outside the mask.
    """

    mask: np.ndarray
    effect: np.ndarray
    variance: np.ndarray
    statistic: np.ndarray
    df: np.ndarray

    @classmethod
    def empty(cls, mask: np.ndarray, n_contrasts: int) -> Self:
        """A fit without voxels, for :meth:`store` to fill."""
        effect, variance, statistic = np.zeros((3, n_contrasts, len(mask)))
        return cls(mask, effect, variance, statistic, np.ones_like(effect))

    def store(self, start: int, found: np.ndarray) -> int:
        """Take effect, variance, statistic and df (4, n_contrasts, v) of the columns from `start` on; their end."""
        at = slice(start, start + found.shape[2])
        targets = (self.effect, self.variance, self.statistic, self.df)
        for target, one, outside in zip(targets, found, (0.0, 0.0, 0.0, 1.0), strict=True):
            target[:, at] = np.where(self.mask[at], one, outside)
        return at.stop

    @property
    def typical_df(self) -> tuple[float, ...]:
        """Degrees of freedom of each contrast, median over voxels."""
        return tuple(np.median(self.df[:, self.mask], axis=1).tolist())

    def df_inside(self, index: int) -> np.ndarray:
        """Degrees of freedom of a contrast at the voxels of the mask, (n_inside,)."""
        return self.df[index][self.mask]

    def forming_df(self, index: int) -> float:
        """Degrees of freedom that turn a cluster-forming p into a threshold: the fewest of any contrast."""
        return self.df_resid

    @property
    def df_resid(self) -> float:
        """The fewest degrees of freedom of any contrast."""
        return min(self.typical_df)

    @property
    def repetitions(self) -> tuple[int, ...]:
        """No contrast has subset repetitions."""
        return (0,) * len(self.df)


@dataclass
class Tile:
    """Results of some voxels, (n_contrasts, v) or (v,), float64; see :class:`Fit`."""

    residual_variance: np.ndarray
    effect: np.ndarray
    variance: np.ndarray
    statistic: np.ndarray
    quantiles: dict[str, np.ndarray]

    @property
    def width(self) -> int:
        """Number of voxels."""
        return len(self.residual_variance)

    def replace(self, columns: np.ndarray, other: Tile) -> None:
        """Take the first columns of another tile in place of these."""
        n = len(columns)
        self.residual_variance[columns] = other.residual_variance[:n]
        for name in ("effect", "variance", "statistic"):
            getattr(self, name)[:, columns] = getattr(other, name)[:, :n]
        for name, values in self.quantiles.items():
            values[:, columns] = other.quantiles[name][:, :n]

    def crop(self, width: int) -> Tile:
        """The first voxels."""
        quantiles = {name: values[:, :width] for name, values in self.quantiles.items()}
        return Tile(
            self.residual_variance[:width],
            self.effect[:, :width],
            self.variance[:, :width],
            self.statistic[:, :width],
            quantiles,
        )


@dataclass(frozen=True)
class Tensors:
    """A plan as tensors of one precision on one device; rows of stacked products are (repetition, direction).

    Attributes
    ----------
    dtype : torch.dtype
        Precision of the subset products.
    product : callable
        (m, n) @ (n, v).
    scan_scale, scan_weights : Tensor, (n, 1), or None
        Factors on the rows; None in an ordinary fit.
    is_centred : bool
        Whether a voxel's mean may be taken off first.
    basis : Tensor, (n, r)
        Q, in the precision of the full-sample fit: float64 unless the fit is ordinary and centred.
    ones : Tensor, (r, 1), float64
        Coordinates of the constant.
    members : Tensor, (B, n)
        Membership, 0 or 1.
    subset_basis : Tensor, (B·r, n)
        Rows of each subset's basis.
    subset_df : Tensor, (B, 1)
        Residual degrees of freedom.
    leverage_weights : Tensor, (K, n), or None
        HC3's weights on squared residuals.
    subset_leverage : tuple of (Tensor, Tensor, Tensor)
        A contrast each, for HC3 in its subsets: weights W on squared residuals (b, n), W q (b·r, n), q'W q (b, r, r).
    on_fit : tuple of Tensor, (b·m, r), float64
        A contrast each.
    on_rest : tuple of Tensor, (b, m, r)
        A contrast each.
    repetitions : tuple
        Index of the repetitions of each contrast.
    df_resid : float
        Of the full sample.
    """

    dtype: torch.dtype
    product: Product
    scan_scale: torch.Tensor | None
    scan_weights: torch.Tensor | None
    is_centred: bool
    basis: torch.Tensor
    ones: torch.Tensor
    members: torch.Tensor
    subset_basis: torch.Tensor
    subset_df: torch.Tensor
    leverage_weights: torch.Tensor | None
    subset_leverage: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]
    on_fit: tuple[torch.Tensor, ...]
    on_rest: tuple[torch.Tensor, ...]
    repetitions: tuple[torch.Tensor | slice, ...]
    df_resid: float


def make_tensors(plan: Plan, dtype: torch.dtype, device: str) -> Tensors:
    """A plan in one precision on one device."""

    def tensor(values: np.ndarray, to: torch.dtype = dtype) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(values)).to(device=device, dtype=to)

    full = dtype if plan.is_plain else torch.float64  # else nothing keeps the numbers small
    has_factors = bool((plan.scan_weights != 1).any() or (plan.scan_scale != 1).any())
    n_scans, rank = plan.basis.shape
    n_subsets = len(plan.members)
    return Tensors(
        dtype=dtype,
        product=choose_product(device),
        scan_scale=tensor(plan.scan_scale[:, None], full) if has_factors else None,
        scan_weights=tensor(plan.scan_weights[:, None], full) if has_factors else None,
        is_centred=plan.is_centred,
        basis=tensor(plan.basis, full),
        ones=tensor(plan.ones[:, None], torch.float64),
        members=tensor(plan.members.astype(np.float64)),
        subset_basis=tensor(plan.subset_basis.reshape(-1, n_scans)),
        subset_df=tensor(plan.subset_df[:, None]),
        leverage_weights=tensor(_leverage_weights(plan)) if plan.is_hc3 else None,
        subset_leverage=tuple(
            (tensor(w), tensor(wq.reshape(-1, n_scans)), tensor(qwq))
            for w, wq, qwq in (_subset_leverage(plan, c) for c in plan.contrasts if plan.is_hc3 and n_subsets)
        ),
        on_fit=tuple(tensor(c.on_fit.reshape(-1, rank), torch.float64) for c in plan.contrasts),
        on_rest=tuple(tensor(c.on_rest) for c in plan.contrasts),
        repetitions=tuple(
            slice(None) if len(c.repetitions) == n_subsets else torch.as_tensor(c.repetitions, device=device)
            for c in plan.contrasts
        ),
        df_resid=plan.df_resid,
    )


def _leverage_weights(plan: Plan) -> np.ndarray:
    """HC3's weights on squared residuals, (K, n)."""
    return np.stack([hc3_weights(c.rows[0], plan.basis) for c in plan.contrasts]) ** 2


def _subset_leverage(plan: Plan, contrast: ContrastPlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HC3 of one contrast in its subsets, from full-sample residuals E: Σ W (E - q'z)², expanded in z.

    W are the weights of HC3 on the squared residuals of the subset.
    """
    basis = plan.subset_basis[contrast.repetitions]  # (b, r, n)
    w = hc3_weights(contrast.on_rest[:, 0], basis.transpose(0, 2, 1)) ** 2
    wq = basis * w[:, None]
    return w, wq, wq @ basis.transpose(0, 2, 1)
