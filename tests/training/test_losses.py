"""Losses: small at the truth, with the right weights."""

from __future__ import annotations

import pytest
import torch

from tests.preproc.networks.test_symnet import smooth_field
from vbmstat.image.volume import jacobian_determinant
from vbmstat.preproc.networks.symnet import Velocities, compose_warps, exponentiate, pull
from vbmstat.training import losses
from vbmstat.training.velocity import find_velocities


def test_mask_loss_is_the_cross_entropy():
    logits = torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1, 1)
    expected = torch.log1p(torch.exp(torch.tensor(-3.0)))
    assert float(losses.mask_loss(logits, torch.zeros(1, 1, 1, 1, 1))) == pytest.approx(float(expected), rel=1e-5)


def test_registration_loss_is_small_at_the_truth_and_grows_with_every_part():
    known = Velocities(smooth_field(0.3, 0), -smooth_field(0.3, 0))
    template = smooth_field(1.0, 1)[:, :2]
    scan = pull(template, compose_warps(known).backward)
    at_truth = float(losses.registration_loss(known, known, scan, template))
    syn = losses.syn_loss(compose_warps(known), scan, template)
    assert at_truth == pytest.approx(losses.SYN_WEIGHT * float(syn), rel=1e-4)  # the only remaining term
    still = Velocities(torch.zeros_like(known.forward), torch.zeros_like(known.backward))
    without_motion = float(losses.registration_loss(still, known, scan, template))
    assert without_motion > 100 * at_truth
    assert float(losses.syn_loss(compose_warps(still), scan, template)) > 10 * float(syn)
    velocities = 2 * float(known.forward.square().mean())
    jacobians = float((jacobian_determinant(compose_warps(known).forward) - 1).square().mean())
    syn_term = losses.SYN_WEIGHT * float(losses.syn_loss(compose_warps(still), scan, template))
    assert without_motion == pytest.approx(velocities + jacobians + syn_term, rel=1e-4)


def test_velocities_of_a_warp_are_found_by_iteration():
    truth = smooth_field(0.6, 2)
    warp = exponentiate(truth)
    errors = []
    for n in (1, 3, 10):
        halves = find_velocities(warp, n)
        errors.append(float((compose_warps(halves).forward - warp).square().mean().sqrt()))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert float(warp.abs().max()) > 1.5
    assert errors[2] < 0.02
    assert torch.equal(halves.backward, -halves.forward)
    middle = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    assert float((2 * halves.forward - truth)[middle].square().mean().sqrt()) < 0.05
