"""Compare output folders of the same scans with each other, with true labels and with the template.

Scans are matched by the stem of their file name, never by order. Measures whose files are missing are left empty, with
one note per folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from vbmstat.errors import ScanError
from vbmstat.evaluate.measures import KEYS, TRUTH, Measures, Row
from vbmstat.evaluate.outputs import Outputs, TissueMaps, find_outputs, read_labels, read_tissue_maps, scan_key
from vbmstat.evaluate.summary import summarise
from vbmstat.files import naming
from vbmstat.image.volume import Volume
from vbmstat.metrics import accuracy
from vbmstat.progress import OnProgress, ignore


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`evaluate_folders`."""

    scans: pd.DataFrame  # one row per scan, folder and reference (another folder, ``template`` or ``truth``)
    # number of scans, median, minimum, maximum and worst scan of each measure by folder and reference
    summary: pd.DataFrame
    left_out: dict[str, list[str]]  # scans of each folder that another folder lacks
    notes: list[str]  # what could not be measured, and how missing inputs were derived
    outputs: dict[str, Outputs] = field(default_factory=dict)  # files of each folder, by its name in the tables
    truth: dict[str, Path] = field(default_factory=dict)  # true label maps by scan


@dataclass(frozen=True)
class TissuePair:
    """One scan's tissues in a folder and in its reference."""

    # as in the tables
    scan: str
    folder: str
    reference: str
    dice: dict[str, float]  # by tissue, ``gm``, ``wm``, ``csf``
    # (1, X, Y, Z): 0 background, 1 CSF, 2 GM, 3 WM, in-between values for partial volume; both on one grid
    tissue: Volume
    reference_tissue: Volume


def evaluate_folders(
    folders: Sequence[Path],
    truth: Path | None = None,
    report: OnProgress = ignore,
    reference: Path | None = None,
    names: Sequence[str] | None = None,
) -> Evaluation:
    """Compare output folders of the same scans.

    Parameters
    ----------
    folders : sequence of Path
        Output folders of any program that :mod:`vbmstat.evaluate.outputs` knows.
    truth : Path, optional
        Label map, or folder of label maps (CSF 1, GM 2, WM 3) named as the scans, with or without the prefix ``p0``.
    report : callable
        Progress, called as ``report(stage, n_done, n_total)``.
    reference : Path, optional
        The folder to compare the others with; the first by default.
    names : sequence of str, optional
        Names of the folders in the tables; by default the result of :func:`short_names`.

    Raises
    ------
    ScanError
        If a folder holds no outputs, the folders have no scan in common, the reference is not among the folders, or
        the label maps of a scan are on different grids.
    """
    outputs = _in_order(folders, short_names(folders) if names is None else names, reference)
    true_labels = {} if truth is None else _truth_labels(truth)
    common = set.intersection(*(set(entry.stems) for entry in outputs), *([set(true_labels)] if truth else []))
    if not common:
        with_truth = " and the truth" if truth is not None else ""
        some = "; ".join(f"{entry.name}: {', '.join(sorted(entry.stems.values())[:3])}" for entry in outputs)
        msg = f"expected scans with the same names in all folders{with_truth}, found none in common ({some})"
        raise ScanError(msg)
    without = [entry.name for entry in outputs if entry.field and not set(entry.field) & common <= set(entry.sidecar)]
    measures = Measures(outputs, true_labels, is_fitted=bool(without))
    if without:
        measures.notes[f"the linear part of all fields was fitted: {', '.join(without)} does not record it"] = None
    rows: list[Row] = []
    for done, scan in enumerate(sorted(common), 1):
        rows += measures.rows(scan)
        report("evaluating", done, len(common))
    columns = dict.fromkeys([*KEYS, *(key for row in rows for key in row)])
    table = pd.DataFrame([row for row in rows if len(row) > len(KEYS)], columns=list(columns))
    left_out = {entry.name: sorted(entry.stems[scan] for scan in set(entry.stems) - common) for entry in outputs}
    missing = [line for entry in outputs for line in _missing(entry, table)]
    by_name = {entry.name: entry for entry in outputs}
    return Evaluation(table, summarise(table), left_out, [*measures.notes, *missing], by_name, true_labels)


