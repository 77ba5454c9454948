"""What the program says of each covariate: a line on its coding, and notes on what a reader should look at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import listed
from vbmstat.glm.design.covariates import is_number
from vbmstat.glm.design.sites import is_site_name
from vbmstat.tables import cells
from vbmstat.tables.cohort import is_id_name
from vbmstat.tables.missing_codes import is_missing_code, suspects

_MAX_LEVELS_SHOWN = 8
_MAX_CODES = 10  # at most so many different whole numbers, with three scans per value: ask if it is a factor
_NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SEXES = ("sex", "gender")  # columns in which two levels are expected
_NEARLY_ALL = 2 / 3  # levels per scan; with more, text may be misread numbers
_MOST_GROUPS = 6  # up to so many levels are accepted for any number of scans


@dataclass(frozen=True)
class Covariate:
    """How one column is coded."""

    name: str  # as in the formula
    kind: str  # in the model: number or factor
    # of a factor ``levels`` (label -> scans) and ``reference``; of a number ``range`` and ``n_values``
    values: Mapping[str, Any]
    line: str  # the same in words
    # what a reader should look at: codes for missing values, words that may mean missing, text like numbers
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """Its entry in ``glm.json``."""
        return {"name": self.name, "kind": self.kind, **self.values, "line": self.line}


def describe(column: pd.Series, use: Collection[str], reference: str | None, remark: str | None) -> Covariate:
    """How a column is coded, and what to look at in it.

    Parameters
    ----------
    column : Series
        As :func:`vbmstat.glm.design.covariates.code_columns` returns it.
    use : collection of str
        How the formula uses it, as for `code_columns`.
    reference : str, optional
        Reference level of a factor.
    remark : str, optional
        How its cells were read.
    """
    name = str(column.name)
    if is_number(column) and "factor" not in use:
        return _describe_number(name, column, use, remark)
    text = pd.Series(cells.labels(column), column.index, dtype=object)
    counts = {level: int((text == level).sum()) for level in cells.sorted_labels(text)}
    reference = None if reference is None else cells.label(reference)
    shown = [f"{level} {n}{' (reference)' if level == reference else ''}" for level, n in counts.items()]
    more = f" and {len(shown) - _MAX_LEVELS_SHOWN} more levels" if len(shown) > _MAX_LEVELS_SHOWN else ""
    line = f"{name}: factor {', '.join(shown[:_MAX_LEVELS_SHOWN])}{more}{f'; {remark}' if remark else ''}"
    notes = _notes_on_codes(name, text, reference)
    has_own_names = "factor" in use or is_id_name(name) or is_site_name(name)
    if not has_own_names and len(counts) > max(_MOST_GROUPS, _NEARLY_ALL * len(text) - 1e-9):
        notes.append(
            f"{name}: text with {len(counts)} levels in {len(text)} scans, e.g. {text.iloc[0]!r}, is taken as a "
            "factor; write plain numbers if it is a number"
        )
    if not is_number(column):
        like_numbers = [] if notes or has_own_names else _notes_on_numbers(name, text)
        notes += [_note_on_level(name, text, word) for word in dict.fromkeys(text) if cells.may_mean_missing(word)]
        notes += like_numbers
    notes += _notes_on_sexes(name, counts)
    return Covariate(name, "factor", {"levels": counts, "reference": reference}, line, tuple(notes))


def _describe_number(name: str, column: pd.Series, use: Collection[str], remark: str | None) -> Covariate:
    values = column.to_numpy(dtype=float)
    each = np.unique(values)
    low, high = float(each[0]), float(each[-1])
    is_repeated = len(values) >= 3 * len(each) or (len(values) >= 2 * len(each) > high - low)
    is_code = 2 < len(each) <= _MAX_CODES and is_repeated and bool((each == np.round(each)).all())
    parts = [f"{name}: number{'' if is_code else ','} {_shown(low)}–{_shown(high)}"]
    if is_code or len(each) == 2:
        parts.append(f"{_NUMERALS[len(each)]} values")
    if remark:
        parts.append(remark)
    hint = f": C({name}) for a factor?" if is_code and "plain" in use else ""
    content = {"range": [low, high], "n_values": len(each)}
    return Covariate(name, "number", content, ", ".join(parts) + hint, tuple(_notes_on_outliers(name, column)))


def _notes_on_codes(name: str, text: pd.Series, reference: str | None) -> list[str]:
    """Notes on levels that are numbers for "no value": beside words, or apart from other numbers."""
    if is_id_name(name):
        return []
    numbers = cells.numbers_in(text)
    if numbers.notna().all():
        return _notes_on_outliers(name, numbers, reference)
    codes = cells.sorted_labels(text[numbers.map(is_missing_code)])
    return [_note_on_level(name, text, level, ", the reference" if level == reference else "") for level in codes]


def _note_on_level(name: str, text: pd.Series, level: str, role: str = "") -> str:
    scans = listed(text.index[text == level])
    return f"{name}: {level!r} of {scans} is taken as a level{role}; write n/a if it means missing"


def _notes_on_sexes(name: str, counts: Mapping[str, int]) -> list[str]:
    """A note on a third level of sex, which may be another spelling of one of the two."""
    levels = [
        level for level in counts
        if not cells.may_mean_missing(level) and not cells.numbers_in(pd.Series([level])).map(is_missing_code).all()
    ]  # fmt: skip
    if name.casefold() not in _SEXES or len(levels) <= 2:
        return []
    shown = ", ".join(f"{level!r} {counts[level]}" for level in levels[:_MAX_LEVELS_SHOWN])
    return [f"{name}: {len(levels)} levels ({shown}); if some are spellings of one, write them alike in the table"]


def _notes_on_numbers(name: str, text: pd.Series) -> list[str]:
    """A note where each level of a factor is another number, or some are numbers and some words."""
    levels = [level for level in dict.fromkeys(text) if not cells.may_mean_missing(level)]
    read = [cells.number_with_word(cells.unquoted(level)) for level in levels]
    numbers = {one[0] for one in read if one is not None}
    if all(read) and len(numbers) == len(levels) > 1:
        return [f"{name}: text like numbers, e.g. {levels[0]!r}, is taken as levels of a factor"]
    plain = [level for level, one in zip(levels, read, strict=True) if one is not None and not one[1]]
    if all(read) or not plain:
        return []
    scans = listed(text.index[text == plain[0]])
    return [f"{name}: {plain[0]!r} of {scans} looks like a number, and is taken as a level"]


def _notes_on_outliers(name: str, numbers: pd.Series, reference: str | None = None) -> list[str]:
    """Notes on numbers, also levels of a factor, that may stand for missing values."""
    notes = []
    for value, (low, high) in suspects(numbers.to_numpy(dtype=float)).items():
        others = _shown(low) if low == high else f"{_shown(low)}–{_shown(high)}"
        role = " and is the reference level" if reference == cells.label(value) else ""
        notes.append(
            f"{name}: {_shown(value)} of {listed(numbers.index[numbers == value])} lies apart from all others "
            f"({others}){role}; write n/a if it means missing"
        )
    return notes


def _shown(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
