"""The working grid (the brain's box in the scan, with bounded voxel sizes), and resampling to it and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import smooth, smooth_onto
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.left_out import average_known

_FINEST_MM, _COARSEST_MM = 0.7, 1.5  # voxels outside this range are resampled for the segmentation
_FINE_WORK_MM, _COARSE_WORK_MM = 0.8, 1.0
_MARGIN_VOXELS = 4


@dataclass(frozen=True)
class Brain:
    """A brain in its box.

    Attributes
    ----------
    image : Volume
        One channel, with its bias field.
    mask : Tensor, (X, Y, Z), bool
        Brain mask.
    weights : Tensor, (X, Y, Z), optional
        Weight of each voxel in every fit: 1, and 0 in a lesion. None: 1 everywhere.
    """

    image: Volume
    mask: torch.Tensor
    weights: torch.Tensor | None = None


def crop_to_brain(t1w: Volume, mask: torch.Tensor, weights: torch.Tensor | None = None) -> Brain:
    """The brain's box of the scan, with a margin."""
    inside = mask.nonzero()
    start = [max(int(n) - _MARGIN_VOXELS, 0) for n in inside.min(0).values]
    stop = [min(int(n) + 1 + _MARGIN_VOXELS, size) for n, size in zip(inside.max(0).values, mask.shape, strict=True)]
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    grid = t1w.grid.crop(tuple(start), tuple(stop))  # type: ignore[arg-type]
    weights = None if weights is None else weights[window].contiguous()
    return Brain(Volume(t1w.data[0][window].contiguous()[None], grid), mask[window].contiguous(), weights)


def bound_voxels(brain: Brain) -> Brain:
    """The brain with extreme voxel sizes resampled to ones that suit the segmentation; else unchanged."""
    size = brain.image.grid.voxel_size_mm
    wanted = np.where(size < _FINEST_MM, _FINE_WORK_MM, np.where(size > _COARSEST_MM, _COARSE_WORK_MM, size))
    return brain if np.allclose(wanted, size) else resample_brain(brain, brain.image.grid.with_voxel_size(wanted))


def resample_brain(brain: Brain, grid: Grid) -> Brain:
    """The brain on another grid, low-passed first along axes where that is coarser."""
    old = brain.image.grid
    fwhm = np.sqrt(np.maximum((grid.voxel_size_mm / old.voxel_size_mm) ** 2 - 1, 0))
    inside = brain.mask.float()[None]
    both = smooth_onto(torch.cat([brain.image.data * inside, inside]), old, grid, fwhm, 3.0)
    weights = None if brain.weights is None else 1 - resample(1 - brain.weights[None], old, grid)[0]
    return Brain(Volume(both[:1] / both[1:].clamp(min=0.05), grid), both[1] > 0.5, weights)


def align_to_template(
    fractions: Volume, template: Volume, linear: np.ndarray, weights: torch.Tensor | None = None
) -> Volume:
    """GM and WM linearly aligned on the template's grid, low-passed to its resolution.

    Parameters
    ----------
    fractions : Volume
        GM, WM and perhaps more in the scan's space.
    template : Volume
        On its own grid.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    weights : Tensor, (X, Y, Z), optional
        1, and 0 where the fractions are not to be used (a lesion).

    Returns
    -------
    Volume
        GM and WM. With weights: their weighted means, and in a third channel the share of each voxel that is left out.
    """
    ratio = template.grid.voxel_size_mm / fractions.grid.voxel_size_mm
    fwhm = np.sqrt(np.maximum(ratio**2 - 1, 0))

    def align(images: torch.Tensor) -> torch.Tensor:
        return resample(smooth(images, fwhm, 3.0), fractions.grid, template.grid, linear)

    return Volume(average_known(gm_wm_to_fit(fractions, weights), align), template.grid)


def gm_wm_to_fit(fractions: Volume, weights: torch.Tensor | None) -> torch.Tensor:
    """GM, WM and, with weights, the share of each voxel that registrations leave out, (2 or 3, X, Y, Z)."""
    gm_wm = fractions.data[:2]
    return gm_wm if weights is None else torch.cat([gm_wm, 1 - weights[None]])


def on_scan_grid(volume: Volume, grid: Grid) -> torch.Tensor:
    """Images from the cropped, perhaps resampled, working grid on the scan's own grid."""
    to_scan = np.linalg.inv(grid.affine) @ volume.grid.affine
    start = np.round(to_scan[:3, 3]).astype(int)
    if np.allclose(to_scan[:3, :3], np.eye(3), atol=1e-6):  # a crop: put it back voxel by voxel
        data = volume.data.new_zeros(volume.data.shape[0], *grid.shape)
        window = tuple(slice(a, a + n) for a, n in zip(start, volume.grid.shape, strict=True))
        data[(slice(None), *window)] = volume.data
        return data
    return resample(volume.data, volume.grid, grid)
