"""Bias field: smooth multiplicative shading, estimated with the tissue classes.

Intensity y(x) = b(x) · (mean of the tissue at x) · noise. In the log domain the field is the smooth part of the
residual from the expected tissue, as in Wells et al. 1996 (doi:10.1109/42.511747) and Van Leemput et al. 1999
(doi:10.1109/42.811270), with template priors as in unified segmentation (Ashburner & Friston 2005,
doi:10.1016/j.neuroimage.2005.02.018).
"""

from __future__ import annotations

import numpy as np
import torch

from vbmstat.image.grid import resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.histogram import gaussian, have_t1w_contrast, histogram_classes

_SPACING_MM = 3.0  # sampling distance of the fit, as in SPM
_FWHM_SCHEDULE_MM = (90.0,) * 4 + (60.0,) * 6 + (40.0,) * 10
_PRIOR_FLOOR = 0.03
_LEAST_LOG_SD = 0.03
_MOST_LOG_SD = (0.15, 0.15, 0.35)  # of GM, WM, CSF; a wider GM would take in CSF
_MISFIT_AT_FIRST = 0.5  # probability that the atlas is wrong about a voxel, before it is fitted


def bias_field(
    t1w: Volume, mask: torch.Tensor, priors: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiplicative bias field with mean log 0 over the brain.

    Parameters
    ----------
    t1w : Volume
        One channel; positive inside the mask.
    mask : Tensor, (X, Y, Z), bool
        Brain.
    priors : Tensor, (3, X, Y, Z)
        Prior probability of GM, WM, CSF at each voxel; sums to 1 inside the mask.
    weights : Tensor, (X, Y, Z), optional
        Voxels of at most one half are left out of the fit (a lesion).

    Returns
    -------
    Tensor, (X, Y, Z)
        Smooth, also defined beyond the mask; ``t1w / field`` is corrected.
    """
    coarse, every = t1w.grid.every(_SPACING_MM)
    fitted = mask if weights is None else mask & (weights > 0.5)
    intensity, inside = t1w.data[0][every], fitted[every]
    inside = inside & (intensity > 0)
    fwhm_voxels = 1.0 / coarse.voxel_size_mm  # for 1 mm
    log_intensity = torch.where(inside, intensity.clamp(min=1e-6).log(), 0.0)
    prior = torch.stack([p[every] for p in priors]).clamp(min=_PRIOR_FLOOR)
    log_field = _fit(log_intensity, inside, prior, fwhm_voxels)
    field = resample(log_field[None], coarse, t1w.grid, padding_mode="border")[0]
    return (field - field[mask].mean()).exp_()


def _fit(
    log_intensity: torch.Tensor, inside: torch.Tensor, prior: torch.Tensor, fwhm_voxels: np.ndarray
) -> torch.Tensor:
    """Log field by expectation-maximisation, with mean 0 inside.

    A voxel's class is drawn from the atlas, or, with a probability that is fitted too, from shares that are the same
    everywhere: where the atlas misfits (wide sulci), its priors would turn CSF into dark GM, and so into shading.
    """
    floor = log_intensity[inside].median() + np.log(0.05)  # zeros and signal voids carry no shading
    inside = inside & (log_intensity > floor)
    atlas = prior / prior.sum(0)
    mean, sd, shares = histogram_classes(log_intensity[inside])
    if not have_t1w_contrast(log_intensity, atlas * inside):  # the atlas tells which class is which
        mean, sd = _moments(log_intensity, atlas * inside)
    misfit = shares * _MISFIT_AT_FIRST  # (3,); the sum is the probability of a misfit
    log_field, n_inside = torch.zeros_like(log_intensity), inside.sum()
    for fwhm_mm in _FWHM_SCHEDULE_MM:
        corrected = log_intensity - log_field
        likelihood = gaussian(corrected, _column(mean), _column(sd))
        apart = likelihood * _column(misfit)
        joint = likelihood.mul_((1 - misfit.sum()) * atlas).add_(apart)
        per_class = inside / joint.sum(0).clamp(min=1e-12)
        weight = joint.mul_(per_class)
        misfit = (apart * per_class).sum(dim=(1, 2, 3)) / n_inside
        mean, sd = _moments(corrected, weight)
        # The residual is added to the field (as in N4, Tustison et al. 2010): a local mean falls short at the edge.
        log_field = log_field + _smooth_residual(corrected, weight, mean, sd, fwhm_mm * fwhm_voxels)
        log_field = log_field - log_field[inside].mean()
    return log_field


def _moments(values: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and bounded standard deviation of each class, (3,) each, with weights (3, X, Y, Z)."""
    total = weight.sum(dim=(1, 2, 3)).clamp(min=1.0)
    mean = (weight * values).sum(dim=(1, 2, 3)) / total
    sd = ((weight * (values - _column(mean)) ** 2).sum(dim=(1, 2, 3)) / total).sqrt()
    return mean, torch.minimum(sd, torch.tensor(_MOST_LOG_SD).to(sd)).clamp(min=_LEAST_LOG_SD)


def _column(per_class: torch.Tensor) -> torch.Tensor:
    """(3,) to (3, 1, 1, 1)."""
    return per_class[:, None, None, None]


def _smooth_residual(
    corrected: torch.Tensor, weight: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor, fwhm_voxels: np.ndarray
) -> torch.Tensor:
    precision = weight[:2] / (sd[:2, None, None, None] ** 2)  # GM and WM; CSF is dark and noisy
    total = precision.sum(0)
    residual = (precision * (corrected - mean[:2, None, None, None])).sum(0)
    smoothed = smooth(torch.stack([residual, total]), fwhm_voxels, 3.0)
    support = 1e-4 * float(total.max())
    overall = float(residual.sum() / total.sum())
    return (smoothed[0] + support * overall) / (smoothed[1] + support)
