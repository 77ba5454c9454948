"""Tissue priors from the template."""

from __future__ import annotations

import numpy as np
import torch

from vbmstat import assets
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.priors import nuclei_as_gm, soften, tissue_priors


def at(priors: torch.Tensor, grid: Grid, mm: tuple[float, float, float]) -> list[float]:
    """GM, WM, CSF prior at a point."""
    voxel = np.round(np.linalg.inv(grid.affine) @ [*mm, 1.0])[:3].astype(int)
    return [float(p) for p in priors[(slice(None), *voxel)]]


def test_priors_are_probabilities(phantom):
    assert float(phantom.priors.min()) >= 0
    ones = torch.ones_like(phantom.priors[0])
    torch.testing.assert_close(phantom.priors.sum(0), ones, atol=0.005, rtol=0)  # GM and WM exceed 1 by a little


def test_known_places(phantom):
    grid = phantom.image.grid
    assert at(phantom.priors, grid, (-26, -30, 30))[1] > 0.8  # centrum semiovale
    assert at(phantom.priors, grid, (12, -18, 8))[0] > 0.7  # thalamus, which the template calls half WM
    assert at(phantom.priors, grid, (26, 2, 2))[0] > 0.7  # putamen
    assert at(phantom.priors, grid, (6, -6, 22))[2] > 0.3  # lateral ventricle
    assert at(phantom.priors, grid, (-75, 0, 0))[2] > 0.99  # outside


def test_the_affine_leads_from_template_to_scan(phantom):
    shift = np.eye(4)
    shift[0, 3] = 10.0  # template x is scan x + 10 mm
    template, grid = assets.template(), phantom.image.grid
    moved_grid = Grid(grid.shape, shift @ grid.affine)
    moved = tissue_priors(template, shift, moved_grid)
    torch.testing.assert_close(moved, phantom.priors, atol=1e-3, rtol=0)


def test_coordinates_take_the_place_of_the_affine_with_less_blur(phantom):
    template, grid = assets.template(), phantom.image.grid
    mm = Volume(apply_affine(grid.affine, voxel_indices(grid.shape)), grid)
    warped = tissue_priors(template, np.diag([9.0, 9.0, 9.0, 1.0]), grid, mm)  # a linear map that must not be used
    assert float(torch.corrcoef(torch.stack([warped[0].ravel(), phantom.priors[0].ravel()]))[0, 1]) > 0.95
    assert float(warped[0].std()) > 1.03 * float(phantom.priors[0].std())


def test_nuclei_that_a_network_calls_white_are_grey_and_nothing_else_is():
    """Thalamus and putamen become GM where the affine places them; white matter and CSF stay."""
    template = assets.template()
    linear = np.diag([-1.1, 0.9, 1.0, 1.0])
    linear[:3, 3] = (4.0, -6.0, 8.0)
    scan = Grid(template.grid.shape, linear @ template.grid.affine)
    said = torch.stack([torch.zeros(scan.shape), torch.full(scan.shape, 0.9), torch.full(scan.shape, 0.1)])
    found = nuclei_as_gm(said, template, linear, scan)
    assert torch.allclose(found.sum(0), said.sum(0), atol=1e-6)
    assert torch.equal(found[2], said[2])
    for mm, is_grey in (((-12, -20, 8), True), ((12, -20, 8), True), ((-26, 4, 2), True), ((-25, -30, 35), False)):
        there = linear @ np.array([*mm, 1.0])
        assert (at(found, scan, tuple(there[:3]))[0] > 0.5) == is_grey


def test_a_person_s_own_tissues_are_blurred_into_the_template_s_prior(phantom):
    own = Volume(phantom.fractions, phantom.image.grid)
    found = soften(own, phantom.mask, phantom.priors)
    torch.testing.assert_close(found.sum(0), torch.ones_like(found[0]))
    surely = phantom.mask & (phantom.fractions[1] > 0.9) & (phantom.priors[1] < 0.7)
    assert int(surely.sum()) > 100
    assert float((found[1] - phantom.priors[1])[surely].mean()) > 0.02
    corner = (slice(None), 0, 0, 0)
    assert not phantom.mask[0, 0, 0]
    torch.testing.assert_close(found[corner], phantom.priors[corner] / phantom.priors[corner].sum())
