"""Painted lesions are dark, in white matter, where the label says; same seed, same sample."""

from __future__ import annotations

import pytest
import torch

from vbmstat.preproc.networks.lesion_net import N_DESCRIPTORS
from vbmstat.training import painting
from vbmstat.training.painted_brains import Brain, painted_cases, with_lesions

SHAPE = (48, 48, 48)


@pytest.fixture
def brain() -> Brain:
    """White matter in a shell of cortex."""
    wm = torch.zeros(SHAPE)
    wm[8:-8, 8:-8, 8:-8] = 1
    return Brain(wm.clone(), torch.stack([1 - wm, wm]), wm, torch.zeros(SHAPE))


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lesions_are_dark_and_in_white_matter(brain):
    n_painted = 0
    for seed in range(8):
        painted = with_lesions(brain, [], source(seed))
        inside = painted.lesion > 0.9
        assert not painted.lesion[brain.wm == 0].any()
        assert float((painted.contrast - brain.contrast)[:4].abs().max()) < 0.05  # of cortex, only the edge is blurred
        assert float(painted.prior.min()) >= 0
        torch.testing.assert_close(painted.prior.sum(0), brain.prior.sum(0))
        if inside.any():
            n_painted += 1
            assert float(painted.contrast[inside].mean()) < 0.95
    assert n_painted >= 4


def test_shapes_of_other_people_are_painted(brain):
    shape = torch.zeros(SHAPE)
    shape[14:34, 18:30, 18:30] = 1
    moved = painting.moved(shape, source(3))
    assert float(moved.sum()) == pytest.approx(float(shape.sum()), rel=0.5)
    assert not torch.equal(moved, shape)


def test_threads_are_thin():
    wm = torch.ones(SHAPE)
    share = painting.threads(wm, source(5))
    assert 0 < float(share.sum()) < 0.02 * share.numel()
    thick = torch.nn.functional.avg_pool3d(share[None, None], 5, stride=1)
    assert float(thick.max()) < 0.5


def test_a_sample_is_a_function_of_name_and_seed(brain):
    first, again, other = (next(painted_cases("a", "g", brain, [], [seed])) for seed in (1, 1, 2))
    named = next(painted_cases("b", "g", brain, [], [1]))
    assert torch.equal(first.arrays["descriptors"], again.arrays["descriptors"])
    for different in (other, named):
        assert different.arrays["descriptors"].shape != first.arrays["descriptors"].shape or not torch.equal(
            different.arrays["descriptors"], first.arrays["descriptors"]
        )
    n = first.arrays["lesion"].shape[1]
    assert first.arrays["descriptors"].shape == (N_DESCRIPTORS, n, 1, 1)
    assert {case.name for case in (first, other, named)} == {"a_1", "a_2", "b_1"}
