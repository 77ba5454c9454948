"""Seven artefacts: the strength is in its unit, medium and strong share a pattern, the mean is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.simulate import artefacts
from vbmstat.simulate.artefacts import ARTEFACTS, STRENGTHS, add_artefact, reference_intensity

GRID = Grid((30, 36, 28), np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def head() -> Volume:
    """A bright ball with a darker core, in air."""
    place = np.indices(GRID.shape) - (np.array(GRID.shape) / 2)[:, None, None, None]
    radius = np.sqrt((place**2).sum(0))
    data = np.where(radius < 10, 600.0, 0.0) - np.where(radius < 4, 200.0, 0.0)
    return Volume(torch.tensor(data, dtype=torch.float32)[None], GRID)


def changed(head: Volume, name: str, strength: float, seed: int = 0) -> torch.Tensor:
    (one,) = (entry for entry in ARTEFACTS if entry.name == name)
    return one.make(head, strength, np.random.default_rng(seed)).data[0]


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def test_the_artefacts_are_the_seven_of_the_paper():
    assert [entry.name for entry in ARTEFACTS] == [
        "noise", "bias", "blur", "ghosting", "motion", "ringing", "spikes",
    ]  # fmt: skip


@pytest.mark.parametrize("artefact", ARTEFACTS, ids=lambda artefact: artefact.name)
def test_strong_is_further_from_the_image_and_both_keep_its_scale(head, artefact):
    made = {strength: add_artefact(head, artefact, strength, 3).data[0] for strength in STRENGTHS}
    assert torch.equal(made["strong"], add_artefact(head, artefact, "strong", 3).data[0])
    assert rms(made["strong"], head.data[0]) > 1.2 * rms(made["medium"], head.data[0]) > 0
    inside = head.data[0] > 0
    for image in made.values():
        assert torch.isfinite(image).all()
        assert float(image.min()) >= -1e-3
        assert float(image[inside].mean()) == pytest.approx(float(head.data[0][inside].mean()), rel=0.2)


@pytest.mark.parametrize("name", ["noise", "bias", "motion", "spikes"])
def test_another_seed_is_another_pattern(head, name):
    assert rms(changed(head, name, 4.0, 0), changed(head, name, 4.0, 1)) > 0.1


def test_bright_tissue_is_the_ball(head):
    assert reference_intensity(head) == pytest.approx(600.0)


def test_noise_has_the_given_sigma(head):
    bright = head.data[0] > 500
    assert float(changed(head, "noise", 5.0)[bright].std()) == pytest.approx(0.05 * 600, rel=0.05)


def test_bias_spans_its_range_over_the_head(head):
    inside = head.data[0] > 0
    ratio = changed(head, "bias", 30.0)[inside] / head.data[0][inside]
    assert float(ratio.min()) == pytest.approx(0.7, abs=1e-3)
    assert float(ratio.max()) == pytest.approx(1.3, abs=1e-3)


def test_blur_has_the_given_width():
    point = torch.zeros(GRID.shape)
    point[15, 18, 14] = 1.0
    line = changed(Volume(point[None], GRID), "blur", 6.0)[:, 18, 14]
    mm = 2.0 * (torch.arange(30) - 15)
    sd_mm = float(((line * mm**2).sum() / line.sum()).sqrt())
    assert 2.3548 * sd_mm == pytest.approx(6.0, rel=0.03)


def test_ghosts_have_the_given_intensity_a_third_of_the_view_away():
    point = torch.zeros(GRID.shape)
    point[15, 3, 14] = 100.0
    line = changed(Volume(point[None], GRID), "ghosting", 20.0)[15, :, 14]
    assert line[[3, 15, 27]].tolist() == pytest.approx([100.0, 20.0, 20.0], abs=1e-3)
    assert float(line.sum()) == pytest.approx(140.0, abs=0.01)


def test_ringing_removes_only_the_outer_lines():
    wave = torch.cos(2 * torch.pi * torch.arange(36) * torch.tensor([[2.0], [13.0]]) / 36)  # 2 and 13 of at most 18
    slow, fast = (Volume((600 + 100 * line).expand(1, 30, 28, 36).movedim(2, 3), GRID) for line in wave)
    assert torch.allclose(changed(slow, "ringing", 40.0), slow.data[0], atol=1e-2)
    assert torch.allclose(changed(fast, "ringing", 40.0), torch.tensor(600.0), atol=1e-2)


def test_a_spike_is_a_wave_of_the_given_amplitude(head):
    flat = Volume(torch.full((1, *GRID.shape), 600.0), GRID)
    wave = changed(flat, "spikes", 5.0) - 600
    assert float(wave.square().mean().sqrt()) * 2**0.5 == pytest.approx(0.05 * 600, rel=0.02)


def test_no_motion_leaves_the_image_unchanged(head):
    assert rms(changed(head, "motion", 0.0), head.data[0]) < 0.05
    assert artefacts.CLEAN not in [entry.name for entry in ARTEFACTS]
