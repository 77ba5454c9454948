"""From a formula and a cohort to results: the whole analysis as one call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.cohort import Cohort, closest
from vbmstat.device import choose_device
from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.glm.contrast import Contrast, build_contrasts
from vbmstat.glm.design import (
    ALIASES,
    Design,
    build_design,
    column_names,
    parse_formula,
    variance_inflation,
    with_map_column,
)
from vbmstat.glm.engine import fit_voxels
from vbmstat.glm.formula import split_formula, split_map_term
from vbmstat.glm.maps import CHUNK_VOXELS, ArrayMaps, Maps, PackedMaps
from vbmstat.glm.pack import MASK_THRESHOLD, MaskRule, pack_maps
from vbmstat.glm.plan import make_covariate_plan, make_plan
from vbmstat.glm.resample import draw_subsets, draws_hash, read_draws
from vbmstat.glm.results import GlmResults, contrast_record, statistic_maps
from vbmstat.glm.sources import Source, as_cohort, covariate_paths, gather
from vbmstat.glm.voxelwise import fit_voxels_with_map
from vbmstat.provenance import device_label, path_label, versions

TIV_RECIPES = ("none", "covariate", "by-group", "proportional")
_MIXABLE = ("engine", "vbmstat_version")


@dataclass(frozen=True)
class Options:
    """How a model is fitted; every field is a keyword of :func:`fit_glm`.

    Attributes
    ----------
    repeats, fraction, seed, stratify, draws
        Subset repetitions: how many, share of scans, seed, a column whose levels keep their share, or a file of
        stored draws to use again.
    mask_threshold, mask_share, mask, nan
        See :class:`vbmstat.glm.pack.MaskRule`. Without a mask image the threshold is 0.1, with one there is none.
    tiv : {"none", "covariate", "by-group", "proportional"}
        ``none`` leaves the formula alone; ``covariate`` adds ``tiv``; ``by-group`` adds its interaction with the
        formula's factor (CAT12's ANCOVA); ``proportional`` scales each map by mean TIV / TIV.
    global_scaling : bool
        Scale each map to the same mean inside the mask.
    weights : str, optional
        Column with positive weights (inverse variances).
    missing : {"raise", "drop"}
        What becomes of scans without a covariate, or maps without a row.
    robust : {"none", "hc3"}
        HC3 standard errors.
    spm_resms : bool
        SPM's variance floor.
    allow_mixed : bool
        Accept maps of several engines or versions.
    device, backend, n_threads, chunk_voxels
        See :func:`vbmstat.glm.engine.fit_voxels`.
    """

    repeats: int = 100
    fraction: float = 0.8
    seed: int = 0
    stratify: str | None = None
    draws: Path | str | None = None
    mask_threshold: float | None = None
    mask_share: float = 1.0
    mask: Path | str | None = None
    nan: str = "raise"
    tiv: str = "none"
    global_scaling: bool = False
    weights: str | None = None
    missing: str = "raise"
    robust: str = "none"
    spm_resms: bool = False
    allow_mixed: bool = False
    device: str = "cpu"
    backend: str = "auto"
    n_threads: int | None = None
    chunk_voxels: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("tiv", TIV_RECIPES), ("robust", ("none", "hc3")), ("missing", ("raise", "drop"))):
            if getattr(self, name) not in allowed:
                msg = f"{name}={getattr(self, name)!r}: expected one of {', '.join(allowed)}"
                raise DesignError(msg)

    @property
    def mask_rule(self) -> MaskRule:
        """The mask rule with its default threshold."""
        image = None if self.mask is None else Path(self.mask)
        threshold = MASK_THRESHOLD if self.mask_threshold is None and image is None else self.mask_threshold
        return MaskRule(threshold, self.mask_share, image, self.nan)


def fit_glm(
    maps: Any,
    formula: str,
    cohort: Cohort | pd.DataFrame | Path | str,
    contrasts: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    store: Path | str | None = None,
    scratch: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> GlmResults:
    """Fit a linear model at every voxel, over the whole sample and over random subsets.

    Parameters
    ----------
    maps : None, path, mapping, DataFrame, ndarray, Tensor, ArrayMaps or PackedMaps
        See :func:`vbmstat.glm.sources.gather`. None takes the paths in the cohort table.
    formula : str
        For example ``"gm ~ age + sex + tiv"``. ``tiv`` stands for ``tiv_ml`` and ``sex`` for ``gender`` where the
        table has no column of that name.
    cohort : Cohort, DataFrame or path
        One row a scan, with ids.
    contrasts : sequence of str or mapping, optional
        See :func:`vbmstat.glm.contrast.build_contrasts`; by default one t-contrast a column.
    store : path, optional
        Folder in which the packed maps are kept for the next model; by default they are deleted after the fit.
    scratch : path, optional
        Folder for packed maps that are deleted (4 bytes a voxel and scan); by default the system's.
    progress : callable, optional
        Called with (stage, done, total).
    **options
        Fields of :class:`Options`.

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
    settings = _options(options)
    device = choose_device(settings.device)
    response, right = split_formula(formula)
    right, map_name = split_map_term(right)
    table = as_cohort(cohort)
    source = gather(maps, response, table, settings.missing)
    _refuse_mixtures(source.table, settings.allow_mixed)
    right, tiv_note = apply_tiv_recipe(right, settings.tiv, source.table)
    design, source = _design(right, source, settings)
    named = design if map_name is None else with_map_column(design, map_name)
    hypotheses = build_contrasts(contrasts, named)
    _check_combination(settings, hypotheses, map_name)
    draws = _draws(source, settings)
    scale = _tiv_scale(source) if settings.tiv == "proportional" else None
    weights = None if settings.weights is None else _column(settings.weights, source).to_numpy(float)
    make = make_plan if map_name is None else make_covariate_plan
    make(design, hypotheses, draws, weights, scale)  # refuses what cannot be fitted before any map is read
    with ExitStack() as stack:
        matrix = _open(source, settings, store, scratch, scale, stack, progress)
        if settings.global_scaling:
            scale = _global_scale(matrix, scale)
        engine: dict[str, Any] = {
            "device": str(device), "backend": settings.backend, "chunk_voxels": settings.chunk_voxels,
            "n_threads": settings.n_threads, "progress": progress,
        }  # fmt: skip
        if map_name is None:
            plan = make_plan(design, hypotheses, draws, weights, scale)
            fit = fit_voxels(
                matrix, plan, robust=settings.robust == "hc3", spm_resms=settings.spm_resms, **engine
            )
        else:
            paths = covariate_paths(maps, map_name, table, source.scan_ids)
            covariate = _pack_covariate(paths, matrix, scratch, stack, settings, progress)
            wider = make_covariate_plan(design, hypotheses, draws, weights, scale)
            fit = fit_voxels_with_map(matrix, covariate, wider, **engine)
    notes = (*source.notes, *tiv_note, *design.notes, *_mask_note(matrix))
    design = replace(design, notes=notes)
    record = _record(formula, right, design, draws, settings, matrix, scale)
    record |= {
        "contrasts": contrast_record(hypotheses, named, fit.repetitions), "df_resid": fit.df_resid,
        "n_voxels": int(fit.mask.sum()), "device": device_label(device),
    }  # fmt: skip
    if map_name is not None:
        record["map_covariate"] = {"name": map_name, "maps": _map_record(covariate)}
    found = {c.name: statistic_maps(fit, i, c) for i, c in enumerate(hypotheses)}
    features = matrix.features if isinstance(matrix, ArrayMaps) else ()
    return GlmResults(
        design, tuple(hypotheses), found, fit.mask, matrix.space, features, draws, fit.df_resid, record
    )


