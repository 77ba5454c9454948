"""All that is needed to repeat a fit, as ``glm.json`` holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.assets.provenance import path_label, versions
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.design.subsets import draws_hash
from vbmstat.glm.spec import Options
from vbmstat.maps.store import ArrayMaps, PackedMaps

RECORD = "glm.json"
_IDLE = ("n_threads", "chunk_voxels")  # results do not depend on them


def fit_record(
    formula: str, right: str, design: Design, draws: np.ndarray, settings: Options, maps: ArrayMaps | PackedMaps,
    scale: np.ndarray | None,
) -> dict[str, Any]:
    """What goes into ``glm.json``."""
    options = {k: path_label(v) if isinstance(v, Path) else v for k, v in asdict(settings).items() if k not in _IDLE}
    report = variance_inflation(design)
    return {
        "command": "glm",
        "formula": formula,
        "design_formula": right,
        "columns": list(design.columns),
        "covariates": [covariate.record for covariate in design.taken],
        "rank": design.rank,
        "n_scans": len(design.scan_ids),
        "n_subsets": len(draws),
        "scans_per_subset": sorted({int(n) for n in draws.sum(axis=1)}),
        "draws_sha256": draws_hash(draws, design.scan_ids) if len(draws) else None,
        "p_values": "two-sided, uncorrected, of the full sample; a median t over subsets has none",
        "options": options,
        "mask_rule": {**asdict(settings.mask_rule), "image": options["mask"]},
        "design_report": report.replace([np.inf, -np.inf], np.nan).astype(object).where(report.notna(), None)
        .to_dict("records"),
        "scan_scale": None if scale is None else scale.tolist(),
        "notes": list(design.notes),
        "scan_ids": list(design.scan_ids),
        "maps": map_record(maps),
        "versions": {**versions(), "formulaic": metadata.version("formulaic")},
    }


def map_record(maps: ArrayMaps | PackedMaps) -> dict[str, dict[str, Any]]:
    """File name, size and sha256 of every map (when it was written says nothing about it); nothing for a matrix."""
    if isinstance(maps, ArrayMaps):
        return {}
    files = maps.manifest["files"]
    return {
        scan: {"path": path_label(files[scan]["path"]), "size": files[scan]["size"], "sha256": files[scan]["sha256"]}
        for scan in maps.scan_ids
    }


def contrast_record(
    contrasts: Sequence[Contrast], design: Design, repetitions: Sequence[int], df: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Contrasts as they go into ``glm.json``; `df` are their (denominator) degrees of freedom, if they have any."""
    freedom = [None] * len(contrasts) if df is None else [round(float(one), 4) for one in df]
    return [
        {
            "name": contrast.name,
            "label": contrast.label,
            "kind": contrast.kind,
            "weights": [dict(zip(design.columns, row.tolist(), strict=True)) for row in contrast.weights],
            "repetitions_estimated": count,
            "df": one,
        }
        for contrast, count, one in zip(contrasts, repetitions, freedom, strict=True)
    ]
