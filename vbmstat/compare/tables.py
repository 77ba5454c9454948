"""Agreement of two tables of region volumes, joined by scan and label."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.metrics.agreement import agreement
from vbmstat.tables.cohort import ID_COLUMNS

ROI_MEASURES = ("n_scans", "mean_a_ml", "mean_b_ml", "r", "ccc", "slope", "intercept", "sd_ratio", "bias", "loa_low",
                "loa_high")  # fmt: skip


def join_rois(a: pd.DataFrame, b: pd.DataFrame, by: str) -> pd.DataFrame:
    """Join two tidy ROI tables by scan and label (or region), never by position.

    Parameters
    ----------
    a, b : DataFrame
        Columns participant_id (session_id), `by`, and volumes ``gm_ml`` ….
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
        msg = "the tables have no measured tissue in common (gm_ml, wm_ml, csf_ml)"
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
        joined[[*keys, *text]].assign(tissue=tissue[:-3], a_ml=joined[f"{tissue}_a"], b_ml=joined[f"{tissue}_b"])
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


def _with_session(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a session column and ids as text."""
    table = table.copy()
    table["session_id"] = table["session_id"].fillna("").astype(str) if "session_id" in table else ""
    table["participant_id"] = table["participant_id"].astype(str)
    return table
