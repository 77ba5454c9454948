"""Maps of a fitted contrast: statistic, p, z, effect, variance, effect sizes, and summaries over subsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.fit.plan import REPLICATION_P
from vbmstat.glm.fit.tensors import Fit, LocalDfFit
from vbmstat.glm.inference.p_values import (
    cohens_d,
    d_interval,
    hedges_g,
    p_of_f,
    p_two_sided,
    partial_r,
    partial_r2,
    q_fdr,
    z_of_f,
    z_of_t,
)
from vbmstat.glm.statmap import StatMap

if TYPE_CHECKING:
    from vbmstat.glm.inference.corrected import Inference
    from vbmstat.glm.inference.permute.nulls import Nulls


def statistic_maps(fit: Fit, index: int, contrast: Contrast) -> dict[str, StatMap]:
    """The maps of one contrast.

    Parameters
    ----------
    fit : Fit
        From the engine.
    index : int
        Which contrast of the fit.
    contrast : Contrast
        Its name and kind.
    """
    df, inside, statistic = fit.df[index], fit.mask, fit.statistic[index]
    of_size = fit.df_resid  # effect sizes go by the scans, p by what the variance rests on
    m = float(np.linalg.matrix_rank(contrast.weights))
    t_like = contrast.kind == "t"
    dofs = f"{df:.1f}" if t_like else f"{m:.1f},{df:.1f}"
    spm = f"SPM{{{contrast.kind.upper()}_[{dofs}]}} - contrast {index + 1}: {contrast.name}"
    p = p_two_sided(statistic, df) if t_like else p_of_f(statistic, m, df)
    z = z_of_t(statistic, df) if t_like else z_of_f(statistic, m, df)
    intent = ("t test", (df,)) if t_like else ("f test", (m, df))
    estimate = ("estimate", ())
    found = [
        StatMap(contrast.kind, statistic, intent, spm),
        StatMap("p", np.where(inside, p, 1.0), ("p value", ()), f"two-sided uncorrected p: {contrast.name}"),
        StatMap("z", np.where(inside, z, 0.0), ("z score", ()), f"SPM{{Z}} - contrast {index + 1}: {contrast.name}"),
    ]
    if t_like:
        found += [
            StatMap("effect", fit.effect[index], estimate, f"contrast {index + 1}: {contrast.name}"),
            StatMap("variance", fit.variance[index], estimate, f"variance of contrast {index + 1}: {contrast.name}"),
            StatMap("r", partial_r(statistic, of_size), ("correlation", (of_size,)), f"partial r: {contrast.name}"),
            StatMap("d", cohens_d(statistic, of_size), estimate, f"Cohen's d: {contrast.name}"),
        ]
    else:
        found.append(StatMap("r2", partial_r2(statistic, m, of_size), estimate, f"partial R2: {contrast.name}"))
        found[1] = StatMap("p", found[1].values, ("p value", ()), f"uncorrected p: {contrast.name}")
    if df < of_size:
        text = f"effective degrees of freedom: {contrast.name}"
        found.append(StatMap("df", np.where(inside, df, 1.0), estimate, text))
    found.append(StatMap("sigma2", fit.residual_variance, estimate, "residual variance"))
    quantiles = dict(fit.quantiles)
    replication = quantiles.pop("replication", None)
    if replication is not None:
        text = f"share of {fit.repetitions[index]} subsets with uncorrected p < {REPLICATION_P:g}: {contrast.name}"
        found.append(StatMap("replication", replication[index], estimate, text))
    for name, values in quantiles.items():
        text = f"{name} {contrast.kind} over {fit.repetitions[index]} subsets (no p): {contrast.name}"
        found.append(StatMap(name + contrast.kind, values[index], estimate, text))
    return {one.stat: one for one in found}


def local_df_maps(
    fit: LocalDfFit, index: int, contrast: Contrast, how: str, with_fdr: bool = False
) -> dict[str, StatMap]:
    """The maps of one contrast: t or F, p, z, effect, variance, degrees of freedom, and q if wanted.

    Parameters
    ----------
    fit : LocalDfFit
        From :func:`vbmstat.glm.variance.sandwich.fit_sandwich` or :func:`vbmstat.glm.variance.groups.fit_grouped`.
    index : int
        Which contrast of the fit.
    contrast : Contrast
        Its name and kind.
    how : str
        Whose variance it is, for the description.
    with_fdr : bool
        Whether the map ``qfdr`` is wanted.
    """
    statistic, df, inside = fit.statistic[index], fit.df[index], fit.mask
    m, middle = float(np.linalg.matrix_rank(contrast.weights)), float(np.median(df[inside]))
    t_like = contrast.kind == "t"
    dofs = f"{middle:.1f}" if t_like else f"{m:.1f},{middle:.1f}"
    intent = ("t test", (middle,)) if t_like else ("f test", (m, middle))
    p = p_two_sided(statistic, df) if t_like else p_of_f(statistic, m, df)
    z = z_of_t(statistic, df) if t_like else z_of_f(statistic, m, df)
    name = f"contrast {index + 1}: {contrast.name}"
    sides = "two-sided uncorrected p" if t_like else "uncorrected p"
    found = [
        StatMap(contrast.kind, statistic, intent, f"SPM{{{contrast.kind.upper()}_[{dofs}]}} - {name}"),
        StatMap("p", np.where(inside, p, 1.0), ("p value", ()), f"{sides}: {contrast.name}"),
        StatMap("z", np.where(inside, z, 0.0), ("z score", ()), f"SPM{{Z}} - {name}"),
        StatMap("df", df, ("estimate", ()), f"effective degrees of freedom: {contrast.name}"),
    ]
    if t_like:
        found += [
            StatMap("effect", fit.effect[index], ("estimate", ()), name),
            StatMap("variance", fit.variance[index], ("estimate", ()), f"{how} variance of {name}"),
        ]
    if with_fdr:
        q = np.ones(len(p))
        q[inside] = q_fdr(p[inside])
        found.append(StatMap("qfdr", q, ("p value", ()), f"q of false discovery rate: {contrast.name}"))
    return {one.stat: one for one in found}


def inference_maps(
    inference: Inference, contrast: Contrast, statistic: np.ndarray, df: float | None
) -> dict[str, StatMap]:
    """The maps of corrected inference on one contrast, and effect sizes with their intervals.

    Parameters
    ----------
    inference : Inference
        What was found.
    contrast : Contrast
        Its name and kind.
    statistic : ndarray, (n_voxels,)
        T or F.
    df : float or None
        Residual degrees of freedom; None leaves effect sizes out.
    """
    sides = "two-sided" if inference.two_sided else "one-sided"
    p_value, estimate = ("p value", ()), ("estimate", ())
    found = []

    def add(stat: str, values: np.ndarray | None, what: str, intent: tuple[str, tuple[float, ...]] = p_value) -> None:
        if values is not None:
            found.append(StatMap(stat, values, intent, f"{what}: {contrast.name}"))

    if "fdr" in inference.kinds:
        add("qfdr", inference.q_fdr, f"q of false discovery rate, {sides}")
    nulls = inference.nulls
    if nulls is not None:
        how = {name: _how(nulls, name) for name in ("uncorrected", "statistic", "tfce", "extent", "mass")}
        add("pperm", nulls.p_uncorrected, f"uncorrected p by permutation{how['uncorrected']}, {sides}")
        add("pfwe", nulls.p_fwe if "fwe" in inference.kinds else None, f"FWE-corrected p{how['statistic']}, {sides}")
        add("tfce", nulls.tfce, "TFCE", estimate)
        add("ptfce", nulls.p_tfce_fwe, f"FWE-corrected p of TFCE{how['tfce']}, {sides}")
        for stat, p, what in (("pextent", nulls.p_extent_fwe, "extent"), ("pmass", nulls.p_mass_fwe, "mass")):
            if nulls.clusters is not None and p is not None:
                add(stat, np.append(1.0, p)[nulls.clusters.labels], f"FWE-corrected p of cluster {what}{how[what]}")
    if contrast.kind == "t" and df is not None:
        low, high = d_interval(statistic, df)
        inside = statistic != 0
        add("g", hedges_g(cohens_d(statistic, df), df), "Hedges' g", estimate)
        add("dlow", np.where(inside, low, 0.0), "lower 95 % limit of Cohen's d", estimate)
        add("dhigh", np.where(inside, high, 0.0), "upper 95 % limit of Cohen's d", estimate)
    return {one.stat: one for one in found}


def _how(nulls: Nulls, name: str) -> str:
    """Says of a map's p that some are not counted."""
    chosen = nulls.approximated.get(name)
    return "" if chosen is None or not chosen.any() else f" (Pareto tail, {nulls.count} perm.)"
