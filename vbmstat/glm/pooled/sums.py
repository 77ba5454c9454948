"""What a site shares of its maps: sums over its scans that give the same model as the scans themselves.

For the (weighted) design X, (n_scans, p), and the maps Y of a site, a pooled model needs X'X, X'Y and ΣY². They are
kept as X = Q R and Y = Q z + E with Q'Q = I and Q'E = 0: then X'X = R'R, X'Y = R'z, ΣY² = Σz² + RSS. No large sums
cancel in this form, and the rows (R, z) and (0, √RSS) are a small data set with the site's sums: least squares over
the rows of all sites is least squares over all their scans (Golub & Van Loan, Matrix Computations, 4th ed., §5.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vbmstat.glm.design.matrix import Design
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import Tensors, fit_full_sample
from vbmstat.glm.fit.stream import stream, tile_layout
from vbmstat.glm.spec import Compute
from vbmstat.lazy import torch
from vbmstat.maps.store import PackedMaps, Space


@dataclass(frozen=True)
class About:
    """A site's model and maps in words; nothing about a person."""

    # left and right side of the formula
    response: str
    formula: str
    columns: tuple[str, ...]  # of the design
    terms: Mapping[str, tuple[str, ...]]  # term -> its columns
    references: tuple[str, ...]  # reference levels, such as ``sex[T.F]``
    n_scans: int
    weights: str | None  # column with the weights of the scans
    mask: Mapping[str, Any]  # ``threshold`` and ``share`` of the mask's rule, and whether there was a mask ``image``
    fwhm_mm: float | None  # smoothing of the maps, where it is known
    made_from: Mapping[str, tuple[str, ...]]  # what maps of one model must share: kind of maps, engine, version, …
    scans_sha256: str  # of the sorted hashes of the maps' files: says whether two files are of the same scans
    version: str  # of vbmstat


@dataclass(frozen=True)
class SiteSums:
    """The sums of one site, float64; voxels are those of its mask."""

    about: About  # the model and the maps in words
    factor: np.ndarray  # r, upper triangular or trapezoidal
    constant: np.ndarray  # coordinates of the constant vector: Q'1, or Q'√w with weights
    coordinates: np.ndarray  # z
    residual_squares: np.ndarray  # (n_voxels,): RSS
    space: Space  # where the voxels lie; their indices rise

    @property
    def means(self) -> dict[str, float]:
        """Mean (with weights: weighted mean) of each column over the scans."""
        values = self.constant @ self.factor / (self.constant @ self.constant)
        return dict(zip(self.about.columns, values.tolist(), strict=True))

    @property
    def map_mean(self) -> float:
        """Mean of the maps over scans and voxels."""
        return float((self.constant @ self.coordinates).mean() / (self.constant @ self.constant))


def sum_maps(about: About, design: Design, plan: Plan, maps: PackedMaps, compute: Compute) -> SiteSums:
    """The sums of a site's maps, in one pass over them.

    Parameters
    ----------
    about : About
        What is said of them.
    design : Design
        X.
    plan : Plan
        Its factorisation, without subsets.
    maps : PackedMaps
        Rows in the order of the design.
    compute : Compute
        Where and how fast.
    """
    # the basis of the plan is any; that of the triangular factor depends on X'X alone
    turn, factor = np.linalg.qr(plan.basis.T @ (design.matrix * plan.scan_weights[:, None]))  # (r, r), (r, p)
    signs = np.where(np.diagonal(factor)[: len(factor)] < 0, -1.0, 1.0)
    turn, factor = turn * signs, factor * signs[:, None]
    rank, n_voxels = len(factor), maps.n_voxels
    sums = np.zeros((rank + 1, n_voxels))
    work = partial(_tile_sums, tensors=Tensors(plan, torch.float64, compute.device), turn=turn)
    for start, tile in stream([maps], tile_layout(compute, len(plan.basis)), work, cluster=compute.cluster):
        sums[:, start : start + tile.shape[1]] = tile
        if compute.progress:
            compute.progress("summing maps", start + tile.shape[1], n_voxels)
    inside = np.flatnonzero(maps.mask)
    inside = inside[np.argsort(maps.space.voxel_index[inside])]  # packed maps have the order of their files
    sums = sums[:, inside]
    space = Space(maps.space.grid, maps.space.voxel_index[inside], maps.space.axcodes)
    return SiteSums(about, factor, turn.T @ plan.ones, sums[:-1], sums[-1], space)


def _tile_sums(tiles: list[np.ndarray], _: np.ndarray, tensors: Tensors, turn: np.ndarray) -> np.ndarray:
    """Coordinates and, last, the residual sum of squares of a tile, (r + 1, v), float64."""
    full = fit_full_sample(tiles[0], tensors)
    rss = (full.sigma**2 * tensors.df_resid).cpu().numpy()
    return np.vstack([turn.T @ full.coefficients.cpu().numpy(), rss])
