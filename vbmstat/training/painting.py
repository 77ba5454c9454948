"""Lesions painted into white matter, and what looks like them: the variety that training of lesion networks needs.

Intensities are relative to the tissue means of a scan, GM 0 and WM 1; images (X, Y, Z) have 1 mm voxels. Each function
draws from a random generator; same generator, same result.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch.nn import functional

from vbmstat.image.grid import Grid, apply_affine, sample
from vbmstat.image.smooth import smooth

Source = torch.Generator
LEVEL = (-0.2, 0.75)  # intensity of a lesion: from below GM to nearly WM
_LEVEL_SD, _LEVEL_SPACING = 0.12, 12  # of its variation within a brain, voxels
_KEPT_TEXTURE = (0.3, 1.0)  # share of the white matter's own variation that remains in a lesion
_EDGE_MM = (0.5, 1.8)  # FWHM of the blur of a lesion's edge
_HALO = (0.0, 0.25)  # contrast lost around lesions, unlabelled: "dirty" white matter
_SHIFT_MM, _SCALE, _TURN, _BEND_MM, _BEND_SPACING = 6.0, 0.15, 0.12, 3.0, 24  # of a shape: largest, largest, rad, sd
_MAX_BLOBS, _BLOB_RADIUS_MM = 16, (1.1, 6.0)
_MAX_THREADS, _THREAD_MM, _THREAD_LEVEL = 24, (5.0, 20.0), (-1.5, 0.6)  # number, length, intensity
_BANDS, _BAND_SPACING = (0.0, 0.3), 10  # of white matter that is paler than other: contrast lost, voxels
_TRACT_PALE, _TRACT_EDGE_MM = (0.1, 0.6), (2.0, 6.0)  # of a tract: contrast lost, FWHM of the blur of its edge
_IN_WM = (0.3, 0.8)  # WM fraction over which painting fades in


def shape_grid() -> Grid:
    """The template's frame around the cerebrum in 1 mm voxels, on which lesions of other people are kept."""
    affine = np.eye(4)
    affine[:3, 3] = (-63.5, -101.5, -48.0)
    return Grid((128, 168, 120), affine)


def moved(shape: torch.Tensor, at_mm: torch.Tensor, source: Source) -> torch.Tensor:
    """A lesion mask in another person: moved, scaled, turned, bent and mirrored or not.

    Parameters
    ----------
    shape : Tensor, (A, B, C)
        Lesions on :func:`shape_grid`.
    at_mm : Tensor, (3, X, Y, Z)
        Template positions at which they are wanted.
    source : Generator
        Random numbers.

    Returns
    -------
    Tensor, (X, Y, Z)
        Share of each voxel, 0 to 1.
    """
    size = torch.tensor(shape.shape, dtype=torch.float32).reshape(3, 1, 1, 1)
    at = apply_affine(np.linalg.inv(shape_grid().affine), at_mm).float()
    shift, scale, turn = (2 * torch.rand(3, 3, generator=source) - 1).unbind()
    matrix = torch.diag(1 + _SCALE * scale) @ torch.linalg.matrix_exp(_TURN * _cross(turn))
    at = torch.tensordot(matrix, at - size / 2, dims=1) + size / 2 + _SHIFT_MM * shift.reshape(3, 1, 1, 1)
    bend = torch.stack([noise(at.shape[1:], _BEND_SPACING, source) for _ in range(3)])
    mirrored = shape.flip(0) if chance(0.5, source) else shape
    return sample(mirrored[None], at + _BEND_MM * bend)[0].clamp(0, 1)


def blobs(wm: torch.Tensor, source: Source) -> torch.Tensor:
    """Ellipsoids at random places in white matter, 5 to 1,000 mm³, as a share of each voxel, (X, Y, Z)."""
    share = torch.zeros_like(wm)
    for centre in _places(wm, integer(_MAX_BLOBS, source) + 1, source):
        low, high = (np.log(radius) for radius in _BLOB_RADIUS_MM)
        radii = torch.exp(uniform((low, high), source) + 0.25 * torch.randn(3, generator=source)).clamp(max=9.0)
        reach = 10
        window = tuple(slice(max(c - reach, 0), c + reach + 1) for c in centre)
        offsets = torch.meshgrid(
            *(torch.arange(w.start, min(w.stop, n)) - c for w, n, c in zip(window, wm.shape, centre, strict=True)),
            indexing="ij",
        )
        distance = torch.stack([o / r for o, r in zip(offsets, radii, strict=True)]).square().sum(0).sqrt()
        wobble = 0.15 * torch.randn(1, generator=source)
        ball = (0.5 + (1 + wobble - distance) * float(radii.mean())).clamp(0, 1)
        share[window] = torch.maximum(share[window], ball)
    return share


