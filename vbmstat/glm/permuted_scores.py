"""Statistics of permuted designs at every voxel, as stacked products.

The residuals of a tile of voxels, scaled to unit length, times the rows of :mod:`vbmstat.glm.permute`. A voxel without
enough digits in float32 is reduced in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from vbmstat.cluster import Cluster
from vbmstat.device import n_cores
from vbmstat.glm.backend import BACKENDS, Product, choose_backend
from vbmstat.glm.blocks import BLOCK
from vbmstat.glm.engine import fit_full_sample, pad_tile, stream, tile_layout
from vbmstat.glm.maps import Maps
from vbmstat.glm.nulls import Scale
from vbmstat.glm.permute import Permuted
from vbmstat.glm.plan import Plan
from vbmstat.glm.tail import FEWEST, pareto_p
from vbmstat.glm.tensors import Tensors, make_tensors

_TAIL_BYTES = 2**28  # rows of the products of the permutations that tails of single voxels are fitted to
TIES = {np.dtype(np.float32): 4e-6, np.dtype(np.float64): 1e-10}  # of s²: equal up to rounding is equal


class PermutedScores:
    """Scores of permutations over all voxels, tile by tile."""

    def __init__(
        self, maps: Maps, plan: Plan, permuted: Permuted, scale: Scale, device: str, backend: str,
        chunk_voxels: int | None, n_threads: int | None,
    ) -> None:  # fmt: skip
        kind = torch.device(device).type
        self.product: Product = BACKENDS[choose_backend(kind) if backend == "auto" else backend]
        self.dtype = torch.float64 if maps.dtype == np.float64 else torch.float32
        self.ties = TIES[np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)]
        self.tensors = make_tensors(plan, self.dtype, device, self.product, robust=False)
        self.exact = make_tensors(plan, torch.float64, device, self.product, robust=False)
        self.maps, self.plan, self.permuted, self.scale, self.device = maps, plan, permuted, scale, device
        self.layout = tile_layout(kind, chunk_voxels, n_threads)
        self.workers = n_threads or n_cores()
        self.tested = torch.as_tensor(permuted.parts.tested).to(device)  # (n, m) float64
        self.coordinates = torch.as_tensor(permuted.parts.coordinates).to(device)  # (m, r)
        self.rows_each = permuted.n_tested + permuted.moving.shape[1]  # of products, a permutation

    def run(
        self, start: int, stop: int, keep: bool, tell: Callable[[float], None], cluster: Cluster | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Largest score of each permutation (b,), how many reach a voxel's own (n_voxels,), and maps (b, n_voxels)."""
        n_voxels = len(self.maps.mask)
        batch = _Batch(self, start, stop, keep)
        maxima = np.full(stop - start, self.scale.lowest)
        reached = np.zeros(n_voxels, dtype=np.int64)
        fields = np.zeros((stop - start, n_voxels), dtype=np.float32) if keep else None
        for at, (largest, counts, values) in stream([self.maps], self.layout, batch, cluster=cluster):
            np.maximum(maxima, largest, out=maxima)
            reached[at : at + len(counts)] = counts
            if fields is not None:
                fields[:, at : at + len(counts)] = values
            tell((at + len(counts)) / n_voxels)
        return maxima, reached, fields

    def null(self, values: torch.Tensor, blocks: Sequence[torch.Tensor]) -> np.ndarray:
        """Statistic of every permutation at some voxels (n, v): t, its size if two-sided, or F, (count, v)."""
        width = values.shape[1]
        unit, _, _ = self._unit_residuals(pad_tile(values), torch.ones(width, dtype=torch.bool))
        found = [self._scored(rows, unit)[0][:, :width].cpu().numpy() for rows in blocks]
        return self.scale.statistic(np.concatenate(found))

    def rows(self, start: int, stop: int) -> list[torch.Tensor]:
        """Rows of the products, a block of permutations each."""
        return [self._rows(at, min(at + BLOCK, stop)) for at in range(start, stop, BLOCK)]

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of a block's products, (k · b, n), those of one direction together."""
        rows = self.permuted.rows(start, stop)
        return torch.as_tensor(rows.reshape(-1, rows.shape[2])).to(device=self.device, dtype=self.dtype)

    def tile(
        self, values: torch.Tensor, inside: torch.Tensor, blocks: Sequence[torch.Tensor], keep: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Of the voxels of a tile (n, v): largest scores (b,), how many reach each one's own, and maps (b, v)."""
        width = values.shape[1]
        unit, own, outside = self._unit_residuals(pad_tile(values), inside)  # (n, v), (v,), (v,)
        level = own - self.ties * own.abs()
        largest, counts, kept = [], torch.zeros_like(level, dtype=torch.int64), []
        for rows in blocks:
            score, signed = self._scored(rows, unit)
            if self.scale.is_signed:
                score.masked_fill_(outside, self.scale.lowest)  # their zero may be the largest of all
            largest.append(score.amax(dim=1))
            counts += (score >= level).sum(dim=0)
            if keep:
                kept.append(self._statistic(score, signed).masked_fill_(outside, 0.0)[:, :width].cpu().numpy())
        reached = torch.where(own != 0, counts, 0)[:width]
        return torch.cat(largest).cpu().numpy(), reached.cpu().numpy(), np.concatenate(kept) if keep else None

    def _unit_residuals(
        self, values: torch.Tensor, inside: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """R_Z y of length 1 (n, v), its score with the unpermuted design (v,), and which columns are not tested."""
        unit, own, doubtful = self._reduced(values, self.tensors)
        width = inside.shape[0]
        columns = torch.nonzero(doubtful[:width] & inside.to(doubtful.device)).flatten()
        if self.dtype != torch.float64 and len(columns):
            again, own_again, _ = self._reduced(pad_tile(values[:, columns.cpu()]), self.exact)
            unit[:, columns] = again[:, : len(columns)].to(unit.dtype)
            own[columns] = own_again[: len(columns)].to(own.dtype)
        outside = torch.ones_like(doubtful)
        outside[:width] = ~inside.to(outside.device)
        unit[:, outside] = 0
        own[outside] = 0
        return unit, own, outside

    def _reduced(self, values: torch.Tensor, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        full = fit_full_sample(values, tensors)
        tested = self.coordinates @ full.coefficients  # (m, v)
        squares = (tested**2).sum(dim=0)
        total = full.sigma**2 * self.plan.df_resid + squares
        usable = (full.sigma > 0) & (total > 0)
        per_length = torch.where(usable, total.clamp(min=1e-300).rsqrt(), 0.0)
        unit = full.rest * per_length.to(full.rest.dtype)
        unit = unit.addmm_(self.tested.to(unit.dtype), (tested * per_length).to(unit.dtype))
        own = tested[0] * per_length if self.scale.is_signed else squares * per_length**2
        return unit, own.to(self.dtype), full.doubtful

    def _scored(self, rows: torch.Tensor, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (b, v) of a block's rows, and something with the sign of the statistic."""
        return self._scores(self.product(rows, unit))

    def _scores(self, products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (b, v) of products (k · b, v), and the product with the first tested direction."""
        m, k = self.permuted.n_tested, self.permuted.n_tested + self.permuted.moving.shape[1]
        parts = products.view(k, -1, products.shape[1])
        first = parts[0]
        score = first if self.scale.is_signed else first * first
        for other in parts[1:m]:
            score = score.addcmul_(other, other)
        if k > m:
            left = torch.ones_like(first)
            for other in parts[m:]:
                left.addcmul_(other, other, value=-1)
            left.clamp_(min=torch.finfo(left.dtype).tiny)
            score = score * left.rsqrt_() if self.scale.is_signed else score.div_(left)
        return score, first

    def _statistic(self, score: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
        """T with its sign, or F, of scores."""
        s2 = (score * score if self.scale.is_signed else score).clamp(max=1 - 1e-6)
        odds = s2 / (1 - s2)
        if self.scale.kind == "F":
            return odds * (self.scale.df / self.scale.m)
        return torch.copysign((odds * self.scale.df).sqrt(), signed)


def tail_p(
    engine: PermutedScores, size: np.ndarray, wanted: np.ndarray, count: int, floor: float,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Uncorrected p of voxels, each by a generalised Pareto tail of its own permutations, in another pass.

    Parameters
    ----------
    engine : PermutedScores
        Of the permutations.
    size : ndarray, (n_voxels,)
        T (its size if two-sided) or F of the unpermuted data.
    wanted : ndarray, (n_voxels,), bool
        Voxels whose p is wanted.
    count : int
        Permutations that were done. Where their rows exceed 256 MB (above 20,000 scans), the first of them serve.
    floor : float
        Smallest p to give.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    p : ndarray, (n_voxels,)
        Meaningless where not approximated.
    is_approximated : ndarray, (n_voxels,), bool
        Where a tail fits and the value lies in it.
    """
    p, is_approximated = np.ones(len(size)), np.zeros(len(size), dtype=bool)
    count = min(count, _TAIL_BYTES // (4 * engine.rows_each * len(engine.plan.basis)))
    if count < FEWEST:
        return p, is_approximated
    blocks = engine.rows(0, count)

    def work(values: list[torch.Tensor], inside: torch.Tensor) -> tuple[int, np.ndarray, np.ndarray]:
        return len(inside), np.flatnonzero(inside.numpy()), engine.null(values[0][:, inside], blocks)

    for at, (width, inside, null) in stream([engine.maps], engine.layout, work, wanted):
        columns = at + inside
        p[columns], is_approximated[columns] = pareto_p(null, size[columns], floor)
        if progress:
            progress("tails of voxels", min(at + width, len(size)), len(size))
    if progress:
        progress("tails of voxels", len(size), len(size))
    return p, is_approximated


@dataclass(frozen=True)
class _Batch:
    """Some permutations over a tile; another process makes their rows for itself."""

    scores: PermutedScores
    start: int
    stop: int
    keep: bool

    @cached_property
    def blocks(self) -> list[torch.Tensor]:
        """Rows of the products."""
        return self.scores.rows(self.start, self.stop)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "blocks"}

    def __call__(
        self, tiles: list[torch.Tensor], inside: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return self.scores.tile(tiles[0], inside, self.blocks, self.keep)
