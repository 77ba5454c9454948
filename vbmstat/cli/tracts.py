"""``vbmstat tracts``: white-matter tracts of preprocessed scans; ``vbmstat tracts build-prior``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _FolderOrCommand(TyperGroup):
    """``vbmstat tracts FOLDER`` stands for ``vbmstat tracts find FOLDER``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command that finds tracts in front, if no other is named."""
        if args and args[0] not in (*self.commands, "--help"):
            args = ["find", *args]
        return list(super().parse_args(ctx, args))


app = typer.Typer(
    cls=_FolderOrCommand,
    no_args_is_help=True,
    help="72 white-matter tracts of preprocessed scans: vbmstat tracts FOLDER (short for find FOLDER).",
)


@app.command("find")
def find(
    folder: Annotated[Path, typer.Argument(help="Output folder of vbmstat preprocess.")],
    weights: Annotated[
        Path | None, typer.Option(help="Network that vbmstat train tracts trained; without, a prior is carried over.")
    ] = None,
    prior: Annotated[
        Path | None, typer.Option(help="Folder of build-prior; default the shipped tracts72-prior.")
    ] = None,
    bundles: Annotated[
        bool, typer.Option("--bundles", help="Also write the masks as TractSeg does: tracts/NAME/bundle_segmentations.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Find again the tracts that have been found.")] = False,
    lock: Annotated[bool, typer.Option("--lock/--no-lock", help="Lock scans against other runs.")] = True,
) -> None:
    """Find 72 white-matter tracts in finished scans: probabilities, masks, volumes, a picture.

    Exit code: 0 all scans have tracts, 1 some failed.
    """
    from vbmstat.batch.collect import TRACTS  # noqa: PLC0415 - heavy imports
    from vbmstat.batch.resources import Execution  # noqa: PLC0415
    from vbmstat.batch.tracts import find_tracts, source_of  # noqa: PLC0415
    from vbmstat.cli.progress import stages  # noqa: PLC0415

    if weights is not None and prior is not None:
        msg = "give --weights or --prior, not both"
        raise typer.BadParameter(msg)
    source = source_of(weights, prior)
    with stages() as report:
        run = find_tracts(folder, source, bundles, Execution(force=force, locking=lock), report)
    n_found, n_kept = len(run.measured), len(run.kept)
    kept = f", {n_kept} had them before" if n_kept else ""
    typer.echo(f"tracts found in {n_found} of {n_found + n_kept + len(run.failures)} scans{kept}")
    typer.echo(f"from {source.record['source']}; volumes in {folder / TRACTS}")
    if weights is None:
        typer.echo("a prior shows where tracts lie in other people, not this person's own (docs/tracts.md)")
    for scan, found in run.measured.items():
        if found["n_empty_masks"]:
            empty = f"{scan}: the masks of {found['n_empty_masks']} of 72 tracts are empty"
            typer.echo(f"{empty}; do not use their volumes", err=True)
    for reason in run.failures.values():
        typer.echo(reason, err=True)
    if run.failures:
        raise typer.Exit(1)


@app.command("build-prior")
def build_prior(
    references: Annotated[
        list[Path], typer.Argument(help="Folders of TractSeg's masks, one a person, with FA.nii.gz in or beside each.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the prior.")],
    fwhm: Annotated[float, typer.Option("--fwhm", help="Width of the smoothing in mm; fewer people, more.")] = 8.0,
) -> None:
    """Build a prior of tracts in template space; `vbmstat roi --atlas OUT/tracts72.nii.gz` reads it, too."""
    from vbmstat.batch.tract_prior import build_prior_folder  # noqa: PLC0415 - heavy imports
    from vbmstat.cli.progress import stages  # noqa: PLC0415

    with stages() as report:
        written = build_prior_folder(references, out, fwhm, report)
    for path in written:
        typer.echo(str(path))
