"""The 2-D U-Net that outlines tracts on slices, and the merging of three orientations.

As in TractSeg (Wasserthal, Neher & Maier-Hein 2018, doi:10.1016/j.neuroimage.2018.07.070), one network sees slices
along x, y and z, and the three probabilities of a voxel are averaged. Tracts overlap, so each has a sigmoid of its own.
The student sees the direction of the structure tensor (3 channels), the teacher the peaks of diffusion MRI (9); they
differ in the first layer only. Unlike TractSeg's, the width is 16 instead of 64 by default, and batch norm follows each
convolution instead of dropout at the bottom, so that it trains in minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vbmstat.assets.tensors import read_tensors
from vbmstat.errors import AssetError
from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.tracts.structure_tensor import Widths, fibre_directions

STUDENT, TEACHER = "tracts", "tracts-teacher"
N_CHANNELS = {STUDENT: 3, TEACHER: 9}
WIDTH, DEPTH = 16, 4
_RARE = -4.0  # logit of a tract before training: most voxels have none
_BATCH = 32  # slices


class SliceUNet(nn.Module):
    """2-D U-Net; pads slices of any shape with zeros to a multiple of ``2 ** depth``.

    Parameters
    ----------
    in_channels, n_tracts : int
        Channels of input and output.
    width : int
        Channels of the finest level; each deeper level has twice as many.
    depth : int
        Number of poolings.
    """

    def __init__(self, in_channels: int, n_tracts: int, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        down = zip([in_channels, *widths[:-1]], widths, strict=True)
        self.down = nn.ModuleList([_two_convolutions(before, after) for before, after in down])
        up = list(zip(widths[1:], widths[:-1], strict=True))[::-1]  # coarse to fine
        self.enlarge = nn.ModuleList([nn.ConvTranspose2d(below, here, 2, stride=2) for below, here in up])
        self.up = nn.ModuleList([_two_convolutions(2 * here, here) for _, here in up])
        self.last = nn.Conv2d(width, n_tracts, 1)
        nn.init.constant_(self.last.bias, _RARE)  # type: ignore[arg-type]
        self.depth = depth

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Logits, (B, n_tracts, A, B), of slices (B, in_channels, A, B)."""
        rows, columns = slices.shape[2:]
        features = functional.pad(slices, [0, -columns % 2**self.depth, 0, -rows % 2**self.depth])
        kept = []
        for level, convolve in enumerate(self.down):
            features = convolve(features if level == 0 else functional.max_pool2d(features, 2))
            kept.append(features)
        kept.pop()
        for enlarge, convolve in zip(self.enlarge, self.up, strict=True):
            features = convolve(torch.cat([kept.pop(), enlarge(features)], dim=1))
        out: torch.Tensor = self.last(features)
        return out[:, :, :rows, :columns]


def build_tract_network(settings: Mapping[str, Any]) -> SliceUNet:
    """A network with random weights from its settings: ``kind``, ``tracts`` (names), ``n_channels``, ``depth``."""
    width, depth = int(settings.get("n_channels", WIDTH)), int(settings.get("depth", DEPTH))
    return SliceUNet(N_CHANNELS[settings["kind"]], len(settings["tracts"]), width, depth)


def load_tract_network(
    path: Path, kind: str = STUDENT, device: torch.device | str = "cpu"
) -> tuple[SliceUNet, dict[str, Any]]:
    """A trained network and its settings.

    Parameters
    ----------
    path : Path
        File of ``vbmstat train tracts``, or the folder of its run.
    kind : {"tracts", "tracts-teacher"}
        Student or teacher.
    device : torch.device or str
        Where the network runs.

    Raises
    ------
    AssetError
        If the file is missing, damaged or of another kind.
    """
    path = path / f"{kind}.safetensors" if path.is_dir() else path
    tensors, settings = read_tensors(path, "a file written by 'vbmstat train tracts'")
    if settings.get("kind") != kind:
        msg = f"{path}: expected a network of kind {kind}, got {settings.get('kind')}"
        raise AssetError(msg)
    try:
        network = build_tract_network(settings)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        msg = f"{path}: the network's weights do not fit its settings ({type(error).__name__}); train it again"
        raise AssetError(msg) from error
    return network.eval().requires_grad_(False).to(device), settings


def merge_orientations(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Mean of the probabilities that a network gives on the slices along x, y and z.

    Parameters
    ----------
    network : Module
        Slices (B, C, A, B) -> logits (B, n_tracts, A, B).
    image : Tensor, (C, X, Y, Z)
        Input of all slices.

    Returns
    -------
    Tensor, (n_tracts, X, Y, Z), float32
    """
    with torch.no_grad():
        total = _along(network, image, 1)
        for axis in (2, 3):
            total += _along(network, image, axis)
        return total.div_(3)


def cube_around(volume: Volume, voxel_mm: float, side: int) -> Grid:
    """The cubic grid that a network sees: `side` voxels of `voxel_mm`, centred on the box of what is not 0."""
    inside = (volume.data != 0).any(0)
    ends = [inside.any(1).any(1), inside.any(0).any(1), inside.any(0).any(0)]
    box = [line.nonzero() for line in ends]
    if not len(box[0]):
        msg = "expected a brain, got an image of zeros"
        raise ValueError(msg)
    middle = np.array([float(at.min() + at.max()) / 2 for at in box])
    scale = np.diag(voxel_mm / volume.grid.voxel_size_mm)
    affine = volume.grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ scale
    centre = (volume.grid.affine @ np.append(middle, 1.0))[:3]
    affine[:3, 3] = centre - affine[:3, :3] @ np.full(3, (side - 1) / 2)
    return Grid((side, side, side), affine)


def directions_on(grid: Grid, t1w: Volume, widths: Widths) -> torch.Tensor:
    """Input of the student, (3, X, Y, Z): fibre directions of a T1w brain (0 outside), low-passed to a grid."""
    anti_alias = np.maximum(grid.voxel_size_mm / t1w.grid.voxel_size_mm - 1, 0)
    coarse = resample(smooth(t1w.data, anti_alias, 2.0), t1w.grid, grid)
    inside = resample((t1w.data != 0).float(), t1w.grid, grid) > 0.5  # the blur must not widen the brain
    return fibre_directions(Volume(coarse * inside, grid), widths).data


def predict_tracts(t1w: Volume, weights: Path) -> Volume:
    """Probability of each tract.

    Parameters
    ----------
    t1w : Volume, (1, X, Y, Z)
        T1w brain on any grid, any intensity unit; 0 outside the brain, as after brain extraction.
    weights : Path
        Student of ``vbmstat train tracts``: its file, or the folder of the run.

    Returns
    -------
    Volume, (n_tracts, X, Y, Z), float32
        On the scan's grid, in the order of the network's settings (TractSeg's 72 if trained on its references).

    Raises
    ------
    AssetError
        If the file is missing, damaged or of another kind.
    """
    network, settings = load_tract_network(weights)
    cube = cube_around(t1w, float(settings["voxel_mm"]), int(settings["shape"][0]))
    image = directions_on(cube, t1w, Widths(*settings["widths"]))
    return Volume(resample(merge_orientations(network, image), cube, t1w.grid), t1w.grid)


def _along(network: nn.Module, image: torch.Tensor, axis: int) -> torch.Tensor:
    """Probabilities on the slices along one axis."""
    slices = image.movedim(axis, 0).split(_BATCH)
    return torch.cat([network(part).float().sigmoid() for part in slices]).movedim(0, axis)


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True),
    )  # fmt: skip
