"""Write the volumes of a cohort: tidy and wide tables with their dictionaries, and the licence of the atlas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from vbmstat.assets.provenance import provenance
from vbmstat.files.filenames import tell_apart
from vbmstat.image import storage
from vbmstat.roi.atlas import SoftAtlas, licence_notice
from vbmstat.roi.table import RoiTables
from vbmstat.tables import dictionary
from vbmstat.tables.cohort import ID_COLUMNS
from vbmstat.tables.flow import flow_record


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
    about = {
        "atlas": rois.atlas.name, "licence": rois.atlas.licence, "space": rois.space,
        "labels_absent_from_the_image": list(rois.atlas.absent), "tissues_without_maps": list(rois.not_measured),
        "n_failures": len(rois.failures), "flow": flow_record(rois.flow),
        "provenance": provenance("roi", {"atlas": rois.atlas.name, "space": rois.space}, inputs),
    }  # fmt: skip
    if isinstance(rois.atlas, SoftAtlas):
        about["additive"] = "no: the regions are probabilities and overlap; do not add their volumes"
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
    >>> tidy = pd.DataFrame({"participant_id": ["01"], "region": ["Gyrus Rectus"], "roi_gm_ml": [5.0]})
    >>> to_wide(tidy, "region").to_dict("list")
    {'participant_id': ['01'], 'gyrus_rectus_gm_ml': [5.0]}
    >>> tidy = pd.DataFrame({"participant_id": "01", "label": [4, 9], "name": ["A 1", "a-1"], "roi_gm_ml": [5.0, 6.0]})
    >>> to_wide(tidy, "name").to_dict("list")
    {'participant_id': ['01'], 'a_1_4_gm_ml': [5.0], 'a_1_9_gm_ml': [6.0]}
    """
    keys = [key for key in ID_COLUMNS if key in tidy]
    values = [name for name in tidy if str(name).endswith(("_ml", "_mean", "_sd", "_voxels"))]
    row = "label" if "label" in tidy else column
    rows = tidy.drop_duplicates(row)
    marks = rows["label"] if "label" in rows else range(1, len(rows) + 1)
    named = tell_apart([column_name(name) for name in rows[column]], [f"_{mark}" for mark in marks])
    wide = tidy.pivot_table(index=keys, columns=row, values=values, sort=False, dropna=False, aggfunc="first")
    wide = wide.reindex(columns=pd.MultiIndex.from_product([values, rows[row]]))
    wide.columns = [f"{name}_{value.removeprefix('roi_')}" for value in values for name in named]
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
