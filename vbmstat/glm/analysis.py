"""From a formula and a cohort to results: the whole analysis as one call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.assets.provenance import device_label
from vbmstat.device import choose_device
from vbmstat.distributed.pool import Cluster
from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.glm.design.contrast import Contrast, build_contrasts
from vbmstat.glm.design.covariates import as_numbers, check_spelling, check_tiv_unit
from vbmstat.glm.design.formula import split_formula, split_map_term
from vbmstat.glm.design.matrix import (
    ALIASES,
    Design,
    build_design,
    column_names,
    column_uses,
    parse_formula,
    with_map_column,
)
from vbmstat.glm.design.sites import HARMONIZED, site_notes
from vbmstat.glm.design.subsets import draw_subsets, read_draws
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.leverage import leave_out
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
from vbmstat.glm.inference.permute.blocks import Node, orbits
from vbmstat.glm.inference.permute.schemes import SCHEMES, Permuted
from vbmstat.glm.inference.power import power_maps
from vbmstat.glm.inference.smoothness import residual_smoothness
from vbmstat.glm.record import contrast_record, fit_record, map_record
from vbmstat.glm.results import GlmResults, StatMap, inference_maps, statistic_maps
from vbmstat.glm.spec import Options, make_options
from vbmstat.glm.variance import hc3, sandwich
from vbmstat.glm.variance.calibration import REPEATED, NoiseMaps, calibration_notes
from vbmstat.glm.variance.groups import AUTO, fit_grouped, group_labels, group_notes, group_record
from vbmstat.glm.variance.hc3 import make_hc3_plan, unestimated_scans
from vbmstat.glm.variance.repeated import repetition_notes, sandwich_maps, sandwich_record, subject_labels
from vbmstat.glm.variance.sandwich import SandwichFit, fit_sandwich, unestimated_subjects
from vbmstat.image import io
from vbmstat.maps.duplicates import equal_scans, identity_notes
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.sources import Source, as_cohort, covariate_paths, gather, refuse_mixed_kinds, with_columns
from vbmstat.maps.store import CHUNK_VOXELS, ArrayMaps, Maps, PackedMaps
from vbmstat.tables.cells import labels
from vbmstat.tables.cohort import Cohort, closest

_MIXABLE = ("engine", "vbmstat_version", HARMONIZED)


def fit_glm(
    maps: Any,
    formula: str,
    cohort: Cohort | pd.DataFrame | Path | str,
    contrasts: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    store: Path | str | None = None,
    scratch: Path | str | None = None,
    checkpoint: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    cluster: Cluster | None = None,
    announce: Callable[[str], None] | None = None,
    **options: Any,
) -> GlmResults:
    """Fit a linear model at every voxel, over the whole sample and over random subsets.

    Parameters
    ----------
    maps : None, path, mapping, DataFrame, ndarray, Tensor, ArrayMaps or PackedMaps
        See :func:`vbmstat.maps.sources.gather`. None takes the paths in the cohort table.
    formula : str
        For example ``"gm ~ age + sex + tiv"``. ``tiv`` stands for ``tiv_ml`` and ``sex`` for ``gender`` where the
        table has no column of that name.
    cohort : Cohort, DataFrame or path
        One row a scan, with ids.
    contrasts : sequence of str or mapping, optional
        See :func:`vbmstat.glm.design.contrast.build_contrasts`; by default one t-contrast a column.
    store : path, optional
        Folder in which the packed maps are kept for the next model; by default they are deleted after the fit.
    scratch : path, optional
        Folder for packed maps that are deleted (4 bytes a voxel and scan); by default the system's.
    checkpoint : path, optional
        Folder of ``contrast-NAME_permutations.npz``, from which interrupted permutations go on.
    progress : callable, optional
        Called with (stage, done, total).
    cluster : Cluster, optional
        Workers of :func:`vbmstat.distributed.pool.open_cluster` for fits and permutations. They read the
        packed maps, so `store` or `scratch` must be a folder that they see.
    announce : callable, optional
        Called with a line on each covariate, how it is taken, before any map is read.
    **options
        Fields of :class:`vbmstat.glm.spec.Options`.

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
    settings = make_options(options)
    device = choose_device(settings.device)
    response, right = split_formula(formula)
    right, map_name = split_map_term(right)
    table = as_cohort(cohort)
    source = gather(maps, response, table, settings.missing)
    refuse_mixtures(source.table, settings.allow_mixed, source.paths)
    right, tiv_note = apply_tiv_recipe(right, settings.tiv, source.table)
    design, source = _design(right, source, settings, announce)
    named = design if map_name is None else with_map_column(design, map_name)
    hypotheses = build_contrasts(contrasts, named)
    _check_combination(settings, hypotheses, map_name)
    weights = None if settings.weights is None else _numbers(settings.weights, source).to_numpy(copy=True)
    subjects = subject_labels(settings.repeated, source.table, source.scan_ids) if settings.repeated else None
    hypotheses, left_out = _testable(hypotheses, not contrasts, design, weights, subjects, settings)
    draws = _draws(source, settings)
    scale = _tiv_scale(source) if settings.tiv == "proportional" else None
    make = _plan_maker(settings, map_name)
    planned = make(design, hypotheses, draws, weights, scale)  # refuses what cannot be fitted before any map is read
    permuted, groups = _permutations(source, design, hypotheses, weights, settings)
    store, scratch = (None if folder is None else Path(folder).absolute() for folder in (store, scratch))
    with ExitStack() as stack:
        matrix = _open(source, settings, store, scratch, scale, stack, progress)
        if settings.global_scaling:
            scale = _global_scale(matrix, scale)
            planned = make(design, hypotheses, draws, weights, scale)
        engine: dict[str, Any] = {
            "device": str(device), "backend": settings.backend, "chunk_voxels": settings.chunk_voxels,
            "n_threads": settings.n_threads, "progress": progress, "cluster": cluster,
        }  # fmt: skip
        if isinstance(planned, Plan):
            fit = _fit(matrix, planned, (design, hypotheses), subjects, groups, settings, engine)
        else:
            paths = covariate_paths(maps, str(map_name), table, source.scan_ids)
            covariate = _pack_covariate(str(map_name), paths, matrix, scratch, stack, settings, progress)
            fit = fit_voxels_with_map(matrix, covariate, planned, **engine)
        bare = make_plan(design, hypotheses if map_name is None else (), draws[:0], weights, scale)
        inference = (
            {} if isinstance(fit, SandwichFit)
            else infer(matrix, bare, fit, hypotheses, permuted, settings, engine, checkpoint)
        )  # fmt: skip
        smooth = residual_smoothness(matrix, bare, settings.n_threads) if inference and map_name is None else None
    tried = _try_on_noise(bare, (design, hypotheses), subjects, groups, settings, engine)
    notes = (
        *source.notes, *tiv_note, *design.notes, *_cohort_notes(source, design, settings), *_mask_note(matrix),
        *left_out, *tried, *group_notes(groups, permuted), *exchange_notes(permuted, settings),
        *inference_notes(inference, settings),
    )  # fmt: skip
    design = replace(design, notes=notes)
    record = fit_record(formula, right, design, draws, settings, matrix, scale)
    record |= {
        "contrasts": contrast_record(hypotheses, named, fit.repetitions, _freedom(fit)), "df_resid": fit.df_resid,
        "n_voxels": int(fit.mask.sum()), "device": device_label(device),
    }  # fmt: skip
    if map_name is not None:
        record["map_covariate"] = {"name": map_name, "maps": map_record(covariate)}
    record |= sandwich_record(fit, hypotheses, settings.repeated, subjects) | group_record(
        fit, hypotheses, groups, settings.variance_groups
    )
    found = {c.name: _maps(fit, i, c, settings, len(design.scan_ids)) for i, c in enumerate(hypotheses)}
    if settings.inference_kinds:
        record["inference"] = inference_record(inference, settings, smooth)
    for i, c in enumerate(hypotheses[: len(inference)]):
        found[c.name] |= _inference_maps(inference[c.name], fit, i, c, len(design.scan_ids))
    features = matrix.features if isinstance(matrix, ArrayMaps) else ()
    return GlmResults(
        design, tuple(hypotheses), found, fit.mask, matrix.space, features, draws, fit.df_resid, record, inference
    )


