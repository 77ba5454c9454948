"""The 2-D U-Net that outlines tracts on slices, and the merging of three orientations.

As in TractSeg (Wasserthal, Neher & Maier-Hein 2018, doi:10.1016/j.neuroimage.2018.07.070), one network sees slices
along x, y and z, and the three probabilities of a voxel are averaged. Tracts overlap, so each has a sigmoid of its own.
The student sees the direction of the structure tensor (3 channels), the teacher the peaks of diffusion MRI (9); they
differ in the first layer only. Unlike TractSeg's, the width is 16 instead of 64 by default, and batch norm follows each
convolution instead of dropout at the bottom, so that it trains in minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vbmstat.assets.tensors import read_tensors
from vbmstat.errors import AssetError, ScanError
from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks.unet import UNet
from vbmstat.tracts.structure_tensor import Widths, fibre_directions

STUDENT, TEACHER = "tracts", "tracts-teacher"
N_CHANNELS = {STUDENT: 3, TEACHER: 9}
WIDTH, DEPTH = 16, 4
_RARE = -4.0  # logit of a tract before training: most voxels have none
_BATCH = 8  # slices


def build_tract_network(settings: Mapping[str, Any]) -> UNet:
    """A network with random weights from its settings: ``kind``, ``tracts`` (names), ``n_channels``, ``depth``."""
    width, depth = int(settings.get("n_channels", WIDTH)), int(settings.get("depth", DEPTH))
    sizes = (N_CHANNELS[settings["kind"]], len(settings["tracts"]), width, depth)
    network = UNet(*sizes, norm=nn.BatchNorm2d, n_dims=2)
    nn.init.constant_(network.get_parameter("last.bias"), _RARE)
    return network


def load_tract_network(
    path: Path, kind: str = STUDENT, device: torch.device | str = "cpu"
) -> tuple[UNet, dict[str, Any]]:
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


def merge_orientations(network: nn.Module, image: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Mean of the probabilities that a network gives on the slices along x, y and z.

    Parameters
    ----------
    network : Module
        Slices (B, C, A, B) -> logits (B, n_tracts, A, B).
    image : Tensor, (C, X, Y, Z)
        Input of all slices.
    dtype : torch.dtype
        Of the result; float16 is exact to 0.001 and halves the memory.

    Returns
    -------
    Tensor, (n_tracts, X, Y, Z)
    """
    with torch.no_grad():
        n_tracts = network(image[None, :, 0]).shape[1]
        total = image.new_zeros(n_tracts, *image.shape[1:], dtype=dtype)
        for axis in (1, 2, 3):
            slices, sums = image.movedim(axis, 0).split(_BATCH), total.movedim(axis, 0).split(_BATCH)  # views
            for part, sum_so_far in zip(slices, sums, strict=True):
                sum_so_far.add_(network(part).float().sigmoid().div_(3))
        return total


def cube_around(volume: Volume, voxel_mm: float, side: int) -> Grid:
    """The cubic grid that a network sees: `side` voxels of `voxel_mm`, centred on the box of what is not 0."""
    middle = np.mean(_box(volume), axis=0)
    affine = volume.grid.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.diag(voxel_mm / volume.grid.voxel_size_mm)
    centre = (volume.grid.affine @ np.append(middle, 1.0))[:3]
    affine[:3, 3] = centre - affine[:3, :3] @ np.full(3, (side - 1) / 2)
    return Grid((side, side, side), affine)


def needed_side(volume: Volume, voxel_mm: float) -> int:
    """Voxels of the smallest cube around what is not 0 that cuts none of it."""
    first, last = _box(volume)
    return int(np.ceil(((last - first + 1) * volume.grid.voxel_size_mm).max() / voxel_mm - 1e-6))


def directions_on(grid: Grid, t1w: Volume, widths: Widths) -> torch.Tensor:
    """Input of the student, (3, X, Y, Z): fibre directions of a T1w brain (0 outside), low-passed to a grid."""
    anti_alias = np.maximum(grid.voxel_size_mm / t1w.grid.voxel_size_mm - 1, 0)
    coarse = resample(smooth(t1w.data, anti_alias, 2.0), t1w.grid, grid)
    inside = resample((t1w.data != 0).float(), t1w.grid, grid) > 0.5  # the blur must not widen the brain
    return fibre_directions(Volume(coarse * inside, grid), widths).data


def predict_tracts(t1w: Volume, weights: Path, grid: Grid) -> Iterator[torch.Tensor]:
    """Probability of each tract in turn, (X, Y, Z), float32, on a grid.

    Parameters
    ----------
    t1w : Volume, (1, A, B, C)
        T1w brain on any grid, any intensity unit; 0 outside the brain, as after brain extraction.
    weights : Path
        Student of ``vbmstat train tracts``: its file, or the folder of the run.
    grid : Grid
        Where to evaluate; the order is that of the network's settings (TractSeg's 72 if trained on its references).

    Raises
    ------
    AssetError
        If the file is missing, damaged or of another kind.
    """
    network, settings = load_tract_network(weights)
    voxel_mm = float(settings["voxel_mm"])
    cube = cube_around(t1w, voxel_mm, max(int(settings["shape"][0]), needed_side(t1w, voxel_mm)))
    found = merge_orientations(network, directions_on(cube, t1w, Widths(*settings["widths"])), torch.float16)
    for row in range(len(found)):
        yield resample(found[row : row + 1].float(), cube, grid)[0]


def _box(volume: Volume) -> np.ndarray:
    """First and last voxel along each axis that is not 0, (2, 3)."""
    inside = (volume.data != 0).any(0)
    if not inside.any():
        msg = "expected a brain, got an image of zeros"
        raise ScanError(msg)
    at = [inside.movedim(axis, 0).flatten(1).any(1).nonzero() for axis in range(3)]
    return np.array([[float(one.min()), float(one.max())] for one in at]).T
