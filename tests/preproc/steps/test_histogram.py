"""Classes of a histogram: three tissues, also where most of the brain is CSF."""

from __future__ import annotations

import pytest
import torch

from vbmstat.preproc.steps import histogram
from vbmstat.preproc.steps.histogram import histogram_classes

MEANS, SDS = (390.0, 540.0, 142.0), (40.0, 35.0, 27.0)  # GM, WM, CSF


@pytest.mark.parametrize("shares", [(0.45, 0.4, 0.15), (0.21, 0.22, 0.57)], ids=["usual", "very atrophic"])
def test_the_three_classes_are_found_whatever_their_shares(shares):
    source = torch.Generator().manual_seed(1)
    parts = [
        mean + sd * torch.randn(int(40_000 * share), generator=source)
        for mean, sd, share in zip(MEANS, SDS, shares, strict=True)
    ]
    mean, sd, share = histogram_classes(torch.cat(parts).clamp(min=20.0).log())
    assert mean.exp().tolist() == pytest.approx(MEANS, rel=0.08)
    assert share.tolist() == pytest.approx(shares, abs=0.07)
    assert (sd < 0.3).all()


def test_two_values_have_classes_too():
    mean, _, _ = histogram_classes(torch.tensor([1.0, 4.0]).repeat(500).log())
    assert torch.isfinite(mean).all()


def test_thresholds_lie_between_the_classes():
    values = torch.cat([torch.full((100,), value) + torch.linspace(-5, 5, 100) for value in (50.0, 100.0, 200.0)])
    low, high = histogram._thresholds(values)
    assert 50 < low < 100 < high < 200
