"""Gaussian smoothing as a separable convolution."""

from __future__ import annotations

import numpy as np

from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch

_FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
_REACH_SIGMA = 6.0  # as SPM's kernel


def gaussian_kernel(fwhm_voxels: float, reach_sigma: float = _REACH_SIGMA) -> torch.Tensor:
    """One-dimensional Gaussian integrated over voxels, odd length, sum 1.

    Parameters
    ----------
    fwhm_voxels : float
        Full width at half maximum in voxels; 0 gives the identity.
    reach_sigma : float
        Half length of the kernel in standard deviations.
    """
    sigma = fwhm_voxels / _FWHM_PER_SIGMA
    if sigma < 1e-3:
        return torch.ones(1)
    radius = max(1, int(np.ceil(reach_sigma * sigma)))
    edges = torch.arange(-radius, radius + 2, dtype=torch.float64) - 0.5
    kernel: torch.Tensor = torch.special.ndtr(edges / sigma).diff()
    return (kernel / kernel.sum()).float()


def smooth(data: torch.Tensor, fwhm_voxels: np.ndarray, reach_sigma: float = _REACH_SIGMA) -> torch.Tensor:
    """Convolve images with a Gaussian; beyond the field of view is zero.

    Parameters
    ----------
    data : Tensor, (C, X, Y, Z)
        Images.
    fwhm_voxels : ndarray, (3,)
        Full width at half maximum along each axis, in voxels.
    reach_sigma : float
        Half length of the kernel in standard deviations.

    Returns
    -------
    Tensor, (C, X, Y, Z)
        With the same sum, except for what leaves the field of view.
    """
    for axis, width in enumerate(fwhm_voxels):
        kernel = gaussian_kernel(float(width), reach_sigma).to(data)
        if len(kernel) > 1:
            data = _multiply(_band(kernel, data.shape[axis + 1]), data, axis + 1)
    return data


def smooth_onto(
    data: torch.Tensor, source: Grid, target: Grid, fwhm_voxels: np.ndarray, reach_sigma: float = _REACH_SIGMA
) -> torch.Tensor:
    """Images smoothed and then resampled, trilinear, beyond the field of view zero; only what is wanted is computed.

    Parameters
    ----------
    data : Tensor, (C, X, Y, Z)
        Images on `source`.
    source, target : Grid
        Grids of `data` and of the result. If their axes are parallel, each axis takes one product with a matrix.
    fwhm_voxels : ndarray, (3,)
        Full width at half maximum in voxels of `source`.
    reach_sigma : float
        As in :func:`smooth`.

    Returns
    -------
    Tensor, (C, *target.shape)
    """
    to_source = np.linalg.inv(source.affine) @ target.affine
    scale = np.diag(to_source)[:3]
    if not np.allclose(to_source[:3, :3], np.diag(scale), rtol=0, atol=1e-7):
        return resample(smooth(data, fwhm_voxels, reach_sigma), source, target)
    for axis in np.argsort(np.array(target.shape) / source.shape):
        n = source.shape[axis]
        at = torch.arange(target.shape[axis], dtype=torch.float64) * scale[axis] + to_source[axis, 3]
        linear = (1 - (at[:, None] - torch.arange(n)).abs()).clamp(min=0).float()  # (n_out, n_in)
        kernel = gaussian_kernel(float(fwhm_voxels[axis]), reach_sigma)
        data = _multiply((linear @ _band(kernel, n)).to(data), data, int(axis) + 1)
    return data


def _band(kernel: torch.Tensor, n: int) -> torch.Tensor:
    """Matrix that convolves n values: its product is faster in BLAS than a 1-D convolution."""
    radius, offset = len(kernel) // 2, torch.arange(n, device=kernel.device)
    distance = (offset[:, None] - offset[None]).abs()  # (n_out, n_in)
    return torch.where(distance <= radius, kernel[(radius + distance).clamp(max=2 * radius)], 0.0)


def _multiply(matrix: torch.Tensor, data: torch.Tensor, dim: int) -> torch.Tensor:
    """The product of a matrix with images (C, X, Y, Z) along one dimension."""
    if dim == 3:
        return data @ matrix.T
    if dim == 2:
        return matrix @ data
    n_images, n, *others = data.shape
    return (matrix @ data.reshape(n_images, n, -1)).reshape(n_images, len(matrix), *others)


def smooth_map(volume: Volume, fwhm_mm: float) -> Volume:
    """Smooth maps with an isotropic Gaussian of `fwhm_mm` full width at half maximum; beyond the borders is zero."""
    return Volume(smooth(volume.data, fwhm_mm / volume.grid.voxel_size_mm).contiguous(), volume.grid)
