"""V and G of permuted data, for variance groups, as stacked products.

Freedman–Lane: the permuted residuals P ε are fitted by the whole design H = [Q1 Z], orthonormal. With the rows of group
g alone, c_g = H_g'(P ε)_g, their sum is the fit a = H'P ε, and the residuals' sum of squares is
|(P ε)_g|² - 2 c_g'a + a'H_g'H_g a: rows of products with ε and, for the first term, with ε². Directions of Z that no
rearrangement moves have a = 0 and need no row. A group stays with the rows of the design, as the design's columns do.
"""

from __future__ import annotations

import numpy as np

from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.inference.permute.nulls import Scale
from vbmstat.glm.inference.permute.schemes import Permuted, moved
from vbmstat.glm.inference.permute.scores import PermutedScores
from vbmstat.glm.spec import Compute
from vbmstat.glm.variance.groups import Weighting
from vbmstat.lazy import torch
from vbmstat.maps.store import Maps

_BYTES = 2**26  # of the matrices of a tile's voxels and some permutations
_TIES = 1e-10  # of v and G: equal up to rounding is equal
_LEAST_LEFT = 1e-12  # of permuted residuals, once Z is projected out: rounding


class GroupedScores(PermutedScores):
    """Scores of permutations where groups of scans have a variance each: |v|, v or G themselves. In float64."""

    def __init__(self, maps: Maps, plan: Plan, permuted: Permuted, scale: Scale, compute: Compute) -> None:
        super().__init__(maps, plan, permuted, scale, compute)
        self.dtype, self.tensors = torch.float64, self.exact
        self.ties = _TIES
        parts, moving = permuted.parts, permuted.moving
        still = parts.nuisance - moving @ (moving.T @ parts.nuisance)
        left, singular, _ = np.linalg.svd(still, full_matrices=False)
        columns = np.concatenate([parts.tested, moving, left[:, singular > 0.5]], axis=1)  # singular: 0 or 1
        self.weighting = Weighting(columns, np.asarray(permuted.groups), permuted.n_tested)
        self.n_moving = permuted.n_tested + moving.shape[1]  # k
        self.rows_each = 2 * len(self.weighting.members) * (self.n_moving + 1)  # of float32
        self.identity = self._rows(0, 1)

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of a block's products: with ε (G · k · b, n), then with ε² (G · b, n)."""
        sources, signs = self.permuted.rearrangements.sources(start, stop)
        members = self.weighting.members
        parts = self.weighting.columns[:, None, : self.n_moving] * members.T[:, :, None]  # (n, G, k)
        n_scans, shape = len(parts), (-1, stop - start, len(parts))
        with_residuals = moved(parts.reshape(n_scans, -1), sources, signs)
        with_squares = np.broadcast_to(moved(members.T, sources, None), (len(members), *shape[1:]))
        rows = np.concatenate([with_residuals.reshape(-1, n_scans), with_squares.reshape(-1, n_scans)])
        return torch.as_tensor(rows).to(device=self.device, dtype=self.dtype)

    def _own(self, unit: torch.Tensor) -> torch.Tensor:
        return self._scored(self.identity, unit)[0][0]

    def _scored(self, rows: torch.Tensor, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (b, v) of the permutations of some rows, and v with its sign."""
        n_groups, k = len(self.weighting.members), self.n_moving
        b, v = len(rows) // (n_groups * (k + 1)), unit.shape[1]
        fitted = self.product(rows[: n_groups * k * b], unit).view(n_groups, k, b, v)
        squares = self.product(rows[n_groups * k * b :], unit * unit).view(n_groups, b, v)
        r = self.weighting.columns.shape[1]
        step = max(_BYTES // (8 * v * (r * r // 2 + 2 * n_groups + k)), 1)
        signed = torch.cat([self._test(fitted[:, :, at : at + step], squares[:, at : at + step])
                            for at in range(0, b, step)])  # fmt: skip
        return signed.abs() if self.scale.kind == "t" and not self.scale.is_signed else signed, signed

    def _test(self, fitted: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """V or G (b, v) from fits (G, k, b, v) and sums of squares (G, b, v) of each group's rows."""
        a = fitted.sum(dim=0)  # (k, b, v)
        grams = torch.as_tensor(self.weighting.grams[:, : self.n_moving, : self.n_moving]).to(a)
        rss = squares - 2 * (fitted * a).sum(dim=1)
        rss += (torch.einsum("gij,jbv->gibv", grams, a) * a).sum(dim=1)
        rss, tested = rss.clamp_(min=0), a[: self.weighting.n_tested]
        is_inside = rss.sum(dim=0) + (tested**2).sum(dim=0) < _LEAST_LEFT  # of Z, where 0 / 0 is no effect
        return self.weighting.test(tested, rss)[0].masked_fill_(is_inside, 0.0)

    def _statistic(self, score: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
        return signed
