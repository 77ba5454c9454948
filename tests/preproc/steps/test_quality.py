"""Quality figures: each is what its definition says, ratings fall as images get worse, flags name only what is bad."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.denoise import noise_sigma
from vbmstat.preproc.steps.quality import ImageQuality, Quality, grade, measure_image, measure_quality

IMAGE = ImageQuality(2.0, 0.1, 30.0, 30.0, 1.0, 0.0, 0.0, 0.0)
GOOD = Quality(**asdict(IMAGE), template_correlation=0.9, template_overlap=0.95, jacobian_min=0.3, jacobian_max=3.0,
               affine_scale=0.95, gm_outside_percent=0.5, implausible_percent=1.0)  # fmt: skip
FLAT = 1.0


@pytest.fixture(scope="module")
def template() -> Volume:
    return Volume(assets.template().data[:2], assets.template().grid)


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def measured(phantom, noise_percent: float = 0.0, bias: torch.Tensor | None = None) -> ImageQuality:
    """Figures of the phantom (GM 70, WM 100, CSF 25) with white noise and a known bias field."""
    field = torch.full(phantom.mask.shape, FLAT) if bias is None else bias
    image = phantom.image.data * field + noise_percent * noise(phantom.image.data.shape)
    grid = phantom.image.grid
    return measure_image(Volume(image, grid), Volume(phantom.fractions, grid), Volume(field[None], grid))


def shading(phantom, percent: float) -> torch.Tensor:
    """A field that goes linearly over the brain from front to back, in range as given."""
    n = phantom.mask.shape[1]
    inside = phantom.mask.any(2).any(0).nonzero()
    along = (torch.arange(n) - inside.min()) / (inside.max() - inside.min()) - 0.5
    return (1 + percent / 100 * along)[None, :, None].expand(phantom.mask.shape).contiguous()


@pytest.mark.parametrize("percent", [1.0, 3.0, 9.0])
def test_noise_is_that_of_white_matter(phantom, percent):
    found = measured(phantom, percent)
    assert found.noise_percent == pytest.approx(percent, rel=0.1, abs=0.4)  # tissue varies by some 0.4 % in itself
    assert found.noise_to_contrast == pytest.approx(found.noise_percent / 30, rel=0.05)
    assert found.contrast_percent == pytest.approx(30.0, abs=1.0)
    assert found.resolution_mm == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("end", [(2, -1), (2, 0), (1, 0), (0, -1)])
def test_a_brain_that_the_field_of_view_cuts_off_has_a_flat_end(phantom, end):
    """15 mm are missing at one end: a spherical cap's face is 2 pi r h, some 60 cm2; a whole brain has none."""
    axis, side = end
    assert measured(phantom).cut_cm2 == 0
    along = phantom.mask.movedim(axis, 0).flatten(1).any(1).nonzero()[:, 0]
    n = round(15 / phantom.image.grid.voxel_size_mm[axis])
    lost = along[:n] if side == 0 else along[-n:]
    fractions = phantom.fractions.clone()
    fractions.movedim(axis + 1, 0)[lost] = 0
    grid = phantom.image.grid
    flat = torch.full((1, *phantom.mask.shape), FLAT)
    assert 10 < measure_image(phantom.image, Volume(fractions, grid), Volume(flat, grid)).cut_cm2 < 100
    dark = phantom.image.data.clone()
    dark.movedim(axis + 1, 0)[lost] = 0  # a network closes the brain's mask over what is not there
    known = Volume(phantom.fractions, grid)
    assert 10 < measure_image(Volume(dark, grid), known, Volume(flat, grid)).cut_cm2 < 100


def test_bright_vessels_count_and_noise_does_not(phantom):
    """1 % of the brain at twice WM; noise of 12 % takes .6 % of WM beyond 1.3 times its mean."""
    assert measured(phantom, 12.0).bright_percent < 0.05
    chosen = phantom.mask & (torch.rand(phantom.mask.shape, generator=torch.Generator().manual_seed(1)) < 0.01)
    image = torch.where(chosen, 200.0, phantom.image.data)
    grid, flat = phantom.image.grid, torch.full((1, *phantom.mask.shape), FLAT)
    found = measure_image(Volume(image, grid), Volume(phantom.fractions, grid), Volume(flat, grid))
    assert found.bright_percent == pytest.approx(1.0, abs=0.1)


