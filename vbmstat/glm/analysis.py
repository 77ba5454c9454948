"""From a formula and a cohort to results: the whole analysis as one call."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch

from vbmstat.assets.provenance import device_label
from vbmstat.device import choose_device
from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.glm.design.contrast import Contrast, build_contrasts, left_out_notes
from vbmstat.glm.design.covariates import as_numbers, check_spelling, check_tiv_unit
from vbmstat.glm.design.formula import split_formula, split_map_term
from vbmstat.glm.design.matrix import (
    Design,
    build_design,
    column_names,
    factor_spellings,
    parse_formula,
    with_map_column,
)
from vbmstat.glm.design.sites import HARMONIZED, site_notes
from vbmstat.glm.design.subjects import block_notes, repetition_notes, subject_labels
from vbmstat.glm.design.subsets import draw_subsets, read_draws
from vbmstat.glm.fit.leverage import weight_notes
from vbmstat.glm.fit.map_covariate import fit_voxels_with_map
from vbmstat.glm.fit.plan import CovariatePlan, Plan, make_covariate_plan, make_plan
from vbmstat.glm.fit.tensors import Fit, LocalDfFit
from vbmstat.glm.inference.corrected import (
    Inference,
    exchange_notes,
    exchange_tree,
    infer,
    inference_notes,
    inference_record,
    prepare_permutations,
)
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.glm.inference.smoothness import Smoothness, residual_smoothness
from vbmstat.glm.record import contrast_record, data_record, fit_record, map_record
from vbmstat.glm.results import GlmResults
from vbmstat.glm.spec import Compute, Contrasts, ModelSpec, split_keywords
from vbmstat.glm.variance.strategy import AUTO, Groups, Ols, choose_variance
from vbmstat.image import io
from vbmstat.maps.duplicates import equal_scans, identity_notes
from vbmstat.maps.lesions import LESION_THRESHOLD, is_lesion_response, lesion_note, lesion_share
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.sources import Source, as_cohort, covariate_paths, gather, refuse_mixed_kinds, with_columns
from vbmstat.maps.store import CHUNK_VOXELS, ArrayMaps, Maps, PackedMaps
from vbmstat.tables.cells import labels
from vbmstat.tables.cohort import Cohort, closest, find_column, is_tiv_name, read_column

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vbmstat.glm.spec import GlmKeywords

_MIXABLE = ("engine", "vbmstat_version", "wmh_as", HARMONIZED)


def fit_glm(
    maps: Any,
    model: ModelSpec | str,
    cohort: Cohort | pd.DataFrame | Path | str,
    contrasts: Contrasts = None,
    *,
    compute: Compute | None = None,
    **keywords: Unpack[GlmKeywords],
) -> GlmResults:
    """Fit a linear model at every voxel, over the whole sample and over random subsets.

    Parameters
    ----------
    maps : None, path, mapping, DataFrame, ndarray, Tensor, ArrayMaps or PackedMaps
        See :func:`vbmstat.maps.sources.gather`. None takes the paths in the cohort table.
    model : ModelSpec or str
        The model, or its formula: ``"gm ~ age + sex + tiv"``. ``tiv`` stands for ``tiv_ml`` and ``sex`` for ``gender``
        where the table has no column of that name.
    cohort : Cohort, DataFrame or path
        One row a scan, with ids.
    contrasts : sequence of str or mapping, optional
        Beside a formula; see :func:`vbmstat.glm.design.contrast.build_contrasts`. By default one t-contrast a column.
    compute : Compute, optional
        Where and how fast.
    **keywords
        In place of `ModelSpec` and `Compute`: any of their fields, nested ones by name (``repeats=0``,
        ``inference="fwe"``, ``n_threads=4``).

    Returns
    -------
    GlmResults

    Raises
    ------
    TableError, DesignError, ScanError
        As the steps say: :func:`gather`, :func:`build_design`, :func:`build_contrasts`, :func:`pack_maps`.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> table = pd.DataFrame({"participant_id": list("abcde"), "age": [20.0, 35.0, 50.0, 65.0, 80.0]})
    >>> volumes = np.array([[5.0], [4.6], [4.5], [3.9], [3.8]])
    >>> results = fit_glm(volumes, "hippocampus ~ age", table, repeats=0)
    >>> round(float(results.maps["age"]["effect"].values[0]), 4)  # R: coef(lm(y ~ age))[2]
    -0.0207
    """
    spec, compute = as_spec(model, contrasts, compute, keywords)
    table = as_cohort(cohort)
    response, right = split_formula(spec.formula)
    right, map_name = split_map_term(right)
    source = gather(maps, response, table, spec.missing)
    refuse_mixtures(source.table, spec.allow_mixed, source.paths)
    setup = _set_up(spec, right, map_name, source, compute)
    if is_lesion_response(response) and source.maps is None:
        setup = _with_lesion_mask(setup)
        spec = setup.spec
    with ExitStack() as stack:
        matrix = _open(setup.source, spec, setup.scale, compute, stack)
        if spec.global_scaling:
            setup = setup.scaled(_global_scale(matrix, setup.scale))
        covariate = None
        if map_name is not None:
            paths = covariate_paths(maps, map_name, table, setup.source.scan_ids)
            covariate = _pack_covariate(map_name, paths, matrix, spec, compute, stack)
        fit = setup.fit(matrix, covariate, compute)
        inference = infer(matrix, setup.bare, fit, setup.contrasts, setup.permuted, spec.inference, compute)
        smooth = residual_smoothness(matrix, setup.bare, compute.n_threads) if inference and covariate is None else None
    results = _results(setup, fit, inference, smooth, matrix, covariate, compute)
    results.record["data"] = data_record(maps, cohort)
    return results


def as_spec(
    model: ModelSpec | str, contrasts: Contrasts, compute: Compute | None, keywords: Mapping[str, Any]
) -> tuple[ModelSpec, Compute]:
    """A spec and a `Compute`, from either themselves or a formula with keywords.

    Raises
    ------
    TypeError
        If a keyword is unknown, or says again what `model` or `compute` says.
    """
    of_model, of_compute = split_keywords(keywords)
    if isinstance(model, ModelSpec) and (of_model or contrasts is not None):
        msg = f"{', '.join(of_model) or 'contrasts'} beside a ModelSpec: give spec.replace(…), or a formula"
        raise TypeError(msg)
    spec = model if isinstance(model, ModelSpec) else ModelSpec.make(model, contrasts, **of_model)
    if compute is not None and len(keywords) > len(of_model):
        msg = "keywords of Compute beside compute=: give one of the two"
        raise TypeError(msg)
    compute = compute or of_compute
    return spec, replace(compute, device=str(choose_device(compute.device)))


@dataclass(frozen=True)
class _Setup:
    """A model before any map is read: what could be refused has been."""

    spec: ModelSpec
    right: str
    map_name: str | None
    source: Source
    design: Design
    variance: Ols
    contrasts: list[Contrast]
    draws: np.ndarray
    weights: np.ndarray | None
    scale: np.ndarray | None
    plan: Plan | CovariatePlan | None
    permuted: list[Permuted | None]
    notes: tuple[str, ...]

    def make_plan(self, draws: np.ndarray, scale: np.ndarray | None) -> Plan | CovariatePlan:
        """The design factorised, with subsets."""
        if self.map_name is not None:
            return make_covariate_plan(self.design, self.contrasts, draws, self.weights, scale)
        plan = make_plan(self.design, self.contrasts, draws, self.weights, scale)
        return self.variance.prepare(plan, self.design.scan_ids)

    def scaled(self, scale: np.ndarray) -> _Setup:
        """The same with other factors on the scans' values."""
        return replace(self, scale=scale, plan=self.make_plan(self.draws, scale))

    @property
    def bare(self) -> Plan:
        """The design without subsets, for inference."""
        contrasts = self.contrasts if self.map_name is None else ()
        return make_plan(self.design, contrasts, self.draws[:0], self.weights, self.scale)

    def fit(self, maps: Maps, covariate: Maps | None, compute: Compute) -> Fit | LocalDfFit:
        """The model at every voxel."""
        if covariate is not None and isinstance(self.plan, CovariatePlan):
            return fit_voxels_with_map(maps, covariate, self.plan, compute)
        return self.variance.fit(maps, cast("Plan", self.plan), self.design, self.contrasts, compute)


