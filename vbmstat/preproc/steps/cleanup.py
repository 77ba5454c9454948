"""Reassign anatomically implausible tissue: white-matter lesions that look grey, meninges and vessels."""

from __future__ import annotations

import torch

# Ranges of a prior over which a change fades in or out
_DEEP_WM = (0.85, 0.95)  # WM: above, GM intensity means a hypointensity, not cortex
_NO_GM = (0.03, 0.08)  # GM: below, there is none
_OUTSIDE = (0.01, 0.05)  # GM + WM: below, there is no brain


def plausible(fractions: torch.Tensor, priors: torch.Tensor) -> torch.Tensor:
    """Move implausible GM to WM or CSF.

    GM deep in the template's white matter is a white-matter hypointensity, or the brainstem's grey core, and becomes WM
    (CAT12's WMHC = 2). GM and WM where the warped template has neither are meninges, vessels or remains of imperfect
    skull stripping and become CSF. Both changes fade in over a range of the prior, so that maps stay smooth.

    Parameters
    ----------
    fractions : Tensor, (3, X, Y, Z)
        GM, WM, CSF fractions.
    priors : Tensor, (3, X, Y, Z)
        GM, WM, CSF priors from the warped template.

    Returns
    -------
    Tensor, (3, X, Y, Z)
        With the same sum in each voxel.
    """
    gm, wm, csf = fractions
    lesion = gm * _ramp(priors[1], _DEEP_WM) * (1 - _ramp(priors[0], _NO_GM))
    gm, wm = gm - lesion, wm + lesion
    stray = 1 - _ramp(priors[0] + priors[1], _OUTSIDE)
    return torch.stack([gm * (1 - stray), wm * (1 - stray), csf + (gm + wm) * stray])


def _ramp(values: torch.Tensor, ends: tuple[float, float]) -> torch.Tensor:
    """0 up to the first end, 1 from the second, linear between."""
    low, high = ends
    return ((values - low) / (high - low)).clamp(0, 1)
