import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps import linear
from vbmstat.preproc.steps.linear import pyramid, refine_with_tissues, register_brain


def turned(pitch_degrees, roll_degrees, scale):
    a, b = np.deg2rad([pitch_degrees, roll_degrees])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_y @ about_x @ np.diag(scale)
    matrix[:3, 3] = [12, -20, 31]
    return matrix


@pytest.fixture(scope="module")
def brain():
    full = assets.template_brain()
    grid = full.grid.with_voxel_size(2.0)
    return Volume(resample(full.data, full.grid, grid), grid)


@pytest.mark.parametrize(("pitch", "roll"), [(5, 3), (45, -15)])
def test_a_known_pose_and_a_bias_field_are_found(brain, pitch, roll):
    truth = turned(pitch, roll, [0.92, 1.05, 0.98])  # template mm -> scan mm
    scan_grid = Grid((130, 130, 130), np.array([[2.0, 0, 0, -130], [0, 2, 0, -140], [0, 0, 2, -110], [0, 0, 0, 1]]))
    data = resample(brain.data, brain.grid, scan_grid, np.linalg.inv(truth))
    mask = data[0] > 0.05
    shading = torch.linspace(0.7, 1.3, 130).reshape(1, 130, 1, 1)
    found = register_brain(Volume(data * shading * 500, scan_grid), mask, pyramid(brain, brain.data[0] > 0.05))
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-90, 60) for z in (-40, 60)], float).T
    error_mm = np.linalg.norm(((found - truth) @ corners)[:3], axis=0)
    assert error_mm.max() < 1.5


def test_tissues_refine_a_rough_affine():
    template = assets.template()
    start = np.eye(4)
    start[:3, 3] = [3, -2, 2]
    start[0, 0] = 1.04
    refined = refine_with_tissues(template, template, start)
    np.testing.assert_allclose(refined, np.eye(4), atol=0.05)


def test_intensities_without_a_scale_are_refused():
    grid = Grid((8, 8, 8), np.diag([20.0, 20.0, 20.0, 1.0]))
    template = Volume(torch.rand(1, 8, 8, 8), grid)
    with pytest.raises(ScanError, match="intensities are not those of a T1w image"):
        linear._gauss_newton(Volume(torch.full((1, 8, 8, 8), float("nan")), grid), template, np.eye(4), 3)


def test_a_lesion_that_is_left_out_does_not_pull():
    template = assets.template()
    hole = torch.zeros(1, *template.grid.shape)
    hole[0, 15:45, 40:110, 50:100] = 1  # most of a hemisphere
    hurt = template.data * (1 - hole)
    blind = refine_with_tissues(Volume(hurt, template.grid), template, np.eye(4))
    told = refine_with_tissues(Volume(torch.cat([hurt, hole]), template.grid), template, np.eye(4))
    assert np.abs(told - np.eye(4)).max() < 0.1 * np.abs(blind - np.eye(4)).max()


def test_a_lesion_does_not_pull_the_first_registration(brain):
    mask = brain.data[0] > 0.05
    lesion = torch.zeros_like(mask)
    lesion[10:32, 30:75, 30:65] = True
    hurt = Volume(torch.where(lesion & mask, 0.1, brain.data[0])[None], brain.grid)
    reference = pyramid(brain, mask)
    blind = register_brain(hurt, mask, reference)
    told = register_brain(hurt, mask, reference, 1 - lesion.float())
    assert np.abs(told - np.eye(4)).max() < 0.3 * np.abs(blind - np.eye(4)).max()
    same = register_brain(brain, mask, reference, torch.ones(mask.shape))
    np.testing.assert_allclose(same, register_brain(brain, mask, reference), atol=1e-6)