def _set_up(spec: ModelSpec, right: str, map_name: str | None, source: Source, compute: Compute) -> _Setup:
    """Design, contrasts, subsets and permutations; whatever cannot be fitted is refused here."""
    right, tiv_notes = apply_tiv_recipe(right, spec.tiv, source.table)
    variance = choose_variance(spec.variance)
    design, source = _design(right, source, spec, variance, compute)
    named = design if map_name is None else with_map_column(design, map_name)
    contrasts, left_out = build_contrasts(spec.contrasts, named), left_out_notes(spec.contrasts, named)
    variance.check(spec, contrasts, map_name)
    weights = None if spec.weights is None else _numbers(spec.weights, source).to_numpy(copy=True)
    none = np.empty((0, len(design.matrix)), dtype=bool)
    tree = exchange_tree(spec.inference, _block_table(source, spec), source.scan_ids)
    notes: tuple[str, ...] = ()
    if map_name is None:
        plan = make_plan(design, contrasts, none, weights)
        variance = variance.bind(lambda column: _labels(column, source, variance), plan, tree)
        contrasts, notes = variance.testable(plan, contrasts, design.scan_ids, not spec.contrasts)
    setup = _Setup(
        spec, right, map_name, source, design, variance, contrasts, _draws(source, spec, variance), weights,
        _tiv_scale(source) if spec.tiv == "proportional" else None, None, [None] * len(contrasts),
        (*source.notes, *tiv_notes, *design.notes, *_cohort_notes(source, design, spec), *left_out, *notes,
         *(() if weights is None else weight_notes(design.matrix, weights, design.scan_ids))),
    )  # fmt: skip
    setup = replace(setup, plan=setup.make_plan(setup.draws, setup.scale))
    if not spec.inference.permutes:
        return setup
    plan = make_plan(design, contrasts, none, weights)
    groups = variance.labels if isinstance(variance, Groups) else None
    return replace(
        setup, permuted=prepare_permutations(design, contrasts, plan, tree, spec.inference, spec.seed, groups)
    )


