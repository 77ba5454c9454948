from __future__ import annotations

import re

import pytest

from vbmstat.report import citations


def test_every_paper_has_a_doi_of_its_own_and_is_cited_under_its_own_name() -> None:
    entries = citations.references()
    assert all(re.fullmatch(r"10\.\d{4,5}/\S+", entry.doi) for entry in entries.values())
    assert len({entry.doi for entry in entries.values()}) == len(entries)
    assert len({entry.label for entry in entries.values()}) == len(entries)


def test_papers_of_one_name_and_year_get_letters() -> None:
    assert citations.in_text("fisch2024bet") == "Fisch et al., 2024a"
    assert citations.in_text("fisch2024prep") == "Fisch et al., 2024b"


def test_a_list_is_short_sorted_and_without_repeats() -> None:
    entries = citations.cited(["ridgway2008", "ashburner2000", "ridgway2008"])
    authors = [entry.authors for entry in entries]
    assert authors == ["Ashburner J, Friston KJ", "Ridgway GR, Henley SMD, Rohrer JD, et al."]
    assert entries[0].source == "NeuroImage 11:805–821"


def test_an_unknown_paper_is_an_error() -> None:
    with pytest.raises(KeyError, match="nobody1999"):
        citations.cited(["nobody1999"])


def test_bibtex_has_the_entries_and_the_program_and_balanced_braces() -> None:
    text = citations.bibtex(citations.references().values())
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"^@", text, re.MULTILINE)) == len(citations.references()) + 1
    assert "{The vbmstat developers}" in text
