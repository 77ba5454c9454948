"""Patches of brains with painted lesions: what the lesion network learns from.

A brain is what engine `classic` knows of a scan, in the scan's own voxels. A patch of it gets the brain's own lesions,
if the image does not show them yet, lesions of other people and random ones, all in white matter; then perivascular
spaces, which are no lesions, and what scanners add.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from vbmstat.image.grid import apply_affine, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.preproc.networks.lesions import CONTRAST_RANGE, positions
from vbmstat.training import painting
from vbmstat.training.painting import Source

# Probabilities: that the own lesions are painted, that a patch is around them, and of each other change
_OWN, _AROUND_OWN, _OTHERS, _OTHERS_BESIDE_OWN = 0.85, 0.8, 0.6, 0.25
_SHAPES, _TWO_SHAPES, _BLOBS, _THREADS, _PALE, _PALE_TRACT = 0.7, 0.4, 0.5, 0.3, 0.3, 0.4
_NOISE, _BLUR, _SHADE, _MIRRORED = 0.5, 0.2, 0.4, 0.5
_STRETCH, _SHIFT = (0.85, 1.2), (-0.08, 0.08)  # of intensities: the tissue means are uncertain
_NOISE_SD, _BLUR_VOXELS, _SHADE_SD, _SHADE_SPACING = (0.0, 0.12), (0.8, 1.8), 0.06, 24
_LIKE_A_LESION = 0.6  # probability that a patch without own lesions is around healthy tissue that looks like one
_OFF_CENTRE = 12  # voxels between a patch's centre and the voxel for which it was drawn, at most
_IS_WM, _IS_BRAIN = 0.3, -2.3  # WM fraction; intensity
_WM_EXPECTED, _DARK = 0.5, 0.6  # prior of WM from which, and intensity up to which, tissue looks like a lesion


class Shapes(NamedTuple):
    """What is painted, on :func:`vbmstat.training.painting.shape_grid`: lesions of people, and tracts."""

    lesions: Sequence[torch.Tensor] = ()
    tracts: Sequence[torch.Tensor] = ()


@dataclass(frozen=True)
class Brain:
    """A brain, or a patch of it.

    Attributes
    ----------
    contrast : Tensor, (X, Y, Z)
        Intensity relative to the tissue means, GM 0 and WM 1.
    prior : Tensor, (2, X, Y, Z)
        GM and WM.
    wm : Tensor, (X, Y, Z)
        The engine's WM fraction.
    lesion : Tensor, (X, Y, Z)
        Share of each voxel that is one of the brain's own lesions.
    frame : ndarray, (4, 4)
        Voxel -> template mm.
    shown : bool
        Whether the image shows those lesions.
    """

    contrast: torch.Tensor
    prior: torch.Tensor
    wm: torch.Tensor
    lesion: torch.Tensor
    frame: np.ndarray
    shown: bool

    def cut(self, start: Sequence[int], size: int) -> Brain:
        """A cube from its first voxel on; shorter where the brain ends."""
        part = tuple(slice(a, a + size) for a in start)
        frame = self.frame.copy()
        frame[:3, 3] += self.frame[:3, :3] @ np.asarray(start)
        images = (self.contrast[part], self.prior[(slice(None), *part)], self.wm[part], self.lesion[part])
        return Brain(*images, frame, self.shown)

    @property
    def at_mm(self) -> torch.Tensor:
        """Template position of each voxel, (3, X, Y, Z)."""
        return apply_affine(self.frame, voxel_indices(self.contrast.shape))

    @property
    def inputs(self) -> torch.Tensor:
        """What the network sees, (6, X, Y, Z)."""
        at = voxel_indices(self.contrast.shape)
        return torch.cat([self.contrast[None].clamp(*CONTRAST_RANGE), self.prior, positions(self.frame, at)])

    def arrays(self) -> dict[str, torch.Tensor]:
        """As stored in a file of cases."""
        numbers = {"frame": torch.from_numpy(self.frame), "shown": torch.tensor([float(self.shown)])}
        images = {"contrast": self.contrast[None], "prior": self.prior, "wm": self.wm[None]}
        return {**images, "lesion": self.lesion[None], **numbers}

    @staticmethod
    def from_arrays(arrays: Mapping[str, torch.Tensor]) -> Brain:
        """The brain of a case."""
        images = (arrays["contrast"][0], arrays["prior"], arrays["wm"][0], arrays["lesion"][0])
        return Brain(*images, arrays["frame"].double().numpy(), bool(arrays["shown"][0] > 0.5))


def painted_patches(
    brain: Brain, shapes: Shapes, size: int, source: Source
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Random patches without end: inputs (6, n, n, n) and lesions (1, n, n, n), 0 or 1, of n = `size` voxels.

    Parameters
    ----------
    brain : Brain
        With or without lesions of its own.
    shapes : Shapes
        Lesions of other people, and tracts, to be painted.
    size : int
        Edge of the cubes, voxels.
    source : Generator
        Same generator, same patches.
    """
    lesions, white, alike = brain.lesion > 0.5, brain.wm > _IS_WM, looks_like_lesion(brain)
    lesions, white, alike = (mask.nonzero() for mask in (lesions, white, alike))
    while True:
        own = len(lesions) > 0 and (brain.shown or painting.chance(_OWN, source))
        likely = (_AROUND_OWN, lesions) if own else (_LIKE_A_LESION, alike)
        places = likely[1] if painting.chance(likely[0], source) else white
        part = brain.cut(_start(places, brain.contrast.shape, size, source), size)
        inside = part.contrast > _IS_BRAIN
        part, label = with_lesions(part, own, shapes, source)
        part = replace(part, contrast=as_acquired(part.contrast, inside, source))
        inputs, lesion = part.inputs, (label * inside)[None]
        padding = [end for n in reversed(part.contrast.shape) for end in (0, size - n)]
        inputs, lesion = functional.pad(inputs, padding), functional.pad(lesion, padding)
        yield (inputs.flip(1), lesion.flip(1)) if painting.chance(_MIRRORED, source) else (inputs, lesion)


