"""Sandwich t and F under sign flips of whole subjects, as stacked products.

The residuals ε = R_Z y of the model without the effect keep or change their sign together for all scans of a subject,
s_i = ±1, and the whole model is fitted and tested anew: Freedman-Lane with subjects as blocks, and the restricted wild
bootstrap (Cameron, Gelbach & Miller 2008, doi:10.1162/rest.90.3.414), which the SwE toolbox uses. Nothing is exchanged,
so that visits may differ in number and spacing, and effects may lie within persons, between them, or both.

With Q the design's orthonormal basis and y* the flipped residuals, q = Q'y* = Σ_i s_i Q_i'ε_i. A subject enters the
variance by u_i = s_i W_i ε_i - W_i Q_i q, W the weights of :mod:`vbmstat.glm.variance.sandwich`, and Σ_i u_i u_i' needs
products of the signs with Q_i'ε_i and with W_i ε_i (W_i Q_i)' alone.
"""

from __future__ import annotations

import numpy as np

from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.inference.permute.nulls import Scale
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.glm.inference.permute.scores import PermutedScores
from vbmstat.glm.spec import Compute
from vbmstat.glm.variance.sandwich import correct_rows, prepare_rows, subject_blocks
from vbmstat.lazy import torch
from vbmstat.maps.store import Maps

_TIES = 1e-10  # of t and F: equal up to rounding is equal
_NO_VARIANCE = 1e-24  # of unit residuals: rounding
_SINGULAR = 1e-12  # of the sum of the variances: a row that those before it determine


class FlippedScores(PermutedScores):
    """Scores of sign flips: |t|, t or F of the sandwich themselves. In float64."""

    def __init__(self, maps: Maps, plan: Plan, permuted: Permuted, scale: Scale, compute: Compute) -> None:
        super().__init__(maps, plan, permuted, scale, compute)
        self.dtype, self.tensors, self.ties = torch.float64, self.exact, _TIES
        order, starts = subject_blocks(permuted.subjects or (), plan)
        basis = plan.basis[order]
        part = prepare_rows(plan.contrasts[permuted.index], basis, correct_rows(basis, starts), starts)
        m = len(part.rows)
        self.first = order[starts]  # a scan of each subject, (S,)
        columns = np.empty((len(order), basis.shape[1] + m))  # Q and W', (n, r + m)
        columns[order] = np.concatenate([basis, part.weights.T], axis=1)
        subject = np.empty(len(order), dtype=np.int64)
        subject[order] = np.repeat(np.arange(len(starts)), np.diff([*starts, len(order)]))
        fitted = np.add.reduceat(part.weights[:, :, None] * basis, starts, axis=1)  # W_i Q_i, (m, S, r)
        self.columns, self.subject, self.fitted, self.rows_of_test = (
            torch.as_tensor(one).to(self.device) for one in (columns, subject, fitted, part.rows)
        )
        self.grams = torch.einsum("ksr,lst->klrt", self.fitted, self.fitted)
        self.to_f = (part.nu - m + 1) / (part.nu * m)  # of Wald's Q
        self.identity = self._rows(0, 1)

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """Signs of the subjects, (b, S)."""
        _, signs = self.permuted.rearrangements.sources(start, stop)
        return torch.as_tensor(np.asarray(signs)[:, self.first]).to(device=self.device, dtype=self.dtype)

    def _own(self, unit: torch.Tensor) -> torch.Tensor:
        return self._scored(self.identity, unit)[0][0]

    def _scored(self, rows: torch.Tensor, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (b, v) of the flips of some signs, and t with its sign."""
        m, r, n_subjects = *self.rows_of_test.shape, len(self.first)
        sums = torch.zeros(r + m, n_subjects, unit.shape[1], dtype=unit.dtype, device=unit.device)
        for column, of_column in zip(self.columns.T, sums, strict=True):
            of_column.index_add_(0, self.subject, column[:, None] * unit)
        q, c = self._flipped(rows, sums[:r]), sums[r:]  # (r, b, v), (m, S, v)
        squares = torch.einsum("ksv,lsv->klv", c, c)[:, :, None]  # Σ W_i ε_i (W_i ε_i)'
        half = torch.stack([torch.stack([self._half(rows, c[k], q, k, other) for other in range(m)]) for k in range(m)])
        outer = squares - half - half.transpose(0, 1)
        return self._tested(torch.einsum("kr,rbv->kbv", self.rows_of_test, q), outer)

    def _half(self, rows: torch.Tensor, c: torch.Tensor, q: torch.Tensor, k: int, other: int) -> torch.Tensor:
        """What the fit takes away from Σ W_i ε_i (W_i ε_i)' of two rows of the contrast, one half of it (b, v)."""
        crossed = self._flipped(rows, c * self.fitted[other].T[:, :, None])
        return (q * (crossed - torch.einsum("rt,tbv->rbv", self.grams[k, other], q) / 2)).sum(dim=0)

    def _flipped(self, signs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Σ_i s_i of values (r, S, v), (r, b, v)."""
        r, n_subjects, width = values.shape
        flat = values.transpose(0, 1).reshape(n_subjects, r * width)
        return self.product(signs, flat).view(-1, r, width).transpose(0, 1)

    def _tested(self, estimate: torch.Tensor, outer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores, and t or F (b, v), of estimates (m, b, v) and Σ u_i u_i' (m, m, b, v)."""
        m, variance = len(estimate), torch.einsum("kkbv->bv", outer)
        if m == 1 and self.scale.kind == "t":
            signed = estimate[0] * variance.clamp(min=_NO_VARIANCE).rsqrt()
        else:  # Wald's Q, a row after the other given those before it
            signed = torch.zeros_like(variance)
            for k in range(m):
                pivot = outer[k, k].clone()
                usable = pivot > _SINGULAR * variance
                per_pivot = torch.where(usable, pivot, 1.0).reciprocal() * usable
                signed += estimate[k] ** 2 * per_pivot
                factors = outer[k + 1 :, k] * per_pivot
                estimate[k + 1 :] -= factors * estimate[k]
                outer[k + 1 :, k + 1 :] -= factors[:, None] * outer[k, k + 1 :]
            signed *= self.to_f
        signed = torch.where(variance > _NO_VARIANCE, signed, 0.0)
        return signed.abs() if self.scale.kind == "t" and not self.scale.is_signed else signed, signed

    def _statistic(self, score: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
        return signed
