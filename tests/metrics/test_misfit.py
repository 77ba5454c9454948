"""Where a scan departs from the template: painted lesions and left fields are told with their place, health is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.image.grid import apply_affine, resample, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.metrics.misfit import measure_misfit
from vbmstat.preproc.lesions import Lesions
from vbmstat.preproc.pipeline import template_on
from vbmstat.preproc.results import NO_LESIONS, Preprocessed, Segmented
from vbmstat.preproc.steps.warp import Warp

MEANS = torch.tensor([0.65, 1.0, 0.3])  # GM, WM, CSF
FRONTAL_MM, OCCIPITAL_MM = (36.0, 30.0, 30.0), (-20.0, -85.0, 5.0)


@pytest.fixture(scope="module")
def head():
    """The template itself as a scan, 3 mm: its tissues, brain and image."""
    template = assets.template()
    grid = template.grid.with_voxel_size(3.0)
    gm_wm = resample(template.data, template.grid, grid)
    tissues = torch.cat([gm_wm, (1 - gm_wm.sum(0, keepdim=True)).clamp(0, 1)])
    return Volume(tissues, grid)


def ball(grid, centre_mm, radius_mm):
    mm = apply_affine(grid.affine, voxel_indices(grid.shape))
    return ((mm - torch.tensor(centre_mm).reshape(3, 1, 1, 1)).norm(dim=0) < radius_mm).float()


def made(head, change, lesions=NO_LESIONS):
    """A preprocessed scan whose image is the head's, changed."""
    image = torch.tensordot(MEANS, head.data, dims=1)
    still = Displacement(torch.zeros(3, *template_on("cpu").grid.shape), template_on("cpu").grid)
    segmented = Segmented(
        head, Volume(change(image)[None], head.grid), np.eye(4), still.data, None, head.grid,
        was_stripped=False, engine="classic", lesions=lesions,
    )  # fmt: skip
    return Preprocessed(segmented, Warp(still, still, Volume(still.data, still.grid)), head, head, {}, None)


def test_a_healthy_brain_is_silent(head):
    found = measure_misfit(made(head, lambda image: image))
    assert found.columns() == {"qc_odd_ml": 0.0, "qc_odd_region": None, "qc_shading_percent": pytest.approx(3, abs=3)}
    assert found.warnings() == []


def test_a_cavity_is_told_with_volume_and_place(head):
    where = ball(head.grid, FRONTAL_MM, 18.0)
    found = measure_misfit(made(head, lambda image: image * (1 - where) + 0.3 * where))
    assert 10 < found.darker_ml < 26  # of 24 mL, part of it CSF before
    assert (found.brighter_ml, found.region) == (0, "Right Middle Frontal Gyrus")
    assert "mL darker" in found.warnings()[0]


def test_both_directions_are_told(head):
    dark, bright = (ball(head.grid, centre, 18.0) for centre in (FRONTAL_MM, OCCIPITAL_MM))
    found = measure_misfit(made(head, lambda image: image * (1 - 0.7 * dark) + 0.6 * bright))
    assert min(found.darker_ml, found.brighter_ml) > 5
    assert "mL darker and" in found.warnings()[0]


def test_a_lesion_that_the_user_brought_is_not_told(head):
    where = ball(head.grid, FRONTAL_MM, 18.0)
    brought = replace(NO_LESIONS, brought=where)
    assert isinstance(brought, Lesions)
    found = measure_misfit(made(head, lambda image: image * (1 - where) + 0.3 * where, brought))
    assert found.warnings() == []


def test_a_field_that_is_left_is_told_though_no_place_is_odd(head):
    height = apply_affine(head.grid.affine, voxel_indices(head.grid.shape))[2] / 60
    found = measure_misfit(made(head, lambda image: image * (1 + 0.14 * height.clamp(-1, 1))))
    assert found.region is None
    assert 15 < found.shading_percent < 28
    assert "bias field is doubtful" in " ".join(found.warnings())
