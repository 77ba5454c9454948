"""``vbmstat pack``: pack maps into one masked matrix on disk, once for many models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vbmstat.cli.scans import Exclude, Exclusions, Tables, Where, scan_tables, selection


def command(
    tissue: Annotated[str, typer.Argument(help="gm, wm, csf or a column with map paths.")],
    out: Annotated[Path, typer.Option(help="Folder of the packed maps; give it to vbmstat glm as --store.")],
    cohort: Annotated[Path | None, typer.Option(help="Cohort table; default ./cohort.tsv …")] = None,
    maps: Annotated[str | None, typer.Option(help="Folder of maps, or path with {participant_id}.")] = None,
    participants: Tables = None,
    exclude: Exclude = None,
    where: Where = None,
    exclusions: Exclusions = True,
    fwhm: Annotated[
        float | None, typer.Option(help="Smooth unsmoothed maps by this FWHM, mm; 0 to leave them so.", metavar="MM")
    ] = None,
    mask_threshold: Annotated[float | None, typer.Option(help="Absolute threshold; 0.1 without --mask.")] = None,
    mask_share: Annotated[float, typer.Option(help="Share of scans above the threshold; 1 is SPM's rule.")] = 1.0,
    mask: Annotated[Path | None, typer.Option(help="Mask image on the grid of the maps.")] = None,
    nan: Annotated[str, typer.Option(help="NaN inside the mask: raise or exclude.")] = "raise",
    missing: Annotated[str, typer.Option(help="Rows of a cohort table without a map: raise or drop.")] = "raise",
) -> None:
    """Pack maps into one masked matrix; run again after adding scans to append them."""
    from vbmstat.cli.progress import stages  # noqa: PLC0415 - heavy imports inside the command
    from vbmstat.errors import ScanError  # noqa: PLC0415
    from vbmstat.glm.spec import Masking  # noqa: PLC0415
    from vbmstat.maps.duplicates import identity_notes  # noqa: PLC0415
    from vbmstat.maps.pack import pack_maps  # noqa: PLC0415
    from vbmstat.maps.segment import Packing  # noqa: PLC0415
    from vbmstat.maps.sources import as_cohort, gather, map_folders  # noqa: PLC0415
    from vbmstat.tables.selection import select  # noqa: PLC0415

    rule = Masking(mask_threshold, mask_share, mask, nan).rule
    first, more = scan_tables(cohort, maps, participants)
    table = as_cohort(first)
    table = select(table, selection(exclude, where, more, exclusions).resolved(table, map_folders(maps)))
    source = gather(maps, tissue, table, missing, fwhm)
    if not source.paths:
        msg = "expected maps in files to pack, but there are none"
        raise ScanError(msg)
    with stages() as progress:
        store = pack_maps(source.paths, out, rule, Packing(source.smoothing.applied_mm), progress)
    for note in (*source.notes, *store.manifest["mask_notes"], *identity_notes(store)):
        typer.echo(f"note: {note}")
    gigabytes = sum(path.stat().st_size for path, _ in store.segments) / 1e9
    typer.echo(f"{len(store.scan_ids)} scans, {int(store.mask.sum())} voxels in the mask, {gigabytes:.2f} GB in {out}")