def _fit(
    maps: Maps, plan: Plan, model: tuple[Design, Sequence[Contrast]], subjects: Sequence[str] | None,
    groups: np.ndarray | None, settings: Options, engine: Mapping[str, Any],
) -> Fit | LocalDfFit:
    """The model at every voxel: with variances of a sandwich where scans belong to subjects, or of groups of scans."""
    if groups is not None:
        return fit_grouped(maps, plan, *model, groups, **engine)
    if subjects is not None:
        passed = {name: engine[name] for name in ("n_threads", "progress", "cluster")}
        return fit_sandwich(maps, plan, subjects, **passed)
    return fit_voxels(maps, plan, robust=settings.robust == "hc3", spm_resms=settings.spm_resms, **engine)


def _plan_maker(settings: Options, map_name: str | None) -> Callable[..., Plan | CovariatePlan]:
    """The way to factorise the design."""
    if map_name is not None:
        return make_covariate_plan
    return make_hc3_plan if settings.robust == "hc3" else make_plan


def _testable(
    contrasts: list[Contrast], is_default: bool, design: Design, weights: np.ndarray | None,
    subjects: Sequence[str] | None, settings: Options,
) -> tuple[list[Contrast], tuple[str, ...]]:
    """Contrasts whose variance the chosen estimator can know, and notes on default ones that it cannot."""
    if subjects is None and settings.robust != "hc3":
        return contrasts, ()
    plan = make_plan(design, contrasts, np.empty((0, len(design.matrix)), dtype=bool), weights)
    if subjects is not None:
        who = unestimated_subjects(plan, subjects)
        return leave_out(contrasts, who, sandwich.ESTIMATOR, sandwich.CURE, is_default)
    return leave_out(contrasts, unestimated_scans(plan, design.scan_ids), hc3.ESTIMATOR, hc3.CURE, is_default)


