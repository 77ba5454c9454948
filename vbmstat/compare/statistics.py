"""Read statistic maps of this program, SPM and CAT12."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vbmstat.errors import ScanError
from vbmstat.files.naming import image_stem
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume

_SPM = re.compile(r"^SPM\{(?P<kind>[TFZ])(?:_\[(?P<df>[\d.,\s]+)\])?\}(?:\s*-\s*contrast \d+:\s*(?P<name>.*))?")
_MEDIAN = re.compile(r"^median ?(?P<kind>[tF])\b.*over \d+ subsets[^:]*:\s*(?P<name>.*)")
_INTENTS = {"t test": "t", "f test": "F", "z score": "z"}
_OURS = re.compile(r"^contrast-(?P<label>.+)_stat-(?P<stat>t|F|mediant|medianF)_statmap$")
_SPM_FILES = ("spmT_*.nii*", "spmF_*.nii*", "spmT_*.img", "spmF_*.img")
_STATISTICS = {"t": "t", "F": "F", "mediant": "median t", "medianF": "median F"}


@dataclass(frozen=True)
class Statistic:
    """A statistic map with the information in its header."""

    path: Path
    name: str  # the contrast, or the file's stem if the header has none
    kind: str  # ``t``, ``F``, ``z``, ``median t``, ``median F`` or ``unknown``
    df: tuple[float, ...]  # degrees of freedom, empty if none are given
    volume: Volume  # (1, X, Y, Z)
    # (X, Y, Z), bool: the analysis mask beside it; else finite, non-zero voxels (SPM and CAT12 write NaN or 0 outside)
    mask: torch.Tensor


def read_statistic(path: Path, mask: Path | None = None) -> Statistic:
    """Read a statistic map with its degrees of freedom and mask.

    Parameters
    ----------
    path : Path
        A map of this program, SPM, CAT12 or any other with 0 or NaN outside its mask.
    mask : Path, optional
        Its mask; by default ``mask.nii(.gz)`` beside it if on the same grid.

    Raises
    ------
    ScanError
        If a file cannot be read, a given mask is on another grid, or no voxel is left.
    """
    volume = io.read_volume(path)
    kind, df, name = describe(*io.read_statistic_header(path))
    where = torch.isfinite(volume.data[0])
    inside = _mask_of(path, mask, volume)
    where &= volume.data[0] != 0 if inside is None else inside
    if not where.any():
        msg = f"{path}: expected a statistic map, but it is 0 or NaN everywhere{' in the mask' if mask else ''}"
        raise ScanError(msg)
    return Statistic(path, name or image_stem(path), kind, df, volume, where)


def masked(statistic: Statistic) -> Volume:
    """The map with NaN outside its mask, for figures."""
    return Volume(statistic.volume.data.where(statistic.mask[None], torch.nan), statistic.volume.grid)


def describe(intent: str, parameters: Sequence[float], description: str) -> tuple[str, tuple[float, ...], str]:
    """Kind, degrees of freedom and contrast from a header; SPM's description takes precedence over the intent.

    Examples
    --------
    >>> describe("none", (), "SPM{T_[95.0]} - contrast 1: age")
    ('t', (95.0,), 'age')
    >>> describe("f test", (2.0, 40.0), "")
    ('F', (2.0, 40.0), '')
    >>> describe("estimate", (), "mediant over 100 subsets (no p): age")[0]
    'median t'
    """
    spm = _SPM.match(description)
    if spm:
        kind = {"T": "t"}.get(spm["kind"], spm["kind"].replace("Z", "z"))
        df = tuple(float(part) for part in (spm["df"] or "").split(",") if part.strip())
        return kind, df, (spm["name"] or "").strip()
    median = _MEDIAN.match(description)
    if median:
        return f"median {median['kind']}", (), median["name"].strip()
    kind = _INTENTS.get(intent, "unknown")
    return kind, tuple(parameters) if kind in ("t", "F") else (), ""


def _mask_of(path: Path, given: Path | None, volume: Volume) -> torch.Tensor | None:
    beside = [path.parent / name for name in ("mask.nii", "mask.nii.gz", "mask.img")]
    source = given or next((candidate for candidate in beside if candidate.is_file()), None)
    if source is None:
        return None
    mask = io.read_volume(source)
    if mask.grid.matches(volume.grid):
        return mask.data[0] > 0.5
    if given is None:
        return None
    msg = f"{given}: grid {mask.grid} differs from {volume.grid} of {path}; give a mask on the grid of the maps"
    raise ScanError(msg)


def read_record(folder: Path) -> dict[str, Any] | None:
    """Content of ``glm.json``; None if there is none."""
    try:
        record = storage.read_json(folder / "glm.json")
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def find_statistics(folder: Path) -> dict[tuple[str, str], Path]:
    """Statistic maps of a result folder by contrast and statistic (t, F, median t, median F); empty if there are none.

    This program writes ``contrast-NAME_stat-STAT_statmap.nii.gz``, SPM and CAT12 ``spmT_0001.nii`` with the contrast in
    the header's description.
    """
    record = read_record(folder) or {}
    names = {entry["label"]: entry["name"] for entry in record.get("contrasts", [])}
    maps: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("contrast-*_statmap.nii*")):
        match = _OURS.match(image_stem(path))
        if match:
            maps[str(names.get(match["label"], match["label"])), _STATISTICS[match["stat"]]] = path
    if maps:
        return maps
    for path in sorted(path for pattern in _SPM_FILES for path in folder.glob(pattern)):
        kind, _, name = describe(*io.read_statistic_header(path))
        key = (name or image_stem(path), kind)
        if key in maps:
            msg = f"{folder}: two maps of {key[0]!r}: {maps[key].name} and {path.name}; rename a contrast or move one"
            raise ScanError(msg)
        maps[key] = path
    return maps
