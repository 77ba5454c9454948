"""Write `docs/commands.md` from the program's own help; a test compares the two.

python docs/commands.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.main import get_command

from vbmstat.cli import app
from vbmstat.image import storage


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


if __name__ == "__main__":
    storage.write_text(Path(__file__).with_suffix(".md"), commands_page())
