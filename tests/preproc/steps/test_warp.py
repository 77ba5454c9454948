import numpy as np
import pytest
import torch

from vbmstat import assets
from vbmstat.image.deform import exponential
from vbmstat.image.grid import sample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.energy import Regularisation


def smooth_velocity(amplitude, seed=0, shape=warp.PADDED_SHAPE):
    generator = torch.Generator().manual_seed(seed)
    rough = torch.randn(3, *shape, generator=generator)
    velocity = smooth(rough, np.full(3, 20.0), 3.0)
    return velocity * (amplitude / velocity.abs().max())


def test_constant_velocity_is_a_translation():
    velocity = torch.zeros(3, 20, 20, 20)
    velocity[0] = 3.0
    moved = exponential(velocity)
    torch.testing.assert_close(moved[0], torch.full((20, 20, 20), 3.0), atol=1e-5, rtol=0)


def test_linear_velocity_gives_the_matrix_exponential():
    shape = (41, 41, 41)
    points = voxel_indices(shape) - 20
    generator = torch.tensor([[0.0, -0.2, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.1]])
    moved = exponential(torch.einsum("ij,jxyz->ixyz", generator, points))
    expected = torch.einsum("ij,jxyz->ixyz", torch.linalg.matrix_exp(generator) - torch.eye(3), points)
    inner = (slice(None), *(slice(14, 27),) * 3)
    torch.testing.assert_close(moved[inner], expected[inner], atol=0.02, rtol=0)


def test_negative_velocity_is_the_inverse():
    velocity = smooth_velocity(6.0, shape=(48, 48, 48))
    forward, backward = exponential(velocity), exponential(-velocity)
    there = voxel_indices((48, 48, 48)) + forward
    back = forward + sample(backward, there, padding_mode="border")
    assert float(back[:, 8:-8, 8:-8, 8:-8].abs().max()) < 0.1  # voxels; trilinear interpolation of the field


@pytest.fixture(scope="module")
def registered():
    """The template's own tissues moved by a known flow, and the flow that the registration finds."""
    template = assets.template()
    known = warp.displacement(smooth_velocity(9.0, seed=3), template.grid)
    at = voxel_indices(template.grid.shape) + known.data / 1.5
    moved = Volume(sample(template.data, at), template.grid)
    return template, moved, warp.register(moved, template)


def test_a_known_flow_is_undone(registered):
    template, moved, velocity = registered
    field = warp.displacement(velocity, template.grid)
    at = voxel_indices(template.grid.shape) + field.data / 1.5
    before = float((moved.data - template.data).square().mean())
    after = float((sample(moved.data, at) - template.data).square().mean())
    assert after < 0.06 * before


def test_the_field_does_not_fold(registered):
    template, _, velocity = registered
    for sign in (1, -1):
        assert float(warp.displacement(sign * velocity, template.grid).jacobian_determinant.min()) > 0


def test_stiffer_is_smoother_and_fits_less(registered):
    template, moved, _ = registered
    soft = warp.register(moved, template, finest=False)
    stiff = warp.register(moved, template, Regularisation(bending=0.4, shear=1.0, divergence=0.5), finest=False)

    def roughness(field):
        return float(sum(torch.diff(field, dim=dim).square().sum() for dim in (1, 2, 3)))

    def misfit(velocity):
        at = voxel_indices(template.grid.shape) + warp.displacement(velocity, template.grid).data / 1.5
        return float((sample(moved.data, at) - template.data).square().mean())

    assert roughness(stiff) < 0.8 * roughness(soft)
    assert misfit(stiff) > misfit(soft)


def test_the_template_stays_where_it_is():
    template = assets.template()
    field = warp.displacement(warp.register(template, template, finest=False), template.grid)
    assert float(field.data.abs().max()) < 0.01  # mm


def test_a_lesion_that_is_left_out_moves_the_rest_less():
    """A hole of 50 mL in the template's own tissues: nothing should move, as nothing else differs."""
    template = assets.template()
    hole = torch.zeros(1, *template.grid.shape)
    hole[0, 25:42, 55:80, 55:90] = 1
    hurt = template.data * (1 - hole)
    blind = warp.register(Volume(hurt, template.grid), template, finest=False)
    told = warp.register(Volume(torch.cat([hurt, hole]), template.grid), template, finest=False)
    around = (template.data.sum(0) > 0.5) & (hole[0] == 0)

    def moved(velocity: torch.Tensor) -> float:
        return float(warp.displacement(velocity, template.grid).data.square().sum(0).sqrt()[around].mean())

    assert moved(told) < 0.2 * moved(blind)


def test_nothing_left_out_changes_nothing(registered):
    template, moved, _ = registered
    none = torch.zeros(1, *template.grid.shape)
    plain = warp.register(moved, template, finest=False)
    torch.testing.assert_close(
        warp.register(Volume(torch.cat([moved.data, none]), template.grid), template, finest=False), plain,
        atol=1e-3, rtol=0,
    )  # fmt: skip
