"""Outputs of a preprocessed scan: maps, fields, volumes, quality, picture, sidecar.

The sidecar is written last: its presence proves that the scan is complete.
Over 300 lines: what is written, and how it is recognised as complete, belong together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vbmstat import assets
from vbmstat.batch.scan_result import ScanResult, smoothed_images
from vbmstat.batch.stored_images import write_image
from vbmstat.batch.wmh_outputs import WmhOutputs, wmh_outputs
from vbmstat.errors import ScanError
from vbmstat.figures import scans
from vbmstat.figures.style import save_png
from vbmstat.files import bids, map_kinds, naming
from vbmstat.files.outputs import BEFORE_SETS, OUTPUTS, output_kinds
from vbmstat.files.warps import BOX, LINEAR, SCAN, TEMPLATE, grid_record
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.maps.origins import GROUP_TEMPLATE, group_template_of
from vbmstat.metrics.lesions import lesion_figures, lesion_words
from vbmstat.metrics.misfit import Misfit, measure_misfit
from vbmstat.preproc.results import Preprocessed
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.steps.quality import grade
from vbmstat.tables import dictionary

WMH_OUTLINE = "white-matter hypointensities"  # in the picture's legend


@dataclass(frozen=True)
class CompletedScan:
    """A scan with all outputs, as the cohort table needs it."""

    row: dict[str, Any]  # cohort columns: volumes, quality, whether the input was skull-stripped
    fwhm_mm: tuple[float, ...]  # widths of its smoothed maps
    # engine and version of vbmstat
    engine: str | None
    version: str | None
    has_wmh: bool = False  # whether it has maps of white-matter hypointensities
    has_tracts: bool = False  # whether ``vbmstat tracts`` added tracts
    outputs: tuple[str, ...] = BEFORE_SETS  # names of its other outputs; see :mod:`vbmstat.files.outputs`
    # if it is one of a person's time points: their models, scans and years, as in the sidecar
    longitudinal: Mapping[str, Any] | None = None
    template: str | None = None  # name and hash of its group template

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of its files."""
        models = self.longitudinal["models"] if self.longitudinal else ()
        return output_kinds(self.fwhm_mm, self.has_wmh, self.outputs, models)

    @property
    def columns(self) -> dict[str, Any]:
        """Cohort columns with engine, version and, if it has one, group template."""
        of_template = {} if self.template is None else {GROUP_TEMPLATE: self.template}
        return {**self.row, "engine": self.engine, "vbmstat_version": self.version, **of_template}

    @property
    def maps(self) -> tuple[str, ...]:
        """Kinds of its modulated maps, which are also the columns of their paths."""
        return tuple(filter(map_kinds.is_map_column, self.kinds))


def write_derivatives(
    out: Path, scan: naming.Scan, result: ScanResult, spec: PreprocSpec, origin: dict[str, Any]
) -> CompletedScan:
    """Write every output of a scan, the sidecar last.

    Parameters
    ----------
    out : Path
        Output folder of the run.
    scan : Scan
        The scan, for the names of files.
    result : ScanResult
        What the engine made.
    spec : PreprocSpec
        Naming convention, and which files are written.
    origin : dict
        Provenance of the scan; the sidecar adds volumes, quality and the linear matrix.
    """
    names = spec.names

    def path(kind: str) -> Path:
        return naming.output_path(out, scan, kind, names)

    made, segmented = result.made, result.made.segmented
    wmh = wmh_outputs(made)
    kinds = output_kinds(spec.fwhm_mm, wmh is not None, spec.outputs, result.models)
    images = {**({} if wmh is None else _named(wmh.maps, result.models)), **result.images}
    written = [kind for kind in kinds if kind in images]
    for kind in written:
        write_image(path(kind), kind, images[kind]())
    describe(out, scan, names, written, made.warped.grid)
    if wmh is not None:
        wmh.write_volumes(path("wmh_volumes"))
    misfit = measure_misfit(made)
    row = scan_row(result, misfit, wmh)
    tissues = [
        name for name in (*map_kinds.TISSUES, map_kinds.WMH, "lesion", "tiv") if row.get(f"{name}_ml") is not None
    ]
    volumes = pd.DataFrame({"tissue": tissues, "volume_ml": [row[f"{tissue}_ml"] for tissue in tissues]})
    dictionary.write_table(path("volumes"), volumes, "volumes")
    quality = {**made.quality.columns(), **misfit.columns()}
    storage.write_json(path("qc"), {**quality, "warnings": _warnings(result, misfit)})
    _write_picture(path("picture"), scan, made, row)
    grids = {TEMPLATE: made.warp.forward.grid, SCAN: segmented.scan_grid, BOX: segmented.fractions.grid}
    records = {key: grid_record(grid) for key, grid in grids.items()}
    affine = {LINEAR: segmented.linear.round(6).tolist(), **records}
    record = {"scan": scan.stem, **origin, "row": row, "affine": affine, "threads": torch.get_num_threads()}
    record["wmh"] = wmh is not None
    storage.write_json(path("sidecar"), record)
    return _completed(record)


