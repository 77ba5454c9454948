"""Compare two tables of region volumes, joined by scan and label."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.compare.pairs import Comparison, Names
from vbmstat.errors import TableError, listed
from vbmstat.files.naming import scan_id
from vbmstat.image import storage
from vbmstat.metrics.agreement import agreement, match_ids
from vbmstat.roi.table import TISSUE_COLUMNS, volume_column
from vbmstat.tables.cohort import ID_COLUMNS, read_table
from vbmstat.tables.selection import ALL, Selection, select_ids

ROI_MEASURES = ("n_scans", "mean_a_ml", "mean_b_ml", "r", "ccc", "slope", "intercept", "sd_ratio", "bias", "loa_low",
                "loa_high")  # fmt: skip


def compare_rois(a: Path, b: Path, names: Names, rules: Selection = ALL) -> Comparison:
    """Compare tidy ROI tables of ``vbmstat roi`` (labels or regions), joined by scan and label.

    Raises
    ------
    TableError
        If columns are missing, the atlases differ, or nothing is in common.
    """
    tables = [read_rois(path) for path in (a, b)]
    by = "label" if all("label" in table for table in tables) else "region"
    lacking = [path for path, table in zip((a, b), tables, strict=True) if by not in table]
    if lacking or "label" in tables[0].columns.symmetric_difference(tables[1].columns):
        msg = f"{a} and {b}: one has labels, the other merged regions; compare two of a kind (roi_ATLAS_labels.tsv)"
        raise TableError(msg)
    _refuse_other_atlas(a, b)
    scans = [list(dict.fromkeys(scan_ids(table))) for table in tables]
    both = match_ids(scans[0], scans[1])
    selected = select_ids(both, rules, [a.parent, b.parent])
    common, notes = selected.scan_ids, list(selected.notes)
    tables = [table[[scan in set(common) for scan in scan_ids(table)]] for table in tables]
    for which, ids, table, other in (("A", scans[0], *tables), ("B", scans[1], *tables[::-1])):
        spare = [scan for scan in ids if scan not in set(both)]
        if spare:
            notes.append(f"only {which} has {len(spare)} scans ({listed(spare)})")
        gone = [str(name) for name in dict.fromkeys(table[by]) if name not in set(other[by])]
        if gone:
            notes.append(f"only {which} has the {by}s {listed(gone)}; they are left out")
    joined = join_rois(tables[0], tables[1], by)
    table = roi_agreement(joined, by)
    notes += _vanished(table, by, len(common))
    summary = pd.DataFrame([_roi_summary(tissue, part, by) for tissue, part in table.groupby("tissue", sort=False)])
    return Comparison("rois", names, table, summary, tuple(notes), values=joined, by=by)


def read_rois(path: Path) -> pd.DataFrame:
    """A tidy ROI table with labels as whole numbers.

    Raises
    ------
    TableError
        If it lacks participant_id, label or region, or a volume in mL.
    """
    table = read_table(path)
    old = {f"{tissue}_ml": volume_column(tissue) for tissue in TISSUE_COLUMNS if volume_column(tissue) not in table}
    table = table.rename(columns=old)  # tables of versions before 0.1 have gm_ml, as the cohort's
    has_key = "label" in table or "region" in table
    volumes = [name for name in map(volume_column, TISSUE_COLUMNS) if name in table]
    if "participant_id" not in table or not has_key or not volumes:
        msg = (
            f"{path}: expected the tidy table of vbmstat roi (participant_id, label or region, roi_gm_ml …), "
            f"got {', '.join(map(str, table.columns[:6]))} …"
        )
        raise TableError(msg)
    if "label" in table:
        labels = pd.to_numeric(table["label"], errors="coerce")
        if labels.isna().any() or (labels != labels.round()).any():
            msg = f"{path}: expected a whole number in every row of label"
            raise TableError(msg)
        table["label"] = labels.astype(int)
    return table


def join_rois(a: pd.DataFrame, b: pd.DataFrame, by: str) -> pd.DataFrame:
    """Join two tidy ROI tables by scan and label (or region), never by position.

    Parameters
    ----------
    a, b : DataFrame
        Columns participant_id (session_id), `by`, and volumes ``roi_gm_ml`` ….
    by : {"label", "region"}
        Key of a row beside the scan. Labels are compared as numbers, regions as text.

    Returns
    -------
    DataFrame
        Tidy: participant_id, session_id, `by` (and region or name), tissue, a_ml, b_ml; a row for every scan and
        label in both tables, without missing volumes.

    Raises
    ------
    TableError
        If a row occurs twice, no row is in common, a label has two names, or no tissue is in common.
    """
    a, b = _with_session(a), _with_session(b)
    keys = [*ID_COLUMNS, by]
    for table, which in ((a, "A"), (b, "B")):
        twice = table[table.duplicated(keys)]
        if len(twice):
            msg = f"{which}: two rows for {', '.join(map(str, twice.iloc[0][keys]))}; keep one row per scan and {by}"
            raise TableError(msg)
    tissues = [c for c in a.columns if str(c).endswith("_ml") and c in b and a[c].notna().any() and b[c].notna().any()]
    if not tissues:
        msg = "the tables have no measured tissue in common (roi_gm_ml, roi_wm_ml, roi_csf_ml)"
        raise TableError(msg)
    text = [c for c in ("name", "region") if c in a and c in b and c != by]
    joined = a[[*keys, *text, *tissues]].merge(b[[*keys, *text, *tissues]], on=keys, suffixes=("_a", "_b"))
    if joined.empty:
        msg = f"the tables have no scan and {by} in common"
        raise TableError(msg)
    for column in text:
        other = joined[joined[f"{column}_a"] != joined[f"{column}_b"]]
        if len(other):
            row = other.iloc[0]
            msg = (
                f"{by} {row[by]} is {row[f'{column}_a']!r} in A and {row[f'{column}_b']!r} in B: "
                "expected tables of the same atlas"
            )
            raise TableError(msg)
        joined = joined.rename(columns={f"{column}_a": column}).drop(columns=f"{column}_b")
    parts = [
        joined[[*keys, *text]].assign(
            tissue=tissue.removeprefix("roi_").removesuffix("_ml"),
            a_ml=joined[f"{tissue}_a"],
            b_ml=joined[f"{tissue}_b"],
        )
        for tissue in tissues
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset=["a_ml", "b_ml"]).reset_index(drop=True)


def roi_agreement(joined: pd.DataFrame, by: str) -> pd.DataFrame:
    """Agreement over scans for each region and tissue.

    Parameters
    ----------
    joined : DataFrame
        From :func:`join_rois`.
    by : {"label", "region"}
        Key of a row beside the scan.

    Returns
    -------
    DataFrame
        Columns `by` (name, region), tissue and `ROI_MEASURES`, in the order in which regions occur.
    """
    keys = [by, *[c for c in ("name", "region") if c in joined and c != by], "tissue"]
    rows = []
    for key, part in joined.groupby(keys, sort=False):
        a, b = part["a_ml"].to_numpy(float), part["b_ml"].to_numpy(float)
        measures = asdict(agreement(a, b))
        row = {"n_scans": measures.pop("n"), "mean_a_ml": float(a.mean()), "mean_b_ml": float(b.mean()), **measures}
        rows.append({**dict(zip(keys, key, strict=True)), **row})
    return pd.DataFrame(rows, columns=[*keys, *ROI_MEASURES])


def scan_ids(table: pd.DataFrame) -> list[str]:
    """Participant and session of each row, joined by an underscore."""
    keys = _with_session(table)[list(ID_COLUMNS)].itertuples(index=False)
    return [scan_id(key) for key in keys]


def _with_session(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a session column and ids as text."""
    table = table.copy()
    table["session_id"] = table["session_id"].fillna("").astype(str) if "session_id" in table else ""
    table["participant_id"] = table["participant_id"].astype(str)
    return table


