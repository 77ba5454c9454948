"""The papers to cite for a run, as a list and as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from vbmstat import __version__

_ENTRY = re.compile(r"^@\w+\{(?P<key>\w+),.*\}$", re.MULTILINE)
_FIELD = re.compile(r"(\w+) = \{((?:[^{}]|\{[^{}]*\})*)\}")
_SHOWN_AUTHORS = 3


@dataclass(frozen=True)
class Reference:
    """One entry of ``references.bib``; `label` is its citation in the text."""

    bibtex: str
    label: str
    authors: str
    year: str
    title: str
    source: str
    doi: str


@cache
def references() -> dict[str, Reference]:
    """All papers that a report can cite, by key."""
    text = resources.files("vbmstat.report").joinpath("references.bib").read_text(encoding="utf-8")
    entries = {match["key"]: dict(_FIELD.findall(match.group())) for match in _ENTRY.finditer(text)}
    by_year: dict[str, list[str]] = {}
    for key, fields in entries.items():
        by_year.setdefault(f"{_cited_names(fields['author'])}, {fields['year']}", []).append(key)
    labels = {
        key: f"{label}{chr(97 + number) if len(keys) > 1 else ''}"  # 2024a, 2024b
        for label, keys in by_year.items() for number, key in enumerate(keys)
    }  # fmt: skip
    return {match["key"]: _reference(match.group(), labels[match["key"]]) for match in _ENTRY.finditer(text)}


def cited(keys: Iterable[str]) -> list[Reference]:
    """Entries of these keys, each once, by first author and year."""
    known = references()
    return sorted({known[key] for key in keys}, key=lambda entry: (entry.authors, entry.year))


def bibtex(entries: Iterable[Reference]) -> str:
    """A .bib file of these entries and this program's."""
    fields = {"author": "{The vbmstat developers}", "title": "vbmstat", "version": __version__}
    own = f"@software{{vbmstat, {', '.join(f'{name} = {{{value}}}' for name, value in fields.items())}}}"
    return "\n".join([own, *(entry.bibtex for entry in entries)]) + "\n"


def in_text(key: str) -> str:
    """The citation of a key.

    Examples
    --------
    >>> in_text("ashburner2000"), in_text("ridgway2008")
    ('Ashburner and Friston, 2000', 'Ridgway et al., 2008')
    """
    return references()[key].label


def _cited_names(author: str) -> str:
    """Authors as cited: `Smith`, `Smith and Nichols`, `Winkler et al.`."""
    names = [name.split(",")[0].strip("{} ") for name in author.split(" and ")]
    return f"{names[0]} et al." if "others" in names or len(names) > 2 else " and ".join(names)


def _reference(entry: str, label: str) -> Reference:
    fields = dict(_FIELD.findall(entry))
    names = [_short_name(name) for name in fields["author"].split(" and ")]
    if "others" in names or len(names) > _SHOWN_AUTHORS:
        names = [*[name for name in names if name != "others"][:_SHOWN_AUTHORS], "et al."]
    place = fields.get("journal") or fields.get("booktitle") or fields.get("howpublished", "")
    numbers = ":".join(part.replace("--", "–") for part in (fields.get("volume"), fields.get("pages")) if part)
    return Reference(entry, label, ", ".join(names), label.rpartition(", ")[2], fields["title"].strip("{}"),
                     f"{place} {numbers}".strip(), fields["doi"])  # fmt: skip


def _short_name(name: str) -> str:
    """``Ashburner, John`` -> ``Ashburner J``."""
    last, _, first = name.strip("{} ").partition(", ")
    initials = "".join(part[0] for part in re.split(r"[\s-]+", first) if part and part[0].isalpha())
    return f"{last} {initials}".strip()
