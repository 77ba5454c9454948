"""What the engine returns: statistics of some voxels (`Tile`), or of all (`Fit`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vbmstat.glm.fit.plan import Plan
from vbmstat.maps.store import Maps

_OUTSIDE = {"df": 1.0}  # values outside the mask that are not 0


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Statistics of some voxels; arrays are float64, their last axis the voxels."""

    # (n_contrasts, n_voxels): c'β and its variance (for F: the mean square and σ²); t or F. With local degrees of
    # freedom F has neither of the first two
    effect: np.ndarray
    variance: np.ndarray
    statistic: np.ndarray
    residual_variance: np.ndarray | None = None  # (n_voxels,): σ² = RSS / df_resid, where all scans share it
    # (n_contrasts, n_voxels): (denominator) degrees of freedom, where they are local: differ between voxels
    df: np.ndarray | None = None
    # (n_contrasts, n_voxels): ``median``, ``q25``, ``q75`` of the statistic over repetitions, and ``replication``, the
    # share of them with an uncorrected p below .05; empty without repetitions
    quantiles: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number of voxels."""
        return int(self.effect.shape[1])

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays over voxels, by name."""
        df = self.df if self.df is not None and self.df.ndim > 1 else None
        named = {
            "effect": self.effect, "variance": self.variance, "statistic": self.statistic,
            "residual_variance": self.residual_variance, "df": df,
        }  # fmt: skip
        return {name: values for name, values in named.items() if values is not None} | self.quantiles

    def replace(self, columns: np.ndarray, other: Tile) -> None:
        """Overwrite some columns with the first of another tile."""
        for name, values in self.arrays.items():
            values[..., columns] = other.arrays[name][..., : len(columns)]

    def crop(self, width: int) -> Tile:
        """The first voxels."""
        arrays = {name: values[..., :width] for name, values in self.arrays.items()}
        quantiles = {name: arrays.pop(name) for name in self.quantiles}
        return Tile(**arrays, quantiles=quantiles)


@dataclass(frozen=True, kw_only=True)
class Fit(Tile):
    """Statistics of all voxels; those outside the mask hold zeros (local `df`: 1)."""

    mask: np.ndarray  # (n_voxels,), bool: voxels that were fitted
    # (n_contrasts,) or (n_contrasts, n_voxels): (denominator) degrees of freedom of each contrast: one number, or local
    # ones. With HC3 perhaps fewer than `df_resid`
    df: np.ndarray
    df_resid: float  # of the full sample; where `df` are local, the fewest of any contrast
    repetitions: tuple[int, ...]  # how many subsets could estimate each contrast

    @classmethod
    def empty(
        cls,
        mask: np.ndarray,
        repetitions: Sequence[int],
        df: Sequence[float] | None = None,
        df_resid: float = np.nan,
        quantiles: Sequence[str] = (),
    ) -> Fit:
        """A fit for :meth:`store` to fill; its degrees of freedom are local unless they are given."""
        shape = (len(repetitions), len(mask))
        effect, variance, statistic = np.zeros((3, *shape))
        return cls(
            effect=effect, variance=variance, statistic=statistic,
            residual_variance=None if df is None else np.zeros(len(mask)),
            df=np.ones(shape) if df is None else np.array(df, dtype=np.float64),
            quantiles={name: np.zeros(shape) for name in quantiles},
            mask=mask, df_resid=df_resid, repetitions=tuple(repetitions),
        )  # fmt: skip

    def store(self, start: int, tile: Tile) -> None:
        """Copy a tile into the columns from `start` on."""
        columns = slice(start, start + tile.width)
        outside, arrays = start + np.flatnonzero(~self.mask[columns]), self.arrays
        for name, values in tile.arrays.items():
            arrays[name][..., columns] = values
            arrays[name][..., outside] = _OUTSIDE.get(name, 0.0)

    @property
    def has_local_df(self) -> bool:
        """Whether degrees of freedom differ between voxels."""
        return self.df.ndim > 1

    @property
    def typical_df(self) -> tuple[float, ...]:
        """Degrees of freedom of each contrast; of local ones the median over the mask."""
        return tuple((np.median(self.df[:, self.mask], axis=1) if self.has_local_df else self.df).tolist())

    def df_inside(self, index: int) -> np.ndarray:
        """Degrees of freedom of a contrast at the voxels of the mask: (), or (n_inside,) if local."""
        return np.asarray(self.df[index][self.mask] if self.has_local_df else self.df[index])

    def forming_df(self, index: int) -> float:
        """Degrees of freedom that turn a cluster-forming p of a contrast into a threshold; of local ones the fewest."""
        return self.df_resid if self.has_local_df else float(self.df[index])


@dataclass(frozen=True)
class Fitted:
    """A model that was fitted: the maps, the plan of the whole sample, without subsets, and the fit."""

    maps: Maps
    plan: Plan
    fit: Fit
