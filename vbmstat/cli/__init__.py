"""The command line: one thin module per command, which parses arguments and calls the Python API once."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Annotated

import typer

from vbmstat import __version__
from vbmstat.cli import (
    assets,
    compare,
    compare_cohorts,
    evaluate,
    glm,
    harmonize,
    pack,
    plot,
    pool,
    preprocess,
    report,
    rerun,
    roi,
    show,
    simulate,
    template,
    threshold,
    tracts,
    train,
    ui,
    warp,
    wmh,
)
from vbmstat.errors import VbmstatError

app = typer.Typer(
    help="Voxel-based morphometry: T1w scans in, defensible statistics out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vbmstat {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Voxel-based morphometry: T1w scans in, defensible statistics out."""


app.command("preprocess")(preprocess.command)
app.command("glm")(glm.command)
app.command("compare")(compare.command)
app.command("compare-cohorts")(compare_cohorts.command)
app.command("harmonize")(harmonize.command)
app.command("pack")(pack.command)
app.command("plot")(plot.command)
app.command("pool")(pool.command)
app.command("report")(report.command)
app.command("rerun")(rerun.command)
app.command("roi")(roi.command)
app.command("show")(show.command)
app.command("simulate")(simulate.command)
app.command("template")(template.command)
app.command("threshold")(threshold.command)
app.command("ui")(ui.command)
app.command("warp")(warp.command)
app.command("wmh")(wmh.command)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(tracts.app, name="tracts")
app.add_typer(train.app, name="train")
app.add_typer(assets.app, name="assets")


def main() -> None:
    """Entry point of the console script; an error that a user can act on is printed as one line, exit code 2."""
    gc.set_threshold(100_000)  # collecting during imports takes a seventh of their time
    atexit.register(gc.freeze)  # else Python goes through all objects on its way out: half a second
    try:
        app()
    except VbmstatError as error:
        sys.stderr.write(f"vbmstat: {error}\n")
        sys.exit(2)
