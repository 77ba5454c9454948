"""Seven artefacts of T1w images, medium and strong: Rician noise, bias field, blur, ghosting, motion, ringing, spikes.

They are the artefacts of the paper's robustness test (Fisch et al. 2026, doi:10.1038/s43588-026-00953-7). The paper
does not report strengths; those in :data:`ARTEFACTS` are this project's. Each artefact is a pure function of an image,
a strength in physical units and a random generator, so that medium and strong with the same seed differ only in
strength. Medium is meant to be what a careful radiographer would still accept, strong what would be rescanned.

Motion, ghosting, spikes and ringing are made in the k-space of the magnitude image (Wood & Henkelman 1985,
doi:10.1118/1.595783; Graves & Mitchell 2013, doi:10.1002/jmri.24167; Veraart et al. 2016, doi:10.1002/mrm.25866). The
phase-encoding axis is anterior-posterior. Training uses the functions that take tensors for augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vbmstat.image.grid import apply_affine, sample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.simulate import render

CLEAN = "none"
STRENGTHS = ("medium", "strong")
_PHASE_AXIS = 1  # anterior-posterior in RAS+
_HEAD_FROM = 0.15  # share of the brightest intensity; darker voxels are air or bone
_LEAST_GAIN = 0.1  # lower limit of a bias field
_MOVED_LINES = (0.02, 0.10)  # spatial frequencies (1 / voxel) read while the head was moved
_SPIKE_PERIODS = (6, 40)  # periods over the field of view, per axis


def moved(image: torch.Tensor, angles: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Rotate an image (X, Y, Z) about its centre by three angles (radians) and shift it by voxels, trilinear."""
    rotation = Rotation.from_euler("XYZ", angles.numpy()).as_matrix()
    middle = (np.array(image.shape) - 1) / 2
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = middle - rotation @ middle + shift.numpy()
    return sample(image[None], apply_affine(matrix, voxel_indices(image.shape, image.device)))[0]


def read_while_moved(
    image: torch.Tensor, angles: torch.Tensor, shift: torch.Tensor, during: torch.Tensor, axis: int
) -> torch.Tensor:
    """Magnitude image with some k-space lines acquired after the head moved.

    Parameters
    ----------
    image : Tensor, (X, Y, Z)
        Image before the motion.
    angles, shift : Tensor, (3,)
        Rotation (radians) and shift (voxels).
    during : Tensor, (n,), bool
        Lines along `axis` acquired after the motion, in the order of ``fftfreq``.
    axis : int
        Axis along which `during` selects lines.
    """
    lines = during.reshape([-1 if a == axis else 1 for a in range(3)])
    spectrum = torch.where(lines, torch.fft.fftn(moved(image, angles, shift)), torch.fft.fftn(image))
    return _magnitude(spectrum)


def with_line_gains(image: torch.Tensor, gain: torch.Tensor, axis: int) -> torch.Tensor:
    """Magnitude after multiplying k-space along an axis by gains (n,), in the order of ``fftfreq``."""
    spectrum = torch.fft.fft(image, dim=axis) * gain.reshape([-1 if a == axis else 1 for a in range(3)])
    lines: torch.Tensor = torch.fft.ifft(spectrum, dim=axis)
    return lines.abs()


