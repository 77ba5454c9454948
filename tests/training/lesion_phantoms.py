"""Small brains with lesions (dark blobs in noisy white matter) labelled on voxels or thick slices, rightly or not."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.training.conftest import ball
from vbmstat.training.cases import Case, write_cases

SHAPE = (24, 24, 24)
SLICE = 6  # voxels


def truth(number: int) -> torch.Tensor:
    """Lesions of a person: two to four balls, (X, Y, Z), 0 or 1."""
    source = torch.Generator().manual_seed(number)
    lesion = torch.zeros(SHAPE)
    for _ in range(2 + number % 3):
        centre = 5 + 14 * torch.rand(3, generator=source)
        radius = 2.0 + 2.5 * float(torch.rand(1, generator=source))
        lesion = torch.maximum(lesion, ball(radius, tuple(centre.tolist()), SHAPE))
    return (lesion > 0.5).float()


def person(number: int, noise: float = 0.5) -> dict[str, torch.Tensor]:
    """A case whose image shows every lesion, at an intensity of its own, and CSF at its border."""
    source = torch.Generator().manual_seed(1000 + number)
    lesion = truth(number)
    level = 0.2 + 0.4 * torch.rand(1, generator=source)
    contrast = 1 - (1 - level) * lesion + noise * torch.randn(SHAPE, generator=source)
    contrast[:2] = -1.0
    prior = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
    return {"contrast": contrast[None], "prior": prior, "lesion": lesion[None]}


def on_slices(lesion: torch.Tensor) -> torch.Tensor:
    """What a rater marks on thick slices: voxels that are mostly lesion, (X, Y, Z) -> (X, Y, Z / SLICE)."""
    return (lesion.unflatten(2, (-1, SLICE)).mean(3) > 0.5).float()


def nearest(label: torch.Tensor) -> torch.Tensor:
    """Thick labels upsampled to the image's voxels."""
    return label.repeat_interleave(SLICE, 2)


def wrong(number: int) -> torch.Tensor:
    """The label of a bad rating: another person's lesions."""
    return truth(500 + number)


def write(path: Path, labels: dict[int, torch.Tensor]) -> Path:
    """A file of cases with given labels (X, Y, slices)."""
    cases = (Case(f"person{n}", f"person{n}", {**person(n), "lesion": label[None]}) for n, label in labels.items())
    write_cases(path, cases, {"kind": "wmh", "shape": list(SHAPE)})
    return path


def dice(network: torch.nn.Module, numbers: range) -> float:
    """Mean Dice of a network with the true lesions of people, on voxels."""
    network.eval()
    total = 0.0
    with torch.inference_mode():
        for number in numbers:
            case = person(number)
            inputs = torch.cat([case["contrast"], case["prior"], torch.zeros(3, *SHAPE)])
            predicted = network(inputs[None])[0, 0] > 0
            lesion = case["lesion"][0] > 0.5
            total += 2 * float((predicted & lesion).sum()) / float(predicted.sum() + lesion.sum())
    return total / len(numbers)