def threads(wm: torch.Tensor, source: Source) -> torch.Tensor:
    """Perivascular spaces: straight threads about 1 mm thick in white matter, as a share of each voxel, (X, Y, Z)."""
    share = torch.zeros_like(wm)
    last = torch.tensor(wm.shape) - 1
    for centre in _places(wm, integer(_MAX_THREADS, source), source):
        direction = functional.normalize(torch.randn(3, generator=source), dim=0)
        along = torch.arange(0, uniform(_THREAD_MM, source), 0.5)
        at = (torch.tensor(centre) + along[:, None] * direction).round().long()
        at = at[((at >= 0) & (at <= last)).all(1)]
        share[tuple(at.T)] = 1.0
    return (_blurred(share, 1.2) * 1.6).clamp(0, 1) * in_white_matter(wm)


def paint(contrast: torch.Tensor, share: torch.Tensor, source: Source) -> torch.Tensor:
    """An image with lesions of one kind, and sometimes with paler white matter around them.

    Parameters
    ----------
    contrast, share : Tensor, (X, Y, Z)
        Image, and lesions as a share of each voxel.
    source : Generator
        Random numbers.
    """
    level = uniform(LEVEL, source) + _LEVEL_SD * noise(share.shape, _LEVEL_SPACING, source)
    lesion = level + uniform(_KEPT_TEXTURE, source) * (contrast - 1)
    soft = _blurred(share, uniform(_EDGE_MM, source))
    halo = uniform(_HALO, source) * _blurred(share, 8.0) * (1 - soft) if chance(0.4, source) else 0.0
    painted: torch.Tensor = contrast * (1 - soft) + soft * torch.minimum(lesion, contrast) - halo
    return painted


def paint_threads(contrast: torch.Tensor, wm: torch.Tensor, source: Source) -> torch.Tensor:
    """An image with perivascular spaces."""
    share = threads(wm, source)
    return contrast * (1 - share) + share * uniform(_THREAD_LEVEL, source)


def paint_bands(contrast: torch.Tensor, wm: torch.Tensor, source: Source) -> torch.Tensor:
    """An image with white matter that is paler here and there, without a border, which is no lesion."""
    pale = noise(contrast.shape, _BAND_SPACING, source).clamp(min=0)
    return contrast - uniform(_BANDS, source) * pale * in_white_matter(wm)


def paint_tract(contrast: torch.Tensor, share: torch.Tensor, wm: torch.Tensor, source: Source) -> torch.Tensor:
    """An image in which a tract is paler than the white matter around, as the optic radiation often is: no lesion."""
    pale = uniform(_TRACT_PALE, source) * _blurred(share, uniform(_TRACT_EDGE_MM, source))
    return contrast - pale * in_white_matter(wm)


def noise(shape: tuple[int, ...] | torch.Size, spacing: int, source: Source) -> torch.Tensor:
    """Smooth noise of unit variance at its knots, `spacing` voxels apart, (X, Y, Z)."""
    knots = torch.randn(1, 1, *(n // spacing + 2 for n in shape), generator=source)
    return functional.interpolate(knots, tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def in_white_matter(wm: torch.Tensor) -> torch.Tensor:
    """How much of a lesion a voxel of this WM fraction takes, 0 to 1, (X, Y, Z)."""
    low, high = _IN_WM
    return ((wm - low) / (high - low)).clamp(0, 1)


def uniform(ends: tuple[float, float], source: Source) -> float:
    """A number between two ends."""
    low, high = ends
    return low + (high - low) * float(torch.rand(1, generator=source))


def integer(n: int, source: Source) -> int:
    """A whole number from 0 to n - 1."""
    return int(torch.randint(n, (1,), generator=source))


def chance(probability: float, source: Source) -> bool:
    """True with a probability."""
    return float(torch.rand(1, generator=source)) < probability


def _places(wm: torch.Tensor, n: int, source: Source) -> list[tuple[int, int, int]]:
    """Random voxels of white matter."""
    inside = (wm[::2, ::2, ::2] > 0.9).nonzero() * 2
    if n == 0 or len(inside) == 0:
        return []
    picked = inside[torch.randint(len(inside), (n,), generator=source)]
    return [(int(x), int(y), int(z)) for x, y, z in picked]


def _blurred(image: torch.Tensor, fwhm_mm: float) -> torch.Tensor:
    return smooth(image[None], np.full(3, fwhm_mm), 2.5)[0]


@cache
def _basis() -> torch.Tensor:
    """Generators of rotations, (3, 3, 3)."""
    basis = torch.zeros(3, 3, 3)
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        basis[a, c, b], basis[a, b, c] = 1.0, -1.0
    return basis


def _cross(turn: torch.Tensor) -> torch.Tensor:
    """Matrix of the cross product with a vector."""
    matrix: torch.Tensor = torch.tensordot(turn, _basis(), dims=1)
    return matrix