def _named(maps: Mapping[str, Volume], models: tuple[str, ...]) -> dict[str, Callable[[], Volume]]:
    """Maps by kind, of a time point by the kinds that it has in their place."""
    named = {kind: map_kinds.kinds_of_time_point(kind, models) if models else (kind,) for kind in maps}
    return {each: partial(Volume, maps[kind].data, maps[kind].grid) for kind, kinds in named.items() for each in kinds}


def read_modulated(out: Path, scan: naming.Scan, names: str) -> dict[str, Volume]:
    """Modulated GM, WM, CSF of a complete scan, and its hypointensities if it has maps of them, by longitudinal model.

    A single scan has those of the model ``""``.
    """
    record = read_sidecar(naming.output_path(out, scan, "sidecar", names))
    numbers = map_kinds.MAP_NUMBER.values() if _has_wmh(record) else map_kinds.TISSUE_NUMBER.values()
    modulated = {}
    for model in (record.get("longitudinal") or {}).get("models", [""]):
        kinds = [map_kinds.modulated_kind(number, model) for number in numbers]
        maps = [io.read_volume(naming.output_path(out, scan, kind, names)) for kind in kinds]
        modulated[model] = Volume(torch.cat([one.data for one in maps]), maps[0].grid)
    return modulated


def write_smoothed(
    made: Path, out: Path, scan: naming.Scan, names: str, smoothed: Mapping[str, Mapping[float, Volume]]
) -> CompletedScan:
    """Write more smoothed maps of a complete scan, and last its sidecar with their widths.

    Parameters
    ----------
    made : Path
        Folder to write to.
    out : Path
        Output folder with the complete scan.
    smoothed : mapping
        GM, WM, CSF and perhaps hypointensities by longitudinal model and width in mm.
    """
    maps = smoothed_images(smoothed)
    for kind, volume in maps.items():
        write_image(naming.output_path(made, scan, kind, names), kind, volume)
    describe(made, scan, names, maps, next(iter(maps.values())).grid)
    record = read_sidecar(naming.output_path(out, scan, "sidecar", names))
    widths = {width for by_width in smoothed.values() for width in by_width}
    record["spec"]["fwhm_mm"] = sorted({*record["spec"]["fwhm_mm"], *widths})
    storage.write_json(naming.output_path(made, scan, "sidecar", names), record)
    return _completed(record)


def describe(out: Path, scan: naming.Scan, names: str, kinds: Iterable[str], grid: Grid) -> None:
    """Write the metadata that BIDS requires beside each image; the grid is that of maps in template space."""
    if names == "bids":
        for kind in kinds:
            path = naming.output_path(out, scan, kind, names)
            storage.write_json(path.with_suffix("").with_suffix(".json"), bids.image_metadata(kind, scan, grid))


def check_owner(out: Path, scan: naming.Scan, names: str) -> None:
    """Raise ScanError if another scan of an earlier run has the same output names, as ``a-b`` and ``ab`` in BIDS."""
    sidecar = naming.output_path(out, scan, "sidecar", names)
    owner = read_sidecar(sidecar).get("scan", scan.stem)
    if owner != scan.stem:
        msg = (
            f"{scan.stem}: its outputs would replace those of {owner} ({sidecar}), because their names become equal; "
            "rename the file, or choose another --out"
        )
        raise ScanError(msg)


