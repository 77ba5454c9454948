"""Which kind of maps a table's columns hold: of single scans, or of time points by a longitudinal model."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.files.map_kinds import MAP_NUMBER, modulated_kind, parse_kind
from vbmstat.tables.cohort import Cohort


def model_of_columns(columns: list[str], table: pd.DataFrame, response: str) -> str:
    """The longitudinal model of columns of maps, empty for those of single scans; refuses several."""
    first = {parsed.model: name for name in reversed(columns) if (parsed := parse_kind(name))}
    if len(first) > 1:
        kinds = ", ".join(f"{name}: {table[name].notna().sum()} scans" for name in reversed(first.values()))
        lacking = any(table[name].isna().any() for name in first.values())
        leave_out = ', and leave scans out that have none, as with --where "time_points > 1"' if lacking else ""
        what = f"formula: {response} may be maps of several kinds ({kinds})"
        msg = f"{what}; write the column that is meant on the left{leave_out}"
        raise TableError(msg)
    return next(iter(first), "")


def with_unsmoothed_maps(cohort: Cohort) -> Cohort:
    """The cohort with the unsmoothed maps of its time points in the columns of single scans.

    Those of the model of ageing are taken, in which a region is the same tissue at all times; else those of plasticity.

    Raises
    ------
    TableError
        If other scans have maps of another kind.
    """
    table = cohort.table
    for number in MAP_NUMBER.values():
        kinds = [modulated_kind(number, model) for model in ("ageing", "plasticity", "")]
        n_scans = {
            kind: int(table[kind].notna().sum()) for kind in kinds if kind in table and table[kind].notna().any()
        }
        taken = next(iter(n_scans), kinds[-1])
        if taken == kinds[-1]:
            continue
        if (table[[*n_scans]].notna().any(axis=1) & table[taken].isna()).any():
            found = ", ".join(f"{kind}: {n} scans" for kind, n in n_scans.items())
            msg = f'the maps are of several kinds ({found}); leave one out, as with --where "time_points > 1"'
            raise TableError(msg)
        table = table.assign(**{kinds[-1]: table[taken]})
    return replace(cohort, table=table)
