"""Covariates: how each column that a formula uses is taken, as numbers or as a factor, and what is said about it.

Nothing is recoded in silence: what cannot be one or the other without a guess is refused, with the way out; what was
decided stands in a line of each covariate, which the command prints, ``glm.json`` keeps and the report shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError, TableError, listed
from vbmstat.glm.design.sites import is_site_name
from vbmstat.tables import cells
from vbmstat.tables.cohort import is_id_name, is_tiv_name
from vbmstat.tables.missing_codes import is_missing_code, suspects

TIV_RANGE_ML = (300.0, 5000.0)  # beyond: litres or mm³
_MAX_LISTED = 12
_MAX_LEVELS_SHOWN = 8
_MAX_CODES = 10  # so many whole numbers may be codes of groups, if each has three scans, or two and few are left out
_MOST_LIKE_NUMBERS = 4  # different numbers in a column of text that may still be names of groups (1.5T, 3T)
_NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_SEXES = ("sex", "gender")  # columns of which two levels are expected
_NEARLY_ALL = 2 / 3  # levels, relative to the scans, from which on text may be misread numbers
_MOST_GROUPS = 6  # levels that are not told as too many, however few the scans


@dataclass(frozen=True)
class Covariate:
    """How one column is taken.

    Attributes
    ----------
    name : str
        As in the formula.
    kind : {"number", "factor"}
        What it is in the model.
    values : dict
        Of a factor ``levels`` (label -> scans) and ``reference``; of a number ``range`` and ``n_values``.
    line : str
        The same in words.
    notes : tuple of str
        What a reader should look at: codes for missing values, words that may mean missing, text like numbers.
    """

    name: str
    kind: str
    values: Mapping[str, Any]
    line: str
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What goes into ``glm.json``."""
        return {"name": self.name, "kind": self.kind, **self.values, "line": self.line}


