"""A mixed model of a table of regions, from a formula and a cohort: what ``fit_glm`` is to least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.glm.data import refuse_mixtures
from vbmstat.glm.design.columns import column_name, people_table, read_labels, with_design_rows
from vbmstat.glm.design.contrast import Contrast, build_contrasts, contrast_notes
from vbmstat.glm.design.formula import split_formula
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.design.sites import site_notes
from vbmstat.glm.design.tiv import apply_tiv_recipe
from vbmstat.glm.record import contrast_record, fit_record
from vbmstat.glm.spec import ModelSpec
from vbmstat.maps.sources import as_cohort, gather, with_columns
from vbmstat.maps.store import ArrayMaps
from vbmstat.progress import OnProgress
from vbmstat.regions.mixed import MixedFit, fit_mixed
from vbmstat.tables.cohort import Cohort
from vbmstat.tables.flow import flow_record

FEW_BETWEEN, FEW_WITHIN = 5, 10  # degrees of freedom; benchmarks/results/mixed.md shows what happens below

_KNOWN = ("repeats", "fraction", "seed", "tiv", "allow_mixed", "missing", "inference", "exclude", "where",
          "tables", "exclusions")  # fmt: skip


@dataclass(frozen=True)
class MixedResults:
    """A fitted mixed model."""

    design: Design  # fixed effects; rows are the scans that were used
    contrasts: tuple[Contrast, ...]  # in the order given
    fit: MixedFit  # columns are those of the table
    record: dict[str, Any]  # all that is needed to repeat it


def fit_mixed_glm(
    values: pd.DataFrame,
    spec: ModelSpec,
    cohort: Cohort | pd.DataFrame | Path | str,
    random: str,
    progress: OnProgress | None = None,
) -> MixedResults:
    """Fit a mixed model with a random intercept to every column of a table.

    Parameters
    ----------
    values : DataFrame, (n_scans, n_columns)
        Indexed by scan id.
    spec : ModelSpec
        Formula, contrasts, TIV, missing values; the choices of subsets do not matter.
    cohort : Cohort, DataFrame or path
        One row a scan, with ids.
    random : str
        Column with the subject of each scan, e.g. ``participant_id``.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    MixedResults

    Raises
    ------
    TableError, DesignError, ScanError
        As the steps say; also for choices that a mixed model does not know.
    """
    if spec.tiv == "proportional":
        msg = "a mixed model takes TIV as a covariate: --tiv covariate or by-group"
        raise DesignError(msg)
    if spec.inference.kinds not in ((), ("fdr",)):
        msg = "a mixed model has no permutations: leave --inference out (FDR is always there)"
        raise DesignError(msg)
    unknown = [name for name in spec.changed() if name not in _KNOWN]
    if unknown:
        msg = f"a mixed model takes no {', '.join(unknown)}; leave it out, or --random"
        raise DesignError(msg)
    formula, missing, allow_mixed = spec.formula, spec.missing, spec.allow_mixed
    spec, table = spec.select(as_cohort(cohort))
    source = gather(values, split_formula(formula)[0], table, missing)
    source = with_columns(source, {column_name(random, source.table): "subject"}, missing)
    refuse_mixtures(source.table, allow_mixed)
    right, tiv_note = apply_tiv_recipe(split_formula(formula)[1], spec.tiv, source.table)
    design = build_design(right, source.table, source.scan_ids, missing)
    source = with_design_rows(source, design)
    design = replace(design, people=people_table(design, source.table))
    subjects = read_labels(random, source.table)
    hypotheses = build_contrasts(spec.contrasts, design)
    if not isinstance(source.maps, ArrayMaps):
        msg = "expected a table or matrix of region volumes for a mixed model, got maps in files; measure regions first"
        raise DesignError(msg)
    matrix = source.maps.select(design.scan_ids)
    fit = fit_mixed(matrix.data, design, hypotheses, subjects, progress)
    sites = site_notes(source.table, design)
    left_out = contrast_notes(spec.contrasts, design)
    warnings = mixed_notes(fit, matrix.features)
    design = replace(design, notes=(*source.notes, *tiv_note, *design.notes, *sites, *left_out, *warnings))
    record = fit_record(spec, design, np.empty((0, len(subjects)), dtype=bool), matrix, None)
    record |= {
        "device": "cpu", "flow": flow_record(source.flow),
        "contrasts": contrast_record(hypotheses, design, [0] * len(hypotheses)),
        "p_values": "two-sided (F: upper tail), with Satterthwaite's degrees of freedom",
        "mixed_model": {
            "random_intercept": random, "n_subjects": len(set(subjects)), "estimation": "REML",
            "degrees_of_freedom": "Satterthwaite", "df_between_subjects": fit.df_between,
            "df_within_subjects": fit.df_within,
        },
    }  # fmt: skip
    return MixedResults(design, tuple(hypotheses), fit, record)


def mixed_notes(fit: MixedFit, features: Sequence[str]) -> tuple[str, ...]:
    """What a user must know before they trust the p-values: a line each."""
    notes = []
    if fit.df_between < FEW_BETWEEN or fit.df_within < FEW_WITHIN:
        notes.append(
            f"few subjects: the formula leaves {fit.df_between} degrees of freedom between and {fit.df_within} within "
            f"subjects; below {FEW_BETWEEN} and {FEW_WITHIN} p is approximate (up to 10 % of null regions at p < .05)"
        )
    n_zero = int((fit.random_variance == 0).sum())
    if n_zero:
        notes.append(
            f"In {n_zero} of {len(features)} regions the estimated variance between people is 0; they were tested as "
            "if scans were independent. With few people, up to 8 % instead of 5 % of regions without effect reach "
            "p < .05 for within-person effects."
        )
    empty = [name for name, done in zip(features, fit.converged, strict=True) if not done]
    if empty:
        notes.append(f"no result without variance within subjects (constant, or fitted exactly): {', '.join(empty)}")
    return tuple(notes)
