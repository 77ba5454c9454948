"""Losses: mean absolute error for tissue, cross-entropy for masks, with Dice for lesions, SYMNet for registration."""

from __future__ import annotations

import torch
from torch.nn import functional

from vbmstat.image.volume import jacobian_determinant
from vbmstat.preproc.networks.symnet import Velocities, Warps, compose_warps, pull

SYN_WEIGHT = 2e-5  # the paper's beta
_DICE_FLOOR = 200.0  # voxels: a few false voxels in a brain without lesions cost little


def tissue_loss(predicted: torch.Tensor, p0: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of tissue maps (B, 1, X, Y, Z)."""
    return functional.l1_loss(predicted, p0)


def mask_loss(logits: torch.Tensor, no_gm: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of two logits (B, 2, X, Y, Z) against a mask (B, 1, X, Y, Z)."""
    return functional.cross_entropy(logits, no_gm[:, 0].long())


def lesion_loss(probability: torch.Tensor, lesion: torch.Tensor, voxels: float = 1.0) -> torch.Tensor:
    """One minus Dice, plus the cross-entropy per lesion voxel.

    Parameters
    ----------
    probability, lesion : Tensor, (B, 1, X, Y, Z)
        Predicted and true (0 or 1).
    voxels : float
        Number of image voxels that each entry stands for: more than 1 on thick slices and in samples.

    Notes
    -----
    Lesions fill one voxel in a thousand: the mean cross-entropy over all voxels would hardly depend on them. Both terms
    are of the batch as a whole: a brain without lesions would else outweigh one that is full of them.
    """
    size, floor = lesion.sum(), _DICE_FLOOR / voxels
    dice = (2 * (probability * lesion).sum() + floor) / (probability.sum() + size + floor)
    likelihood = torch.where(lesion > 0.5, probability, 1 - probability)
    entropy = -likelihood.clamp(min=1e-6).log().sum()
    return 1 - dice + 0.5 * entropy / (size + 10 * floor)


def slice_profile(n_voxels: int, n_slices: int, thickness: float) -> torch.Tensor:
    """Weight of each voxel in each of equally spaced slices, (n_slices, n_voxels); rows sum to 1.

    Parameters
    ----------
    n_voxels, n_slices : int
        Voxels and slices along the axis, over the same extent.
    thickness : float
        Of a slice, in voxels: the width of its rectangular profile. Below the spacing there are gaps, above it slices
        overlap.

    Examples
    --------
    >>> slice_profile(4, 2, 2.0)
    tensor([[0.5000, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000]])
    """
    edges = torch.arange(n_voxels + 1, dtype=torch.float32)
    centres = (torch.arange(n_slices) + 0.5)[:, None] * n_voxels / n_slices
    inside = (edges - centres).clamp(-thickness / 2, thickness / 2)  # position within the slice of each voxel's edges
    overlap = inside.diff(dim=1)
    return overlap / overlap.sum(1, keepdim=True)


def registration_loss(
    predicted: Velocities, target: Velocities, scan: torch.Tensor, template: torch.Tensor
) -> torch.Tensor:
    """Supervised SYMNet's loss: velocities, Jacobian determinants and, with a small weight, SyN's image terms.

    Parameters
    ----------
    predicted, target : Velocities
        Half velocities, voxels.
    scan, template : Tensor, (B, C, X, Y, Z)
        Tissue maps.

    Notes
    -----
    ``MSE(v, v*) + MSE(w, w*) + MSE(J, J*) + 2e-5 L_SyN`` with the Jacobian determinant J of the forward warp. The paper
    does not report the unit of the velocities. Here it is the voxel: in the network's own unit, shares of the field of
    view, their term is a thousandth of the determinants', and networks learnt to grow and shrink but not to move. Of
    the paper's L_SyN, the three image terms are used; the targets provide regularity.
    """
    warps = compose_warps(predicted)
    velocity = functional.mse_loss(predicted.forward, target.forward)
    velocity = velocity + functional.mse_loss(predicted.backward, target.backward)
    with torch.no_grad():
        target_jacobian = jacobian_determinant(compose_warps(target).forward)
    jacobian = functional.mse_loss(jacobian_determinant(warps.forward), target_jacobian)
    return velocity + jacobian + SYN_WEIGHT * syn_loss(warps, scan, template)


def syn_loss(warps: Warps, scan: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of scan and template in template space, in scan space and half-way."""
    return (
        functional.mse_loss(pull(scan, warps.forward), template)
        + functional.mse_loss(pull(template, warps.backward), scan)
        + functional.mse_loss(pull(scan, warps.half_forward), pull(template, warps.half_backward))
    )
