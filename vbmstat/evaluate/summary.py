"""Summaries of a comparison of output folders: medians and worst scans, ages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat.evaluate.measures import KEYS, TRUTH
from vbmstat.files import naming
from vbmstat.tables.cohort import read_table

CHILD_YEARS, OLD_YEARS = 18.0, 80.0  # the template and most training data are from adults in this range
HIGH_IS_BAD = ("mse_to_template", "linear_elasticity", "published_elasticity", "jacobian_max")


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Long table: folder, reference, measure, n_scans, median, min, max, worst_scan."""
    long = table.melt(id_vars=KEYS, var_name="measure", value_name="value").dropna(subset="value")
    rows = []
    for (folder, reference, measure), group in long.groupby(["folder", "reference", "measure"], sort=False):
        values = group["value"].astype(float)
        worst = values.idxmax() if measure in HIGH_IS_BAD else values.idxmin()
        rows.append({
            "folder": folder, "reference": reference, "measure": measure, "n_scans": len(values),
            "median": values.median(), "min": values.min(), "max": values.max(), "worst_scan": group["scan"][worst],
        })  # fmt: skip
    return pd.DataFrame(rows)


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
    overlap = summary[summary["measure"] == "dice_gm"].sort_values("reference", key=lambda names: names != TRUTH)
    fit = summary[(summary["measure"] == "mse_to_template") & ~summary["folder"].isin(summary["reference"])]
    rows = pd.concat([overlap, fit]).drop_duplicates("folder")
    order = list(summary["folder"].unique())
    return rows.sort_values("folder", key=lambda names: names.map(order.index))


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
