"""What mkdocs adds while it builds: the page of commands, and the tables and examples that pages link to.

A line that is only a link to a file outside `docs/` is replaced by that file, so that pages read well on the disk and
on a forge, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.main import get_command

from vbmstat.cli import app

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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `commands.md`."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def _flat(group: Any, before: str = "") -> list[tuple[str, Any]]:
    """Commands by name; those of a group after its name."""
    found = []
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found += [(f"{before}{name}", command)] if inner is None else _flat(command, f"{before}{name} ")
    return found


def commands_page() -> str:
    """Every command with its arguments and options, as `--help` has them."""
    group: Any = get_command(app)
    lines = ["# Commands", "", "An error that you can act on is one line and exit code 2; a scan that failed, 1.", ""]
    for name, command in sorted(_flat(group)):
        lines += [f"## vbmstat {name}", "", command.help or "", "", "| | default | |", "|---|---|---|"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            option = parameter.param_type_name == "option"
            called = (
                " ".join(f"`{word}`" for word in [*parameter.opts, *parameter.secondary_opts])
                if option
                else (f"`{parameter.name.upper()}`")
            )
            default = "" if parameter.default in (None, False, ()) or callable(parameter.default) else parameter.default
            help_text = (getattr(parameter, "help", "") or "").replace("|", "\\|")
            lines.append(f"| {called} | {'' if parameter.required else default} | {help_text} |")
        lines.append("")
    return "\n".join(lines)
