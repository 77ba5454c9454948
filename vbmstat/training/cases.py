"""A file of training cases: network inputs and targets, compressed in one .npz.

Arrays are stored as integers with a fixed step, so that 40 brains at 1.5 mm take 40 MB; the file contains no code. A
tissue case has `t1w` (the brain's 99.5th percentile is 1), `p0` and, if known, `no_gm`, all (1, X, Y, Z) on a view of
the region. A registration case, on the template's grid or a coarser one, has `scan` (GM and WM, 2 channels) and
`velocity` (the forward half, in voxels of that grid; stored at 3 mm if the grid is finer). The cases of lesions and of
tracts are described in :mod:`vbmstat.training.lesions` and :mod:`vbmstat.training.tracts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
import torch

from vbmstat.errors import VbmstatError
from vbmstat.image.storage import atomic_path

_STEP = {
    "t1w": 1 / 100, "p0": 1 / 80, "no_gm": 1.0, "scan": 1 / 250, "velocity": 1 / 200,
    "contrast": 1 / 250, "prior": 1 / 250, "lesion": 1 / 250, "wm": 1 / 250, "frame": 1e-5, "shown": 1.0,
    "directions": 1 / 1000, "peaks": 1 / 1000, "tracts": 1.0, "tracts_diffusion": 1.0, "to_peaks": 1e-6,
}  # fmt: skip
_TYPE: dict[str, type[np.integer]] = {  # the others are never negative: uint8
    "velocity": np.int16, "contrast": np.int16, "frame": np.int32, "directions": np.int16, "peaks": np.int16,
    "to_peaks": np.int32,
}  # fmt: skip
_HEAD = "cases"


@dataclass(frozen=True)
class Case:
    """A training case.

    Attributes
    ----------
    name : str
        Unique in its file.
    group : str
        Dataset or site; a group is never split between folds.
    arrays : dict of str to Tensor
        Arrays described at the head of the module.
    """

    name: str
    group: str
    arrays: Mapping[str, torch.Tensor]


def write_cases(path: Path, cases: Iterable[Case], settings: Mapping[str, Any]) -> None:
    """Write cases atomically, one at a time in memory; `settings` has their ``kind`` and the ``shape`` of images."""
    names: list[str] = []
    groups: list[str] = []
    with atomic_path(path) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
        for case in cases:
            if case.name in names:
                msg = f"{path}: expected cases with unique names, got {case.name} twice"
                raise VbmstatError(msg)
            names.append(case.name)
            groups.append(case.group)
            for key, values in case.arrays.items():
                with archive.open(f"{case.name}.{key}.npy", "w", force_zip64=True) as stream:
                    np.lib.format.write_array(stream, _packed(key, values), allow_pickle=False)
        if not names:
            msg = f"{path}: expected at least one case, got none"
            raise VbmstatError(msg)
        head = json.dumps({"names": names, "groups": groups, "settings": dict(settings)})
        with archive.open(f"{_HEAD}.npy", "w") as stream:
            np.lib.format.write_array(stream, np.array(head), allow_pickle=False)


class CaseFile:
    """Cases of a file, each read on demand.

    Parameters
    ----------
    path : Path
        File of :func:`write_cases`.

    Raises
    ------
    VbmstatError
        If the file is missing or not a file of cases.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as archive:
                self._entries = [entry for entry in archive.files if entry != _HEAD]
                head = json.loads(str(archive[_HEAD]))
            self.names: list[str] = head["names"]
            self.groups: list[str] = head["groups"]
            self.settings: dict[str, Any] = head["settings"]
        except (OSError, KeyError, ValueError, TypeError, BadZipFile) as error:
            why = "no such file" if not path.is_file() else f"not a file of training cases ({type(error).__name__})"
            msg = f"{path}: {why}; make one with 'vbmstat train prepare', prepare-wmh or prepare-tracts"
            raise VbmstatError(msg) from error

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images."""
        x, y, z = (int(n) for n in self.settings["shape"])
        return x, y, z

    def split(self, group: str) -> tuple[CaseFile, list[str]]:
        """The file without the cases of one group, and the names of those."""
        rest = copy(self)
        kept = [(name, own) for name, own in zip(self.names, self.groups, strict=True) if own != group]
        rest.names, rest.groups = [name for name, _ in kept], [own for _, own in kept]
        return rest, [name for name in self.names if name not in set(rest.names)]

    def load(self, name: str, *keys: str) -> dict[str, torch.Tensor]:
        """Read the arrays of a case, float32; all by default."""
        own = [key for case, _, key in (entry.rpartition(".") for entry in self._entries) if case == name]
        with np.load(self.path, allow_pickle=False) as archive:
            packed = {key: archive[f"{name}.{key}"] for key in own if not keys or key in keys}
        return {key: torch.from_numpy(values.astype(np.float32)) * _STEP[key] for key, values in packed.items()}


def _packed(key: str, values: torch.Tensor) -> np.ndarray:
    kind = _TYPE.get(key, np.uint8)
    limits = np.iinfo(kind)
    return np.round(values.cpu().numpy() / _STEP[key]).clip(limits.min, limits.max).astype(kind)
