from __future__ import annotations

import pytest
import torch

from vbmstat.preproc.steps.reassign import lesion_as_wm, lesion_share, without_lesion

FRACTIONS = torch.tensor([[0.7, 0.1, 0.0], [0.2, 0.9, 0.0], [0.1, 0.0, 0.0]])[:, :, None, None]  # the third: outside


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.75, 1.0), (1.0, 1.0)])
def test_the_share_is_the_probability_stretched_around_one_half(probability, share):
    found = lesion_share(torch.full((3, 1, 1), probability), FRACTIONS)
    assert found.flatten().tolist() == pytest.approx([share, share, 0.0])  # none outside the brain


def test_lesions_become_white_matter_and_the_sum_stays():
    share = torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    found = lesion_as_wm(FRACTIONS, share)
    torch.testing.assert_close(found.sum(0), FRACTIONS.sum(0))
    assert found[:, 0].flatten().tolist() == pytest.approx([0.0, 1.0, 0.0])  # no GM, no CSF in a lesion
    assert found[:, 1].flatten().tolist() == pytest.approx([0.05, 0.95, 0.0])


def test_what_is_lesion_leaves_the_tissues():
    share = torch.tensor([0.25, 1.0, 0.0])[:, None, None]
    found = without_lesion(FRACTIONS, share)
    torch.testing.assert_close(found.sum(0) + share, torch.tensor([1.0, 1.0, 0.0])[:, None, None])
