"""The network that proposes white-matter hypointensities: a UNet on blocks of 2 × 2 × 2 voxels."""

from __future__ import annotations

import torch
from torch import nn

from vbmstat.preproc.networks.unet import UNet

N_INPUTS = 3  # intensity relative to the tissue means, GM prior, WM prior
_RARE = -5.0  # logit of lesion before training: one voxel in 150
_BLOCK = 2  # voxels along each axis that are channels of one voxel to the UNet


class LesionUNet(nn.Module):
    """A UNet on blocks of 2 × 2 × 2 voxels: logits at full resolution for an eighth of the work.

    Parameters
    ----------
    n_channels, depth : int
        As in :class:`vbmstat.preproc.networks.unet.UNet`.
    """

    def __init__(self, n_channels: int = 24, depth: int = 2) -> None:
        super().__init__()
        self.unet = UNet(N_INPUTS * _BLOCK**3, _BLOCK**3, n_channels, depth)
        if self.unet.last.bias is not None:
            nn.init.constant_(self.unet.last.bias, _RARE)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, X, Y, Z) for inputs (B, 3, X, Y, Z) with even sizes."""
        blocks = space_to_depth(inputs).contiguous(memory_format=torch.channels_last_3d)
        return depth_to_space(self.unet(blocks))


def space_to_depth(images: torch.Tensor) -> torch.Tensor:
    """Blocks of 2 × 2 × 2 voxels as channels: (B, C, 2 X, 2 Y, 2 Z) -> (B, 8 C, X, Y, Z)."""
    b, c, x, y, z = images.shape
    blocks = images.reshape(b, c, x // 2, 2, y // 2, 2, z // 2, 2)
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * 8, x // 2, y // 2, z // 2)


def depth_to_space(blocks: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`space_to_depth`: (B, 8 C, X, Y, Z) -> (B, C, 2 X, 2 Y, 2 Z)."""
    b, c, x, y, z = blocks.shape
    images = blocks.reshape(b, c // 8, 2, 2, 2, x, y, z)
    return images.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // 8, 2 * x, 2 * y, 2 * z)
