"""The mask of a lesion that a user brings (a stroke, tumour or resection), on the scan's grid and checked."""

from __future__ import annotations

import torch

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume

_INSIDE = 0.5  # a mask's value above this is lesion
_MOST_OF_BRAIN = 0.4  # a lesion of more than this share of the brain is a mask of something else, or inverted
_LEAST_IN_BRAIN = 0.5  # of the lesion: below, the mask belongs to another scan or space


def lesion_on_grid(mask: Volume, grid: Grid) -> tuple[torch.Tensor, str]:
    """A lesion mask on a scan's grid, and a note if it was resampled.

    Parameters
    ----------
    mask : Volume
        Lesion above 0.5, on any grid of the scan's space.
    grid : Grid
        The scan's grid.

    Returns
    -------
    lesion : Tensor, (X, Y, Z), bool
    note : str
        Empty if the two grids are equal.

    Raises
    ------
    ScanError
        If the mask is empty, or has no voxel in the scan's field of view.
    """
    inside = (mask.data[:1] > _INSIDE).float()
    if not bool(inside.any()):
        msg = f"the lesion mask is empty (no voxel above {_INSIDE:g})"
        raise ScanError(msg)
    if mask.grid.matches(grid):
        return inside[0].bool(), ""
    lesion = resample(inside, mask.grid, grid)[0] > _INSIDE
    if not bool(lesion.any()):
        msg = f"the lesion mask (grid {mask.grid}) has no voxel in the scan's field of view (grid {grid})"
        raise ScanError(msg)
    return lesion, f"lesion mask resampled from grid {mask.grid} to the scan's {grid}: check it in the picture"


def check_lesion(lesion: torch.Tensor, brain: torch.Tensor) -> None:
    """Refuse a mask that cannot be of a lesion in this brain; both (X, Y, Z), bool.

    Raises
    ------
    ScanError
        If most of it lies outside the brain, or it covers too much of the brain.
    """
    inside = float((lesion & brain).sum())
    share = inside / max(float(brain.sum()), 1.0)
    if share > _MOST_OF_BRAIN:
        msg = f"the lesion mask covers {100 * share:.0f} % of the brain; expected at most {100 * _MOST_OF_BRAIN:.0f} %"
        raise ScanError(msg)
    if inside < _LEAST_IN_BRAIN * float(lesion.sum()):
        share = 100 * (1 - inside / float(lesion.sum()))
        msg = f"{share:.0f} % of the lesion mask lies outside the brain; expected a mask in the scan's own space"
        raise ScanError(msg)
