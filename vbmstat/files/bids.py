"""BIDS: select scans of a dataset; the metadata that BIDS requires of derivatives.

Entities, files and fields are named as in the specification (https://doi.org/10.1038/sdata.2016.44), filters as in
PyBIDS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat import __version__
from vbmstat.errors import VbmstatError
from vbmstat.files.map_kinds import TISSUES, fwhm_of, modulated_kind, parse_kind
from vbmstat.files.naming import Scan
from vbmstat.image import storage
from vbmstat.image.grid import Grid
from vbmstat.image.headers import SCAN_SUFFIXES

VERSION = "1.10.0"  # of the specification
SPACE = "MNI152NLin2009cAsym"
# Name in PyBIDS -> entity in file names
_ENTITIES = {
    "subject": "sub", "session": "ses", "acquisition": "acq", "ceagent": "ce", "reconstruction": "rec", "run": "run",
    "part": "part", "echo": "echo", "inv": "inv", "processing": "proc", "split": "split", "space": "space",
}  # fmt: skip
_FIXED = {"datatype": ("anat",), "suffix": ("T1w",), "scope": ("raw", "all"), "extension": SCAN_SUFFIXES}
# Files of a derivative dataset that BIDS has no names for.
IGNORED = (
    "cohort.*", "failures.*", "inputs.*", "report.html", "report", "figures", "logs", "glm", ".partial*",
    "*.partial*", "*_xfm.*", "*_provenance.json", "*_morph.*", "*_desc-qc_T1w.json", "*_desc-report_T1w.png",
    "tracts", "tracts.*", "*_desc-tracts_T1w.png", "*_desc-change_T1w.png",
)  # fmt: skip

_README = """\
Voxel-based morphometry: derivatives of T1-weighted scans by vbmstat.

