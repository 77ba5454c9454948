"""Maps of change: one row a person, a linear combination of the maps of their scans, formed as chunks are read.

``change(gm, age)`` is the least-squares slope over a number, ``change(gm, time, post - pre)`` the mean of the scans at
one level minus that at another. The mask is that of the scans themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from vbmstat.errors import TableError, listed
from vbmstat.maps.store import ArrayMaps, PackedMaps, Scratch
from vbmstat.tables.cells import labels
from vbmstat.tables.cohort import read_column


class ChangeTerm(NamedTuple):
    """What ``change(gm, time, post - pre)`` asks for."""

    column: str
    later: str = ""  # the level that counts positive; empty for a slope over numbers
    earlier: str = ""

    @property
    def words(self) -> str:
        """What each map is."""
        return f"{self.later} minus {self.earlier}" if self.later else f"the least-squares slope over {self.column}"


@dataclass(frozen=True)
class Change:
    """Factors of the scans of each person: person -> scan -> factor."""

    of: Mapping[str, Mapping[str, float]]

    @cached_property
    def scans(self) -> tuple[str, ...]:
        """The scans, those of a person side by side."""
        return tuple(scan for factors in self.of.values() for scan in factors)

    def select(self, people: Collection[str]) -> Change:
        """The change of these people, in the order that they have."""
        return Change({person: self.of[person] for person in people})

    def combine(self, rows: np.ndarray) -> np.ndarray:
        """Rows of people, (n_people, v), from those of their scans in the order of `scans`, (n_scans, v)."""
        factors = np.array([factor for one in self.of.values() for factor in one.values()])
        starts = np.cumsum([0, *(len(one) for one in self.of.values())][:-1])
        return np.add.reduceat(rows * factors[:, None], starts, axis=0).astype(rows.dtype)


@dataclass(frozen=True)
class ChangeMaps(PackedMaps):
    """Packed maps of scans, read as maps of people, whose ids are `scan_ids`."""

    change: Change = Change({})

    @classmethod
    def of(cls, maps: PackedMaps, change: Change) -> ChangeMaps:
        """Maps of people from those of scans."""
        fields = {name: value for name, value in vars(maps.select(change.scans)).items() if name != "scan_ids"}
        return cls(**fields, scan_ids=tuple(change.of), change=change)

    @property
    def file_ids(self) -> tuple[str, ...]:
        """The scans whose files are read."""
        return self.change.scans

    def read(self, start: int, stop: int, scratch: Scratch | None = None) -> np.ndarray:
        """Columns ``start`` to ``stop``, (n_people, stop - start), float32."""
        return self.change.combine(super().read(start, stop, scratch))

    def select(self, scan_ids: Sequence[str]) -> ChangeMaps:
        """The rows of these people, in this order."""
        change, position = self.change.select(scan_ids), dict(zip(self.change.scans, self.rows, strict=True))
        rows = np.array([position[scan] for scan in change.scans], dtype=np.int64)
        return replace(self, scan_ids=tuple(scan_ids), rows=rows, change=change)


def maps_of_change(maps: ArrayMaps | PackedMaps, change: Change) -> ArrayMaps | ChangeMaps:
    """Maps of people from those of scans, in memory or packed."""
    if isinstance(maps, PackedMaps):
        return ChangeMaps.of(maps, change)
    chosen = maps.select(change.scans)
    return replace(chosen, data=change.combine(chosen.data), scan_ids=tuple(change.of))


def find_change(term: ChangeTerm, table: pd.DataFrame, scan_ids: Sequence[str]) -> tuple[Change, dict[str, str]]:
    """Factors of the scans of each person, and why the other scans have none.

    Parameters
    ----------
    term : ChangeTerm
        What is asked; its column is one of the table, without missing values.
    table : DataFrame
        One row a scan, indexed by (participant_id, session_id).
    scan_ids : sequence of str
        Names of the rows.

    Raises
    ------
    TableError
        If a slope is asked over text, a level is none of the column, or nobody has both.
    """
    values = read_column(term.column, table).set_axis(list(scan_ids))
    people = table.index.get_level_values("participant_id").to_numpy()
    if term.later:
        x = _of_levels(term, pd.Series(labels(values), values.index))
        why = f"no scan at {term.later} or {term.earlier}"
    elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        x, why = values.astype(float), f"one value of {term.column}"
    else:
        levels = ", ".join(dict.fromkeys(labels(values)))
        msg = f"change(…, {term.column}): {term.column} is text ({levels:.80}); for a difference of two levels write "
        msg += f"change(…, {term.column}, LATER - EARLIER)"
        raise TableError(msg)
    of: dict[str, dict[str, float]] = {}
    without: dict[str, str] = {}
    for person, own in x.groupby(people, sort=True):
        away = own.dropna() - own.dropna().mean()
        if len(away) and away.abs().max() > 1e-9 * max(own.abs().max(), 1):
            of[str(person)] = (away / (away**2).sum()).to_dict() if not term.later else _difference(own.dropna())
            without |= dict.fromkeys(own.index[own.isna()], "another level")
        else:
            without |= dict.fromkeys(own.index, why)
    if not of:
        msg = f"change(…, {term.column}): nobody has two scans that differ in it ({why}: {listed(list(without))})"
        raise TableError(msg)
    return Change(of), without


def _of_levels(term: ChangeTerm, found: pd.Series) -> pd.Series:
    """1 at the later level, 0 at the earlier one, else missing; sessions are named with or without ses-."""
    codes = {}
    for level, code in ((term.earlier, 0.0), (term.later, 1.0)):
        names = [name for name in (level, f"ses-{level}") if (found == name).any()]
        if not names:
            has = listed([str(name) for name in found.dropna().unique()])
            msg = f"change(…, {term.column}, …): no {level!r} in the column {term.column}, which has {has}"
            raise TableError(msg)
        codes[names[0]] = code
    return found.map(codes)


def _difference(levels: pd.Series) -> dict[str, float]:
    """Factors of the mean at level 1 minus that at 0."""
    factors = levels / levels.sum() - (1 - levels) / (1 - levels).sum()
    return dict(zip(factors.index, factors.tolist(), strict=True))


def one_row_each(table: pd.DataFrame, change: Change, scan_ids: Sequence[str], used: Collection[str]) -> pd.DataFrame:
    """Covariates of each person: numbers as means over their scans, other columns where the scans agree.

    Raises
    ------
    TableError
        If a column that is `used` differs between scans of a person and holds no numbers.
    """
    person = {scan: one for one, factors in change.of.items() for scan in factors}
    rows = table.loc[[scan in person for scan in scan_ids]]
    people = pd.Index([person[scan] for scan in scan_ids if scan in person], name="participant_id")
    columns = {}
    for name, column in rows.items():
        groups = column.set_axis(people).groupby(level=0, sort=False)
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            columns[name] = groups.mean()
            continue
        varies = groups.nunique(dropna=False) > 1
        if name in used and varies.any():
            msg = (
                f"column {name}: differs between the scans of {listed(list(varies.index[varies]))}; a model of change "
                "has one row a person, so leave it out of the formula"
            )
            raise TableError(msg)
        columns[name] = groups.first().mask(varies)
    each = pd.DataFrame(columns).reindex(list(change.of))
    each.index = pd.MultiIndex.from_tuples([(one, "") for one in change.of], names=table.index.names)
    return each
