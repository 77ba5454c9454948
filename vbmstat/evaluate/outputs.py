"""Find tissue maps, warped maps and deformations by scan in the output folder of any supported program.

Supported file names: vbmstat (CAT12 style and BIDS derivatives), CAT12, SPM (``c1*``, ``wc1*``, ``mwc1*``, ``y_*``),
T1Prep and deepmriprep (``NAME_p0``, ``NAME_mwp1``).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

import numpy as np
import torch

from vbmstat.errors import ScanError
from vbmstat.files import map_names
from vbmstat.files.folders import files_below, is_same_file
from vbmstat.files.warps import ScanWarp
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.metrics import accuracy

_IMAGE = r"\.nii(?:\.gz)?$"
_NAMES = {"GM": 1, "WM": 2, "CSF": 3}
_MNI = "MNI152NLin2009cAsym"
# kind -> file name patterns; group ``n`` is the tissue's number or name
_PATTERNS = {
    kind: tuple(re.compile(pattern) for pattern in patterns)
    for kind, patterns in {
        "label": (
            rf"^p0(?P<stem>.+){_IMAGE}", rf"^(?P<stem>.+)_p0{_IMAGE}", rf"^(?P<stem>.+)_desc-tissue_dseg{_IMAGE}",
        ),
        "tissue": (
            rf"^[pc](?P<n>[123])(?P<stem>.+){_IMAGE}", rf"^(?P<stem>.+)_p(?P<n>[123]){_IMAGE}",
            rf"^(?P<stem>(?:(?!_space-).)+)_label-(?P<n>GM|WM|CSF)_probseg{_IMAGE}",
        ),
        "warped": (
            rf"^w[pc](?P<n>[12])(?P<stem>.+){_IMAGE}", rf"^(?P<stem>.+)_wp(?P<n>[12]){_IMAGE}",
            rf"^(?P<stem>.+)_space-[^_]+_label-(?P<n>GM|WM)_probseg{_IMAGE}",
        ),
        "field": (rf"^y_(?P<stem>.+){_IMAGE}", rf"^(?P<stem>.+)_from-{_MNI}_to-T1w_mode-image_xfm{_IMAGE}"),
        "velocity": (rf"^u_(?P<stem>.+){_IMAGE}", rf"^(?P<stem>.+)_space-{_MNI}_desc-velocity_xfm{_IMAGE}"),
        "sidecar": (r"^vbmstat_(?P<stem>.+)\.json$", r"^(?P<stem>.+)_desc-vbmstat_provenance\.json$"),
    }.items()
}  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """Files of an output folder by kind and scan.

    A scan's key is the stem of its file name without ``_T1w``, which BIDS derivatives drop.
    """

    name: str  # of the folder in tables
    # label maps (``p0``), deformations (``y_``), velocities and provenance sidecars
    label: dict[str, Path] = dataclass_field(default_factory=dict)
    field: dict[str, Path] = dataclass_field(default_factory=dict)
    velocity: dict[str, Path] = dataclass_field(default_factory=dict)
    sidecar: dict[str, Path] = dataclass_field(default_factory=dict)
    # GM (1), WM (2) and CSF (3) in the scan's space
    tissue: dict[int, dict[str, Path]] = dataclass_field(default_factory=lambda: {1: {}, 2: {}, 3: {}})
    # GM (1) and WM (2) in template space
    warped: dict[int, dict[str, Path]] = dataclass_field(default_factory=lambda: {1: {}, 2: {}})
    modulated: dict[int, dict[str, Path]] = dataclass_field(default_factory=lambda: {1: {}, 2: {}})
    stems: dict[str, str] = dataclass_field(default_factory=dict)  # scan key to the stem in its file names

    def warp(self, scan: str) -> ScanWarp:
        """A scan's warp, which may be unknown."""
        found = {"y": self.field, "velocity": self.velocity, "sidecar": self.sidecar, "iy": {}}
        return ScanWarp({kind: by_scan.get(scan, Path()) for kind, by_scan in found.items()})

    def has_all(self, kind: str, scan: str) -> bool:
        """Whether a scan has the ``"tissue"``, ``"warped"`` or ``"modulated"`` maps of all tissues."""
        return all(scan in paths for paths in getattr(self, kind).values())


