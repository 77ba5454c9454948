"""Tissue fractions of voxels with lesions: as white matter, or as no tissue."""

from __future__ import annotations

import torch

_SURE = (0.25, 0.75)  # probability of a lesion: below, none; above, the whole voxel


def lesion_share(probability: torch.Tensor, fractions: torch.Tensor) -> torch.Tensor:
    """Share of each voxel that is lesion, (X, Y, Z): the probability stretched around one half, inside the brain.

    Parameters
    ----------
    probability : Tensor, (X, Y, Z)
        Probability of a lesion.
    fractions : Tensor, (3, X, Y, Z)
        GM, WM, CSF; they sum to 1 inside the brain.
    """
    low, high = _SURE
    return ((probability - low) / (high - low)).clamp(0, 1) * fractions.sum(0)


def without_lesion(fractions: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """GM, WM, CSF (3, X, Y, Z) of what is not lesion; with the share they sum to what they did before."""
    return fractions * (1 - share)


def lesion_as_wm(fractions: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """GM, WM, CSF (3, X, Y, Z) with the lesion counted as WM (CAT12's WMHC = 2); their sum is unchanged."""
    gm, wm, csf = without_lesion(fractions, share)
    return torch.stack([gm, wm + share * fractions.sum(0), csf])
