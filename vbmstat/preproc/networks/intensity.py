"""Scaling of intensities to what the tissue networks were trained on."""

from __future__ import annotations

import torch

_LOW, _HIGH = 0.005, 0.995  # quantiles of the brain's voxels


def brain_range(image: torch.Tensor) -> tuple[float, float]:
    """The 0.5th and 99.5th percentile of the voxels above zero.

    Raises
    ------
    ValueError
        If there are none, or the two percentiles are equal.
    """
    values = image[image > 0]
    if values.numel() == 0:
        msg = "expected a brain, but no voxel is above zero"
        raise ValueError(msg)
    low, high = (_quantile(values, quantile) for quantile in (_LOW, _HIGH))
    if not high > low:
        msg = f"expected intensities that vary, but their 0.5th and 99.5th percentiles are {low:g} and {high:g}"
        raise ValueError(msg)
    return low, high


def scale_intensity(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Scale `low` to `high` to 0 to 1; above, ``1 + log10(x)`` compresses bright vessels without clipping.

    Parameters
    ----------
    image : Tensor, any shape
        Brain, zero outside; zeros stay at or below zero.
    low, high : float
        Result of :func:`brain_range`.
    """
    scaled = (image - low) / (high - low)
    return torch.where(scaled > 1, 1 + scaled.clamp(min=1).log10(), scaled)


def _quantile(values: torch.Tensor, quantile: float) -> float:
    """Quantile as in numpy (linear between order statistics); torch's own is limited to 16 million values."""
    position = quantile * (values.numel() - 1)
    below = int(position)
    first = float(values.kthvalue(below + 1).values)
    second = float(values.kthvalue(min(below + 2, values.numel())).values)
    return first + (position - below) * (second - first)
