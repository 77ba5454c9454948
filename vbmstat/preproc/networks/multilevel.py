"""The multilevel activation: six sigmoids that favour the values 0, 1, 1.5, 2, 2.5 and 3.

A tissue map (p0) is 1 in CSF, 2 in GM, 3 in WM, 0 outside, and 1.5 and 2.5 where CAT12 has its mixed classes. The
activation is a staircase with these treads,

    f(x) = 1/2 sum_k sigmoid(alpha (x - t_k)),  k = 1 … 6,

with one learnt number, the steepness alpha. The paper prints the formula as a picture, so that the thresholds are this
project's: the first two coincide (there is no tread at 0.5), and pure classes get treads of 0.6 and mixed ones of 0.4
standard deviations of the input, so that mixed classes are rarer, as in the template. After Hu et al. 2019
(doi:10.1007/978-3-030-11726-9_11).
"""

from __future__ import annotations

import torch
from torch import nn

PEAKS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
_THRESHOLDS = (-1.0, -1.0, -0.4, 0.0, 0.6, 1.0)
_STEEPNESS = 20.0  # to begin with


class MultilevelActivation(nn.Module):
    """Real numbers to values of a tissue map between 0 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(_STEEPNESS))  # alpha

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Staircase of six steps of 0.5, any shape."""
        total = torch.zeros_like(x)
        for threshold in _THRESHOLDS:
            total = total + torch.sigmoid(self.steepness * (x - threshold))
        return 0.5 * total
