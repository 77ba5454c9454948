"""Twelve augmentations of T1w images.

Each is a pure function of an image (X, Y, Z), a strength and a random generator. They are the paper's twelve (Fisch et
al. 2026): bias field, motion, noise from a chi distribution, blur, ghosting, spikes, downsampling, translation, flip,
brightness, contrast, Gibbs ringing. The strengths are this project's. The paper's own package (mriaug) has been
unmaintained since its first weeks, and TorchIO works on CPU arrays and needs SimpleITK and 15 more packages; the
functions here are short and run on the image's device.

The k-space operations (motion, ghosting, spikes, ringing) are in :mod:`vbmstat.simulate.artefacts`; this module draws
their parameters. Noise follows Aja-Fernández et al. 2014 (doi:10.1016/j.mri.2013.12.001).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vbmstat.image.smooth import smooth
from vbmstat.simulate import artefacts

Source = torch.Generator
_N_LOW_FREQUENCIES = 2  # of the bias field: periods over the field of view
_MAX_COILS = 4
_MAX_GHOSTS = 4


def bias_field(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Multiply by a smooth field within ``1 ± strength``, the inverse Fourier transform of low-frequency noise."""
    spectrum = torch.zeros(image.shape[0], image.shape[1], image.shape[2] // 2 + 1, dtype=torch.complex64)
    low = [*range(_N_LOW_FREQUENCIES + 1), *range(-_N_LOW_FREQUENCIES, 0)]
    for x in low:
        for y in low:
            for z in range(min(_N_LOW_FREQUENCIES + 1, spectrum.shape[2])):
                spectrum[x, y, z] = torch.complex(*torch.randn(2, generator=source)) / (1 + x * x + y * y + z * z)
    spectrum[0, 0, 0] = 0
    field: torch.Tensor = torch.fft.irfftn(spectrum, s=image.shape).to(image.device)
    return image * (1 + strength * field / field.abs().max())


def motion(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Turn the head by up to `strength` degrees, and shift it by as many voxels, for a fifth of the k-space lines."""
    turn = math.radians(strength) * (2 * torch.rand(3, generator=source) - 1)
    shift = strength * (2 * torch.rand(3, generator=source) - 1)
    axis = _pick(3, source)
    n = image.shape[axis]
    first = _pick(n, source)
    during = (torch.arange(n, device=image.device) - first) % n < max(1, n // 5)
    during[0] = False  # keeps the mean
    return artefacts.read_while_moved(image, turn, shift, during, axis)


def chi_noise(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Magnitude of 1 to 4 coils with Gaussian noise of SD `strength` in each real and imaginary channel."""
    n_channels = 2 * (1 + _pick(_MAX_COILS, source))
    total = (image + strength * _noise(image, source)).square()
    for _ in range(n_channels - 1):
        total += (strength * _noise(image, source)).square()
    return total.sqrt()


def blur(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Convolve with a Gaussian whose full width at half maximum is drawn per axis, up to `strength` voxels."""
    width = strength * torch.rand(3, generator=source)
    return smooth(image[None], width.numpy(), 3.0)[0]


def ghosting(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Weaken every 2nd to 5th k-space line along an axis by the share `strength`, which gives ghosts."""
    axis, every = _pick(3, source), 2 + _pick(_MAX_GHOSTS - 1, source)
    return artefacts.ghosts(image, strength, every, axis)


def spikes(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Corrupt one k-space value: stripes with an amplitude of `strength` times the brightest voxel."""
    at = [_pick(n, source) for n in image.shape]
    size = strength * float(image.max()) * image.numel()
    phase = 2j * torch.pi * torch.rand(1, generator=source)
    return artefacts.with_spike(image, at, size * torch.exp(phase)[0])


def downsample(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Average to slices up to ``1 + strength`` times as thick along one axis, and interpolate back."""
    axis = _pick(3, source)
    n = image.shape[axis]
    n_slices = max(2, round(n / (1 + strength * float(torch.rand(1, generator=source)))))
    lines = image.movedim(axis, -1)
    flat = lines.reshape(1, -1, n)
    thick = torch.nn.functional.adaptive_avg_pool1d(flat, n_slices)
    back = torch.nn.functional.interpolate(thick, n, mode="linear", align_corners=False)
    return back.reshape(lines.shape).movedim(-1, axis)


def ringing(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Gibbs ringing: remove the outer share `strength` of k-space along one axis."""
    return artefacts.truncated(image, strength, _pick(3, source))


def brightness(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Add or subtract `strength`, in units of the scaled image."""
    return image + strength * _sign(source)


def contrast(image: torch.Tensor, strength: float, source: Source) -> torch.Tensor:
    """Scale the distance from 0.5 by 1 ± `strength`."""
    return 0.5 + (image - 0.5) * (1 + strength * _sign(source))


def translation(strength: float, source: Source) -> tuple[int, int, int]:
    """Random shift of up to `strength` voxels per axis; whole voxels need no interpolation."""
    x, y, z = ((2 * torch.rand(3, generator=source) - 1) * strength).round().int().tolist()
    return x, y, z


def shifted(image: torch.Tensor, by: tuple[int, int, int]) -> torch.Tensor:
    """Shift an image (…, X, Y, Z) by whole voxels and fill in its smallest value."""
    moved = torch.roll(image, by, dims=(-3, -2, -1))
    low = image.amin()
    for axis, n in zip((-3, -2, -1), by, strict=True):
        if n:
            moved.narrow(axis, 0 if n > 0 else moved.shape[axis] + n, abs(n)).fill_(low)
    return moved


@dataclass(frozen=True)
class Augmentation:
    """An augmentation of the image with its range of strengths."""

    change: Callable[[torch.Tensor, float, Source], torch.Tensor]
    low: float
    high: float


IN_SCANNER = (  # on raw intensities (brightest tissue about 1), in the order in which they occur
    Augmentation(bias_field, 0.1, 0.4),
    Augmentation(motion, 0.5, 3.0),
    Augmentation(blur, 0.5, 2.0),
    Augmentation(ghosting, 0.1, 0.4),
    Augmentation(ringing, 0.2, 0.5),
    Augmentation(downsample, 0.5, 2.0),
    Augmentation(spikes, 0.01, 0.05),
    Augmentation(chi_noise, 0.01, 0.06),
)
ON_SCALED = (Augmentation(brightness, 0.0, 0.1), Augmentation(contrast, 0.0, 0.2))
MAX_SHIFT_VOXELS = 8.0


def apply(
    image: torch.Tensor, augmentations: tuple[Augmentation, ...], probability: float, source: Source
) -> torch.Tensor:
    """Apply each augmentation with a probability and a random strength; zeros, as around a brain, stay zero."""
    inside = image != 0
    for augmentation in augmentations:
        drawn, share = torch.rand(2, generator=source).tolist()
        if drawn < probability:
            strength = augmentation.low + share * (augmentation.high - augmentation.low)
            image = augmentation.change(image, strength, source)
    return image * inside


def _noise(image: torch.Tensor, source: Source) -> torch.Tensor:
    return torch.randn(image.shape, generator=source).to(image.device)


def _pick(n: int, source: Source) -> int:
    return int(torch.randint(n, (1,), generator=source))


def _sign(source: Source) -> float:
    return 1.0 if _pick(2, source) else -1.0