def test_intensities_cut_off_below_white_matter_count(phantom, noisy):
    grid, flat = phantom.image.grid, Volume(torch.full((1, *phantom.mask.shape), FLAT), phantom.image.grid)
    known = Volume(phantom.fractions, grid)
    cut = Volume(noisy.data.clamp(max=95.0), grid)
    share = 100 * float((noisy.data[0][phantom.mask] > 95.0).float().mean())
    assert measure_image(cut, known, flat).clipped_percent == pytest.approx(share, rel=0.05)
    assert measure_image(noisy, known, flat).clipped_percent < 0.01


def test_noise_is_that_of_the_scan_before_correction(phantom):
    """Where the scan is twice as bright as the correction leaves it, its noise is not halved."""
    bright = measured(phantom, 3.0, torch.full(phantom.mask.shape, 2.0))
    assert bright.noise_percent == pytest.approx(3.0, rel=0.1)


def test_the_local_mean_takes_no_noise_away():
    """Thick slices: the window has nine voxels, of which the voxel itself is one."""
    shape = (30, 30, 20)
    grid = Grid(shape, np.diag([2.0, 2.0, 6.0, 1.0]))
    tissues = torch.zeros(3, *shape)
    tissues[0, :, :, :2], tissues[2, :, :, 2:4], tissues[1, :, :, 4:] = 1, 1, 1  # GM, CSF, WM
    means = torch.tensor([70.0, 100.0, 25.0])
    image = Volume(torch.tensordot(means, tissues, dims=1)[None] + 3 * noise((1, *shape)), grid)
    found = measure_image(image, Volume(tissues, grid), Volume(torch.ones(1, *shape), grid))
    assert found.noise_percent == pytest.approx(3.0, rel=0.03)


def test_noise_that_interpolation_smeared_is_still_seen(phantom):
    """Neighbours differ little after an interpolation; the scan is as noisy as its white matter is."""
    smeared = smooth(noise(phantom.image.data.shape), np.full(3, 2.0), 3.0)
    smeared *= 3.0 / smeared.std()
    grid = Grid(phantom.image.grid.shape, np.eye(4))  # taken for 1 mm
    image = Volume(phantom.image.data + smeared, grid)
    found = measure_image(image, Volume(phantom.fractions, grid), Volume(torch.ones_like(image.data), grid))
    assert noise_sigma(image.data[0], phantom.mask) < 1.5
    assert 2.4 < found.noise_percent < 3.1


def test_bias_is_the_range_of_the_field_and_changes_nothing_else(phantom):
    flat, shaded = measured(phantom, 3.0), measured(phantom, 3.0, shading(phantom, 60.0))
    assert flat.bias_percent == 0
    assert shaded.bias_percent == pytest.approx(0.75 * 60, abs=8)  # the brain is thin at its ends
    assert shaded.contrast_percent == pytest.approx(flat.contrast_percent, abs=0.5)
    assert shaded.noise_percent == pytest.approx(flat.noise_percent, rel=0.05)


def test_tissues_on_another_grid_are_brought_to_the_scan(phantom):
    coarse = phantom.image.grid.with_voxel_size(2.5)
    tissues = Volume(resample(phantom.fractions, phantom.image.grid, coarse), coarse)
    t1w = Volume(phantom.image.data + 3 * noise(phantom.image.data.shape), phantom.image.grid)
    found = measure_image(t1w, tissues, Volume(torch.ones(1, *coarse.shape), coarse))
    assert found.noise_percent == pytest.approx(3.0, abs=0.4)


def test_ratings_fall_as_the_image_gets_worse(phantom):
    by_noise = [measured(phantom, percent).ratings() for percent in (1.0, 3.0, 5.0, 9.0)]
    by_bias = [measured(phantom, 3.0, shading(phantom, percent)).ratings() for percent in (0.0, 20.0, 40.0, 80.0)]
    by_size = [replace(IMAGE, resolution_mm=size).ratings() for size in (1.0, 1.5, 2.0)]
    for name, rows in (("noise", by_noise), ("bias", by_bias), ("resolution", by_size)):
        for rating in (name, "image"):
            values = [row[rating] for row in rows]
            assert values == sorted(values, reverse=True)
        assert len({row[name] for row in rows}) == len(rows)
    assert by_noise[0]["bias"] == by_noise[-1]["bias"] == 100  # each aspect for itself
    assert by_noise[-1]["noise"] < 60


