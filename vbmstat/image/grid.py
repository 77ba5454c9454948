"""Voxel grids, and the only resampler.

Voxel (i, j, k) of a grid has its centre at ``affine @ (i, j, k, 1)`` in RAS+ mm. Tensors are indexed
(X, Y, Z) in that order. torch's normalised (z, y, x) coordinates exist in this module only, always with
``align_corners=True``, so that -1 and +1 are the centres of the first and last voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from vbmstat.image import compiled
from vbmstat.lazy import functional, torch

_SLAB_VOXELS = 1 << 22  # resampled at a time


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxels in RAS+ mm.

    Attributes
    ----------
    shape : tuple of three ints
        Number of voxels along each axis.
    affine : ndarray, (4, 4), float64
        Voxel index to RAS+ mm, for voxel centres.

    Examples
    --------
    >>> grid = Grid((10, 10, 10), np.diag([2.0, 2.0, 2.0, 1.0]))
    >>> round(grid.voxel_volume_ml, 6)
    0.008
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", np.array(self.affine, dtype=np.float64))

    @property
    def voxel_size_mm(self) -> np.ndarray:
        """Edge lengths of a voxel, (3,), mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of a voxel in mL."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def corners_mm(self) -> np.ndarray:
        """Centres of the eight corner voxels, (4, 8): RAS+ mm, and a row of ones."""
        return np.asarray(self.affine @ np.array(list(product(*((0, n - 1) for n in self.shape), (1,)))).T)

    def matches(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Whether both grids have the same shape and their corners agree within the tolerance."""
        if self.shape != other.shape:
            return False
        return bool((np.linalg.norm(self.corners_mm - other.corners_mm, axis=0) <= tolerance_mm).all())

    def crop(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Grid:
        """The sub-grid of voxels ``start <= index < stop``."""
        affine = self.affine.copy()
        affine[:3, 3] = (self.affine @ np.array([*start, 1.0]))[:3]
        return Grid(tuple(b - a for a, b in zip(start, stop, strict=True)), affine)  # type: ignore[arg-type]

    def every(self, spacing_mm: float) -> tuple[Grid, tuple[slice, ...]]:
        """The grid of every n-th voxel, about `spacing_mm` apart, and the slices that take them."""
        steps = np.maximum(np.round(spacing_mm / self.voxel_size_mm), 1).astype(int)
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ (steps // 2)
        affine[:3, :3] *= steps
        shape = tuple(len(range(int(step) // 2, n, int(step))) for step, n in zip(steps, self.shape, strict=True))
        return Grid(shape, affine), tuple(slice(int(step) // 2, None, int(step)) for step in steps)  # type: ignore[arg-type]

    def with_voxel_size(self, size_mm: np.ndarray | float) -> Grid:
        """The grid with the same axes and field of view, and voxels of about `size_mm`.

        The number of voxels is rounded; the outer faces of the field of view stay where they are, not the centres.
        """
        extent = np.array(self.shape) * self.voxel_size_mm  # outer face to outer face
        shape = np.maximum(np.round(extent / size_mm), 1).astype(int)
        step = np.array(self.shape) / shape  # old voxels per new voxel
        to_old = np.diag([*step, 1.0])
        to_old[:3, 3] = (step - 1) / 2  # the centre of new voxel 0, in old voxels
        return Grid(tuple(shape), self.affine @ to_old)

    def __str__(self) -> str:
        size = " × ".join(f"{s:g}" for s in np.round(self.voxel_size_mm, 3))
        return f"{self.shape} @ {size} mm"


def voxel_indices(shape: tuple[int, int, int] | torch.Size, device: torch.device | str = "cpu") -> torch.Tensor:
    """Index of every voxel, (3, X, Y, Z), float32."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def apply_affine(matrix: np.ndarray, points: torch.Tensor) -> torch.Tensor:
    """``matrix @ points`` for points of shape (3, ...); the matrix is 4 × 4."""
    m = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
    moved: torch.Tensor = torch.tensordot(m[:3, :3], points, dims=1)
    return moved.add_(m[:3, 3].reshape(3, *[1] * (points.ndim - 1)))


def sample(
    data: torch.Tensor, points: torch.Tensor, mode: str = "bilinear", padding_mode: str = "zeros"
) -> torch.Tensor:
    """Values of images at voxel coordinates.

    Parameters
    ----------
    data : Tensor, (C, X, Y, Z)
        Images on a common grid.
    points : Tensor, (3, A, B, D)
        Voxel coordinates (x, y, z) in that grid.
    mode : {"bilinear", "nearest"}
        Trilinear (torch calls it bilinear) or nearest-neighbour interpolation.
    padding_mode : {"zeros", "border"}
        Values beyond the field of view: 0, or those at its border.

    Returns
    -------
    Tensor, (C, A, B, D)
    """
    if mode == "bilinear" and compiled.takes(data, points) and min(data.shape[1:]) > 1:
        return _compiled(data, points, False, padding_mode)
    normalised = torch.stack([points[a] * (2.0 / max(data.shape[1 + a] - 1, 1)) - 1.0 for a in (2, 1, 0)], -1)  # zyx
    return functional.grid_sample(
        data[None], normalised[None], mode=mode, padding_mode=padding_mode, align_corners=True
    )[0]


def sample_displaced(data: torch.Tensor, displacement: torch.Tensor, padding_mode: str = "zeros") -> torch.Tensor:
    """Values of images at each voxel plus a displacement (3, A, B, D) in voxels; else as :func:`sample`."""
    if compiled.takes(data, displacement) and min(data.shape[1:]) > 1:
        return _compiled(data, displacement, True, padding_mode)
    return sample(
        data, voxel_indices(displacement.shape[1:], displacement.device) + displacement, "bilinear", padding_mode
    )


def _compiled(data: torch.Tensor, points: torch.Tensor, is_displacement: bool, padding_mode: str) -> torch.Tensor:
    out = data.new_empty(len(data), *points.shape[1:])
    compiled.in_slabs(compiled.trilinear, points.shape[1], data, points, is_displacement, padding_mode == "zeros", out)
    return out


def sample_batch(images: torch.Tensor, points: torch.Tensor, padding_mode: str = "border") -> torch.Tensor:
    """Values of a batch of images at voxel coordinates; differentiable in both.

    Parameters
    ----------
    images : Tensor, (B, C, X, Y, Z)
        Each on its own grid.
    points : Tensor, (B, 3, A, B, D)
        Voxel coordinates (x, y, z) in them.
    padding_mode : {"border", "zeros"}
        As in :func:`sample`.

    Returns
    -------
    Tensor, (B, C, A, B, D)
    """
    last = torch.tensor(images.shape[2:], dtype=points.dtype, device=points.device).clamp(min=2) - 1
    normalised = points * (2.0 / last).reshape(3, 1, 1, 1) - 1.0
    return functional.grid_sample(
        images, normalised.flip(1).movedim(1, -1), mode="bilinear", padding_mode=padding_mode, align_corners=True
    )


def from_normalised(field: torch.Tensor) -> torch.Tensor:
    """A field (B, 3, X, Y, Z) in voxels (x, y, z), from torch's normalised coordinates (z, y, x) as networks use."""
    last = torch.tensor(field.shape[2:], dtype=field.dtype, device=field.device) - 1
    return field.flip(1) * (last / 2.0).reshape(3, 1, 1, 1)


def resample(
    data: torch.Tensor,
    source: Grid,
    target: Grid,
    linear: np.ndarray | None = None,
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """Images resampled to another grid, trilinear.

    Parameters
    ----------
    data : Tensor, (C, X, Y, Z)
        Images on `source`.
    source, target : Grid
        Grids of `data` and of the result.
    linear : ndarray, (4, 4), optional
        Target-frame RAS+ mm to source-frame RAS+ mm (pull direction); identity by default.
    padding_mode : str
        As in :func:`sample`.

    Returns
    -------
    Tensor, (C, *target.shape)
    """
    to_source_mm = target.affine if linear is None else linear @ target.affine
    to_source_voxel = np.linalg.inv(source.affine) @ to_source_mm
    if source.shape == target.shape and np.allclose(to_source_voxel, np.eye(4), rtol=0, atol=1e-7):
        return data.clone()
    out = data.new_empty(data.shape[0], *target.shape)
    slab = max(1, _SLAB_VOXELS // (target.shape[1] * target.shape[2]))
    for start in range(0, target.shape[0], slab):  # coordinates need three times the memory of an image
        part = out[:, start : start + slab]
        moved = to_source_voxel.copy()
        moved[:3, 3] += start * to_source_voxel[:3, 0]
        points = apply_affine(moved, voxel_indices(part.shape[1:], data.device))
        part.copy_(sample(data, points, padding_mode=padding_mode))
    return out
