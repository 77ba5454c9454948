"""CAT12's own denoising, segmentation and registration, from the package `cat_surf` by CAT12's author.

The closest match to CAT12 without MATLAB, and the reference for this project's engines. Brain extraction, linear
registration, draft, bias correction and the clean-up of implausible tissue are those of `classic`. The package lacks
CAT12's local adaptive segmentation: deep grey matter relies on AMAP's local means.

Denoising is SANLM (Manjón et al. 2010, doi:10.1002/jmri.22003), segmentation AMAP (Rajapakse et al. 1997,
doi:10.1109/42.563663) with partial-volume classes (Tohka et al. 2004, doi:10.1016/j.neuroimage.2004.05.007),
registration geodesic shooting (Ashburner & Friston 2011, doi:10.1016/j.neuroimage.2010.12.049).
The package is GPL and optional: only this module imports it, at first use. It computes on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from vbmstat.errors import AssetError, ScanError
from vbmstat.image.grid import apply_affine, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.engines.classic import Classic, Start, without_implausible
from vbmstat.preproc.steps.denoise import noise_sigma
from vbmstat.preproc.steps.tissue import Segmentation
from vbmstat.preproc.steps.warp import Warp
from vbmstat.preproc.steps.working import Brain

_N_ITERATIONS, _N_SWEEPS = 50, 50  # of AMAP and of the Markov random field (ICM), as in CAT12
_MAX_NOISE, _NOISE_GAIN = 0.15, 3.0  # CAT12 weights the random field by min(0.15, 3 · noise) / 2
_N_KMEANS = 20
# CAT12's settings of Shooting. The package's defaults (1.0, 0.5) fit more closely, but give fields that are twice as
# rough and may fold.
_SCHEDULE, _REGULARISATION = 0.5, 1.0
_TEMPLATE_FWHM_MM = (8.0, 6.0, 4.0, 2.5, 0.0)  # Template_0 to Template_4
_PURE = (0, 2, 4)  # CSF, GM, WM among AMAP's five classes


@dataclass(frozen=True)
class Cat(Classic):
    """Engine ``cat``: CAT12's denoising, segmentation and registration, with the draft of `classic`."""

    name: ClassVar[str] = "cat"
    takes_lesion_mask: ClassVar[bool] = False

    @property
    def has_velocity(self) -> bool:
        """No: shooting follows a geodesic, whose velocity changes on the way."""
        return False

    def parameters(self) -> dict[str, Any]:
        """Version and settings of `cat_surf`; raises AssetError if it is not installed."""
        _cat_surf()
        return {
            "cat_surf": metadata.version("cat-surf"),
            "amap": {"iterations": _N_ITERATIONS, "icm_sweeps": _N_SWEEPS, "partial_volume": True},
            "shooting": {"regstr": _SCHEDULE, "reg_scale": _REGULARISATION},
            "shooting_template_fwhm_mm": list(_TEMPLATE_FWHM_MM),
        }

    def denoise(self, brain: Brain) -> Brain:
        """SANLM: non-local means that estimates the noise itself."""
        return replace(brain, image=Volume(denoise(brain.image.data[0])[None], brain.image.grid))

    def segment(
        self, corrected: Volume, mask: torch.Tensor, start: Start, weights: torch.Tensor | None = None
    ) -> Segmentation:
        """AMAP, then reassignment of implausible tissue; AMAP takes no weights."""
        del weights
        return without_implausible(segment(corrected, mask, start.prior), start.prior)

    def register(self, tissues: Volume, template: Volume, velocity: torch.Tensor) -> Warp:
        """Shooting, which starts at the linear registration, not at the draft's velocity."""
        del velocity
        return register(tissues, template)


def denoise(image: torch.Tensor) -> torch.Tensor:
    """SANLM of raw intensities, (X, Y, Z), float32."""
    return _tensor(_cat_surf().vol_sanlm(_array(image)), image.device)


def segment(t1w: Volume, mask: torch.Tensor, priors: torch.Tensor) -> Segmentation:
    """AMAP from k-means labels, then CAT12's correction of blood vessels.

    Parameters
    ----------
    t1w : Volume
        One channel, bias-corrected, denoised.
    mask : Tensor, (X, Y, Z), bool
        Brain.
    priors : Tensor, (3, X, Y, Z)
        Prior probability of GM, WM, CSF; only the start of k-means.

    Returns
    -------
    Segmentation
        With AMAP's means. A voxel of a mixed class is split by its intensity between the means of the two tissues.

    Raises
    ------
    ScanError
        If the three tissues cannot be separated.
    """
    size = t1w.grid.voxel_size_mm
    intensity = t1w.data[0] * mask
    labels, wm_mean = _kmeans_labels(intensity, mask, priors)
    noise = noise_sigma(intensity, mask) / wm_mean
    states, _, means = _cat_surf().vol_amap(
        _array(intensity / wm_mean), labels, voxelsize=size, n_iters=_N_ITERATIONS, n_iters_icm=_N_SWEEPS, pve=True,
        weight_mrf=min(_MAX_NOISE, _NOISE_GAIN * noise) / 2,
    )  # fmt: skip
    pure = torch.as_tensor(means[list(_PURE)], dtype=torch.float32, device=intensity.device)  # CSF, GM, WM
    if not bool((pure.diff() > 0).all()):
        msg = f"expected CSF < GM < WM in a T1w image, but AMAP's means are {means[list(_PURE)].round(3)}; check it"
        raise ScanError(msg)
    posterior = torch.from_numpy(np.moveaxis(states, -1, 0).astype(np.float32)).to(intensity.device)
    posterior = posterior / posterior.sum(0).clamp(min=1e-6)
    scale = _scale(intensity / wm_mean, posterior, pure)
    corrected = _cat_surf().vol_blood_vessel_correction(_array(scale * mask), size)
    fractions = _fractions(_tensor(corrected, intensity.device)) * mask
    within = (intensity / wm_mean - pure[2])[posterior[4] > 0.9]
    return Segmentation(fractions, pure * wm_mean, float(within.std()) * wm_mean)


