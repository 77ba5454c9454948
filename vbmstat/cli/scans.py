"""Options on which scans take part, the same in every command that reads a table of scans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vbmstat.tables.selection import Selection

_PANEL = "Scans"
_COHORTS = ("cohort.tsv", "vbmstat-out/cohort.tsv", "derivatives/vbmstat/cohort.tsv")

Tables = Annotated[
    list[Path] | None,
    typer.Option(
        "--participants", "--table", rich_help_panel=_PANEL,
        help="Table of covariates (.tsv, .csv, .xlsx), joined by id to the first; may be repeated.",
    ),
]  # fmt: skip
Exclude = Annotated[
    list[str] | None,
    typer.Option(rich_help_panel=_PANEL, help="Ids, or a file that lists them, to leave out; may be repeated."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(rich_help_panel=_PANEL, help="Keep scans that meet this: 'qc_image_rating > 70'; may be repeated."),
]
Exclusions = Annotated[
    bool,
    typer.Option("--exclusions/--no-exclusions", rich_help_panel=_PANEL,
                 help="Honour exclusions.tsv beside the table or the maps."),
]  # fmt: skip


def selection(
    exclude: list[str] | None, where: list[str] | None, tables: list[Path] | None, exclusions: bool
) -> Selection:
    """The rules that these options give."""
    from vbmstat.tables.selection import Selection  # noqa: PLC0415 - heavy imports inside the command

    return Selection(tuple(exclude or ()), tuple(where or ()), tuple(tables or ()), exclusions)


def scan_tables(cohort: Path | None, maps: str | None, tables: list[Path] | None) -> tuple[Path, list[Path]]:
    """The table of scans that a command reads, and the further ones.

    The first is the cohort's, or the first table that goes with a folder of maps.
    """
    from vbmstat.errors import TableError  # noqa: PLC0415

    given = [*([] if cohort is None else [cohort]), *(tables or [])]
    if maps is not None and not given:
        msg = "--maps needs --participants, the table of covariates"
        raise TableError(msg)
    if cohort is None and maps is None:
        found = next((Path(name) for name in _COHORTS if Path(name).is_file()), None)
        if found is None:
            msg = f"no cohort table: looked for {', '.join(_COHORTS)}; give --cohort, or --maps with --participants"
            raise TableError(msg)
        given.insert(0, found)
    return given[0], given[1:]
