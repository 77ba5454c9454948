"""Columns of the cohort table that a model reads beside those of its formula: weights, strata, blocks, subjects."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from vbmstat.errors import TableError, listed
from vbmstat.glm.design.covariates import as_numbers, check_spelling
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.design.subjects import made_of
from vbmstat.maps.change import ChangeTerm, find_change, maps_of_change, one_row_each
from vbmstat.maps.sources import Source, with_columns
from vbmstat.tables.cells import labels, without_missing_words
from vbmstat.tables.cohort import closest, find_column, read_column
from vbmstat.tables.flow import Step


def column_name(name: str, table: pd.DataFrame) -> str:
    """The table's own name of a column or id level; see :func:`vbmstat.tables.cohort.find_column`.

    Raises
    ------
    TableError
        If there is none, with the nearest name.
    """
    actual = find_column(name, table)
    if actual is None:
        known = [*map(str, table.columns), *map(str, table.index.names)]
        msg = f"no column {name!r} in the table (nearest {closest(name, known) or 'none'})"
        raise TableError(msg)
    return actual


def with_design_rows(source: Source, design: Design) -> Source:
    """The source with the scans of a design; the flow says which covariate the others lack."""
    made = (one for name in design.covariates for one in made_of(str(name)))
    names = filter(None, (find_column(one, source.table) for one in made))
    empty = {name: without_missing_words(read_column(name, source.table)).isna().tolist() for name in names}
    gone = ~np.isin(source.scan_ids, design.scan_ids)
    why = {
        scan: ", ".join(f"no {name}" for name, missing in empty.items() if missing[row])
        for row, scan in enumerate(source.scan_ids) if gone[row]
    }  # fmt: skip
    return source.without("no value of a covariate", gone, why=why)


def people_table(design: Design, table: pd.DataFrame) -> pd.DataFrame:
    """The covariates of a design with age, sex and TIV of its scans' table, ``scan_id`` in front."""
    people = design.covariates.copy()
    known = {find_column(str(name), table) for name in people}
    for name in filter(None, (find_column(one, table) for one in ("age", "sex", "tiv"))):
        if name not in known and name not in people:
            people[name] = read_column(name, table).to_numpy()
    people.insert(0, "scan_id", list(design.scan_ids))
    return people.reset_index(drop=True)


def with_change(source: Source, term: ChangeTerm, used: Collection[str], missing: str) -> Source:
    """A source with one row a person, whose maps are changes over their scans.

    `used` are the other columns of the model; raises as :func:`find_change`, :func:`one_row_each` and `with_columns`.
    """
    term = term._replace(column=column_name(term.column, source.table))
    source = with_columns(source, {term.column: "change"}, missing)
    change, without = find_change(term, source.table, source.scan_ids)
    gone = np.isin(source.scan_ids, list(without))
    apart = sorted(set(source.table.index[gone].get_level_values("participant_id")) - set(change.of))
    source = source.without(f"no change over {term.column}", gone, why=without)
    note = (
        f"one row a person: {term.words}, of {len(change.of)} people with {len(change.scans)} scans; covariates that "
        "differ between their scans are means"
    )
    if apart:
        lacking = (
            f"scans at {term.later} and {term.earlier}" if term.later else f"two scans that differ in {term.column}"
        )
        note += f"; left out {len(apart)} people without {lacking}: {listed(apart)}"
    return replace(
        source, table=one_row_each(source.table, change, source.scan_ids, used), scan_ids=tuple(change.of),
        maps=None if source.maps is None else maps_of_change(source.maps, change), change=change,
        notes=(*source.notes, note), flow=(*source.flow, Step("one row a person", len(change.of))),
    )  # fmt: skip


def read_named(name: str, table: pd.DataFrame) -> pd.Series:
    """Values of a column or id level, one a scan; raises as :func:`column_name`."""
    return read_column(column_name(name, table), table)


def read_numbers(name: str, source: Source) -> pd.Series:
    """A column of numbers, float64, indexed by scan id; raises as :func:`column_name` and :func:`as_numbers`."""
    values = read_named(name, source.table).set_axis(list(source.scan_ids))
    return as_numbers(values, column_name(name, source.table))


def read_labels(name: str, table: pd.DataFrame) -> list[str]:
    """Values of a column as text, one a scan: subjects, whose ids may differ in letter case only."""
    return labels(read_named(name, table))


def read_groups(name: str, table: pd.DataFrame) -> list[str]:
    """Groups or strata of the scans; raises DesignError if two differ only in their spelling."""
    groups = read_labels(name, table)
    check_spelling(name, groups, "")
    return groups
