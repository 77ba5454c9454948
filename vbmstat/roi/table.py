"""Tables of label and region volumes (mL) of a cohort, tidy and wide, each with its data dictionary.

Volumes are measured in template space (sums of modulated maps) or in each scan's own space (sums of its tissue
fractions in the labels warped there). A region is the sum of the labels that share its name: a left and right pair.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.assets.provenance import provenance
from vbmstat.errors import ScanError, TableError, VbmstatError
from vbmstat.files import naming
from vbmstat.files.filenames import tell_apart
from vbmstat.files.search import images_instead
from vbmstat.image import storage
from vbmstat.progress import OnProgress, ignore
from vbmstat.roi.atlas import Atlas, load_atlas
from vbmstat.roi.spaces import InScan, InTemplate, check_some_field
from vbmstat.tables import dictionary
from vbmstat.tables.cohort import ID_COLUMNS, Cohort

SPACES = ("template", "native")
TISSUE_COLUMNS = {name: f"mwp{number}" for name, number in naming.MAP_NUMBER.items()}  # unsmoothed modulated maps
_TISSUES = tuple(naming.TISSUES)


@dataclass(frozen=True)
class RoiTables:
    """Volumes of a cohort in an atlas.

    Attributes
    ----------
    atlas : Atlas
        The atlas.
    labels : DataFrame
        One row per scan and label: participant_id, session_id, label, hemisphere, name, region, gm_ml, wm_ml, csf_ml.
    regions : DataFrame
        One row per scan and region: participant_id, session_id, region, gm_ml, wm_ml, csf_ml.
    failures : DataFrame
        Maps that could not be measured: scan_id, tissue, reason. Their volumes are missing.
    not_measured : tuple of str
        Tissues without any map in the cohort; their columns hold missing values.
    space : {"template", "native"}
        Where the volumes were measured.
    """

    atlas: Atlas
    labels: pd.DataFrame
    regions: pd.DataFrame
    failures: pd.DataFrame = field(default_factory=pd.DataFrame)
    not_measured: tuple[str, ...] = ()
    space: str = "template"

    @property
    def stem(self) -> str:
        """Start of the file names: ``roi_lpba40``, ``roi_lpba40_native``."""
        return stem(self.atlas.name, self.space)


def stem(atlas: str, space: str) -> str:
    """Start of the file names of an atlas's tables: ``roi_lpba40``, ``roi_lpba40_native``."""
    return f"roi_{atlas}" + ("_native" if space == "native" else "")


def measure_rois(
    cohort: Cohort,
    atlas: Atlas | str | Path = "lpba40",
    tissues: Sequence[str] | None = None,
    *,
    space: str = "template",
    label_images: Path | str | None = None,
    report: OnProgress = ignore,
) -> RoiTables:
    """Volumes (mL) of each label and merged region of an atlas, for every scan of a cohort.

    Parameters
    ----------
    cohort : Cohort
        With columns `mwp1`, `mwp2`, `mwp3`, `mwp7` (any of them): unsmoothed modulated maps in template space. Native
        space needs the scan's tissue maps (p1, p2, p3, p7) and inverse field (``iy_``) beside them.
    atlas : Atlas, str or path
        An atlas, its name, or a label image with its table (see :func:`vbmstat.roi.atlas.load_atlas`).
    tissues : sequence of str, optional
        Any of ``gm``, ``wm``, ``csf``, ``wmh``; by default the first three, and hypointensities if there are maps of
        them.
    space : {"template", "native"}
        Sum modulated maps in template space, or tissue fractions in the scan's own space.
    label_images : path, optional
        Folder for the atlas on each scan's grid, ``NAME.nii.gz``; native space only.
    report : callable, optional
        Called with (stage, done, total) after each scan.

    Returns
    -------
    RoiTables
        Labels that the atlas image lacks have missing values, not 0; maps that cannot be read give missing values and
        a row in `failures`.

    Raises
    ------
    TableError
        If the cohort has none of the map columns, or a tissue or the space is unknown.
    AssetError, ScanError
        If the atlas cannot be used, or native space is asked for and no scan has an inverse field.
    """
    if tissues is None:
        tissues = (*_TISSUES, naming.WMH) if _has_maps(cohort, TISSUE_COLUMNS[naming.WMH]) else _TISSUES
    unknown = [tissue for tissue in tissues if tissue not in TISSUE_COLUMNS]
    if unknown:
        msg = f"tissue {', '.join(unknown)}: expected {', '.join(TISSUE_COLUMNS)}"
        raise TableError(msg)
    if space not in SPACES:
        msg = f"space {space!r}: expected {' or '.join(SPACES)}"
        raise TableError(msg)
    present = [tissue for tissue in tissues if _has_maps(cohort, TISSUE_COLUMNS[tissue])]
    if not present:
        wanted = ", ".join(TISSUE_COLUMNS[tissue] for tissue in tissues)
        msg = f"expected a column of unsmoothed modulated maps ({wanted}), the table has {', '.join(cohort.table)}"
        raise TableError(msg)
    atlas = atlas if isinstance(atlas, Atlas) else load_atlas(atlas)
    if space == "native":
        check_some_field(cohort, [TISSUE_COLUMNS[tissue] for tissue in present])
    measure = InTemplate(atlas) if space == "template" else InScan(atlas, label_images)
    volumes, failures = _measure_scans(cohort, atlas, tissues, present, measure, report)
    labels = _label_table(cohort, atlas, tissues, volumes)
    keys = [column for column in (*ID_COLUMNS, "region") if column in labels]
    columns = [f"{tissue}_ml" for tissue in tissues]
    regions = labels.groupby(keys, sort=False)[columns].agg(_sum_of_all).round(6).reset_index()
    not_measured = tuple(tissue for tissue in tissues if tissue not in present)
    return RoiTables(atlas, labels, regions, failures, not_measured, space)


