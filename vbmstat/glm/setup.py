"""A model before any map is read: design, contrasts, subsets, permutations; what cannot be fitted is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.glm.data import refuse_mixtures
from vbmstat.glm.design.columns import (
    column_name,
    people_table,
    read_groups,
    read_labels,
    read_named,
    read_numbers,
    with_change,
    with_design_rows,
)
from vbmstat.glm.design.contrast import Contrast, are_default, build_contrasts, columns_of_interest, contrast_notes
from vbmstat.glm.design.formula import split_change, split_formula, split_map_term, with_backticks
from vbmstat.glm.design.matrix import Design, build_design, column_uses, parse_formula, with_map_column
from vbmstat.glm.design.sites import site_notes
from vbmstat.glm.design.subjects import block_notes, repetition_notes
from vbmstat.glm.design.subsets import draw_subsets, read_draws
from vbmstat.glm.design.tiv import apply_tiv_recipe, tiv_scale, uses_tiv
from vbmstat.glm.fit.leverage import weight_notes
from vbmstat.glm.fit.map_covariate import fit_voxels_with_map
from vbmstat.glm.fit.plan import CovariatePlan, Plan, make_covariate_plan, make_plan
from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.inference.corrected import exchange_tree
from vbmstat.glm.inference.permute.blocks import Node
from vbmstat.glm.inference.permute.schemes import Permuted, Resampling, make_permuted
from vbmstat.glm.spec import Compute, ModelSpec
from vbmstat.glm.variance.strategy import AUTO, Groups, Ols, Sandwich, choose_variance
from vbmstat.maps.change import ChangeTerm
from vbmstat.maps.lesions import LESION_THRESHOLD, is_lesion_response, lesion_note, lesion_share
from vbmstat.maps.paths import Smoothing
from vbmstat.maps.sources import (
    Source,
    as_matrix,
    covariate_paths,
    gather,
    is_array,
    map_folders,
    with_columns,
    with_tiv,
)
from vbmstat.maps.store import Maps
from vbmstat.tables.cohort import Cohort, find_column


@dataclass(frozen=True)
class Setup:
    """A model that can be fitted."""

    spec: ModelSpec
    source: Source  # its scans: rows of the cohort table and where their maps are
    # name and maps of a voxelwise covariate, and how they are smoothed
    covariate: tuple[str, Mapping[str, Path], Smoothing] | None
    # what is estimated, and how its variance
    design: Design
    contrasts: list[Contrast]
    variance: Ols
    draws: np.ndarray  # (B, n_scans), bool: the subsets
    # (n_scans,): weights of the scans; factors on their maps
    weights: np.ndarray | None
    scale: np.ndarray | None
    permuted: list[Permuted | None]  # the permutations of each contrast
    notes: tuple[str, ...]  # what the reader of the results should know

    @property
    def named_design(self) -> Design:
        """The design with the column that stands for the voxelwise covariate."""
        return self.design if self.covariate is None else with_map_column(self.design, self.covariate[0])

    @cached_property
    def bare(self) -> Plan:
        """The design factorised without subsets, for inference."""
        contrasts = self.contrasts if self.covariate is None else ()
        return make_plan(self.design, contrasts, self.draws[:0], self.weights, self.scale)

    def make_plan(self) -> Plan | CovariatePlan:
        """The design factorised with its subsets.

        Raises
        ------
        DesignError
            If a contrast can be estimated in no subset.
        """
        contrasts = self.contrasts if self.covariate is None else ()
        plan = make_plan(self.design, contrasts, self.draws, self.weights, self.scale)
        if self.covariate is not None:
            return make_covariate_plan(plan, self.design, self.contrasts)
        return self.variance.prepare(plan, self.design.scan_ids)

    def fit(self, plan: Plan | CovariatePlan, maps: Maps, covariate: Maps | None, compute: Compute) -> Fit:
        """Fit the model at every voxel."""
        if covariate is not None:
            return fit_voxels_with_map(maps, covariate, cast("CovariatePlan", plan), compute)
        return self.variance.fit(maps, cast("Plan", plan), compute)


def set_up(spec: ModelSpec, maps: Any, cohort: Cohort, compute: Compute) -> Setup:
    """Make a model ready to fit.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    maps
        As for :func:`vbmstat.maps.sources.gather`.
    cohort : Cohort
        One row a scan.
    compute : Compute
        Its `announce` is called with a line on each covariate.

    Raises
    ------
    TableError, DesignError, ScanError
        For whatever cannot be fitted.
    """
    response, right = split_formula(spec.formula)
    response, change = split_change(response)
    right, map_name = split_map_term(right)
    maps = as_matrix(maps, cohort) if is_array(maps) else maps
    spec, cohort = spec.select(cohort, map_folders(maps))
    source = gather(maps, response, cohort, spec.missing, spec.fwhm_mm)
    refuse_mixtures(source.table, spec.allow_mixed, source.files)
    if uses_tiv(right, spec.tiv, source.table.columns):
        source = with_tiv(source)
    if change is not None:
        source = _one_row_each(spec, source, change, right, map_name)
    right, tiv_notes = apply_tiv_recipe(right, spec.tiv, source.table)
    variance = choose_variance(spec.variance)
    spec = variance.complete(spec)
    source = with_columns(source, _roles(spec, source.table, variance), spec.missing)
    design = build_design(right, source.table, source.scan_ids, spec.missing)
    if compute.announce is not None:
        selected = (step.note for step in cohort.flow[1:])
        for line in (*selected, source.smoothing.warning, *(coded.line for coded in design.taken)):
            if line:
                compute.announce(line)
    source = with_design_rows(source, design)
    design = replace(design, people=people_table(design, with_tiv(source).table))
    named = design if map_name is None else with_map_column(design, map_name)
    contrasts = build_contrasts(spec.contrasts, named)
    variance.check(spec, contrasts, map_name)
    weights = None if spec.weights is None else read_numbers(spec.weights, source).to_numpy(copy=True)
    blocks = pd.DataFrame({name: read_named(name, source.table) for name in spec.inference.blocks})
    tree = exchange_tree(spec.inference, blocks, source.scan_ids)
    notes = [
        *source.notes, *tiv_notes, *design.notes, *_sample_notes(spec, source, design, variance, blocks),
        *contrast_notes(spec.contrasts, named),
    ]  # fmt: skip
    if map_name is None:
        plan = make_plan(design, contrasts, np.empty((0, len(design.matrix)), dtype=bool), weights)
        read = read_labels if variance.role == "subject" else read_groups
        variance = variance.bind(lambda column: read(column, source.table), plan, tree)
        contrasts, left_out = variance.testable(plan, contrasts, design.scan_ids, are_default(spec.contrasts))
        notes += left_out
    if weights is not None:
        notes += weight_notes(design.matrix, weights, design.scan_ids)
    covariate = None
    if map_name is not None:
        covariate = (map_name, *covariate_paths(maps, map_name, cohort, source.scan_ids, spec.fwhm_mm))
    scale = tiv_scale(source) if spec.tiv == "proportional" else None
    setup = Setup(
        spec, source, covariate, design, contrasts, variance, _draws(spec, source, variance), weights, scale,
        [None] * len(contrasts), tuple(notes),
    )  # fmt: skip
    if is_lesion_response(response) and source.maps is None:
        setup = _with_lesion_mask(setup)
    return _with_permutations(setup, tree) if spec.inference.permutes else setup


def _with_lesion_mask(setup: Setup) -> Setup:
    """The setup with the mask of lesion maps where the user has chosen none, and a note."""
    mask, n_scans = setup.spec.mask, len(setup.source.scan_ids)
    if mask.threshold is None and mask.image is None:
        mask = replace(mask, threshold=LESION_THRESHOLD)
    if mask.share == 1:
        mask = replace(mask, share=lesion_share(n_scans))
    note = () if mask.threshold is None else (lesion_note(n_scans, mask.threshold, mask.share),)
    return replace(setup, spec=replace(setup.spec, mask=mask), notes=(*setup.notes, *note))


def _one_row_each(spec: ModelSpec, source: Source, change: ChangeTerm, right: str, map_name: str | None) -> Source:
    """The source of a model of change; refused with what is of scans."""
    if map_name is not None or spec.tiv == "proportional" or spec.global_scaling:
        msg = "change() has one row a person: leave map(), --tiv proportional and --global-scaling out"
        raise DesignError(msg)
    named = column_uses(parse_formula(with_backticks(right, source.table.columns)))
    used = {*filter(None, (find_column(name, source.table) for name in named))}  # those that it lacks are refused later
    used |= {*_roles(spec, source.table, choose_variance(spec.variance))}
    codes = {find_column(name, source.table) for name, uses in named.items() if "factor" in uses}
    table = source.table.assign(**{code: source.table[code].astype(object) for code in codes if code})  # have no mean
    return with_change(replace(source, table=table), change, used, spec.missing)


def _roles(spec: ModelSpec, table: pd.DataFrame, variance: Ols) -> dict[str, str]:
    """Columns that the fit reads beside those of the formula, and their role in it."""
    named = {
        "weight": spec.weights, "stratum": spec.subsets.stratify if variance.takes_subsets else None,
        "TIV": "tiv" if spec.tiv == "proportional" else None,
        variance.role: variance.column if variance.column not in ("", AUTO) else None,
    }  # fmt: skip
    roles = {column_name(name, table): role for role, name in named.items() if name is not None}
    return roles | {column_name(name, table): "block" for name in spec.inference.blocks}


def _sample_notes(
    spec: ModelSpec, source: Source, design: Design, variance: Ols, blocks: pd.DataFrame
) -> tuple[str, ...]:
    """Notes on what the model does not account for: sites, repeated scans, subsets that the variance does not fit."""
    knows_subjects = variance.role == "subject" or bool(spec.inference.blocks)
    unused = [] if variance.takes_subsets else spec.subsets.asked
    return (
        *site_notes(source.table, design),
        *repetition_notes(source.table, knows_subjects, design.matrix),
        *([] if variance.role == "subject" else block_notes(blocks, design.matrix)),
        *([f"{', '.join(unused)} not used: --variance {spec.variance} fits no subsets"] if unused else []),
    )  # fmt: skip


def _draws(spec: ModelSpec, source: Source, variance: Ols) -> np.ndarray:
    """The subsets, (B, n_scans), bool."""
    asked = spec.subsets
    if not variance.takes_subsets:
        return np.empty((0, len(source.scan_ids)), dtype=bool)
    if asked.draws is not None:
        return read_draws(asked.draws, source.scan_ids)
    strata = None if asked.stratify is None else read_groups(asked.stratify, source.table)
    return draw_subsets(source.scan_ids, asked.repeats, asked.fraction, spec.seed, strata)


def _with_permutations(setup: Setup, tree: Node) -> Setup:
    """The model with its permutations: of each contrast asked for, else of the first covariate that can be permuted.

    Default contrasts that cannot be permuted are left out with a note; those of no interest keep uncorrected p.
    """
    spec, asked = setup.spec, setup.spec.inference
    groups = setup.variance.labels if isinstance(setup.variance, Groups) else None
    subjects = setup.variance.subjects if isinstance(setup.variance, Sandwich) else None
    resampling = Resampling(tree, asked.permutations, spec.seed, asked.scheme, asked.sign_flip, groups, subjects)
    plan = make_plan(setup.design, setup.contrasts, setup.draws[:0], setup.weights)
    permuted: dict[str, Permuted] = {}
    errors: dict[str, DesignError] = {}
    for interest in [None] if spec.contrasts else columns_of_interest(setup.named_design):
        for index, contrast in enumerate(setup.contrasts):
            if interest is None or contrast.name in interest:
                try:
                    permuted[contrast.name] = make_permuted(plan, index, resampling)
                except DesignError as error:
                    if not are_default(spec.contrasts):
                        raise
                    errors[contrast.name] = error
        if permuted:
            break
    if not permuted:
        raise next(iter(errors.values()))
    kept = [contrast for contrast in setup.contrasts if contrast.name not in errors]
    plain = [contrast.name for contrast in kept if contrast.name not in permuted]
    notes = [f"left out: {error}" for error in errors.values()]
    if plain:
        first, *_ = plain
        notes.append(
            f"permuted: {', '.join(permuted)}, the first covariate of the formula; {', '.join(plain)} "
            f"{'keep' if len(plain) > 1 else 'keeps'} uncorrected p (--contrast all permutes every column, "
            f'--contrast "{first}" that one)'
        )
    at = [  # the place of each among the contrasts that are left
        replace(permuted[contrast.name], index=index) if contrast.name in permuted else None
        for index, contrast in enumerate(kept)
    ]
    return replace(setup, contrasts=kept, permuted=at, notes=(*setup.notes, *notes))
