"""Networks that propose white-matter hypointensities: this project's, and the authors' of deep-T1-WMH.

This project's network, a small UNet, sees the cerebrum in the scan's own voxels, if these are of about 1 mm: the
intensity relative to the scan's tissue means (GM 0, WM 1, as the engine segmented them), the GM and WM priors of the
segmentation, and the position in the template, without its side. The engine's tissue map itself is no input: a lesion
has already spoilt it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vbmstat import assets
from vbmstat.assets import downloads
from vbmstat.errors import AssetError
from vbmstat.image.grid import Grid, apply_affine, resample, voxel_indices
from vbmstat.preproc.networks import deep_t1_wmh
from vbmstat.preproc.networks.cascade import resample_low_passed
from vbmstat.preproc.networks.weights import OWN, load_network, own_file, ready, shipped_folder
from vbmstat.preproc.steps.lesions import Evidence, Network

KIND, RULE = "wmh", "none"
SHIPPED_SHA256 = "a97a000216d1ca027aab9f6efc01eaa875d6f78f07ed1d71d52c5a011dd86815"  # of wmh.safetensors in the package
CONTRAST_RANGE = (-2.5, 2.0)  # of intensities (GM 0, WM 1) that the network sees; outside the brain: the lower end
# Of the shipped network, which finds too little: added to its logits, and probability that some voxel of a lesion must
# then reach. Set on rendered heads 03 and 05, of whose maps it had seen other images, and on three adults it had not
_MORE_LIKELY, _SURE = 3.2, 0.97
OWN_VOXELS_MM = (0.75, 1.35)  # voxels of which the network sees as they are; others become 1 mm
_CEREBRUM_MM = ((-66, -104, -50), (66, 70, 74))  # box in the template that holds the cerebral white matter
_CENTRE_MM, _HALF_MM = (0.0, -18.0, 10.0), (70.0, 90.0, 70.0)  # of positions, which are about -1 to 1


def seen_grid(grid: Grid) -> Grid:
    """The grid on which the network sees a brain: its own, or one of 1 mm over the same field of view."""
    size = grid.voxel_size_mm
    return grid if OWN_VOXELS_MM[0] <= size.min() and size.max() <= OWN_VOXELS_MM[1] else grid.with_voxel_size(1.0)


def positions(frame: np.ndarray, at: torch.Tensor) -> torch.Tensor:
    """The position channels of voxels, (3, …): distance from the midline, y and z in the template.

    Parameters
    ----------
    frame : ndarray, (4, 4)
        Voxel -> template mm.
    at : Tensor, (3, …)
        Voxel indices.
    """
    mm = apply_affine(frame, at)
    shape = (3, *[1] * (mm.dim() - 1))
    x, y, z = (mm - mm.new_tensor(_CENTRE_MM).reshape(shape)) / mm.new_tensor(_HALF_MM).reshape(shape)
    return torch.stack([x.abs(), y, z])


def network_inputs(evidence: Evidence) -> tuple[torch.Tensor, Grid]:
    """Intensity, GM prior, WM prior and positions, (6, X, Y, Z), around the cerebral white matter, and their grid."""
    own = evidence.brain.grid
    contrast = evidence.contrast.clamp(*CONTRAST_RANGE)
    channels = torch.cat([contrast[None] - CONTRAST_RANGE[0], evidence.prior[:2]])
    grid = seen_grid(own)
    if grid is not own:
        channels = resample_low_passed(channels, own, grid)
    channels[0] += CONTRAST_RANGE[0]
    frame = np.linalg.inv(evidence.linear) @ grid.affine
    start, stop = _box(frame, grid)
    channels = channels[(slice(None), *(slice(a, b) for a, b in zip(start, stop, strict=True)))]
    part = grid.crop(start, stop)
    at = voxel_indices(part.shape, channels.device)
    return torch.cat([channels, positions(np.linalg.inv(evidence.linear) @ part.affine, at)]), part


def _box(frame: np.ndarray, grid: Grid) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First voxel, and the one after the last, of the part of a grid that holds the cerebral white matter."""
    corners = np.array(list(product(*zip(*_CEREBRUM_MM, strict=True))), float)  # (8, 3)
    voxels = apply_affine(np.linalg.inv(frame), torch.from_numpy(corners.T)).numpy()
    low = np.clip(np.floor(voxels.min(1)), 0, np.array(grid.shape) - 1).astype(int)
    high = np.clip(np.ceil(voxels.max(1)) + 1, low + 1, grid.shape).astype(int)
    return tuple(low.tolist()), tuple(high.tolist())


@dataclass(frozen=True)
class LesionNetwork:
    """A network of `vbmstat train wmh`, ready to propose lesions; a :data:`vbmstat.preproc.steps.lesions.Network`.

    Attributes
    ----------
    network : Module
        Inputs (1, 6, X, Y, Z) -> logits.
    sha256 : dict
        File name -> hash.
    more_likely : float
        Added to the logits.
    sure : float
        Probability that some voxel of a lesion reaches.
    """

    network: nn.Module
    sha256: Mapping[str, str]
    more_likely: float = 0.0
    sure: float = 0.0

    def __call__(self, evidence: Evidence) -> torch.Tensor:
        """Probability on the working grid, (X, Y, Z); zero away from the cerebrum."""
        inputs, grid = network_inputs(evidence)
        probability = (self.network(inputs[None])[0].float() + self.more_likely).sigmoid()
        return resample(probability, grid, evidence.brain.grid)[0]


def find_network(weights: str = OWN, device: torch.device | str = "cpu") -> Network | None:
    """The network that proposes lesions, or None for the plain rule.

    Parameters
    ----------
    weights : str
        ``vbmstat`` (shipped with this package), ``deep-t1-wmh`` (fetched by ``vbmstat assets fetch deep-t1-wmh``),
        ``none`` (the plain rule), or a file: ``.safetensors`` of ``vbmstat train wmh``, else the
        authors' state dict.
    device : torch.device or str
        Where the network runs.

    Raises
    ------
    AssetError
        If the file is missing, damaged, of another kind, or not the released one.
    """
    if weights == RULE:
        return None
    if weights == OWN:
        return _own(own_file(shipped_folder(), KIND), device, SHIPPED_SHA256)
    if weights == deep_t1_wmh.NAME:
        return _published(downloads.weights_folder(weights) / deep_t1_wmh.FILE, device)
    path = Path(weights)
    return _own(path, device) if path.suffix == ".safetensors" else _published(path, device)


def _own(path: Path, device: torch.device | str, expected_sha256: str | None = None) -> Network:
    network, settings = load_network(path, device)
    if settings["kind"] != KIND:
        msg = f"{path}: expected a network of 'vbmstat train wmh', got one of kind {settings['kind']}"
        raise AssetError(msg)
    digest = assets.sha256(path)
    if expected_sha256 not in (None, digest):
        msg = f"{path}: differs from the released version; reinstall vbmstat"
        raise AssetError(msg)
    shipped = (_MORE_LIKELY, _SURE) if digest == SHIPPED_SHA256 else (0.0, 0.0)
    return LesionNetwork(network, {path.name: digest}, *shipped)


def _published(path: Path, device: torch.device | str) -> Network:
    network = ready(deep_t1_wmh.load_published(path), torch.device(device))
    return deep_t1_wmh.PublishedNetwork(network, {path.name: assets.sha256(path)})
