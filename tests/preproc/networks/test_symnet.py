"""SYMNet: its layers, and its two warps as inverses of each other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vbmstat.image.grid import sample_batch, voxel_indices
from vbmstat.preproc.networks.symnet import SymNet, Velocities, compose_warps, exponentiate, predict, pull
from vbmstat.preproc.networks.unet import n_parameters

SHAPE = (24, 28, 20)


def smooth_field(size: float, seed: int) -> torch.Tensor:
    """Half waves that vanish at the borders, with random weights, (1, 3, X, Y, Z), voxels."""
    waves = [torch.sin(torch.pi * torch.arange(n) / (n - 1) * torch.tensor([[1.0], [2.0]])) for n in SHAPE]  # (2, n)
    weights = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(seed))
    return size * torch.einsum("cabd,ai,bj,dk->cijk", weights, *waves)[None]


def test_layers_are_the_paper_s():
    network = SymNet()
    assert n_parameters(network) == 1_411_726  # a UNet of 4 channels in, 6 out
    assert isinstance(network.unet.final, nn.Tanh)
    assert not any(isinstance(layer, nn.ReLU) for layer in network.modules())
    assert sum(isinstance(layer, nn.LeakyReLU) for layer in network.modules()) == 18


def test_velocities_are_between_minus_one_and_one_of_half_the_field_of_view_and_small_at_first():
    network = SymNet(n_channels=2)
    scan, template = torch.rand(2, 1, 2, *SHAPE).unbind()
    with torch.inference_mode():
        velocities = predict(network, scan, template)
        assert velocities.forward.shape == velocities.backward.shape == (1, 3, *SHAPE)
        assert 0 < float(velocities.forward.abs().max()) < 0.12
        network.unet.last.bias[:3] = torch.tensor([50.0, -50.0, 0.0])  # z, y, x
        saturated = predict(network, scan, template).forward
    assert saturated[0, :, 0, 0, 0].tolist() == pytest.approx([0, -(SHAPE[1] - 1) / 2, (SHAPE[2] - 1) / 2], abs=0.05)


def test_a_rotation_s_velocity_gives_the_rotation():
    """The exponential of the generator, for points that stay in the field of view."""
    angle, shape = 0.3, (33, 33, 3)
    at = voxel_indices(shape)[None] - torch.tensor([16.0, 16.0, 1.0]).reshape(3, 1, 1, 1)
    x, y, zero = at[:, 0], at[:, 1], torch.zeros_like(at[:, 0])
    displacement = exponentiate(angle * torch.stack([-y, x, zero], 1))
    c, s = math.cos(angle), math.sin(angle)
    expected = torch.stack([c * x - s * y, s * x + c * y, zero], 1) - torch.stack([x, y, zero], 1)
    middle = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert torch.allclose(displacement[middle], expected[middle], atol=5e-3)


def test_forward_and_backward_warp_are_inverse():
    warps = compose_warps(Velocities(smooth_field(0.35, 0), smooth_field(0.35, 1)))
    there_and_back = warps.backward + pull(warps.forward, warps.backward)
    assert float(warps.forward.abs().max()) > 2
    assert float(there_and_back.abs().max()) < 0.12
    assert float(there_and_back.square().mean().sqrt()) < 0.015


def test_half_warps_meet_half_way():
    """The scan is the warped template: with v forward and -v backward, the half warps give the same image."""
    velocity = smooth_field(0.4, 2)
    template = smooth_field(1.0, 6)
    scan = pull(template, exponentiate(-2 * velocity))  # so that scan(exp(2v)) is the template
    warps = compose_warps(Velocities(velocity, -velocity))
    before = float((scan - template).square().mean())
    assert float((pull(scan, warps.forward) - template).square().mean()) < 0.02 * before
    assert float((pull(template, warps.backward) - scan).square().mean()) < 0.02 * before
    halves = pull(scan, warps.half_forward) - pull(template, warps.half_backward)
    assert float(halves.square().mean()) < 0.02 * before


def test_more_steps_come_nearer_to_the_flow():
    velocity = smooth_field(3.0, 3)
    fine = exponentiate(velocity, 10)
    errors = [float((exponentiate(velocity, n) - fine).abs().mean()) for n in (2, 4, 7)]
    assert errors[0] > errors[1] > errors[2]


def test_derivatives_flow_through_the_warps():
    velocity = smooth_field(1.0, 4).requires_grad_(True)
    compose_warps(Velocities(velocity, -velocity)).forward.square().sum().backward()
    assert float(velocity.grad.abs().max()) > 0


def test_sampling_a_batch_is_sampling_each():
    from vbmstat.image.grid import sample  # noqa: PLC0415 - its twin

    images = torch.rand(2, 3, *SHAPE)
    points = voxel_indices(SHAPE) + smooth_field(1.5, 5)[0]
    both = sample_batch(images, points.expand(2, -1, -1, -1, -1))
    for image, sampled in zip(images, both, strict=True):
        assert torch.allclose(sampled, sample(image, points, padding_mode="border"), atol=1e-5)
