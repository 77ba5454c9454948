"""Write tables with their data dictionary: ``x.tsv`` and, beside it, ``x.json`` in BIDS form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.image import storage
from vbmstat.tables.schema import Column, tables

ABOUT = "vbmstat"  # key of the dictionary that describes the table itself
_PLACEHOLDER = re.compile(r"<(\w+)>")


def write_table(
    path: Path | str,
    table: pd.DataFrame,
    kind: str,
    given: Mapping[str, Mapping[str, Any]] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a TSV and its data dictionary, each atomically.

    Parameters
    ----------
    path : path
        ``.tsv``; the dictionary gets the suffix ``.json``.
    table : DataFrame
        Columns only; the index is not written.
    kind : str
        Key of :func:`vbmstat.tables.schema.tables`.
    given : mapping, optional
        Descriptions of the user's own columns, as a participants.json holds them.
    about : mapping, optional
        More information about this table, written under the key ``vbmstat``.
    """
    path = Path(path)
    storage.write_table(path, table)
    content = describe(kind, map(str, table.columns), given)
    storage.write_json(path.with_suffix(".json"), {**content, ABOUT: {"table": tables()[kind].rows, **(about or {})}})


def describe(
    kind: str, columns: Iterable[str], given: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Data dictionary of columns in a kind of table.

    Returns
    -------
    dict
        Column -> Description, Units, Levels. Columns that neither the schema nor `given` describes are labelled as
        coming from the participants table.

    Examples
    --------
    >>> describe("roi_wide", ["insula_gm_ml"])
    {'insula_gm_ml': {'Description': 'Volume of grey matter in insula', 'Units': 'mL'}}
    """
    dictionary: dict[str, dict[str, Any]] = {}
    for name in columns:
        entry = _entry(kind, name)
        if entry is None:
            entry = dict((given or {}).get(name, {})) or {"Description": f"{name}, from the participants table"}
        dictionary[name] = entry
    return dictionary


def _entry(kind: str, name: str) -> dict[str, Any] | None:
    """The schema's entry for a column; None if there is none."""
    for column in tables()[kind].columns:
        match = _pattern(column).fullmatch(name)
        if match:
            entry: dict[str, Any] = {"Description": column.description.format(**match.groupdict())}
            entry |= {"Units": column.units} if column.units else {}
            return entry | ({"Levels": dict(column.levels)} if column.levels else {})
    return None


def _pattern(column: Column) -> re.Pattern[str]:
    parts = _PLACEHOLDER.split(column.name)  # text, placeholder, text, …
    return re.compile("".join(f"(?P<{part}>.+)" if at % 2 else re.escape(part) for at, part in enumerate(parts)))
