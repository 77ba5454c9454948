"""Segmentation of a brain whose tissue is known (see conftest.py)."""

from __future__ import annotations

import pytest
import torch

from tests.preproc.conftest import MEANS, Phantom
from vbmstat.image.grid import apply_affine, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.tissue import Segmentation, segment


@pytest.fixture(scope="module")
def found(phantom, noisy) -> Segmentation:
    return segment(noisy, phantom.mask, phantom.priors)


def dice(found: torch.Tensor, known: torch.Tensor) -> list[float]:
    """Overlap of fractions: twice the shared volume over the sum of both, per tissue."""
    shared = torch.minimum(found, known).sum(dim=(1, 2, 3))
    return (2 * shared / (found + known).sum(dim=(1, 2, 3))).tolist()


def mean_error(found: torch.Tensor, phantom: Phantom) -> float:
    return float((found - phantom.fractions)[:, phantom.mask].abs().mean())


def test_fractions_sum_to_one_inside_and_zero_outside(phantom, found):
    torch.testing.assert_close(found.fractions.sum(0), phantom.mask.float())
    assert float(found.fractions.min()) >= 0


def test_known_fractions_are_found_in_noise(phantom, found):
    assert min(dice(found.fractions, phantom.fractions)) > 0.94  # GM, WM, CSF
    assert mean_error(found.fractions, phantom) < 0.03
    volumes, known = found.fractions.sum(dim=(1, 2, 3)), phantom.fractions.sum(dim=(1, 2, 3))
    torch.testing.assert_close(volumes, known, rtol=0.04, atol=0)


def test_class_means_and_noise_are_measured(found):
    assert found.means.tolist() == pytest.approx([MEANS["csf"], MEANS["gm"], MEANS["wm"]], rel=0.08)
    assert found.sd == pytest.approx(3.0, rel=0.15)


def test_less_noise_is_better_and_much_noise_is_survived(phantom, found):
    clean = segment(phantom.image, phantom.mask, phantom.priors)
    assert mean_error(clean.fractions, phantom) < 0.6 * mean_error(found.fractions, phantom)
    noise = torch.randn(phantom.image.data.shape, generator=torch.Generator().manual_seed(1))
    poor = Volume((phantom.image.data + 9.0 * noise).clamp(min=1.0) * phantom.mask, phantom.image.grid)
    assert min(dice(segment(poor, phantom.mask, phantom.priors).fractions, phantom.fractions)) > 0.84


def test_the_unit_of_intensity_does_not_matter(phantom, noisy, found):
    scaled = segment(Volume(noisy.data * 1000, noisy.grid), phantom.mask, phantom.priors)
    torch.testing.assert_close(scaled.fractions, found.fractions, atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.means, found.means * 1000, rtol=1e-4, atol=0)


def test_mirrored_brain_gives_mirrored_fractions(phantom, noisy, found):
    mirrored = segment(Volume(noisy.data.flip(1), noisy.grid), phantom.mask.flip(0), phantom.priors.flip(1))
    apart = (mirrored.fractions.flip(1) - found.fractions)[:, phantom.mask].abs()
    assert float(apart.mean()) < 0.002


def test_local_means_follow_a_region_of_other_contrast(phantom, noisy):
    """GM of the striatum 15 % dimmer or brighter than cortex is GM all the same."""
    mm = apply_affine(noisy.grid.affine, voxel_indices(noisy.grid.shape))
    centres = torch.tensor([[-25.0, 6.0, 0.0], [25.0, 6.0, 0.0]])
    near = sum(torch.exp(-(((mm - c[:, None, None, None]) / 20.0) ** 2).sum(0)) for c in centres)
    ball = (near > 0.6) & phantom.mask
    for change in (-0.15, 0.15):
        gm = MEANS["gm"] * change * near * phantom.fractions[0]
        odd = Volume((noisy.data + gm) * phantom.mask, noisy.grid)
        fractions = segment(odd, phantom.mask, phantom.priors).fractions
        known_ml = float(phantom.fractions[0][ball].sum())
        assert float(fractions[0][ball].sum()) == pytest.approx(known_ml, rel=0.06)


def test_a_lesion_of_weight_0_does_not_enter_the_classes(phantom, noisy, found):
    """A fifth of the brain at CSF's intensity: the classes elsewhere stay what they are without it."""
    lesion = torch.zeros_like(phantom.mask)
    lesion[8:35, 20:60, 20:60] = True
    hurt = Volume(torch.where(lesion, MEANS["csf"], noisy.data), noisy.grid)
    weights = 1 - lesion.float()
    outside = phantom.mask & ~lesion

    def change(one: Segmentation) -> float:
        return float((one.fractions - found.fractions)[:, outside].abs().mean())

    blind = segment(hurt, phantom.mask, phantom.priors)
    told = segment(hurt, phantom.mask, phantom.priors, weights)
    assert change(told) < 0.5 * change(blind)
    assert told.means.tolist() == pytest.approx(found.means.tolist(), rel=0.01)
    torch.testing.assert_close(told.fractions.sum(0), phantom.mask.float())  # the lesion is segmented all the same
    ones = torch.ones_like(weights)
    same = segment(noisy, phantom.mask, phantom.priors, ones)
    torch.testing.assert_close(same.fractions, found.fractions)


def test_wide_sulci_where_the_atlas_has_tissue_are_csf(atrophic):
    found = segment(atrophic.image, atrophic.mask, atrophic.priors)
    assert min(dice(found.fractions, atrophic.fractions)) > 0.9


def test_an_image_of_another_contrast_keeps_the_atlas_classes(phantom, noisy):
    inverted = Volume((130.0 - noisy.data).clamp(min=1.0) * phantom.mask, noisy.grid)
    csf, gm, wm = segment(inverted, phantom.mask, phantom.priors).means.tolist()
    assert csf > gm > wm  # so that the pipeline can refuse it