def stale_files(out: Path, scan: naming.Scan, names: str, now: CompletedScan) -> list[Path]:
    """Outputs of a scan's earlier run (maps, fields, tracts) that the present one does not make."""
    record = read_sidecar(naming.output_path(out, scan, "sidecar", names))
    earlier = _completed(record) if record else now
    kinds = set(earlier.kinds) - set(now.kinds)
    without_tracts = earlier.has_tracts and not now.has_tracts
    kinds |= set(naming.TRACT_KINDS) if without_tracts else set()
    bundles = naming.bundle_masks(out, scan) if without_tracts else []
    paths = [naming.output_path(out, scan, kind, names) for kind in kinds]
    if earlier.longitudinal is not None and now.longitudinal is None:  # the person's images are not of this scan alone
        person = naming.Scan(scan.path, scan.participant_id, scan.participant_id)
        paths += [naming.output_path(out, person, kind, names) for kind in naming.PERSON_KINDS]
    made = [file for path in paths for file in (path, path.with_suffix("").with_suffix(".json")) if file.is_file()]
    return [*made, *bundles]


def completed_scan(
    out: Path, scan: naming.Scan, names: str, origin: Mapping[str, Any] | None = None
) -> CompletedScan | None:
    """A scan with all outputs; None if one is missing.

    Parameters
    ----------
    origin : mapping, optional
        Provenance that a run would write now; the recorded one must be equal, except for what is written. By
        default, any will do.

    Notes
    -----
    A scan's widths and outputs may differ from those of `origin`: they are in the result.
    """
    record = read_sidecar(naming.output_path(out, scan, "sidecar", names))
    expected = (origin or {}).items()
    if not record or any(_how(record.get(key)) != _how(value) for key, value in expected):
        return None
    completed = _completed(record)
    present = all(naming.output_path(out, scan, kind, names).is_file() for kind in completed.kinds)
    return completed if present else None


def completed_scans(out: Path, names: str) -> dict[naming.Scan, CompletedScan]:
    """All scans in an output folder with all outputs."""
    scans = [scan for scan, record in recorded_scans(out, names) if isinstance(record.get("versions"), dict)]
    return {scan: one for scan in scans if (one := completed_scan(out, scan, names)) is not None}


def recorded_scans(out: Path, names: str) -> Iterator[tuple[naming.Scan, dict[str, Any]]]:
    """The scans of an output folder that have a sidecar, complete or not, with its content."""
    for sidecar in naming.find_sidecars(out, names):
        record = read_sidecar(sidecar)
        stem = record.get("scan")
        if isinstance(stem, str) and stem:
            yield naming.Scan.of_stem(stem), record


def _completed(record: Mapping[str, Any]) -> CompletedScan:
    versions = record.get("versions")
    version = versions.get("vbmstat") if isinstance(versions, dict) else None
    wmh, tracts = _has_wmh(record), bool(record.get("tracts"))
    return CompletedScan(
        record["row"], widths_of(record), record.get("engine"), version, wmh, tracts, outputs_of(record),
        record.get("longitudinal"), group_template_of(record),
    )  # fmt: skip


def _has_wmh(record: Mapping[str, Any]) -> bool:
    """Whether a sidecar lists maps of hypointensities."""
    return record.get("wmh") is True


def widths_of(record: Mapping[str, Any]) -> tuple[float, ...]:
    """Widths of the smoothed maps that a sidecar lists, mm; none if it lists none."""
    spec = record.get("spec")
    widths = spec.get("fwhm_mm") if isinstance(spec, dict) else None
    return tuple(float(width) for width in filter(map_kinds.is_fwhm, widths)) if isinstance(widths, list) else ()