def cohort_of_maps(folder: Path | str, known: Container[str] = ()) -> Cohort:
    """A cohort of the unsmoothed modulated maps in a folder, with the names of any program in `files.naming`.

    Parameters
    ----------
    folder : path
        Searched with its sub-folders.
    known : container of str
        Ids of the table that the scans will be joined to; see :func:`vbmstat.files.naming.by_known_ids`.

    Raises
    ------
    ScanError
        If the folder has no such map, or maps of several kinds.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"{folder}: no such folder"
        raise ScanError(msg)
    maps_of = {
        column: naming.by_known_ids(naming.find_maps(folder, naming.MAP_NUMBER[tissue], smoothed=False), known)
        for tissue, column in TISSUE_COLUMNS.items()
    }
    stems = sorted({stem for maps in maps_of.values() for stem in maps})
    if not stems:
        msg = (
            f"{folder}: no unsmoothed modulated map (mwp1*.nii.gz, mwc1*.nii, …), and smoothed ones give no volumes; "
            f"{images_instead(folder)}"
        )
        raise ScanError(msg)
    for kinds in filter(None, map(naming.several_kinds, maps_of.values())):
        msg = f"{folder}: the maps are of several kinds ({kinds}); keep only one kind there"
        raise ScanError(msg)
    ids = [naming.split_ids(stem) for stem in stems]
    if len(set(ids)) < len(ids):
        ids = [(stem, "") for stem in stems]
    index = pd.MultiIndex.from_tuples(ids, names=list(ID_COLUMNS))
    rows = {
        column: [str(maps[stem].relative_to(folder)) if stem in maps else None for stem in stems]
        for column, maps in maps_of.items()
        if maps
    }
    return Cohort(pd.DataFrame(rows, index=index), folder)


def write_rois(
    out: Path | str, rois: RoiTables, inputs: Sequence[Path] = (), label_images: Path | str | None = None
) -> list[Path]:
    """Write tidy and wide tables with data dictionaries, the licence note, and failures if any.

    All files appear together; ``STEM.json``, which lists them, comes last. Files listed by an earlier ``STEM.json``
    are removed.

    Parameters
    ----------
    out : path
        Folder; file names start with :attr:`RoiTables.stem`.
    rois : RoiTables
        From :func:`measure_rois`.
    inputs : sequence of path
        Input files to record with their sha256 (the cohort table).
    label_images : path, optional
        Folder with the label images of :func:`measure_rois`, on the same file system; it becomes ``STEM/``.

    Returns
    -------
    list of Path
        The tables written.

    Raises
    ------
    VbmstatError
        If an earlier ``STEM.json`` does not list its files.
    """
    out = Path(out)
    about = _about(rois, provenance("roi", {"atlas": rois.atlas.name, "space": rois.space}, inputs))
    lowest = rois.atlas.table.reset_index().groupby("region", sort=False)["label"].min()
    numbered = rois.regions.assign(label=rois.regions["region"].map(lowest))
    written = []
    record = f"{rois.stem}.json"
    with storage.replacing(out, record) as staged:
        for unit, tidy, wide in (
            ("labels", rois.labels, to_wide(rois.labels, "name")),
            ("regions", rois.regions, to_wide(numbered, "region")),
        ):
            for shape, table in (("", tidy), ("_wide", wide)):
                name = f"{rois.stem}_{unit}{shape}.tsv"
                dictionary.write_table(staged / name, table, "roi_wide" if shape else f"roi_{unit}", about=about)
                written.append(out / name)
        storage.write_text(staged / f"{rois.stem}_LICENCE.txt", licence_notice(rois.atlas) + "\n")
        if len(rois.failures):
            dictionary.write_table(staged / f"{rois.stem}_failures.tsv", rois.failures, "roi_failures")
        if label_images is not None:
            Path(label_images).rename(staged / rois.stem)
        storage.write_json(staged / record, about)
    return written


def to_wide(tidy: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per scan, with a column ``<name>_<tissue>_ml`` for each label or region, in the atlas's order.

    Parameters
    ----------
    tidy : DataFrame
        As in :class:`RoiTables`: one row per scan and `label`, or, without that column, per scan and name.
    column : str
        Column with the names. Where two names give the same column name, as ``Area 1`` and ``area-1`` do, the label's
        number is appended to both.

    Examples
    --------
    >>> tidy = pd.DataFrame({"participant_id": ["01"], "region": ["Gyrus Rectus"], "gm_ml": [5.0]})
    >>> to_wide(tidy, "region").to_dict("list")
    {'participant_id': ['01'], 'gyrus_rectus_gm_ml': [5.0]}
    >>> tidy = pd.DataFrame({"participant_id": "01", "label": [4, 9], "name": ["A 1", "a-1"], "gm_ml": [5.0, 6.0]})
    >>> to_wide(tidy, "name").to_dict("list")
    {'participant_id': ['01'], 'a_1_4_gm_ml': [5.0], 'a_1_9_gm_ml': [6.0]}
    """
    keys = [key for key in ID_COLUMNS if key in tidy]
    values = [name for name in tidy if str(name).endswith("_ml")]
    row = "label" if "label" in tidy else column
    rows = tidy.drop_duplicates(row)
    marks = rows["label"] if "label" in rows else range(1, len(rows) + 1)
    named = tell_apart([column_name(name) for name in rows[column]], [f"_{mark}" for mark in marks])
    wide = tidy.pivot_table(index=keys, columns=row, values=values, sort=False, dropna=False, aggfunc="first")
    wide = wide.reindex(columns=pd.MultiIndex.from_product([values, rows[row]]))
    wide.columns = [f"{name}_{value}" for value in values for name in named]
    scans = tidy[keys].drop_duplicates()
    return scans.merge(wide.reset_index(), on=keys, how="left", validate="one_to_one")


