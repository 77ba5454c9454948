from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.lesion_mask import check_lesion, lesion_on_grid

GRID = Grid((20, 20, 20), np.diag([2.0, 2.0, 2.0, 1.0]))
FAR = Grid((20, 20, 20), np.array([[2.0, 0, 0, 500], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]))


def block(start: int, stop: int, grid: Grid = GRID, value: float = 1.0) -> Volume:
    """A cube of voxels."""
    data = torch.zeros(1, *grid.shape)
    data[(0, *[slice(start, stop)] * 3)] = value
    return Volume(data, grid)


@pytest.mark.parametrize("value", [1.0, 255.0, 0.6])
def test_a_mask_on_the_scan_s_grid_is_taken_as_it_is(value):
    lesion, note = lesion_on_grid(block(4, 10, value=value), GRID)
    assert lesion.sum() == 6**3
    assert note == ""


def test_a_mask_on_another_grid_is_resampled_and_that_is_said():
    finer = GRID.with_voxel_size(1.0)
    lesion, note = lesion_on_grid(block(8, 20, finer), GRID)
    assert torch.equal(lesion, block(4, 10).data[0] > 0)
    assert "lesion mask resampled from grid (40, 40, 40) @ 1" in note


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (block(0, 0), r"the lesion mask is empty \(no voxel above 0.5\)"),
        (block(4, 10, value=0.5), "the lesion mask is empty"),
        (block(4, 10, FAR), "no voxel in the scan's field of view"),
    ],
)
def test_a_mask_without_a_voxel_is_refused(mask, message):
    with pytest.raises(ScanError, match=message):
        lesion_on_grid(mask, GRID)


@pytest.mark.parametrize(
    ("lesion", "message"),
    [
        ((2, 6), None),
        ((0, 3), "70 % of the lesion mask lies outside the brain; expected a mask in the scan's own space"),
        ((2, 17), "the lesion mask covers 82 % of the brain; expected at most 40 %"),
        ((0, 20), "the lesion mask covers 100 % of the brain"),
    ],
)
def test_masks_that_cannot_be_of_a_lesion_in_this_brain(lesion, message):
    brain, inside = block(1, 17).data[0] > 0, block(*lesion).data[0] > 0
    if message is None:
        check_lesion(inside, brain)
        return
    with pytest.raises(ScanError, match=message):
        check_lesion(inside, brain)
