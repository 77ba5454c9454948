"""The UNet against the paper's text: depth 4, 8 channels that double, instance norm; its receptive field."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from vbmstat.preproc.networks.multilevel import MultilevelActivation
from vbmstat.preproc.networks.unet import UNet, n_parameters, receptive_field


def counted_by_hand(inputs: int, outputs: int) -> int:
    """Number of weights in the layers of the paper: 8 channels that double four times."""
    widths = [8, 16, 32, 64, 128]
    convolutions = 27 * (inputs * 8 + 8 * 8)
    convolutions += sum(27 * (a * b + b * b) for a, b in pairwise(widths))  # down
    convolutions += sum(27 * (2 * a * a + a * a) for a in widths[:-1])  # up, after the concatenation
    enlarge = sum(8 * a * b + a for a, b in pairwise(widths))
    return convolutions + enlarge + 8 * outputs + outputs


@pytest.mark.parametrize(("inputs", "outputs", "expected"), [(1, 1, 1_411_033), (2, 1, 1_411_249), (4, 6, 1_411_726)])
def test_number_of_parameters(inputs, outputs, expected):
    assert n_parameters(UNet(inputs, outputs)) == counted_by_hand(inputs, outputs) == expected
    assert n_parameters(UNet(inputs, outputs, final=MultilevelActivation())) == expected + 1  # alpha


def test_channels_double_from_8_over_a_depth_of_4():
    widths = [block[0].out_channels for block in UNet(1, 1).down]
    assert widths == [8, 16, 32, 64, 128]
    assert [block[0].out_channels for block in UNet(1, 1).up] == widths[-2::-1]


def test_norm_and_activation_follow_every_convolution():
    kinds = [type(layer) for layer in UNet(1, 1, activation=nn.LeakyReLU).down[2]]
    assert kinds == 2 * [nn.Conv3d, nn.InstanceNorm3d, nn.LeakyReLU]


@pytest.mark.parametrize("shape", [(32, 16, 48), (17, 16, 30)])
def test_output_has_the_shape_of_the_input(shape):
    with torch.inference_mode():
        assert UNet(2, 3, n_channels=2)(torch.rand(2, 2, *shape)).shape == (2, 3, *shape)


def test_padding_goes_to_both_ends_and_is_cut_off_again():
    """Padding by hand and by the network give the same output."""
    network = UNet(1, 1, n_channels=2).eval()
    image = torch.rand(1, 1, 30, 32, 32)
    with torch.inference_mode():
        by_hand = network(nn.functional.pad(image, (0, 0, 0, 0, 1, 1)))[:, :, 1:-1]
        assert torch.equal(network(image), by_hand)


@pytest.mark.parametrize("depth", [1, 2])
def test_receptive_field_is_what_a_single_voxel_can_change(depth):
    """Largest reach over positions within a pooling block; without the norm, which depends on all voxels."""
    network = UNet(1, 1, n_channels=2, depth=depth, activation=nn.Identity)
    network.down = nn.ModuleList([without_norm(block) for block in network.down])
    network.up = nn.ModuleList([without_norm(block) for block in network.up])
    image = torch.rand(1, 1, 64, 8, 8, dtype=torch.float64)
    network = network.double()
    nn.Module.requires_grad_(network, False)
    for parameter in network.parameters():
        parameter.abs_()  # nothing cancels
    widest = 0
    for at in range(28, 36):
        image.requires_grad_(True)
        (slope,) = torch.autograd.grad(network(image)[0, 0, at, 4, 4], image)
        seen = slope[0, 0].abs().sum((1, 2)).nonzero().flatten()
        widest = max(widest, int(seen.max() - seen.min()) + 1)
    # max pooling passes one of two voxels, so half of its own reach is invisible at any one position
    assert receptive_field(depth) - (2**depth - 1) <= widest <= receptive_field(depth)


def without_norm(block: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*[layer for layer in block if isinstance(layer, nn.Conv3d)])
