"""The working grid: the brain's box, bounded voxels, and back to the scan without loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps import working


@pytest.fixture
def scan() -> tuple[Volume, torch.Tensor]:
    """Noise on a grid that is turned, with a brain of 10 × 12 × 14 voxels off its middle."""
    affine = np.array([[-1.0, 0, 0, 20], [0, 0, 1.2, -30], [0, 1.1, 0, -10], [0, 0, 0, 1]])
    data = torch.rand(1, 40, 36, 30, generator=torch.Generator().manual_seed(0)) + 0.5
    mask = torch.zeros(data.shape[1:], dtype=torch.bool)
    mask[6:16, 2:14, 12:26] = True
    return Volume(data, Grid(tuple(mask.shape), affine)), mask


def test_a_box_holds_the_brain_and_goes_back_to_its_voxels(scan):
    t1w, mask = scan
    box = working.crop_to_brain(t1w, mask)
    assert box.mask.sum() == mask.sum()
    assert box.image.grid.shape == (18, 18, 22)  # 4 voxels around, but for the side where the scan ends
    back = working.on_scan_grid(Volume(box.image.data * box.mask, box.image.grid), t1w.grid)
    assert torch.equal(back, t1w.data * mask)


@pytest.mark.parametrize(("size", "wanted"), [(0.5, 0.8), (0.7, 0.7), (1.0, 1.0), (1.5, 1.5), (2.0, 1.0)])
def test_voxels_are_brought_within_bounds(size, wanted):
    grid = Grid((20, 20, 20), np.diag([size, size, size, 1.0]))
    brain = working.Brain(Volume(torch.full((1, 20, 20, 20), 3.0), grid), torch.ones(20, 20, 20, dtype=torch.bool))
    found = working.bound_voxels(brain)
    assert found.image.grid.voxel_size_mm == pytest.approx(wanted, rel=0.05)
    assert (found is brain) == (size == wanted)
    assert float(found.image.data[0][found.mask].mean()) == pytest.approx(3.0)


def test_the_edge_of_a_resampled_brain_is_not_darkened_by_what_is_outside(scan):
    t1w, mask = scan
    flat = working.Brain(Volume(torch.where(mask, 5.0, 0.0)[None], t1w.grid), mask)
    found = working.resample_brain(flat, t1w.grid.with_voxel_size(2.0))
    assert float(found.image.data[0][found.mask].min()) == pytest.approx(5.0, rel=1e-4)


def test_aligned_tissue_keeps_its_volume(scan):
    t1w, mask = scan
    fractions = Volume(mask.float().expand(3, *mask.shape).clone(), t1w.grid)
    place = np.diag([1.5, 1.5, 1.5, 1.0])
    place[:3, 3] = -45
    template = Volume(torch.zeros(2, 60, 60, 60), Grid((60, 60, 60), place))
    affine = np.diag([1.3, 0.9, 1.0, 1.0])
    found = working.align_to_template(fractions, template, affine)
    assert found.data.shape == (2, 60, 60, 60)
    expected_ml = fractions.sums_ml[0] / np.linalg.det(affine)
    assert found.sums_ml[0] == pytest.approx(expected_ml, rel=0.03)


def test_weights_go_with_the_brain_and_leave_out_of_the_alignment():
    grid = Grid((20, 20, 20), np.diag([2.0, 2.0, 2.0, 1.0]))
    image, mask = Volume(torch.full((1, 20, 20, 20), 3.0), grid), torch.zeros(20, 20, 20, dtype=torch.bool)
    mask[5:15, 5:15, 5:15] = True
    weights = torch.ones(20, 20, 20)
    weights[:10] = 0
    brain = working.crop_to_brain(image, mask, weights)
    assert brain.weights is not None
    assert brain.weights.shape == brain.mask.shape
    coarse = working.resample_brain(brain, brain.image.grid.with_voxel_size(4.0))
    assert coarse.weights is not None
    assert float(coarse.weights.min()) == 0
    assert float(coarse.weights.max()) == 1
    fractions = Volume(torch.full((3, 20, 20, 20), 0.4), grid)
    fractions.data[:, :10] = 9.0  # nonsense in the lesion
    aligned = working.align_to_template(fractions, Volume(image.data, grid), np.eye(4), weights)
    assert aligned.data.shape[0] == 3
    torch.testing.assert_close(aligned.data[:2, 11:], torch.full((2, 9, 20, 20), 0.4))
    assert aligned.data[2, 0, 10, 10] == 1
    assert aligned.data[2, 19, 10, 10] == 0
