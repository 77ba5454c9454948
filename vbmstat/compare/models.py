"""Models of a comparison of cohorts: each is fitted once, in ``glm/COHORT/VARIABLE_TISSUE/PIPELINE``.

A model already fitted with the same maps, covariates, options and version is kept: ``stamp.json``, written last,
records these.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import __version__
from vbmstat.assets import sha256
from vbmstat.compare.config import ComparisonPlan, Variable
from vbmstat.compare.pipelines import MapSet
from vbmstat.errors import DesignError, ScanError, TableError, listed
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.spec import ModelSpec
from vbmstat.image import storage
from vbmstat.maps.masking import MaskRule, file_stamp
from vbmstat.maps.pack import find_store, pack_maps
from vbmstat.maps.store import PackedMaps
from vbmstat.tables.cohort import is_tiv_name

_STAMP = "stamp.json"
_DRAWS = "draws.tsv"


@dataclass(frozen=True)
class Stamp:
    """What decides the results in a folder, beside the version; written when they are complete."""

    folder: Path
    content: Mapping[str, Any]

    def matches(self) -> bool:
        """Whether the folder's results were made in this way."""
        try:
            return bool(storage.read_json(self.folder / _STAMP) == json.loads(json.dumps(self._record())))
        except (OSError, ValueError):
            return False

    def clear(self) -> None:
        """Mark the results as incomplete."""
        (self.folder / _STAMP).unlink(missing_ok=True)

    def write(self) -> None:
        """Mark the results as complete."""
        storage.write_json(self.folder / _STAMP, self._record())

    def _record(self) -> dict[str, Any]:
        return {"version": __version__, **self.content}


def model_folder(plan: ComparisonPlan, cohort: str, variable: str, tissue: str, pipeline: str) -> Path:
    """Folder of a model's results."""
    return plan.out / "glm" / cohort / f"{variable}_{tissue}" / pipeline


def fit_model(plan: ComparisonPlan, maps: MapSet, variable: Variable) -> bool:
    """Fit one model, on the reference's subsets, unless it is done; return whether it was fitted now.

    Raises
    ------
    DesignError
        If it cannot be fitted; the message names cohort, variable, tissue and pipeline.
    """
    data, pipeline, tissue = maps.data, maps.pipeline, maps.tissue
    table = data.table(pipeline)
    _check_tiv(variable, table, f"{data.name}: {pipeline}")
    options: dict[str, Any] = {"missing": "drop", **plan.glm}
    reference = next(iter(data.pipelines))
    draws = model_folder(plan, data.name, variable.name, tissue, reference) / _DRAWS
    if pipeline != reference and draws.is_file():
        options["draws"] = draws
    folder = model_folder(plan, data.name, variable.name, tissue, pipeline)
    stamp = Stamp(folder, {
        "formula": variable.formula, "contrast": variable.contrast, "options": plan.glm,
        "maps": {scan: file_stamp(path) for scan, path in maps.paths.items()},
        "covariates": hashlib.sha256(table.to_csv().encode()).hexdigest(),
        "draws": sha256(draws) if "draws" in options else None,
    })  # fmt: skip
    if stamp.matches():
        return False
    try:
        rule = ModelSpec.make(variable.formula, **options).mask.rule
        packed = _pack(maps.paths, plan.out / "maps" / f"{data.name}_{pipeline}_{tissue}", rule)
        keep = {key: value for key, value in options.items() if key not in ("mask_threshold", "mask_share")}
        fit = fit_glm(packed, f"{tissue} ~ {variable.formula}", table, {variable.name: variable.contrast}, **keep)
    except (DesignError, TableError, ScanError) as error:
        msg = f"{data.name}, {variable.name}, {tissue}, {pipeline}: {error}"
        raise DesignError(msg) from error
    if fit.contrasts[0].kind != "t":
        msg = f"{data.name}, {variable.name}: contrast {variable.contrast!r} is an F-test; give a t-contrast"
        raise DesignError(msg)
    stamp.clear()
    fit.to_directory(folder)
    stamp.write()
    return True


def _pack(paths: Mapping[str, Path], folder: Path, rule: MaskRule) -> PackedMaps:
    """Pack maps, which pipelines and variables share; a store of other scans has their mask and is made again."""
    existing = find_store(folder)
    if existing is not None and set(existing.scan_ids) != set(paths):
        shutil.rmtree(folder)
    return pack_maps(paths, folder, rule)


def _check_tiv(variable: Variable, table: pd.DataFrame, source: str) -> None:
    """Refuse a model with TIV, by any of its names, if scans have none."""
    if not any(map(is_tiv_name, re.findall(r"\w+", variable.formula))):
        return
    values = table["tiv_ml"] if "tiv_ml" in table else pd.Series(index=table.index, dtype=float)
    without = list(values.index[values.isna()])
    if without:
        msg = (
            f"no TIV in {source} for {listed(without, 6)}; expected sidecars (report/vbmstat_*.json), cohort.tsv or "
            "volumes.tsv with tiv_ml, or CAT12's report/cat_*.xml in its folder"
        )
        raise DesignError(msg)
