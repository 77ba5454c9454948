"""Tissue segmentation: GM, WM and CSF fractions of each voxel of a bias-corrected brain.

An adaptive maximum a posteriori scheme after AMAP (Rajapakse et al. 1997, doi:10.1109/42.563663) with partial-volume
classes (Tohka et al. 2004, doi:10.1016/j.neuroimage.2004.05.007) and local class means (CAT12's local adaptive
segmentation, Gaser et al. 2024, doi:10.1093/gigascience/giae049). Each voxel has one of six states: CSF, CSF/GM, GM,
GM/WM, WM and CSF/WM. Their probabilities come from Gaussians around local means, template priors and a Markov random
field solved by mean-field sweeps; a mixed voxel is then split by its intensity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vbmstat.image.grid import sample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.histogram import gaussian, have_t1w_contrast, histogram_classes

_PURE = (0, 2, 4)  # CSF, GM, WM among the states
_LOCAL_FWHM_MM = 14.0  # reach of the local class means
_LOCAL_SHRINKAGE = 0.02  # weight of the global mean, as a share of a fully occupied neighbourhood
_MRF_STRENGTH = 0.35
_N_ROUNDS = 5  # of expectation-maximisation
_FIT_STRIDE = 2  # voxels
_N_SWEEPS = 3
_SLAB_PLANES = 24
_PRIOR_FLOOR = 0.02


@dataclass(frozen=True)
class Segmentation:
    """Result of :func:`segment`.

    Attributes
    ----------
    fractions : Tensor, (3, X, Y, Z), float32
        GM, WM, CSF fraction of each voxel; they sum to 1 inside the brain and 0 outside.
    means : Tensor, (3,)
        Global mean intensity of CSF, GM, WM.
    sd : float
        Standard deviation within a pure tissue, same unit.
    """

    fractions: torch.Tensor
    means: torch.Tensor
    sd: float


def segment(t1w: Volume, mask: torch.Tensor, priors: torch.Tensor, weights: torch.Tensor | None = None) -> Segmentation:
    """Segment a bias-corrected, brain-extracted T1w image.

    Parameters
    ----------
    t1w : Volume
        One channel, bias-corrected.
    mask : Tensor, (X, Y, Z), bool
        Brain.
    priors : Tensor, (3, X, Y, Z)
        Prior probability of GM, WM, CSF; sums to 1.
    weights : Tensor, (X, Y, Z), optional
        Weight of each voxel in the fit of the classes: 1, and 0 in a lesion. Lesions are segmented all the same.
    """
    intensity, n = t1w.data[0], t1w.grid.shape[0]
    fitted = mask if weights is None else mask * weights
    local, means, sd = _fit_classes(intensity, fitted, priors, t1w.grid.voxel_size_mm)
    fractions = intensity.new_empty(3, *intensity.shape)
    for start in range(0, n, _SLAB_PLANES):  # six states of a whole brain would take many times its memory
        stop = min(start + _SLAB_PLANES, n)
        first, last = max(start - _N_SWEEPS, 0), min(stop + _N_SWEEPS, n)  # a sweep reaches one plane
        planes, inner = slice(first, last), slice(start - first, stop - first)
        at = voxel_indices(intensity[planes].shape, intensity.device)
        at[0] += first
        means_here = sample(local, at.div_(_FIT_STRIDE), padding_mode="border")
        slab = _sweep(intensity[planes], mask[planes], priors[:, planes], means_here, sd)
        fractions[:, start:stop] = slab[:, inner]
    return Segmentation(fractions.mul_(mask), means, float(sd))


def _sweep(
    intensity: torch.Tensor, mask: torch.Tensor, priors: torch.Tensor, local: torch.Tensor, sd: torch.Tensor
) -> torch.Tensor:
    """GM, WM, CSF fractions of a slab by mean-field sweeps; right but in the outer `_N_SWEEPS` planes."""
    evidence = _log_likelihood(intensity, local, sd).add_(_state_priors(priors).log_())
    posterior = torch.softmax(evidence, dim=0)
    for _ in range(_N_SWEEPS):
        cost = _neighbour_cost(posterior.mul_(mask))
        posterior = torch.softmax(torch.sub(evidence, cost, out=cost), dim=0)
    return _split(intensity, local, posterior)


def _fit_classes(
    intensity: torch.Tensor, mask: torch.Tensor, priors: torch.Tensor, voxel_size_mm: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Local means of CSF, GM, WM, their global means and the common standard deviation in a (soft) mask.

    Expectation-maximisation on every second voxel along each axis, which is enough as the means are smooth: the local
    means (3, X/2, Y/2, Z/2) are of these voxels.
    """
    every = (slice(None, None, _FIT_STRIDE),) * 3
    sampled, inside = intensity[every], mask[every]
    prior = _state_priors(priors[(slice(None), *every)])
    posterior = _first_posterior(sampled, inside, prior)
    for _ in range(_N_ROUNDS):
        local, means, sd = _update_classes(sampled, inside, posterior, voxel_size_mm * _FIT_STRIDE)
        posterior = torch.softmax(_log_likelihood(sampled, local, sd) + prior.log(), dim=0)
    return local, means, sd


