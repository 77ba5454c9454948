"""The bias field: a known smooth one is recovered, and none is made up."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.bias import bias_field


@pytest.fixture(scope="module")
def known(phantom) -> torch.Tensor:
    """A smooth field whose range over the brain is 40 %, mean log 0."""
    x, y, z = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in phantom.mask.shape), indexing="ij")
    rough = 0.5 * (x - y) + 0.8 * z + 0.6 * x * y - 0.7 * z**2
    low, high = rough[phantom.mask].aminmax()
    field = 0.8 + 0.4 * (rough - low) / (high - low)
    return field / field[phantom.mask].log().mean().exp()


@pytest.fixture(scope="module")
def found(phantom, noisy, known) -> torch.Tensor:
    return bias_field(Volume(noisy.data * known, noisy.grid), phantom.mask, phantom.priors)


def test_a_field_of_40_percent_is_recovered_within_5_percent(phantom, known, found):
    error = (found / known - 1)[phantom.mask]
    assert float(error.abs().max()) < 0.05
    assert float(error.std()) < 0.015
    assert float((known[phantom.mask] - 1).std()) > 0.05  # what there was to find


def test_the_edge_of_the_brain_is_corrected_as_well(phantom, known, found):
    core = torch.from_numpy(ndimage.binary_erosion(phantom.mask.numpy(), iterations=3))
    rim = phantom.mask & ~core
    assert float((found / known - 1)[rim].std()) < 1.5 * float((found / known - 1)[core].std())


def test_mean_log_is_zero_over_the_brain(phantom, found):
    assert float(found[phantom.mask].log().mean()) == pytest.approx(0, abs=1e-5)


def test_without_a_field_none_is_made_up(phantom, noisy):
    field = bias_field(noisy, phantom.mask, phantom.priors)
    assert float((field[phantom.mask] - 1).abs().max()) < 0.05


def test_the_unit_of_intensity_does_not_matter(phantom, noisy, known, found):
    scaled = bias_field(Volume(noisy.data * known * 1000, noisy.grid), phantom.mask, phantom.priors)
    torch.testing.assert_close(scaled, found, atol=1e-3, rtol=0)


def test_zeros_inside_the_brain_do_no_harm(phantom, noisy, known, found):
    holes = noisy.data * known
    holes[:, 36:40, 44:50, 40:44] = 0
    field = bias_field(Volume(holes, noisy.grid), phantom.mask, phantom.priors)
    assert torch.isfinite(field).all()
    assert float((field / found - 1)[phantom.mask].abs().max()) < 0.02


def test_a_lesion_of_weight_0_leaves_the_field_alone(phantom, noisy, known, found):
    lesion = torch.zeros_like(phantom.mask)
    lesion[8:35, 20:60, 20:60] = True
    hurt = Volume(torch.where(lesion, 85.0, noisy.data) * known, noisy.grid)
    weights = 1 - lesion.float()
    outside = phantom.mask & ~lesion

    def change(field: torch.Tensor) -> float:
        """Without a common factor, which is that of the mean over the brain."""
        ratio = (field / found).log()[outside]
        return float(ratio.std())

    blind = bias_field(hurt, phantom.mask, phantom.priors)
    told = bias_field(hurt, phantom.mask, phantom.priors, weights)
    assert change(told) < 0.5 * change(blind)


def test_wide_sulci_where_the_atlas_has_tissue_are_not_taken_for_shading(atrophic, known):
    tissue = atrophic.fractions[:2].sum(0) > 0.5
    shaded = Volume(atrophic.image.data * known, atrophic.image.grid)
    error = (bias_field(shaded, atrophic.mask, atrophic.priors) / known).log()[tissue]
    low, high = torch.quantile(error[::3], torch.tensor([0.01, 0.99]))
    assert float(high - low) < 0.05
