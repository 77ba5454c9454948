"""The twelve augmentations: effect, strength, reproducibility."""

from __future__ import annotations

import pytest
import torch

from vbmstat.training import augment

SHAPE = (24, 28, 20)
CHANGES = [*augment.IN_SCANNER, *augment.ON_SCALED]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def image():
    """A block with two tissues in air."""
    out = torch.zeros(SHAPE)
    out[5:19, 6:22, 4:16] = 0.6
    out[9:15, 10:18, 7:13] = 1.0
    return out


def difference(a, b):
    return float((a - b).square().mean().sqrt())


def test_with_translation_and_flip_there_are_twelve():
    assert len(CHANGES) + len(("translation", "flip")) == 12


@pytest.mark.parametrize("one", CHANGES, ids=lambda one: one.change.__name__)
def test_a_change_is_random_reproducible_finite_and_grows_with_strength(one, image):
    weak = [one.change(image, one.low / 4, seeded(seed)) for seed in range(6)]
    strong = [one.change(image, one.high, seeded(seed)) for seed in range(6)]
    again = one.change(image, one.high, seeded(0))
    assert torch.equal(strong[0], again)
    assert any(not torch.equal(strong[0], other) for other in strong[1:])
    assert all(torch.isfinite(changed).all() for changed in strong)
    assert sum(difference(image, changed) for changed in strong) > sum(difference(image, changed) for changed in weak)
    assert strong[0].shape == image.shape


def test_the_bias_field_is_smooth_and_within_its_strength(image):
    field = augment.bias_field(torch.ones(SHAPE), 0.4, seeded())
    assert float((field - 1).abs().max()) == pytest.approx(0.4, rel=1e-5)
    assert abs(float(field.mean()) - 1) < 0.01
    steps = max(float(field.diff(dim=axis).abs().max()) for axis in range(3))
    assert steps < 0.2  # two periods over 20 voxels at most
    assert torch.allclose(augment.bias_field(image, 0.4, seeded()), image * field)


def test_noise_has_the_given_sd_and_a_floor_in_air():
    bright = augment.chi_noise(torch.full((40, 40, 40), 10.0), 0.1, seeded())
    assert float(bright.std()) == pytest.approx(0.1, rel=0.03)
    known = (1.253, 1.880, 2.350, 2.742)  # means of chi with 2, 4, 6 and 8 degrees of freedom
    floors = [float(augment.chi_noise(torch.zeros(20, 20, 20), 1.0, seeded(n)).mean()) for n in range(16)]
    nearest = [min(range(4), key=lambda k, floor=floor: abs(known[k] - floor)) for floor in floors]
    assert all(abs(known[k] - floor) < 0.03 for k, floor in zip(nearest, floors, strict=True))
    assert set(nearest) == {0, 1, 2, 3}


def test_motion_makes_ghosts_and_keeps_the_object_in_place(image):
    moved = augment.motion(image, 3.0, seeded(1))
    assert 0.01 < float(moved[image == 0].mean()) < 0.2
    assert float(moved[image == 1].mean()) == pytest.approx(1.0, abs=0.1)
    assert torch.allclose(augment.motion(image, 0.0, seeded(1)), image, atol=1e-4)


def test_ghosts_are_copies_at_whole_fractions_of_the_field_of_view():
    point = torch.zeros(24, 24, 24)
    point[3, 3, 3] = 1.0
    ghosts = augment.ghosting(point, 0.4, seeded(3))
    bright = (ghosts > 0.02).nonzero() - 3
    assert len(bright) in (2, 3, 4)
    assert float(ghosts[3, 3, 3]) > 0.8
    assert set((24 // len(bright) * torch.arange(len(bright))).tolist()) == set(bright.sum(1).tolist())


def test_ringing_overshoots_at_edges_and_keeps_the_mean(image):
    rung = augment.ringing(image, 0.5, seeded())
    assert float(rung.max()) > 1.01
    assert float(rung.mean()) == pytest.approx(float(image.mean()), rel=0.1)


def test_a_spike_is_one_wave():
    flat = torch.full((16, 16, 16), 1.0)
    spectrum = torch.fft.fftn(augment.spikes(flat, 0.05, seeded(2)) - 1).abs()
    spectrum[0, 0, 0] = 0
    strongest = torch.topk(spectrum.flatten(), 2).values
    assert float(strongest[0]) == pytest.approx(0.05 * 16**3 / 2, rel=0.1)  # the real part goes to both signs
    assert float(strongest[1]) == pytest.approx(float(strongest[0]), rel=0.01)


def test_thicker_slices_blur_one_axis_only(image):
    thick = augment.downsample(image, 2.0, seeded(5))
    rough = [difference(thick.diff(dim=axis), image.diff(dim=axis)) for axis in range(3)]
    profile = [float(thick.diff(dim=axis).abs().max()) / float(image.diff(dim=axis).abs().max()) for axis in range(3)]
    assert sorted(profile)[0] < 0.9
    assert sorted(profile)[1] > 0.99
    assert max(rough) > 0


def test_blur_keeps_the_sum(image):
    assert float(augment.blur(image, 2.0, seeded()).sum()) == pytest.approx(float(image.sum()), rel=1e-3)


def test_a_shift_is_by_whole_voxels_and_fills_with_background():
    image = torch.arange(24.0).reshape(2, 3, 4) - 3.0
    moved = augment.shifted(image, (1, 0, -2))
    assert torch.equal(moved[1, :, :2], image[0, :, 2:])
    assert float(moved[0].max()) == float(moved[1, :, 2:].max()) == -3.0
    by = [augment.translation(4.0, seeded(n)) for n in range(30)]
    assert {abs(n) <= 4 for triple in by for n in triple} == {True}
    assert len(set(by)) > 20


def test_air_stays_air_and_probability_matters(image):
    assert torch.equal(augment.apply(image, augment.IN_SCANNER, 0.0, seeded()), image)
    changed = augment.apply(image, augment.IN_SCANNER, 1.0, seeded())
    assert not torch.equal(changed, image)
    assert float(changed[image == 0].abs().max()) == 0
