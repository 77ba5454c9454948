"""A structure that moves, and one that shrinks: what the stiff warp takes out, and what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.steps import within_person


def test_stiffness_falls_with_the_distance_from_the_median_date():
    equal = within_person.stiffness(3)
    assert equal.tolist() == [equal[0]] * 3
    assert within_person.stiffness(2, [2020.0, 2020.0]).tolist() == equal[:2].tolist()
    assert within_person.stiffness(2, [2020.0, 2021.0]).tolist() == equal[:2].tolist()
    first, middle, last = within_person.stiffness(3, [0.0, 1.0, 3.0])
    assert first / last == pytest.approx((2 + 1 / 365) / (1 + 1 / 365))
    assert middle / first == pytest.approx((1 + 1 / 365) * 365)


def test_rate_is_the_slope_of_a_line_through_the_maps():
    grid = Grid((4, 4, 4), np.diag([1.5, 1.5, 1.5, 1.0]))
    years = [2.0, 0.0, 0.5, 4.0]
    slope, start = torch.randn(2, 4, 4, 4), torch.rand(2, 4, 4, 4)
    maps = [Volume(torch.cat([start + year * slope, torch.rand(1, 4, 4, 4)]), grid) for year in years]
    found = within_person.rate(maps, years)
    assert torch.allclose(found.data, slope * 0.003375, atol=1e-6)
    fitted = np.polyfit(years, [float(each.data[0, 1, 2, 3]) for each in maps], 1)[0]
    assert float(found.data[0, 1, 2, 3]) == pytest.approx(fitted * 0.003375, rel=1e-4)
    assert within_person.rate(maps, [1.0] * 4) is None


def test_compose_applies_the_second_where_the_first_has_moved_to():
    grid = Grid((20, 20, 20), np.diag([1.5, 1.5, 1.5, 1.0]))
    x = apply_affine(grid.affine, voxel_indices(grid.shape))
    first = Displacement(torch.full((3, *grid.shape), 3.0), grid)
    then = Displacement(0.1 * x, grid)
    inner = (slice(None), *(slice(0, 16),) * 3)
    assert torch.allclose(within_person.compose(first, then).data[inner], (3 + 0.1 * (x + 3))[inner], atol=1e-4)


@pytest.fixture(scope="module")
def tissues() -> Volume:
    """A ball of GM in WM, on the template's grid."""
    grid = assets.template().grid
    return ball(grid, 0.0)


def ball(grid: Grid, shift_mm: float, radius_mm: float = 15.0) -> Volume:
    x = apply_affine(grid.affine, voxel_indices(grid.shape))
    distance = (x - torch.tensor([shift_mm, -20.0, 15.0]).reshape(3, 1, 1, 1)).norm(dim=0)
    gm = ((radius_mm - distance) / 1.5 + 0.5).clamp(0, 1)
    brain = ((60 - distance) / 1.5 + 0.5).clamp(0, 1)
    return Volume(torch.stack([gm, brain - gm]), grid)


def test_warps_meet_in_the_middle(tissues):
    shifted = [ball(tissues.grid, -0.5), ball(tissues.grid, 0.5)]
    moves = within_person.warps_to_mean(shifted, within_person.stiffness(2))
    centre = tuple(np.rint(np.linalg.inv(tissues.grid.affine) @ [0, -20, 15, 1])[:3].astype(int))
    first, second = (move.data[(0, *centre)] for move in moves)
    assert float(first) == pytest.approx(-0.5, abs=0.15)
    assert float(second) == pytest.approx(0.5, abs=0.15)
    assert float((moves[0].data + moves[1].data).abs().max()) < 0.05
