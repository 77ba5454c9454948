"""White-matter hypointensities of scans that are preprocessed already, from the images that the run left.

Nothing is segmented or warped again, and tissue maps stay as they are: only ``preprocess --wmh`` counts hypointensities
in the tissues.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat import assets
from vbmstat.batch import derivatives
from vbmstat.batch.claim import tables_claim
from vbmstat.batch.finished import FinishedRun, FinishedScan, measure_finished
from vbmstat.batch.resources import Execution
from vbmstat.batch.stored_images import write_image
from vbmstat.batch.wmh_outputs import WmhOutputs
from vbmstat.errors import ScanError, TableError
from vbmstat.figures import scans as pictures
from vbmstat.figures.style import save_png
from vbmstat.files import map_kinds, naming
from vbmstat.image import storage
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.metrics import lesions
from vbmstat.preproc.lesions import LesionPlan, Lesions, wmh_parameters
from vbmstat.preproc.networks.weights import OWN
from vbmstat.preproc.pipeline import normalise, smooth_maps
from vbmstat.preproc.steps import priors
from vbmstat.preproc.steps.lesions import Evidence
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables import cohort, dictionary

_IMAGES = ("m", "p1", "p2", "p3", "p0", "wp1")  # that a scan must still have
_PLAN = LesionPlan(wmh=True, wmh_as="none")
_HERE = Execution()


def measure_folder(
    folder: Path, weights: str = OWN, execution: Execution = _HERE, report: OnProgress = ignore
) -> FinishedRun:
    """Measure hypointensities in an output folder of ``vbmstat preprocess`` and add them to its ``cohort.tsv``.

    Parameters
    ----------
    folder : Path
        The folder.
    weights : str
        Network that looks for them; see :func:`vbmstat.preproc.networks.lesions.find_network`.
    execution : Execution
        Its `force` measures again the scans that this function measured before; its `locking` locks scans against other
        runs.
    report : callable
        Called with (stage, done, total) before the first and after each scan.

    Raises
    ------
    VbmstatError
        If the folder has no preprocessed scan, or the network is missing.
    """
    plan = replace(_PLAN, weights=weights)
    wmh_parameters(weights)  # raises before any work
    run = measure_finished(folder, partial(_measure, plan=plan, execution=execution), "hypointensities", report)
    if run.measured:
        with tables_claim(folder, execution.locking):
            _add_to_cohort(folder / "cohort.tsv", run.measured)
    return run


def _measure(one: FinishedScan, plan: LesionPlan, execution: Execution) -> dict[str, Any] | None:
    """New cohort columns of a scan, whose outputs are written; None if it has them."""
    record = one.record
    if record.get("wmh") and not execution.force:
        return None
    if record.get("wmh") and record["row"].get("wmh_as") != "none":
        msg = "its tissue maps count hypointensities already; to measure again, run vbmstat preprocess --wmh --force"
        raise ScanError(msg)
    if record["row"].get("lesion_ml") and record["spec"]["lesion_in_maps"] == "keep":
        msg = "its tissues hold a lesion (--lesion-in-maps keep); run vbmstat preprocess --wmh with --lesion-mask"
        raise ScanError(msg)
    images = one.images(_IMAGES, "run vbmstat preprocess --wmh for this scan")
    images |= {"y": one.warp.to_scan, "iy": one.warp.to_template(one.warp.box or images["m"].grid)}
    linear = np.array(record["affine"]["template_mm_to_scan_mm"])
    outputs = wmh_of_images(images, linear, derivatives.widths_of(record), plan)
    columns = {**outputs.figures, "wmh_as": _PLAN.wmh_as}
    row = {**record["row"], **columns}
    with one.adding(execution.locking) as made:
        for kind, volume in outputs.maps.items():
            write_image(one.path(kind, made), kind, volume)
        outputs.write_volumes(one.path("wmh_volumes", made))
        derivatives.describe(made, one.scan, one.names, outputs.maps, images["wp1"].grid)
        written = {**record, "row": row, "wmh": True, **wmh_parameters(plan.weights)}
        storage.write_json(one.path("sidecar", made), written)
        _draw(one.path("picture", made), one.scan, images, outputs, row)
    maps = {kind: one.path(kind) for kind in outputs.maps if map_kinds.is_map_column(kind)}
    return {**columns, **{kind: path.relative_to(one.folder).as_posix() for kind, path in maps.items()}}


def wmh_of_images(
    images: Mapping[str, Volume], linear: np.ndarray, fwhm_mm: Sequence[float], plan: LesionPlan = _PLAN
) -> WmhOutputs:
    """Hypointensities from the images of a preprocessed scan.

    Parameters
    ----------
    images : mapping of str to Volume
        Kinds ``m`` and ``p1`` to ``p3`` on the scan's grid, ``iy`` (template mm on the working grid), ``y`` (scan mm
        on the template's grid) and ``wp1`` on the grid of the maps.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    fwhm_mm : sequence of float
        Widths of the smoothed maps.
    plan : LesionPlan
        With the name of the network.

    Raises
    ------
    ScanError
        If the hypointensities cannot be measured.
    """
    inverse, scan_grid = images["iy"], images["m"].grid
    on_scan = Volume(torch.cat([images[kind].data for kind in ("m", "p1", "p2", "p3")]), scan_grid)
    brain, *tissues = resample(on_scan.data, scan_grid, inverse.grid)
    fractions = torch.stack(tissues)
    prior = priors.tissue_priors(assets.template(), linear, inverse.grid, inverse)
    evidence = Evidence(Volume(brain[None], inverse.grid), fractions, prior, linear, images["m"])
    found = Lesions(plan).search(evidence)
    if found.wmh is None:
        raise ScanError("; ".join(found.notes))
    share = Volume(found.wmh[None], inverse.grid)
    volumes = lesions.lesion_volumes(share, Volume(fractions, inverse.grid), inverse.data)
    native = Volume(resample(share.data, inverse.grid, scan_grid), scan_grid)
    warped, modulated = normalise(share, images["y"], images["wp1"].grid)
    smoothed = smooth_maps(modulated, fwhm_mm)
    figures = lesions.lesion_figures(share, volumes)
    return WmhOutputs(native, lesions.lesion_mask(native), warped, modulated, smoothed, volumes, figures)


def _draw(
    path: Path, scan: naming.Scan, images: Mapping[str, Volume], outputs: WmhOutputs, row: Mapping[str, Any]
) -> None:
    """The scan's picture with the new outlines."""
    title = f"{scan.stem} · hypointensities added by vbmstat wmh"
    figure = pictures.scan_report(
        pictures.Overlay(images["m"], images["p0"], {derivatives.WMH_OUTLINE: outputs.native}),
        pictures.Overlay(images["wp1"], derivatives.template_gm(images["wp1"].grid)), title,
        derivatives.picture_header(row),
    )  # fmt: skip
    save_png(path, figure)


def _add_to_cohort(path: Path, measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the columns of the measured scans to the cohort table."""
    try:
        table = cohort.read_cohort(path)
    except TableError:
        return  # a shard's folder has no table yet; the run that writes it reads the sidecars
    columns = pd.DataFrame.from_dict(measured, orient="index")
    rows = table.table["scan"].astype(str)
    for name in columns:
        new = rows.map(columns[name])
        table.table[name] = new.where(new.notna(), table.table.get(name))
    cohort.write_cohort(path, table, _descriptions(path))


def _descriptions(path: Path) -> dict[str, Any]:
    """Descriptions of the participants' columns in the data dictionary of a table."""
    try:
        content = storage.read_json(path.with_suffix(".json"))
    except (OSError, ValueError):
        return {}
    return {name: words for name, words in content.items() if name != dictionary.ABOUT and isinstance(words, dict)}
