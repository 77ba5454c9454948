"""What mkdocs adds while it builds: the tables and examples that pages link to.

A line that is only a link to a file outside `docs/` is replaced by that file, so that pages read well on the disk and
on a forge, too.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
INCLUDED = re.compile(r"^\[[^\]]*\]\((?P<path>\.\./[^)\s]+\.(?:md|py))\)$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with what it includes."""
    del page, config, files
    return INCLUDED.sub(lambda match: included(DOCS / match["path"]), markdown)


def included(path: Path) -> str:
    """A file as part of a page; Python as a block of code."""
    text = path.read_text(encoding="utf-8")
    return f"```python\n{text}```" if path.suffix == ".py" else text
