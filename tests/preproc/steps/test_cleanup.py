"""Implausible tissue is moved, the rest stays."""

from __future__ import annotations

import pytest
import torch

from vbmstat.preproc.steps.cleanup import plausible


def one_voxel(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None]


@pytest.mark.parametrize(
    ("fractions", "priors", "expected"),
    [
        ((0.9, 0.1, 0.0), (0.02, 0.97, 0.01), (0.0, 1.0, 0.0)),  # grey deep in WM: a hypointensity
        ((0.9, 0.1, 0.0), (0.02, 0.90, 0.08), (0.45, 0.55, 0.0)),  # half-way up the range of the prior
        ((0.9, 0.1, 0.0), (0.10, 0.88, 0.02), (0.9, 0.1, 0.0)),  # GM is possible here
        ((0.0, 0.1, 0.9), (0.02, 0.97, 0.01), (0.0, 0.1, 0.9)),  # CSF deep in WM is a cavity
        ((0.5, 0.3, 0.2), (0.005, 0.004, 0.991), (0.0, 0.0, 1.0)),  # outside the template's brain
        ((0.5, 0.3, 0.2), (0.015, 0.015, 0.97), (0.25, 0.15, 0.6)),
        ((0.5, 0.3, 0.2), (0.30, 0.10, 0.60), (0.5, 0.3, 0.2)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)),  # outside the mask
    ],
)
def test_what_moves_where(fractions, priors, expected):
    moved = plausible(one_voxel(*fractions), one_voxel(*priors))
    torch.testing.assert_close(moved, one_voxel(*expected), atol=1e-6, rtol=0)


def test_the_sum_stays(phantom):
    moved = plausible(phantom.fractions, phantom.priors)
    torch.testing.assert_close(moved.sum(0), phantom.fractions.sum(0))
    assert float(moved.min()) >= 0
    assert float((moved - phantom.fractions).abs()[:, phantom.mask].mean()) < 0.01  # a sound brain hardly changes
