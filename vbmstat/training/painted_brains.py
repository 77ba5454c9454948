"""Brains with painted lesions as samples of voxels: what the lesion network learns from.

A brain is one hemisphere (with some of the other) as engine `classic` sees it. Lesions of other people and random ones
are painted into its white matter, perivascular spaces too; then come artefacts. Its candidates' descriptors are drawn
at random, as they occur.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import torch

from vbmstat.preproc.networks.lesion_net import candidates, describe
from vbmstat.preproc.networks.lesions import CONTRAST_RANGE
from vbmstat.training import augment, painting
from vbmstat.training.cases import Case
from vbmstat.training.painting import Source

N_VOXELS = 50_000  # of a painted brain
_TO_IMAGE = 0.3  # contrast of GM and WM in an image whose WM is 1, for augmentations that expect one
_STRETCH = (0.85, 1.2)  # of intensities around WM: the tissue means are uncertain
_LOST_PRIOR = (0.0, 0.3)  # WM prior that a warp misled by the lesions gives to GM
_PAINTED, _TWICE, _BLOBS, _THREADS, _ARTEFACT = 0.85, 0.25, 0.5, 0.5, 0.08  # probabilities
_ACROSS = 8  # voxels of the other hemisphere


@dataclass(frozen=True)
class Brain:
    """A brain in the network's view.

    Attributes
    ----------
    contrast : Tensor, (X, Y, Z)
        Intensity relative to the tissue means, GM 0 and WM 1.
    prior : Tensor, (2, X, Y, Z)
        GM and WM.
    wm : Tensor, (X, Y, Z)
        The engine's WM fraction.
    lesion : Tensor, (X, Y, Z)
        Share of each voxel that is lesion.
    """

    contrast: torch.Tensor
    prior: torch.Tensor
    wm: torch.Tensor
    lesion: torch.Tensor

    def cut(self, side: slice) -> Brain:
        """A part along x."""
        return Brain(self.contrast[side], self.prior[:, side], self.wm[side], self.lesion[side])


def painted_cases(
    name: str, group: str, brain: Brain, shapes: Sequence[torch.Tensor], seeds: Sequence[int]
) -> Iterator[Case]:
    """A sample of voxels for each seed, painted anew.

    Parameters
    ----------
    name, group : str
        Of the brain.
    brain : Brain
        With or without lesions of its own.
    shapes : sequence of Tensor, (X, Y, Z)
        Lesions of other people in the same view; without them, all lesions are random ellipsoids.
    seeds : sequence of int
        Same seed and name, same sample.
    """
    for seed in seeds:
        source = torch.Generator().manual_seed(crc32(f"{name} {seed}".encode()))
        side = _side(brain.contrast.shape[0], source)
        painted = with_lesions(brain.cut(side), [shape[side] for shape in _drawn(shapes, source)], source)
        image = torch.cat([as_acquired(painted.contrast, source)[None], painted.prior])
        at = candidates(image)
        at = at[torch.randperm(len(at), generator=source)[:N_VOXELS]]
        label = (painted.lesion[tuple(at.T)] > 0.5).float()
        arrays = {"descriptors": describe(image, at).T[:, :, None, None], "lesion": label[None, :, None, None]}
        yield Case(f"{name}_{seed}", group, arrays)


def with_lesions(brain: Brain, shapes: Sequence[torch.Tensor], source: Source) -> Brain:
    """A brain with more lesions (of these shapes, or random ones, or both) and with perivascular spaces."""
    if painting.chance(_PAINTED, source):
        share = torch.zeros_like(brain.wm)
        if not shapes or painting.chance(_BLOBS, source):
            share = painting.blobs(brain.wm, source)
        for shape in shapes:
            share = torch.maximum(share, painting.moved(shape, source))
        painted = painting.paint(brain.contrast, share, brain.wm, source)
        prior = painting.misled(brain.prior, painted.share, _LOST_PRIOR, source)
        brain = Brain(painted.contrast, prior, brain.wm, torch.maximum(brain.lesion, painted.share))
    if painting.chance(_THREADS, source):
        brain = replace(brain, contrast=painting.paint_threads(brain.contrast, brain.wm * (1 - brain.lesion), source))
    return brain


def as_acquired(contrast: torch.Tensor, source: Source) -> torch.Tensor:
    """The image with other tissue means and with artefacts."""
    low, high = CONTRAST_RANGE
    stretched = 1 + (contrast - 1) * painting.uniform(_STRETCH, source)
    image = (1 + _TO_IMAGE * (stretched - 1)) * (contrast > low)
    image = augment.apply(image, augment.IN_SCANNER, _ARTEFACT, source)
    return (1 + (image - 1) / _TO_IMAGE).clamp(low, high)


def _drawn(shapes: Sequence[torch.Tensor], source: Source) -> list[torch.Tensor]:
    """The lesions of one or two random people, mirrored or not."""
    if not shapes:
        return []
    drawn = [shapes[painting.integer(len(shapes), source)] for _ in range(1 + painting.chance(_TWICE, source))]
    return [shape.flip(0) if painting.chance(0.5, source) else shape for shape in drawn]


def _side(n: int, source: Source) -> slice:
    """One hemisphere with some of the other, left or right, at half the cost of the whole."""
    size = min(n, 8 * round((n / 2 + _ACROSS) / 8))
    return slice(0, size) if painting.chance(0.5, source) else slice(n - size, n)