def _refuse_other_atlas(a: Path, b: Path) -> None:
    """Refuse tables of different atlases, which their data dictionaries name."""
    atlases = []
    for path in (a, b):
        try:
            atlases.append(storage.read_json(path.with_suffix(".json"))["vbmstat"]["atlas"])
        except (OSError, ValueError, KeyError, TypeError):
            return
    if atlases[0] != atlases[1]:
        msg = f"{a} is of the atlas {atlases[0]}, {b} of {atlases[1]}; measure both in one atlas (vbmstat roi --atlas)"
        raise TableError(msg)


def _vanished(table: pd.DataFrame, by: str, n_scans: int) -> list[str]:
    short = table[table["n_scans"] < n_scans]
    rows = [f"{getattr(row, by)} {row.tissue} ({row.n_scans} scans)" for row in short.itertuples()]
    return [f"volumes are missing in some scans: {listed(rows)}"] if rows else []


def _roi_summary(tissue: Any, part: pd.DataFrame, by: str) -> dict[str, Any]:
    known = part.dropna(subset="r")
    worst = known.loc[known["r"].idxmin()] if len(known) else None
    name = next(column for column in ("name", "region", by) if column in part)
    return {
        "tissue": tissue, "n_regions": len(part), "n_scans": int(part["n_scans"].max()),
        "median_r": part["r"].median(), "min_r": part["r"].min(), "of": None if worst is None else worst[name],
        "n_r_above_0.9": int((part["r"] > 0.9).sum()), "median_slope": part["slope"].median(),
    }  # fmt: skip
