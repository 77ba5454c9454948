"""Every link of a page leads somewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest


class _Links(HTMLParser):
    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids |= {found["id"]} if found.get("id") else set()
        self.links += [found[name] for name in ("href", "src") if found.get(name)]


def broken(page: Path) -> list[str]:
    """Links to an id that is not there, a file that does not exist, or an address that is none."""
    links = _Links(page)
    wrong = []
    for link in links.links:
        address = urlparse(link)
        if link.startswith("#"):
            leads = unquote(link[1:]) in links.ids
        elif address.scheme in ("data", "https"):
            leads = bool(address.netloc and "." in address.netloc) or address.scheme == "data"
        else:
            leads = not address.scheme and (page.parent / unquote(address.path)).is_file()
        wrong += [] if leads else [link]
    files = re.findall(r"<code>([^<]+/[^<]+\.(?:svg|png)(?: · [^<]+)*)</code>", page.read_text(encoding="utf-8"))
    named = [name for names in files for name in names.split(" · ")]
    return wrong + [name for name in named if not (page.parent / name).is_file()]


@pytest.mark.parametrize("page", ["model_page", "run_page"])
def test_every_link_leads_somewhere(page, request) -> None:
    found = request.getfixturevalue(page)
    assert len(_Links(found).links) > 5
    assert broken(found) == []


def test_broken_links_are_found(tmp_path) -> None:
    (tmp_path / "a.html").write_text('<a href="#x">1</a><a href="no.html">2</a><a id="y" href="#y">3</a>')
    assert broken(tmp_path / "a.html") == ["#x", "no.html"]