def test_one_bad_aspect_is_not_made_good_by_the_others():
    ratings = replace(IMAGE, noise_to_contrast=0.4).ratings()
    assert ratings["noise"] < 45
    assert ratings["image"] < 60
    assert replace(IMAGE, contrast_percent=12.0).ratings()["contrast"] < 60


@pytest.mark.parametrize(
    ("rating", "letter"), [(100.0, "A+"), (92.0, "A-"), (85.0, "B"), (70.1, "C-"), (50.1, "E-"), (50.0, "F"), (0, "F")]
)
def test_grades(rating, letter):
    assert grade(rating) == letter


def test_figures_of_the_registration_follow_their_definitions(template):
    linear = np.diag([1.2, 1.2, 1.2, 1.0])
    found = measure_quality(IMAGE, template, template, torch.tensor([0.5, 1.0, 2.0]), linear)
    assert found.noise_percent == 2.0
    assert found.template_correlation == pytest.approx(1.0, abs=1e-5)
    assert found.template_overlap == 1
    assert (found.jacobian_min, found.jacobian_max) == (0.5, 2.0)
    assert found.affine_scale == pytest.approx(1.2)
    assert found.gm_outside_percent < 1
    assert found.implausible_percent < 1


def test_a_map_that_misses_the_template_is_seen(template):
    shifted = Volume(template.data.roll(16, dims=2), template.grid)  # 24 mm
    found = measure_quality(IMAGE, shifted, template, torch.ones(3), np.eye(4))
    assert found.template_correlation < 0.3
    assert found.gm_outside_percent > 3
    assert found.template_overlap < 0.8
    assert [flag.split(":")[0].split(" (")[0] for flag in found.warnings()][:2] == [
        "poor match with the template", "brain and template overlap poorly",
    ]  # fmt: skip


def test_grey_matter_in_white_is_implausible_though_inside_the_brain(template):
    lesioned = template.data.clone()
    core = template.data[1] > 0.97
    lesioned[0][core], lesioned[1][core] = 1.0, 0.0
    found = measure_quality(IMAGE, Volume(lesioned, template.grid), template, torch.ones(3), np.eye(4))
    assert found.implausible_percent > 5
    assert found.gm_outside_percent < 1


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"noise_to_contrast": 0.33}, "strong noise (2.0 % of WM)"),
        ({"bias_percent": 111.0}, "strong bias field (111 %)"),
        ({"contrast_percent": 14.0}, "low GM/WM contrast (14 %)"),
        ({"resolution_mm": 2.1}, "coarse voxels (2.1 mm)"),
        ({"cut_cm2": 31.0}, "the brain ends in a flat face of 31 cm2"),
        ({"bright_percent": 0.6}, "0.6 % of the brain is far brighter than WM"),
        ({"clipped_percent": 12.0}, "12 % of the brain has one value, the highest"),
        ({"template_correlation": 0.54}, "poor match with the template (r = 0.54)"),
        ({"template_overlap": 0.8}, "brain and template overlap poorly (Dice 0.80)"),
        ({"jacobian_min": 0.0}, "the warp folds"),
        ({"jacobian_max": 16.0}, "the warp stretches a part 16-fold"),
        ({"affine_scale": 0.65}, "the brain is 0.65 times the template's size"),
        ({"gm_outside_percent": 3.4}, "3.4 % of GM outside the template's brain"),
        ({"implausible_percent": 5.5}, "5.5 % of GM and WM where the template has none"),
    ],
)
def test_each_bad_figure_has_its_flag_that_says_where_to_look(changed, flag):
    assert GOOD.warnings() == []
    (found,) = replace(GOOD, **changed).warnings()
    what, where = found.split(": ", 1)
    assert what == flag
    assert where


def test_columns_are_plain_numbers_and_a_letter():
    columns = replace(GOOD, noise_percent=np.float32(1.23456789)).columns()
    assert columns["qc_noise_percent"] == 1.2346
    assert columns.pop("qc_image_grade") == "B+"
    assert {type(value) for value in columns.values()} == {float}
    assert all(name.startswith("qc_") for name in columns)
    assert len(columns) == 15 + 5
