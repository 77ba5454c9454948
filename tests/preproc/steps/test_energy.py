"""The energy's operator against sums of finite differences, and its inverse."""

from __future__ import annotations

import pytest
import torch

from vbmstat.image import compiled
from vbmstat.preproc.steps.energy import Energy, Regularisation

SHAPE = torch.Size((6, 8, 10))
WEIGHTS = Regularisation(membrane=0.1, bending=0.7, shear=0.4, divergence=0.9)


@pytest.fixture
def field():
    return torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["compiled", "torch"])
def energy(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(compiled, "takes", lambda *_: False)
    return Energy(SHAPE, 2.0, WEIGHTS)


def forward(image, axis):
    return torch.roll(image, -1, axis) - image


def test_energy_is_the_sum_over_finite_differences(energy, field):
    """Ashburner 2007: membrane, bending and linear elasticity of periodic voxels of 2 mm."""
    slopes = torch.stack([torch.stack([forward(part, axis) for axis in range(3)]) for part in field])  # part, axis
    laplacian = torch.stack(
        [sum(torch.roll(part, s, a) for a in range(3) for s in (1, -1)) - 6 * part for part in field]
    )
    divergence = sum(part - torch.roll(part, 1, axis) for axis, part in enumerate(field))
    expected = (
        (WEIGHTS.membrane + WEIGHTS.shear) * slopes.square().sum()
        + WEIGHTS.bending / 2.0**2 * laplacian.square().sum()
        + (WEIGHTS.shear + WEIGHTS.divergence) * divergence.square().sum()
    )
    assert float((field * energy.times(field)).sum()) == pytest.approx(float(expected), rel=1e-5)


def test_the_inverse_undoes_it(energy, field):
    both = energy.times(field) + 0.3 * field
    torch.testing.assert_close(energy.apply(energy.inverse(0.3), both), field, atol=1e-4, rtol=0)


def test_compiled_and_torch_agree(field, monkeypatch):
    energy = Energy(SHAPE, 1.5, WEIGHTS)
    found = energy.times(field)
    monkeypatch.setattr(compiled, "takes", lambda *_: False)
    torch.testing.assert_close(found, energy.times(field), atol=1e-5, rtol=1e-5)
