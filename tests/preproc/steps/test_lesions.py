"""Hypointensities that white matter encloses are lesions; cortex, nuclei, cavities, vessels and edges are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.lesions import LESION_FROM, Evidence, find_lesions, without_specks

GM, WM, CSF = 0.70, 1.0, 0.25  # intensities
LESION = 0.80
N = 48
VENTRICLE = (slice(20, 28), slice(14, 34), slice(20, 28))


def box(centre: tuple[int, int, int], half: int) -> tuple[slice, ...]:
    return tuple(slice(c - half, c + half + 1) for c in centre)


def brain() -> tuple[torch.Tensor, torch.Tensor]:
    """A cube of white matter in cortex in CSF, with a ventricle; its image and its prior, which is exact."""
    tissue = torch.full((N, N, N), 2)  # index into GM, WM, CSF
    tissue[4:-4, 4:-4, 4:-4] = 0
    tissue[8:-8, 8:-8, 8:-8] = 1
    tissue[VENTRICLE] = 2
    prior = torch.nn.functional.one_hot(tissue, 3).movedim(-1, 0).float()
    return torch.tensor([GM, WM, CSF])[tissue], prior


def evidence(image: torch.Tensor, prior: torch.Tensor) -> Evidence:
    """As an engine would see it that takes every voxel below 0.85 for GM."""
    fractions = torch.stack([(image < 0.85) & (image > 0.5), image >= 0.85, image <= 0.5]).float()
    volume = Volume(image[None], Grid((N, N, N), np.eye(4)))
    return Evidence(volume, fractions, prior, np.eye(4), volume)


def found(image: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    return find_lesions(evidence(image, prior)).data[0] > LESION_FROM


def test_a_brain_without_lesions_has_none():
    assert int(found(*brain()).sum()) == 0


@pytest.mark.parametrize("level", [0.72, 0.80, 0.86])
def test_a_lesion_in_white_matter_is_found_exactly(level):
    image, prior = brain()
    at = box((13, 36, 36), 2)
    image[at] = level
    expected = torch.zeros(N, N, N, dtype=torch.bool)
    expected[at] = True
    assert torch.equal(found(image, prior), expected)


def test_brainstem_and_cerebellum_are_left_out():
    """Their nuclei and tracts are dark in healthy people, too."""
    image, prior = brain()
    image[box((13, 36, 36), 2)] = LESION
    seen = evidence(image, prior)
    assert found(image, prior).any()
    below = np.eye(4)
    below[:3, 3] = [13, 36 + 60, 36 + 50]  # template (0, -60, -50) lies in the lesion: cerebellum
    moved = Evidence(seen.brain, seen.fractions, seen.prior, below, seen.scan)
    assert not (find_lesions(moved).data > LESION_FROM).any()


def test_a_lesion_at_the_ventricle_is_found():
    image, prior = brain()
    cap = (slice(28, 33), slice(18, 30), slice(22, 26))
    image[cap] = LESION
    mask = found(image, prior)
    assert bool(mask[cap].all())
    assert int(mask.sum()) == image[cap].numel()


def test_partial_volume_around_the_ventricle_is_no_lesion():
    image, prior = brain()
    rim = tuple(slice(side.start - 1, side.stop + 1) for side in VENTRICLE)
    inside = image[VENTRICLE].clone()
    image[rim] = (WM + CSF) / 2 + 0.15  # as dark as a lesion
    image[VENTRICLE] = inside
    assert int(found(image, prior).sum()) == 0


@pytest.mark.parametrize(
    ("at", "level"),
    [
        (box((13, 36, 36), 2), 0.25),  # a cavity
        (box((13, 36, 36), 2), 0.97),  # hardly darker
        ((slice(13, 14), slice(30, 31), slice(20, 34)), LESION),  # a perivascular space
        (box((13, 36, 36), 0), LESION),  # a speck
        (box((9, 24, 24), 2), LESION),  # part of the cortex that is thicker than the prior has it
    ],
)
def test_what_is_no_lesion(at, level):
    image, prior = brain()
    image[at] = level
    assert int(found(image, prior).sum()) == 0


def test_a_nucleus_is_no_lesion():
    image, prior = brain()
    at = box((13, 36, 36), 2)
    image[at] = LESION
    for tissue, value in zip(prior, (0.9, 0.1, 0.0), strict=True):
        tissue[at] = value
    assert int(found(image, prior).sum()) == 0


def test_a_network_proposes_and_the_evidence_disposes():
    image, prior = brain()
    lesion, bright = box((13, 36, 36), 2), box((36, 13, 13), 2)
    image[lesion] = LESION

    def network(_: Evidence) -> torch.Tensor:
        proposal = torch.zeros(N, N, N)
        for at in (lesion, bright, box((24, 24, 24), 1)):  # the last one in the ventricle
            proposal[at] = 0.9
        return proposal

    probability = find_lesions(evidence(image, prior), network).data[0]
    assert float(probability[lesion].min()) == pytest.approx(0.9, abs=1e-5)
    assert int((probability > 0).sum()) == image[lesion].numel()


def shells(levels: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A brain whose ventricle has shells of these intensities, from the innermost on; its prior; and the shells."""
    image, prior = brain()
    inside = image[VENTRICLE].clone()
    for width, level in reversed(list(enumerate(levels, start=1))):
        image[tuple(slice(side.start - width, side.stop + width) for side in VENTRICLE)] = level
    image[VENTRICLE] = inside
    around = torch.zeros(N, N, N)
    around[tuple(slice(side.start - len(levels), side.stop + len(levels)) for side in VENTRICLE)] = 1
    around[VENTRICLE] = 0
    return image, prior, around


@pytest.mark.parametrize(
    ("levels", "is_lesion"),
    [
        ([LESION, LESION, LESION], True),
        ([0.50, LESION, LESION, LESION], True),  # a lesion behind a voxel of the ventricle's edge
        ([0.40, 0.60, LESION], False),  # from CSF to white matter step by step: the edge of the ventricle
    ],
)
def test_a_network_that_calls_the_wall_of_a_ventricle_a_lesion_is_overruled(levels, is_lesion):
    image, prior, around = shells(levels)
    probability = find_lesions(evidence(image, prior), lambda _: 0.99 * around).data[0]
    share = float((probability > LESION_FROM)[(around > 0) & (image == LESION)].float().mean())
    assert share > 0.9 if is_lesion else share < 0.1


def test_a_piece_counts_if_a_voxel_of_it_is_sure():
    probability = torch.zeros(20, 12, 12)
    probability[2:5, 2:5, 2:5] = probability[12:15, 2:5, 2:5] = 0.6
    probability[3, 3, 3] = 0.98
    kept = without_specks(probability, np.ones(3), sure=0.97) > 0
    assert bool(kept[2:5, 2:5, 2:5].all())
    assert int(kept.sum()) == 27
    assert int((without_specks(probability, np.ones(3)) > 0).sum()) == 54


def test_the_result_lies_on_the_working_grid_in_float32():
    image, prior = brain()
    volume = find_lesions(evidence(image, prior))
    assert volume.grid.matches(Grid((N, N, N), np.eye(4)))
    assert volume.data.dtype == torch.float32


def test_pieces_are_measured_in_mm():
    probability = torch.zeros(12, 12, 12)
    probability[5:7, 5, 5] = 1.0  # two voxels
    assert float(without_specks(probability, np.ones(3)).sum()) == 0
    assert float(without_specks(probability, np.full(3, 1.5)).sum()) == 2