def ghosts(image: torch.Tensor, loss: float, every: int, axis: int) -> torch.Tensor:
    """Weaken every `every`-th line, but not k = 0, by the share `loss`: `every` - 1 ghosts of about loss / every."""
    gain = torch.ones(image.shape[axis], device=image.device)
    gain[every // 2 :: every] = 1 - loss  # k = 0 is index 0
    return with_line_gains(image, gain, axis)


def truncated(image: torch.Tensor, share: float, axis: int) -> torch.Tensor:
    """Gibbs ringing: remove the outer `share` of k-space along an axis."""
    frequency = torch.fft.fftfreq(image.shape[axis], device=image.device).abs()
    return with_line_gains(image, (frequency <= 0.5 * (1 - share)).float(), axis)


def with_spike(image: torch.Tensor, at: list[int], value: torch.Tensor) -> torch.Tensor:
    """Magnitude after adding a complex value to one point of k-space."""
    spectrum = torch.fft.fftn(image)
    spectrum[at[0], at[1], at[2]] += value.to(spectrum)
    return _magnitude(spectrum)


def _magnitude(spectrum: torch.Tensor) -> torch.Tensor:
    image: torch.Tensor = torch.fft.ifftn(spectrum)
    return image.abs()


@dataclass(frozen=True)
class Artefact:
    """One of the seven artefacts with its two strengths."""

    name: str
    unit: str  # unit and meaning of the strengths
    # strengths in that unit
    medium: float
    strong: float
    make: Callable[[Volume, float, np.random.Generator], Volume]  # (image, strength, generator) -> image

    def strength(self, name: str) -> float:
        """Value of ``medium`` or ``strong``."""
        return {"medium": self.medium, "strong": self.strong}[name]


def reference_intensity(image: Volume) -> float:
    """Intensity of bright tissue: the 90th percentile of the head, close to WM in a T1w image."""
    values = image.data[image.data > _HEAD_FROM * _top(image)].numpy()
    return float(np.percentile(values, 90.0))


def noise(image: Volume, percent: float, rng: np.random.Generator) -> Volume:
    """Add Rician noise with sigma in percent of :func:`reference_intensity`."""
    sigma = percent / 100.0 * reference_intensity(image)
    return _like(image, render.rician(image.data[0].numpy(), sigma, rng))


def bias(image: Volume, percent: float, rng: np.random.Generator) -> Volume:
    """Multiply by a smooth field from 1 - percent / 100 to 1 + percent / 100 over the head."""
    field = render.bias_field(_head(image), image.grid, 2 * percent, rng)
    return _like(image, image.data[0].numpy() * np.maximum(field, _LEAST_GAIN))


def blur(image: Volume, fwhm_mm: float, rng: np.random.Generator) -> Volume:
    """Convolve with a Gaussian of this full width at half maximum."""
    sigma_voxels = fwhm_mm / np.sqrt(8.0 * np.log(2.0)) / image.grid.voxel_size_mm
    return _like(image, ndimage.gaussian_filter(image.data[0].numpy(), sigma_voxels, truncate=3.0))


def ghosting(image: Volume, percent: float, rng: np.random.Generator) -> Volume:
    """Add two ghosts with this percentage of the image's intensity, a third of the field of view away."""
    share = percent / 100.0
    return _like(image, ghosts(image.data[0], 3 * share / (1 + share), 3, _PHASE_AXIS) * (1 + share))


def motion(image: Volume, degrees_and_mm: float, rng: np.random.Generator) -> Volume:
    """Nod by d degrees, turn by d / 2 and shift by d mm while 8 % of the k-space lines are acquired."""
    n = image.grid.shape[_PHASE_AXIS]
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=3))
    angles = torch.tensor([1.0, 0.0, 0.5]) * signs * math.radians(degrees_and_mm)
    mm = torch.tensor([0.0, 0.5, 1.0]) * signs * degrees_and_mm
    shift = mm / torch.from_numpy(image.grid.voxel_size_mm)
    frequency = torch.fft.fftfreq(n)  # -0.5 to 0.5; lines are acquired in this order
    during = (frequency >= _MOVED_LINES[0]) & (frequency <= _MOVED_LINES[1])
    return _like(image, read_while_moved(image.data[0], angles, shift, during, _PHASE_AXIS))


def ringing(image: Volume, percent: float, rng: np.random.Generator) -> Volume:
    """Remove this percentage of the lines, the outermost ones."""
    return _like(image, truncated(image.data[0], percent / 100.0, _PHASE_AXIS))


def spikes(image: Volume, percent: float, rng: np.random.Generator) -> Volume:
    """Corrupt one k-space value: stripes with this percentage of :func:`reference_intensity` as amplitude."""
    at = [int(n) for n in rng.integers(*_SPIKE_PERIODS, size=3)]
    at = [min(n, size // 4) * sign % size for n, size, sign in zip(at, image.grid.shape, (1, 1, -1), strict=True)]
    size = percent / 100.0 * reference_intensity(image) * image.data[0].numel()
    phase = rng.uniform(0, 2 * np.pi)
    return _like(image, with_spike(image.data[0], at, torch.tensor(size * np.exp(1j * phase))))


ARTEFACTS = (
    Artefact("noise", "% of bright tissue, sigma", 4.0, 9.0, noise),
    Artefact("bias", "% up and down over the head", 30.0, 60.0, bias),
    Artefact("blur", "mm FWHM", 1.5, 3.0, blur),
    Artefact("ghosting", "% intensity of each ghost", 6.0, 20.0, ghosting),
    Artefact("motion", "degrees and mm", 1.0, 4.0, motion),
    Artefact("ringing", "% of lines not read", 40.0, 65.0, ringing),
    Artefact("spikes", "% of bright tissue, amplitude", 4.0, 12.0, spikes),
)


def add_artefact(image: Volume, artefact: Artefact, strength: str, seed: int) -> Volume:
    """Add an artefact to an image.

    Parameters
    ----------
    image : Volume, (1, X, Y, Z), float32
        T1w image, RAS+, arbitrary units.
    artefact : Artefact
        One of :data:`ARTEFACTS`.
    strength : {"medium", "strong"}
        Strength of the artefact.
    seed : int
        Same seed, same pattern at any strength.

    Returns
    -------
    Volume, (1, X, Y, Z), float32
    """
    which = [entry.name for entry in ARTEFACTS].index(artefact.name)
    return artefact.make(image, artefact.strength(strength), np.random.default_rng([seed, which]))


def _top(image: Volume) -> float:
    return float(np.percentile(image.data.numpy()[:, ::2, ::2, ::2], 99.5))


def _head(image: Volume) -> np.ndarray:
    """Voxels that are not air, (X, Y, Z), bool."""
    return image.data[0].numpy() > _HEAD_FROM * _top(image)


def _like(image: Volume, data: np.ndarray | torch.Tensor) -> Volume:
    return Volume(torch.as_tensor(data, dtype=torch.float32)[None], image.grid)