def _try_on_noise(
    plan: Plan, model: tuple[Design, Sequence[Contrast]], subjects: Sequence[str] | None, groups: np.ndarray | None,
    settings: Options, engine: Mapping[str, Any],
) -> tuple[str, ...]:
    """Notes on contrasts whose p are wrong on noise; the ordinary t and F are exact there."""
    if subjects is None and groups is None and settings.robust == "none":
        return ()
    quiet = {**engine, "progress": None, "cluster": None, "chunk_voxels": None}
    fits = {}
    for correlation in (0.0,) if subjects is None else REPEATED:
        noise = NoiseMaps.of_plan(plan, model[0].scan_ids, subjects, correlation)
        fits[correlation] = _fit(noise, plan, model, subjects, groups, settings, quiet)
    return calibration_notes(fits, model[1])


def _freedom(fit: Fit | LocalDfFit) -> Sequence[float]:
    """Degrees of freedom of each contrast, median over voxels where they differ."""
    return fit.df if isinstance(fit, Fit) else fit.median_df.tolist()


def _maps(
    fit: Fit | LocalDfFit, index: int, contrast: Contrast, settings: Options, n_scans: int
) -> dict[str, StatMap]:
    if not isinstance(fit, Fit):
        return sandwich_maps(fit, index, contrast, with_fdr="fdr" in settings.inference)
    found = statistic_maps(fit, index, contrast)
    if contrast.kind == "t":
        found |= power_maps(fit.statistic[index], fit.mask, fit.df_resid, n_scans, contrast.name)
    return found


def _inference_maps(
    inference: Inference, fit: Fit | LocalDfFit, index: int, contrast: Contrast, n_scans: int
) -> dict[str, StatMap]:
    if not isinstance(fit, Fit):
        return inference_maps(inference, contrast, fit.statistic[index], None)
    found = inference_maps(inference, contrast, fit.statistic[index], fit.df_resid)
    if contrast.kind == "t" and inference.nulls is not None:
        found |= power_maps(
            fit.statistic[index], fit.mask, fit.df_resid, n_scans, contrast.name, inference.nulls
        )
    return found


def _check_combination(settings: Options, contrasts: Sequence[Contrast], map_name: str | None) -> None:
    if settings.repeated is not None:
        if settings.permutes:
            msg = "--repeated takes fdr only; for permutations of repeated scans leave it out and give --blocks"
            raise DesignError(msg)
        if settings.robust != "none" or settings.spm_resms or map_name is not None:
            msg = "--repeated has variances of its own: leave out --robust, --spm-resms and map()"
            raise DesignError(msg)
    if settings.variance_groups is not None:
        if settings.repeated is not None or settings.robust != "none" or settings.spm_resms or map_name is not None:
            msg = "variance groups have variances of their own: leave out --repeated, --robust, --spm-resms and map()"
            raise DesignError(msg)
        if settings.scheme != SCHEMES[0]:
            msg = f"variance groups are for --scheme {SCHEMES[0]}, got {settings.scheme}: leave the scheme out"
            raise DesignError(msg)
    if settings.robust == "hc3" and any(contrast.kind == "F" for contrast in contrasts):
        msg = "HC3 errors are for t-contrasts; test the F-contrasts in a run without them"
        raise DesignError(msg)
    if settings.permutes and (settings.robust != "none" or settings.spm_resms or map_name is not None):
        msg = "permutations take the ordinary t or F: leave out --robust, --spm-resms and map(), or ask for fdr alone"
        raise DesignError(msg)
    if map_name is not None and (settings.robust != "none" or settings.spm_resms):
        msg = "a formula with map() takes neither --robust nor --spm-resms"
        raise DesignError(msg)


