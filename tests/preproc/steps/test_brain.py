"""Which scans came stripped, and what is refused as no brain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps import brain


@pytest.fixture(scope="module")
def head(phantom) -> Volume:
    """The brain in a head: 12 mm of dark skull and bright scalp around it, noise in the air."""
    grid = phantom.image.grid
    wide = Grid(tuple(n + 40 for n in grid.shape), grid.crop((-20, -20, -20), (1, 1, 1)).affine)
    image, mask = resample(phantom.image.data, grid, wide)[0], resample(phantom.mask.float()[None], grid, wide)[0] > 0.5
    skull = torch.from_numpy(ndimage.binary_dilation(mask.numpy(), iterations=3)) & ~mask
    scalp = torch.from_numpy(ndimage.binary_dilation(mask.numpy(), iterations=7)) & ~mask & ~skull
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).abs()
    return Volume((image * mask + 10.0 * skull + 90.0 * scalp + noise)[None], wide)


@pytest.fixture(scope="module")
def zeroed_air(head) -> Volume:
    """The same head as defacing tools leave it: exactly 0 in the air and in front of the face."""
    data = torch.where(head.data > 6.0, head.data, 0.0)
    data[:, :, -35:, :45] = 0
    return Volume(data, head.grid)


def test_stripped_brains_are_recognised(phantom, noisy):
    assert brain.is_stripped(phantom.image)
    assert brain.is_stripped(noisy)


def test_heads_are_not_stripped(head, zeroed_air):
    assert not brain.is_stripped(head)
    assert not brain.is_stripped(zeroed_air)


@pytest.mark.parametrize("background", [-1000.0, 12.5])
def test_the_background_may_have_any_value(phantom, background):
    shifted = torch.where(phantom.mask, phantom.image.data, torch.tensor(background))
    assert brain.is_stripped(Volume(shifted, phantom.image.grid))


def test_brains_of_no_human_size_are_not_stripped_scans(phantom):
    grid = phantom.image.grid
    for scale in (0.5, 2.0):  # an eighth and eight times the volume
        affine = grid.affine.copy()
        affine[:3] *= scale
        assert not brain.is_stripped(Volume(phantom.image.data, Grid(grid.shape, affine)))


def test_stripped_mask_is_the_brain_with_its_holes_and_without_loose_pieces(phantom):
    data = phantom.image.data.clone()
    data[:, 36:40, 44:50, 40:44] = 0  # a signal void inside
    data[:, 0:2, 0:2, 2:4] = 50  # residue far outside
    mask = brain.stripped_mask(Volume(data, phantom.image.grid))
    assert mask.dtype == torch.bool
    assert mask[36:40, 44:50, 40:44].all()
    assert not mask[0:2, 0:2, 2:4].any()
    assert float((mask != phantom.mask).sum()) < 0.01 * float(phantom.mask.sum())


def test_a_head_has_no_stripped_mask(head):
    with pytest.raises(ScanError, match="expected a skull-stripped scan with a constant background"):
        brain.stripped_mask(head)


def test_the_brain_of_a_head_is_found(head, phantom):
    mask = brain.extract_brain(head, torch.device("cpu"))
    known = resample(phantom.mask.float()[None], phantom.image.grid, head.grid)[0] > 0.5
    overlap = 2 * float((mask & known).sum()) / float(mask.sum() + known.sum())
    assert overlap > 0.95


NOISE = torch.rand(1, 64, 64, 64, generator=torch.Generator().manual_seed(0))
NO_BRAIN = Volume(NOISE, Grid((64, 64, 64), np.diag([3.0, 3.0, 3.0, 1.0])))


def test_padding_makes_no_difference(monkeypatch):
    data = torch.zeros(1, 20, 16, 12)
    data[:, 6:14, 1:15, 3:11] = torch.rand(1, 8, 14, 8) + 1
    seen = []
    monkeypatch.setattr(brain, "_extract", lambda inner, _: seen.append(inner) or inner.data[0] > 1.5)
    affine = np.array([[2.0, 0, 0, -20], [0, 2, 0, -16], [0, 0, 2, -12], [0, 0, 0, 1]])
    mask = brain.extract_brain(Volume(data, Grid((20, 16, 12), affine)), torch.device("cpu"))
    assert torch.equal(mask, data[0] > 1.5)
    assert seen[0].grid.shape == (8, 16, 8)  # 14 of 16 are no padding
    np.testing.assert_allclose(seen[0].grid.affine[:3, 3], [-8, -16, -6])
    noisy = Volume(torch.rand(1, 20, 16, 12), Grid((20, 16, 12), affine))
    brain.extract_brain(noisy, torch.device("cpu"))
    assert torch.equal(seen[1].data, noisy.data)


def test_noise_is_refused():
    with pytest.raises(ScanError, match=r"found a brain of \d{4} mL, expected 400 to 2400 mL"):
        brain.extract_brain(NO_BRAIN, torch.device("cpu"))


@pytest.mark.parametrize(("n_voxels", "message"), [(0, "no brain found"), (10, r"found a brain of \d+ mL, expected")])
def test_nothing_or_too_little_is_refused(monkeypatch, n_voxels, message):
    def network(image):
        """A cube of so many voxels an edge is brain."""
        answer = torch.zeros(image.shape)
        answer[:, 0, 30 : 30 + n_voxels, 30 : 30 + n_voxels, 30 : 30 + n_voxels] = 1
        return answer

    monkeypatch.setattr(brain, "_networks", lambda _: (network, network))
    monkeypatch.setattr(brain, "_BOX_OCCUPANCY", 0.001)
    with pytest.raises(ScanError, match=message):
        brain.extract_brain(NO_BRAIN, torch.device("cpu"))


def test_a_head_as_small_as_a_brain_is_not_a_stripped_scan(zeroed_air):
    affine = zeroed_air.grid.affine.copy()
    affine[:3] *= 0.75
    small = Volume(zeroed_air.data, Grid(zeroed_air.grid.shape, affine))
    filled_ml = float((small.data > 0).sum()) * small.grid.voxel_volume_ml
    assert brain.MIN_BRAIN_ML < filled_ml < brain.MAX_STRIPPED_ML  # its size alone does not tell
    assert not brain.is_stripped(small)


def test_scans_that_start_elsewhere_are_brought_to_zero(phantom, noisy, head):
    mask, grid = phantom.mask, phantom.image.grid
    inside = noisy.data[0][mask]
    scores = torch.where(mask, (noisy.data - inside.mean()) / inside.std(), torch.tensor(0.0))
    wanted = (noisy.data - inside.min()) * mask / inside.std()
    torch.testing.assert_close(brain.from_zero(Volume(scores, grid)), wanted, atol=1e-4, rtol=0)
    raised = torch.where(mask, noisy.data + 1000.0, torch.tensor(1000.0))
    torch.testing.assert_close(brain.from_zero(Volume(raised, grid)), noisy.data * mask, atol=1e-3, rtol=0)
    centred = Volume(head.data / 100.0 - 0.5, head.grid)
    torch.testing.assert_close(brain.from_zero(centred), head.data / 100.0, atol=1e-3, rtol=0)


@pytest.mark.parametrize("background", [-1000.0, -1.0, 1.0])
def test_a_constant_background_becomes_zero(phantom, noisy, background):
    scan = torch.where(phantom.mask, noisy.data, torch.tensor(background))
    assert torch.equal(brain.from_zero(Volume(scan, noisy.grid)), noisy.data * phantom.mask)


def test_other_scans_keep_their_values(head, noisy, zeroed_air):
    wrapped = torch.where(zeroed_air.data > 80.0, zeroed_air.data - 130.0, zeroed_air.data)
    ringing = torch.where((zeroed_air.data > 0) & (zeroed_air.data < 8.0), -1.0, zeroed_air.data)
    for scan in (noisy, head, Volume(wrapped, head.grid), Volume(ringing, head.grid)):
        assert torch.equal(brain.from_zero(scan), scan.data)
