import numpy as np
import pytest
import torch

from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.tracts.names import TRACTS, mirrored
from vbmstat.tracts.prior import build_prior, carry, read_prior, write_prior

N = 41
GRID = Grid((N, N, N), np.array([[1.5, 0, 0, -30], [0, 1.5, 0, -30], [0, 0, 1.5, -30], [0, 0, 0, 1.0]]))
LEFT, RIGHT = TRACTS.index("CST_left"), TRACTS.index("CST_right")


@pytest.fixture(scope="module")
def made():
    """White matter in a ball; a thick CST_left with its narrower mirror image, a thread as CA."""
    distance = (voxel_indices(GRID.shape) - (N - 1) / 2).norm(dim=0)
    wm = Volume((distance < 17).float()[None], GRID)
    masks = torch.zeros(len(TRACTS), *GRID.shape)
    masks[LEFT, 8:16, 16:24, 10:30] = 1
    masks[RIGHT, 26:33, 16:24, 10:30] = 1
    masks[TRACTS.index("CA"), :, 19:21, 19:21] = 1
    masks[TRACTS.index("CC")] = 1
    return build_prior([Volume(masks, GRID)], wm), masks, wm


def probabilities(made):
    prior, _, wm = made
    points = Volume(apply_affine(GRID.affine, voxel_indices(GRID.shape)), GRID)
    return torch.stack(list(carry(prior, points, wm)))


def test_sides_are_mirror_images(made):
    data = made[0].probability.data
    other = [TRACTS.index(mirrored(tract)) for tract in TRACTS]
    assert torch.equal(data, data[other].flip(1))


def test_smoothing_within_white_matter_keeps_the_volume_and_stays_in_it(made):
    _, masks, wm = made
    carried = probabilities(made)
    own = (masks[LEFT] * wm.data[0]).sum() / 2 + (masks[RIGHT] * wm.data[0]).sum() / 2
    assert float(carried[LEFT].sum()) == pytest.approx(float(own), rel=0.1)
    assert float(carried[:, wm.data[0] == 0].max()) == 0
    assert float(carried[LEFT].max()) > 0.8
    assert float(carried[TRACTS.index("CC")][wm.data[0] == 1].min()) > 0.97  # all white matter, so up to its border


def test_masks_at_the_threshold_have_the_expected_volume_and_thin_tracts_are_not_lost(made):
    prior, carried = made[0], probabilities(made)
    thin = TRACTS.index("CA")
    assert float(carried[thin].max()) < 0.5
    for row in (LEFT, thin):
        mask = carried[row] >= prior.threshold[row]
        assert int(mask.sum()) == pytest.approx(float(carried[row].sum()), rel=0.2)


def test_a_prior_read_is_the_one_written(made, tmp_path):
    write_prior(made[0], tmp_path)
    again = read_prior(tmp_path)
    assert again.probability.data == pytest.approx(made[0].probability.data, abs=1e-6)
    assert again.threshold.tolist() == made[0].threshold.tolist()
    assert again.grade == made[0].grade == "one person"
