"""The 27 patches: their networks and positions, which cover all tissue."""

from __future__ import annotations

import math

import pytest
import torch

from vbmstat.preproc.networks.patches import (
    PATCH_SHAPE,
    REGION_SHAPE,
    importance,
    network_of,
    optimise_positions,
    regular_positions,
    window,
)  # fmt: skip

SMALL_REGION, SMALL_PATCH = (42, 48, 42), (16, 18, 16)


def covered(positions, region, patch):
    out = torch.zeros(region, dtype=torch.bool)
    for position in positions:
        out[window(position, patch)] = True
    return out


def ellipsoid(radii, centre):
    axes = [torch.arange(n, dtype=torch.float32) for n in SMALL_REGION]
    at = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return sum(((at[i] - centre[i]) / radii[i]) ** 2 for i in range(3)) < 1


def test_the_regular_grid_covers_the_paper_s_region():
    positions = regular_positions()
    assert len(positions) == 27
    assert positions[0] == (0, 0, 0)
    assert positions[13] == (104, 128, 104)
    assert positions[26] == (208, 256, 208)
    assert (REGION_SHAPE, PATCH_SHAPE) == ((336, 384, 336), (128, 128, 128))
    assert covered(positions, REGION_SHAPE, PATCH_SHAPE).all()


def test_18_networks_serve_27_patches_and_the_right_nine_are_mirrored():
    served = [network_of(index) for index in range(27)]
    assert sorted({network for network, _ in served}) == list(range(18))
    assert [mirrored for _, mirrored in served] == 18 * [False] + 9 * [True]
    positions = regular_positions()
    for index in range(18, 27):
        x, y, z = positions[index]
        assert positions[served[index][0]] == (REGION_SHAPE[0] - PATCH_SHAPE[0] - x, y, z)


def test_moved_patches_keep_all_tissue_and_meet_it():
    masks = [ellipsoid((14, 19, 15), (21, 24, 19)), ellipsoid((12, 20, 14), (23, 23, 20))]
    positions = optimise_positions(masks, SMALL_PATCH)
    tissue = masks[0] | masks[1]
    tissue |= tissue.flip(0)
    assert not (tissue & ~covered(positions, SMALL_REGION, SMALL_PATCH)).any()
    regular = regular_positions(SMALL_REGION, SMALL_PATCH)
    assert positions != regular
    for before, after in zip(regular, positions, strict=True):
        assert (tissue[window(before, SMALL_PATCH)].sum()) <= tissue[window(after, SMALL_PATCH)].sum()
        for axis, (a, b) in enumerate(zip(before, after, strict=True)):
            centre = (SMALL_REGION[axis] - SMALL_PATCH[axis]) // 2
            assert abs(b - centre) <= abs(a - centre)
            if 0 < abs(b - centre) < abs(a - centre):  # one more step would lose tissue
                own = torch.zeros_like(tissue)
                own[window(before, SMALL_PATCH)] = tissue[window(before, SMALL_PATCH)]
                step = list(after)
                step[axis] += 1 if a < centre else -1
                assert own[window(tuple(step), SMALL_PATCH)].sum() < own.sum()


def test_left_and_right_move_in_lockstep():
    positions = optimise_positions([ellipsoid((11, 19, 15), (17, 24, 19))], SMALL_PATCH)  # an off-centre brain
    for left, right in zip(positions[:9], positions[18:], strict=True):
        assert right == (SMALL_REGION[0] - SMALL_PATCH[0] - left[0], *left[1:])


def test_no_tissue_is_an_error():
    with pytest.raises(ValueError, match="masks with tissue"):
        optimise_positions([torch.zeros(SMALL_REGION, dtype=torch.bool)], SMALL_PATCH)


def test_importance_is_a_gaussian_of_30_voxels():
    weight = importance()
    assert weight.shape == PATCH_SHAPE
    assert torch.equal(weight, weight.flip(0))
    along = weight[63, 63]
    assert float(along[64 + 30] / along[64]) == pytest.approx(math.exp(-0.5 * (30.5**2 - 0.5**2) / 30**2), rel=1e-5)
