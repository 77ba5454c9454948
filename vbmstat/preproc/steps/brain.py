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
from scipy import ndimage
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
_SHELL_MM, _N_SHELLS = 2.0, 11  # of the depth below the surface, to 22 mm
_BONE = 0.1  # share by which a head is darker there than above
_NEGATIVE = 0.1  # share of negative values; interpolation leaves fewer
_CENTRED = 0.1  # standard deviations
Network = Callable[[torch.Tensor], torch.Tensor]


def is_stripped(t1w: Volume) -> bool:
    """Whether a scan (one channel, any intensity unit) is skull-stripped.

    It is if most of its field of view has one constant background value, and the rest, with holes filled, has the
    volume of a brain, not of a head, and no bone: a child's head may be as small as a brain.
    """
    foreground = _foreground(t1w)
    if foreground is None:
        return False
    volume_ml = float(foreground.sum()) * t1w.grid.voxel_volume_ml
    return MIN_BRAIN_ML < volume_ml < MAX_STRIPPED_ML and not _gets_darker_inwards(t1w, foreground)


def _gets_darker_inwards(t1w: Volume, foreground: np.ndarray) -> bool:
    """Whether an image is darker somewhere below its surface than nearer to it, as bone below skin.

    From CSF over GM to WM a brain only gets brighter: in means over shells of 2 mm, 7 stripped scans of three datasets
    fall by at most 1 %, and a head by 19 % and more.
    """
    step = np.maximum(np.round(_SHELL_MM / t1w.grid.voxel_size_mm), 1).astype(int)
    every = tuple(slice(None, None, int(n)) for n in step)
    inside = foreground[every]
    depth_mm = ndimage.distance_transform_edt(np.pad(inside, 1), t1w.grid.voxel_size_mm * step)[1:-1, 1:-1, 1:-1]
    shell = (depth_mm[inside] / _SHELL_MM).astype(int)
    values = t1w.data[0].cpu().numpy()[every][inside]
    total = np.bincount(shell, values - values.min(), _N_SHELLS)[1:_N_SHELLS]
    profile = total / np.maximum(np.bincount(shell, minlength=_N_SHELLS)[1:_N_SHELLS], 1)
    return bool((profile < (1 - _BONE) * np.maximum.accumulate(profile)).any())


def from_zero(t1w: Volume) -> torch.Tensor:
    """An image's values from 0 at no signal, (1, X, Y, Z): standardised, centred and raised scans start elsewhere.

    A constant background is 0, whatever its value was. The other values change in two cases alone (not in a wrapped
    image, whose brightest values are negative):

    * The background is constant and far from 0, and the values begin there: they are counted from it.
    * More than a tenth of the values are negative, and they are centred on the background (z-scores of a stripped
      brain) or the air reaches the lowest (a centred MP2RAGE): they are counted from the lowest.
    """
    data, background = t1w.data, _constant_background(t1w)
    zero = _no_signal(data, background)
    shifted = (data - zero).clamp(min=0) if zero else data
    if background is None or zero == background == 0:
        return shifted
    return torch.where(data == background, 0.0, shifted)


def _no_signal(data: torch.Tensor, background: float | None) -> float:
    """The value that stands for no signal in an image, (1, X, Y, Z); 0 where nothing speaks against it."""
    few = data[0, ::3, ::3, ::3].flatten().double()
    few = few if background is None else few[few != background]
    if not len(few):
        return 0.0
    lowest, highest = (float(q) for q in few.quantile(torch.tensor([0.001, 0.999]).to(few)))
    spread = highest - lowest
    if (
        background is not None
        and abs(background) > 0.25 * spread
        and -0.1 * spread < lowest - background < 0.5 * spread
    ):
        return background
    if float((few < 0).double().mean()) <= _NEGATIVE:
        return 0.0
    if background is None:
        return lowest if _least_at_the_edge(data[0]) < lowest + 0.05 * spread else 0.0
    is_centred = abs(float(few.mean()) - background) < _CENTRED * float(few.std())
    return float(data[data != background].min()) if is_centred else 0.0


def _least_at_the_edge(data: torch.Tensor) -> float:
    """First percentile of the six outer faces of an image, (X, Y, Z)."""
    faces = [data.select(dim, at)[::2, ::2].flatten() for dim in range(3) for at in (0, -1)]
    return float(torch.cat(faces).double().quantile(0.01))


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
    background = _constant_background(t1w)
    return None if background is None else _largest_piece(t1w.data[0].cpu().numpy() != background)


def _constant_background(t1w: Volume) -> float | None:
    """The value of most of the corners and of 40 % of the voxels, if there is one."""
    data = t1w.data[0]
    corners = data[:: data.shape[0] - 1, :: data.shape[1] - 1, :: data.shape[2] - 1]
    background = corners.median()
    is_constant = (corners == background).float().mean() >= 0.5 and (data == background).float().mean() >= 0.4
    return float(background) if is_constant else None


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
