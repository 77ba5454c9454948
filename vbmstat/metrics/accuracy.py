"""Agreement of two segmentations, distance of a map to the template, regularity of a deformation: pure functions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from vbmstat.errors import ScanError
from vbmstat.image.grid import apply_affine, voxel_indices
from vbmstat.image.volume import Displacement, Volume

TISSUES = {"gm": 2, "wm": 3, "csf": 1}  # values in a label map
MU, LAMBDA = 2.0, 1.0  # as the deepmriprep paper has them


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """Twice the shared voxels over the sum of both, for two boolean masks; NaN if both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else float("nan")


def jaccard(one: torch.Tensor, other: torch.Tensor) -> float:
    """Shared voxels over those in either, for two boolean masks; NaN if both are empty."""
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else float("nan")


def probabilistic_dice(one: torch.Tensor, other: torch.Tensor) -> float:
    """``2 sum(a b) / sum(a + b)`` of two fraction maps, as torchreg and deepmriprep have it; NaN if both are empty.

    Equal to :func:`dice` for masks. Below 1 even for equal maps where voxels are mixed.
    """
    total = float(one.sum(dtype=torch.float64) + other.sum(dtype=torch.float64))
    return 2 * float((one * other).sum(dtype=torch.float64)) / total if total else float("nan")


def tissue_fractions(label: torch.Tensor) -> dict[str, torch.Tensor]:
    """Fractions of GM, WM and CSF that a label map (CSF 1, GM 2, WM 3, mixtures between) stands for."""
    return {name: (1 - (label - value).abs()).clamp(min=0) for name, value in TISSUES.items()}


def mse_to_template(warped: Volume, template: Volume) -> float:
    """Mean squared difference over all voxels of the template's grid and both channels, GM and WM.

    Raises
    ------
    ScanError
        If the grids differ.
    """
    check_same_grid(warped, template, "the template's")
    return float((warped.data - template.data).square().mean(dtype=torch.float64))


def linear_elasticity(field: Displacement, mu: float = MU, lam: float = LAMBDA) -> float:
    """Elastic energy of a displacement, mean over the grid's voxels whose value is known (finite).

    Notes
    -----
    With the strain ``e = (grad u + grad u') / 2`` of a displacement u in mm, the density is
    ``mu sum_ij e_ij^2 + lam / 2 (tr e)^2`` (Ashburner 2007, doi:10.1016/j.neuroimage.2007.07.007, eq. for linear
    elasticity). It has no unit, and is 0 for a translation.
    """
    gradient = _gradient(field)  # (3, 3, X, Y, Z)
    strain = (gradient + gradient.transpose(0, 1)) / 2
    trace = strain[0, 0] + strain[1, 1] + strain[2, 2]
    density = mu * strain.square().sum((0, 1)) + lam / 2 * trace.square()
    return _mean_of_finite(density)


def published_elasticity(field: Displacement, mu: float = MU, lam: float = LAMBDA) -> float:
    """The number that the deepmriprep paper calls linear elasticity (LE; its medians are 240 and 250).

    Notes
    -----
    The paper's code (torchreg's ``LinearElasticity``) derives twice: it takes the strain of the gradient of the
    deformation, in units of half the grid (N - 1)/2, plus that of the identity, and returns the mean squared stress
    over voxels and directions of the outer derivative. So it is a measure of bending, and 35 where nothing moves. It
    is reproduced for comparison; :func:`linear_elasticity` is what the name says.
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
        squared += (2 * mu * u[i, i] + lam * trace).square()
    for i, j in combinations(range(3), 2):
        squared += (mu * (u[i, j] + u[j, i])).square()
    return _mean_of_finite(squared)


def fit_linear(deformation: Volume) -> np.ndarray:
    """The affine part of a ``y_`` field: template mm -> scan mm, (4, 4), the best in the least-squares sense.

    Fitted to every fourth voxel of the grid whose value is finite.
    """
    grid = deformation.grid
    few = (slice(None), *(slice(None, None, 4),) * 3)
    known = torch.isfinite(deformation.data[few]).all(0)
    points = apply_affine(grid.affine, voxel_indices(grid.shape))[few][:, known].T.double().numpy()
    points = np.column_stack([points, np.ones(len(points))])
    solution = np.linalg.lstsq(points, deformation.data[few][:, known].T.double().numpy(), rcond=None)[0]
    return np.vstack([solution.T, [0, 0, 0, 1]])


def displacement_of(deformation: Volume, linear: np.ndarray | None = None) -> Displacement:
    """The nonlinear part of a ``y_`` field.

    Parameters
    ----------
    deformation : Volume
        For each template voxel the scan point, RAS+ mm (SPM's convention).
    linear : ndarray, (4, 4), optional
        Template mm -> scan mm, the affine part; that of :func:`fit_linear` by default.

    Returns
    -------
    Displacement
        Template point -> affinely aligned scan point, mm.
    """
    grid = deformation.grid
    mm = apply_affine(grid.affine, voxel_indices(grid.shape))
    linear = fit_linear(deformation) if linear is None else linear
    return Displacement(apply_affine(np.linalg.inv(linear), deformation.data) - mm, grid)


def check_same_grid(one: Volume, other: Volume, whose: str, where: str = "") -> None:
    """Raise ScanError, with `where` in front, unless two images have the same voxels."""
    if not one.grid.matches(other.grid):
        msg = f"{where}grid {one.grid} differs from {whose} {other.grid}; resample one, or give maps of one scan"
        raise ScanError(msg)


def _mean_of_finite(values: torch.Tensor) -> float:
    return float(values[values.isfinite()].mean(dtype=torch.float64))


def _gradient(field: Displacement) -> torch.Tensor:
    """``du_i / dx_j``, (3, 3, X, Y, Z), without unit."""
    spacing = [float(size) for size in field.grid.voxel_size_mm]
    return torch.stack([torch.stack(torch.gradient(component, spacing=spacing)) for component in field.data])


def _inner_gradient(fields: torch.Tensor) -> torch.Tensor:
    """Central differences, [field, axis, X, Y, Z]; the outermost layer repeats the next one."""
    inner = (slice(1, -1),) * 3
    rows = []
    for field in fields:
        parts = [((field.roll(-1, axis) - field.roll(1, axis)) / 2)[inner] for axis in range(3)]
        rows.append(torch.nn.functional.pad(torch.stack(parts)[None], (1,) * 6, mode="replicate")[0])
    return torch.stack(rows)
