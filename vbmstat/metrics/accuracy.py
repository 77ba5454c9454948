"""Accuracy: overlap of segmentations, distance of a map to the template, regularity of a deformation."""

from __future__ import annotations

from itertools import combinations

import torch

from vbmstat.errors import ScanError
from vbmstat.image.volume import Displacement, Volume

TISSUES = {"gm": 2, "wm": 3, "csf": 1}  # values in a label map
MU, LAMBDA = 2.0, 1.0  # the deepmriprep paper's


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Dice coefficient of two boolean masks; NaN if both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else float("nan")


def jaccard(one: torch.Tensor, other: torch.Tensor) -> float:
    """Jaccard index of two boolean masks; NaN if both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else float("nan")


def probabilistic_dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """``2 sum(a b) / sum(a + b)`` of two fraction maps, as in torchreg and deepmriprep; NaN if both are empty.

    Equals :func:`dice` for masks. Below 1 even for equal maps if voxels are mixed.
    """
    total = float(one.sum(dtype=torch.float64) + other.sum(dtype=torch.float64))
    return 2 * float((one * other).sum(dtype=torch.float64)) / total if total else float("nan")


def tissue_fractions(label: torch.Tensor) -> dict[str, torch.Tensor]:
    """Fractions of GM, WM and CSF in a label map (CSF 1, GM 2, WM 3, mixtures between)."""
    return {name: (1 - (label - value).abs()).clamp(min=0) for name, value in TISSUES.items()}


def mse_to_template(warped: Volume, template: Volume) -> float:
    """Mean squared difference over the template's voxels, GM and WM; raises ScanError if the grids differ."""
    check_same_grid(warped, template, "the template's")
    return float((warped.data - template.data).square().mean(dtype=torch.float64))


def linear_elasticity(field: Displacement, mu: float = MU, lam: float = LAMBDA) -> float:
    """Linear-elastic energy of a displacement, mean over the voxels where it is finite.

    Notes
    -----
    With the strain ``e = (grad u + grad u') / 2`` of a displacement u in mm, the density is
    ``mu sum_ij e_ij^2 + lam / 2 (tr e)^2`` (Ashburner 2007, doi:10.1016/j.neuroimage.2007.07.007, eq. for linear
    elasticity). It is dimensionless, and 0 for a translation.
    """
    gradient = _gradient(field)  # (3, 3, X, Y, Z)
    strain = (gradient + gradient.transpose(0, 1)) / 2
    trace = strain[0, 0] + strain[1, 1] + strain[2, 2]
    density = mu * strain.square().sum((0, 1)) + lam / 2 * trace.square()
    return _mean_of_finite(density)


def published_elasticity(field: Displacement) -> float:
    """The measure that the deepmriprep paper calls linear elasticity (LE; its medians are 240 and 250).

    Notes
    -----
    The paper's code (torchreg's ``LinearElasticity``) differentiates twice: it takes the strain of the gradient of the
    deformation, in units of half the grid (N - 1)/2, plus that of the identity, and returns the mean squared stress
    over voxels and directions of the outer derivative. So it measures bending, and is 35 where nothing moves. It is
    reproduced for comparison; the linear elasticity proper is :func:`linear_elasticity`.
    """
    half = (torch.tensor(field.grid.shape, dtype=torch.float32) - 1) / 2
    size = torch.as_tensor(field.grid.voxel_size_mm, dtype=torch.float32)
    moved = field.data / size.reshape(3, 1, 1, 1)  # voxels
    first = _inner_gradient(moved)  # [component, axis]
    second = torch.stack([_inner_gradient(row) for row in first])  # [component, axis, outer axis]
    u = second * half.reshape(1, 3, 1, 1, 1, 1) + torch.eye(3).reshape(1, 3, 3, 1, 1, 1)
    trace = u[0, 0] + u[1, 1] + u[2, 2]
    squared = torch.zeros_like(trace)
    for i in range(3):
        squared += (2 * MU * u[i, i] + LAMBDA * trace).square()
    for i, j in combinations(range(3), 2):
        squared += (MU * (u[i, j] + u[j, i])).square()
    return _mean_of_finite(squared)


def check_same_grid(one: Volume, other: Volume, whose: str, where: str = "") -> None:
    """Raise ScanError, prefixed with `where`, unless two images have the same grid."""
    if not one.grid.matches(other.grid):
        msg = f"{where}grid {one.grid} differs from {whose} {other.grid}; resample one, or pass maps of one scan"
        raise ScanError(msg)


def _mean_of_finite(values: torch.Tensor) -> float:
    return float(values[values.isfinite()].mean(dtype=torch.float64))


def _gradient(field: Displacement) -> torch.Tensor:
    """``du_i / dx_j``, (3, 3, X, Y, Z), unitless."""
    spacing = [float(size) for size in field.grid.voxel_size_mm]
    return torch.stack([torch.stack(torch.gradient(component, spacing=spacing)) for component in field.data])


def _inner_gradient(fields: torch.Tensor) -> torch.Tensor:
    """Central differences, [field, axis, X, Y, Z]; the outermost layer repeats its neighbour."""
    inner = (slice(1, -1),) * 3
    rows = []
    for field in fields:
        parts = [((field.roll(-1, axis) - field.roll(1, axis)) / 2)[inner] for axis in range(3)]
        rows.append(torch.nn.functional.pad(torch.stack(parts)[None], (1,) * 6, mode="replicate")[0])
    return torch.stack(rows)
