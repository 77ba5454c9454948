"""White-matter hypointensities of scans that are preprocessed already, from the images that the run left.

Nothing is segmented or warped again, and tissue maps stay as they are: only ``preprocess --wmh`` counts hypointensities
in the tissues.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat import assets
from vbmstat.batch import derivatives
from vbmstat.batch.claim import claim, tables_claim
from vbmstat.batch.resources import Execution
from vbmstat.batch.task import publish, reason_of
from vbmstat.batch.wmh_outputs import WmhOutputs
from vbmstat.errors import ScanError, TableError, VbmstatError
from vbmstat.figures import scans as pictures
from vbmstat.figures.style import save_png
from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.grid import apply_affine, resample, voxel_indices
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Displacement, Volume
from vbmstat.metrics import lesions
from vbmstat.preproc.lesions import LesionPlan, Lesions, wmh_parameters
from vbmstat.preproc.networks.weights import OWN
from vbmstat.preproc.steps import modulate, priors
from vbmstat.preproc.steps.lesions import Evidence
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables import cohort, dictionary

_IMAGES = ("m", "p1", "p2", "p3", "y", "iy", "p0", "wp1")  # that a scan must still have
_PLAN = LesionPlan(wmh=True, wmh_as="none")
_HERE = Execution()


@dataclass(frozen=True)
class WmhRun:
    """What became of each scan of a folder.

    Attributes
    ----------
    measured : dict of str to dict
        New cohort columns by scan stem.
    kept : tuple of str
        Scans that had maps of hypointensities already.
    failures : dict of str to str
        Why a scan could not be measured.
    """

    measured: dict[str, dict[str, Any]]
    kept: tuple[str, ...]
    failures: dict[str, str]


def measure_folder(
    folder: Path, weights: str = OWN, execution: Execution = _HERE, report: OnProgress = ignore
) -> WmhRun:
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
        Called with (stage, done, total) after each scan.

    Raises
    ------
    VbmstatError
        If the folder has no preprocessed scan, or the network is missing.
    """
    plan = replace(_PLAN, weights=weights)
    wmh_parameters(weights)  # raises before any work
    found = [(scan, names) for names in naming.NAME_STYLES for scan in _scans(folder, names)]
    if not found:
        msg = f"{folder}: no preprocessed scan (report/vbmstat_NAME.json); expected an output folder of preprocess"
        raise VbmstatError(msg)
    measured, kept, failures = dict[str, dict[str, Any]](), list[str](), dict[str, str]()
    for number, (scan, names) in enumerate(found, start=1):
        try:
            columns = _measure(folder, scan, names, plan, execution)
        except (VbmstatError, MemoryError) as error:  # one bad scan does not stop the others
            failures[scan.stem] = reason_of(error, scan)
        else:
            measured |= {} if columns is None else {scan.stem: columns}
            kept += [] if columns is not None else [scan.stem]
        report("hypointensities", number, len(found))
    if measured:
        with tables_claim(folder, execution.locking):
            _add_to_cohort(folder / "cohort.tsv", measured)
    return WmhRun(measured, tuple(kept), failures)


def _scans(folder: Path, names: str) -> Iterable[naming.Scan]:
    """The preprocessed scans of a folder, complete or not."""
    for sidecar in naming.find_sidecars(folder, names):
        stem = derivatives.read_sidecar(sidecar).get("scan")
        if isinstance(stem, str) and stem:
            yield naming.Scan(Path(stem), stem, *naming.split_ids(stem))


