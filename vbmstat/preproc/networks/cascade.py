"""Tissue segmentation by the cascade: the whole view, 27 patches, and the mask of voxels without GM.

The region is the crop of the template's 0.5 mm grid that the paper's networks see, 336 × 384 × 336 voxels; its start
is not in the paper but in the published package. A set of networks without patches and GM mask uses the whole view
only, at the resolution its network was trained for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import fill_voids
import numpy as np
import torch
from torch import nn

from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks.intensity import brain_range, scale_intensity
from vbmstat.preproc.networks.patches import (
    PATCH_SHAPE,
    REGION_SHAPE,
    SIGMA_VOXELS,
    Position,
    importance,
    network_of,
    window,
)  # fmt: skip

REGION_START = (1, 15, 0)  # in the template brain's grid, 339 × 411 × 339 at 0.5 mm
WHOLE_VIEW_SHAPE = (224, 256, 224)  # 0.75 mm
_TISSUE_FROM = 0.9  # of p0: holes enclosed by such voxels are filled
_MASK_START, _MASK_SHAPE = (56, 28, 0), (128, 288, 256)  # left half, as the mask's network sees it, in the region
_IS_BRAIN_FROM = 1e-3


@dataclass(frozen=True)
class TissueNetworks:
    """Networks of the cascade, on their device.

    Attributes
    ----------
    whole : callable
        Scaled image (B, 1, X, Y, Z) -> p0, on the whole view's grid.
    whole_shape : tuple of three ints
        Shape of the whole view; its first and last voxel centres are those of the region.
    patches : tuple of 18 callables, or empty
        Scaled image and first-stage p0 (B, 2, 128, 128, 128) -> p0.
    positions : list of 27 positions
        First voxels of the patches in the region.
    gm_mask : callable, optional
        p0 of half a brain (B, 1, 128, 288, 256) -> logits of "GM may be here" and "no GM here".
    mask_shape : tuple of three ints
        Shape of the view whose halves the mask's network sees, placed like the whole view.
    """

    whole: nn.Module
    whole_shape: tuple[int, int, int] = WHOLE_VIEW_SHAPE
    patches: tuple[nn.Module, ...] = ()
    positions: tuple[Position, ...] = ()
    gm_mask: nn.Module | None = None
    mask_shape: tuple[int, int, int] = REGION_SHAPE

    @property
    def is_coarse(self) -> bool:
        """Whether there is no second stage, so that the scan has more detail than the result."""
        return not self.patches


def region_grid(template_brain: Grid) -> Grid:
    """The region of 336 × 384 × 336 voxels in the template brain's grid."""
    stop = tuple(start + n for start, n in zip(REGION_START, REGION_SHAPE, strict=True))
    return template_brain.crop(REGION_START, stop)  # type: ignore[arg-type]


def view_grid(region: Grid, shape: tuple[int, int, int]) -> Grid:
    """A grid with another number of voxels and the same first and last voxel centres as a region."""
    step = [(n - 1) / (m - 1) for n, m in zip(region.shape, shape, strict=True)]
    return Grid(shape, region.affine @ np.diag([*step, 1.0]))


def resample_low_passed(
    data: torch.Tensor, source: Grid, target: Grid, linear: np.ndarray | None = None
) -> torch.Tensor:
    """Resample images to another grid, with a low-pass along axes where it is coarser, (C, *target.shape).

    Parameters
    ----------
    data : Tensor, (C, X, Y, Z)
        Images on `source`.
    source, target : Grid
        Their grids.
    linear : ndarray, (4, 4), optional
        Target mm -> source mm.
    """
    scale = 1.0 if linear is None else float(np.cbrt(abs(np.linalg.det(linear[:3, :3]))))
    ratio = target.voxel_size_mm * scale / source.voxel_size_mm
    return resample(smooth(data, np.sqrt(np.maximum(ratio**2 - 1, 0)), 3.0), source, target, linear)


