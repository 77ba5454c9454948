"""Comparison of output folders of the same scans, with one another, with true labels and with the template.

Folders of this program, CAT12, SPM or anything with such names hold label maps (``p0``), modulated maps (``mwp1``,
``mwp2``), warped maps (``wp1``, ``wp2``) and fields (``y_``). Scans are matched by the stem of their file name, never
by order. What a folder lacks is left empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat import assets, evaluate, io, naming
from vbmstat.errors import ScanError
from vbmstat.grid import resample
from vbmstat.preproc.modulate import jacobian_determinant
from vbmstat.preproc.smooth import smooth_map
from vbmstat.volume import Volume

FWHM_MM = 6.0
_TEMPLATE_FROM = 0.1
_KEYS = ["scan", "folder", "reference"]


@dataclass(frozen=True)
class Outputs:
    """What an output folder holds: path by scan stem, for each kind of file.

    Attributes
    ----------
    name : str
        How the folder is called in tables.
    label, field, sidecar : dict of str to Path
        ``p0``, ``y_`` and ``report/vbmstat_``.
    warped, modulated : dict of int to dict of str to Path
        ``wp1`` and ``wp2``, ``mwp1`` and ``mwp2``.
    """

    name: str
    label: dict[str, Path]
    field: dict[str, Path]
    sidecar: dict[str, Path]
    warped: dict[int, dict[str, Path]]
    modulated: dict[int, dict[str, Path]]

    @property
    def stems(self) -> set[str]:
        """Scans that have a label map or modulated maps."""
        return set(self.label) | set(self.modulated[1]) | set(self.modulated[2])


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`evaluate_folders`.

    Attributes
    ----------
    scans : DataFrame
        One row a scan, folder and reference (another folder, ``template`` or ``truth``).
    summary : DataFrame
        Number of scans, median, minimum and maximum of each measure by folder and reference.
    left_out : dict of str to list of str
        Scans of each folder that the others lack.
    """

    scans: pd.DataFrame
    summary: pd.DataFrame
    left_out: dict[str, list[str]]


def find_outputs(folder: Path, name: str | None = None) -> Outputs:
    """Files of an output folder, by kind and scan.

    Raises
    ------
    ScanError
        If it is no folder, holds no outputs, or two files are of the same kind and scan.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder; expected one with outputs of vbmstat or CAT12 (mri/p0*, mri/mwp1*)"
        raise ScanError(msg)
    found = Outputs(
        name or folder.resolve().name,
        _by_stem(folder, "p0", ".nii*"), _by_stem(folder, "y_", ".nii*"), _by_stem(folder, "vbmstat_", ".json"),
        {tissue: _by_stem(folder, f"wp{tissue}", ".nii*") for tissue in (1, 2)},
        {tissue: naming.find_maps(folder, tissue, smoothed=False) for tissue in (1, 2)},
    )  # fmt: skip
    if not found.stems:
        msg = f"{folder}: expected outputs of vbmstat or CAT12 (p0*.nii, mwp1*.nii, with or without .gz), found none"
        raise ScanError(msg)
    return found


def evaluate_folders(
    folders: Sequence[Path],
    truth: Path | None = None,
    report: Callable[[str, int, int], None] = lambda *_: None,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Compare output folders of the same scans.

    Parameters
    ----------
    folders : sequence of Path
        The first is the reference that the others are compared with.
    truth : Path, optional
        Label map, or folder of label maps (CSF 1, GM 2, WM 3) named as the scans, with or without ``p0``.
    report : callable
        Told (stage, done, total).
    names : sequence of str, optional
        What to call the folders in the tables; by default their own names.

    Raises
    ------
    ScanError
        If folders hold no outputs or no common scan, or grids of a scan differ.
    """
    own = [folder.resolve().name for folder in folders]
    labels = names or (own if len(set(own)) == len(own) else [str(folder) for folder in folders])
    outputs = [find_outputs(folder, label) for folder, label in zip(folders, labels, strict=True)]
    true_labels = {} if truth is None else _truth_labels(truth)
    common = set.intersection(*(entry.stems for entry in outputs))
    if truth is not None:
        common &= set(true_labels)
    if not common:
        with_truth = " and the truth" if truth is not None else ""
        some = "; ".join(f"{entry.name}: {', '.join(sorted(entry.stems)[:3])}" for entry in outputs)
        msg = f"expected scans of the same names in all folders{with_truth}, found none in common ({some})"
        raise ScanError(msg)
    template = assets.template()
    rows: list[dict[str, object]] = []
    for done, stem in enumerate(sorted(common), 1):
        for entry in outputs:
            keys = {"scan": stem, "folder": entry.name}
            rows.append({**keys, "reference": "template", **_registration(entry, stem, template)})
            if stem in true_labels and stem in entry.label:
                rows.append({**keys, "reference": "truth", **_overlap(entry.label[stem], true_labels[stem])})
            if entry is not outputs[0]:
                compared = {**_labels_agree(entry, outputs[0], stem), **_maps_agree(entry, outputs[0], stem, template)}
                rows.append({**keys, "reference": outputs[0].name, **compared})
        report("evaluating", done, len(common))
    table = pd.DataFrame([row for row in rows if len(row) > len(_KEYS)], columns=_columns(rows))
    left_out = {entry.name: sorted(entry.stems - common) for entry in outputs}
    return Evaluation(table, _summary(table), left_out)