def outputs_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the outputs that a sidecar lists."""
    spec = record.get("spec")
    names = spec.get("outputs", BEFORE_SETS) if isinstance(spec, dict) else BEFORE_SETS
    return tuple(name for name in OUTPUTS if name in names) if isinstance(names, list | tuple) else BEFORE_SETS


def _how(value: Any) -> Any:
    """A spec without what is written, or another value."""
    chosen = ("fwhm_mm", "outputs")
    return {key: entry for key, entry in value.items() if key not in chosen} if isinstance(value, dict) else value


def read_sidecar(path: Path) -> dict[str, Any]:
    """A scan's sidecar; empty if it is missing or cannot be read."""
    try:
        content = storage.read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("row"), dict) else {}


def scan_row(result: ScanResult, misfit: Misfit, wmh: WmhOutputs | None = None) -> dict[str, Any]:
    """Cohort columns of a scan: volumes in mL, lesions, quality, whether the input was skull-stripped."""
    segmented = result.made.segmented
    named = {"tiv": segmented.tiv_ml, **dict(zip(map_kinds.TISSUES, segmented.volumes_ml, strict=True))}
    if segmented.lesions.brought is not None:
        named["lesion"] = segmented.brought_ml
    volumes: dict[str, Any] = {f"{name}_ml": round(volume_ml, 3) for name, volume_ml in named.items()}
    if segmented.lesions.plan.wmh:
        volumes |= {**(lesion_figures(None) if wmh is None else wmh.figures), "wmh_as": segmented.lesions.plan.wmh_as}
    quality = {**result.made.quality.columns(), **misfit.columns()}
    quality["qc_warnings"] = "; ".join(_warnings(result, misfit)) or None
    return {**volumes, **result.columns, **quality, "came_stripped": segmented.was_stripped}


def _warnings(result: ScanResult, misfit: Misfit) -> list[str]:
    return [*result.made.quality.warnings(), *misfit.warnings(), *result.made.segmented.lesions.notes, *result.warnings]


def _write_picture(path: Path, scan: naming.Scan, result: Preprocessed, row: dict[str, Any]) -> None:
    segmented = result.segmented
    lesions = {WMH_OUTLINE: segmented.wmh, "lesion mask": segmented.brought}
    marked = {name: segmented.on_scan(lesion) for name, lesion in lesions.items() if lesion is not None}
    figure = scans.scan_report(
        scans.Overlay(segmented.corrected, segmented.label, marked),
        scans.Overlay(result.warped.channel(0), template_gm(result.warped.grid)),
        f"{scan.stem} · engine {segmented.engine}", picture_header(row),
    )  # fmt: skip
    save_png(path, figure)


def template_gm(grid: Grid) -> Volume:
    """The template's GM on the grid of a scan's maps."""
    template = assets.template().channel(0)
    return Volume(resample(template.data, template.grid, grid), grid)


def picture_header(row: Mapping[str, Any]) -> dict[str, str]:
    """What a scan's picture says above the slices, from its cohort columns."""

    def graded(figure: str, aspect: str) -> str:
        return f"{figure} ({grade(row[f'qc_{aspect}_rating'])})"

    metrics = {
        "TIV": f"{row['tiv_ml']:.0f} mL", "GM": f"{row['gm_ml']:.0f} mL", "WM": f"{row['wm_ml']:.0f} mL",
        "CSF": f"{row['csf_ml']:.0f} mL", "image quality": f"{row['qc_image_rating']:.0f} % ({row['qc_image_grade']})",
        "noise": graded(f"{row['qc_noise_percent']:.1f} % of WM", "noise"),
        "bias": graded(f"{row['qc_bias_percent']:.0f} %", "bias"),
        "contrast": graded(f"{row['qc_contrast_percent']:.0f} %", "contrast"),
        "resolution": graded(f"{row['qc_resolution_mm']:.2g} mm", "resolution"),
        "template r": f"{row['qc_template_correlation']:.2f}", "overlap": f"{row['qc_template_overlap']:.2f}",
        "implausible": f"{row['qc_implausible_percent']:.1f} %", "warnings": row["qc_warnings"] or "none",
    }  # fmt: skip
    if "wmh_ml" in row:
        metrics["WMH"] = lesion_words(row)
    if "lesion_ml" in row:
        metrics["lesion mask"] = f"{row['lesion_ml']:.0f} mL"
    return metrics
