"""All that is needed to repeat a fit: the content of ``glm.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.assets import sha256
from vbmstat.assets.provenance import file_record, path_label, versions
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.design.subsets import draws_hash
from vbmstat.glm.spec import ModelSpec
from vbmstat.maps.store import ArrayMaps, PackedMaps

RECORD = "glm.json"
SCANS = "scans.tsv"  # covariates of the scans in the model, as the table has them


def fit_record(
    spec: ModelSpec, design: Design, draws: np.ndarray, maps: ArrayMaps | PackedMaps, scale: np.ndarray | None
) -> dict[str, Any]:
    """The content of ``glm.json``, but for what the fit adds.

    Parameters
    ----------
    spec, design, maps
        The model and its maps.
    draws : ndarray, (B, n_scans), bool
        The subsets.
    scale : ndarray, (n_scans,), optional
        Factors on the scans' values.
    """
    report = variance_inflation(design)
    return {
        "command": "glm",
        "spec": spec.record(),
        "formula": spec.formula,
        "design_formula": design.formula,
        "columns": list(design.columns),
        "covariates": [covariate.record for covariate in design.taken],
        "rank": design.rank,
        "n_scans": len(design.scan_ids),
        "n_subsets": len(draws),
        "scans_per_subset": sorted({int(n) for n in draws.sum(axis=1)}),
        "draws_sha256": draws_hash(draws, design.scan_ids) if len(draws) else None,
        "p_values": "two-sided, uncorrected, of the full sample; a median t over subsets has none",
        "mask_rule": {**asdict(spec.mask.rule), "image": spec.mask.image and Path(spec.mask.image).name},
        "design_report": report.replace([np.inf, -np.inf], np.nan)
        .astype(object)
        .where(report.notna(), None)
        .to_dict("records"),
        "scan_scale": None if scale is None else scale.tolist(),
        "notes": list(design.notes),
        "scan_ids": list(design.scan_ids),
        "maps": map_record(maps),
        "versions": {**versions(), "formulaic": metadata.version("formulaic")},
    }


def data_record(maps: Any, cohort: Any) -> dict[str, Any]:
    """Where the data of a model came from: a table by name and sha256, maps of a folder or of the table.

    Data that were passed in memory are None: only the script that made them has them.
    """
    is_path = isinstance(maps, Path | str)
    return {
        "table": file_record(cohort) if isinstance(cohort, Path | str) and Path(cohort).is_file() else None,
        "maps": "table" if maps is None else {"folder": Path(maps).name} if is_path else None,
    }


def file_records(paths: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """File name, size and sha256 of the map of each scan."""
    return {
        scan: {"path": path.name, "size": path.stat().st_size, "sha256": sha256(path)} for scan, path in paths.items()
    }


def map_record(maps: ArrayMaps | PackedMaps) -> dict[str, dict[str, Any]]:
    """File name, size and sha256 of every map; empty for a matrix."""
    if isinstance(maps, ArrayMaps):
        return {}
    files = maps.manifest["files"]
    return {
        scan: {"path": path_label(files[scan]["path"]), "size": files[scan]["size"], "sha256": files[scan]["sha256"]}
        for scan in maps.file_ids
    }


def contrast_record(
    contrasts: Sequence[Contrast], design: Design, repetitions: Sequence[int], df: Sequence[float] | None = None
) -> list[dict[str, Any]]:
    """Contrasts for ``glm.json``; `df` are their (denominator) degrees of freedom, if they have any."""
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


def has_own_df(record: Mapping[str, Any]) -> bool:
    """Whether contrasts of a recorded model have degrees of freedom other than the residual ones."""
    resid = record.get("df_resid")
    return bool({"sandwich", "variance_groups"} & set(record)) or any(
        entry.get("df") is not None and abs(entry["df"] - resid) > 1e-3 for entry in record["contrasts"]
    )