def _pack_covariate(
    name: str, paths: Mapping[str, Path], maps: ArrayMaps | PackedMaps, scratch: Path | str | None, stack: ExitStack,
    settings: Options, progress: Callable[[str, int, int], None] | None,
) -> PackedMaps:
    """Maps of a voxelwise covariate in the same columns as the maps, in a folder that is deleted after the fit."""
    if maps.space is None:
        msg = "map() needs maps in files on both sides of the formula"
        raise DesignError(msg)
    refuse_mixed_kinds(paths, settings.allow_mixed)
    ours, theirs = maps.space.grid, io.read_grid(next(iter(paths.values())))
    if not theirs.matches(ours):
        msg = f"map({name}): grid {theirs} of the covariate's maps differs from {ours} of the maps; resample them"
        raise ScanError(msg)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=scratch))
    rule = MaskRule(None, nan=settings.nan)
    try:
        packed = pack_maps(
            paths, Path(folder), rule, None, settings.n_threads, progress, durable=False, voxels=maps.space.voxel_index
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
    has_tiv = bool({"tiv", "tiv_ml"} & set(names))
    if recipe == "covariate":
        return (right, ()) if has_tiv else (f"{right} + tiv", ("TIV was added as a covariate",))
    if has_tiv:
        msg = f"--tiv {recipe} brings TIV in; leave it out of the formula"
        raise DesignError(msg)
    if recipe == "proportional":
        return right, ("maps are scaled by mean TIV / TIV, the mask threshold with them",)
    uses = column_uses(parse_formula(right))
    taken = build_design(right, table, Cohort(table, Path()).scan_ids, "drop").taken
    groups = [one.name for one in taken if one.kind == "factor" and "plain" in uses[one.name]]
    if len(groups) != 1:
        msg = (
            f"--tiv by-group needs one factor in the formula, found {', '.join(groups) or 'none'}; "
            "write the interaction out, e.g. 'gm ~ group + center(tiv):group'"
        )
        raise DesignError(msg)
    return f"{right} + center(tiv):{groups[0]}", (f"TIV was added with its own slope in each level of {groups[0]}",)


def _design(
    right: str, source: Source, settings: Options, announce: Callable[[str], None] | None
) -> tuple[Design, Source]:
    """The design, and the source without the scans that lack a covariate, weight, TIV, block, group or subject."""
    source = with_columns(source, _columns_beside(settings, source), settings.missing)
    design = build_design(right, source.table, source.scan_ids, settings.missing)
    if announce is not None:
        for covariate in design.taken:
            announce(covariate.line)
    scans = set(design.scan_ids)
    return design, source.select([scan in scans for scan in source.scan_ids])


def _columns_beside(settings: Options, source: Source) -> dict[str, str]:
    """Columns that the fit reads beside those of the formula, and what they are."""
    named = {
        "weight": settings.weights, "stratum": settings.stratify,
        "variance group": None if settings.variance_groups == AUTO else settings.variance_groups,
        "TIV": "tiv" if settings.tiv == "proportional" else None,
    }  # fmt: skip
    roles = {_column_name(name, source): role for role, name in named.items() if name is not None}
    roles |= {_column_name(name, source): "block" for name in settings.blocks}
    return roles if settings.repeated is None else {**roles, settings.repeated: "subject"}


def _column_name(name: str, source: Source) -> str:
    """The table's name of a column, after aliases."""
    actual = name if name in source.table else ALIASES.get(name, name)
    if actual not in source.table:
        msg = f"no column {name!r} in the table (nearest {closest(name, source.table.columns) or 'none'})"
        raise TableError(msg)
    return actual


def _column(name: str, source: Source) -> pd.Series:
    return source.table[_column_name(name, source)]


def _numbers(name: str, source: Source) -> pd.Series:
    """A column of numbers, indexed by scan id."""
    return as_numbers(_column(name, source).set_axis(list(source.scan_ids)), _column_name(name, source))


def _groups(name: str, source: Source) -> list[str]:
    """Labels of a column of groups."""
    found = labels(_column(name, source))
    check_spelling(name, found, "")
    return found


def _permutations(
    source: Source, design: Design, contrasts: Sequence[Contrast], weights: np.ndarray | None, settings: Options
) -> tuple[list[Permuted | None], np.ndarray | None]:
    """Permutations of each contrast and variance groups, refused before any map is read; None where none are asked."""
    if not settings.permutes and settings.variance_groups is None:
        return [None] * len(contrasts), None
    tree = exchange_tree(settings, _block_table(source, settings), source.scan_ids)
    plan = make_plan(design, contrasts, np.empty((0, len(design.matrix)), dtype=bool), weights)
    groups = _variance_groups(source, plan, tree, settings)
    if not settings.permutes:
        return [None] * len(contrasts), groups
    return prepare_permutations(design, contrasts, plan, tree, settings, groups), groups


def _variance_groups(source: Source, plan: Plan, tree: Node, settings: Options) -> np.ndarray | None:
    """Variance group of each scan, from a column or the exchangeability blocks."""
    name = settings.variance_groups
    if name is None:
        return None
    if name == AUTO:
        if not settings.blocks:
            msg = "variance groups 'auto' are the scans that blocks let change places: give --blocks, or name a column"
            raise DesignError(msg)
        return group_labels([str(label) for label in orbits(tree)], plan, name)
    return group_labels(_groups(name, source), plan, name)


def _block_table(source: Source, settings: Options) -> pd.DataFrame:
    """The columns of exchangeability blocks, one row a scan."""
    return pd.DataFrame({name: _column(name, source) for name in settings.blocks})


def _draws(source: Source, settings: Options) -> np.ndarray:
    if settings.repeated is not None or settings.variance_groups is not None:
        return np.empty((0, len(source.scan_ids)), dtype=bool)
    if settings.draws is not None:
        return read_draws(settings.draws, source.scan_ids)
    strata = None if settings.stratify is None else _groups(settings.stratify, source)
    return draw_subsets(source.scan_ids, settings.repeats, settings.fraction, settings.seed, strata)


def _tiv_scale(source: Source) -> np.ndarray:
    """Mean TIV / TIV of each scan, (n_scans,)."""
    tiv = _numbers("tiv", source)
    check_tiv_unit(tiv)
    return tiv.mean() / tiv.to_numpy(copy=True)


def _open(
    source: Source, settings: Options, store: Path | str | None, scratch: Path | str | None,
    scale: np.ndarray | None, stack: ExitStack, progress: Callable[[str, int, int], None] | None,
) -> ArrayMaps | PackedMaps:
    """The maps as a matrix: as given, or packed from files into a store that is kept or not."""
    if source.maps is not None:
        if store is not None or settings.mask is not None or settings.mask_threshold is not None:
            msg = "a matrix or packed maps are masked already: mask, mask_threshold and store are for maps in files"
            raise DesignError(msg)
        return source.maps
    if scratch is not None and not Path(scratch).exists():
        Path(scratch).mkdir(parents=True)
        stack.callback(_remove_if_empty, Path(scratch))  # nothing is left of a fit that fails
    folder = Path(store) if store is not None else Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=scratch))
    )
    scales = None if scale is None else dict(zip(source.scan_ids, scale.tolist(), strict=True))
    return pack_maps(
        source.paths, folder, settings.mask_rule, scales, settings.n_threads, progress, durable=store is not None
    )


def _cohort_notes(source: Source, design: Design, settings: Options) -> tuple[str, ...]:
    """What the model leaves out of account: sites, repeated scans."""
    knows_subjects = bool(settings.repeated or settings.blocks)
    about_sites = site_notes(source.table, design.matrix, design.terms, design.columns)
    return (*about_sites, *repetition_notes(source.table, knows_subjects, design.matrix))


def _mask_note(maps: ArrayMaps | PackedMaps) -> tuple[str, ...]:
    """Whose fault a small mask is, whether it is that of more scans than the model's, and scans with the same map."""
    same = identity_notes(maps)
    if isinstance(maps, ArrayMaps):
        return same
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
