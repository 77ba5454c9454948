"""The UNet: 3-D with instance norm, depth 4 and channels doubling from 8 in the paper; 2-D for tracts on slices.

Where the paper's text is silent, the layout is that of Ronneberger et al. 2015 (doi:10.1007/978-3-319-24574-4_28),
which it cites: at each level two convolutions of 3 × 3 × 3, each followed by instance norm and activation; 2 × 2 × 2
max pooling before a level's convolutions on the way down; transposed convolutions of 2 × 2 × 2 on the way up, whose
result is concatenated with the level's own features; a convolution of 1 × 1 × 1 at the end. Instance norm has no
parameters, as is torch's default, and the convolutions before it have no bias, which it would remove.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

N_CHANNELS, DEPTH = 8, 4
_LAYERS = {2: (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d), 3: (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d)}


class UNet(nn.Module):
    """UNet; pads images of any shape with zeros to a multiple of ``2 ** depth``.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of input and output.
    n_channels : int
        Channels of the finest level; each deeper level has twice as many.
    depth : int
        Number of poolings.
    activation : callable
        Creates the activation after each norm; called with ``inplace=True``.
    final : Module, optional
        Layer after the last convolution; none by default.
    norm : callable
        Creates the norm after each convolution; called with the number of channels.
    n_dims : {2, 3}
        Spatial axes of images; tensors below are written for 3.
    """

    def __init__(  # noqa: PLR0913 - the eight hyperparameters of the network
        self,
        in_channels: int,
        out_channels: int,
        n_channels: int = N_CHANNELS,
        depth: int = DEPTH,
        activation: Callable[..., nn.Module] = nn.ReLU,
        final: nn.Module | None = None,
        norm: Callable[[int], nn.Module] = nn.InstanceNorm3d,
        n_dims: int = 3,
    ) -> None:
        super().__init__()
        convolution, transposed, pooling = _LAYERS[n_dims]
        widths = [n_channels * 2**level for level in range(depth + 1)]

        def two_convolutions(before: int, after: int) -> nn.Sequential:
            return nn.Sequential(
                convolution(before, after, 3, padding=1, bias=False), norm(after), activation(inplace=True),
                convolution(after, after, 3, padding=1, bias=False), norm(after), activation(inplace=True),
            )  # fmt: skip

        down = zip([in_channels, *widths[:-1]], widths, strict=True)
        self.down = nn.ModuleList([two_convolutions(before, after) for before, after in down])
        up = list(zip(widths[1:], widths[:-1], strict=True))[::-1]  # coarse to fine
        self.enlarge = nn.ModuleList([transposed(below, here, 2, stride=2) for below, here in up])
        self.up = nn.ModuleList([two_convolutions(2 * here, here) for _, here in up])
        self.last = convolution(n_channels, out_channels, 1)
        self.final = final if final is not None else nn.Identity()
        self.pool = pooling(2)
        self.depth = depth

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Output of the network, (B, out_channels, X, Y, Z), for images (B, in_channels, X, Y, Z)."""
        shape = image.shape[2:]
        features = functional.pad(image, _padding(shape, 2**self.depth))
        kept = []
        for level, convolve in enumerate(self.down):
            features = convolve(features if level == 0 else self.pool(features))
            kept.append(features)
        kept.pop()
        for enlarge, convolve in zip(self.enlarge, self.up, strict=True):
            features = convolve(torch.cat([kept.pop(), enlarge(features)], dim=1))
        out: torch.Tensor = self.final(self.last(features))
        for axis, n in enumerate(shape, start=2):
            out = out.narrow(axis, (out.shape[axis] - n) // 2, n)
        return out


def receptive_field(depth: int = DEPTH) -> int:
    """Edge length (voxels) of the input cube that one output voxel depends on through convolutions.

    Instance norm also makes it depend on the mean and variance of the whole image.

    Examples
    --------
    >>> receptive_field()
    200
    """
    below, all_levels = (1 << depth) - 1, (1 << (depth + 1)) - 1  # sums of the levels' voxel sizes
    return 1 + 4 * (all_levels + below) + below  # four convolutions at each level, down and up; the poolings


def n_parameters(network: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _padding(shape: torch.Size, multiple: int) -> list[int]:
    """Zeros before and after each axis, last axis first, as torch's `pad` expects."""
    pads: list[int] = []
    for n in reversed(shape):
        missing = -n % multiple
        pads += [missing // 2, missing - missing // 2]
    return pads
