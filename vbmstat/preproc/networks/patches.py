"""The 27 patches of the second stage: positions, their networks, and weights for merging.

Patches of 128³ voxels in the region of 336 × 384 × 336 voxels of 0.5 mm, three along each axis. A patch in the right
third is mirrored, so that it looks like one in the left third and one network serves both: 18 networks in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import torch

REGION_SHAPE = (336, 384, 336)
PATCH_SHAPE = (128, 128, 128)
N_NETWORKS = 18
SIGMA_VOXELS = 30.0  # of the Gaussian importance weights
Position = tuple[int, int, int]


def regular_positions(
    region: tuple[int, int, int] = REGION_SHAPE, patch: tuple[int, int, int] = PATCH_SHAPE
) -> list[Position]:
    """First voxels of 3 × 3 × 3 patches that cover a region evenly, x slowest: 9 left, 9 middle, 9 right."""
    starts = [(0, (n - size) // 2, n - size) for n, size in zip(region, patch, strict=True)]
    return list(product(*starts))  # type: ignore[arg-type]


def network_of(index: int) -> tuple[int, bool]:
    """Index of the network (of 18) for a patch, and whether the patch is mirrored.

    Examples
    --------
    >>> network_of(8), network_of(17), network_of(26)
    ((8, False), (17, False), (8, True))
    """
    return index % N_NETWORKS, index >= N_NETWORKS


def optimise_positions(masks: Iterable[torch.Tensor], patch: tuple[int, int, int] = PATCH_SHAPE) -> list[Position]:
    """Move patches from the regular grid towards the centre until one more step would lose tissue.

    Parameters
    ----------
    masks : iterable of Tensor, (X, Y, Z), bool
        Tissue masks of many scans on one region. Left and right are pooled, because both sides move symmetrically.
    patch : tuple of three ints
        Shape of a patch.

    Returns
    -------
    list of 27 positions
        In the order of :func:`regular_positions`.

    Notes
    -----
    A patch loses tissue if it no longer contains a tissue voxel that it covered in the regular grid. Moving "stepwise
    by one voxel toward the image center" along each axis until that happens ends where the patch's outer face meets
    the bounding box of that tissue, or in the centre; this end point is computed directly.
    """
    tissue = _pooled(masks)
    region = tuple(tissue.shape)
    regular = regular_positions(region, patch)  # type: ignore[arg-type]
    return with_right_side([_move_inwards(tissue, position, patch) for position in regular[:N_NETWORKS]], region, patch)


def with_right_side(
    left_and_middle: list[Position], region: Sequence[int] = REGION_SHAPE, patch: tuple[int, int, int] = PATCH_SHAPE
) -> list[Position]:
    """27 positions from the 18 on the left and in the middle; the 9 on the right mirror those on the left."""
    return left_and_middle + [(region[0] - patch[0] - x, y, z) for x, y, z in left_and_middle[:9]]


def importance(patch: tuple[int, int, int] = PATCH_SHAPE, sigma: float = SIGMA_VOXELS) -> torch.Tensor:
    """Gaussian weight of each voxel of a patch, 1 at the centre, (X, Y, Z)."""
    axes = [torch.exp(-0.5 * ((torch.arange(n) - (n - 1) / 2) / sigma) ** 2) for n in patch]
    return torch.einsum("i,j,k->ijk", *axes)


def window(position: Position, patch: tuple[int, int, int] = PATCH_SHAPE) -> tuple[slice, slice, slice]:
    """Slices of a patch in its region."""
    x, y, z = (slice(start, start + n) for start, n in zip(position, patch, strict=True))
    return x, y, z


def _pooled(masks: Iterable[torch.Tensor]) -> torch.Tensor:
    """Voxels where any scan or its mirror image has tissue."""
    tissue: torch.Tensor | None = None
    for mask in masks:
        tissue = mask.bool() if tissue is None else tissue | mask
    if tissue is None or not tissue.any():
        msg = "expected masks with tissue, got none"
        raise ValueError(msg)
    return tissue | tissue.flip(0)


def _move_inwards(tissue: torch.Tensor, start: Position, patch: tuple[int, int, int]) -> Position:
    """Move a patch from its regular position until its outer faces meet tissue."""
    own = tissue[window(start, patch)].nonzero()  # (n, 3)
    moved = []
    for axis, first in enumerate(start):
        centre = (tissue.shape[axis] - patch[axis]) // 2
        if len(own) == 0:
            moved.append(centre)
        elif first < centre:
            moved.append(min(first + int(own[:, axis].min()), centre))
        else:
            moved.append(max(first - (patch[axis] - 1 - int(own[:, axis].max())), centre))
    x, y, z = moved
    return x, y, z
