"""A model before it is fitted, for the page: what `glm` would take, by its own functions; no map is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, get_type_hints

import numpy as np
import pandas as pd

from vbmstat.errors import VbmstatError
from vbmstat.figures.model import scaled_columns
from vbmstat.glm.design.contrast import weights_text
from vbmstat.glm.design.formula import split_formula
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.keywords import ModelKeywords, check_types
from vbmstat.glm.setup import Setup, set_up
from vbmstat.glm.spec import Compute, ModelSpec
from vbmstat.tables.cohort import read_cohort
from vbmstat.tables.selection import ALL
from vbmstat.ui.commands import arguments, command_line, contrast_texts
from vbmstat.ui.estimate import PILOT_PERMUTATIONS, estimate
from vbmstat.ui.plain import plain
from vbmstat.ui.study import Study

_MOST_ROWS = 200  # of the matrix in the picture


def design(study: Study, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `glm` would make of the page's options: design, contrasts, notes; or why it would refuse them.

    Parameters
    ----------
    study : Study
        The folder.
    options : mapping
        As for :func:`vbmstat.ui.commands.arguments` of glm; and `estimate`, true for the time that it will take.
    """
    wants_estimate, options = bool(options.get("estimate")), {k: v for k, v in options.items() if k != "estimate"}
    answer: dict[str, Any] = {
        "ok": False, "error": None, "response": None, "n_scans": 0, "columns": [], "regressors": [], "matrix": [],
        "correlations": [], "vif": {}, "warnings": [], "contrasts": [], "estimate": None, "command": None,
    }  # fmt: skip
    try:
        answer["command"] = command_line(arguments(study, "glm", options))
        setup = _set_up(study, options)
        found = None
        if wants_estimate:
            few = min(setup.spec.inference.permutations, PILOT_PERMUTATIONS)
            found = estimate(setup, _set_up(study, {**options, "permutations": few}))
    except VbmstatError as error:
        return answer | {"error": str(error)}
    return answer | {"ok": True, "estimate": None if found is None else asdict(found), **_described(setup)}


def _spec(options: Mapping[str, Any]) -> ModelSpec:
    """The model of the page's options, which have the names of the command line."""
    keywords = {"fwhm_mm" if name == "fwhm" else name: value for name, value in options.items() if value is not None}
    known = {name: value for name, value in keywords.items() if name in get_type_hints(ModelKeywords)}
    check_types(known)
    return ModelSpec.make(str(options["formula"]), contrast_texts(options.get("contrasts")) or None, **known)


def _set_up(study: Study, options: Mapping[str, Any]) -> Setup:
    spec, cohort = _spec(options), read_cohort(study.table)
    if (options.get("level") or "voxel") == "voxel":
        return set_up(spec, None, cohort, Compute())
    spec, cohort = spec.select(cohort)  # of regions the volumes are measured first: here ones stand for them
    volumes = pd.DataFrame({"region": 1.0}, index=cohort.scan_ids)
    return set_up(replace(spec, selection=ALL), volumes, cohort, Compute())


def _described(setup: Setup) -> dict[str, Any]:
    design = setup.named_design
    frame = pd.DataFrame(design.matrix, columns=list(design.columns))
    inflation = variance_inflation(setup.design)
    rows = np.linspace(0, len(frame) - 1, min(len(frame), _MOST_ROWS)).round().astype(int)
    return {
        "response": split_formula(setup.spec.formula)[0], "n_scans": len(design.scan_ids),
        "columns": [{"name": one.name, "kind": one.kind, "levels": one.values.get("levels"), "line": one.line}
                    for one in design.taken],
        "regressors": list(design.columns), "matrix": plain(scaled_columns(design.matrix)[rows].round(4)),
        "correlations": plain(frame.corr().to_numpy().round(4)),
        "vif": plain(dict(zip(inflation["column"], inflation["vif"], strict=True))), "warnings": list(setup.notes),
        "contrasts": [
            {"name": one.name, "kind": one.kind, "weights": one.weights.tolist(), "text": weights_text(one, design)}
            for one in setup.contrasts
        ],
    }  # fmt: skip