def segment_tissue(
    brain: Volume, mask: torch.Tensor, linear: np.ndarray, region: Grid, networks: TissueNetworks
) -> Volume:
    """Segment a brain into GM, WM and CSF fractions in the template's frame.

    Parameters
    ----------
    brain : Volume
        T1w scan, one channel, original intensities.
    mask : Tensor, (X, Y, Z), bool
        Brain mask.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    region : Grid
        Result of :func:`region_grid`.
    networks : TissueNetworks
        Networks to run.

    Returns
    -------
    Volume, (3, X, Y, Z)
        On the region's grid, or on the whole view's if there are no patches.

    Raises
    ------
    ValueError
        If all intensities of the brain are equal.
    """
    low, high = brain_range(brain.data[0] * mask)

    def view(grid: Grid) -> torch.Tensor:
        """The scaled brain, (1, 1, X, Y, Z)."""
        return scale_intensity(resample_low_passed(brain.data * mask, brain.grid, grid, linear), low, high)[None]

    grid = view_grid(region, networks.whole_shape)
    p0 = run(networks.whole, view(grid))
    if networks.patches:
        first = resample(p0[0], grid, region)[None]
        p0, grid = _refine(view(region), first, networks), region
    inside = resample(mask[None].float(), brain.grid, grid, linear) > _IS_BRAIN_FROM
    p0 = _filled(p0[0].clamp(0, 3)) * inside  # (1, X, Y, Z)
    fractions = tissue_fractions(p0[0])
    if networks.gm_mask is not None:
        coarse = view_grid(region, networks.mask_shape)
        no_gm = find_no_gm(resample(p0, grid, coarse)[0], networks.gm_mask)
        fractions = without_gm(fractions, resample(no_gm[None], coarse, grid)[0] > 0.5)
    return Volume(fractions, grid)


def run(network: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Run a network in half precision on CUDA, channels last everywhere; output in float32."""
    image = image.to(memory_format=torch.channels_last_3d)
    with torch.autocast("cuda", torch.float16, enabled=image.device.type == "cuda"):
        return network(image).float()


def tissue_fractions(p0: torch.Tensor) -> torch.Tensor:
    """GM, WM, CSF from a tissue map (CSF 1, GM 2, WM 3), (3, X, Y, Z); values below 1 are partly background."""
    gm = (1 - (p0 - 2).abs()).clamp(0, 1)
    wm = (p0 - 2).clamp(0, 1)
    csf = (1 - (p0 - 1).abs()).clamp(0, 1)
    return torch.stack([gm, wm, csf])


def without_gm(fractions: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Move the GM of some voxels to WM and CSF, half to each."""
    gm, wm, csf = fractions
    moved = gm * where
    return torch.stack([gm - moved, wm + moved / 2, csf + moved / 2])


def _refine(image: torch.Tensor, first: torch.Tensor, networks: TissueNetworks) -> torch.Tensor:
    """Second stage, (1, 1, X, Y, Z): the Gaussian-weighted mean of patches; the first stage outside all patches."""
    weight = importance().to(image)
    total, weights = torch.zeros_like(first), torch.zeros_like(first)
    background = image.amin()
    for index, position in enumerate(networks.positions):
        at = (slice(None), slice(None), *window(position, PATCH_SHAPE))
        both = torch.cat([image[at], first[at]], dim=1)
        weights[at] += weight
        if not bool((both[:, 0] > background).any()):
            continue  # only background, whose p0 is 0
        network, mirrored = network_of(index)
        p0 = run(networks.patches[network], both.flip(2) if mirrored else both)
        total[at] += weight * (p0.flip(2) if mirrored else p0)
    return torch.where(weights > 0, total / weights, first)


def _filled(p0: torch.Tensor) -> torch.Tensor:
    """p0 with holes in the tissue filled with CSF."""
    tissue = (p0[0] > _TISSUE_FROM).cpu().numpy()
    holes = torch.from_numpy(fill_voids.fill(tissue) & ~tissue).to(p0.device)
    return torch.where(holes, torch.ones_like(p0), p0)


def mask_windows(shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The left and right half of a view, as inputs of the GM mask's network; the right one is mirrored for it.

    Examples
    --------
    >>> mask_windows((336, 384, 336))[1]
    (slice(152, 280, None), slice(28, 316, None), slice(0, 256, None))
    """
    scale = [n / whole for n, whole in zip(shape, REGION_SHAPE, strict=True)]
    start = [round(first * s) for first, s in zip(_MASK_START, scale, strict=True)]
    size = [round(n * s) for n, s in zip(_MASK_SHAPE, scale, strict=True)]
    left = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    return left, (slice(shape[0] - left[0].stop, shape[0] - left[0].start), *left[1:])


def find_no_gm(p0: torch.Tensor, network: nn.Module) -> torch.Tensor:
    """Probability that a voxel has no GM (ventricles, brainstem), (X, Y, Z), from p0 (X, Y, Z) on a view."""
    total, weights = torch.zeros_like(p0), torch.zeros_like(p0)
    for at, mirrored in zip(mask_windows(p0.shape), (False, True), strict=True):
        half = p0[at][None, None]
        weight = importance(half.shape[2:], SIGMA_VOXELS * p0.shape[0] / REGION_SHAPE[0]).to(p0)  # type: ignore[arg-type]
        probability = run(network, half.flip(2) if mirrored else half).softmax(1)[0, 1]
        total[at] += weight * (probability.flip(0) if mirrored else probability)
        weights[at] += weight
    return torch.where(weights > 0, total / weights, 0.0)
