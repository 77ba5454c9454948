"""``vbmstat assets``: list, fetch, verify and locate templates, atlases and network weights."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="Templates, atlases, network weights: list, fetch, verify, path. Engine classic needs no download.",
    no_args_is_help=True,
)
_COLUMNS = ("name", "state", "size", "sha256", "source", "licence")


@app.command("list")
def list_assets() -> None:
    """List every asset with its size, source and licence."""
    from vbmstat.assets.downloads import cache_folder  # noqa: PLC0415
    from vbmstat.cli.catalogue import entries  # noqa: PLC0415 - heavy imports inside the command

    rows = [_COLUMNS]
    known = entries()
    for entry in known:
        size = "" if entry.size_bytes is None else f"{entry.size_bytes / 1e6:.2f} MB"
        name, digest = entry.name, entry.sha256[:12] or "-"
        if entry.state == "not fetched":  # one line for the set
            name = entry.name.split("/")[0]
            digest = f"{sum(other.name.startswith(f'{name}/') for other in known)} files"
        rows.append((name, entry.state, size, digest, entry.source, entry.licence))
    rows = list(dict.fromkeys(rows))
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS) - 1)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        typer.echo("  ".join((*cells, row[-1])))
    typer.echo(f"cache: {cache_folder()}")


@app.command("fetch")
def fetch_weights(
    names: Annotated[list[str] | None, typer.Argument(help="Sets of weights; all by default.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Folder or http(s) address with the files, instead of the known ones.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Open no connection; VBMSTAT_OFFLINE=1 does the same.")
    ] = False,
) -> None:
    """Download network weights into the cache (VBMSTAT_ASSETS, else your cache folder), once for all processes."""
    from vbmstat.assets.downloads import WEIGHTS, fetch  # noqa: PLC0415 - heavy imports inside the command

    for name in names or list(WEIGHTS):
        typer.echo(f"{name}: in {fetch(name, source, offline=offline, report=typer.echo)}")


@app.command("verify")
def verify_assets(
    names: Annotated[list[str] | None, typer.Argument(help="As in the list; by default all that is present.")] = None,
) -> None:
    """Compare files with their pinned or recorded sha256; exit code 1 if one differs."""
    from vbmstat.cli.catalogue import entries, problem  # noqa: PLC0415 - heavy imports inside the command

    wrong = 0
    for entry in entries(names or ()):
        fault = problem(entry)
        if fault == "not fetched" and not names:
            continue
        wrong += bool(fault)
        typer.echo(f"{entry.sha256 or '-'}  {entry.path}: {fault or 'ok'}")
    if wrong:
        raise typer.Exit(1)


@app.command("path")
def show_path(name: Annotated[str, typer.Argument(help="A name of the list, or a set of weights.")]) -> None:
    """Print the path of a file, or of the folder of a set of weights, after verifying it."""
    from vbmstat.cli.catalogue import path  # noqa: PLC0415 - heavy imports inside the command

    typer.echo(path(name))