def _check_combination(settings: Options, contrasts: Sequence[Contrast], map_name: str | None) -> None:
    if settings.robust == "hc3" and any(contrast.kind == "F" for contrast in contrasts):
        msg = "HC3 errors are for t-contrasts; test the F-contrasts in a run without them"
        raise DesignError(msg)
    if map_name is not None and (settings.robust != "none" or settings.spm_resms):
        msg = "a formula with map() takes neither --robust nor --spm-resms"
        raise DesignError(msg)


def _pack_covariate(
    paths: Mapping[str, Path], maps: ArrayMaps | PackedMaps, scratch: Path | str | None, stack: ExitStack,
    settings: Options, progress: Callable[[str, int, int], None] | None,
) -> PackedMaps:
    """Maps of a voxelwise covariate in the same columns as the maps, in a folder that is deleted after the fit."""
    if maps.space is None:
        msg = "map() needs maps in files on both sides of the formula"
        raise DesignError(msg)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=scratch))
    rule = MaskRule(None, nan=settings.nan)
    packed = pack_maps(
        paths, Path(folder), rule, None, settings.n_threads, progress, durable=False, voxels=maps.space.voxel_index
    )
    if not packed.space.grid.matches(maps.space.grid):
        ours, theirs = maps.space.grid, packed.space.grid
        msg = f"map(): grid {theirs} of the covariate differs from {ours} of the maps; resample it"
        raise ScanError(msg)
    return packed