def take(data: pd.DataFrame, uses: Mapping[str, Collection[str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Numbers as float64 and text as factors with sorted levels.

    Parameters
    ----------
    data : DataFrame
        The columns of a formula without missing values, indexed by scan id.
    uses : mapping of str to collection of str
        How the formula uses each column: ``plain``, ``factor`` (``C(name)``) or ``expression`` (any other function).

    Returns
    -------
    data : DataFrame
        float64 or categorical.
    remarks : dict
        Column -> how its cells were read, where that is not as they stand.

    Raises
    ------
    TableError
        If a column is text that looks like numbers, or TIV has an impossible unit.
    DesignError
        If a factor has one level, or levels that differ only in letter case or blanks.
    """
    data, remarks = data.copy(), {}
    for name in map(str, data):
        column, use = data[name], uses.get(name, ("plain",))
        if set(use) == {"plain"} and (is_site_name(name) or is_id_name(name)):
            text = pd.Series(cells.labels(column), column.index, dtype=object)
            data[name] = _factor(name, text, use)
            if cells.numbers_in(text).notna().all():
                remarks[name] = f"numbers of a {name} are names; I({name}) takes them as numbers"
        elif _is_number(column):
            is_level = set(use) == {"factor"} and bool((column == column.round()).all())
            data[name] = column.astype(np.int64 if is_level else float)  # C(site)[T.2], not C(site)[T.2.0]
        else:
            text = pd.Series(cells.labels(column), column.index, dtype=object)
            numbers, remark = _numbers_of_text(name, text, use, f", or C({name}) for a factor")
            data[name] = _factor(name, text, use) if numbers is None else numbers
            if remark:
                remarks[name] = remark
        if is_tiv_name(name) and _is_number(data[name]):
            check_tiv_unit(data[name])
    return data, remarks


def describe(
    data: pd.DataFrame, uses: Mapping[str, Collection[str]], references: Mapping[str, str], remarks: Mapping[str, str]
) -> tuple[Covariate, ...]:
    """One line a covariate on how it is taken.

    Parameters
    ----------
    data : DataFrame
        As :func:`take` returns it.
    uses : mapping
        As for :func:`take`.
    references : mapping of str to str
        Column -> reference level, of factors that have one.
    remarks : mapping of str to str
        From :func:`take`.
    """
    taken = []
    for name in map(str, data):
        column, use, remark = data[name], uses.get(name, ("plain",)), remarks.get(name)
        if _is_number(column) and "factor" not in use:
            taken.append(_describe_number(name, column, use, remark))
        else:
            taken.append(_describe_factor(name, column, use, references.get(name), remark))
    return tuple(taken)


def as_numbers(column: pd.Series, name: str) -> pd.Series:
    """A column that must be numbers, such as weights, as float64.

    Parameters
    ----------
    column : Series
        Indexed by scan id.
    name : str
        For messages.

    Raises
    ------
    TableError
        If it is text that is no number.
    """
    if _is_number(column):
        return column.astype(float)
    text = pd.Series(cells.labels(column.dropna()), column.dropna().index, dtype=object)
    numbers, _ = _numbers_of_text(name, text, ("expression",), "")
    if numbers is None:
        bad = text[cells.numbers_in(text).isna()] if cells.numbers_in(text).isna().any() else text
        msg = f"column {name}: expected numbers, got {_cells_listed(bad)}; correct them or write n/a"
        raise TableError(msg)
    return numbers.reindex(column.index)


def check_tiv_unit(column: pd.Series) -> None:
    """Refuse TIV that cannot be in mL, a column indexed by scan id.

    Raises
    ------
    TableError
        If the median or a value lies beyond `TIV_RANGE_ML`.
    """
    median = float(column.median())
    low, high = TIV_RANGE_ML
    if low <= median <= high:
        odd = column.index[(column < low) | (column > high)]
        if len(odd):
            where = f"outside {low:g}–{high:g} mL"
            msg = f"TIV of {listed(odd)} lies {where}: a failed scan or mixed units; correct or leave out"
            raise TableError(msg)
        return
    unit, factor = ("mm³", "divide by 1000") if median > high else ("litres", "multiply by 1000")
    msg = f"column {column.name}: median {median:g} looks like {unit}, expected mL; {factor}"
    raise TableError(msg)


def check_spelling(name: str, words: Sequence[str], cure: str) -> None:
    """Refuse levels that only letter case, blanks or the like tell apart.

    Parameters
    ----------
    name : str
        The column.
    words : sequence of str
        Its value for each scan.
    cure : str
        What to do if they are meant to differ.

    Raises
    ------
    DesignError
        If there are such levels.
    """
    groups = cells.same_but_for_spelling(words)
    if groups:
        n_scans = Counter(words)
        which = "; ".join(" and ".join(f"{word!r} ({n_scans[word]} scans)" for word in one) for one in groups)
        how = "differ only in letter case, blanks or a full stop, or look alike"
        msg = f"column {name}: {which} {how}; spell them alike in the table{cure}"
        raise DesignError(msg)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _factor(name: str, text: pd.Series, use: Collection[str]) -> pd.Series:
    """Text as categories in order; refused with one level or with several spellings of one."""
    if "factor" not in use:
        check_spelling(name, text.tolist(), f", or write C({name}) to keep them apart")
    levels = cells.sorted_labels(text)
    if len(text) and len(levels) < 2:
        msg = f"factor {name} has the one level {levels[0]!r} in these {len(text)} scans; leave it out of the formula"
        raise DesignError(msg)
    return pd.Series(pd.Categorical(text, categories=levels), text.index, name=name)


def _numbers_of_text(
    name: str, text: pd.Series, use: Collection[str], way_out: str
) -> tuple[pd.Series | None, str | None]:
    """Text as numbers where it can be nothing else, with how it was read; None where it is a factor.

    Parameters
    ----------
    name : str
        The column.
    text : Series of str
        Indexed by scan id.
    use : collection of str
        As for :func:`take`.
    way_out : str
        End of the messages: how the column can be had as a factor.

    Raises
    ------
    TableError
        Where it is neither for certain.
    """
    if "factor" in use or is_id_name(name) or text.empty:
        return None, None
    inner = text.map(cells.unquoted)
    numbers, padded = cells.numbers_in(inner), cells.is_padded(inner)
    if numbers.notna().all():
        if padded.any() and not _is_code(inner):
            where = text.index[padded][0]
            msg = (
                f"column {name}: {text[where]!r} of {where} has a zero in front, others have none; write it without "
                f"for numbers{way_out}"
            )
            raise TableError(msg)
        if padded.any():
            return None, f"text such as {text.iloc[0]!r}"
        quoted = text[inner != text]
        return numbers.rename(name), f"read without the quotation marks of {quoted.iloc[0]}" if len(quoted) else None
    _refuse_half_numbers(name, text, inner, way_out)
    return None, None


def _is_code(text: pd.Series) -> bool:
    """Whether all are digits of one length: 01, 02 … 12."""
    return bool(text.str.fullmatch(r"\d+").all()) and text.str.len().nunique() == 1


def _refuse_half_numbers(name: str, text: pd.Series, inner: pd.Series, way_out: str) -> None:
    """Refuse text that a person would take for numbers: separators, typing mistakes, units."""
    grouped = text[inner.map(cells.has_thousands)]
    commas = cells.numbers_in(inner, decimal_comma=True)
    is_number = cells.numbers_in(inner).notna() | text.index.isin(grouped.index)
    if len(grouped) and is_number.mean() > 0.5 and not cells.is_decimal_comma(inner):
        msg = (
            f"column {name}: {grouped.iloc[0]!r} of {grouped.index[0]} seems to have a separator of thousands; "
            f"write plain numbers with a decimal point (1502.3){way_out}"
        )
        raise TableError(msg)
    if commas.notna().all():
        rows = text.index[cells.numbers_in(inner).isna()]
        msg = f"column {name}: decimal commas (e.g. {text[rows[0]]!r} of {rows[0]}); write points{way_out}"
        raise TableError(msg)
    plain = commas.where(~cells.is_padded(inner))
    if plain.notna().mean() > 0.5 or plain.nunique() > _MOST_LIKE_NUMBERS:
        bad = _cells_listed(text[plain.isna()])
        msg = f"column {name}: expected numbers, got {bad}; correct them, write n/a{way_out}"
        raise TableError(msg)
    like = [cells.number_with_word(word) for word in inner if not cells.may_mean_missing(word)]
    found = [one for one in like if one is not None]
    units = {unit for _, unit in found if unit}
    if len(found) == len(like) and len(units) <= 1 and len({number for number, _ in found}) > _MOST_LIKE_NUMBERS:
        what = "dates; write years or days as numbers" if units == {"date"} else (
            "numbers with a unit or sign; write the numbers alone"
        )  # fmt: skip
        msg = f"column {name}: {text.iloc[0]!r} of {text.index[0]} and others look like {what}{way_out}"
        raise TableError(msg)


def _cells_listed(bad: pd.Series) -> str:
    shown = ", ".join(f"{scan}: {value!r}" for scan, value in bad.iloc[:_MAX_LISTED].items())
    return shown + (f" and {len(bad) - _MAX_LISTED} more" if len(bad) > _MAX_LISTED else "")


def _describe_factor(
    name: str, column: pd.Series, use: Collection[str], reference: str | None, remark: str | None
) -> Covariate:
    text = pd.Series(cells.labels(column), column.index, dtype=object)
    order = cells.sorted_labels(text)
    counts = {level: int((text == level).sum()) for level in order}
    first = None if reference is None else cells.label(reference)
    shown = [f"{level} {n}{' (reference)' if level == first else ''}" for level, n in counts.items()]
    more = f" and {len(shown) - _MAX_LEVELS_SHOWN} more levels" if len(shown) > _MAX_LEVELS_SHOWN else ""
    line = f"{name}: factor {', '.join(shown[:_MAX_LEVELS_SHOWN])}{more}{f'; {remark}' if remark else ''}"
    notes = [*_codes_among_levels(name, text, first), *_many_levels(name, text, use)]
    if not _is_number(column):
        notes += [*_ambiguous_words(name, text), *(_like_numbers(name, text, use) if not notes else [])]
    return Covariate(name, "factor", {"levels": counts, "reference": first}, line, (*notes, *_sexes(name, text)))


def _codes_among_levels(name: str, text: pd.Series, reference: str | None) -> list[str]:
    """Notes on levels that are numbers for "no value": beside words, or apart from other numbers."""
    if is_id_name(name):
        return []
    numbers = cells.numbers_in(text)
    if numbers.notna().all():
        return _missing_codes(name, numbers, reference)
    return [
        f"{name}: {level!r} of {listed(text.index[text == level])} is taken as a level"
        f"{', the reference' if level == reference else ''}; write n/a if it means missing"
        for level in cells.sorted_labels(text[numbers.map(is_missing_code)])
    ]


def _many_levels(name: str, text: pd.Series, use: Collection[str]) -> list[str]:
    """A note where text has nearly as many levels as there are scans: numbers that were not understood, or names."""
    n_levels = text.nunique()
    is_name = "factor" in use or is_id_name(name) or is_site_name(name)
    if is_name or n_levels <= max(_MOST_GROUPS, _NEARLY_ALL * len(text) - 1e-9):
        return []
    return [
        f"{name}: text with {n_levels} levels in {len(text)} scans, e.g. {text.iloc[0]!r}, is taken as a factor; write "
        "plain numbers if it is a number"
    ]


def _sexes(name: str, text: pd.Series) -> list[str]:
    """A note on a third level of sex, which may be another spelling of one of the two."""
    levels = [
        level for level in cells.sorted_labels(text)
        if not cells.may_mean_missing(level) and not cells.numbers_in(pd.Series([level])).map(is_missing_code).all()
    ]  # fmt: skip
    if name.casefold() not in _SEXES or len(levels) <= 2:
        return []
    shown = ", ".join(f"{level!r} {int((text == level).sum())}" for level in levels[:_MAX_LEVELS_SHOWN])
    return [f"{name}: {len(levels)} levels ({shown}); if some are spellings of one, write them alike in the table"]


def _ambiguous_words(name: str, text: pd.Series) -> list[str]:
    words = [word for word in dict.fromkeys(text) if cells.may_mean_missing(word)]
    return [
        f"{name}: {word!r} of {listed(text.index[text == word])} is taken as a level; write n/a if it means missing"
        for word in words
    ]


def _like_numbers(name: str, text: pd.Series, use: Collection[str]) -> list[str]:
    """A note where each level of a factor is another number, or some are numbers and some words."""
    if "factor" in use or is_id_name(name) or is_site_name(name):
        return []
    levels = [level for level in dict.fromkeys(text) if not cells.may_mean_missing(level)]
    found = {level: cells.number_with_word(cells.unquoted(level)) for level in levels}
    numbers = [one[0] for one in found.values() if one is not None]
    plain = [level for level, one in found.items() if one is not None and not one[1]]
    all_numbers = len(numbers) == len(levels) > 1 and len(set(numbers)) == len(levels)
    if not all_numbers and (not plain or len(numbers) == len(levels)):
        return []
    if all_numbers:
        return [f"{name}: text like numbers, e.g. {levels[0]!r}, is taken as levels of a factor"]
    scans = listed(text.index[text == plain[0]])
    return [f"{name}: {plain[0]!r} of {scans} looks like a number, and is taken as a level"]


def _describe_number(name: str, column: pd.Series, use: Collection[str], remark: str | None) -> Covariate:
    values = column.to_numpy(dtype=float)
    each = np.unique(values)
    low, high = float(each[0]), float(each[-1])
    span = f"{_shown(low)}–{_shown(high)}"
    is_repeated = len(values) >= 3 * len(each) or (len(values) >= 2 * len(each) > high - low)
    is_code = 2 < len(each) <= _MAX_CODES and is_repeated and bool((each == np.round(each)).all())
    parts = [f"{name}: number {span}" if is_code else f"{name}: number, {span}"]
    if is_code or len(each) == 2:
        parts.append(f"{_NUMERALS[len(each)]} values")
    if remark:
        parts.append(remark)
    hint = f": C({name}) for a factor?" if is_code and "plain" in use else ""
    content = {"range": [low, high], "n_values": len(each)}
    return Covariate(name, "number", content, ", ".join(parts) + hint, tuple(_missing_codes(name, column)))


def _missing_codes(name: str, numbers: pd.Series, reference: str | None = None) -> list[str]:
    """Notes on numbers, also levels of a factor, that may stand for missing values."""
    notes = []
    for value, (low, high) in suspects(numbers.to_numpy(dtype=float)).items():
        rest = _shown(low) if low == high else f"{_shown(low)}–{_shown(high)}"
        role = " and is the reference level" if reference == cells.label(value) else ""
        notes.append(
            f"{name}: {_shown(value)} of {listed(numbers.index[numbers == value])} lies apart from all others "
            f"({rest}){role}; write n/a if it means missing"
        )
    return notes


def _shown(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")
