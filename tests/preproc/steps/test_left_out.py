from __future__ import annotations

import torch

from vbmstat.preproc.steps.left_out import average_known


def halve(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool3d(images[None], 2)[0]


def test_two_channels_are_averaged_as_they_are():
    images = torch.rand(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(average_known(images, halve), halve(images))


def test_what_is_left_out_does_not_enter_the_mean():
    tissues = torch.full((2, 4, 4, 4), 0.25)
    left_out = torch.zeros(1, 4, 4, 4)
    left_out[:, 0] = 1
    tissues[:, 0] = 9.0  # nonsense in the lesion
    found = average_known(torch.cat([tissues, left_out]), halve)
    torch.testing.assert_close(found[:2], torch.full((2, 2, 2, 2), 0.25))
    assert found[2, 0].unique().tolist() == [0.5]
    assert found[2, 1].unique().tolist() == [0.0]


def test_a_wholly_unknown_mean_is_finite():
    assert torch.isfinite(average_known(torch.ones(3, 2, 2, 2), halve)).all()