def register(tissues: Volume, template: Volume) -> Warp:
    """Geodesic shooting of GM and WM to five templates, coarse to fine.

    Voxels go from 2.5 to 1.5 mm, with CAT12's schedule and regularisation. Of CAT12's five templates only the finest,
    ``Template_4_GS``, is available; smoothed by 8, 6, 4 and 2.5 mm FWHM it is about as blurred as the coarser ones.

    Parameters
    ----------
    tissues : Volume
        GM and WM of the scan, linearly resampled to the template's grid.
    template : Volume
        GM and WM of the template.
    """
    grid, device = tissues.grid, tissues.data.device
    gm, wm = (_array(channel.clamp(0, 1)) for channel in tissues.data)
    fields = _cat_surf().vol_shoot(
        gm, wm, _templates(template), grid.affine, template.grid.affine, regstr=_SCHEDULE, reg_scale=_REGULARISATION,
        inverse=True,
    )  # fmt: skip
    forward, inverse = (_displacement(fields[name], grid.affine, device) for name in ("y", "iy"))
    return Warp(Displacement(forward, template.grid), Displacement(inverse, template.grid))


@cache
def _cat_surf() -> Any:
    """The optional package, which has no types."""
    try:
        import cat_surf  # noqa: PLC0415 - GPL, optional
    except ImportError as error:
        msg = f'engine cat needs the package cat-surf ({error}); pip install "vbmstat[cat]"'
        raise AssetError(msg) from error
    return cat_surf


def _kmeans_labels(intensity: torch.Tensor, mask: torch.Tensor, priors: torch.Tensor) -> tuple[np.ndarray, float]:
    """CSF 1, GM 2, WM 3 by k-means, (X, Y, Z), uint8, and the mean of WM."""
    values = intensity[mask]
    weights = priors[[2, 0, 1]][:, mask].square()  # CSF, GM, WM; squared: sure voxels count most
    means = (weights * values).sum(1) / weights.sum(1)
    for _ in range(_N_KMEANS):
        nearest = torch.bucketize(values, (means[1:] + means[:-1]) / 2)
        means = torch.stack([values[nearest == k].mean() for k in range(3)])
    if not bool((means.diff() > 0).all()):  # also if a class is empty, so that its mean is NaN
        msg = f"expected CSF < GM < WM in a T1w image, but the classes' means are {[f'{m:g}' for m in means.tolist()]}"
        raise ScanError(msg)
    labels = torch.zeros(mask.shape, dtype=torch.uint8, device=mask.device)
    labels[mask] = (nearest + 1).to(torch.uint8)
    return labels.cpu().numpy(), float(means[2])


def _scale(intensity: torch.Tensor, posterior: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """CAT12's p0: CSF 1, GM 2, WM 3, values between for mixed classes, (X, Y, Z)."""
    csf, gm, wm = means.unbind()
    in_low = 1 + ((intensity - csf) / (gm - csf)).clamp(0, 1)
    in_high = 2 + ((intensity - gm) / (wm - gm)).clamp(0, 1)
    return posterior[0] + posterior[1] * in_low + 2 * posterior[2] + posterior[3] * in_high + 3 * posterior[4]


def _fractions(scale: torch.Tensor) -> torch.Tensor:
    """GM, WM, CSF of a p0 image, (3, X, Y, Z)."""
    gm = (1 - (scale - 2).abs()).clamp(0, 1)
    wm = (scale - 2).clamp(0, 1)
    return torch.stack([gm, wm, (1 - gm - wm).clamp(min=0)])


def _templates(template: Volume) -> list[np.ndarray]:
    """Template_0 to Template_4, each (X, Y, Z, 2)."""
    widths = [fwhm_mm / template.grid.voxel_size_mm for fwhm_mm in _TEMPLATE_FWHM_MM]
    return [smooth(template.data, width, 3.0).movedim(0, -1).cpu().numpy() for width in widths]


def _displacement(voxels: np.ndarray, affine: np.ndarray, device: torch.device) -> torch.Tensor:
    """Voxel coordinates (X, Y, Z, 3) as displacement in mm, (3, X, Y, Z); NaN get the nearest known one."""
    at = torch.from_numpy(np.moveaxis(voxels, -1, 0).astype(np.float32)).to(device)
    rotation = np.eye(4)
    rotation[:3, :3] = affine[:3, :3]
    moved = apply_affine(rotation, at - voxel_indices(at.shape[1:], device))
    unknown = torch.isnan(moved).any(0).cpu().numpy()  # beyond the template's field of view
    if unknown.any():
        nearest = distance_transform_edt(unknown, return_distances=False, return_indices=True)
        moved = moved[(slice(None), *torch.from_numpy(nearest).long().to(device))]
    return moved.contiguous()


def _array(image: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.cpu().numpy(), dtype=np.float32)


def _tensor(image: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).to(device)