def looks_like_lesion(brain: Brain) -> torch.Tensor:
    """Where tissue is dark and the template has white matter: beside ventricles and cortex, (X, Y, Z), bool."""
    return (brain.prior[1] > _WM_EXPECTED) & (brain.contrast < _DARK) & (brain.contrast > _IS_BRAIN)


def with_lesions(part: Brain, own: bool, shapes: Shapes, source: Source) -> tuple[Brain, torch.Tensor]:
    """A part of a brain with its own lesions, if asked, and others in white matter; and the mask of all, 0 or 1."""
    label = part.lesion * own
    if painting.chance(_PALE, source):
        part = replace(part, contrast=painting.paint_bands(part.contrast, part.wm * (1 - label), source))
    if shapes.tracts and painting.chance(_PALE_TRACT, source):
        tract = painting.moved(shapes.tracts[painting.integer(len(shapes.tracts), source)], part.at_mm, source)
        part = replace(part, contrast=painting.paint_tract(part.contrast, tract, part.wm * (1 - label), source))
    if own and not part.shown:
        part = replace(part, contrast=painting.paint(part.contrast, part.lesion, source))
    if painting.chance(_OTHERS_BESIDE_OWN if own else _OTHERS, source):
        share = _others(part, shapes.lesions, source) * painting.in_white_matter(part.wm)
        part = replace(part, contrast=painting.paint(part.contrast, share, source))
        label = torch.maximum(label, share)
    label = (label > 0.5).float()
    if painting.chance(_THREADS, source):
        part = replace(part, contrast=painting.paint_threads(part.contrast, part.wm * (1 - label), source))
    return part, label


def as_acquired(contrast: torch.Tensor, inside: torch.Tensor, source: Source) -> torch.Tensor:
    """The image with other tissue means, noise, blur and shading inside the brain."""
    contrast = 1 + (contrast - 1) * painting.uniform(_STRETCH, source) + painting.uniform(_SHIFT, source)
    if painting.chance(_NOISE, source):
        noise = torch.randn(contrast.shape, generator=source)
        contrast = contrast + inside * noise * painting.uniform(_NOISE_SD, source)
    if painting.chance(_BLUR, source):
        contrast = smooth(contrast[None], np.full(3, painting.uniform(_BLUR_VOXELS, source)), 2.5)[0]
    if painting.chance(_SHADE, source):
        contrast = contrast + inside * _SHADE_SD * painting.noise(contrast.shape, _SHADE_SPACING, source)
    return contrast


def _others(part: Brain, shapes: Sequence[torch.Tensor], source: Source) -> torch.Tensor:
    """Lesions of one or two other people, random ellipsoids, or both, as a share of each voxel."""
    share = torch.zeros_like(part.wm)
    if shapes and painting.chance(_SHAPES, source):
        for _ in range(1 + painting.chance(_TWO_SHAPES, source)):
            shape = shapes[painting.integer(len(shapes), source)]
            share = torch.maximum(share, painting.moved(shape, part.at_mm, source))
    if not shapes or painting.chance(_BLOBS, source):
        share = torch.maximum(share, painting.blobs(part.wm, source))
    return share


def _start(places: torch.Tensor, shape: torch.Size, size: int, source: Source) -> list[int]:
    """First voxel of a patch near one of the places, (n, 3), or in the middle."""
    centre = places[painting.integer(len(places), source)] if len(places) else torch.tensor(shape) // 2
    centre = centre + torch.randint(-_OFF_CENTRE, _OFF_CENTRE + 1, (3,), generator=source)
    last = (torch.tensor(shape) - size).clamp(min=0)
    start: list[int] = torch.minimum((centre - size // 2).clamp(min=0), last).tolist()
    return start
