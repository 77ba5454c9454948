"""Losses: mean absolute error for tissue, cross-entropy for the GM mask, supervised SYMNet for registration."""

from __future__ import annotations

import torch
from torch.nn import functional

from vbmstat.image.volume import jacobian_determinant
from vbmstat.preproc.networks.symnet import Velocities, Warps, compose_warps, pull

SYN_WEIGHT = 2e-5  # the paper's beta


def tissue_loss(predicted: torch.Tensor, p0: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of tissue maps (B, 1, X, Y, Z)."""
    return functional.l1_loss(predicted, p0)


def mask_loss(logits: torch.Tensor, no_gm: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of two logits (B, 2, X, Y, Z) against a mask (B, 1, X, Y, Z)."""
    return functional.cross_entropy(logits, no_gm[:, 0].long())


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