def _first_posterior(intensity: torch.Tensor, mask: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Probabilities of the six states before any class is known, from their priors and the histogram.

    Priors alone would count the wide sulci of an atrophic brain as GM, which draws its local means to those of CSF. An
    image of another contrast than T1w keeps the priors' classes, so that their means tell.
    """
    posterior = prior.square()  # sharpened: at first the spread is wide, and local means should follow the priors
    posterior = posterior / posterior.sum(0)
    gm_wm_csf = posterior[[2, 4, 0]] * mask
    used = (mask > 0.5) & (intensity > 0)
    if not have_t1w_contrast(intensity, gm_wm_csf) or not used.any():
        return posterior
    logs = torch.where(used, intensity.clamp(min=1e-6).log(), 0.0)
    mean, sd, _ = histogram_classes(logs[used])
    likelihood = gaussian(logs, *(x[:, None, None, None] for x in (mean, sd)))
    pure = likelihood * prior[[2, 4, 0]] * used
    pure = pure / pure.sum(0).clamp(min=1e-12)
    first = torch.zeros_like(prior)
    first[[2, 4, 0]] = pure
    return first


def _state_priors(priors: torch.Tensor) -> torch.Tensor:
    """Priors of the six states; mixed states are likely where two tissues meet."""
    gm, wm, csf = priors.clamp(min=_PRIOR_FLOOR)
    edge = (csf * wm).sqrt() * (1 - gm).clamp(min=0).square()  # where CSF meets WM and there is no GM
    states = torch.stack([csf, (csf * gm).sqrt(), gm, (gm * wm).sqrt(), wm, edge])
    return states / states.sum(0)


def _state_means(local: torch.Tensor) -> torch.Tensor:
    csf, gm, wm = local
    return torch.stack([csf, (csf + gm) / 2, gm, (gm + wm) / 2, wm, (csf + wm) / 2])


def _log_likelihood(intensity: torch.Tensor, local: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    csf, gm, wm = local
    spread = torch.stack(
        [
            sd.expand_as(csf),
            ((gm - csf) / 4).clamp(min=sd),
            sd.expand_as(csf),
            ((wm - gm) / 4).clamp(min=sd),
            sd.expand_as(csf),
            ((wm - csf) / 4).clamp(min=sd),
        ]
    )
    z = (intensity - _state_means(local)).div_(spread)
    z[0] = torch.where(intensity < csf, z[0] * 0.5, z[0] * 0.7)  # CSF has a long tail: flow, vessel walls
    z[4] = torch.where(intensity > wm, z[4] * 0.5, z[4])
    return z.square_().mul_(-0.5).sub_(spread.log_())


def _update_classes(
    intensity: torch.Tensor, mask: torch.Tensor, posterior: torch.Tensor, voxel_size_mm: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Local means, global means and standard deviation from the states' probabilities."""
    weight = posterior[list(_PURE)] * mask  # (3, X, Y, Z)
    total = weight.sum(dim=(1, 2, 3)).clamp(min=1.0)
    means = (weight * intensity).sum(dim=(1, 2, 3)) / total
    factor = np.maximum(np.round(4.0 / voxel_size_mm), 1).astype(int).tolist()
    pooled = [torch.nn.functional.avg_pool3d(x[None], factor, ceil_mode=True)[0] for x in (weight, weight * intensity)]
    fwhm = _LOCAL_FWHM_MM / (voxel_size_mm * factor)
    amount, signal = smooth(pooled[0], fwhm, 3.0), smooth(pooled[1], fwhm, 3.0)
    shrink = _LOCAL_SHRINKAGE
    coarse = (signal + shrink * means[:, None, None, None]) / (amount + shrink)
    local = torch.nn.functional.interpolate(coarse[None], scale_factor=[float(f) for f in factor], mode="trilinear")[0]
    local = local[:, : intensity.shape[0], : intensity.shape[1], : intensity.shape[2]].contiguous()
    local[0] = means[0]
    residual = (weight[1:] * (intensity - local[1:]) ** 2).sum() / weight[1:].sum()
    return local, means, residual.sqrt()


# Disagreement of two neighbours: 0.5 for a pure state beside its own mixture, 1 for any other two states.
_STATE_DISTANCE = torch.tensor(
    [
        [0.0, 0.5, 1.0, 1.0, 1.0, 0.5],
        [0.5, 0.0, 0.5, 1.0, 1.0, 1.0],
        [1.0, 0.5, 0.0, 0.5, 1.0, 1.0],
        [1.0, 1.0, 0.5, 0.0, 0.5, 1.0],
        [1.0, 1.0, 1.0, 0.5, 0.0, 0.5],
        [0.5, 1.0, 1.0, 1.0, 0.5, 0.0],
    ]
)


def _neighbour_cost(posterior: torch.Tensor) -> torch.Tensor:
    """Expected disagreement with the six neighbours, (6, X, Y, Z)."""
    neighbours = torch.zeros_like(posterior)
    for dim in (1, 2, 3):
        n = posterior.shape[dim]
        neighbours.narrow(dim, 1, n - 1).add_(posterior.narrow(dim, 0, n - 1))
        neighbours.narrow(dim, 0, n - 1).add_(posterior.narrow(dim, 1, n - 1))
    cost: torch.Tensor = torch.tensordot(_STATE_DISTANCE.to(posterior), neighbours, dims=1)
    return cost.mul_(_MRF_STRENGTH)


def _split(intensity: torch.Tensor, local: torch.Tensor, posterior: torch.Tensor) -> torch.Tensor:
    """GM, WM, CSF fractions: pure states are 1, mixed states are divided by intensity."""
    csf, gm, wm = local
    part_gm = ((intensity - csf) / (gm - csf).clamp(min=1e-3)).clamp(0, 1)  # of a CSF/GM voxel
    part_wm = ((intensity - gm) / (wm - gm).clamp(min=1e-3)).clamp(0, 1)  # of a GM/WM voxel
    edge_wm = ((intensity - csf) / (wm - csf).clamp(min=1e-3)).clamp(0, 1)  # of a CSF/WM voxel
    c, cg, g, gw, w, cw = posterior
    return torch.stack([
        g + cg * part_gm + gw * (1 - part_wm),
        w + gw * part_wm + cw * edge_wm,
        c + cg * (1 - part_gm) + cw * (1 - edge_wm),
    ])  # fmt: skip
