"""Prior probabilities of the tissues in a scan, from the template."""

from __future__ import annotations

import numpy as np
import torch

from vbmstat.image.grid import Grid, apply_affine, resample, sample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume

_PRIOR_FWHM_MM = 5.0  # blur of linearly aligned priors, to allow for misalignment
_WARPED_PRIOR_FWHM_MM = 2.5
# Of a person's average, so that the anatomy of one time point does not leak into another; a share of .2 keeps 95 % of
# a thinning of .5 mm, .5 would keep 94 %, and neither changes the noise
_OWN_PRIOR_FWHM_MM, _OWN_SHARE = 3.0, 0.2
# Striatum and thalamus are in this box (MNI mm). In the template they are half white matter, because their intensity is
# between cortex and white matter; anatomically they are grey matter.
_DEEP_LOW_MM, _DEEP_HIGH_MM = np.array([-36.0, -36.0, -9.0]), np.array([36.0, 24.0, 24.0])
_DEEP_EDGE_MM = 4.0
_DEEP_FROM, _DEEP_TO = 0.15, 0.40  # template GM: below, white matter (or pallidum); above, a deep nucleus
_DEEP_GM = 0.9


def tissue_priors(template: Volume, linear: np.ndarray, grid: Grid, coordinates: Volume | None = None) -> torch.Tensor:
    """Priors of GM, WM, CSF on a scan's grid.

    Parameters
    ----------
    template : Volume
        GM and WM of the template.
    linear : ndarray, (4, 4)
        Template mm -> scan mm, used without a warp.
    grid : Grid
        The scan's grid.
    coordinates : Volume, optional
        Template point (mm) of each scan voxel, from the inverse warp.

    Returns
    -------
    Tensor, (3, X, Y, Z)
        GM, WM, and CSF (the remainder of the template's GM and WM); they sum to 1.
    """
    blur_mm = _PRIOR_FWHM_MM if coordinates is None else _WARPED_PRIOR_FWHM_MM
    blurred = smooth(_deep_nuclei_as_gm(template), blur_mm / template.grid.voxel_size_mm, 3.0)
    if coordinates is None:
        gm_wm = resample(blurred, template.grid, grid, np.linalg.inv(linear))
    else:
        gm_wm = sample(blurred, apply_affine(np.linalg.inv(template.grid.affine), coordinates.data))
    gm_wm = gm_wm.clamp(0, 1)
    return torch.cat([gm_wm, (1 - gm_wm.sum(0, keepdim=True)).clamp(0, 1)])


def soften(fractions: Volume, mask: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Priors from a person's own tissues, blurred and mixed with the template's, (3, X, Y, Z); they sum to 1.

    Parameters
    ----------
    fractions : Volume
        GM, WM, CSF of the average of the person's scans.
    mask : Tensor, (X, Y, Z), bool
        Brain.
    prior : Tensor, (3, X, Y, Z)
        The template's, which alone counts outside the brain.
    """
    inside = mask.float()[None]
    width = _OWN_PRIOR_FWHM_MM / fractions.grid.voxel_size_mm
    blurred = smooth(torch.cat([fractions.data + prior * (1 - inside), torch.ones_like(inside)]), width, 3.0)
    mixed = _OWN_SHARE * blurred[:3] / blurred[3:] + (1 - _OWN_SHARE) * prior
    return mixed / mixed.sum(0)


def nuclei_as_gm(fractions: torch.Tensor, template: Volume, linear: np.ndarray, grid: Grid) -> torch.Tensor:
    """GM, WM, CSF of a scan with striatum and thalamus, as placed by the linear registration, moved from WM to GM.

    Parameters
    ----------
    fractions : Tensor, (3, X, Y, Z)
        Fractions of networks trained on intensities, in which these nuclei are half white matter or more.
    template : Volume
        GM and WM of the template.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    grid : Grid
        The scan's grid, that of the fractions.

    Returns
    -------
    Tensor, (3, X, Y, Z)
        With the same sum in each voxel.
    """
    blurred = smooth(_nuclei(template)[None], _WARPED_PRIOR_FWHM_MM / template.grid.voxel_size_mm, 3.0)
    gm, wm, csf = fractions
    moved = _moved_to_gm(gm, wm, resample(blurred, template.grid, grid, np.linalg.inv(linear))[0])
    return torch.stack([gm + moved, wm - moved, csf])


def _deep_nuclei_as_gm(template: Volume) -> torch.Tensor:
    """The template's GM and WM, with striatum and thalamus moved from WM to GM."""
    gm, wm = template.data
    moved = _moved_to_gm(gm, wm, _nuclei(template))
    return torch.stack([gm + moved, wm - moved])


def _moved_to_gm(gm: torch.Tensor, wm: torch.Tensor, nucleus: torch.Tensor) -> torch.Tensor:
    """Fraction to move from WM to GM in a nucleus, 0 to 1."""
    return torch.minimum(nucleus * (_DEEP_GM - gm).clamp(min=0), wm)


def _nuclei(template: Volume) -> torch.Tensor:
    """Mask of striatum and thalamus, 0 to 1, (X, Y, Z)."""
    gm = template.data[0]
    mm = apply_affine(template.grid.affine, voxel_indices(template.grid.shape, gm.device))
    low, high = (torch.as_tensor(edge, dtype=mm.dtype, device=mm.device) for edge in (_DEEP_LOW_MM, _DEEP_HIGH_MM))
    depth = torch.minimum(mm - low[:, None, None, None], high[:, None, None, None] - mm).amin(0)  # mm inside the box
    inside = (depth / _DEEP_EDGE_MM).clamp(0, 1)
    return inside * ((gm - _DEEP_FROM) / (_DEEP_TO - _DEEP_FROM)).clamp(0, 1)
