"""The paper's engine: networks segment the brain in the template's frame and warp it (Fisch et al. 2026).

doi:10.1038/s43588-026-00953-7. Deviations from the paper: the brain is resampled trilinearly, not by B-splines (1 s
instead of 45 s on a CPU); the linear registration is refined with the segmented tissues. Networks trained on coarse
voxels, such as this project's own, form a hybrid with `classic`: their tissues are the priors of its segmentation,
their velocity is the start of its registration.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from vbmstat import assets
from vbmstat.errors import AssetError, ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.engines.classic import Classic, Start
from vbmstat.preproc.networks import cascade, symnet
from vbmstat.preproc.networks.weights import OWN, NetworkSet, find_set, is_published
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.linear import refine_with_tissues
from vbmstat.preproc.steps.priors import nuclei_as_gm
from vbmstat.preproc.steps.tissue import Segmentation
from vbmstat.preproc.steps.working import Brain

_LEAST_PRIOR = 0.02  # of each tissue, if the networks' fractions are the priors of the bias field


@cache
def networks(name: str, device: torch.device) -> NetworkSet:
    """A set of networks, cached for all scans of a run; errors as in :func:`find_set`."""
    return find_set(name, device)


@dataclass(frozen=True)
class Deep(Classic):
    """Engine ``deep``.

    Attributes
    ----------
    weights : str
        ``vbmstat``, ``deepmriprep`` or a folder; see :func:`vbmstat.preproc.networks.weights.find_set`.
    """

    name: ClassVar[str] = "deep"
    takes_lesion_mask: ClassVar[bool] = False
    weights: str = OWN

    @property
    def has_velocity(self) -> bool:
        """Only with networks whose velocity is refined: the published one composes two halves."""
        if self.weights == OWN or is_published(self.weights):
            return self.weights == OWN
        try:
            network_set = networks(self.weights, torch.device("cpu"))
        except AssetError:
            return True  # the plan of the run reports it
        return network_set.warp is None or network_set.refine_warp

    @property
    def takes_priors(self) -> bool:
        """Only with coarse networks: the maps of others are final."""
        return networks(self.weights, torch.device("cpu")).tissue.is_coarse

    @property
    def label(self) -> str:
        """The name in tables, with the weights."""
        return f"{self.name}:{Path(self.weights).name}"

    @property
    def workload(self) -> str:
        """Key of the time and memory estimates: other weights than this project's may be a cascade of 0.5 mm."""
        return self.name if self.weights == OWN else f"{self.name} cascade"

    def parameters(self) -> dict[str, Any]:
        """Name and hashes of the weights; raises AssetError if they are missing or not trusted."""
        sha256 = networks(self.weights, torch.device("cpu")).sha256
        return {"weights": Path(self.weights).name, "weights_sha256": dict(sorted(sha256.items()))}

    def denoise(self, brain: Brain) -> Brain:
        """As `classic` for coarse networks; others need the brain as scanned."""
        is_coarse = networks(self.weights, brain.image.data.device).tissue.is_coarse
        return super().denoise(brain) if is_coarse else brain

    def start(self, raw: Brain, work: Brain, template: Volume, linear: np.ndarray) -> Start:
        """The networks' tissues: priors if they are coarse, else the final fractions."""
        grid, device = work.image.grid, raw.image.data.device
        network_set = networks(self.weights, device)
        fractions = segment(raw, linear, grid, network_set) * work.mask
        linear = refine_with_tissues(Volume(fractions[:2], grid), template, linear)
        still = torch.zeros(3, *warp.PADDED_SHAPE, device=device)
        if network_set.tissue.is_coarse:
            prior = nuclei_as_gm(fractions, template, linear, grid) + _LEAST_PRIOR
            return Start(prior / prior.sum(0), linear, still)
        prior = fractions + _LEAST_PRIOR
        return Start(prior / prior.sum(0), linear, still, fractions)

    def segment(
        self, corrected: Volume, mask: torch.Tensor, start: Start, weights: torch.Tensor | None = None
    ) -> Segmentation:
        """The classes of `classic`, unless the networks' maps are final."""
        if start.fractions is None:
            return super().segment(corrected, mask, start, weights)
        return Segmentation(start.fractions, _tissue_means(corrected.data, start.fractions), float("nan"))

    def register(self, tissues: Volume, template: Volume, velocity: torch.Tensor) -> warp.Warp:
        """Registration by the network; it has no use for the velocity, which is zero."""
        del velocity
        return register(tissues, template, networks(self.weights, tissues.data.device))