def column_name(name: str) -> str:
    """A label's name as a column name: lower case, words joined by underscores; ``label`` if it has no word.

    Examples
    --------
    >>> column_name("Area 4p (PreCG)")
    'area_4p_precg'
    """
    return "_".join("".join(letter if letter.isalnum() else " " for letter in name.lower()).split()) or "label"


def licence_notice(atlas: Atlas) -> str:
    """What the authors of an atlas allow, in one line."""
    return f"Atlas {atlas.name}: {atlas.licence}."


def _has_maps(cohort: Cohort, column: str) -> bool:
    return column in cohort.table and bool(cohort.table[column].notna().any())


def _measure_scans(
    cohort: Cohort,
    atlas: Atlas,
    tissues: Sequence[str],
    present: Sequence[str],
    measure: Callable[[Path, str], np.ndarray],
    report: OnProgress,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Volumes (n_scans, n_labels, n_tissues), NaN where not measured, and the failures."""
    volumes = np.full((len(cohort.table), len(atlas.table), len(tissues)), np.nan)
    failures = []
    for row, scan_id in enumerate(cohort.scan_ids):
        for tissue in present:
            entry = cohort.table[TISSUE_COLUMNS[tissue]].iloc[row]
            try:
                if pd.isna(entry):
                    msg = f"no {TISSUE_COLUMNS[tissue]} path in its row"
                    raise TableError(msg)
                volumes[row, :, tissues.index(tissue)] = measure(cohort.folder / str(entry), tissue)
            except VbmstatError as error:
                failures.append({"scan_id": scan_id, "tissue": tissue, "reason": str(error)})
        report("measuring regions", row + 1, len(cohort.table))
    missing = atlas.table.index.isin(atlas.absent)
    volumes[:, missing] = np.nan
    return volumes, pd.DataFrame(failures, columns=["scan_id", "tissue", "reason"])


def _label_table(cohort: Cohort, atlas: Atlas, tissues: Sequence[str], volumes: np.ndarray) -> pd.DataFrame:
    """The tidy table, scans in the cohort's order and labels in the atlas's."""
    n_scans, n_labels = volumes.shape[:2]
    ids = cohort.table.index.to_frame(index=False)
    if not ids["session_id"].any():
        ids = ids[["participant_id"]]
    left = ids.loc[np.repeat(np.arange(n_scans), n_labels)].reset_index(drop=True)
    names = atlas.table.reset_index()[["label", "hemisphere", "name", "region"]]
    middle = names.loc[np.tile(np.arange(n_labels), n_scans)].reset_index(drop=True)
    right = pd.DataFrame(volumes.reshape(n_scans * n_labels, -1), columns=[f"{tissue}_ml" for tissue in tissues])
    return pd.concat([left, middle, right.round(6)], axis=1)


def _sum_of_all(values: pd.Series) -> float:
    """Sum of a region's labels; missing if any of them is."""
    return float(values.sum(skipna=False))


def _about(rois: RoiTables, origin: dict[str, Any]) -> dict[str, Any]:
    """The record of the tables."""
    return {
        "atlas": rois.atlas.name,
        "licence": rois.atlas.licence,
        "space": rois.space,
        "labels_absent_from_the_image": list(rois.atlas.absent),
        "tissues_without_maps": list(rois.not_measured),
        "n_failures": len(rois.failures),
        "provenance": origin,
    }
