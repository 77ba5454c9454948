"""Networks that propose white-matter hypointensities: this project's, and the authors' of deep-T1-WMH.

This project's network sees the brain in the template's frame, in a view of 1 mm voxels around the cerebral white
matter: the intensity relative to the scan's tissue means (GM 0, WM 1, as the engine segmented them), and the warped
GM and WM priors, which tell it where it is. The engine's tissue map itself is no input: a lesion has already spoilt it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vbmstat import assets
from vbmstat.assets import downloads
from vbmstat.errors import AssetError
from vbmstat.image.grid import Grid, resample
from vbmstat.preproc.networks import deep_t1_wmh
from vbmstat.preproc.networks.cascade import resample_low_passed
from vbmstat.preproc.networks.weights import OWN, load_network, own_file, ready, shipped_folder
from vbmstat.preproc.steps.lesions import Evidence, Network

VIEW_SHAPE = (128, 168, 120)
VIEW_START_MM = (-63.5, -101.5, -48.0)  # centre of the first voxel of 1 mm, template RAS+
KIND, RULE = "wmh", "none"
SHIPPED_SHA256 = ""  # of wmh.safetensors in the package
CONTRAST_RANGE = (-7 / 3, 2.0)  # of intensities (GM 0, WM 1) that the network sees; below lies the background


def view() -> Grid:
    """The part of the template's frame that the network sees."""
    affine = np.eye(4)
    affine[:3, 3] = VIEW_START_MM
    return Grid(VIEW_SHAPE, affine)


def network_inputs(evidence: Evidence) -> torch.Tensor:
    """Intensity relative to the tissue means, GM prior and WM prior in the view, (3, X, Y, Z)."""
    grid, low = evidence.brain.grid, CONTRAST_RANGE[0]
    contrast = evidence.contrast.clamp(*CONTRAST_RANGE) - low  # the background becomes 0, as beyond the field of view
    channels = torch.cat([contrast[None], evidence.prior[:2]])
    inputs = resample_low_passed(channels, grid, view(), evidence.linear)
    inputs[0] += low
    return inputs


@dataclass(frozen=True)
class LesionNetwork:
    """A network of `vbmstat train wmh`, ready to propose lesions; a :data:`vbmstat.preproc.steps.lesions.Network`.

    Attributes
    ----------
    network : Module
        Inputs (1, 3, X, Y, Z) -> logits.
    sha256 : dict
        File name -> hash.
    """

    network: nn.Module
    sha256: Mapping[str, str]

    def __call__(self, evidence: Evidence) -> torch.Tensor:
        """Probability on the working grid, (X, Y, Z); zero outside the view."""
        probability = self.network(network_inputs(evidence)[None])[0].float().sigmoid()
        return resample(probability, view(), evidence.brain.grid, np.linalg.inv(evidence.linear))[0]


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
    return LesionNetwork(network, {path.name: digest})


def _published(path: Path, device: torch.device | str) -> Network:
    network = ready(deep_t1_wmh.load_published(path), torch.device(device))
    return deep_t1_wmh.PublishedNetwork(network, {path.name: assets.sha256(path)})
