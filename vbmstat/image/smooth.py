"""Gaussian smoothing as a separable convolution."""

from __future__ import annotations

import numpy as np

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
            data = _convolve(data, kernel, axis + 1)
    return data


def _convolve(data: torch.Tensor, kernel: torch.Tensor, dim: int) -> torch.Tensor:
    """Convolve along one dimension by a banded matrix product, which is faster in BLAS than a 1-D convolution."""
    n, radius = data.shape[dim], len(kernel) // 2
    offset = torch.arange(n, device=data.device)
    distance = (offset[:, None] - offset[None]).abs()  # (n_out, n_in)
    band = torch.where(distance <= radius, kernel[(radius + distance).clamp(max=2 * radius)], 0.0)
    if dim == data.ndim - 1:
        return data @ band.T
    product: torch.Tensor = torch.tensordot(data, band, dims=([dim], [1]))
    return product.movedim(-1, dim)


def smooth_map(volume: Volume, fwhm_mm: float) -> Volume:
    """Smooth maps with an isotropic Gaussian of `fwhm_mm` full width at half maximum; beyond the borders is zero."""
    return Volume(smooth(volume.data, fwhm_mm / volume.grid.voxel_size_mm).contiguous(), volume.grid)