def _options(given: Mapping[str, Any]) -> Options:
    names = list(Options.__dataclass_fields__)
    unknown = [name for name in given if name not in names]
    if unknown:
        msg = f"fit_glm has no option {unknown[0]!r} (nearest {closest(unknown[0], names) or 'none'})"
        raise TypeError(msg)
    return Options(**given)


def _refuse_mixtures(table: pd.DataFrame, allowed: bool) -> None:
    for name in _MIXABLE:
        found = sorted(set(table[name].dropna().astype(str))) if name in table else []
        if len(found) > 1 and not allowed:
            counts = ", ".join(f"{value}: {int((table[name] == value).sum())} scans" for value in found)
            msg = f"the cohort mixes {name} values ({counts}); preprocess all scans alike, or say --allow-mixed"
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
    sources = {name: name if name in table else ALIASES.get(name, name) for name in names}
    groups = [n for n, source in sources.items() if source in table and table[source].dtype.kind not in "fiub"]
    if len(groups) != 1:
        msg = (
            f"--tiv by-group needs one factor in the formula, found {', '.join(groups) or 'none'}; "
            "write the interaction out, e.g. 'gm ~ group + center(tiv):group'"
        )
        raise DesignError(msg)
    return f"{right} + center(tiv):{groups[0]}", (f"TIV was added with its own slope in each level of {groups[0]}",)


def _design(right: str, source: Source, settings: Options) -> tuple[Design, Source]:
    """The design, and the source without the scans that lack a covariate or weight."""
    table = source.table
    extra = [name for name in (settings.weights, settings.stratify) if name is not None]
    design = build_design(right, table, source.scan_ids, settings.missing)
    kept = [scan in set(design.scan_ids) for scan in source.scan_ids]
    for name in extra:
        values = _column(name, source)
        empty = [s for s, gone, keep in zip(source.scan_ids, values.isna(), kept, strict=True) if gone and keep]
        if empty:
            msg = f"no {name} for {', '.join(empty[:12])}; fill it in or leave these scans out"
            raise TableError(msg)
    if all(kept):
        return design, source
    paths = None if source.paths is None else {scan: source.paths[scan] for scan in design.scan_ids}
    maps = None if source.maps is None else source.maps.select(design.scan_ids)
    return design, Source(table[kept], design.scan_ids, paths, maps, source.notes)


def _column(name: str, source: Source) -> pd.Series:
    actual = name if name in source.table else ALIASES.get(name, name)
    if actual not in source.table:
        msg = f"no column {name!r} in the table (nearest {closest(name, source.table.columns) or 'none'})"
        raise TableError(msg)
    return source.table[actual]


def _draws(source: Source, settings: Options) -> np.ndarray:
    if settings.draws is not None:
        return read_draws(settings.draws, source.scan_ids)
    strata = None if settings.stratify is None else [str(v) for v in _column(settings.stratify, source)]
    return draw_subsets(source.scan_ids, settings.repeats, settings.fraction, settings.seed, strata)


def _tiv_scale(source: Source) -> np.ndarray:
    """Mean TIV / TIV of each scan, (n_scans,)."""
    tiv = build_design("tiv", source.table, source.scan_ids).covariates["tiv"].to_numpy(float)
    return tiv.mean() / tiv


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
    assert source.paths is not None  # noqa: S101 - one of the two is there
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


def _mask_note(maps: ArrayMaps | PackedMaps) -> tuple[str, ...]:
    """A note where the mask is that of more scans than the model's."""
    if isinstance(maps, ArrayMaps) or len(maps.manifest["scan_ids"]) == len(maps.scan_ids):
        return ()
    return (f"the mask is that of all {len(maps.manifest['scan_ids'])} packed scans",)


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


def _record(
    formula: str, right: str, design: Design, draws: np.ndarray, settings: Options, maps: ArrayMaps | PackedMaps,
    scale: np.ndarray | None,
) -> dict[str, Any]:
    """What goes into ``glm.json``."""
    options = {k: path_label(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()}
    report = variance_inflation(design)
    return {
        "command": "glm",
        "formula": formula,
        "design_formula": right,
        "columns": list(design.columns),
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
        "maps": _map_record(maps),
        "versions": {**versions(), "formulaic": metadata.version("formulaic")},
    }


def _map_record(maps: ArrayMaps | PackedMaps) -> dict[str, dict[str, Any]]:
    """File name, size, time and sha256 of every map; nothing for a matrix."""
    if isinstance(maps, ArrayMaps):
        return {}
    files = maps.manifest["files"]
    return {scan: {**files[scan], "path": path_label(files[scan]["path"])} for scan in maps.scan_ids}
