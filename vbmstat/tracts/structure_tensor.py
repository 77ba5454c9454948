"""Local fibre direction in a T1w image: the structure tensor and its eigenvector of smallest eigenvalue.

With the gradient g of the image (Gaussian derivatives of width sigma), the tensor is J = G_rho * (g g'), the Gaussian
mean of width rho (Jiao, Zhang & Ye 2024, eq. 1). Intensity changes least along its eigenvector of smallest eigenvalue.
The paper smooths "preferably along the bundle" and does not say how; here, each voxel's tensor is averaged once more
with those on the line through it along its first estimate of the direction.

Widths are in voxels of an isotropic grid. On anisotropic voxels the unit is the cube root of the voxel volume, and
filters stay round in mm. An eigenvector has no sign: its largest component is made positive, which keeps the sign where
fibres bend around an axis, and jumps only where two components tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from vbmstat.image.grid import sample
from vbmstat.image.volume import Volume

_STEPS = (-2.0, -1.0, 1.0, 2.0)  # of the line, in its standard deviations
_CHUNK = 1 << 19  # voxels whose tensors are decomposed at a time


@dataclass(frozen=True)
class Widths:
    """Standard deviations of the filters, in voxels."""

    sigma: float = 0.5  # of the derivatives; 0.5 in the paper
    rho: float = 0.5  # of the mean over the neighbourhood; 0.5 in the paper
    along: float = 1.0  # of the mean along the fibre; 0 leaves it out


def structure_tensor(image: Volume, widths: Widths) -> torch.Tensor:
    """Structure tensor without the mean along fibres, in RAS+ mm.

    Parameters
    ----------
    image : Volume, (1, X, Y, Z)
        T1w image, any unit, any voxel shape.
    widths : Widths
        Widths of the filters.

    Returns
    -------
    Tensor, (6, X, Y, Z), float32
        xx, xy, xz, yy, yz, zz.

    Notes
    -----
    Sampled derivatives of a narrow Gaussian are too small; each is divided by its response to a ramp of slope 1;
    otherwise, directions on anisotropic voxels would be wrong.
    """
    size = image.grid.voxel_size_mm
    voxels = np.cbrt(size.prod()) / size  # of each axis, in a width of 1
    values = image.data[0].cpu().numpy().astype(np.float32)
    by_voxel = np.stack([_derivative(values, axis, widths.sigma * voxels) for axis in range(3)])
    to_mm = np.linalg.inv(image.grid.affine[:3, :3]).T.astype(np.float32)
    gradient = np.tensordot(to_mm, by_voxel, axes=1)  # (3, X, Y, Z), per mm
    pairs = zip(*np.triu_indices(3), strict=True)
    blurred = [
        ndimage.gaussian_filter(gradient[i] * gradient[j], widths.rho * voxels, mode="nearest") for i, j in pairs
    ]
    return torch.from_numpy(np.stack(blurred))


def fibre_directions(image: Volume, widths: Widths | None = None) -> Volume:
    """Direction in which intensity changes least, in each voxel that is not 0.

    Parameters
    ----------
    image : Volume, (1, X, Y, Z)
        T1w brain; 0 is outside, as after brain extraction.
    widths : Widths, optional
        Widths of the filters.

    Returns
    -------
    Volume, (3, X, Y, Z)
        Unit vectors in RAS+ mm with the sign of :func:`with_sign`; 0 outside the brain and where nothing changes.
    """
    widths = widths or Widths()
    tensor = structure_tensor(image, widths)
    inside = (image.data[0] != 0) & (tensor[[0, 3, 5]].sum(0) > 0)
    at = inside.nonzero().T  # (3, n)
    inner = tensor[:, inside]
    directions = smallest_eigenvectors(inner)
    if widths.along > 0:
        directions = smallest_eigenvectors(_along_fibres(tensor, at, directions, image, widths.along))
    out = torch.zeros(3, *image.grid.shape)
    out[:, inside] = directions
    return Volume(with_sign(out), image.grid)


def smallest_eigenvectors(tensors: torch.Tensor) -> torch.Tensor:
    """Unit eigenvectors of smallest eigenvalue, (3, n), of symmetric tensors (6, n): xx, xy, xz, yy, yz, zz."""
    parts = []
    for chunk in tensors.split(_CHUNK, dim=1):
        scaled = chunk / chunk.abs().amax(0).clamp(min=1e-30)
        full = scaled[[0, 1, 2, 1, 3, 4, 2, 4, 5]].T.reshape(-1, 3, 3)
        parts.append(torch.linalg.eigh(full).eigenvectors[:, :, 0].T)
    return torch.cat(parts, dim=1) if parts else tensors.new_zeros(3, 0)


def with_sign(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors with the sign that makes the largest component positive.

    Parameters
    ----------
    vectors : Tensor, (3 * k, ...)
        k vectors a voxel, one after the other.

    Examples
    --------
    >>> with_sign(torch.tensor([0.6, -0.8, 0.0])).tolist()
    [-0.6000000238418579, 0.800000011920929, -0.0]
    """
    triples = vectors.unflatten(0, (-1, 3))
    largest = triples.gather(1, triples.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -triples, triples).flatten(0, 1)


def mirrored(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (3 * k, X, Y, Z) of the mirrored head: flipped from left to right, with x components negated."""
    flipped = vectors.flip(1).unflatten(0, (-1, 3))
    turn = torch.tensor([-1.0, 1.0, 1.0]).to(flipped).reshape(1, 3, 1, 1, 1)
    return with_sign((flipped * turn).flatten(0, 1))


def _derivative(values: np.ndarray, axis: int, widths: Sequence[float] | np.ndarray) -> np.ndarray:
    """Gaussian derivative per voxel along an axis."""
    reach = int(4 * widths[axis] + 0.5) + 1
    ramp = np.arange(-reach, reach + 1, dtype=np.float64)
    slope = ndimage.gaussian_filter1d(ramp, widths[axis], order=1, mode="nearest", radius=reach)[reach]
    order = [int(a == axis) for a in range(3)]
    blurred: np.ndarray = ndimage.gaussian_filter(values, widths, order=order, mode="nearest", radius=_radii(widths))
    return blurred / np.float32(slope)


def _radii(widths: Sequence[float] | np.ndarray) -> list[int]:
    """Half lengths of the kernels; at least 1, so that a derivative exists on voxels much longer than the width."""
    return [int(4 * width + 0.5) + 1 for width in widths]


def _along_fibres(
    tensor: torch.Tensor, at: torch.Tensor, directions: torch.Tensor, image: Volume, width: float
) -> torch.Tensor:
    """Gaussian mean of tensors (6, n) on a line through each voxel `at` (3, n) along its direction (mm)."""
    unit_mm = float(np.cbrt(image.grid.voxel_size_mm.prod()))
    to_voxels = torch.as_tensor(np.linalg.inv(image.grid.affine[:3, :3]), dtype=torch.float32)
    step = to_voxels @ directions * (width * unit_mm)
    total, weights = tensor[:, at[0], at[1], at[2]].clone(), 1.0
    for k in _STEPS:
        weight = float(np.exp(-(k**2) / 2))
        points = (at + k * step)[:, :, None, None]
        total += weight * sample(tensor, points, padding_mode="border")[:, :, 0, 0]
        weights += weight
    return total / weights
