"""The template that scans are registered to: CAT12's, or one of a group, whose scans end in the standard space too.

A group template lies near the standard one, on its grid. A warp to it is composed with its own warp to the standard
template, so that maps are sampled once and atlases hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from vbmstat import assets
from vbmstat.errors import AssetError, VbmstatError
from vbmstat.image import deform, io, storage
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.steps.warp import Warp

COMMAND, RECORD = "template", "template.json"
TISSUES, TO_STANDARD = "Template_4.nii.gz", "to_standard.nii.gz"  # what a registration needs of a group template


@dataclass(frozen=True)
class Template:
    """A template.

    Attributes
    ----------
    tissues : Volume, (2, X, Y, Z)
        GM and WM on the standard template's grid.
    to_standard : Displacement, optional
        Standard point -> point of this template, mm; None for the standard template.
    """

    tissues: Volume
    to_standard: Displacement | None = None

    def in_standard(self, warp: Warp) -> Warp:
        """A warp from this template's points as one from the standard template's; a composed one has no velocity."""
        if self.to_standard is None:
            return warp
        return Warp(deform.composed(self.to_standard, warp.forward), deform.composed(warp.inverse, self._from_standard))

    @cached_property
    def _from_standard(self) -> Displacement:
        """Point of this template -> standard point, mm."""
        return deform.inverse_of(self.to_standard)  # type: ignore[arg-type]


def find_template(folder: str | None, device: torch.device | str) -> Template:
    """The template in a folder of ``vbmstat template``, or the standard one, on a device.

    Raises
    ------
    AssetError
        If the folder holds no template, or not all of it.
    """
    if folder is None:
        standard = assets.template()
        return Template(Volume(standard.data.to(device), standard.grid))
    return _read(folder, template_parameters(folder)["template"]["sha256"], torch.device(device))


@cache
def _read(folder: str, sha256: str, device: torch.device) -> Template:
    """The group template of that hash; cached for all scans of a run."""
    del sha256
    try:
        tissues, to_standard = (io.read_channels(Path(folder) / name) for name in (TISSUES, TO_STANDARD))
        return Template(
            Volume(tissues.data.to(device), tissues.grid), Displacement(to_standard.data.to(device), to_standard.grid)
        )
    except (VbmstatError, ValueError) as error:
        msg = f"{folder}: the group template cannot be read ({error}); make it again"
        raise AssetError(msg) from error


def template_parameters(folder: str) -> dict[str, Any]:
    """Name and sha256 of the group template in a folder, for records.

    Raises
    ------
    AssetError
        If the folder holds no template, or files other than its record says.
    """
    path = Path(folder) / RECORD
    try:
        record = storage.read_json(path)
        known = dict(record["sha256"]) if record["command"] == COMMAND else {}
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    if not {TISSUES, TO_STANDARD} <= known.keys():
        msg = f"{path}: expected the record of a group template; give --template a folder made by vbmstat template"
        raise AssetError(msg)
    for name in (TISSUES, TO_STANDARD):
        file = path.with_name(name)
        if not file.is_file() or assets.sha256(file) != known[name]:
            msg = f"{file}: missing, or not the file that {RECORD} names; copy the whole folder again"
            raise AssetError(msg)
    return {"template": {"name": path.parent.name, "sha256": assets.sha256(path)}}
