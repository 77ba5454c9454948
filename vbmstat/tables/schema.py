"""The meaning of every column of every table, read from ``schema.toml``, which explains its own form.

`dictionary` writes it beside each table as a BIDS data dictionary; ``docs/columns.md`` is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vbmstat.tables.toml import read_toml


@dataclass(frozen=True)
class Column:
    """A column: name (may hold ``<placeholders>``), description, units, meaning of coded values."""

    name: str
    description: str
    units: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A kind of table: the command that writes it, its file names, the meaning of a row, its columns in order."""

    command: str
    files: str
    rows: str
    columns: tuple[Column, ...]


@cache
def tables() -> Mapping[str, Table]:
    """Every kind of table by its name."""
    content = read_toml(Path(__file__).with_suffix(".toml"), "the schema of tables")
    groups = content["groups"]
    return {
        kind: Table(**{**entry, "columns": tuple(_columns(entry["columns"], groups))})
        for kind, entry in content["tables"].items()
    }


def group_names(group: str) -> tuple[str, ...]:
    """Names of the columns of a group."""
    groups = read_toml(Path(__file__).with_suffix(".toml"), "the schema of tables")["groups"]
    return tuple(column.name for column in _columns(groups[group], groups))


def _columns(entries: Sequence[Any], groups: Mapping[str, Any]) -> Iterator[Column]:
    """Columns in order; a text stands for the columns of a group."""
    for entry in entries:
        if isinstance(entry, str):
            yield from _columns(groups[entry], groups)
        else:
            yield Column(*entry)
