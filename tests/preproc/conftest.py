"""A synthetic brain whose tissue is known: the template's, sharpened until most voxels are pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import ndimage

from vbmstat import assets
from vbmstat.image.grid import resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.priors import tissue_priors

MEANS = {"gm": 70.0, "wm": 100.0, "csf": 25.0}
VOXEL_MM = 2.0
_START, _STOP = (4, 4, 2), (81, 99, 78)  # the brain of the template at 2 mm with a margin


@dataclass(frozen=True)
class Phantom:
    """A noise-free brain: its image, where it is, the fractions in it (GM, WM, CSF), and the template's priors."""

    image: Volume
    mask: torch.Tensor
    fractions: torch.Tensor
    priors: torch.Tensor


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    template = assets.template()
    grid = template.grid.with_voxel_size(VOXEL_MM).crop(_START, _STOP)
    gm_wm = resample(template.data[:2], template.grid, grid).clamp(0, 1)
    mask = smooth(gm_wm.sum(0, keepdim=True), np.full(3, 4.0), 3.0)[0] > 0.3
    known = torch.cat([gm_wm, (1 - gm_wm.sum(0, keepdim=True)).clamp(0, 1)]) ** 4
    known = known / known.sum(0) * mask
    means = torch.tensor(list(MEANS.values()))
    image = torch.tensordot(means, known, dims=1)
    return Phantom(Volume(image[None], grid), mask, known, tissue_priors(template, np.eye(4), grid))


@pytest.fixture(scope="session")
def noisy(phantom) -> Volume:
    """The brain with 3 % noise (of WM)."""
    noise = torch.randn(phantom.image.data.shape, generator=torch.Generator().manual_seed(0))
    return Volume((phantom.image.data + 3.0 * noise).clamp(min=1.0) * phantom.mask, phantom.image.grid)


@pytest.fixture(scope="session")
def atrophic(phantom, noisy) -> Phantom:
    """A third of the brain is CSF where the priors, as blurred as linear registration leaves them, have tissue."""
    core, deep = (
        torch.from_numpy(ndimage.binary_erosion(phantom.mask.numpy(), iterations=n)) for n in (4, 10)
    )  # 8 and 20 mm
    folds = (torch.arange(phantom.mask.shape[0]) // 4 % 2 == 0)[:, None, None]
    front = (torch.arange(phantom.mask.shape[1]) > phantom.mask.shape[1] // 2)[None, :, None]
    lost = phantom.mask & (~core | (~deep & folds & front))
    noise = noisy.data - phantom.image.data
    image = torch.where(lost, MEANS["csf"] + noise, noisy.data).clamp(min=1.0) * phantom.mask
    fractions = torch.where(lost, torch.tensor([0.0, 0.0, 1.0])[:, None, None, None], phantom.fractions)
    blurred = smooth(phantom.priors * phantom.mask, np.full(3, 12.0 / VOXEL_MM), 3.0)
    priors = blurred / blurred.sum(0).clamp(min=1e-3)
    return Phantom(Volume(image, phantom.image.grid), phantom.mask, fractions, priors)