def _with_lesion_mask(setup: _Setup) -> _Setup:
    """The setup with the mask of lesion maps where the user has chosen none, and a note."""
    mask, n_scans = setup.spec.mask, len(setup.source.scan_ids)
    if mask.threshold is None and mask.image is None:
        mask = replace(mask, threshold=LESION_THRESHOLD)
    if mask.share == 1:
        mask = replace(mask, share=lesion_share(n_scans))
    note = () if mask.threshold is None else (lesion_note(n_scans, mask.threshold, mask.share),)
    return replace(setup, spec=replace(setup.spec, mask=mask), notes=(*setup.notes, *note))


def _results(
    setup: _Setup,
    fit: Fit | LocalDfFit,
    inference: Mapping[str, Inference],
    smooth: Smoothness | None,
    matrix: ArrayMaps | PackedMaps,
    covariate: PackedMaps | None,
    compute: Compute,
) -> GlmResults:
    """Maps, notes and record of a fit."""
    spec, contrasts, variance, n_scans = setup.spec, setup.contrasts, setup.variance, len(setup.design.scan_ids)
    notes = (
        *setup.notes, *_mask_note(matrix),
        *variance.notes(setup.permuted, setup.bare, setup.design, contrasts, compute),
        *exchange_notes(setup.permuted, spec.inference), *inference_notes(inference, spec.inference),
    )  # fmt: skip
    design = replace(setup.design, notes=notes)
    named = design if setup.map_name is None else with_map_column(design, setup.map_name)
    record = fit_record(spec, setup.right, design, setup.draws, matrix, setup.scale)
    record |= {
        "contrasts": contrast_record(contrasts, named, fit.repetitions, fit.typical_df), "df_resid": fit.df_resid,
        "n_voxels": int(fit.mask.sum()), "device": device_label(torch.device(compute.device)),
    }  # fmt: skip
    if covariate is not None:
        record["map_covariate"] = {"name": setup.map_name, "maps": map_record(covariate)}
    record |= variance.record(fit, contrasts)
    if spec.inference.kinds:
        record["inference"] = inference_record(inference, spec.inference, smooth)
    maps = {}
    for index, contrast in enumerate(contrasts):
        maps[contrast.name] = variance.maps(fit, index, contrast, spec, n_scans)
        if contrast.name in inference:
            maps[contrast.name] |= variance.corrected_maps(inference[contrast.name], fit, index, contrast, n_scans)
    features = matrix.features if isinstance(matrix, ArrayMaps) else ()
    return GlmResults(
        design, tuple(contrasts), maps, fit.mask, matrix.space, features, setup.draws, fit.df_resid, record, inference
    )


