"""Look at places of a finished model: the values of its maps there, and the model of the record fitted to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vbmstat.errors import VbmstatError, listed
from vbmstat.figures.style import save_figure
from vbmstat.figures.voxel import voxel_figure
from vbmstat.glm.design.columns import read_labels
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.setup import Setup
from vbmstat.glm.voxel import VoxelFit, voxel_fit, with_map_values
from vbmstat.report.model_folder import Model, read_model
from vbmstat.report.places import Place, ReadVoxels, RegionPlaces, VoxelPlaces, read_voxels
from vbmstat.report.recorded import find_model
from vbmstat.tables import dictionary
from vbmstat.tables.cohort import closest, is_tiv_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SAME = 0.02  # of the statistic: more is another one than that of the results


@dataclass(frozen=True)
class Look:
    """One contrast at one place."""

    fit: VoxelFit
    # where it is, and what was measured there with its unit
    place: str
    response: str
    stem: str  # start of its file names
    at: Place  # the place itself


def look_at(
    folder: Path, wanted: Sequence[tuple[str, str | None]], by: str | None = None, inputs: Sequence[Path] = ()
) -> list[Look]:
    """Look at contrasts at places of a result folder of ``vbmstat glm``; every map is read once.

    Parameters
    ----------
    folder : Path
        The results.
    wanted : sequence of (str, str or None)
        Place (``x,y,z`` in mm, a region as the table of peaks names it, or ``peak``) and contrast (default the
        first).
    by : str, optional
        Column of the model's table that colours the points.
    inputs : sequence of Path
        Folders with table and maps, if they are not around the results.

    Raises
    ------
    VbmstatError
        If there is no such place or contrast, an input is not found, or the model is another one now.
    """
    return look_in(open_places(folder, inputs), wanted, by)


def open_places(
    folder: Path, inputs: Sequence[Path] = (), read: ReadVoxels = read_voxels
) -> VoxelPlaces | RegionPlaces:
    """The places of a result folder, to look at them again and again; parameters and errors as in :func:`look_at`."""
    model = read_model(folder)
    # a table may get columns later, such as wmh_ml: what counts is the design, which is compared with design.tsv
    recorded = find_model(model.record, folder / "glm.json", inputs, table_may_differ=True)
    if recorded.random is not None:
        msg = f"{folder}: a mixed model of regions (--random) cannot be plotted; fit it with --variance sandwich:COLUMN"
        raise VbmstatError(msg)
    return RegionPlaces(model, recorded) if model.is_of_regions else VoxelPlaces(model, recorded, read)


def look_in(
    looked: VoxelPlaces | RegionPlaces, wanted: Sequence[tuple[str, str | None]], by: str | None = None
) -> list[Look]:
    """Look at contrasts at places of opened results; parameters and errors as in :func:`look_at`."""
    model = looked.model
    contrasts = [_contrast(model, name) for _, name in wanted]
    places = [looked.place(at, contrast) for (at, _), contrast in zip(wanted, contrasts, strict=True)]
    setup = _as_recorded(looked.setup, model)
    colours = None if by is None else pd.Series(read_labels(by, setup.source.table), name=by)
    looks, (means, changed) = [], looked.values(places)
    for place, contrast, at in zip(places, contrasts, means, strict=True):
        fit = voxel_fit(at.response, with_map_values(setup, at.covariate), contrast, colours)
        then, notes = looked.statistic(place, contrast), [*fit.notes, *changed]
        if then is not None and abs(then - fit.statistic) > _SAME * max(1.0, abs(then)):
            notes.append(f"the results have {contrast.kind} = {then:.2f} here, this figure {fit.statistic:.2f}")
        stem = f"contrast-{contrast.label}_at-{place.slug}"
        looks.append(Look(replace(fit, notes=tuple(notes)), place.name, looked.response, stem, place))
    return looks


def look_figure(look: Look) -> Figure:
    """The figure of a look."""
    return voxel_figure(look.fit, look.place, look.response, "mL" if is_tiv_name(look.fit.covariate) else "")


def write_look(look: Look, folder: Path) -> list[Path]:
    """Write a look as PNG, SVG and TSV (one row a scan, the most influential first)."""
    paths = [folder / f"{look.stem}{suffix}" for suffix in (".png", ".svg", ".tsv")]
    figure = look_figure(look)
    for path in paths[:2]:
        save_figure(path, figure)
    fit = look.fit
    about = {
        "contrast": fit.contrast, "place": look.place, "response": look.response, "covariate": fit.covariate,
        "result": fit.result, "adjusted_for": list(fit.adjusted_for), "variance": fit.variance,
        "notes": list(fit.notes),
    }  # fmt: skip
    dictionary.write_table(paths[2], fit.scans, "voxel_fit", about=about)
    return paths


def _contrast(model: Model, name: str | None) -> Contrast:
    """A recorded contrast by its name, else the first."""
    entries = {one["name"]: one for one in model.record["contrasts"]}
    if name is not None and name not in entries:
        near = closest(name, entries)
        msg = f"--contrast {name!r}: expected one of {listed(list(entries))}{f' (nearest {near})' if near else ''}"
        raise VbmstatError(msg)
    entry = entries[name] if name is not None else model.record["contrasts"][0]
    return Contrast(
        entry["name"], np.array([list(row.values()) for row in entry["weights"]]), entry["kind"], entry["label"]
    )


def _as_recorded(setup: Setup, model: Model) -> Setup:
    """The setup with the design and scaling of the record; refused if it has other scans or columns by now."""
    design, then = setup.design, model.design
    gone, new = (sorted({*a} - {*b}) for a, b in ((then.index, design.scan_ids), (design.scan_ids, then.index)))
    if gone or new:
        parts = [
            f"{listed(gone)} of the model not found" if gone else "",
            f"{listed(new)} not in the model" if new else "",
        ]
        msg = (
            f"{model.folder}: table and maps are not those of the fit ({'; '.join(filter(None, parts))}); fit it again"
        )
        raise VbmstatError(msg)
    matrix = then.loc[list(design.scan_ids)].to_numpy(dtype=np.float64)
    if tuple(then.columns) != design.columns or not np.allclose(matrix, design.matrix, rtol=1e-6, atol=1e-9):
        msg = f"{model.folder}: the table gives another design matrix than design.tsv; fit the model again"
        raise VbmstatError(msg)
    scale = model.record.get("scan_scale")
    return replace(setup, design=replace(design, matrix=matrix), scale=None if scale is None else np.array(scale))
