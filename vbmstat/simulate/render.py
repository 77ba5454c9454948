"""Render intensities to a T1w image with texture, partial volume, bias field and Rician noise.

The steps follow the scanner: the tissue's signal (mean and texture) is blurred by the point-spread function and shaded
by the coil sensitivities; noise comes last. Noise and bias are in BrainWeb's percentages (Cocosco et al. 1997): noise
is the sigma of each complex channel relative to the brightest brain tissue, bias the range of the field over the brain
(40 % is 0.8 to 1.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.simulate import labels as label_map

WM_INTENSITY = 600.0  # mean of cerebral WM in the image, before bias; keeps fat below 1000
TEXTURE_FWHM_MM = 7.0
STRUCTURE_SD = 0.015  # sd of a structure's mean around its table value, relative to WM
_FWHM_TO_SIGMA = 1.0 / np.sqrt(8.0 * np.log(2.0))
_FAT, _MUSCLE = 1.20, 0.50  # relative to WM
_SUBCUTANEOUS_MM = 5.0  # fat lies within this distance of the skin


@dataclass(frozen=True)
class Acquisition:
    """What the scanner adds to noise-free intensities."""

    noise_percent: float = 3.0  # Rician sigma in percent of the WM intensity (BrainWeb's definition)
    bias_percent: float = 40.0  # range of the multiplicative field over the brain; 40 gives 0.8 to 1.2
    texture_percent: float = 2.0  # standard deviation of the smooth variation within structures, in percent of WM
    # full width at half maximum of the Gaussian point-spread function, which creates partial volume
    psf_fwhm_mm: float = 1.0


_USUAL = Acquisition()


def render_t1w(
    labels: Volume, *, contrast: float = 1.0, structure_sd: float = STRUCTURE_SD, seed: int = 0, **acquisition: float
) -> Volume:
    """Render a whole-head T1w image from a FreeSurfer-type label map.

    Parameters
    ----------
    labels : Volume, (1, X, Y, Z)
        Whole-head label map (see :mod:`vbmstat.simulate.labels`).
    contrast : float
        Exponent of the structures' intensities relative to WM: above 1, GM and CSF get darker.
    structure_sd : float
        Standard deviation of a structure's mean around its table value, relative to WM.
    seed : int
        Same seed, same image.
    **acquisition
        Fields of :class:`Acquisition`.

    Returns
    -------
    Volume, (1, X, Y, Z), float32
        On the grid of `labels`; WM is about 600, all values about 0 to 1000.

    Raises
    ------
    ScanError
        If the map holds an unknown label.
    """
    rng = np.random.default_rng(seed)
    signal = structure_signal(labels, rng, contrast, structure_sd)
    return image_from_signal(signal, brain_of(labels), labels.grid, rng, Acquisition(**acquisition))


def structure_signal(
    labels: Volume, rng: np.random.Generator, contrast: float = 1.0, structure_sd: float = STRUCTURE_SD
) -> np.ndarray:
    """Noise-free signal relative to WM: a mean for each structure, plus fat, (X, Y, Z), float32."""
    means = {
        label: mean**contrast + (mean > 0) * rng.normal(0, structure_sd) for label, mean in label_map.INTENSITY.items()
    }
    signal = label_map.lookup(labels, means).numpy()
    _add_fat(signal, labels, rng)
    return signal


def brain_of(labels: Volume) -> np.ndarray:
    """Brain mask of a label map, CSF included, (X, Y, Z), bool."""
    return label_map.tissue_labels(labels).data[0].numpy() > 0


def image_from_signal(
    signal: np.ndarray, brain: np.ndarray, grid: Grid, rng: np.random.Generator, acquisition: Acquisition = _USUAL
) -> Volume:
    """Apply texture, point spread, bias field and Rician noise to noise-free intensities.

    Parameters
    ----------
    signal : ndarray, (X, Y, Z), float32
        Intensity relative to WM.
    brain : ndarray, (X, Y, Z), bool
        Mask over which the bias field has its range.
    grid : Grid
        Grid of both arrays.
    rng : Generator
        Random numbers for texture, field and noise.
    acquisition : Acquisition
        Noise, bias field, texture and point spread.

    Returns
    -------
    Volume, (1, X, Y, Z), float32
    """
    texture = smooth_noise(grid, TEXTURE_FWHM_MM, rng)
    signal = signal + texture * (acquisition.texture_percent / 100.0) * (signal > 0.1)  # bone and air stay dark
    if acquisition.psf_fwhm_mm > 0:
        sigma_voxels = acquisition.psf_fwhm_mm * _FWHM_TO_SIGMA / grid.voxel_size_mm
        signal = ndimage.gaussian_filter(signal, sigma_voxels, truncate=3.0)
    signal *= bias_field(brain, grid, acquisition.bias_percent, rng)
    noisy = rician(signal, acquisition.noise_percent / 100.0, rng)
    return Volume(torch.from_numpy(noisy * np.float32(WM_INTENSITY))[None], grid)


def bias_field(brain: np.ndarray, grid: Grid, percent: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth multiplicative field whose range over the brain is 1 ± percent/200, (X, Y, Z), float32.

    A sum of cosines with random weights and at most 1.5 periods over the field of view: wavelengths of 130 mm or more.
    """
    if percent == 0 or not brain.any():
        return np.ones(grid.shape, np.float32)
    waves = [np.cos(np.pi * np.outer(np.arange(4), (np.arange(n) + 0.5) / n)) for n in grid.shape]  # 3 × (4, n)
    orders = np.add.outer(np.add.outer(np.arange(4), np.arange(4)), np.arange(4))
    weights = rng.normal(size=(4, 4, 4)) / (1.0 + orders) ** 1.5 * ((orders > 0) & (orders <= 3))
    field = np.einsum("abc,ai,bj,ck->ijk", weights, *waves, optimize=True).astype(np.float32)
    low, high = field[brain].min(), field[brain].max()
    relative: np.ndarray = (field - (low + high) / 2) / (high - low)  # -0.5 to 0.5 over the brain
    return 1.0 + percent / 100.0 * relative.clip(-1.0, 1.0)