def _pack_covariate(
    name: str,
    paths: Mapping[str, Path],
    maps: ArrayMaps | PackedMaps,
    spec: ModelSpec,
    compute: Compute,
    stack: ExitStack,
) -> PackedMaps:
    """Maps of a voxelwise covariate in the same columns as the maps, in a folder that is deleted after the fit."""
    if maps.space is None:
        msg = "map() needs maps in files on both sides of the formula"
        raise DesignError(msg)
    refuse_mixed_kinds(paths, spec.allow_mixed)
    ours, theirs = maps.space.grid, io.read_grid(next(iter(paths.values())))
    if not theirs.matches(ours):
        msg = f"map({name}): grid {theirs} of the covariate's maps differs from {ours} of the maps; resample them"
        raise ScanError(msg)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=compute.scratch))
    rule = MaskRule(None, nan=spec.mask.nan)
    try:
        packed = pack_maps(
            paths,
            Path(folder),
            rule,
            None,
            compute.n_threads,
            compute.progress,
            durable=False,
            voxels=maps.space.voxel_index,
        )
    except ScanError as error:
        msg = f"map({name}): {error}"
        raise ScanError(msg) from error
    same = equal_scans(maps, packed)
    if same:
        which = f"in {len(same)} scans, e.g. {same[0]}"
        msg = f"map({name}): the covariate's map is the one on the left of the formula {which}; give other maps"
        raise ScanError(msg)
    if not (maps.mask & packed.mask).any():
        msg = f"map({name}): no voxel of the mask varies in the covariate's maps; are they of this tissue and space?"
        raise ScanError(msg)
    return packed


def refuse_mixtures(table: pd.DataFrame, allowed: bool, paths: Mapping[str, Path] | None = None) -> None:
    """Refuse maps of several engines, versions, harmonisations or kinds in one model, unless they are allowed."""
    refuse_mixed_kinds(paths or {}, allowed)
    for name in _MIXABLE:
        found = sorted(set(table[name].dropna().astype(str))) if name in table else []
        if len(found) > 1 and not allowed:
            counts = ", ".join(f"{value}: {int((table[name] == value).sum())} scans" for value in found)
            msg = f"the maps mix {name} values ({counts}); preprocess all scans alike, or say --allow-mixed"
            raise TableError(msg)


