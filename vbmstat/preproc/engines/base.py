"""What an engine is: the four parts of the pipeline that engines do differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.tissue import Segmentation
from vbmstat.preproc.steps.warp import Warp
from vbmstat.preproc.steps.working import Brain


@dataclass(frozen=True)
class Start:
    """Where the segmentation at full resolution, and later the warp, start.

    Attributes
    ----------
    prior : Tensor, (3, X, Y, Z)
        Prior probability of GM, WM, CSF on the working grid; the sum is 1.
    linear : ndarray, (4, 4)
        Refined affine: template mm -> scan mm.
    velocity : Tensor, (3, X, Y, Z)
        Coarse velocity on the warp's padded grid.
    fractions : Tensor, (3, X, Y, Z), optional
        Final GM, WM, CSF, if the engine has them already.
    """

    prior: torch.Tensor
    linear: np.ndarray
    velocity: torch.Tensor
    fractions: torch.Tensor | None = None


class Engine(Protocol):
    """A preprocessing engine: small, immutable, picklable.

    Attributes
    ----------
    name : str
        ``classic``, ``cat`` or ``deep``.
    label : str
        The name in tables; ``deep`` adds its weights.
    workload : str
        Key of the measured time and memory.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def workload(self) -> str: ...  # noqa: D102

    def parameters(self) -> dict[str, Any]:
        """What the sidecar records beside the name; raises AssetError if a package or weights are missing."""

    def denoise(self, brain: Brain) -> Brain:
        """Denoise the brain at the scan's resolution."""

    def start(self, raw: Brain, work: Brain, template: Volume, linear: np.ndarray) -> Start:
        """Priors for the segmentation from the brain as scanned and the denoised one on the working grid."""

    def segment(self, corrected: Volume, mask: torch.Tensor, start: Start) -> Segmentation:
        """Segment the bias-corrected brain."""

    def register(self, tissues: Volume, template: Volume, velocity: torch.Tensor) -> Warp:
        """Warp the template's GM and WM to those of the affinely aligned scan, from a coarse velocity."""
