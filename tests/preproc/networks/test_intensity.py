"""Intensity scaling: percentiles of the brain, logarithmic above 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.preproc.networks.intensity import brain_range, scale_intensity


def test_percentiles_are_numpys_and_of_the_brain_alone():
    image = torch.cat([torch.zeros(5000), torch.rand(777, generator=torch.Generator().manual_seed(0)) + 1])
    expected = np.percentile(image[image > 0].numpy(), [0.5, 99.5])
    assert brain_range(image) == pytest.approx(tuple(expected), rel=1e-6)


def test_scaling_is_linear_to_1_and_logarithmic_above():
    scaled = scale_intensity(torch.tensor([0.0, 10.0, 60.0, 110.0, 1010.0]), 10.0, 110.0)
    assert torch.allclose(scaled, torch.tensor([-0.1, 0.0, 0.5, 1.0, 2.0]))


@pytest.mark.parametrize(("image", "message"), [(torch.zeros(9), "no voxel is above zero"), (torch.ones(9), "vary")])
def test_an_image_without_range_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        brain_range(image)
