"""How each kind of image of a scan is stored: type, step of its values, space; the only writer of them.

Values are rounded to a step far below their error, which makes files a third as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vbmstat.files.outputs import MAP_STEP
from vbmstat.files.warps import VELOCITY_STEP_MM, packed
from vbmstat.image import io
from vbmstat.image.volume import Volume


@dataclass(frozen=True)
class _Stored:
    """Type on disk, step of the values (the slope of integer types) and space."""

    dtype: str
    step: float
    space: str = "scanner"


_IN_TEMPLATE = _Stored("float32", MAP_STEP, "mni")
_FRACTION = _Stored("uint8", 1 / 255)  # as CAT12
_RATE = _Stored("float32", 2.0**-22, "mni")  # mL a year in a voxel of 0.001 to 0.008 mL; 1 % of it is 1e-5 and more
_OTHERS = {
    "p0": _Stored("uint8", 3 / 255), "p1": _FRACTION, "p2": _FRACTION, "p3": _FRACTION, "p7": _FRACTION,
    "mask7": _Stored("uint8", 1.0), "m": _Stored("int16", 1 / 128), "avg": _Stored("int16", 1 / 128),
    "rate1": _RATE, "rate2": _RATE,
    "iy": _Stored("float32", 1 / 256), "y": _Stored("float32", 1 / 256, "mni"),  # mm
    "velocity": _Stored("int16", VELOCITY_STEP_MM, "mni"),
}  # fmt: skip


def write_image(path: Path, kind: str, volume: Volume) -> None:
    """Write an image of a scan as its kind is stored."""
    how = _OTHERS.get(kind, _IN_TEMPLATE)
    volume = packed(volume) if kind == "velocity" else volume
    counts = volume.data.div(how.step).round_()
    if how.dtype == "float32":
        volume, step = Volume(counts.mul_(how.step), volume.grid), None
    else:
        limits = torch.iinfo(getattr(torch, how.dtype))
        volume, step = Volume(counts.clamp_(limits.min, limits.max), volume.grid), how.step
    io.write_volume(path, volume, dtype=how.dtype, space=how.space, step=step, description=f"vbmstat {kind}")
