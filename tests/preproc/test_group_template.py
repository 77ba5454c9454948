"""The mathematics of a group template, on coarse people."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.preproc.group import COARSE_MM, COARSE_PADDED, be_coarse, coarse_template, flow, tissues_of
from vbmstat.image import deform
from vbmstat.image.grid import voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc import group_template as steps
from vbmstat.preproc.steps import warp

N = 10


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        be_coarse(patch)
        yield


def mean_of(people, velocities, is_symmetric=False) -> steps.Mean:
    total = steps.Mean(coarse_template(), is_symmetric)
    for tissues, velocity in zip(people, velocities, strict=True):
        total.add(tissues, velocity)
    return total


@pytest.fixture(scope="module")
def group():
    """People, and their centred velocities to the template of level 0."""
    people = [tissues_of(seed) for seed in range(N)]
    first = steps.blurred(mean_of(people, [None] * N).template(), steps.LEVELS[0])
    velocities = torch.stack([steps.registered(one, first, 2, None) for one in people])
    return people, velocities - velocities.mean(0)


def test_a_template_of_warped_people_is_sharper_than_of_aligned_ones_and_has_their_mean_shape(group):
    people, velocities = group
    aligned, warped = mean_of(people, [None] * N), mean_of(people, velocities)
    assert steps.sharpness(warped.template()) > 1.05 * steps.sharpness(aligned.template())
    assert warped.mean_displacement_mm < 0.1
    assert float(velocities.abs().mean()) > 0.5
    assert mean_of(people, velocities + flow(99, 3.0)).mean_displacement_mm > 0.5


def test_people_weigh_by_their_volume():
    """Of two people, one full of GM and half as large as the other, without any: a third of the volume is GM."""
    grid = coarse_template().grid
    full, empty = (Volume(torch.full((2, *grid.shape), value), grid) for value in (1.0, 0.0))
    identity = voxel_indices(COARSE_PADDED) - torch.tensor(COARSE_PADDED).reshape(3, 1, 1, 1) / 2
    shrunk = -np.log(2) / 3 * identity * grid.voxel_size_mm[0]  # a flow that halves volumes
    small = shrunk.float()
    middle = tuple(n // 2 for n in grid.shape)
    template = mean_of([full, empty], [small, None]).template()
    assert float(template.data[(0, *middle)]) == pytest.approx(1 / 3, abs=0.01)


def test_symmetry_means_that_each_person_also_counts_mirrored(group):
    people, velocities = group
    template = mean_of(people, velocities, is_symmetric=True).template().data
    torch.testing.assert_close(template, template.flip(1), atol=1e-6, rtol=0)
    plain = mean_of(people, velocities).template().data
    assert float((plain - plain.flip(1)).abs().max()) > 0.05
    turned = [Volume(one.data.flip(1), one.grid) for one in people]
    mirrored = []
    for velocity in velocities:  # the flow of the mirrored person, by its displacement
        n = coarse_template().grid.shape[0]
        both = steps.symmetric(velocity, n)
        mirrored.append(2 * both - velocity)
    twice = mean_of([*people, *turned], [*velocities, *mirrored]).template().data
    torch.testing.assert_close(template, twice, atol=2e-3, rtol=0)


def test_a_symmetric_velocity_gives_a_symmetric_displacement():
    n = coarse_template().grid.shape[0]
    even = steps.symmetric(flow(5), n)
    inner = (slice(None), slice(3, -3))  # from the border inwards: room on both sides differs by a voxel
    field = warp.displacement(even, coarse_template().grid).data[inner]
    torch.testing.assert_close(field[0], -field[0].flip(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(field[1:], field[1:].flip(1), atol=1e-3, rtol=0)


def test_what_is_wrong_with_a_velocity():
    template = coarse_template()
    assert steps.fault_of(flow(1), template) == ""
    assert "not finite" in steps.fault_of(torch.full((3, *COARSE_PADDED), float("nan")), template)
    away = (voxel_indices(COARSE_PADDED) - torch.tensor(COARSE_PADDED).reshape(3, 1, 1, 1) / 2) * COARSE_MM
    assert steps.fault_of(-0.3 * away, template) == ""
    assert "not 0.01 to 100" in steps.fault_of(-1.7 * away, template)  # determinants of exp(-5.1)


def test_sharpness_is_the_integral_of_squared_slopes():
    grid = coarse_template().grid
    ramp = voxel_indices(grid.shape)[0] * 0.01
    template = Volume(torch.stack([ramp, torch.zeros_like(ramp)]), grid)
    volume_mm3 = np.prod(grid.shape) * COARSE_MM**3
    assert steps.sharpness(template) == pytest.approx((0.01 / COARSE_MM) ** 2 * volume_mm3, rel=1e-4)


def test_the_way_through_a_person_is_the_standard_warp_and_back_from_the_one_to_the_group(monkeypatch):
    """The group template lies beside the standard one by a flow: both of the person's warps differ by it."""
    grid = coarse_template().grid
    beside, standard = warp.displacement(flow(7), grid), warp.displacement(flow(3), grid)
    tissues, template = tissues_of(1), coarse_template()

    def registered(*given):
        assert given == (tissues, template)
        return warp.Warp(standard, warp.displacement(-flow(3), grid))

    monkeypatch.setattr(warp, "register_both_ways", registered)
    way = steps.through_person(tissues, deform.composed(beside, standard), template)
    off = (way.data - beside.data)[:, 3:-3, 3:-3, 3:-3].square().sum(0).sqrt()
    assert float(off.mean()) < 0.2 < 0.1 * float(beside.data.square().sum(0).sqrt().mean())
