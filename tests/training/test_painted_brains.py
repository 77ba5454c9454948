"""Painted lesions are dark, in white matter, where the label says; same generator, same patch."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from vbmstat.training import painting
from vbmstat.training.painted_brains import Brain, Shapes, painted_patches, with_lesions

SHAPE = (48, 48, 48)


@pytest.fixture
def brain() -> Brain:
    """White matter in a shell of cortex, at the middle of the template."""
    wm = torch.zeros(SHAPE)
    wm[8:-8, 8:-8, 8:-8] = 1
    frame = np.eye(4)
    frame[:3, 3] = (-24, -42, -14)
    return Brain(wm.clone(), torch.stack([1 - wm, wm]), wm, torch.zeros(SHAPE), frame, shown=False)


def source(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lesions_are_dark_and_in_white_matter(brain):
    n_painted = 0
    for seed in range(10):
        painted, label = with_lesions(brain, False, Shapes(), source(seed))
        inside = label > 0
        assert not label[brain.wm == 0].any()
        assert float((painted.contrast - brain.contrast)[:4].abs().max()) < 0.05  # of cortex, only the edge is blurred
        if inside.any():
            n_painted += 1
            assert float(painted.contrast[inside].mean()) < 0.95
    assert n_painted >= 4


def test_own_lesions_are_painted_unless_the_image_shows_them(brain):
    lesion = torch.zeros(SHAPE)
    lesion[20:28, 20:28, 20:28] = 1
    hidden = Brain(brain.contrast, brain.prior, brain.wm, lesion, brain.frame, shown=False)
    shown = Brain(brain.contrast, brain.prior, brain.wm, lesion, brain.frame, shown=True)
    for seed in range(6):
        painted, label = with_lesions(hidden, True, Shapes(), source(seed))
        assert bool((label[lesion > 0] == 1).all())
        assert float(painted.contrast[22:26, 22:26, 22:26].mean()) < 0.9
        kept, label = with_lesions(shown, True, Shapes(), source(seed))
        assert bool((label[lesion > 0] == 1).all())
        unchanged = kept.contrast == shown.contrast
        assert float(unchanged[lesion > 0].float().mean()) > 0.9 or bool((label - lesion).any())


def test_shapes_of_other_people_are_painted(brain):
    shape = torch.zeros(painting.shape_grid().shape)
    shape[54:74, 75:90, 50:65] = 1
    moved = painting.moved(shape, brain.at_mm, source(3))
    assert float(moved.sum()) == pytest.approx(float(shape.sum()), rel=0.5)
    again, other = (painting.moved(shape, brain.at_mm, source(seed)) for seed in (3, 4))
    assert torch.equal(moved, again)
    assert not torch.equal(moved, other)


def test_threads_are_thin():
    wm = torch.ones(SHAPE)
    share = painting.threads(wm, source(5))
    assert 0 < float(share.sum()) < 0.02 * share.numel()
    thick = torch.nn.functional.avg_pool3d(share[None, None], 5, stride=1)
    assert float(thick.max()) < 0.5


def test_pale_tracts_have_no_border():
    """Or the network would learn that lesions are none."""
    wm = torch.ones(SHAPE)
    wm[:8] = 0
    paler = [wm - painting.paint_bands(wm, wm, source(seed)) for seed in range(8)]
    assert all(float(pale.min()) >= 0 and not pale[wm == 0].any() for pale in paler)
    assert max(float(pale.max()) for pale in paler) > 0.3
    for pale in paler:
        steps = [float(pale[8:].diff(dim=axis).abs().max()) for axis in range(3)]
        assert max(steps) < 0.25 * float(pale.max())  # a lesion's edge takes one or two voxels


def test_a_pale_tract_is_no_lesion(brain):
    tract = torch.zeros(painting.shape_grid().shape)
    tract[54:74, 75:90, 50:65] = 1
    pairs = [with_lesions(brain, False, Shapes(tracts=[tract]), source(seed)) for seed in range(12)]
    plain = [with_lesions(brain, False, Shapes(), source(seed)) for seed in range(12)]
    unlabelled = [(brain.contrast - part.contrast) * (1 - label) for part, label in pairs]
    without = [(brain.contrast - part.contrast) * (1 - label) for part, label in plain]
    paler = [float(change.clamp(min=0).sum()) for change in unlabelled]
    assert sum(paler) > 1.5 * sum(float(change.clamp(min=0).sum()) for change in without)


def test_a_patch_is_a_function_of_the_generator(brain):
    first, again, other = (next(painted_patches(brain, Shapes(), 32, source(seed))) for seed in (1, 1, 2))
    assert first[0].shape == (6, 32, 32, 32)
    assert first[1].shape == (1, 32, 32, 32)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert set(first[1].unique().tolist()) <= {0.0, 1.0}


def test_patches_are_often_around_what_only_looks_like_a_lesion(brain):
    brain.contrast[10, 10, 10] = 0.2  # a dark spot that nobody called a lesion, in a corner
    y, z = brain.inputs[4:, 10, 10, 10]
    patches = [inputs[4:] for inputs, _ in islice(painted_patches(brain, Shapes(), 26, source(2)), 60)]
    holds = [bool((part[0].amin() <= y) & (y <= part[0].amax()) & (part[1].amin() <= z)) for part in patches]
    assert 0.4 < np.mean(holds) < 0.9  # .15 if places were drawn from all white matter


def test_a_patch_larger_than_the_brain_is_padded(brain):
    inputs, lesion = next(painted_patches(brain, Shapes(), 64, source(1)))
    assert inputs.shape == (6, 64, 64, 64)
    assert not inputs[:, 48:].any() or not inputs[:, :16].any()
    assert not lesion[:, :, 48:].any()


def test_the_positions_of_a_cut_are_those_of_the_whole(brain):
    part = brain.cut((8, 4, 2), 16)
    torch.testing.assert_close(part.inputs, brain.inputs[:, 8:24, 4:20, 2:18])
    torch.testing.assert_close(Brain.from_arrays(part.arrays()).inputs, part.inputs)