def read_pair(evaluation: Evaluation, folder: str, reference: str, scan: str) -> TissuePair:
    """The label maps behind a row of the table of scans.

    Raises
    ------
    ScanError
        If the scan has no label maps in the folder or in the reference.
    """
    key = scan_key(scan)
    truth = evaluation.truth.get(key) if reference == TRUTH else None
    one = read_tissue_maps(evaluation.outputs[folder], key)
    other = read_labels(truth) if truth else read_tissue_maps(evaluation.outputs[reference], key)
    if one is None or other is None:
        msg = f"{scan}: expected label maps in {folder} and {reference}, found none in {reference if one else folder}"
        raise ScanError(msg)
    (row,) = evaluation.scans.set_index(KEYS).loc[[(scan, folder, reference)]].to_dict("records")
    dice = {tissue: float(row[f"dice_{tissue}"]) for tissue in accuracy.TISSUES}
    return TissuePair(scan, folder, reference, dice, _tissue_map(one), _tissue_map(other))


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part in which the paths differ; the whole paths if no part tells them all apart.

    Examples
    --------
    >>> short_names([Path("/data/classic/ds1"), Path("/data/cat/ds1")])
    ['classic', 'cat']
    """
    parts = [folder.absolute().parts for folder in folders]
    while len(parts) > 1 and all(part and part[-1] == parts[0][-1] for part in parts):
        parts = [part[:-1] for part in parts]
    names = [part[-1] if part else "" for part in parts]
    return names if len(set(names)) == len(names) and all(names) else [str(folder) for folder in folders]


def _in_order(folders: Sequence[Path], names: Sequence[str], reference: Path | None) -> list[Outputs]:
    """Outputs of the folders, the reference first."""
    outputs = [find_outputs(folder, name) for folder, name in zip(folders, names, strict=True)]
    if reference is None:
        return outputs
    at = [i for i, folder in enumerate(folders) if reference.resolve() == folder.resolve()]
    if not at:
        msg = f"expected the reference among the folders ({', '.join(map(str, folders))}), got {reference}"
        raise ScanError(msg)
    return [outputs[at[0]], *(entry for i, entry in enumerate(outputs) if i != at[0])]


def _truth_labels(truth: Path) -> dict[str, Path]:
    paths = sorted(truth.glob("[!.]*.nii*")) if truth.is_dir() else [truth]
    return {scan_key(naming.image_stem(path).removeprefix("p0")): path for path in paths}


def _tissue_map(maps: TissueMaps) -> Volume:
    """CSF 1, GM 2, WM 3 and mixtures in between, from the fractions."""
    parts = [value * maps.fractions[tissue] for tissue, value in accuracy.TISSUES.items()]
    return Volume(torch.stack(parts).sum(0), maps.grid)


def _missing(entry: Outputs, table: pd.DataFrame) -> list[str]:
    """Notes on measures that no scan of a folder has."""
    measured = set(table[table["folder"] == entry.name].dropna(axis=1, how="all"))
    lacks = []
    if not entry.label and not all(entry.tissue.values()):
        lacks.append("no label maps (p0) or GM, WM and CSF maps (p1 to p3, c1 to c3): no Dice")
    if not any(entry.modulated.values()):
        lacks.append("no unsmoothed modulated maps (mwp1, mwp2, mwc1, mwc2): no correlation of maps")
    if "mse_to_template" not in measured:
        lacks.append("no warped maps (wp1, wp2, wc1, wc2) or fields to make them: no MSE to the template")
    if "linear_elasticity" not in measured:
        lacks.append("no fields (y_, u_): no linear elasticity, no Jacobian")
    return [f"{entry.name}: {text}" for text in lacks]
