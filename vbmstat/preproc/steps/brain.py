"""Brain extraction with deepbet's networks (Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845).

The two TorchScript networks are read from the deepbet wheel after their sha256 is verified. A skull-stripped scan is
recognised and keeps its own brain, as the networks were trained on whole heads.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, partial

import cc3d
import fill_voids
import numpy as np
import torch
from torch.nn import functional

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.image.volume import Volume
from vbmstat.preproc.steps.linknet import brain_probability

_BOX_SHAPE = (128, 128, 128)  # the networks' training sizes
_BRAIN_SHAPE = (256, 256, 256)
_BOX_MARGIN = 0.1
_BOX_OCCUPANCY = 0.02  # share of brain in a slice from which it belongs to the box
_LEAST_FILLED = 0.75  # of the field of view along an axis; below, the margins are padding
MAX_STRIPPED_ML = 2400.0  # whole heads have 3 L and more, brains with meninges less than this
MIN_BRAIN_ML = 400.0
Network = Callable[[torch.Tensor], torch.Tensor]


def is_stripped(t1w: Volume) -> bool:
    """Whether a scan (one channel, any intensity unit) is skull-stripped.

    It is if most of its field of view has one constant background value, and the rest, with holes filled, has the
    volume of a brain, not of a head.
    """
    foreground = _foreground(t1w)
    if foreground is None:
        return False
    volume_ml = float(foreground.sum()) * t1w.grid.voxel_volume_ml
    return MIN_BRAIN_ML < volume_ml < MAX_STRIPPED_ML


def stripped_mask(t1w: Volume) -> torch.Tensor:
    """Brain mask (X, Y, Z), bool, of a skull-stripped scan: the largest piece of its foreground.

    Raises
    ------
    ScanError
        If the scan has no constant background.
    """
    foreground = _foreground(t1w)
    if foreground is None:
        msg = "expected a skull-stripped scan with a constant background, but there is none"
        raise ScanError(msg)
    return torch.from_numpy(foreground)


def _foreground(t1w: Volume) -> np.ndarray | None:
    data = t1w.data[0].cpu().numpy()
    corners = data[:: data.shape[0] - 1, :: data.shape[1] - 1, :: data.shape[2] - 1]
    background = np.median(corners)
    if (corners == background).mean() < 0.5 or (data == background).mean() < 0.4:
        return None
    return _largest_piece(data != background)


def extract_brain(t1w: Volume, device: torch.device) -> torch.Tensor:
    """Brain mask of a whole head: the intracranial space with its CSF.

    Parameters
    ----------
    t1w : Volume
        One channel, RAS+.
    device : torch.device
        Device of the networks.

    Returns
    -------
    Tensor, (X, Y, Z), bool, on the CPU

    Raises
    ------
    ScanError
        If no brain is found, or its volume is implausible.
    """
    window = _without_padding(t1w.data[0].cpu().numpy())
    start, stop = zip(*((part.start, part.stop) for part in window), strict=True)
    inner = Volume(t1w.data[(slice(None), *window)].contiguous(), t1w.grid.crop(start, stop))
    mask = torch.zeros(t1w.grid.shape, dtype=torch.bool)
    mask[window] = _extract(inner, device)
    return mask


def _without_padding(data: np.ndarray) -> tuple[slice, slice, slice]:
    """The part of an image inside wide constant margins, which would make the head too small for the networks."""
    content = data != data[0, 0, 0]
    window = []
    for axis, n in enumerate(data.shape):
        filled = np.flatnonzero(content.any(axis=tuple(a for a in range(3) if a != axis)))
        is_padded = len(filled) > 0 and filled[-1] + 1 - filled[0] < _LEAST_FILLED * n
        window.append(slice(int(filled[0]), int(filled[-1]) + 1) if is_padded else slice(0, n))
    return tuple(window)  # type: ignore[return-value]


def _extract(t1w: Volume, device: torch.device) -> torch.Tensor:
    """Brain mask of an image that the head fills, as in the networks' training."""
    box_net, brain_net = _networks(str(device))
    image = t1w.data[None].to(device)  # (1, 1, X, Y, Z)
    small = functional.interpolate(image, _BOX_SHAPE, mode="nearest-exact")
    low, high = (float(q) for q in torch.quantile(small.flatten(), torch.tensor([0.005, 0.995], device=device)))
    with torch.inference_mode():
        rough = box_net(_normalised(small, low, high))[0, 0].cpu().numpy() > 0.5
        if not rough.any():
            msg = "no brain found; expected a T1-weighted scan of a head or a stripped brain"
            raise ScanError(msg)
        box = _bounding_box(_largest_piece(rough, filled=False), t1w.grid.shape)
        inside = functional.interpolate(image[(..., *box)], _BRAIN_SHAPE, mode="nearest-exact")
        probability = brain_net(_normalised(inside, low, high))
        probability = functional.interpolate(probability, image[(..., *box)].shape[2:], mode="trilinear")
    mask = np.zeros(t1w.grid.shape, bool)
    mask[box] = probability[0, 0].cpu().numpy() > 0.5
    mask = _largest_piece(mask)
    volume_ml = float(mask.sum()) * t1w.grid.voxel_volume_ml
    if not MIN_BRAIN_ML < volume_ml < MAX_STRIPPED_ML:
        msg = (
            f"found a brain of {volume_ml:.0f} mL, expected {MIN_BRAIN_ML:.0f} to {MAX_STRIPPED_ML:.0f} mL; "
            "give a T1-weighted scan of a whole brain, and check the voxel size in its header"
        )
        raise ScanError(msg)
    return torch.from_numpy(mask)


@cache
def _networks(device: str) -> tuple[Network, Network]:
    """Those that find the brain's box, and the brain in it: normalised image -> probability, (1, 1, X, Y, Z)."""
    box, inside = (
        partial(brain_probability, network_weights(name, device)) for name in ("deepbet-box", "deepbet-brain")
    )
    return box, inside


def network_weights(name: str, device: str) -> dict[str, torch.Tensor]:
    """Weights of one of deepbet's networks, on a device."""
    with warnings.catch_warnings():  # deepbet's networks are TorchScript, which torch deprecates
        warnings.filterwarnings("ignore", r"`torch\.jit\.load`", DeprecationWarning)
        weights: dict[str, torch.Tensor] = torch.jit.load(str(assets.asset_path(name)), device).state_dict()
    return weights


def _normalised(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    scaled = ((image - low) / max(high - low, 1e-6)).clamp(0, 1)
    return 0.226 * (scaled - scaled.mean()) / scaled.std() + 0.449


def _largest_piece(mask: np.ndarray, filled: bool = True) -> np.ndarray:
    labels = cc3d.connected_components(mask, connectivity=6)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    piece: np.ndarray = labels == sizes.argmax()
    if filled:
        piece = fill_voids.fill(piece)
    return piece


def _bounding_box(rough: np.ndarray, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    box = []
    for axis, n in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        inside = np.flatnonzero(rough.mean(axis=others) > _BOX_OCCUPANCY)
        if not len(inside):
            msg = "no brain found; expected a T1-weighted scan of a head or a stripped brain"
            raise ScanError(msg)
        scale = n / rough.shape[axis]
        first, last = inside[0] * scale, (inside[-1] + 1) * scale
        margin = _BOX_MARGIN * (last - first)
        box.append(slice(max(0, math.floor(first - margin)), min(n, math.ceil(last + margin))))
    return tuple(box)  # type: ignore[return-value]