cohort.tsv has a row for each complete scan: covariates, tissue volumes, quality measures, paths of the maps;
cohort.json describes its columns. Each scan's folder holds tissue maps on its own grid and on the template's (with and
without modulation, and smoothed), the deformation fields between the two, volumes, quality measures, a picture, and in
*_desc-vbmstat_provenance.json how all of it was made. failures.tsv lists the scans that failed, and why; inputs.tsv
lists every file that was found, and whether it was used. report.html shows the cohort.
"""


@dataclass(frozen=True)
class Selection:
    """Which scans of a dataset to process; an empty field selects all.

    Attributes
    ----------
    participants, sessions : tuple of str
        Labels, with or without ``sub-`` and ``ses-``.
    filters : mapping
        PyBIDS filters of the query ``t1w``: entity to a value, a list of values, None (absent) or ``"*"`` (present).
    """

    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    filters: Mapping[str, Any] = field(default_factory=dict)

    def why_not(self, scan: Scan) -> str:
        """Why a scan is not selected; empty if it is.

        Examples
        --------
        >>> scan = Scan(Path("a"), "sub-01_run-2_T1w", "sub-01")
        >>> Selection(("01",), filters={"run": 1}).why_not(scan)
        'run 2 is excluded by the filter'
        >>> Selection(("sub-01",)).why_not(scan)
        ''
        """
        if self.participants and not _labels([scan.participant_id], "sub-") & _labels(self.participants, "sub-"):
            return "participant not selected"
        session = _labels(filter(None, [scan.session_id]), "ses-")
        if self.sessions and session and not session & _labels(self.sessions, "ses-"):
            return "session not selected"
        entities = dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9+]+)", scan.stem))
        for name, wanted in self.filters.items():
            value = entities.get(_ENTITIES[name]) if name in _ENTITIES else None
            options = wanted if isinstance(wanted, list) else [wanted]
            if name in _ENTITIES and not any(_matches(value, option) for option in options):
                return f"{name} {value or '(none)'} is excluded by the filter"
        return ""


def _labels(texts: Iterable[str], prefix: str) -> set[str]:
    return {text.removeprefix(prefix) for text in texts}


def _matches(value: str | None, option: Any) -> bool:
    if option is None or value is None:
        return option is None and value is None
    return option == "*" or str(option) == value or (value.isdecimal() and str(option) == value.lstrip("0"))


def read_filter(path: Path) -> dict[str, Any]:
    """Filters of the query ``t1w`` in a file as for fMRIPrep's ``--bids-filter-file``.

    Raises
    ------
    VbmstatError
        If the file is not of that form, or filters by an entity that T1w images do not have.
    """
    try:
        content = storage.read_json(path)
    except (OSError, ValueError) as error:
        msg = f"{path}: expected a JSON file of filters, but reading it failed: {' '.join(str(error).split())}"
        raise VbmstatError(msg) from error
    if not isinstance(content, dict) or not isinstance(content.get("t1w", {}), dict):
        msg = f'{path}: expected filters such as {{"t1w": {{"session": "1", "acquisition": "mprage"}}}}'
        raise VbmstatError(msg)
    filters: dict[str, Any] = content.get("t1w", {})
    unknown = [name for name in filters if name not in (*_ENTITIES, *_FIXED)]
    if unknown:
        msg = f"{path}: t1w is filtered by {', '.join(map(repr, unknown))}; expected some of {', '.join(_ENTITIES)}"
        raise VbmstatError(msg)
    for name, allowed in _FIXED.items():
        wanted = filters.get(name, allowed[0])
        if not set(map(str, wanted if isinstance(wanted, list) else [wanted])) & {*allowed, *(a[1:] for a in allowed)}:
            msg = f"{path}: t1w has {name} {wanted!r}; T1w scans have {allowed[0]!r}"
            raise VbmstatError(msg)
    return filters


def check_dataset(folder: Path) -> None:
    """Refuse a folder without the description that every BIDS dataset has.

    Raises
    ------
    VbmstatError
        If ``dataset_description.json`` is absent, not a JSON object, or lacks Name or BIDSVersion.
    """
    path = folder / "dataset_description.json"
    try:
        content = storage.read_json(path)
        lacking = [name for name in ("Name", "BIDSVersion") if not isinstance(content.get(name), str)]
    except (OSError, ValueError, AttributeError) as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        msg = f"{path}: expected the description of a BIDS dataset, but {reason}; or give --skip-bids-validation"
        raise VbmstatError(msg) from error
    if lacking:
        msg = f"{path}: expected {' and '.join(lacking)}, as BIDS requires; or give --skip-bids-validation"
        raise VbmstatError(msg)


def dataset_root(path: Path) -> Path | None:
    """The BIDS dataset of a file: the nearest folder above it with a dataset description, or None."""
    return next((folder for folder in path.parents if (folder / "dataset_description.json").is_file()), None)


def image_metadata(kind: str, scan: Scan, grid: Grid | None = None) -> dict[str, Any]:
    """Content of the JSON file beside a derived image.

    Parameters
    ----------
    kind : str
        As in :func:`vbmstat.files.naming.output_path`: ``"p1"``, ``"s6mwp1"``, ``"y"`` …
    scan : Scan
        The scan that the image was made from.
    grid : Grid, optional
        Of maps in template space, if it is not the template's.
    """
    content: dict[str, Any] = {"Description": _describe(kind)}
    root = dataset_root(scan.path)
    if root is not None:
        source = f"bids:raw:{scan.path.relative_to(root).as_posix()}"
        content |= {"Sources": [source], "SpatialReference": source}
    if kind == "m":
        content["SkullStripped"] = True
    if kind == "mask7":
        content["Type"] = "Lesion"
    width = fwhm_of(kind)
    if kind in _ON_TEMPLATE or width is not None or re.match(r"m?0?w|mw|rp|rate", kind):
        content["SpatialReference"] = f"https://templateflow.s3.amazonaws.com/tpl-{SPACE}/tpl-{SPACE}_res-01_T1w.nii.gz"
        own = grid is None or kind in _ON_TEMPLATE or np.allclose(grid.voxel_size_mm, 1.5)
        size, shape = (1.5, (113, 137, 113)) if own or grid is None else (grid.voxel_size_mm[0], grid.shape)
        about = "the grid of CAT12's Template_4_GS" if own else "between the outer centres of CAT12's Template_4_GS"
        content["Resolution"] = f"{size:g} mm, {shape[0]} x {shape[1]} x {shape[2]} voxels ({about})"
    if width is not None:
        content["SmoothingFWHM"] = {"Value": int(width) if width.is_integer() else width, "Units": "mm"}
    return content


_ON_TEMPLATE = ("y", "velocity")  # always on the template's own grid


def _describe(kind: str) -> str:
    parsed = parse_kind(kind)
    kind = kind.removesuffix("r") if parsed is None else modulated_kind(parsed.number, parsed.model).removesuffix("r")
    tissue = {**dict(zip("123", TISSUES.values(), strict=True)), "7": "white-matter hypointensity"}.get(kind[-1], "")
    modulated = "times the determinant of the Jacobian of the whole warp, so that its sum is the scan's own volume"
    words = {
        "p0": "Tissue label with partial volume: 1 cerebrospinal fluid, 2 grey matter, 3 white matter, 0 outside",
        "m": "The brain, bias-corrected and denoised, white matter at 1", "y": "Template voxel to scan mm",
        "iy": "Scan voxel to template mm", "wm": "The brain, bias-corrected, denoised, white matter at 1, normalised",
        "velocity": "Stationary velocity (mm) whose flow, and then the linear matrix of the record, is the deformation",
        "wj": "Determinant of the Jacobian of the warp without its linear part",
        "rp": f"Fraction of {tissue}, registered by the linear matrix alone",
        "m0wp": f"Fraction of {tissue}, normalised, times the determinant of the Jacobian of the nonlinear part alone",
        "p": f"Fraction of {tissue}", "wp": f"Fraction of {tissue}, normalised",
        "mwp": f"Fraction of {tissue}, normalised, {modulated}",
        "mwmwp": f"Fraction of {tissue}, brought to the shape of the person's average and normalised, {modulated}",
        "avg": "Average of the person's scans, aligned by rigid motion, bias-corrected, white matter at 1",
        "rate": f"Change of {tissue}, mL a year in each voxel: slope over the person's scans",
        "tracts": "Probability of each of 72 white-matter tracts, which overlap",
        "wtracts": "Probability of each of 72 white-matter tracts, which overlap, normalised",
        "tracts_mask": "Voxels whose probability reaches a tract's threshold, for each of 72 tracts",
        "mask7": "Voxels that are mostly white-matter hypointensity",
    }  # fmt: skip
    smoothed = "; smoothed by a Gaussian" if parsed is not None and parsed.fwhm_mm else ""
    return words[kind if kind in words else kind[:-1]] + smoothed


def write_dataset_files(out: Path, scans: Iterable[Scan], names: str) -> None:
    """Write ``dataset_description.json`` and, for BIDS names, ``.bidsignore`` and ``README`` to an output folder.

    The scans' dataset is linked as ``raw`` if its path relative to `out` reveals no folder above it.
    """
    content: dict[str, Any] = {
        "Name": "vbmstat derivatives", "BIDSVersion": VERSION, "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "vbmstat", "Version": __version__}],
    }  # fmt: skip
    roots = {dataset_root(scan.path) for scan in scans}
    root = roots.pop() if len(roots) == 1 else None
    if root is not None:
        content |= _link(out, root)
    storage.write_json(out / "dataset_description.json", content)
    if names == "bids":
        storage.write_text(out / ".bidsignore", "".join(f"{rule}\n" for rule in IGNORED))
        storage.write_text(out / "README", _README)


def _link(out: Path, root: Path) -> dict[str, Any]:
    """SourceDatasets and DatasetLinks of the dataset at `root`."""
    try:
        description = storage.read_json(root / "dataset_description.json")
    except (OSError, ValueError):
        description = {}
    doi = description.get("DatasetDOI") if isinstance(description, dict) else None
    path = Path(os.path.relpath(root, out))
    is_near = all(part == ".." for part in path.parts[:-1])
    links: dict[str, Any] = {"DatasetLinks": {"raw": path.as_posix()}} if is_near else {}
    source = {"DOI": doi} if isinstance(doi, str) else {"URL": path.as_posix()} if is_near else {}
    return links | ({"SourceDatasets": [source]} if source else {})
