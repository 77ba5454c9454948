"""Linear (12-parameter) registration by Gauss-Newton, from any pose, coarse to fine.

Finds the pull matrix A (template RAS+ mm -> scan RAS+ mm) and a gain per channel that minimise

    sum_x sum_c w(x) (scan_c(A x) - g_c template_c(x))^2.

With the warped image's own gradient the update is A <- A (I + D), whose 12 unknowns solve one small normal system per
iteration (Baker & Matthews 2004, doi:10.1023/B:VISI.0000011205.11775.fd, forward compositional).
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid, apply_affine, sample, voxel_indices
from vbmstat.image.smooth import smooth, smooth_onto
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.left_out import average_known

_START_PITCH = np.deg2rad([-50.0, -25.0, 0.0, 25.0, 50.0])
_START_ROLL = np.deg2rad([-25.0, 0.0, 25.0])
_START_YAW = np.deg2rad([-30.0, 0.0, 30.0])
_LEVELING_FWHM_MM = 40.0  # of the local mean that removes the bias field from both images
_KEPT_STARTS = 4
_SPACINGS_MM = (10.0, 6.0, 3.0)
_MAX_SCALE = 1.6  # a fit with a brain this much larger or smaller than the template is wrong


Pyramid = tuple[Volume, Volume, Volume]  # shape and contrast at 10, 6 and 3 mm


def pyramid(brain: Volume, mask: torch.Tensor, weights: torch.Tensor | None = None) -> Pyramid:
    """Shape and contrast of a brain at three resolutions, the input of the registration.

    Parameters
    ----------
    brain : Volume
        One channel, any intensity unit, with or without bias field.
    mask : Tensor, (X, Y, Z), bool
        Brain.
    weights : Tensor, (X, Y, Z), optional
        1, and 0 where the brain is left out of the fit (a lesion): a third channel has that share.
    """
    full = shape_and_contrast(brain, mask, weights)
    coarse, middle, fine = (_known_at_spacing(full, mm) for mm in _SPACINGS_MM)
    return coarse, middle, fine


def register_brain(
    t1w: Volume, mask: torch.Tensor, template: Pyramid, weights: torch.Tensor | None = None
) -> np.ndarray:
    """Register a brain-extracted scan linearly to the template brain.

    Parameters
    ----------
    t1w : Volume
        One channel, any intensity unit, with or without bias field.
    mask : Tensor, (X, Y, Z), bool
        Brain of the scan.
    template : Pyramid
        Pyramid of the skull-stripped average brain.
    weights : Tensor, (X, Y, Z), optional
        1, and 0 where the scan is left out of the fit (a lesion).

    Returns
    -------
    ndarray, (4, 4), float64
        Template RAS+ mm to scan RAS+ mm (pull direction).

    Raises
    ------
    ScanError
        If no pose gives a plausible fit.
    """
    coarse, middle, fine = pyramid(t1w, mask, weights)
    starts = _starting_poses(coarse, template[0])
    fits = sorted((_gauss_newton(coarse, template[0], start, 8) for start in starts), key=_cost)
    refined = [_gauss_newton(middle, template[1], linear, 12) for linear, _ in fits[:_KEPT_STARTS]]
    best, _ = _gauss_newton(fine, template[2], min(refined, key=_cost)[0], 12)
    scales = np.linalg.svd(best[:3, :3], compute_uv=False)
    if scales.max() > _MAX_SCALE or scales.min() < 1 / _MAX_SCALE or np.linalg.det(best[:3, :3]) <= 0:
        msg = f"the brain does not fit the template (scales {scales.round(2)}); expected a whole brain in T1w contrast"
        raise ScanError(msg)
    return best


def _cost(fit: tuple[np.ndarray, float]) -> float:
    return fit[1]


def refine_with_tissues(tissues: Volume, template: Volume, linear: np.ndarray, spacing_mm: float = 3.0) -> np.ndarray:
    """Refine a linear registration with GM and WM maps of the scan and the template.

    Parameters
    ----------
    tissues : Volume
        GM and WM fractions of the scan, two channels. A third, if any, is the share of each voxel that is left out of
        the fit (a lesion).
    template : Volume
        GM and WM of the template, two channels.
    linear : ndarray, (4, 4)
        Start: template mm to scan mm.
    spacing_mm : float
        Resolution of the fit.
    """
    refined, _ = _gauss_newton(
        _known_at_spacing(tissues, spacing_mm), at_spacing(template, spacing_mm), linear, 15, fit_gain=False
    )
    return refined


def shape_and_contrast(
    brain: Volume, mask: torch.Tensor, weights: torch.Tensor | None = None, spacing_mm: float = 2.0
) -> Volume:
    """The mask, and the brain divided by its local mean, which removes the bias field; the share left out, if any.

    Parameters
    ----------
    brain, mask, weights
        As in :func:`pyramid`.
    spacing_mm : float
        Least voxel size of the result.
    """
    spacing = np.maximum(brain.grid.voxel_size_mm, spacing_mm)
    grid = brain.grid.with_voxel_size(spacing)
    anti_alias = grid.voxel_size_mm / brain.grid.voxel_size_mm - 1.0

    def coarse(images: torch.Tensor) -> torch.Tensor:
        return smooth_onto(images, brain.grid, grid, anti_alias, 2.0)

    shape = mask.float()[None]
    left_out = shape[:0] if weights is None else 1 - weights[None]
    both = average_known(torch.cat([brain.data * shape, shape, left_out]), coarse)
    image, inside, left_out = both[:1], both[1:2], both[2:]
    known = both[:2] * (1 - left_out.sum(0))
    local = smooth(known, _LEVELING_FWHM_MM / grid.voxel_size_mm, 3.0)
    levelled = image / (local[:1] / local[1:].clamp(min=1e-3)).clamp(min=1e-6)
    return Volume(torch.cat([inside, levelled.clamp(0, 2) * inside, left_out]), grid)


def at_spacing(volume: Volume, spacing_mm: float) -> Volume:
    """Low-pass and down-sample to about `spacing_mm`."""
    fwhm = np.sqrt(np.maximum(spacing_mm**2 - volume.grid.voxel_size_mm**2, 0)) / volume.grid.voxel_size_mm
    grid = _spaced(volume.grid, spacing_mm)
    return Volume(smooth_onto(volume.data, volume.grid, grid, fwhm, 3.0), grid)


def _known_at_spacing(volume: Volume, spacing_mm: float) -> Volume:
    """The same over what is not left out: two images and perhaps the share of each voxel that is."""

    def coarse(images: torch.Tensor) -> torch.Tensor:
        return at_spacing(Volume(images, volume.grid), spacing_mm).data

    return Volume(average_known(volume.data, coarse), _spaced(volume.grid, spacing_mm))


def _spaced(grid: Grid, spacing_mm: float) -> Grid:
    return grid.with_voxel_size(np.maximum(spacing_mm, grid.voxel_size_mm))


def _starting_poses(scan: Volume, template: Volume) -> list[np.ndarray]:
    """Pull matrices that match centre and size, over a grid of rotations."""
    scan_centre, scan_ml = _centre_and_volume(scan)
    template_centre, template_ml = _centre_and_volume(template)
    scale = np.cbrt(scan_ml / template_ml)
    poses = []
    for angles in product(_START_PITCH, _START_ROLL, _START_YAW):  # about x, then y, then z
        pose = np.eye(4)
        pose[:3, :3] = scale * Rotation.from_euler("xyz", angles).as_matrix()
        pose[:3, 3] = scan_centre - pose[:3, :3] @ template_centre
        poses.append(pose)
    return poses


def _centre_and_volume(volume: Volume) -> tuple[np.ndarray, float]:
    inside = volume.data[0].double()
    total = inside.sum()
    points = voxel_indices(volume.grid.shape, inside.device).double()
    centre = (points * inside).sum(dim=(1, 2, 3)) / total  # voxels
    return (volume.grid.affine @ np.append(centre.cpu().numpy(), 1.0))[:3], float(total) * volume.grid.voxel_volume_ml


def _gauss_newton(
    scan: Volume, template: Volume, linear: np.ndarray, n_iterations: int, fit_gain: bool = True
) -> tuple[np.ndarray, float]:
    """Fitted pull matrix, and the residual sum of squares over that of the template.

    A channel of the scan beyond the template's is the share of each voxel that is left out.
    """
    n_channels = template.data.shape[0]
    fixed = template.data.double()
    mm = apply_affine(template.grid.affine, voxel_indices(template.grid.shape, fixed.device)).double()
    homogeneous = torch.cat([mm / 100.0, torch.ones_like(mm[:1])])  # (4, X, Y, Z); in dm, so that columns compare
    to_voxel = np.linalg.inv(scan.grid.affine)
    gain = torch.ones(n_channels, dtype=torch.float64, device=fixed.device)
    best, best_cost, damping = linear, np.inf, 1e-4
    trial = linear
    for _ in range(n_iterations):
        pulled = _pull(scan, to_voxel @ trial, template.grid)
        warped, weight = pulled[:n_channels], 1 - pulled[n_channels:].sum(0)
        if fit_gain:
            gain = (weight * warped * fixed).sum(dim=(1, 2, 3))
            gain = gain / (weight * fixed**2).sum(dim=(1, 2, 3)).clamp(min=1e-9)
            gain = gain.clamp(min=0.3)
        residual = (warped / gain[:, None, None, None] - fixed) * weight
        cost = float((residual**2).sum() / (fixed**2).sum())
        if cost < best_cost:
            improved = best_cost - cost
            best, best_cost, damping = trial, cost, damping / 4
            known = homogeneous * weight
            normal, force = _normal_equations(warped / gain[:, None, None, None], residual, template.grid, known)
            if improved < 1e-5:
                break
        elif not np.isfinite(best_cost):
            msg = "the brain cannot be registered: its intensities are not those of a T1w image (negative?)"
            raise ScanError(msg)
        else:
            damping *= 16
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -force)
        delta = np.zeros((4, 4))
        delta[:3] = step.reshape(3, 4)
        delta[:3, :3] /= 100.0
        trial = best @ (np.eye(4) + delta)
    return best, best_cost


def _pull(scan: Volume, template_mm_to_voxel: np.ndarray, grid: Grid) -> torch.Tensor:
    points = apply_affine(template_mm_to_voxel @ grid.affine, voxel_indices(grid.shape, scan.data.device))
    return sample(scan.data, points).double()


def _normal_equations(
    warped: torch.Tensor, residual: torch.Tensor, grid: Grid, homogeneous: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """J'J and J'r for the 12 entries of D; the column of D_ij is (d warped / d mm_i) * x_j."""
    voxel_to_mm = torch.as_tensor(np.linalg.inv(grid.affine[:3, :3]).T, device=warped.device)
    x = homogeneous.reshape(4, -1)
    normal, force = np.zeros((12, 12)), np.zeros(12)
    for image, error in zip(warped, residual, strict=True):
        gradient = torch.stack(torch.gradient(image)).reshape(3, -1)
        gradient = voxel_to_mm @ gradient
        columns = (gradient[:, None] * x[None]).reshape(12, -1)
        normal += (columns @ columns.T).cpu().numpy()
        force += (columns @ error.reshape(-1)).cpu().numpy()
    return normal + 1e-9 * np.eye(12) * np.trace(normal), force
