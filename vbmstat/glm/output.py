"""Write a fitted model: tables with their dictionaries, and maps with their NIfTI intents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vbmstat.glm.design.subsets import write_draws
from vbmstat.image import io
from vbmstat.tables import dictionary

if TYPE_CHECKING:
    from vbmstat.glm.inference.places import Regions
    from vbmstat.glm.results import GlmResults


def write_tables(results: GlmResults, folder: Path, regions: Regions | None) -> list[Path]:
    """Write the tables with their dictionaries; `regions` name the places in them."""
    written = []
    for name, (table, kind) in results.design_tables().items():
        written.append(folder / name)
        dictionary.write_table(written[-1], table, kind)
    if len(results.draws):
        written.append(folder / "draws.tsv")
        write_draws(written[-1], results.draws, results.design.scan_ids)
    for contrast in results.contrasts:
        for name, table, kind in _tables(results, contrast.name, regions):
            written.append(folder / f"contrast-{contrast.label}_{name}.tsv")
            dictionary.write_table(written[-1], table, kind)
    for name, table in (("spm_table", results.spm_table()), ("svc", results.svc_table())):
        if len(table):
            written.append(folder / f"{name}.tsv")
            dictionary.write_table(written[-1], table, "spm_table")
    return written


def _tables(results: GlmResults, contrast: str, regions: Regions | None) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Tables of a contrast: file name, content, and kind in the data dictionary."""
    if results.space is None:
        yield "stats", results.table(contrast), "glm_table"
    inference = results.inference.get(contrast)
    if inference is not None and inference.nulls is not None:
        yield "nullmaxima", pd.DataFrame(inference.nulls.maxima), "null_maxima"
    if inference is not None and inference.clusters is not None and results.space is not None:
        yield "clusters", results.clusters(contrast, regions), "clusters"
        yield "peaks", results.peaks(contrast, regions), "peaks"
        if regions is not None:
            yield "regions", results.regions(contrast, regions), "discoveries"


def image_writers(results: GlmResults, folder: Path, spm_names: bool, outside: str) -> Iterator[Callable[[], Path]]:
    """Functions that write an image each and return its path: the mask, maps and cluster labels of each contrast.

    `spm_names` and `outside` as in :meth:`vbmstat.glm.results.GlmResults.to_directory`.
    """
    space = results.space
    if space is None:
        return

    def writer(name: str, image: Callable[[], np.ndarray], **header: Any) -> Callable[[], Path]:
        def write() -> Path:
            io.write_array(folder / name, image()[None], space.grid, axcodes=space.axcodes, **header)
            return folder / name

        return write

    unmask = space.unmask
    yield writer("mask.nii.gz", partial(unmask, results.mask), dtype="uint8", description="vbmstat analysis mask")
    for number, contrast in enumerate(results.contrasts, start=1):
        for stat, one in results.maps[contrast.name].items():
            names = [f"contrast-{contrast.label}_stat-{stat}_statmap.nii.gz"]
            names += _spm_names(stat, number, contrast.kind) if spm_names else []
            image = partial(results.image, contrast.name, stat, outside)
            for name in names:
                yield writer(name, image, intent=one.intent, description=one.description)
        inference = results.inference.get(contrast.name)
        if inference is not None and inference.clusters is not None:
            labels = partial(unmask, inference.clusters.labels)
            about = f"clusters: {contrast.name}"
            name = f"contrast-{contrast.label}_clusters.nii.gz"
            yield writer(name, labels, dtype="int32", intent=("label", ()), description=about)
    field = next((one.random_field for one in results.inference.values() if one.random_field is not None), None)
    if field is not None:
        local = partial(unmask, np.nan_to_num(field.where.smooth.resels_per_voxel))
        yield writer("resels_per_voxel.nii.gz", local, description="resels per voxel of the residuals")


def _spm_names(stat: str, number: int, kind: str) -> list[str]:
    names = {"t": f"spmT_{number:04d}.nii", "F": f"spmF_{number:04d}.nii"}
    if kind == "t":
        names["effect"] = f"con_{number:04d}.nii"
    if number == 1:
        names["sigma2"] = "ResMS.nii"
    return [names[stat]] if stat in names else []
