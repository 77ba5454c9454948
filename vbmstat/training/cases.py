"""A file of training cases: images and what a network should say of them, compressed, in one .npz.

Arrays are stored as whole numbers with a fixed step, which keeps 40 brains of 1.5 mm in 40 MB; nothing in the file is
code. Of a tissue case: `t1w` (the 99.5th percentile of the brain is 1), `p0`, and, if known, `no_gm`, all
(1, X, Y, Z) on a view of the region. Of a registration case, on the template's grid or a coarser one: `scan` (GM and
WM, 2 channels) and `velocity` (the forward half, in voxels of that grid, at 3 mm where the grid is finer).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
import torch

from vbmstat.errors import VbmstatError
from vbmstat.image.storage import atomic_path

_STEP = {"t1w": 1 / 100, "p0": 1 / 80, "no_gm": 1.0, "scan": 1 / 250, "velocity": 1 / 200}
_TYPE = {"velocity": np.int16}  # the others never below 0: uint8
_HEAD = "cases"


@dataclass(frozen=True)
class Case:
    """A training case.

    Attributes
    ----------
    name : str
        Unique in its file.
    group : str
        Dataset or site; groups are not split over folds.
    arrays : dict of str to Tensor
        As the module describes.
    """

    name: str
    group: str
    arrays: Mapping[str, torch.Tensor]


def write_cases(path: Path, cases: Iterable[Case], settings: Mapping[str, Any]) -> None:
    """Write cases, one at a time in memory, whole or not at all; `settings` says what grid they are on."""
    names: list[str] = []
    groups: list[str] = []
    with atomic_path(path) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
        for case in cases:
            if case.name in names:
                msg = f"{path}: expected cases with names of their own, got {case.name} twice"
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
    """Cases of a file, read when they are asked for.

    Parameters
    ----------
    path : Path
        Of :func:`write_cases`.

    Raises
    ------
    VbmstatError
        If it is missing or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._archive = np.load(path, allow_pickle=False)
            head = json.loads(str(self._archive[_HEAD]))
            self.names: list[str] = head["names"]
            self.groups: list[str] = head["groups"]
            self.settings: dict[str, Any] = head["settings"]
        except (OSError, KeyError, ValueError, TypeError, BadZipFile) as error:
            why = "no such file" if not path.is_file() else f"not a file of training cases ({type(error).__name__})"
            msg = f"{path}: {why}; make one with 'vbmstat train prepare'"
            raise VbmstatError(msg) from error

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Of the images."""
        x, y, z = (int(n) for n in self.settings["shape"])
        return x, y, z

    def load(self, name: str) -> dict[str, torch.Tensor]:
        """Arrays of a case, float32."""
        keys = [entry for entry in self._archive.files if entry.startswith(f"{name}.") and entry != _HEAD]
        return {entry.rsplit(".", 1)[1]: self._unpacked(entry) for entry in keys}

    def _unpacked(self, entry: str) -> torch.Tensor:
        key = entry.rsplit(".", 1)[1]
        return torch.from_numpy(self._archive[entry].astype(np.float32)) * _STEP[key]


def _packed(key: str, values: torch.Tensor) -> np.ndarray:
    kind = _TYPE.get(key, np.uint8)
    limits = np.iinfo(kind)
    return np.round(values.cpu().numpy() / _STEP[key]).clip(limits.min, limits.max).astype(kind)
