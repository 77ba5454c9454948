"""Links of the documentation lead somewhere, and every page can be found."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.main import get_command

from vbmstat.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INCLUDED = re.compile(r"^\[[^\]]*\]\((?P<path>\.\./[^)\s]+\.(?:md|py))\)$", re.MULTILINE)  # as in docs/hooks.py


def text_of(page: Path) -> str:
    """A page without code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+\s+(.+?)\s*#*$", text_of(page), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", word) for word in words}


def broken_links(page: Path) -> list[str]:
    broken = []
    for match in LINK.finditer(text_of(page)):
        target, _, anchor = match["target"].partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors_of(file)):
            broken.append(match["target"])
    return broken


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", *sorted((ROOT / "examples").glob("*.md"))], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path) -> None:
    (tmp_path / "b.md").write_text("# Two words, `code`\n")
    page = tmp_path / "a.md"
    links = "[x](b.md#two-words-code) [y](b.md#three) [z](c.md) [w](https://a.b) [v](#here)"
    page.write_text(f"{links}\n\n```\n[u](d.md)\n```\n")
    assert broken_links(page) == ["b.md#three", "c.md", "#here"]


def test_every_page_stands_in_the_navigation_once() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = re.findall(r"[\w/]+\.md", navigation)
    assert sorted(listed) == sorted(page.name for page in PAGES)


def test_what_pages_include_exists() -> None:
    included = [match["path"] for page in PAGES for match in INCLUDED.finditer(page.read_text(encoding="utf-8"))]
    assert len(included) > 10
    assert [path for path in included if not (ROOT / "docs" / path).is_file()] == []
    assert [page.name for page in PAGES if "--8" in page.read_text(encoding="utf-8")] == []  # raw outside mkdocs


@pytest.mark.parametrize(
    "word",
    [
        "exclude",
        "slices",
        "outlier",
        "Bonferroni",
        "longitudinal",
        "one-sided",
        "SPM",
        "paired",
        "GPU",
        "resume",
        "figure",
        "tracts",
    ],
)
def test_what_users_search_is_in_the_page_of_tasks(word) -> None:
    tasks = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert word.lower() in tasks.lower()


@pytest.mark.parametrize("page", ["tasks.md", "repeated_scans.md"])
def test_pages_use_commands_and_options_that_exist(page) -> None:
    """Of every `vbmstat …` in a page: the command, and each of its options."""
    commands = get_command(app).commands
    wrong = []
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = [*re.findall(r"`vbmstat ([^`\n]+)`", text), *re.findall(r"^vbmstat (.+)$", text, re.MULTILINE)]
    assert len(lines) > 5
    for line in lines:
        name, *words = line.partition("#")[0].split()
        if name == "COMMAND":
            continue
        known = (
            {option for parameter in commands[name].params for option in parameter.opts} if name in commands else set()
        )
        wrong += [line for word in words if word.startswith("--") and word not in known | {"--help"}] or (
            [] if name in commands else [line]
        )
    assert wrong == []


@pytest.mark.parametrize("name", ["commands", "columns"])
def test_generated_pages_are_those_of_the_program(name) -> None:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert page == getattr(module, f"{name}_page")(), f"run `python docs/{name}.py`"


def _texts(command: Any, name: str) -> Iterator[tuple[str, str]]:
    """Help of a command, of its options and of the commands in it, by name."""
    yield name, command.help or ""
    yield from ((f"{name} {one.name}", getattr(one, "help", None) or "") for one in command.params)
    for inner, below in getattr(command, "commands", {}).items():
        yield from _texts(below, f"{name} {inner}")


def test_help_shows_every_word() -> None:
    """Rich takes words in square brackets for colours and leaves them out."""
    lost = [name for name, text in _texts(get_command(app), "vbmstat") if Text.from_markup(text).plain != text]
    assert lost == []
