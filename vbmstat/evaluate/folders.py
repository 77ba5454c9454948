"""Compare output folders of the same scans with each other, with true labels and with the template.

Scans are matched by the stem of their file name, never by order. Measures whose files are missing are left empty, with
one note per folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.evaluate.outputs import (
    Outputs,
    Segmentation,
    find_outputs,
    read_labels,
    read_linear,
    read_segmentation,
    read_tissues,
    scan_key,
)
from vbmstat.files import naming
from vbmstat.image import io
from vbmstat.image.grid import resample
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Displacement, Volume
from vbmstat.metrics import accuracy
from vbmstat.preproc.steps.modulate import normalise
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables.cohort import read_table

FWHM_MM = 6.0
_TEMPLATE_FROM = 0.1  # of a tissue's probability, where maps are correlated
_KEYS = ["scan", "folder", "reference"]
_TEMPLATE, _TRUTH = "template", "truth"
CHILD_YEARS, OLD_YEARS = 18.0, 80.0  # the template and most training data are from adults in this range
HIGH_IS_BAD = ("mse_to_template", "linear_elasticity", "published_elasticity", "jacobian_max")


@dataclass(frozen=True)
class Evaluation:
    """Result of :func:`evaluate_folders`.

    Attributes
    ----------
    scans : DataFrame
        One row per scan, folder and reference (another folder, ``template`` or ``truth``).
    summary : DataFrame
        Number of scans, median, minimum, maximum and worst scan of each measure by folder and reference.
    left_out : dict of str to list of str
        Scans of each folder that another folder lacks.
    notes : list of str
        What could not be measured, and how missing inputs were derived.
    outputs : dict of str to Outputs
        Files of each folder, by its name in the tables.
    truth : dict of str to Path
        True label maps by scan.
    """

    scans: pd.DataFrame
    summary: pd.DataFrame
    left_out: dict[str, list[str]]
    notes: list[str]
    outputs: dict[str, Outputs] = field(default_factory=dict)
    truth: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One scan's tissues in a folder and in its reference.

    Attributes
    ----------
    scan, folder, reference : str
        As in the tables.
    dice : dict of str to float
        By tissue, ``gm``, ``wm``, ``csf``.
    tissue, reference_tissue : Volume, (1, X, Y, Z)
        0 background, 1 CSF, 2 GM, 3 WM, in-between values for partial volume; both on one grid.
    """

    scan: str
    folder: str
    reference: str
    dice: dict[str, float]
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
    template = assets.template()
    template = Volume(template.data[:2], template.grid)
    rows: list[dict[str, object]] = []
    notes: dict[str, None] = {}  # each once, in order
    without = [entry.name for entry in outputs if entry.field and not set(entry.field) & common <= set(entry.sidecar)]
    fitted = bool(without)
    if without:
        notes[f"the linear part of all fields was fitted: {', '.join(without)} does not record it"] = None
    for done, scan in enumerate(sorted(common), 1):
        rows += _scan_rows(outputs, scan, true_labels.get(scan), template, notes, fitted)
        report("evaluating", done, len(common))
    table = pd.DataFrame([row for row in rows if len(row) > len(_KEYS)], columns=_columns(rows))
    left_out = {entry.name: sorted(entry.stems[scan] for scan in set(entry.stems) - common) for entry in outputs}
    missing = [line for entry in outputs for line in _missing(entry, table)]
    by_name = {entry.name: entry for entry in outputs}
    return Evaluation(table, _summary(table), left_out, [*notes, *missing], by_name, true_labels)


def side_by_side(summary: pd.DataFrame) -> pd.DataFrame:
    """``median [worst]`` of each measure: one row per reference and measure, one column per folder."""
    worst = summary["max"].where(summary["measure"].isin(HIGH_IS_BAD), summary["min"])
    cells = [f"{median:.4g} [{bad:.4g}]" for median, bad in zip(summary["median"], worst, strict=True)]
    wide = summary.assign(cell=cells).pivot(index=["reference", "measure"], columns="folder", values="cell")
    order = summary[["reference", "measure"]].drop_duplicates()
    return wide.reindex(pd.MultiIndex.from_frame(order), columns=summary["folder"].unique()).fillna("n/a")


