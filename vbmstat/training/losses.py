"""Losses: mean absolute error for tissue, cross-entropy for the GM mask, supervised SYMNet's for registration."""

from __future__ import annotations

import torch
from torch.nn import functional

from vbmstat.image.volume import jacobian_determinant
from vbmstat.preproc.networks.symnet import Velocities, Warps, compose_warps, pull

SYN_WEIGHT = 2e-5  # the paper's beta


def tissue_loss(found: torch.Tensor, p0: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of a tissue map, (B, 1, X, Y, Z) both."""
    return functional.l1_loss(found, p0)


def mask_loss(logits: torch.Tensor, no_gm: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of two logits (B, 2, X, Y, Z) against a mask (B, 1, X, Y, Z)."""
    return functional.cross_entropy(logits, no_gm[:, 0].long())


def registration_loss(
    found: Velocities, known: Velocities, scan: torch.Tensor, template: torch.Tensor
) -> torch.Tensor:
    """Supervised SYMNet's loss: of velocities, of Jacobian determinants, and a little of SyN's.

    Parameters
    ----------
    found, known : Velocities
        Predicted and target half velocities, voxels.
    scan, template : Tensor, (B, C, X, Y, Z)
        Tissues.

    Notes
    -----
    ``MSE(v, v*) + MSE(w, w*) + MSE(J, J*) + 2e-5 L_SyN`` with the Jacobian determinant J of the forward warp. The paper
    does not say in which unit velocities are compared. Here it is the voxel: as shares of the field of view, as the
    network gives them, their term is a thousandth of the determinants', and networks learnt to grow and shrink but not
    to move. Of the paper's L_SyN the three image terms are taken; regularity is left to the targets.
    """
    warps = compose_warps(found)
    velocity = functional.mse_loss(found.forward, known.forward) + functional.mse_loss(found.backward, known.backward)
    with torch.no_grad():
        known_jacobian = jacobian_determinant(compose_warps(known).forward)
    jacobian = functional.mse_loss(jacobian_determinant(warps.forward), known_jacobian)
    return velocity + jacobian + SYN_WEIGHT * syn_loss(warps, scan, template)


def syn_loss(warps: Warps, scan: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """Mean squared difference in the template's space, in the scan's, and half-way."""
    return (
        functional.mse_loss(pull(scan, warps.forward), template)
        + functional.mse_loss(pull(template, warps.backward), scan)
        + functional.mse_loss(pull(scan, warps.half_forward), pull(template, warps.half_backward))
    )
