"""Noise level and non-local means denoising.

Non-local means (Buades 2005; in 3-D MRI Coupé et al. 2008, doi:10.1109/TMI.2007.906087) replaces each voxel by a
weighted mean of nearby voxels with similar 3 × 3 × 3 neighbourhoods. The sum over offsets works on whole images, and
each pair of voxels is compared once.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from vbmstat.image import compiled

_SEARCH_RADIUS = 2  # voxels
_PATCH_VOXELS = 27
_MAD_TO_SIGMA = 1.4826
_FLAT_SHARE = 0.25  # share of the brain with the smallest gradients: mostly white matter
_PSEUDO_RESIDUAL_GAIN = (6.0 / 7.0) ** 0.5  # makes the variance of y - mean of 6 neighbours that of the noise


def noise_sigma(image: torch.Tensor, mask: torch.Tensor) -> float:
    """Standard deviation of the noise in a mask, in the image's unit.

    Parameters
    ----------
    image : Tensor, (X, Y, Z)
        Raw intensities.
    mask : Tensor, (X, Y, Z), bool
        Voxels to use; only the flattest quarter of them counts, as edges and folds look like noise.

    Notes
    -----
    Pseudo-residuals of Gasser (1986) as in Coupé et al. 2008, eq. 8. Underestimates noise that an earlier interpolation
    has smoothed.
    """
    neighbours = torch.zeros_like(image)
    for dim in range(3):
        neighbours += image.roll(1, dim) + image.roll(-1, dim)
    residual = _PSEUDO_RESIDUAL_GAIN * (image - neighbours / 6.0)
    flatness = _steepness(image)
    residual = residual[mask & (flatness <= _lower_quantile(flatness[mask], _FLAT_SHARE))]
    return float(_MAD_TO_SIGMA * (residual - residual.median()).abs().median())


def _steepness(image: torch.Tensor) -> torch.Tensor:
    """Squared gradient of the image averaged over 3 × 3 × 3 voxels, over a span of 4 voxels."""
    blurred = _box_mean(image)
    return sum((blurred.roll(2, dim) - blurred.roll(-2, dim)).square() for dim in range(3))  # type: ignore[return-value]


def _lower_quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    values = values[:: values.numel() // 200_000 + 1]
    return values.kthvalue(max(1, int(share * values.numel()))).values


def denoise(image: torch.Tensor, sigma: float, strength: float = 0.5) -> torch.Tensor:
    """Non-local means with a search radius of 2 voxels and patches of 3 × 3 × 3.

    Parameters
    ----------
    image : Tensor, (X, Y, Z), float32
        Intensities.
    sigma : float
        Noise standard deviation in the image's unit.
    strength : float
        Factor on the filter's bandwidth: the squared patch distance per voxel, less the 2 sigma² expected from noise,
        is compared with 2 (strength·sigma)².

    Returns
    -------
    Tensor, (X, Y, Z)
    """
    if sigma <= 0:
        return image
    reach = _SEARCH_RADIUS + 1
    padded = torch.nn.functional.pad(image[None, None], (reach,) * 6, mode="replicate")[0, 0]
    total, weights = padded.clone(), torch.ones_like(padded)
    scale = 1.0 / (2.0 * (strength * sigma) ** 2)
    radius = range(-_SEARCH_RADIUS, _SEARCH_RADIUS + 1)
    offsets = [o for o in product(radius, radius, radius) if o > (0, 0, 0)]  # the others are the same pairs
    if compiled.takes(padded):
        widths = np.float32(2.0 * sigma**2), np.float32(scale)
        _add_pairs(padded.numpy(), np.array(offsets), *widths, total.numpy(), weights.numpy())
    else:
        for offset in offsets:
            here, there = _overlap(offset, padded.shape)
            squared = (padded[here] - padded[there]).square_()
            distance = _box_mean(squared).sub_(2.0 * sigma**2).clamp_(min=0)
            weight = distance.mul_(-scale).exp_()
            total[here].addcmul_(weight, padded[there])
            total[there].addcmul_(weight, padded[here])
            weights[here] += weight
            weights[there] += weight
    inner = (slice(reach, -reach),) * 3
    return total.div_(weights)[inner].contiguous()


@compiled.compiled
def _add_pairs(  # noqa: C901, PLR0913 - one nest of loops
    image: np.ndarray, offsets: np.ndarray, noise: float, scale: float, total: np.ndarray, weights: np.ndarray
) -> None:
    """Add to `total` and `weights` what the voxels at these offsets give each other; all images (X, Y, Z).

    The weight is exp(-a), a = scale · max(mean squared distance of the patches - noise, 0), to three digits for a < 8:
    256th power of three terms of the series. Offsets are positive along x, or 0; pairs whose patches end at the edge
    are left out, which is padding.
    """
    n_x, n_y, n_z = image.shape
    mean, part, half = np.float32(1 / _PATCH_VOXELS), np.float32(1 / 256), np.float32(0.5)
    zero, one, most = np.float32(0), np.float32(1), np.float32(80)
    columns = np.zeros((3, n_z), np.float32)  # squared differences summed over x, of three rows
    boxes, weight = np.zeros(n_z, np.float32), np.zeros(n_z, np.float32)
    for x in range(1, n_x - 1):
        for o in range(len(offsets)):
            dx, dy, dz = offsets[o]
            if x + dx > n_x - 2:
                continue
            a, b = max(0, -dz), n_z - max(0, dz)
            n, first = b - a, max(0, -dy)
            for y in range(first, n_y - max(0, dy)):
                p0, q0 = image[x - 1, y, a:b], image[x + dx - 1, y + dy, a + dz : b + dz]
                p1, q1 = image[x, y, a:b], image[x + dx, y + dy, a + dz : b + dz]
                p2, q2 = image[x + 1, y, a:b], image[x + dx + 1, y + dy, a + dz : b + dz]
                column = columns[y % 3]
                for z in range(n):
                    d0, d1, d2 = p0[z] - q0[z], p1[z] - q1[z], p2[z] - q2[z]
                    column[z] = d0 * d0 + d1 * d1 + d2 * d2
                if y < first + 2:
                    continue
                for z in range(n):
                    boxes[z] = columns[0, z] + columns[1, z] + columns[2, z]
                for z in range(1, n - 1):
                    s = max((boxes[z - 1] + boxes[z] + boxes[z + 1]) * mean - noise, zero)
                    s = min(s * scale, most) * part
                    s = one - s + half * s * s
                    s *= s
                    s *= s
                    s *= s
                    s *= s
                    s *= s
                    s *= s
                    s *= s
                    s *= s
                    weight[z] = s
                here, there = image[x, y - 1, a:b], image[x + dx, y - 1 + dy, a + dz : b + dz]
                for side in range(2):
                    i, j, k = (x, y - 1, a) if side == 0 else (x + dx, y - 1 + dy, a + dz)
                    sums, counts = total[i, j, k : k + n], weights[i, j, k : k + n]
                    given = there if side == 0 else here
                    for z in range(1, n - 1):
                        sums[z] += weight[z] * given[z]
                        counts[z] += weight[z]


def _overlap(offset: tuple[int, int, int], shape: torch.Size) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    here = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True))
    there = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True))
    return here, there


def _box_mean(image: torch.Tensor) -> torch.Tensor:
    """Mean over 3 × 3 × 3 voxels, but not in the outermost layer, which is padding."""
    for dim in range(3):
        n = image.shape[dim]
        summed = image.clone()
        summed.narrow(dim, 1, n - 2).add_(image.narrow(dim, 0, n - 2)).add_(image.narrow(dim, 2, n - 2))
        image = summed
    return image / _PATCH_VOXELS