def _tissue_means(image: torch.Tensor, fractions: torch.Tensor) -> torch.Tensor:
    """Mean intensity of CSF, GM and WM."""
    pure = fractions**4  # mixed voxels say little about a tissue's mean
    return ((pure * image).sum((1, 2, 3)) / pure.sum((1, 2, 3)).clamp(min=1e-6))[[2, 0, 1]]


def segment(brain: Brain, linear: np.ndarray, on: Grid, network_set: NetworkSet) -> torch.Tensor:
    """GM, WM and CSF of a brain on a grid of the scan's space, (3, X, Y, Z).

    Parameters
    ----------
    brain : Brain
        With the scan's own intensities.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    on : Grid
        Grid of the result.
    network_set : NetworkSet
        Networks to run.

    Raises
    ------
    ScanError
        If the brain is constant.
    """
    try:
        region = cascade.region_grid(assets.template_brain().grid)
        tissue = cascade.segment_tissue(brain.image, brain.mask, linear, region, network_set.tissue)
    except ValueError as error:
        raise ScanError(str(error)) from error
    back = cascade.resample_low_passed(tissue.data, tissue.grid, on, np.linalg.inv(linear))
    return back.clamp(0, 1)


def register(tissues: Volume, template: Volume, network_set: NetworkSet) -> warp.Warp:
    """Warp and inverse by the network, refined by optimisation if the set asks for it; without a network as `classic`.

    Parameters
    ----------
    tissues, template : Volume
        GM and WM of the scan, linearly aligned, and of the template, both on the template's grid.
    network_set : NetworkSet
        Networks to run.
    """
    if network_set.warp is None:
        return warp.register_both_ways(tissues, template)
    velocities = _velocities(tissues, template, network_set)
    spacing = torch.as_tensor(template.grid.voxel_size_mm, dtype=torch.float32).to(tissues.data.device)
    spacing = spacing.reshape(3, 1, 1, 1)
    if network_set.refine_warp:  # v - w is the whole velocity, up to the commutator of the halves
        whole = (velocities.forward - velocities.backward)[0] * spacing
        return warp.register_both_ways(tissues, template, start=warp.pad(whole))
    warps = symnet.compose_warps(velocities)
    forward, inverse = (Displacement(one[0] * spacing, template.grid) for one in (warps.forward, warps.backward))
    return warp.Warp(forward, inverse)


def _velocities(tissues: Volume, template: Volume, network_set: NetworkSet) -> symnet.Velocities:
    """Half velocities on the template's grid, in its voxels."""
    grid = template.grid
    view = grid if network_set.warp_shape is None else cascade.view_grid(grid, network_set.warp_shape)
    scan, fixed = (cascade.resample_low_passed(volume.data, grid, view)[None] for volume in (tissues, template))
    with torch.autocast("cuda", torch.float16, enabled=scan.device.type == "cuda"):
        velocities = symnet.predict(network_set.warp, scan, fixed)  # type: ignore[arg-type]
    ratio = torch.as_tensor(view.voxel_size_mm / grid.voxel_size_mm, dtype=torch.float32, device=scan.device)
    scaled = (velocity.float() * ratio.reshape(3, 1, 1, 1) for velocity in velocities)
    return symnet.Velocities(
        *(functional.interpolate(v, grid.shape, mode="trilinear", align_corners=True) for v in scaled)
    )
