"""Tables of models of regions: one row a region and contrast, with p corrected over the regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vbmstat.glm.results import GlmResults
from vbmstat.regions.mixed_analysis import MixedResults
from vbmstat.tables.schema import tables

_STATISTICS = {  # statistic of the fit -> column of the table
    "effect": "effect", "p": "p_uncorrected", "pfwe": "p_fwe", "r": "partial_r", "d": "cohens_d",
    "mediant": "median_t", "q25t": "q25_t", "q75t": "q75_t",
    "medianF": "median_f", "q25F": "q25_f", "q75F": "q75_f",
}  # fmt: skip


def tidy_table(fit: GlmResults, names: pd.DataFrame, means: np.ndarray) -> pd.DataFrame:
    """One row a region and contrast, from a fit of a plain matrix (n_scans, n_regions); mean volumes in mL."""
    parts = []
    for contrast in fit.contrasts:
        values = {name: one.values for name, one in fit.maps[contrast.name].items()}
        part = names.assign(contrast=contrast.name, statistic=contrast.kind, mean_ml=means)
        for stat, column in _STATISTICS.items():
            if stat in values:
                part[column] = values[stat]
        part["value"] = values[contrast.kind]
        part["se"] = np.sqrt(values["variance"]) if contrast.kind == "t" else np.nan
        part["df"] = values.get("df", fit.df_resid)
        part["q_fdr"], part["p_holm"] = _adjusted(values["p"], fit.mask)
        approximated = fit.approximated(contrast.name).get("pfwe")
        if approximated is not None:
            part["approximated"] = ["p_fwe" if chosen else None for chosen in approximated]
        part.loc[~fit.mask, [c for c in part if c not in (*names, "contrast", "statistic", "mean_ml")]] = np.nan
        parts.append(part)
    return _in_order(parts)


def _in_order(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables one below the other, columns in the order of the data dictionary."""
    table = pd.concat(parts, ignore_index=True)
    return table[[column.name for column in tables()["roi_glm"].columns if column.name in table]]


def mixed_table(results: MixedResults, names: pd.DataFrame, means: np.ndarray) -> pd.DataFrame:
    """One row a region and contrast, from a mixed model whose columns are the regions; as :func:`tidy_table`."""
    fit, parts = results.fit, []
    total = fit.random_variance + fit.residual_variance
    for k, contrast in enumerate(results.contrasts):
        part = names.assign(contrast=contrast.name, statistic=contrast.kind, mean_ml=means)
        part = part.assign(effect=fit.effect[k], se=fit.se[k], value=fit.statistic[k], df=fit.df[k])
        part["p_uncorrected"] = fit.p[k]
        part["q_fdr"], part["p_holm"] = _adjusted(fit.p[k], np.isfinite(fit.p[k]))
        part["random_variance"], part["residual_variance"] = fit.random_variance, fit.residual_variance
        part["icc"], part["converged"] = fit.random_variance / total, fit.converged
        parts.append(part)
    return _in_order(parts)


def _adjusted(p: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Benjamini-Hochberg's q and Holm's p over the regions that vary."""
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415 - heavy imports

    adjusted = np.full((2, len(p)), np.nan)
    if mask.any():
        for row, method in zip(adjusted, ("fdr_bh", "holm"), strict=True):
            row[mask] = multipletests(p[mask], method=method)[1]
    return adjusted[0], adjusted[1]