@dataclass(frozen=True)
class TissueMaps:
    """Tissues of a scan on its own grid."""

    labels: torch.Tensor  # (1, X, Y, Z): 0 background, 1 CSF, 2 GM, 3 WM
    fractions: dict[str, torch.Tensor]  # (1, X, Y, Z), by tissue: ``gm``, ``wm``, ``csf``
    grid: Grid
    path: Path


def find_outputs(folder: Path, name: str | None = None) -> Outputs:
    """Find the files of an output folder by kind and scan.

    Raises
    ------
    ScanError
        If the folder does not exist, holds no outputs, or has two files of one kind for a scan.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder; expected a folder with outputs of vbmstat or CAT12 (mri/p0*, mri/mwp1*)"
        raise ScanError(msg)
    outputs = Outputs(name or folder.resolve().name)
    for path in files_below(folder):
        for kind, patterns in _PATTERNS.items():
            match = next(filter(None, (pattern.match(path.name) for pattern in patterns)), None)
            if match is None:
                continue
            groups = match.groupdict()
            paths = getattr(outputs, kind)
            if "n" in groups:
                paths = paths[_NAMES.get(groups["n"]) or int(groups["n"])]
            _add(outputs, paths, groups["stem"], path)
    for tissue in (1, 2):
        for stem, path in map_names.find_maps(folder, tissue, smoothed=False).items():
            _add(outputs, outputs.modulated[tissue], stem, path)
    if not outputs.stems:
        msg = (
            f"{folder}: expected outputs of vbmstat, CAT12, SPM, T1Prep or deepmriprep "
            "(p0*.nii, c1*.nii, mwp1*.nii, with or without .gz), found none"
        )
        raise ScanError(msg)
    return outputs


def scan_key(stem: str) -> str:
    """Key by which scans are matched, from a file stem.

    Examples
    --------
    >>> scan_key("sub-01_ses-1_T1w")
    'sub-01_ses-1'
    """
    return stem.removesuffix("_T1w")


def _add(outputs: Outputs, paths: dict[str, Path], stem: str, path: Path) -> None:
    scan = scan_key(stem)
    if scan in paths and is_same_file(paths[scan], path):
        return
    if scan in paths:
        msg = f"{path.parent}: two files of one kind for a scan, {paths[scan]} and {path}; remove one"
        raise ScanError(msg)
    paths[scan] = path
    outputs.stems.setdefault(scan, stem)


def read_tissue_maps(outputs: Outputs, scan: str) -> TissueMaps | None:
    """Tissues of a scan from its label map, or else from its GM, WM and CSF maps; None if it has neither."""
    if scan in outputs.label:
        return read_labels(outputs.label[scan])
    if not outputs.has_all("tissue", scan):
        return None
    maps = read_tissues(outputs, scan)
    gm, wm, csf = maps.data
    background = (1 - maps.data.sum(0)).clamp(min=0)
    labels = torch.stack([background, csf, gm, wm]).argmax(0)[None].float()
    fractions = {"gm": gm[None], "wm": wm[None], "csf": csf[None]}
    return TissueMaps(labels, fractions, maps.grid, outputs.tissue[1][scan])


def read_labels(path: Path) -> TissueMaps:
    """Read a label map (CSF 1, GM 2, WM 3, mixtures in between)."""
    volume = io.read_volume(path)
    return TissueMaps(volume.data.round(), accuracy.tissue_fractions(volume.data), volume.grid, path)


def read_tissues(outputs: Outputs, scan: str, kind: str = "tissue") -> Volume:
    """Read all tissue maps of one kind, (n_tissues, X, Y, Z).

    Raises
    ------
    ScanError
        If the maps of a scan are on different grids.
    """
    paths = [by_scan[scan] for by_scan in getattr(outputs, kind).values()]
    volumes = [io.read_volume(path) for path in paths]
    for volume, path in zip(volumes[1:], paths[1:], strict=True):
        accuracy.check_same_grid(volume, volumes[0], f"that of {paths[0]}", f"{path}: ")
    return Volume(torch.cat([volume.data for volume in volumes]), volumes[0].grid)


def read_linear(outputs: Outputs, scan: str) -> np.ndarray | None:
    """Linear part of a scan's deformation, template mm -> scan mm, (4, 4); None if the program does not record it."""
    if scan not in outputs.sidecar:
        return None
    content = json.loads(outputs.sidecar[scan].read_text(encoding="utf-8"))
    return np.array(content["affine"]["template_mm_to_scan_mm"])
