"""Covariates: how each column that a formula uses is coded, as numbers or as a factor.

No cell is reinterpreted silently: a column that may be either is refused with the way out, and how the others were
coded is said in a line of each (:mod:`vbmstat.glm.design.describe`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError, TableError, listed
from vbmstat.glm.design.sites import is_site_name
from vbmstat.tables import cells
from vbmstat.tables.cohort import is_id_name, is_tiv_name

TIV_RANGE_ML = (300.0, 5000.0)  # beyond: litres or mm³
_MOST_LIKE_NUMBERS = 4  # different numbers in a column of text that may still be names of groups (1.5T, 3T)


def code_columns(data: pd.DataFrame, uses: Mapping[str, Collection[str]]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Numbers as float64, and text as factors with sorted levels.

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
        Column -> how its cells were read, where not as written.

    Raises
    ------
    TableError
        If a column is text that looks like numbers, or TIV has an impossible unit.
    DesignError
        If a factor has one level, or levels that differ only in letter case or blanks.
    """
    data, remarks = data.copy(), {}
    for name in map(str, data):
        column, use = data[name], uses[name]
        is_name = set(use) == {"plain"} and (is_site_name(name) or is_id_name(name))
        if is_number(column) and not is_name:
            is_level = set(use) == {"factor"} and bool((column == column.round()).all())
            data[name] = column.astype(np.int64 if is_level else float)  # C(site)[T.2], not C(site)[T.2.0]
        else:
            text = pd.Series(cells.labels(column), column.index, dtype=object)
            numbers, remark = None, None
            if not is_name:
                numbers, remark = _numbers_of_text(name, text, use, f", or C({name}) for a factor")
            elif cells.numbers_in(text).notna().all():
                remark = f"numbers of a {name} are names; I({name}) takes them as numbers"
            data[name] = _factor(name, text, use) if numbers is None else numbers
            if remark:
                remarks[name] = remark
        if is_tiv_name(name) and is_number(data[name]):
            check_tiv_unit(data[name])
    return data, remarks


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
    if is_number(column):
        return column.astype(float)
    text = pd.Series(cells.labels(column.dropna()), column.dropna().index, dtype=object)
    numbers, _ = _numbers_of_text(name, text, ("expression",), "")
    if numbers is None:
        unread = text[cells.numbers_in(text).isna()] if cells.numbers_in(text).isna().any() else text
        msg = f"column {name}: expected numbers, got {_listed(unread)}; correct them or write n/a"
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
    if not low <= median <= high:
        unit, factor = ("mm³", "divide by 1000") if median > high else ("litres", "multiply by 1000")
        msg = f"column {column.name}: median {median:g} looks like {unit}, expected mL; {factor}"
        raise TableError(msg)
    outside = column.index[(column < low) | (column > high)]
    if len(outside):
        where = f"outside {low:g}–{high:g} mL"
        msg = f"TIV of {listed(outside)} lies {where}: a failed scan or mixed units; correct or leave out"
        raise TableError(msg)


def check_spelling(name: str, words: Sequence[str], cure: str) -> None:
    """Refuse levels that differ only in letter case, blanks or the like.

    Parameters
    ----------
    name : str
        The column.
    words : sequence of str
        Its value for each scan.
    cure : str
        End of the message: what to do if they are meant to differ.

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


def is_number(column: pd.Series) -> bool:
    """Whether a column holds numbers; booleans are levels."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _factor(name: str, text: pd.Series, use: Collection[str]) -> pd.Series:
    """Text as sorted categories; one level, or several spellings of a level, are refused."""
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
    """Numbers and how they were read, or None for a factor; text that may be either is refused, with the `way_out`."""
    if "factor" in use or is_id_name(name) or text.empty:
        return None, None
    inner = text.map(cells.unquoted)
    numbers, padded = cells.numbers_in(inner), cells.is_padded(inner)
    if numbers.notna().all():
        if padded.any() and inner.str.fullmatch(r"\d+").all() and inner.str.len().nunique() == 1:  # 01, 02 … 12
            return None, f"text such as {text.iloc[0]!r}"
        if padded.any():
            where = text.index[padded][0]
            msg = (
                f"column {name}: {text[where]!r} of {where} has a zero in front, others have none; write it without "
                f"for numbers{way_out}"
            )
            raise TableError(msg)
        quoted = text[inner != text]
        return numbers.rename(name), f"read without the quotation marks of {quoted.iloc[0]}" if len(quoted) else None
    _refuse_half_numbers(name, text, inner, way_out)
    return None, None


def _refuse_half_numbers(name: str, text: pd.Series, inner: pd.Series, way_out: str) -> None:
    """Refuse text that a person would take for numbers: separators, typing mistakes, units."""
    grouped = text[inner.map(cells.has_thousands)]
    commas = cells.numbers_in(inner, decimal_comma=True)
    are_numbers = cells.numbers_in(inner).notna() | text.index.isin(grouped.index)
    if len(grouped) and are_numbers.mean() > 0.5 and not cells.is_decimal_comma(inner):
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
        msg = f"column {name}: expected numbers, got {_listed(text[plain.isna()])}; correct them, write n/a{way_out}"
        raise TableError(msg)
    like = [cells.number_with_word(word) for word in inner if not cells.may_mean_missing(word)]
    read = [one for one in like if one is not None]
    units = {unit for _, unit in read if unit}
    if len(read) == len(like) and len(units) <= 1 and len({number for number, _ in read}) > _MOST_LIKE_NUMBERS:
        what = "dates; write years or days as numbers" if units == {"date"} else (
            "numbers with a unit or sign; write the numbers alone"
        )  # fmt: skip
        msg = f"column {name}: {text.iloc[0]!r} of {text.index[0]} and others look like {what}{way_out}"
        raise TableError(msg)


def _listed(unread: pd.Series) -> str:
    return listed([f"{scan}: {value!r}" for scan, value in unread.items()])