def _columns(rows: list[dict[str, object]]) -> list[str]:
    return list(dict.fromkeys([*_KEYS, *(key for row in rows for key in row)]))


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    """Tidy: folder, reference, measure, n_scans, median, min, max."""
    long = table.melt(id_vars=_KEYS, var_name="measure", value_name="value").dropna(subset="value")
    grouped = long.groupby(["folder", "reference", "measure"], sort=False)["value"]
    return grouped.agg(n_scans="count", median="median", min="min", max="max").reset_index()


def _by_stem(folder: Path, prefix: str, suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"{prefix}*{suffix}")):
        stem = naming.image_stem(path).removeprefix(prefix)
        if stem in found:
            msg = f"{folder}: two files {prefix} of {stem}: {found[stem]} and {path}; keep one of them"
            raise ScanError(msg)
        found[stem] = path
    return found


def _truth_labels(truth: Path) -> dict[str, Path]:
    paths = sorted(truth.glob("*.nii*")) if truth.is_dir() else [truth]
    return {naming.image_stem(path).removeprefix("p0"): path for path in paths}


def _labels_agree(entry: Outputs, reference: Outputs, stem: str) -> dict[str, float]:
    if stem not in entry.label or stem not in reference.label:
        return {}
    return _overlap(entry.label[stem], reference.label[stem])


def _overlap(path: Path, reference: Path) -> dict[str, float]:
    """Dice, probabilistic Dice and Jaccard of each tissue between two label maps."""
    one, other = io.read_volume(path), io.read_volume(reference)
    evaluate.check_same_grid(one, other, f"that of {reference}", f"{path}: ")
    classes = [volume.data.round() for volume in (one, other)]
    fractions = [evaluate.tissue_fractions(volume.data) for volume in (one, other)]
    row = {}
    for tissue, value in evaluate.TISSUES.items():
        masks = [labels == value for labels in classes]
        row[f"dice_{tissue}"] = evaluate.dice(masks[0], masks[1])
        row[f"pdice_{tissue}"] = evaluate.probabilistic_dice(fractions[0][tissue], fractions[1][tissue])
        row[f"jaccard_{tissue}"] = evaluate.jaccard(masks[0], masks[1])
    return row


def _maps_agree(entry: Outputs, reference: Outputs, stem: str, template: Volume) -> dict[str, float]:
    """Correlation of the smoothed modulated maps where the template has the tissue."""
    row = {}
    for tissue in (1, 2):
        if stem not in entry.modulated[tissue] or stem not in reference.modulated[tissue]:
            continue
        paths = entry.modulated[tissue][stem], reference.modulated[tissue][stem]
        one, other = (smooth_map(io.read_volume(path), FWHM_MM) for path in paths)
        evaluate.check_same_grid(one, other, f"that of {paths[1]}", f"{paths[0]}: ")
        where = resample(template.data[tissue - 1 : tissue], template.grid, one.grid) > _TEMPLATE_FROM
        row[f"r_mwp{tissue}"] = float(torch.corrcoef(torch.stack([one.data[where], other.data[where]]).double())[0, 1])
    return row


def _registration(entry: Outputs, stem: str, template: Volume) -> dict[str, float]:
    """How near the warped maps are to the template, and at what cost."""
    row = {}
    if all(stem in entry.warped[tissue] for tissue in (1, 2)):
        channels = [io.read_volume(entry.warped[tissue][stem]) for tissue in (1, 2)]
        evaluate.check_same_grid(channels[0], template, "the template's", f"{entry.warped[1][stem]}: ")
        warped = Volume(torch.cat([channel.data for channel in channels]), channels[0].grid)
        row["mse_to_template"] = evaluate.mse_to_template(warped, template)
    if stem in entry.field:
        field = evaluate.displacement_of(io.read_channels(entry.field[stem]), _linear(entry.sidecar.get(stem)))
        determinant = jacobian_determinant(field)
        row["linear_elasticity"] = evaluate.linear_elasticity(field)
        row["published_elasticity"] = evaluate.published_elasticity(field)
        row["jacobian_min"], row["jacobian_max"] = float(determinant.min()), float(determinant.max())
    return row


def _linear(sidecar: Path | None) -> np.ndarray | None:
    if sidecar is None:
        return None
    return np.array(json.loads(sidecar.read_text(encoding="utf-8"))["affine"]["template_mm_to_scan_mm"])
