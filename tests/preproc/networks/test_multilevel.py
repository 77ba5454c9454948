"""The multilevel activation turns a normal distribution into the six peaks of a tissue map."""

from __future__ import annotations

import numpy as np
import torch

from vbmstat.preproc.networks.multilevel import PEAKS, MultilevelActivation

NORMAL = torch.special.ndtri(torch.linspace(1e-5, 1 - 1e-5, 400_001, dtype=torch.float64)).float()


def test_a_normal_distribution_gets_peaks_at_the_six_values():
    with torch.inference_mode():
        values = MultilevelActivation()(NORMAL).numpy()
    counts, edges = np.histogram(values, bins=61, range=(-0.025, 3.025))  # bins of 0.05, centred on its multiples
    centres = (edges[:-1] + edges[1:]) / 2
    for peak in PEAKS:
        near = np.abs(centres - peak) < 0.01
        beside = (np.abs(centres - peak) > 0.15) & (np.abs(centres - peak) < 0.3)
        assert counts[near].max() > 2 * counts[beside].max(), peak
    between = [0.5, 1.25, 1.75, 2.25, 2.75]
    assert all(counts[np.abs(centres - middle).argmin()] < counts.mean() for middle in between)


def test_pure_classes_are_more_frequent_than_mixed_ones():
    with torch.inference_mode():
        values = MultilevelActivation()(NORMAL)
    shares = {peak: float(((values - peak).abs() < 0.2).float().mean()) for peak in PEAKS}
    assert min(shares[0.0], shares[1.0], shares[2.0], shares[3.0]) > max(shares[1.5], shares[2.5])


def test_it_rises_from_0_to_3_in_six_steps_of_one_half():
    with torch.inference_mode():
        values = MultilevelActivation()(torch.tensor([-9.0, -1.0, -0.4, 0.0, 0.6, 1.0, 9.0]))
    assert torch.allclose(values, torch.tensor([0.0, 0.5, 1.25, 1.75, 2.25, 2.75, 3.0]), atol=2e-3)


def test_its_steepness_is_learnt():
    activation = MultilevelActivation()
    activation(torch.linspace(-2, 2, 50)).square().sum().backward()
    assert [name for name, _ in activation.named_parameters()] == ["steepness"]
    assert float(activation.steepness.grad.abs()) > 0
