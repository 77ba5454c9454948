"""Scores of permutations on the CPU, with what follows the products in one compiled pass over them.

The products run at the speed of BLAS; in torch the scores, their maxima and counts would take as long again.
"""

from __future__ import annotations

import numpy as np

from vbmstat.glm.fit.downdate import Downdating
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.fit.stacked import Tensors
from vbmstat.glm.inference.permute.kernel import reduce_products
from vbmstat.glm.inference.permute.nulls import Scale
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.glm.inference.permute.scores import LEAST_LEFT, Own, PermutedScores
from vbmstat.glm.spec import Compute
from vbmstat.lazy import torch
from vbmstat.maps.store import CHUNK_VOXELS, Maps

_LEAST = np.float32(LEAST_LEFT[4])


class CompiledScores(PermutedScores):
    """As :class:`PermutedScores`, for float32 on the CPU."""

    def __init__(self, maps: Maps, plan: Plan, permuted: Permuted, scale: Scale, compute: Compute) -> None:
        super().__init__(maps, plan, permuted, scale, compute)
        self.whole = Downdating(plan)

    def _reduced(self, values: np.ndarray, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
        if tensors is self.exact:
            return super()._reduced(values, tensors)
        full = self.whole.fit_whole(values)
        coordinates = self.coordinates.numpy()
        tested = coordinates @ full.coefficients  # (m, v)
        total = full.rss + (tested**2).sum(axis=0)
        per_length = np.where((full.sigma > 0) & (total > 0), 1 / np.sqrt(np.maximum(total, 1e-300)), 0.0)
        self.whole.subtract(full.residuals, full.rounding - coordinates.T @ tested, per_length)
        return torch.from_numpy(full.residuals[: len(values)]).float(), torch.from_numpy(full.doubtful)

    def _largest_and_counts(
        self, rows: torch.Tensor, unit: torch.Tensor, level: torch.Tensor, outside: torch.Tensor, own: Own
    ) -> tuple[torch.Tensor, torch.Tensor]:
        m, k = self.permuted.n_tested, self.permuted.n_tested + self.permuted.moving.shape[1]
        products = self.product(rows, unit).view(k, -1, CHUNK_VOXELS).numpy()
        first = np.empty(0, np.float32) if own is None else own.numpy()
        largest, counts = np.empty(products.shape[1], np.float32), np.zeros(CHUNK_VOXELS, np.int64)
        how = self.scale.is_signed, np.float32(self.scale.lowest), _LEAST
        reduce_products(products, m, *how, outside.numpy(), level.numpy(), first, largest, counts)
        return torch.from_numpy(largest), torch.from_numpy(counts)
