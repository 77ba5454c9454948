"""Interpret table cells: missing values, numbers as people type them, labels and their spelling.

The one owner of these rules: file readers, formulas, sites, blocks and weights all use them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import pandas as pd

from vbmstat.files.filenames import normalized

# Letter case ignored: empty cells, BIDS, R, pandas, numpy, SPSS and SAS (.), error values of spreadsheets.
_MISSING = frozenset({
    "", "n.a", "(null)", "\\n", "n/a", "na", "nan", "-nan", "null", "nat", ".", "<na>", "n.a.", "#n/a", "#na",
    "#n/a n/a", "#null!", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan",
})  # fmt: skip
_MISSING_AS_WRITTEN = frozenset({"None"})  # Python's; "none" may be a level (medication: none, SSRI)
# Words that may mean missing or be a level: kept, with a note.
_AMBIGUOUS = frozenset({
    "-", "--", "---", "–", "—", "?", "??", "*", "..", "...", "…", "none", "unknown", "unk", "unkn", "not known", "n/k",
    "nk", "missing", "miss", "missing value", "not available", "not applicable", "n.v.", "nd", "n.d.", "n/d",
    "no data", "not done", "not recorded", "not specified", "unspecified", "undefined", "refused", "blank", "empty",
    "tbd", "k.a.", "unbekannt", "fehlend",
})  # fmt: skip
_QUOTES = "'\"‘’‚“”„`´"
_PADDED = re.compile(r"[+-]?0\d")
_GROUPS = r"[+-]?[1-9]\d{0,2}(?:%s\d{3})+"
_COMMAS_OF_THOUSANDS = re.compile(_GROUPS % ",")
_POINTS_OF_THOUSANDS = re.compile(_GROUPS % r"\.")
_HUNDREDS = re.compile(r"[+-]?[1-9]\d{2}")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:(?P<sign>[.,'’ \u00a0\u2009\u202f])\d{3})(?:(?P=sign)\d{3})*(?:[.,]\d+)?")
_NUMBER_WITH_WORD = re.compile(
    r"[<>=≤≥~±≈]*\s*(?P<number>[+-]?\d+(?:[.,]\d+)?)\s*(?P<unit>[^\d\s.,<>=-][^\d]{0,11})?", re.DOTALL
)
_DATE = re.compile(r"(?:\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4})(?:[ T][\d:.]+)?")
_LOOK_ALIKE = str.maketrans("авекмнорстухіјѕ", "abekmhopctyxijs")  # Cyrillic, Latin
_SIGNS = str.maketrans({"\u2212": "-", "\u2010": "-", "\u2011": "-", "\uff0b": "+"})  # minus, hyphens, wide plus


def is_missing(word: str) -> bool:
    """Whether a cell means a missing value.

    Examples
    --------
    >>> [is_missing(word) for word in ("n/a", ".", "#N/A", "None", "none", "F")]
    [True, True, True, True, False, False]
    """
    return word.strip().casefold() in _MISSING or word.strip() in _MISSING_AS_WRITTEN


def may_mean_missing(word: str) -> bool:
    """Whether a word is a level in some tables and a missing value in others, such as ``unknown`` or ``-``."""
    return word.strip().casefold() in _AMBIGUOUS


def without_missing_words(column: pd.Series) -> pd.Series:
    """A text column with its missing-value words set missing; other columns unchanged."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return column
    words = {value for value in column.unique() if isinstance(value, str) and is_missing(value)}
    return column.mask(column.isin(words)) if words else column


