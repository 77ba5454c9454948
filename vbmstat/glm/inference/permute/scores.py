"""Statistics of permuted designs at every voxel, as stacked products.

The residuals of a tile of voxels, scaled to unit length, times the rows of
:mod:`vbmstat.glm.inference.permute.schemes`, in float32 if that has enough digits (:func:`working_precision`); single
voxels where it has not are reduced in float64. The score of the unpermuted data is computed once and used among the
permutations too, so that it reaches itself for any rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vbmstat.device import n_cores
from vbmstat.distributed.pool import Cluster
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.product import choose_product
from vbmstat.glm.fit.stacked import Tensors, fit_full_sample
from vbmstat.glm.fit.stream import pad_tile, stream, tile_layout
from vbmstat.glm.inference.permute.nulls import Scale
from vbmstat.glm.inference.permute.rearrangements import BLOCK
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.glm.inference.permute.tails import fit_tails
from vbmstat.glm.spec import Compute
from vbmstat.lazy import torch
from vbmstat.maps.store import Maps
from vbmstat.progress import OnProgress

_TAIL_BYTES = 2**28  # rows of the products of the permutations that tails of single voxels are fitted to
TIES = {4: 2e-6, 8: 1e-12}  # of s, by bytes of a number: equal up to rounding is equal
LEAST_LEFT = {4: 1e-5, 8: 1e-12}  # of permuted residuals, once Z is projected out: rounding
_LARGEST = {4: 1 - 1e-6, 8: 1 - 1e-12}  # s² of maps of t and F
_FEWEST_DF = 10.0  # of float32: the largest null t of V voxels has 1 - s² near V^(-2 / df), and its digits are lost


def working_precision(dtype: np.dtype, df_resid: float) -> torch.dtype:
    """Precision of scores: float64 for float64 maps, or with fewer than 10 residual degrees of freedom."""
    return torch.float64 if dtype == np.float64 or df_resid < _FEWEST_DF else torch.float32


Own: TypeAlias = "torch.Tensor | None"  # scores of the unpermuted data (v,), where they are the first of a block


class Scored(NamedTuple):
    """Scores of some permutations, over the voxels of a tile or over all."""

    largest: np.ndarray  # (b,): largest score of each permutation
    reached: np.ndarray  # (v,), int: how many permutations reach a voxel's own score, the unpermuted data among them
    own: np.ndarray  # (v,): score of the unpermuted data; 0 outside the mask
    fields: np.ndarray | None  # (b, v): maps of the statistic, where they are kept


class PermutedScores:
    """Scores of permutations over all voxels, tile by tile."""

    def __init__(self, maps: Maps, plan: Plan, permuted: Permuted, scale: Scale, compute: Compute) -> None:
        device = compute.device
        self.product = choose_product(device)
        self.dtype = working_precision(maps.dtype, plan.df_resid)
        self.ties = TIES[self.dtype.itemsize]
        self.tensors = Tensors(plan, self.dtype, device)
        self.exact = Tensors(plan, torch.float64, device)
        self.maps, self.plan, self.permuted, self.scale, self.device = maps, plan, permuted, scale, device
        self.layout = tile_layout(compute)
        self.workers = compute.n_threads or n_cores()
        self.tested = torch.as_tensor(permuted.parts.tested).to(device)  # (n, m) float64
        self.coordinates = torch.as_tensor(permuted.parts.coordinates).to(device)  # (m, r)
        self.rows_each = permuted.n_tested + permuted.moving.shape[1]  # of products, a permutation

    def run(
        self, start: int, stop: int, keep: bool, report: Callable[[float], None], cluster: Cluster | None = None
    ) -> Scored:
        """Scores of the permutations `start` to `stop` over all voxels, with their maps if they are to be kept."""
        n_voxels = len(self.maps.mask)
        batch = _Batch(self, start, stop, keep)
        fields = np.zeros((stop - start, n_voxels), dtype=np.float32) if keep else None
        lowest = np.full(stop - start, self.scale.lowest)
        scored = Scored(lowest, np.zeros(n_voxels, dtype=np.int64), np.zeros(n_voxels), fields)
        for at, tile in stream([self.maps], self.layout, batch, cluster=cluster):
            here = slice(at, at + len(tile.own))
            np.maximum(scored.largest, tile.largest, out=scored.largest)
            scored.reached[here], scored.own[here] = tile.reached, tile.own
            if fields is not None:
                fields[:, here] = tile.fields
            report(here.stop / n_voxels)
        return scored

    def null(self, values: np.ndarray, blocks: Sequence[torch.Tensor]) -> np.ndarray:
        """Statistic of every permutation at some voxels (n, v): t, its size if two-sided, or F, (count, v)."""
        width = values.shape[1]
        unit, _ = self._unit_residuals(pad_tile(values), np.ones(width, dtype=bool))
        scores = [self._scored(rows, unit)[0][:, :width].cpu().numpy() for rows in blocks]
        return self.scale.statistic(np.concatenate(scores))

    def rows(self, start: int, stop: int) -> list[torch.Tensor]:
        """Rows of the products, a block of permutations each."""
        return [self._rows(at, min(at + BLOCK, stop)) for at in range(start, stop, BLOCK)]

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of a block's products, (k · b, n), those of one direction together."""
        rows = self.permuted.rows(start, stop)
        return torch.as_tensor(rows.reshape(-1, rows.shape[2])).to(device=self.device, dtype=self.dtype)

    def tile(
        self, values: np.ndarray, inside: np.ndarray, blocks: Sequence[torch.Tensor], is_first: bool, keep: bool
    ) -> Scored:
        """Scores of blocks of permutations in a tile (n, v); is_first if the very first is the unpermuted data."""
        width = values.shape[1]
        unit, outside = self._unit_residuals(pad_tile(values), inside)  # (n, v), (v,)
        own = self._own(unit).masked_fill_(outside, 0.0)  # (v,)
        level = self.scale.level(own, self.ties)
        largest, counts, kept = [], torch.zeros_like(level, dtype=torch.int64), []
        for i, rows in enumerate(blocks):
            known = own if is_first and i == 0 else None
            if keep:
                score, signed = self._known(rows, unit, known)
                kept.append(self._statistic(score, signed).masked_fill_(outside, 0.0)[:, :width].cpu().numpy())
                maxima, reaching = self._reached(score, level, outside)
            else:
                maxima, reaching = self._largest_and_counts(rows, unit, level, outside, known)
            largest.append(maxima)
            counts += reaching
        return Scored(
            torch.cat(largest).cpu().numpy(), counts.masked_fill_(outside, 0)[:width].cpu().numpy(),
            own[:width].cpu().numpy(), np.concatenate(kept) if keep else None,
        )  # fmt: skip

    def _largest_and_counts(
        self, rows: torch.Tensor, unit: torch.Tensor, level: torch.Tensor, outside: torch.Tensor, own: Own
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Largest score of each permutation of a block (b,), and how many reach a voxel's level (v,)."""
        return self._reached(self._known(rows, unit, own)[0], level, outside)

    def _known(self, rows: torch.Tensor, unit: torch.Tensor, own: Own) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of a block with the first permutation's, if they are known; see :meth:`_scored`."""
        score, signed = self._scored(rows, unit)
        if own is not None:
            score[0] = own
        return score, signed

    def _reached(
        self, score: torch.Tensor, level: torch.Tensor, outside: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.scale.is_signed:
            score = score.masked_fill(outside, self.scale.lowest)  # their zero may be the largest of all
        return score.amax(dim=1), (score >= level).sum(dim=0)

    def tail_p(
        self, size: np.ndarray, wanted: np.ndarray, count: int, floor: float, progress: OnProgress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Uncorrected p of voxels, each by a generalised Pareto tail of its own permutations, in another pass.

        Parameters
        ----------
        size : ndarray, (n_voxels,)
            T (its size if two-sided) or F of the unpermuted data.
        wanted : ndarray, (n_voxels,), bool
            Voxels whose p is wanted.
        count : int
            Permutations that were done. If their rows exceed 256 MB (above 20,000 scans), the first of them serve.
        floor : float
            Smallest p to give.

        Returns
        -------
        p, is_approximated : ndarray, (n_voxels,)
            P, and where a tail fits and the value lies in it; elsewhere p mean nothing.
        """
        p, is_approximated = np.ones(len(size)), np.zeros(len(size), dtype=bool)
        count = min(count, _TAIL_BYTES // (4 * self.rows_each * len(self.plan.basis)))
        blocks = self.rows(0, count)

        def work(values: list[np.ndarray], inside: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
            return len(inside), np.flatnonzero(inside), self.null(values[0][:, inside], blocks)

        for at, (width, inside, null) in stream([self.maps], self.layout, work, wanted):
            columns, tails = at + inside, fit_tails(null, floor)
            if tails is not None:
                p[columns], is_approximated[columns] = tails.p(size[columns])
            if progress:
                progress("tails of voxels", min(at + width, len(size)), len(size))
        if progress:
            progress("tails of voxels", len(size), len(size))
        return p, is_approximated

    def _unit_residuals(self, values: np.ndarray, inside: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """R_Z y of length 1 (n, v), and which columns are not tested (v,)."""
        unit, doubtful = self._reduced(values, self.tensors)
        width = inside.shape[0]
        columns = np.flatnonzero(doubtful[:width].cpu().numpy() & inside)
        if self.dtype != torch.float64 and len(columns):
            again, _ = self._reduced(pad_tile(values[:, columns]), self.exact)
            unit[:, columns] = again[:, : len(columns)].to(unit.dtype)
        outside = torch.ones_like(doubtful)
        outside[:width] = torch.from_numpy(~inside).to(outside.device)
        if outside.any():
            unit[:, outside] = 0
        return unit, outside

    def _reduced(self, values: np.ndarray, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        full = fit_full_sample(values, tensors)
        tested = self.coordinates @ full.coefficients  # (m, v)
        total = full.sigma**2 * self.plan.df_resid + (tested**2).sum(dim=0)
        usable = (full.sigma > 0) & (total > 0)
        per_length = torch.where(usable, total.clamp(min=1e-300).rsqrt(), 0.0)
        unit = full.residuals * per_length.to(full.residuals.dtype)
        unit = unit.addmm_(self.tested.to(unit.dtype), (tested * per_length).to(unit.dtype))
        return unit, full.doubtful

    def _own(self, unit: torch.Tensor) -> torch.Tensor:
        """Score of the unpermuted data, (v,): Z is orthogonal to its residuals."""
        tested = self.tested.T.to(unit.dtype) @ unit  # (m, v)
        return tested[0] if self.scale.is_signed else (tested**2).sum(dim=0)

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
            left.clamp_(min=LEAST_LEFT[left.dtype.itemsize])  # permuted residuals inside Z have no effect: 0 / 0 is 0
            score = score * left.rsqrt_() if self.scale.is_signed else score.div_(left)
        return score, first

    def _statistic(self, score: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
        """T with its sign, or F, of scores."""
        s2 = (score * score if self.scale.is_signed else score).clamp(max=_LARGEST[score.dtype.itemsize])
        odds = s2 / (1 - s2)
        if self.scale.kind == "F":
            return odds * (self.scale.df / self.scale.m)
        return torch.copysign((odds * self.scale.df).sqrt(), signed)


@dataclass(frozen=True)
class _Batch:
    """Some permutations over a tile; each process makes their rows itself."""

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

    def __call__(self, tiles: list[np.ndarray], inside: np.ndarray) -> Scored:
        return self.scores.tile(tiles[0], inside, self.blocks, self.start == 0, self.keep)
