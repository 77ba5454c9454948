"""The cascade: inputs of each network, merging of patches, filled holes, and the mask of voxels without GM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.preproc.networks.archives import ByIntensity, Everywhere
from vbmstat import assets
from vbmstat.image.grid import Grid, resample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks import cascade
from vbmstat.preproc.networks.cascade import TissueNetworks
from vbmstat.preproc.networks.patches import REGION_SHAPE, importance, regular_positions
from vbmstat.preproc.networks.weights import build_network

COARSE = (112, 128, 112)  # of the whole view: 1.5 mm
SMALL_PATCH, SMALL_REGION = (32, 36, 32), (84, 96, 84)  # a quarter


class Seen(nn.Module):
    """A network that records its inputs and returns one of their channels."""

    def __init__(self, channel: int = 0) -> None:
        super().__init__()
        self.channel, self.shown = channel, []

    def forward(self, image):
        self.shown.append(image.clone())
        return image[:, self.channel : self.channel + 1]


@pytest.fixture
def small(monkeypatch):
    """The geometry of the second stage at a quarter of the size."""
    monkeypatch.setattr(cascade, "PATCH_SHAPE", SMALL_PATCH)
    monkeypatch.setattr(cascade, "importance", lambda shape=SMALL_PATCH, sigma=8.0: importance(shape, sigma))
    return tuple(regular_positions(SMALL_REGION, SMALL_PATCH))


@pytest.fixture(scope="module")
def region():
    return cascade.region_grid(assets.template_brain().grid)


def test_the_region_is_the_paper_s(region):
    assert region.shape == REGION_SHAPE
    assert np.allclose(region.voxel_size_mm, 0.5)
    half_mm = np.abs(region.affine @ np.array([167.5, 0, 0, 1]))[0]
    assert half_mm < 0.3  # left and right alike
    brain = assets.template_brain()
    outside = brain.data[0].clone()
    outside[1:337, 15:399, :336] = 0
    assert float((outside > 0.05).float().mean()) == 0  # no tissue is cropped


def test_a_view_has_the_corners_of_its_region(region):
    view = cascade.view_grid(region, cascade.WHOLE_VIEW_SHAPE)
    assert np.allclose(view.affine @ np.array([0, 0, 0, 1]), region.affine @ np.array([0, 0, 0, 1]))
    assert np.allclose(view.affine @ np.array([223, 255, 223, 1]), region.affine @ np.array([335, 383, 335, 1]))
    assert np.allclose(view.voxel_size_mm, 0.75, atol=0.002)


def test_patches_that_return_the_first_stage_return_the_first_stage(small):
    networks = TissueNetworks(nn.Identity(), patches=18 * (Seen(1),), positions=small)
    image, first = torch.rand(1, 1, *SMALL_REGION), torch.rand(1, 1, *SMALL_REGION)
    assert torch.allclose(cascade._refine(image, first, networks), first, atol=1e-5)


def test_each_patch_goes_to_its_network_and_right_ones_are_mirrored_both_ways(small):
    networks = tuple(Seen(0) for _ in range(18))
    image = torch.rand(1, 1, *SMALL_REGION)
    result = cascade._refine(image, torch.zeros_like(image), TissueNetworks(nn.Identity(), COARSE, networks, small))
    assert torch.allclose(result, image, atol=1e-5)  # mirrored back
    assert [len(network.shown) for network in networks] == 9 * [2] + 9 * [1]
    left, right = networks[4].shown
    x, y, z = (slice(start, start + n) for start, n in zip(small[4], SMALL_PATCH, strict=True))
    assert torch.equal(left[0, 0], image[0, 0, x, y, z])
    assert torch.equal(right[0, 0], image[0, 0].flip(0)[x, y, z])  # the mirrored image's left


def test_voxels_near_a_patch_s_border_count_less(small):
    """Of two networks that disagree, each dominates near its own centre."""

    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, both):
            return torch.full_like(both[:, :1], self.value)

    values = [0.0] * 9 + [1.0] * 9  # sides 0, middle 1
    networks = TissueNetworks(nn.Identity(), COARSE, tuple(Constant(v) for v in values), small)
    image = torch.rand(1, 1, *SMALL_REGION)
    result = cascade._refine(image, torch.zeros_like(image), networks)[0, 0, :, 48, 42]
    assert float(result[0]) == 0
    assert float(result[42]) == 1
    overlap = result[26:32]  # these voxels belong to both
    assert (overlap.diff() > 0).all()
    assert ((overlap > 0) & (overlap < 1)).all()


def test_where_no_patch_lies_the_first_stage_stays_and_empty_patches_run_no_network(small):
    networks = TissueNetworks(nn.Identity(), COARSE, 18 * (Seen(0),), small[:1])
    image, first = torch.zeros(1, 1, *SMALL_REGION), torch.rand(1, 1, *SMALL_REGION)
    result = cascade._refine(image, first, networks)
    assert torch.equal(result[0, 0, 32:], first[0, 0, 32:])
    assert float(result[0, 0, :32, :36, :32].abs().max()) == 0
    assert networks.patches[0].shown == []


def test_fractions_of_a_tissue_map():
    p0 = torch.tensor([0.0, 0.4, 1.0, 1.5, 2.0, 2.75, 3.0]).reshape(1, 1, -1)
    gm, wm, csf = cascade.tissue_fractions(p0)[:, 0, 0]
    assert torch.allclose(gm, torch.tensor([0, 0, 0, 0.5, 1, 0.25, 0]))
    assert torch.allclose(wm, torch.tensor([0, 0, 0, 0, 0, 0.75, 1]))
    assert torch.allclose(csf, torch.tensor([0, 0.4, 1, 0.5, 0, 0, 0]))


def test_masked_gm_goes_half_to_wm_and_half_to_csf():
    fractions = torch.tensor([0.5, 0.3, 0.2]).reshape(3, 1, 1, 1).repeat(1, 2, 1, 1)
    where = torch.tensor([True, False]).reshape(2, 1, 1)
    result = cascade.without_gm(fractions, where)
    assert torch.allclose(result[:, 0, 0, 0], torch.tensor([0.0, 0.55, 0.45]))
    assert torch.equal(result[:, 1], fractions[:, 1])


def test_holes_in_tissue_become_csf():
    p0 = torch.zeros(1, 7, 7, 7)
    p0[0, 1:6, 1:6, 1:6] = 3.0
    p0[0, 3, 3, 3] = 0.2
    filled = cascade._filled(p0)
    assert float(filled[0, 3, 3, 3]) == 1.0
    assert float(filled.sum()) == pytest.approx(float(p0.sum()) + 0.8)


def test_the_right_half_of_the_mask_is_mirrored():
    network = Seen()
    network.forward = lambda half: torch.cat([-half, network.shown.append(half.clone()) or half], 1)
    p0 = torch.rand(*SMALL_REGION)
    result = cascade.find_no_gm(p0, network)
    (left, right) = network.shown
    at = cascade.mask_windows(SMALL_REGION)
    assert torch.equal(left[0, 0], p0[at[0]])
    assert torch.equal(right[0, 0], p0[at[1]].flip(0))
    inside = torch.zeros_like(p0)
    inside[at[0]] = inside[at[1]] = 1
    expected = torch.sigmoid(2 * p0) * inside
    assert torch.allclose(result, expected, atol=1e-5)


@pytest.fixture(scope="module")
def ball():
    """WM in GM in CSF, off-centre, in a 2 mm scan; its brain mask and fractions."""
    shape = (60, 72, 60)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-58.0, -90.0, -60.0)
    mm = voxel_indices(shape) * 2.0 + torch.tensor(affine[:3, 3], dtype=torch.float32).reshape(3, 1, 1, 1)
    distance = (mm - torch.tensor([6.0, -18.0, 4.0]).reshape(3, 1, 1, 1)).square().sum(0).sqrt()
    inside = [((radius - distance) / 2 + 0.5).clamp(0, 1) for radius in (28, 38, 44)]
    truth = torch.stack([inside[1] - inside[0], inside[0], inside[2] - inside[1]])  # GM, WM, CSF
    image = 70 * truth[0] + 105 * truth[1] + 20 * truth[2]
    return Volume(image[None], Grid(shape, affine)), distance < 44, truth


@pytest.mark.parametrize("stages", ["whole", "patches"])
def test_tissue_is_found_where_it_is(ball, region, small, stages):
    image, mask, truth = ball
    patches = () if stages == "whole" else 18 * (ByIntensity(),)
    networks = TissueNetworks(ByIntensity(), COARSE, patches, small, Everywhere(3.0, -3.0), COARSE)
    if stages == "patches":
        region = cascade.view_grid(region, SMALL_REGION)  # 2 mm
    linear = np.eye(4)
    linear[:3, 3] = (3.0, 0.0, -2.0)
    with torch.inference_mode():
        result = cascade.segment_tissue(image, mask, linear, region, networks)
    assert result.grid.shape == (SMALL_REGION if stages == "patches" else COARSE)
    back = resample(result.data, result.grid, image.grid, np.linalg.inv(linear))
    for tissue, known in zip(back, truth, strict=True):
        dice = 2 * (tissue * known).sum() / (tissue.square() + known.square()).sum()
        assert float(dice) > 0.85


def test_the_second_stage_sees_the_scan_again(ball, region, small):
    """Patches recover from a first stage that predicts nothing."""
    image, mask, _ = ball
    blind = nn.Conv3d(1, 1, 1).requires_grad_(False)
    blind.weight[:] = blind.bias[:] = 0
    coarse = cascade.view_grid(region, SMALL_REGION)
    result = cascade.segment_tissue(image, mask, np.eye(4), coarse, TissueNetworks(blind, COARSE))
    assert float(result.data.max()) == 0
    networks = TissueNetworks(blind, COARSE, 18 * (ByIntensity(),), small)
    assert float(cascade.segment_tissue(image, mask, np.eye(4), coarse, networks).data[1].max()) > 0.9


def test_a_mask_without_gm_removes_all_gm(ball, region):
    image, mask, _ = ball
    allowed, forbidden = (
        cascade.segment_tissue(
            image, mask, np.eye(4), region, TissueNetworks(ByIntensity(), COARSE, gm_mask=net, mask_shape=COARSE)
        ).data
        for net in (Everywhere(3.0, -3.0).requires_grad_(False), Everywhere(-3.0, 3.0).requires_grad_(False))
    )
    left, right = cascade.mask_windows(COARSE)
    for at in (left, right):
        assert float(forbidden[0][at].max()) == 0
        assert float(allowed[0][at].max()) > 0.9
    assert torch.allclose(forbidden.sum(0), allowed.sum(0), atol=1e-5)


@pytest.mark.gpu
def test_half_precision_on_a_gpu_is_near_the_cpu():
    torch.manual_seed(0)
    network = build_network("segmentation", {})
    image = torch.rand(1, 1, 64, 48, 32)
    with torch.inference_mode():
        on_cpu = cascade.run(network, image)
        on_gpu = cascade.run(network.cuda().to(memory_format=torch.channels_last_3d), image.cuda())
    assert on_gpu.dtype == torch.float32
    assert float((on_gpu.cpu() - on_cpu).abs().mean()) < 0.02  # of 3
