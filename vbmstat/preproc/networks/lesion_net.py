"""The network that proposes white-matter hypointensities: fixed filters at several scales, and a learnt perceptron.

A lesion is known by simple things at several scales: dark for white matter, enclosed by it or at a ventricle, where the
template has white matter. The filters (Gaussians, minima, maxima) are given, only their mixture is learnt, so that a
few dozen brains and minutes of one CPU core are enough; a UNet on the same cases needs far more of both.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vbmstat.image.grid import sample
from vbmstat.image.smooth import smooth

N_INPUTS = 3  # intensity relative to the tissue means (GM 0, WM 1), GM prior, WM prior
N_DESCRIPTORS = 37
_RARE = -3.0  # logit of lesion before training
_NEVER = -12.0  # logit where no lesion can be
_DARK, _CAVITY, _WM_FROM, _GM_TO = 0.95, -1.2, 0.25, 0.6  # candidates: intensity below, above; WM prior above, GM below
_LEAST_SCALE, _FAR = 1e-3, 6.0  # of a descriptor; standard deviations beyond which it says nothing more
_FINE_FWHM, _COARSE_FWHM = (2.0, 4.0), (4.0, 8.0)  # voxels; the coarse ones of 2 × 2 × 2 voxels


class LesionNet(nn.Module):
    """A perceptron on the descriptors of each voxel that can be lesion.

    Parameters
    ----------
    n_channels : int
        Units of each hidden layer.
    depth : int
        Number of hidden layers.
    """

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, n_channels: int = 48, depth: int = 2) -> None:
        super().__init__()
        widths = [N_DESCRIPTORS, *[n_channels] * depth]
        hidden = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*hidden, nn.Linear(n_channels, 1))
        self.register_buffer("centre", torch.zeros(N_DESCRIPTORS))
        self.register_buffer("scale", torch.ones(N_DESCRIPTORS))
        nn.init.constant_(self.layers[-1].bias, _RARE)  # type: ignore[arg-type]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, X, Y, Z) for images (B, 3, X, Y, Z), or (B, 1, n, 1, 1) for descriptors (B, 37, n, 1, 1)."""
        if inputs.shape[1] == N_DESCRIPTORS:
            return self._classify(inputs.movedim(1, -1)).movedim(-1, 1)
        return torch.stack([self._logits(image) for image in inputs])

    def _logits(self, image: torch.Tensor) -> torch.Tensor:
        """Of one image, (1, X, Y, Z)."""
        at = candidates(image)
        values = self._classify(describe(image, at))[:, 0].float()
        logits = torch.full(image.shape[1:], _NEVER, device=image.device)
        return logits.index_put(tuple(at.T), values)[None]

    def standardise(self, descriptors: torch.Tensor) -> None:
        """Take centre and scale of the descriptors from a sample of them, (n, 37)."""
        self.centre.copy_(descriptors.mean(0))
        self.scale.copy_(descriptors.std(0) + _LEAST_SCALE)

    def _classify(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Logits (…, 1) of descriptors (…, 37)."""
        logits: torch.Tensor = self.layers(((descriptors - self.centre) / self.scale).clamp(-_FAR, _FAR))
        return logits


def candidates(image: torch.Tensor) -> torch.Tensor:
    """Voxels that can be lesion: darker than white matter, not CSF, where the template has white matter; (n, 3)."""
    contrast, gm, wm = image
    is_candidate: torch.Tensor = (contrast < _DARK) & (contrast > _CAVITY) & (wm > _WM_FROM) & (gm < _GM_TO)
    return is_candidate.nonzero()


@torch.no_grad()
def describe(image: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Descriptors of voxels, (n, 37).

    Parameters
    ----------
    image : Tensor, (3, X, Y, Z)
        The network's inputs.
    at : Tensor, (n, 3)
        Voxels.
    """
    contrast, gm, wm = image.float()
    bright, dark = contrast.clamp(0, 1), (-contrast / 1.5).clamp(0, 1)  # white matter, CSF by intensity
    missing = (wm - gm).clamp(min=0) * (1 - contrast).clamp(0, 1.5)  # dark where white matter is expected
    is_wm = wm * (contrast > 0.7)
    columns = [contrast, gm, wm, missing, *_extremes(contrast)]
    maps = torch.stack([contrast, bright, dark, missing, contrast.square()])
    for fwhm in _FINE_FWHM:
        blurred = smooth(maps, np.full(3, fwhm), 2.5)
        blurred[4] = (blurred[4] - blurred[0].square()).clamp(min=0).sqrt()  # local standard deviation
        columns += list(blurred)
    values = [column[tuple(at.T)] for column in columns]
    coarse = torch.stack([contrast, bright, dark, missing, gm, wm, is_wm, is_wm * contrast])
    coarse = functional.avg_pool3d(coarse[None], 2, ceil_mode=True)[0]
    points = ((at.T.float() - 0.5) / 2)[:, :, None, None]
    for fwhm in _COARSE_FWHM:
        wide = sample(smooth(coarse, np.full(3, fwhm), 2.5), points, padding_mode="border")[:, :, 0, 0]
        values += list(wide[:6])
        values.append((wide[7] + 0.01) / (wide[6] + 0.01) - values[0])  # darker than the white matter around
    middle = (torch.tensor(contrast.shape, dtype=torch.float32, device=at.device) - 1) / 2
    x, y, z = ((at - middle) / middle).T
    return torch.stack([*values, x.abs(), y, z], dim=1)


def _extremes(contrast: torch.Tensor) -> list[torch.Tensor]:
    """The darkest and brightest voxel within 1 and 2 voxels, and the image without thin dark and thin bright parts."""
    low3, high3 = _lowest(contrast, 3), _highest(contrast, 3)
    return [low3, high3, _lowest(contrast, 5), _highest(contrast, 5), _highest(low3, 3), _lowest(high3, 3)]


def _highest(image: torch.Tensor, size: int) -> torch.Tensor:
    """Maximum over a cube, one axis after the other, which is several times faster."""
    for axis in range(3):
        kernel = [size if other == axis else 1 for other in range(3)]
        image = functional.max_pool3d(image[None, None], kernel, stride=1, padding=[k // 2 for k in kernel])[0, 0]
    return image


def _lowest(image: torch.Tensor, size: int) -> torch.Tensor:
    return -_highest(-image, size)
