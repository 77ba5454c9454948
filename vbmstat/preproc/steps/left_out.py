"""Means of tissue images over what is not left out of a fit: cost-function masking of lesions.

A lesion is neither GM, WM nor CSF of the template. Its voxels are left out of the likelihood of a registration, which
then only interpolates there (Brett et al. 2001, doi:10.1006/nimg.2001.0845).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

N_TISSUES = 2  # GM and WM; a third channel is the share of each voxel that is left out
_LEAST_KNOWN = 0.05  # share of a voxel outside lesions that its mean is divided by


def average_known(images: torch.Tensor, average: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Average images over what is not left out.

    Parameters
    ----------
    images : Tensor, (2 or 3, X, Y, Z)
        GM, WM and perhaps the share of each voxel that is left out.
    average : callable
        Smooths or resamples images, each channel alike.

    Returns
    -------
    Tensor, (2 or 3, X, Y, Z)
        GM and WM, and the averaged share.
    """
    tissues, left_out = images[:N_TISSUES], images[N_TISSUES:]
    if not len(left_out):
        return average(images)
    both = average(torch.cat([tissues * (1 - left_out), left_out]))
    share = both[N_TISSUES:]
    return torch.cat([both[:N_TISSUES] / (1 - share).clamp(min=_LEAST_KNOWN), share])