def _measure(
    folder: Path, scan: naming.Scan, names: str, plan: LesionPlan, execution: Execution
) -> dict[str, Any] | None:
    """New cohort columns of a scan, whose outputs are written; None if it has them."""
    record = derivatives.read_sidecar(naming.output_path(folder, scan, "sidecar", names))
    if record.get("wmh") and not execution.force:
        return None
    if record.get("wmh") and record["row"].get("wmh_as") != "none":
        msg = "its tissue maps count hypointensities already; to measure again, run vbmstat preprocess --wmh --force"
        raise ScanError(msg)
    images = _read_images(folder, scan, names)
    linear = np.array(record["affine"]["template_mm_to_scan_mm"])
    outputs = wmh_of_images(images, linear, derivatives.widths_of(record), plan)
    columns = {**outputs.figures, "wmh_as": _PLAN.wmh_as}
    held = claim(folder, scan.stem, execution.locking)
    if held is None:
        msg = "another run works on it; try again later"
        raise ScanError(msg)
    try:
        _write(
            held.folder,
            scan,
            names,
            outputs,
            {**record, "row": {**record["row"], **columns}, "wmh": True, **wmh_parameters(plan.weights)},
        )
        _draw(
            naming.output_path(held.folder, scan, "picture", names), scan, images, outputs, {**record["row"], **columns}
        )
        publish(held.folder, folder, naming.output_path(Path(), scan, "sidecar", names))
    finally:
        held.release()
    maps = {kind: naming.output_path(folder, scan, kind, names) for kind in outputs.maps if naming.is_map_column(kind)}
    return {**columns, **{kind: path.relative_to(folder).as_posix() for kind, path in maps.items()}}


def _read_images(folder: Path, scan: naming.Scan, names: str) -> dict[str, Volume]:
    """The images of a scan by kind."""
    paths = {kind: naming.output_path(folder, scan, kind, names) for kind in _IMAGES}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        msg = f"{', '.join(missing)} is missing; run vbmstat preprocess --wmh for this scan"
        raise ScanError(msg)
    return {kind: io.read_channels(path) for kind, path in paths.items()}


def wmh_of_images(
    images: Mapping[str, Volume], linear: np.ndarray, fwhm_mm: Iterable[float], plan: LesionPlan = _PLAN
) -> WmhOutputs:
    """Hypointensities from the images of a preprocessed scan.

    Parameters
    ----------
    images : mapping of str to Volume
        Kinds ``m`` and ``p1`` to ``p3`` on the scan's grid, ``iy`` (template mm on the working grid) and ``y`` (scan mm
        on the template's grid).
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    fwhm_mm : iterable of float
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
    warped, modulated = modulate.normalise(share, *_whole_warp(images["y"]))
    smoothed = {width: smooth_map(modulated, width) for width in fwhm_mm}
    figures = lesions.lesion_figures(share, volumes)
    return WmhOutputs(native, lesions.lesion_mask(native), warped, modulated, smoothed, volumes, figures)


def _whole_warp(deformation: Volume) -> tuple[Displacement, np.ndarray]:
    """A ``y_`` file as a displacement from template to scan points, with nothing linear left."""
    mm = apply_affine(deformation.grid.affine, voxel_indices(deformation.grid.shape))
    return Displacement(deformation.data - mm, deformation.grid), np.eye(4)


def _write(made: Path, scan: naming.Scan, names: str, outputs: WmhOutputs, record: dict[str, Any]) -> None:
    """Write the maps and tables of a scan, and last its sidecar."""
    outputs.write(lambda kind: naming.output_path(made, scan, kind, names))
    derivatives.describe(made, scan, names, outputs.maps)
    storage.write_json(naming.output_path(made, scan, "sidecar", names), record)


def _draw(
    path: Path, scan: naming.Scan, images: Mapping[str, Volume], outputs: WmhOutputs, row: Mapping[str, Any]
) -> None:
    """The scan's picture with the new outlines."""
    title = f"{scan.stem} · hypointensities added by vbmstat wmh"
    figure = pictures.scan_report(
        pictures.Overlay(images["m"], images["p0"], {derivatives.WMH_OUTLINE: outputs.native}),
        pictures.Overlay(images["wp1"], assets.template().channel(0)), title, derivatives.picture_header(row),
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