def apply_tiv_recipe(right: str, recipe: str, table: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    """Right-hand side with TIV treated as asked, and a note about it.

    Raises
    ------
    DesignError
        If TIV is in the formula already where the recipe brings it in, or ``by-group`` finds not just one factor.
    """
    if recipe == "none":
        return right, ()
    names = column_names(parse_formula(right))
    has_tiv = any(map(is_tiv_name, names))
    if recipe == "covariate":
        return (right, ()) if has_tiv else (f"{right} + tiv", ("TIV was added as a covariate",))
    if has_tiv:
        msg = f"--tiv {recipe} brings TIV in; leave it out of the formula"
        raise DesignError(msg)
    if recipe == "proportional":
        return right, ("maps are scaled by mean TIV / TIV, the mask threshold with them",)
    design = build_design(right, table, Cohort(table, Path()).scan_ids, "drop")
    groups = factor_spellings(parse_formula(right), [one.name for one in design.taken if one.kind == "factor"])
    if len(groups) != 1:
        one = groups[0] if groups else "group"
        msg = (
            f"--tiv by-group needs one factor in the formula, found {', '.join(groups) or 'none'}; "
            + ("choose one and " if groups else "")
            + f"write the interaction out in place of --tiv: "
            f"'gm ~ {right if groups else 'group'} + center(tiv):{one}'"
        )
        raise DesignError(msg)
    return f"{right} + center(tiv):{groups[0]}", (f"TIV was added with its own slope in each level of {groups[0]}",)


def _design(right: str, source: Source, spec: ModelSpec, variance: Ols, compute: Compute) -> tuple[Design, Source]:
    """The design, and the source without the scans that lack a covariate, weight, TIV, block, group or subject."""
    source = with_columns(source, _columns_beside(spec, source, variance), spec.missing)
    design = build_design(right, source.table, source.scan_ids, spec.missing)
    if compute.announce is not None:
        for covariate in design.taken:
            compute.announce(covariate.line)
    scans = set(design.scan_ids)
    return design, source.select([scan in scans for scan in source.scan_ids])


def _columns_beside(spec: ModelSpec, source: Source, variance: Ols) -> dict[str, str]:
    """Columns that the fit reads beside those of the formula, and what they are."""
    named = {
        "weight": spec.weights, "stratum": spec.subsets.stratify, "TIV": "tiv" if spec.tiv == "proportional" else None,
    }  # fmt: skip
    roles = {_column_name(name, source): role for role, name in named.items() if name is not None}
    roles |= {_column_name(name, source): "block" for name in spec.inference.blocks}
    if variance.role and variance.column != AUTO:
        return {**roles, _column_name(variance.column, source): variance.role}
    return roles


def _column_name(name: str, source: Source) -> str:
    """The table's name of a column or a part of the ids; see :func:`find_column`."""
    actual = find_column(name, source.table)
    if actual is None:
        known = [*map(str, source.table.columns), *map(str, source.table.index.names)]
        msg = f"no column {name!r} in the table (nearest {closest(name, known) or 'none'})"
        raise TableError(msg)
    return actual


def _column(name: str, source: Source) -> pd.Series:
    return read_column(_column_name(name, source), source.table)


def _numbers(name: str, source: Source) -> pd.Series:
    """A column of numbers, indexed by scan id."""
    return as_numbers(_column(name, source).set_axis(list(source.scan_ids)), _column_name(name, source))


def _groups(name: str, source: Source) -> list[str]:
    """Labels of a column of groups."""
    found = labels(_column(name, source))
    check_spelling(name, found, "")
    return found


def _labels(column: str, source: Source, variance: Ols) -> list[str]:
    """Subject or group of each scan, for a variance."""
    if variance.role == "subject":
        return subject_labels(column, source.table, source.scan_ids)
    return _groups(column, source)


def _block_table(source: Source, spec: ModelSpec) -> pd.DataFrame:
    """The columns of exchangeability blocks, one row a scan."""
    return pd.DataFrame({name: _column(name, source) for name in spec.inference.blocks})


def _draws(source: Source, spec: ModelSpec, variance: Ols) -> np.ndarray:
    """The subsets, (B, n_scans), bool."""
    asked = spec.subsets
    if not variance.takes_subsets:
        return np.empty((0, len(source.scan_ids)), dtype=bool)
    if asked.draws is not None:
        return read_draws(asked.draws, source.scan_ids)
    strata = None if asked.stratify is None else _groups(asked.stratify, source)
    return draw_subsets(source.scan_ids, asked.repeats, asked.fraction, spec.seed, strata)


def _tiv_scale(source: Source) -> np.ndarray:
    """Mean TIV / TIV of each scan, (n_scans,)."""
    tiv = _numbers("tiv", source)
    check_tiv_unit(tiv)
    return tiv.mean() / tiv.to_numpy(copy=True)


def _open(
    source: Source, spec: ModelSpec, scale: np.ndarray | None, compute: Compute, stack: ExitStack
) -> ArrayMaps | PackedMaps:
    """The maps as a matrix: as given, or packed from files into a store that is kept or not."""
    store, scratch = compute.store, compute.scratch
    if source.maps is not None:
        if store is not None or spec.mask.image is not None or spec.mask.threshold is not None:
            msg = "a matrix or packed maps are masked already: mask, mask_threshold and store are for maps in files"
            raise DesignError(msg)
        return source.maps
    if scratch is not None and not Path(scratch).exists():
        Path(scratch).mkdir(parents=True)
        stack.callback(_remove_if_empty, Path(scratch))  # nothing is left of a fit that fails
    folder = (
        Path(store)
        if store is not None
        else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=scratch)))
    )
    scales = None if scale is None else dict(zip(source.scan_ids, scale.tolist(), strict=True))
    rule = replace(spec.mask.rule, sparse=is_lesion_response(split_formula(spec.formula)[0]))
    return pack_maps(source.paths, folder, rule, scales, compute.n_threads, compute.progress, durable=store is not None)


