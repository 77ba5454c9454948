"""``vbmstat rerun``: make a result again, and compare the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vbmstat.rerun import Compared


def command(
    record: Annotated[Path, typer.Argument(help="report/vbmstat_NAME.json of preprocess, or glm.json of glm.")],
    inputs: Annotated[
        list[Path] | None, typer.Option(help="Folder with the inputs; found by name and sha256. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the new outputs here; else they are deleted.")] = None,
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Run although versions, machine or device differ.")
    ] = False,
) -> None:
    """Run a command again with the same parameters and inputs, and compare the outputs; exit code 1 if one differs."""
    from vbmstat.errors import VbmstatError  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.rerun import differences, read_record, rerun_model, rerun_scan  # noqa: PLC0415

    content = read_record(record)
    changed = differences(content)
    for line in changed:
        typer.echo(f"not as it was: {line}")
    if changed and not any_version:
        msg = f"{record}: {len(changed)} things are not as they were; install those versions, or say --any-version"
        raise VbmstatError(msg)
    with _folder(out) as folder:
        again = rerun_scan if content["command"] == "preprocess" else rerun_model
        compared = again(content, record, inputs or [], folder)
        print_summary(compared, folder if out else None)


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with TemporaryDirectory(prefix="vbmstat-rerun-") as folder:
        yield Path(folder)


def print_summary(compared: Sequence[Compared], kept: Path | None) -> None:
    """Print the files that differ, and the number of identical ones; exit code 1 if one differs."""
    for one in compared:
        if one.status != "same bytes":
            typer.echo(f"{one.status}: {one.name}" + (f" ({one.detail})" if one.detail else ""))
    same = sum(one.status == "same bytes" for one in compared)
    where = f"; new outputs in {kept}" if kept else ""
    typer.echo(f"{same} of {len(compared)} files have the same bytes{where}")
    if same < len(compared):
        raise typer.Exit(1)
