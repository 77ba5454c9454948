"""Quality figures: each is what its definition says, and flags only what is bad."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.preproc.quality import Quality, measure_quality
from vbmstat.volume import Volume

GOOD = Quality(2.0, 0.1, 30.0, 30.0, 1.0, 0.9, 0.3, 3.0, 0.95, 0.5)


@pytest.fixture(scope="module")
def template() -> Volume:
    return Volume(assets.template().data[:2], assets.template().grid)


def measured(template, warped=None, **other) -> Quality:
    given = {
        "noise_sigma": 3.0, "bias": torch.linspace(0.8, 1.2, 1001), "class_means": torch.tensor([25.0, 70.0, 100.0]),
        "voxel_size_mm": np.array([1.0, 1.0, 4.0]), "warped": warped or template, "template": template,
        "determinant": torch.tensor([0.5, 1.0, 2.0]), "linear": np.diag([1.2, 1.2, 1.2, 1.0]),
    }  # fmt: skip
    return measure_quality(**{**given, **other})


def test_figures_follow_their_definitions(template):
    found = measured(template)
    assert found.noise_percent == pytest.approx(3.0)
    assert found.noise_to_contrast == pytest.approx(0.1)
    assert found.bias_percent == pytest.approx(36.0, abs=0.1)  # 5th to 95th percentile of 0.8 to 1.2
    assert found.contrast_percent == pytest.approx(30.0)
    assert found.resolution_mm == pytest.approx(np.sqrt(6.0))
    assert found.template_correlation == pytest.approx(1.0, abs=1e-5)
    assert (found.jacobian_min, found.jacobian_max) == (0.5, 2.0)
    assert found.affine_scale == pytest.approx(1.2)
    assert found.gm_outside_percent < 1


def test_a_map_that_misses_the_template_is_seen(template):
    shifted = Volume(template.data.roll(16, dims=2), template.grid)  # 24 mm
    found = measured(template, shifted)
    assert found.template_correlation < 0.3
    assert found.gm_outside_percent > 3
    assert {flag.split(" (")[0] for flag in found.warnings()} >= {"poor match with the template"}


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"noise_to_contrast": 0.51}, "strong noise (2.0 % of WM)"),
        ({"contrast_percent": 14.0}, "low GM/WM contrast (14 %)"),
        ({"resolution_mm": 2.1}, "coarse voxels (2.1 mm)"),
        ({"template_correlation": 0.54}, "poor match with the template (r = 0.54)"),
        ({"jacobian_min": 0.0}, "the warp folds"),
        ({"gm_outside_percent": 3.4}, "3.4 % of GM outside the template's brain"),
    ],
)
def test_each_bad_figure_has_its_flag(changed, flag):
    assert GOOD.warnings() == []
    assert replace(GOOD, **changed).warnings() == [flag]


def test_columns_are_plain_numbers():
    columns = replace(GOOD, noise_percent=np.float32(1.23456789)).columns()
    assert columns["qc_noise_percent"] == 1.2346
    assert {type(value) for value in columns.values()} == {float}
    assert all(name.startswith("qc_") for name in columns)
    assert len(columns) == 10
