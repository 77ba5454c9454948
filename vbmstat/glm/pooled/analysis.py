"""``pool_sites``: one model over the scans of several sites, from the sums that each site shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from vbmstat.assets import sha256
from vbmstat.errors import DesignError, VbmstatError
from vbmstat.glm.design.contrast import Contrast, are_default, build_contrasts
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.fit.tile import Fit, Fitted
from vbmstat.glm.inference.corrected import Inference, infer, inference_record
from vbmstat.glm.inference.permute.nulls import ALPHA
from vbmstat.glm.pooled.combine import Rows, check_sites, fit_rows, stack_rows
from vbmstat.glm.pooled.file import read_sums
from vbmstat.glm.pooled.meta import meta_analysis
from vbmstat.glm.pooled.sums import SiteSums
from vbmstat.glm.record import contrast_record, fit_record
from vbmstat.glm.results import GlmResults
from vbmstat.glm.spec import Compute, Contrasts, InferenceSpec, ModelSpec
from vbmstat.glm.statmap import StatMap
from vbmstat.glm.variance.strategy import Ols
from vbmstat.tables.cells import sorted_labels


@dataclass(frozen=True)
class PoolSpec:
    """What a pooled model tests, and how.

    Attributes
    ----------
    contrasts : sequence of str or mapping, optional
        As for ``fit_glm``; by default one t-contrast for each column that the sites share.
    inference : InferenceSpec
        Corrected inference; of its kinds ``fdr`` alone.
    has_intercepts : bool
        Whether each site has an intercept of its own, as with the factor `site` in a formula.
    has_meta : bool
        Whether to add a random-effects meta-analysis of each t-contrast.
    allow_mixed : bool
        Accept maps of several engines, versions or kinds.
    """

    contrasts: Contrasts = None
    inference: InferenceSpec = field(default_factory=InferenceSpec)
    has_intercepts: bool = True
    has_meta: bool = False
    allow_mixed: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.contrasts, str):
            object.__setattr__(self, "contrasts", [self.contrasts])
        others = [kind for kind in self.inference.kinds if kind != "fdr"]
        if others:
            why = (
                "permutations need the scans"
                if self.inference.permutes
                else "the smoothness of residual maps is no sum"
            )
            msg = f"--inference {', '.join(others)}: {why}; pooled models take fdr, and note Bonferroni's threshold"
            raise DesignError(msg)


@dataclass(frozen=True, repr=False)
class PooledResults(GlmResults):
    """A pooled model; rows of its `design` are sums of sites, not scans."""

    # one row a site; see the table ``sites`` in ``docs/columns.md``
    sites: pd.DataFrame = field(default_factory=pd.DataFrame)

    def design_tables(self) -> dict[str, tuple[pd.DataFrame, str]]:
        """The sites, and the collinearity of the columns over all scans."""
        return {
            "sites.tsv": (self.sites, "pooled_sites"),
            "design_report.tsv": (variance_inflation(self.design), "design_report"),
        }


def pool_sites(
    files: Mapping[str, Path] | list[Path], spec: PoolSpec | None = None, compute: Compute | None = None
) -> PooledResults:
    """Fit one model to the scans of all sites, from the files that the sites share.

    Parameters
    ----------
    files : mapping of str to Path, or list of Path
        Of each site; without names a file's own name is its site's.
    spec : PoolSpec, optional
        Contrasts, inference, intercepts.
    compute : Compute, optional
        Where and how fast.

    Returns
    -------
    PooledResults
        t, F, effects and variances of the model over all scans, with `site` as a factor in it.

    Raises
    ------
    VbmstatError, DesignError, ScanError
        If a file cannot be read, or the sites do not belong together; see
        :func:`vbmstat.glm.pooled.combine.check_sites`.
    """
    spec, compute = spec or PoolSpec(), compute or Compute()
    paths = files if isinstance(files, Mapping) else by_name(files)
    sites = {name: read_sums(paths[name]) for name in sorted_labels(paths)}
    check_sites(sites, spec.allow_mixed)
    rows = stack_rows(sites, spec.has_intercepts)
    contrasts = _contrasts(spec, rows.design)
    plan, fit = fit_rows(rows, contrasts, compute)
    inference = infer(Fitted(rows.maps, plan, fit), contrasts, [None] * len(contrasts), spec.inference, compute)
    table = _site_table(sites, paths, rows)
    notes = [*_notes(sites, rows, spec), *(_bonferroni(one, fit, i, spec) for i, one in enumerate(contrasts))]
    maps: dict[str, dict[str, StatMap]] = {}
    for index, contrast in enumerate(contrasts):
        maps[contrast.name] = _maps(fit, index, contrast, inference.get(contrast.name), rows.n_scans)
        if spec.has_meta and rows.maps.space is not None:
            more, note = meta_analysis(contrast, rows.design.columns, sites, rows.maps.space.voxel_index)
            maps[contrast.name] |= more
            notes += [note] if note else []
    design = replace(rows.design, notes=tuple(notes))
    record = _record(spec, sites, replace(rows, design=design), fit)
    record["contrasts"] = contrast_record(contrasts, design, fit.repetitions, fit.typical_df)
    record["sites"] = table.to_dict("records")
    if spec.inference.kinds:
        record["inference"] = inference_record(inference, spec.inference, None)
    no_draws = np.empty((0, rows.n_scans), dtype=bool)
    return PooledResults(
        design, tuple(contrasts), maps, fit.mask, rows.maps.space, (), no_draws, fit.df_resid, record, inference, table
    )


def by_name(files: list[Path]) -> dict[str, Path]:
    """Files by the names of their sites; VbmstatError if two have one name."""
    paths: dict[str, Path] = {}
    for path in files:
        other = paths.setdefault(path.stem, path)
        if other is not path:
            msg = f"{other} and {path} would both be the site {path.stem}; name each file after its site"
            raise VbmstatError(msg)
    return paths


def _contrasts(spec: PoolSpec, design: Design) -> list[Contrast]:
    """The contrasts asked for; by default those of the shared columns."""
    contrasts = build_contrasts(spec.contrasts, design)
    if spec.contrasts or not are_default(spec.contrasts) or not spec.has_intercepts:
        return contrasts
    of_sites = list(design.terms.values())[-1]
    return [one for one in contrasts if one.name not in of_sites] or contrasts


def _maps(fit: Fit, index: int, contrast: Contrast, inference: Inference | None, n_scans: int) -> dict[str, StatMap]:
    """Maps of one contrast, as of a model of scans."""
    ols = Ols()
    maps = ols.maps(fit, index, contrast, n_scans)
    return maps if inference is None else maps | ols.corrected_maps(inference, fit, index, contrast, n_scans)


def _site_table(sites: Mapping[str, SiteSums], paths: Mapping[str, Path], rows: Rows) -> pd.DataFrame:
    """One row a site: its file, scans, voxels, and the means of the maps and of the columns."""
    table = [
        {
            "site": name, "n_scans": site.about.n_scans, "n_voxels": site.space.voxel_index.size,
            "n_voxels_lost": site.space.voxel_index.size - rows.maps.n_voxels, "mean_map": site.map_mean,
            **{f"mean_{column}": mean for column, mean in site.means.items() if column != "Intercept"},
            "file": paths[name].name, "sha256": sha256(paths[name]),
        }
        for name, site in sites.items()
    ]  # fmt: skip
    frame = pd.DataFrame(table)
    means = [name for name in frame if str(name).startswith("mean_")]
    return frame.fillna(dict.fromkeys(means, 0.0)).round(dict.fromkeys(means, 6))  # 0 of a level that a site lacks


def _notes(sites: Mapping[str, SiteSums], rows: Rows, spec: PoolSpec) -> list[str]:
    """What the reader should know of the sites."""
    counts = ", ".join(f"{name} {site.about.n_scans}" for name, site in sites.items())
    n_voxels = rows.maps.n_voxels
    lost = [f"{name} {n}" for name, site in sites.items() if (n := site.space.voxel_index.size - n_voxels)]
    notes = [f"fitted from the sums of {len(sites)} sites ({counts} scans), not from scans"]
    if lost:
        notes.append(f"the mask is what all sites share, {n_voxels} voxels; voxels lost: {', '.join(lost)}")
    every = dict.fromkeys(column for site in sites.values() for column in site.about.columns)
    for column in every:
        without = [name for name, site in sites.items() if column not in site.about.columns]
        if without:
            notes.append(f"{column}: no such scans in {', '.join(without)}; is the level spelt otherwise there?")
    if not spec.has_intercepts:
        notes.append("all sites have one intercept: differences between scanners are in the effects and residuals")
    if len({tuple(sorted(site.about.mask.items())) for site in sites.values()}) > 1:
        notes.append("the sites' masks have different rules: see --mask-threshold and --mask-share of each site")
    return notes


def _bonferroni(contrast: Contrast, fit: Fit, index: int, spec: PoolSpec) -> str:
    """Bonferroni's threshold of a contrast, and how many voxels are beyond."""
    p, is_t = ALPHA / int(fit.mask.sum()), contrast.kind == "t"
    two_sided = is_t and not spec.inference.one_sided
    rank = np.linalg.matrix_rank(contrast.weights)
    df = fit.df[index]
    threshold = float(stats.t.isf(p / 2 if two_sided else p, df) if is_t else stats.f.isf(p, rank, df))
    values = np.abs(fit.statistic[index]) if two_sided else fit.statistic[index]
    sides = "" if not is_t else ", two-sided" if two_sided else ", one-sided"
    return (
        f"{contrast.name}: {contrast.kind} of {threshold:.2f} is FWE p = {ALPHA:g} by Bonferroni{sides}; "
        f"{int((values > threshold).sum())} of {int(fit.mask.sum())} voxels are beyond"
    )


def _record(spec: PoolSpec, sites: Mapping[str, SiteSums], rows: Rows, fit: Fit) -> dict[str, Any]:
    """The content of ``glm.json``: that of the model over all scans, without what is known of scans."""
    about = next(iter(sites.values())).about
    threshold, share = about.mask["threshold"], about.mask["share"]
    model = ModelSpec.make(
        f"{about.response} ~ {rows.design.formula}", spec.contrasts, repeats=0, weights=about.weights,
        mask_threshold=threshold, mask_share=share, allow_mixed=spec.allow_mixed,
    )  # fmt: skip
    model = replace(model, inference=spec.inference)
    record = fit_record(model, rows.design, np.empty((0, rows.n_scans), dtype=bool), rows.maps, None)
    return record | {
        "command": "pool", "n_scans": rows.n_scans, "scan_ids": [], "df_resid": fit.df_resid,
        "n_voxels": int(fit.mask.sum()), "site_intercepts": spec.has_intercepts,
        "smoothing": {"of_files_fwhm_mm": about.fwhm_mm, "applied_fwhm_mm": None},
    }  # fmt: skip
