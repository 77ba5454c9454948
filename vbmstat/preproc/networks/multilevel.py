"""The multilevel activation: six sigmoids that favour the values 0, 1, 1.5, 2, 2.5 and 3.

A tissue map (p0) is 1 in CSF, 2 in GM, 3 in WM, 0 outside, and 1.5 and 2.5 in CAT12's mixed classes. The activation is
a staircase with these levels,

    f(x) = 1/2 sum_k sigmoid(alpha (x - t_k)),  k = 1 … 6,

with one trainable parameter, the steepness alpha. The paper shows the formula only as an image, so the thresholds are
this project's: the first two coincide (there is no level at 0.5), and levels are 0.6 standard deviations of the input
wide for pure classes and 0.4 for mixed ones, so that mixed classes are rarer, as in the template. After Hu et al. 2019
(doi:10.1007/978-3-030-11726-9_11).
"""

from __future__ import annotations

import torch
from torch import nn

PEAKS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0)
_THRESHOLDS = (-1.0, -1.0, -0.4, 0.0, 0.6, 1.0)
_STEEPNESS = 20.0  # initial value


class MultilevelActivation(nn.Module):
    """Maps real numbers to tissue map values between 0 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(_STEEPNESS))  # alpha

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A staircase of six steps of 0.5, for tensors of any shape."""
        total = torch.zeros_like(x)
        for threshold in _THRESHOLDS:
            total = total + torch.sigmoid(self.steepness * (x - threshold))
        return 0.5 * total