def worst_scans(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of the summary that name each compared folder's worst scan.

    The measure is GM Dice with the truth, or else with the reference; without label maps, the mean squared difference
    to the template.
    """
    overlap = summary[summary["measure"] == "dice_gm"].sort_values("reference", key=lambda names: names != _TRUTH)
    fit = summary[(summary["measure"] == "mse_to_template") & ~summary["folder"].isin(summary["reference"])]
    rows = pd.concat([overlap, fit]).drop_duplicates("folder")
    order = list(summary["folder"].unique())
    return rows.sort_values("folder", key=lambda names: names.map(order.index))


def read_case(evaluation: Evaluation, folder: str, reference: str, scan: str) -> Case:
    """The label maps behind a row of the table of scans.

    Raises
    ------
    ScanError
        If the scan has no label maps in the folder or in the reference.
    """
    key = scan_key(scan)
    truth = evaluation.truth.get(key) if reference == _TRUTH else None
    one = read_segmentation(evaluation.outputs[folder], key)
    other = read_labels(truth) if truth else read_segmentation(evaluation.outputs[reference], key)
    if one is None or other is None:
        msg = f"{scan}: expected label maps in {folder} and {reference}, found none in {reference if one else folder}"
        raise ScanError(msg)
    (row,) = evaluation.scans.set_index(_KEYS).loc[[(scan, folder, reference)]].to_dict("records")
    dice = {tissue: float(row[f"dice_{tissue}"]) for tissue in accuracy.TISSUES}
    return Case(scan, folder, reference, dice, _tissue_map(one), _tissue_map(other))


def with_ages(scans: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """Add `age` and `age_flag` (child, old) to the table of scans, if a cohort.tsv or participants.tsv has ages.

    Parameters
    ----------
    scans : DataFrame
        Table with a column `scan`, as from :func:`evaluate_folders`.
    folders : sequence of Path
        Where to look for the tables. The first folder that has an age wins, and cohort.tsv before participants.tsv.
    """
    known: dict[str, float] = {}
    for path in (folder / name for folder in folders for name in ("cohort.tsv", "participants.tsv")):
        if path.is_file():
            people = read_table(path)
            key = "scan" if "scan" in people else "participant_id"
            if {key, "age"} <= set(people):
                years = pd.to_numeric(people["age"], errors="coerce")
                known = {**dict(zip(people[key], years, strict=True)), **known}
    ages = [known.get(scan, known.get(naming.split_ids(scan)[0], np.nan)) for scan in scans["scan"]]
    age = pd.Series(ages, index=scans.index, dtype=float)
    if age.isna().all():
        return scans
    flag = pd.Series(None, index=scans.index, dtype=object)
    flag[age < CHILD_YEARS], flag[age > OLD_YEARS] = "child", "old"
    return scans.assign(age=age, age_flag=flag)


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


def _scan_rows(
    outputs: list[Outputs], scan: str, truth: Path | None, template: Volume, notes: dict[str, None], fitted: bool
) -> list[dict[str, object]]:
    """All rows of one scan."""
    rows: list[dict[str, object]] = []
    first = outputs[0]
    true_labels = None if truth is None else read_labels(truth)
    first_labels = read_segmentation(first, scan)
    first_maps = _smoothed(first, scan, template) if len(outputs) > 1 else {}
    for entry in outputs:
        keys = {"scan": first.stems[scan], "folder": entry.name}
        labels = first_labels if entry is first else read_segmentation(entry, scan)
        rows.append({**keys, "reference": _TEMPLATE, **_registration(entry, scan, template, notes, fitted)})
        if true_labels and labels:
            rows.append({**keys, "reference": _TRUTH, **_overlap(labels, true_labels)})
        if entry is not first:
            overlap = _overlap(labels, first_labels) if labels and first_labels else {}
            agreement = _maps_agree(_smoothed(entry, scan, template), first_maps, template)
            rows.append({**keys, "reference": first.name, **overlap, **agreement})
    return rows


def _tissue_map(segmentation: Segmentation) -> Volume:
    """CSF 1, GM 2, WM 3 and mixtures in between, from the fractions."""
    parts = [value * segmentation.fractions[tissue] for tissue, value in accuracy.TISSUES.items()]
    return Volume(torch.stack(parts).sum(0), segmentation.grid)


def _columns(rows: list[dict[str, object]]) -> list[str]:
    return list(dict.fromkeys([*_KEYS, *(key for row in rows for key in row)]))


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    """Long table: folder, reference, measure, n_scans, median, min, max, worst_scan."""
    long = table.melt(id_vars=_KEYS, var_name="measure", value_name="value").dropna(subset="value")
    rows = []
    for (folder, reference, measure), group in long.groupby(["folder", "reference", "measure"], sort=False):
        values = group["value"].astype(float)
        worst = values.idxmax() if measure in HIGH_IS_BAD else values.idxmin()
        rows.append({
            "folder": folder, "reference": reference, "measure": measure, "n_scans": len(values),
            "median": values.median(), "min": values.min(), "max": values.max(), "worst_scan": group["scan"][worst],
        })  # fmt: skip
    return pd.DataFrame(rows)


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
        lacks.append("no fields (y_): no linear elasticity, no Jacobian")
    return [f"{entry.name}: {text}" for text in lacks]


def _overlap(one: Segmentation, other: Segmentation) -> dict[str, float]:
    """Dice, probabilistic Dice and Jaccard of each tissue."""
    accuracy.check_same_grid(
        Volume(one.labels, one.grid), Volume(other.labels, other.grid), f"that of {other.path}", f"{one.path}: "
    )
    row = {}
    for tissue, value in accuracy.TISSUES.items():
        masks = [labels == value for labels in (one.labels, other.labels)]
        row[f"dice_{tissue}"] = accuracy.dice(masks[0], masks[1])
        row[f"pdice_{tissue}"] = accuracy.probabilistic_dice(one.fractions[tissue], other.fractions[tissue])
        row[f"jaccard_{tissue}"] = accuracy.jaccard(masks[0], masks[1])
    return row


def _smoothed(entry: Outputs, scan: str, template: Volume) -> dict[int, torch.Tensor]:
    """Modulated maps smoothed by 6 mm, on the template's grid, (X, Y, Z) by tissue."""
    maps = {}
    for tissue, paths in entry.modulated.items():
        if scan in paths:
            smoothed = smooth_map(io.read_volume(paths[scan]), FWHM_MM)
            maps[tissue] = _on_template(smoothed, template)[0]
    return maps


def _maps_agree(
    maps: dict[int, torch.Tensor], reference: dict[int, torch.Tensor], template: Volume
) -> dict[str, float]:
    """Correlation of modulated maps where the template has the tissue."""
    row = {}
    for tissue in sorted(set(maps) & set(reference)):
        where = template.data[tissue - 1] > _TEMPLATE_FROM
        both = torch.stack([maps[tissue][where], reference[tissue][where]]).double()
        row[f"r_mwp{tissue}"] = float(torch.corrcoef(both)[0, 1])
    return row


def _registration(
    entry: Outputs, scan: str, template: Volume, notes: dict[str, None], fitted: bool
) -> dict[str, float]:
    """Distance of the warped maps to the template, and regularity of the field.

    With `fitted`, the field's linear part is fitted even if the sidecar records it.
    """
    row: dict[str, float] = {}
    parts = _field(entry, scan, template, notes, fitted) if scan in entry.field else None
    warped = _warped(entry, scan, parts, template, notes)
    if warped is not None:
        row["mse_to_template"] = accuracy.mse_to_template(warped, template)
    if parts is not None:
        field = parts[0]
        determinant = field.jacobian_determinant
        determinant = determinant[determinant.isfinite()]
        row["linear_elasticity"] = accuracy.linear_elasticity(field)
        row["published_elasticity"] = accuracy.published_elasticity(field)
        row["jacobian_min"], row["jacobian_max"] = float(determinant.min()), float(determinant.max())
    return row


def _field(
    entry: Outputs, scan: str, template: Volume, notes: dict[str, None], fitted: bool
) -> tuple[Displacement, np.ndarray]:
    """Displacement and linear part of a scan's deformation, on the template's grid."""
    deformation = io.read_channels(entry.field[scan])
    if not deformation.grid.matches(template.grid):
        data = resample(deformation.data, deformation.grid, template.grid, padding_mode="border")
        deformation = Volume(data, template.grid)
        notes[f"{entry.name}: fields (y_) were resampled to the template's grid"] = None
    linear = None if fitted else read_linear(entry, scan)
    linear = accuracy.fit_linear(deformation) if linear is None else linear
    return accuracy.displacement_of(deformation, linear), linear


def _warped(
    entry: Outputs, scan: str, parts: tuple[Displacement, np.ndarray] | None, template: Volume, notes: dict[str, None]
) -> Volume | None:
    """GM and WM on the template's grid: the folder's own maps, or else its tissues warped with its field."""
    if entry.has_all("warped", scan):
        warped = read_tissues(entry, scan, "warped")
        if not warped.grid.matches(template.grid):
            notes[f"{entry.name}: warped maps were resampled to the template's grid"] = None
        return Volume(_on_template(warped, template), template.grid)
    if parts is None:
        return None
    if entry.has_all("tissue", scan):
        tissues = read_tissues(entry, scan)
    elif scan in entry.label:
        labels = read_labels(entry.label[scan])
        tissues = Volume(torch.cat([labels.fractions["gm"], labels.fractions["wm"]]), labels.grid)
    else:
        return None
    notes[f"{entry.name}: no warped maps (wp1, wp2): the tissues were warped with the fields for the MSE"] = None
    field, linear = parts
    finite = Displacement(field.data.nan_to_num(), field.grid)
    return normalise(Volume(tissues.data[:2], tissues.grid), finite, linear)[0]


def _on_template(volume: Volume, template: Volume) -> torch.Tensor:
    if volume.grid.matches(template.grid):
        return volume.data
    return resample(volume.data, volume.grid, template.grid)
