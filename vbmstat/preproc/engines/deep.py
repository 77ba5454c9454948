"""The paper's engine: networks segment the brain in the template's frame, and a network warps it (Fisch et al. 2026).

doi:10.1038/s43588-026-00953-7. Brain extraction and affine come before, modulation and smoothing after, as in the other
engines. Deviations from the paper: the brain is resampled trilinearly, not by B-splines (1 s in place of 45 s on a
CPU); the affine is refined with the tissues that were found. Networks that this project trained on coarse voxels are
halves of hybrids: their tissues are the priors of engine `classic`'s classes, their velocity is where its warp starts.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from vbmstat.errors import ScanError
from vbmstat.grid import Grid
from vbmstat.preproc.networks import cascade, symnet
from vbmstat.preproc.networks.weights import OWN, NetworkSet, find_set
from vbmstat.preproc.steps import warp
from vbmstat.volume import Displacement, Volume

DEFAULT_WEIGHTS = OWN


@cache
def networks(name: str, device: torch.device) -> NetworkSet:
    """A set of networks, kept for all scans of a run; errors are those of :func:`find_set`."""
    return find_set(name, device)


def parameters(weights: str) -> dict[str, Any]:
    """What the sidecar records of this engine.

    Raises
    ------
    AssetError
        If the weights are not there, or not to be trusted.
    """
    sha256 = networks(weights, torch.device("cpu")).sha256
    return {"weights": Path(weights).name, "weights_sha256": dict(sorted(sha256.items()))}


def segment(
    brain: Volume, mask: torch.Tensor, linear: np.ndarray, on: Grid, template_brain: Grid, found: NetworkSet
) -> torch.Tensor:
    """GM, WM and CSF of a brain on a grid of the scan's space, (3, X, Y, Z).

    Parameters
    ----------
    brain : Volume
        Scan with its own intensities, one channel.
    mask : Tensor, (X, Y, Z), bool
        Brain in it.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    on : Grid
        Where the fractions are wanted.
    template_brain : Grid
        0.5 mm grid in which the networks' region lies.
    found : NetworkSet
        What to run.

    Raises
    ------
    ScanError
        If the brain is constant.
    """
    try:
        tissue = cascade.segment_tissue(brain, mask, linear, cascade.region_grid(template_brain), found.tissue)
    except ValueError as error:
        raise ScanError(str(error)) from error
    back = cascade.resample_low_passed(tissue.data, tissue.grid, on, np.linalg.inv(linear))
    return back.clamp(0, 1)


def register(tissues: Volume, template: Volume, found: NetworkSet) -> warp.Warp:
    """Warp and inverse from the network; optimised from there, if the set says so; by `classic`, if it has no network.

    Parameters
    ----------
    tissues, template : Volume
        GM and WM of the scan, affinely aligned, and of the template, both on the template's grid.
    found : NetworkSet
        What to run.
    """
    if found.warp is None:
        return warp.register_both_ways(tissues, template)
    velocities = _velocities(tissues, template, found)
    spacing = torch.as_tensor(template.grid.voxel_size_mm, dtype=torch.float32).to(tissues.data.device)
    spacing = spacing.reshape(3, 1, 1, 1)
    if found.refine_warp:  # v - w is the whole velocity, up to the commutator of the halves
        whole = (velocities.forward - velocities.backward)[0] * spacing
        return warp.register_both_ways(tissues, template, start=warp.pad(whole))
    warps = symnet.compose_warps(velocities)
    forward, inverse = (Displacement(found[0] * spacing, template.grid) for found in (warps.forward, warps.backward))
    return warp.Warp(forward, inverse)


def _velocities(tissues: Volume, template: Volume, found: NetworkSet) -> symnet.Velocities:
    """Half velocities on the template's grid, in its voxels."""
    grid = template.grid
    view = grid if found.warp_shape is None else cascade.view_grid(grid, found.warp_shape)
    scan, fixed = (cascade.resample_low_passed(volume.data, grid, view)[None] for volume in (tissues, template))
    with torch.autocast("cuda", torch.float16, enabled=scan.device.type == "cuda"):
        velocities = symnet.predict(found.warp, scan, fixed)  # type: ignore[arg-type]
    ratio = torch.as_tensor(view.voxel_size_mm / grid.voxel_size_mm, dtype=torch.float32, device=scan.device)
    scaled = (velocity.float() * ratio.reshape(3, 1, 1, 1) for velocity in velocities)
    return symnet.Velocities(
        *(functional.interpolate(v, grid.shape, mode="trilinear", align_corners=True) for v in scaled)
    )