def label(value: Any) -> str:
    """A level, subject or site as text: whole numbers without decimal point, others with all digits.

    Examples
    --------
    >>> [label(value) for value in (1.0, 1, 12345678.0, 1.5, " a")]
    ['1', '1', '12345678', '1.5', 'a']
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return normalized(str(value))


def labels(column: Iterable[Any]) -> list[str]:
    """:func:`label` of each value."""
    return [label(value) for value in column]


def sorted_labels(values: Iterable[str]) -> list[str]:
    """Unique labels in order: by size if all are numbers, else as text.

    Examples
    --------
    >>> sorted_labels(["10", "2", "2"])
    ['2', '10']
    """
    unique = sorted(set(values))
    try:
        return sorted(unique, key=lambda text: (float(text), text))
    except ValueError:
        return unique


def same_but_for_spelling(words: Iterable[str]) -> list[list[str]]:
    """Groups of different words that only letter case, blanks, a full stop at the end or the keyboard tell apart.

    Invisible characters do not count, and Cyrillic letters are those of Latin that look like them.

    Examples
    --------
    >>> same_but_for_spelling(["M", "F", "m", "New York", "new  york"])
    [['M', 'm'], ['New York', 'new  york']]
    """
    groups: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        plain = unicodedata.normalize("NFKC", word)
        visible = "".join(c for c in plain if unicodedata.category(c) != "Cf" and not c.isspace())
        folded = visible.casefold().translate(_LOOK_ALIKE)
        groups.setdefault(folded.rstrip(".,;:") or folded, []).append(word)
    return [group for group in groups.values() if len(group) > 1]


def numbers_in(text: pd.Series, decimal_comma: bool = False) -> pd.Series:
    """Text cells as numbers, NaN where a cell is not a number.

    Parameters
    ----------
    text : Series of str
        Missing values stay missing. Any Unicode minus counts as a minus.
    decimal_comma : bool
        Whether a comma may be the decimal mark. It is not if every cell with a comma is like ``1,502``, where it
        separates thousands.
    """
    plain = text.str.translate(_SIGNS)
    if decimal_comma:
        with_comma = plain[plain.str.contains(",", regex=False, na=False)]
        if not with_comma.str.fullmatch(_COMMAS_OF_THOUSANDS).all() or with_comma.empty:
            plain = plain.str.replace(",", ".", regex=False)
    return pd.to_numeric(plain, errors="coerce")


def is_padded(text: pd.Series) -> pd.Series:
    """Which cells are codes: they have a leading zero that a number would not have (``007``)."""
    return text.str.match(_PADDED, na=False).astype(bool)


def as_numbers(text: pd.Series, decimal_comma: bool) -> pd.Series:
    """A text column as numbers if every value is a number and none a code with leading zeros; else unchanged."""
    numbers = numbers_in(text, decimal_comma)
    is_number = numbers.notna() | text.isna()
    return numbers if is_number.all() and numbers.notna().any() and not is_padded(text).any() else text


def points_may_separate_thousands(text: pd.Series) -> bool:
    """Whether every cell with a point is like ``1.502``."""
    with_point = text[text.str.contains(".", regex=False, na=False)]
    return len(with_point) > 0 and bool(with_point.str.fullmatch(_POINTS_OF_THOUSANDS).all())


def points_among_hundreds(text: pd.Series) -> bool:
    """Whether every cell with a point is like ``1.502`` and all others like ``843``: points that separate thousands.

    Examples
    --------
    >>> points_among_hundreds(pd.Series(["2.561", "843"])), points_among_hundreds(pd.Series(["2.561", "0.843"]))
    (True, False)
    """
    plain = text[~text.str.contains(".", regex=False, na=False)].dropna()
    return points_may_separate_thousands(text) and len(plain) > 0 and bool(plain.str.fullmatch(_HUNDREDS).all())


def is_decimal_comma(text: pd.Series) -> bool:
    """Whether all cells are numbers, some with a comma that can only be the decimal mark."""
    with_comma = text[text.str.contains(",", regex=False, na=False)]
    if with_comma.empty or with_comma.str.fullmatch(_COMMAS_OF_THOUSANDS).all():
        return False
    return bool((numbers_in(text, decimal_comma=True).notna() | text.isna()).all())


def has_thousands(word: str) -> bool:
    """Whether a number has thousands separators: ``1.502,3``, ``1,502``, ``12 345``."""
    return bool(_THOUSANDS.fullmatch(word.translate(_SIGNS)))


def unquoted(word: str) -> str:
    """A word without the quotation marks around it and Excel's ``=`` before them."""
    inner = word.removeprefix("=") if word.startswith('="') else word
    if len(inner) > 2 and inner[0] in _QUOTES and inner[-1] in _QUOTES:
        return inner[1:-1].strip()
    return word


def number_with_word(word: str) -> tuple[float, str] | None:
    """Number and unit in a cell such as ``12 y``, ``12%``, ``<5`` or a date (unit ``date``); None for other cells.

    Examples
    --------
    >>> number_with_word("12 y"), number_with_word("<5"), number_with_word("1.5T"), number_with_word("20-30")
    ((12.0, 'y'), (5.0, ''), (1.5, 't'), None)
    """
    if _DATE.fullmatch(word):
        return float(re.sub(r"\D", "", word)[:15]), "date"
    match = _NUMBER_WITH_WORD.fullmatch(word.translate(_SIGNS))
    if match is None:
        return None
    return float(match["number"].replace(",", ".")), (match["unit"] or "").strip(" .").casefold()