def _cohort_notes(source: Source, design: Design, spec: ModelSpec) -> tuple[str, ...]:
    """What the model leaves out of account: sites, repeated scans."""
    knows_subjects = choose_variance(spec.variance).role == "subject" or bool(spec.inference.blocks)
    about_sites = site_notes(source.table, design.matrix, design.terms, design.columns)
    about_scans = repetition_notes(source.table, knows_subjects, design.matrix)
    return (*about_sites, *about_scans, *block_notes(_block_table(source, spec), design.matrix))


def _mask_note(maps: ArrayMaps | PackedMaps) -> tuple[str, ...]:
    """Whose fault a small mask is, whether it is that of more scans than the model's, and scans with the same map."""
    if isinstance(maps, ArrayMaps):
        return identity_notes(maps)
    same = () if maps.manifest["rule"].get("sparse") else identity_notes(maps)  # people without lesions have one map
    n_packed = len(maps.manifest["scan_ids"])
    shared = () if n_packed == len(maps.scan_ids) else (f"the mask is that of all {n_packed} packed scans",)
    return (*maps.manifest["mask_notes"], *shared, *same)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _global_scale(maps: Maps, scale: np.ndarray | None) -> np.ndarray:
    """Grand mean over each scan's mean inside the mask, (n_scans,), times an earlier scale."""
    sums, mask = np.zeros(len(maps.scan_ids)), maps.mask
    for start in range(0, maps.n_voxels, CHUNK_VOXELS):
        stop = min(start + CHUNK_VOXELS, maps.n_voxels)
        sums += maps.read(start, stop)[:, mask[start:stop]].sum(axis=1, dtype=np.float64)
    means = sums if scale is None else sums * scale
    bad = [scan for scan, mean in zip(maps.scan_ids, means, strict=True) if not mean > 0]
    if bad:
        msg = f"global scaling needs positive means; they are not for {', '.join(bad[:12])}"
        raise DesignError(msg)
    return means.mean() / means * (1.0 if scale is None else scale)
