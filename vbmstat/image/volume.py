"""Volumes (tensors with their grid), displacements and their Jacobian determinant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vbmstat.image import compiled
from vbmstat.image.grid import Grid
from vbmstat.lazy import torch


@dataclass(frozen=True)
class Volume:
    """One or more scalar images on one grid.

    Attributes
    ----------
    data : Tensor, (C, X, Y, Z), float32
        Channel first; axis order and direction are those of `grid`.
    grid : Grid
        Voxel centres in RAS+ mm.
    """

    data: torch.Tensor
    grid: Grid

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or tuple(self.data.shape[1:]) != self.grid.shape:
            msg = f"expected data of shape (C, {self.grid.shape}), got {tuple(self.data.shape)}"
            raise ValueError(msg)

    @property
    def sums_ml(self) -> list[float]:
        """Sum of each channel times the voxel volume, in mL (the tissue volume of a fraction map)."""
        sums = self.data.sum(dim=(1, 2, 3), dtype=torch.float64)  # (C,)
        return [float(s) * self.grid.voxel_volume_ml for s in sums]

    def channel(self, index: int) -> Volume:
        """One channel as a volume."""
        return Volume(self.data[index : index + 1], self.grid)


@dataclass(frozen=True)
class Displacement:
    """A pull displacement: the point that each voxel of `grid` takes its value from.

    Attributes
    ----------
    data : Tensor, (3, X, Y, Z), float32, mm
        The voxel centre x (RAS+ mm, template frame) takes its value from ``x + data(x)`` in the affinely aligned
        frame; the fitted `linear` matrix from there to the scan is kept beside it.
    grid : Grid
        The template's grid.
    """

    data: torch.Tensor
    grid: Grid

    def __post_init__(self) -> None:
        if tuple(self.data.shape) != (3, *self.grid.shape):
            msg = f"expected a displacement of shape (3, {self.grid.shape}), got {tuple(self.data.shape)}"
            raise ValueError(msg)

    @property
    def jacobian_determinant(self) -> torch.Tensor:
        """Jacobian determinant of ``x + data(x)``, (X, Y, Z); 1 where nothing moves."""
        return jacobian_determinant(self.data, self.grid.voxel_size_mm.tolist())


def jacobian_determinant(displacement: torch.Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> torch.Tensor:
    """Jacobian determinant of ``x + displacement(x)`` by central differences, one-sided at the border.

    Parameters
    ----------
    displacement : Tensor, (..., 3, X, Y, Z)
        In the unit of `spacing`.
    spacing : sequence of three floats
        Voxel size; 1 for displacements in voxels.

    Returns
    -------
    Tensor, (..., X, Y, Z)
    """
    if displacement.ndim == len("cxyz") and compiled.takes(displacement) and min(displacement.shape[1:]) > 1:
        out = displacement.new_empty(displacement.shape[1:])
        compiled.in_slabs(compiled.determinant, len(out), displacement, 1 / torch.tensor(spacing), out)
        return out
    columns = torch.gradient(displacement, spacing=list(spacing), dim=(-3, -2, -1))  # by x, y, z: (..., 3, X, Y, Z)
    (xx, yx, zx), (xy, yy, zy), (xz, yz, zz) = (column.unbind(-4) for column in columns)
    xx, yy, zz = xx + 1, yy + 1, zz + 1
    return xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx)