def rician(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of a complex signal with noise of sd `sigma` in both channels, float32."""
    if sigma == 0:
        return signal.astype(np.float32)
    real = rng.standard_normal(signal.shape, dtype=np.float32) * np.float32(sigma) + signal
    imaginary = rng.standard_normal(signal.shape, dtype=np.float32) * np.float32(sigma)
    magnitude: np.ndarray = np.hypot(real, imaginary)
    return magnitude.astype(np.float32)


def smooth_noise(grid: Grid, fwhm_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit variance smoothed to `fwhm_mm`, (X, Y, Z), float32.

    Drawn on voxels of a quarter of the FWHM if the grid is finer than that, and interpolated.
    """
    coarse = grid.with_voxel_size(np.maximum(fwhm_mm / 4.0, grid.voxel_size_mm))
    white = rng.standard_normal(coarse.shape, dtype=np.float32)
    sigma_voxels = fwhm_mm * _FWHM_TO_SIGMA / coarse.voxel_size_mm
    smooth: np.ndarray = ndimage.gaussian_filter(white, sigma_voxels, truncate=3.0, mode="wrap")
    if coarse.shape != grid.shape:  # both grids share their outer faces, as align_corners=False assumes
        fine = functional.interpolate(
            torch.from_numpy(smooth)[None, None], size=grid.shape, mode="trilinear", align_corners=False
        )
        smooth = fine[0, 0].numpy()
    smooth /= smooth.std()
    return smooth


def _add_fat(signal: np.ndarray, labels: Volume, rng: np.random.Generator) -> None:
    """Turn part of the soft tissue (507) from muscle into fat: under the skin, and in patches below."""
    values = labels.data[0].numpy()
    soft = values == label_map.SOFT_TISSUE_LABEL
    if not soft.any():
        return
    reach = _SUBCUTANEOUS_MM / labels.grid.voxel_size_mm
    near_skin = ndimage.gaussian_filter((values == label_map.SKIN_LABEL).astype(np.float32), reach / 2, truncate=3.0)
    patches = smooth_noise(labels.grid, 9.0, rng)
    fat = 1.0 / (1.0 + np.exp(-3.0 * (patches + 25.0 * near_skin - 1.5)))
    signal[soft] += ((_FAT - _MUSCLE) * fat[soft]).astype(np.float32)
