"""SYMNet: two half velocities from a network, and the symmetric warps from them.

After Mok & Chung 2020 (doi:10.1109/CVPR42600.2020.00470), as used in the paper. From the tissues of scan and template,
both on the template's grid, the network predicts a velocity of the scan (forward) and of the template (backward), which
meet half-way. Each is integrated by scaling and squaring in 7 steps. With h(v) for the flow of v
after unit time, the warps are ``h(forward) ∘ h(-backward)`` (template -> scan) and ``h(backward) ∘ h(-forward)``, each
the inverse of the other.

The network's output is in torch's normalised coordinates, -1 to 1 by its hyperbolic tangent; everything else here is in
voxels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from vbmstat.image.grid import from_normalised, sample_batch, voxel_indices
from vbmstat.preproc.networks.unet import DEPTH, N_CHANNELS, UNet

N_STEPS = 7
_SMALL = 1e-4  # sd of the last convolution's initial weights: initial warps are near the identity


class SymNet(nn.Module):
    """UNet with LeakyReLU and tanh that predicts two velocities between -1 and 1.

    Parameters
    ----------
    n_tissues : int
        Channels of the scan and of the template each.
    n_channels, depth : int
        Channels of the finest level and depth of the UNet.
    """

    def __init__(self, n_tissues: int = 2, n_channels: int = N_CHANNELS, depth: int = DEPTH) -> None:
        super().__init__()
        self.unet = UNet(2 * n_tissues, 6, n_channels, depth, activation=nn.LeakyReLU, final=nn.Tanh())
        nn.init.normal_(self.unet.last.weight, std=_SMALL)
        nn.init.zeros_(self.unet.last.bias)  # type: ignore[arg-type]

    def forward(self, scan_and_template: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward and backward velocity, each (B, 3, X, Y, Z), normalised (z, y, x), for (B, 2 n_tissues, X, Y, Z)."""
        both = self.unet(scan_and_template)
        return both[:, :3], both[:, 3:]


class Velocities(NamedTuple):
    """The two half velocities, each (B, 3, X, Y, Z), voxels."""

    forward: torch.Tensor
    backward: torch.Tensor


class Warps(NamedTuple):
    """Displacements in voxels, each (B, 3, X, Y, Z).

    Attributes
    ----------
    forward, backward : Tensor
        Template voxel -> scan voxel, and its inverse.
    half_forward, half_backward : Tensor
        From half-way to the scan and to the template.
    """

    forward: torch.Tensor
    backward: torch.Tensor
    half_forward: torch.Tensor
    half_backward: torch.Tensor


def predict(network: nn.Module, scan: torch.Tensor, template: torch.Tensor) -> Velocities:
    """Velocities (voxels) predicted by a network such as :class:`SymNet` for tissues (B, n_tissues, X, Y, Z)."""
    forward, backward = network(torch.cat([scan, template], dim=1))
    return Velocities(from_normalised(forward), from_normalised(backward))


def compose_warps(velocities: Velocities, n_steps: int = N_STEPS) -> Warps:
    """Symmetric warps from two half velocities."""
    n = len(velocities.forward)
    signed = torch.cat([velocities.forward, velocities.backward, -velocities.forward, -velocities.backward])
    half_forward, half_backward, back_from_scan, back_from_template = torch.split(exponentiate(signed, n_steps), n)
    return Warps(
        _compose(half_forward, back_from_template), _compose(half_backward, back_from_scan), half_forward, half_backward
    )


def exponentiate(velocity: torch.Tensor, n_steps: int = N_STEPS) -> torch.Tensor:
    """Displacement of the flow of a stationary velocity after unit time, by scaling and squaring.

    Parameters
    ----------
    velocity : Tensor, (B, 3, X, Y, Z), voxels
    n_steps : int
        Number of squarings.

    Returns
    -------
    Tensor, (B, 3, X, Y, Z), voxels
    """
    moved = velocity / 2.0**n_steps
    for _ in range(n_steps):
        moved = _compose(moved, moved)
    return moved


def pull(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Sample images (B, C, X, Y, Z) at ``x + displacement(x)``; displacement (B, 3, X, Y, Z) in voxels."""
    return sample_batch(images, voxel_indices(displacement.shape[2:], displacement.device) + displacement)


def _compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Displacement of ``(id + outer) ∘ (id + inner)``."""
    return inner + pull(outer, inner)
