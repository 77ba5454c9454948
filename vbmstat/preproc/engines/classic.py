"""The project's own engine: non-local means, adaptive segmentation with warped priors, diffeomorphic registration.

A draft segmentation at 2 mm refines the linear registration and warps the priors; its velocity is the start of the
registration. Other engines are sub-classes that override some methods: an engine is a small, immutable, picklable
object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from vbmstat.image import deform
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps import bias, cleanup, denoise, linear, priors, tissue, warp, working
from vbmstat.preproc.steps.tissue import Segmentation
from vbmstat.preproc.steps.working import Brain

_DRAFT_MM = 2.0


@dataclass(frozen=True)
class Start:
    """Start of the segmentation at full resolution and of the warp.

    Attributes
    ----------
    prior : Tensor, (3, X, Y, Z)
        Prior probability of GM, WM, CSF on the working grid; the sum is 1.
    linear : ndarray, (4, 4)
        Refined: template mm -> scan mm.
    velocity : Tensor, (3, X, Y, Z)
        Coarse velocity on the warp's padded grid.
    fractions : Tensor, (3, X, Y, Z), optional
        Final GM, WM, CSF, if the engine already has them.
    """

    prior: torch.Tensor
    linear: np.ndarray
    velocity: torch.Tensor
    fractions: torch.Tensor | None = None


@dataclass(frozen=True)
class Classic:
    """Engine ``classic``, and what the other engines share."""

    name: ClassVar[str] = "classic"
    takes_lesion_mask: ClassVar[bool] = True  # whether its fits can leave voxels out

    @property
    def has_velocity(self) -> bool:
        """Whether its warps are flows of one velocity."""
        return True

    @property
    def takes_priors(self) -> bool:
        """Whether its tissues depend on given priors, so that time points of a person can share them."""
        return True

    @property
    def label(self) -> str:
        """The name in tables; ``deep`` adds its weights."""
        return self.name

    @property
    def workload(self) -> str:
        """Key of the time and memory estimates."""
        return self.name

    def parameters(self) -> dict[str, Any]:
        """Parameters for the sidecar, beside the spec; raises AssetError if a package or weights are missing."""
        return {}

    def denoise(self, brain: Brain) -> Brain:
        """Denoise the brain at the scan's resolution by non-local means, with the noise estimated in it."""
        image = brain.image.data[0]
        clean = denoise.denoise(image, denoise.noise_sigma(image, brain.mask))
        return replace(brain, image=Volume(clean[None], brain.image.grid))

    def start(self, raw: Brain, work: Brain, template: Volume, linear: np.ndarray) -> Start:
        """The template's priors, warped by a draft segmentation; `raw` is on the scan's grid."""
        del raw
        linear, velocity = _draft(work, template, linear)
        return Start(warped_priors(template, velocity, linear, work.image.grid), linear, velocity)

    def segment(
        self, corrected: Volume, mask: torch.Tensor, start: Start, weights: torch.Tensor | None = None
    ) -> Segmentation:
        """Segment the bias-corrected brain and reassign implausible tissue; the classes are fitted with weights."""
        return without_implausible(tissue.segment(corrected, mask, start.prior, weights), start.prior)

    def register(self, tissues: Volume, template: Volume, velocity: torch.Tensor) -> warp.Warp:
        """Warp the template's GM and WM to the linearly aligned scan's, from a coarse velocity."""
        return warp.register_both_ways(tissues, template, velocity)


def without_implausible(segmentation: Segmentation, prior: torch.Tensor) -> Segmentation:
    """A segmentation after :func:`vbmstat.preproc.steps.cleanup.plausible`."""
    return replace(segmentation, fractions=cleanup.plausible(segmentation.fractions, prior))


def _draft(work: Brain, template: Volume, matrix: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Refined linear matrix and coarse velocity from two rounds of segmentation and warp at 2 mm."""
    size = np.maximum(_DRAFT_MM, work.image.grid.voxel_size_mm)
    draft = working.resample_brain(work, work.image.grid.with_voxel_size(size))
    velocity: torch.Tensor | None = None
    for _ in range(2):
        prior = warped_priors(template, velocity, matrix, draft.image.grid)
        field = bias.bias_field(draft.image, draft.mask, prior, draft.weights)
        corrected = Volume(draft.image.data / field, draft.image.grid)
        fractions = Volume(tissue.segment(corrected, draft.mask, prior, draft.weights).fractions, draft.image.grid)
        if velocity is None:
            known = working.gm_wm_to_fit(fractions, draft.weights)
            matrix = linear.refine_with_tissues(Volume(known, fractions.grid), template, matrix)
        aligned = working.align_to_template(fractions, template, matrix, draft.weights)
        velocity = warp.register(aligned, template, start=velocity, finest=False)
    return matrix, velocity  # type: ignore[return-value]


def warped_priors(template: Volume, velocity: torch.Tensor | None, matrix: np.ndarray, grid: Grid) -> torch.Tensor:
    """Priors of GM, WM, CSF on a scan's grid, by a coarse velocity, or by the linear matrix alone."""
    coordinates = None
    if velocity is not None:
        coordinates = deform.inverse_deformation(warp.displacement(-velocity, template.grid), matrix, grid)
    return priors.tissue_priors(template, matrix, grid, coordinates)
