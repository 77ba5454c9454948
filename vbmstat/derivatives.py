"""What is written for one preprocessed scan: maps, fields, volumes, quality, picture, sidecar.

The sidecar comes last, so that its presence proves that the scan is complete.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vbmstat import assets, bids, io, naming, storage, tables
from vbmstat.figures import scans
from vbmstat.preproc.pipeline import FWHM_MM, Preprocessed
from vbmstat.preproc.steps.quality import grade
from vbmstat.volume import Volume

_COORDINATE_STEP_MM = 1 / 256  # fields are rounded to this: far below a voxel, and half the file
_TISSUES = ("gm", "wm", "csf")


def write_derivatives(out: Path, scan: naming.Scan, result: Preprocessed, names: str, origin: dict[str, Any]) -> None:
    """Write every output of a scan, the sidecar last.

    Parameters
    ----------
    out : Path
        Output folder of the run.
    scan : Scan
        Gives the files' names.
    result : Preprocessed
        What the engine made.
    names : {"cat12", "bids"}
        Naming convention.
    origin : dict
        Provenance of the scan; volumes, quality and the affine are added to it.
    """

    def path(kind: str) -> Path:
        return naming.output_path(out, scan, kind, names)

    native = [("p0", result.label), ("m", result.corrected)]
    native += [(f"p{i + 1}", result.tissues.channel(i)) for i in range(3)]
    for kind, volume in native:
        io.write_volume(path(kind), volume, space="scanner", description=f"vbmstat {kind}")
    template = [(f"wp{i + 1}", result.warped.channel(i)) for i in range(2)]
    template += [(f"mwp{i + 1}", result.modulated.channel(i)) for i in range(3)]
    template += [(f"s{FWHM_MM:g}mwp{i + 1}", result.smoothed.channel(i)) for i in range(2)]
    for kind, volume in template:
        io.write_volume(path(kind), volume, description=f"vbmstat {kind}")
    io.write_volume(path("y"), _rounded(result.deformation), description="vbmstat template voxel to scan mm")
    inverse = _rounded(result.inverse_deformation)
    io.write_volume(path("iy"), inverse, space="scanner", description="vbmstat scan voxel to template mm")
    if names == "bids":
        for kind in (*(kind for kind, _ in native), *(kind for kind, _ in template), "y", "iy"):
            storage.write_json(path(kind).with_suffix("").with_suffix(".json"), bids.image_metadata(kind, scan))
    row = scan_row(result)
    volumes = pd.DataFrame({"tissue": [*_TISSUES, "tiv"], "volume_ml": [row[f"{t}_ml"] for t in (*_TISSUES, "tiv")]})
    tables.write_table(path("volumes"), volumes, "volumes")
    storage.write_json(path("qc"), {**result.quality.columns(), "warnings": result.quality.warnings()})
    _write_picture(path("picture"), scan, result, row)
    affine = {"template_mm_to_scan_mm": result.linear.round(6).tolist()}
    made = {"row": row, "affine": affine, "threads": torch.get_num_threads()}
    storage.write_json(path("sidecar"), {"scan": scan.stem, **origin, **made})


def is_complete(out: Path, scan: naming.Scan, names: str) -> bool:
    """Whether all outputs of a scan are there, however they were made."""
    return bool(_read_sidecar(naming.output_path(out, scan, "sidecar", names))) and _all_present(out, scan, names)


def completed_row(out: Path, scan: naming.Scan, names: str, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Cohort columns of a scan that was completed before in the same way; None if it must be run.

    Parameters
    ----------
    origin : dict
        Provenance that a run now would write; it must equal the old one.
    """
    old = _read_sidecar(naming.output_path(out, scan, "sidecar", names))
    same = all(old.get(key) == value for key, value in origin.items())
    return old["row"] if old and same and _all_present(out, scan, names) else None


def completed_scans(out: Path, names: str) -> dict[naming.Scan, dict[str, Any]]:
    """Cohort columns, with engine and version, of all scans in an output folder whose outputs are complete.

    The scans' paths are not known: they hold the stem alone.
    """
    found = {}
    for sidecar in naming.find_sidecars(out, names):
        old = _read_sidecar(sidecar)
        stem, made_by = old.get("scan"), old.get("versions")
        if not (isinstance(stem, str) and stem and isinstance(made_by, dict)):
            continue
        scan = naming.Scan(Path(stem), stem, *naming.split_ids(stem))
        if naming.output_path(out, scan, "sidecar", names) == sidecar and _all_present(out, scan, names):
            found[scan] = {**old["row"], "engine": old.get("engine"), "vbmstat_version": made_by.get("vbmstat")}
    return found


def _read_sidecar(path: Path) -> dict[str, Any]:
    """A scan's sidecar; empty if there is none, or none that can be read."""
    try:
        content = storage.read_json(path)
    except (OSError, ValueError):
        return {}
    sound = isinstance(content, dict) and isinstance(content.get("row"), dict)
    return content if sound else {}


def _all_present(out: Path, scan: naming.Scan, names: str) -> bool:
    return all(naming.output_path(out, scan, kind, names).is_file() for kind in naming.OUTPUT_KINDS)


def scan_row(result: Preprocessed) -> dict[str, Any]:
    """Cohort columns of a scan: volumes in mL, quality, whether it came stripped."""
    volumes = {f"{name}_ml": round(getattr(result, f"{name}_ml"), 3) for name in ("tiv", *_TISSUES)}
    return {**volumes, **result.quality.columns(), "qc_warnings": "; ".join(result.quality.warnings()) or None,
            "came_stripped": result.was_stripped}  # fmt: skip


def _write_picture(path: Path, scan: naming.Scan, result: Preprocessed, row: dict[str, Any]) -> None:

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
    figure = scans.scan_report(
        result.corrected, result.label, result.warped.channel(0), assets.template().channel(0),
        f"{scan.stem} · engine {result.engine}", metrics,
    )  # fmt: skip
    scans.save_png(path, figure)


def _rounded(coordinates: Volume) -> Volume:
    return Volume(torch.round(coordinates.data / _COORDINATE_STEP_MM) * _COORDINATE_STEP_MM, coordinates.grid)
