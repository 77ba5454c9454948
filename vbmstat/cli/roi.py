"""``vbmstat roi``: volumes of atlas regions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vbmstat.cli.scans import Exclude, Exclusions, Tables, Where, scan_tables, selection


def command(
    cohort: Annotated[
        Path | None,
        typer.Option("--cohort", help="Table with columns mwp1, mwp2, mwp3; default ./cohort.tsv or preprocess's."),
    ] = None,
    maps: Annotated[
        Path | None, typer.Option("--maps", help="Folder of modulated maps by CAT12, SPM, T1Prep, deepmriprep or BIDS.")
    ] = None,
    tables: Tables = None,
    exclude: Exclude = None,
    where: Where = None,
    exclusions: Exclusions = True,
    atlas: Annotated[
        str, typer.Option("--atlas", help="Name, or label or 4-D probability image with its NAME.tsv beside it.")
    ] = "lpba40",
    space: Annotated[
        str, typer.Option("--space", help="template (modulated maps), or native: the atlas in each scan's own space.")
    ] = "template",
    label_images: Annotated[
        bool, typer.Option("--label-images", help="Also write the atlas on each scan's grid (native space).")
    ] = False,
    mean: Annotated[
        list[str] | None,
        typer.Option("--mean", help="Column with maps in template space; also their mean in each label; repeatable."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            help="Images of the scans in their own space (PET, quantitative maps), a path with {participant_id}, "
            "{session_id}, {scan_id} or {name}; also their mean, SD and voxels in each label; repeatable.",
            metavar="PATTERN",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the tables; default roi beside the cohort.")
    ] = None,
) -> None:
    """Measure grey matter, white matter and CSF (mL) in each label and merged region of an atlas."""
    from vbmstat.cli.progress import print_removed, stages  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.glm.data import mixtures  # noqa: PLC0415
    from vbmstat.image.storage import listed_files  # noqa: PLC0415
    from vbmstat.maps.sources import map_folders  # noqa: PLC0415
    from vbmstat.roi.atlas import licence_notice, load_atlas  # noqa: PLC0415
    from vbmstat.roi.output import write_rois  # noqa: PLC0415
    from vbmstat.roi.table import Native, cohort_of_maps, measure_rois, stem  # noqa: PLC0415
    from vbmstat.tables.cohort import read_cohort  # noqa: PLC0415
    from vbmstat.tables.selection import select  # noqa: PLC0415

    if cohort is not None and maps is not None:
        msg = "give --cohort or --maps, not both"
        raise typer.BadParameter(msg)
    if label_images and space != "native":
        msg = "--label-images needs --space native"
        raise typer.BadParameter(msg)
    first = [] if maps is not None else [scan_tables(cohort, None, None)[0]]
    scans = cohort_of_maps(maps) if maps is not None else read_cohort(first[0])
    rules = selection(exclude, where, tables, exclusions).resolved(scans, map_folders(maps))
    scans = select(scans, rules)
    for note in (*scans.notes, *mixtures(scans.table)):
        typer.echo(f"note: {note}")
    loaded = load_atlas(atlas)
    typer.echo(licence_notice(loaded))
    folder = scans.folder / "roi" if out is None else out
    earlier = listed_files(folder, f"{stem(loaded.name, space)}.json")
    with _images_folder(folder if label_images else None) as images:
        with stages() as report:
            where_to: str | Native = Native(images) if images else space
            measured = measure_rois(scans, loaded, space=where_to, means=mean or (), images=image or (), report=report)
        written = write_rois(folder, measured, inputs=[*first, *(tables or [])], label_images=images)
    for path in written:
        typer.echo(str(path))
    print_removed(folder, earlier)
    for tissue in measured.not_measured:
        typer.echo(f"no {tissue} maps: column {tissue}_ml is empty", err=True)
    for failure in measured.failures.itertuples():
        typer.echo(f"{failure.scan_id} {failure.tissue}: {failure.reason}", err=True)
    if len(measured.failures):
        raise typer.Exit(1)


@contextmanager
def _images_folder(out: Path | None) -> Iterator[Path | None]:
    """A folder inside `out` for label images until all are made; None for no images."""
    if out is None:
        yield None
        return
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as folder:
        images = Path(folder) / "images"
        images.mkdir()
        yield images
