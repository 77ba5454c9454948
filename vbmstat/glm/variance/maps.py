"""Maps of a fitted contrast: statistic, p, z, effect, variance, effect sizes, and summaries over subsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.fit.plan import REPLICATION_P
from vbmstat.glm.fit.stacked import QUANTILES
from vbmstat.glm.fit.tile import Fit
from vbmstat.glm.inference.p_values import (
    cohens_d,
    d_interval,
    hedges_g,
    p_of_f,
    p_two_sided,
    partial_r,
    partial_r2,
    z_of_f,
    z_of_tail,
)
from vbmstat.glm.statmap import StatMap

if TYPE_CHECKING:
    from vbmstat.glm.inference.corrected import Inference
    from vbmstat.glm.inference.permute.nulls import Nulls


def statistic_maps(fit: Fit, index: int, contrast: Contrast, how: str = "") -> dict[str, StatMap]:
    """The maps of one contrast; without effect sizes and subsets if its degrees of freedom are local.

    `index` is that of the contrast in the fit; `how` says whose variance it is, for the description.
    """
    df, typical, inside, statistic = fit.df[index], fit.typical_df[index], fit.mask, fit.statistic[index]
    of_size = fit.df_resid  # effect sizes depend on the scans, p on what the variance is estimated from
    m = float(np.linalg.matrix_rank(contrast.weights))
    is_t = contrast.kind == "t"
    dofs = f"{typical:.1f}" if is_t else f"{m:.1f},{typical:.1f}"
    name, estimate = f"contrast {index + 1}: {contrast.name}", ("estimate", ())
    p = p_two_sided(statistic, df) if is_t else p_of_f(statistic, m, df)
    z = z_of_tail(p / 2, statistic) if is_t else z_of_f(statistic, m, df)
    sides = "two-sided uncorrected p" if is_t else "uncorrected p"
    text = f"effective degrees of freedom: {contrast.name}"
    effective_df = StatMap("df", np.where(inside, df, 1.0), estimate, text)
    maps = [
        StatMap(
            contrast.kind, statistic, ("t test", (typical,)) if is_t else ("f test", (m, typical)),
            f"SPM{{{contrast.kind.upper()}_[{dofs}]}} - {name}",
        ),
        StatMap("p", np.where(inside, p, 1.0), ("p value", ()), f"{sides}: {contrast.name}"),
        StatMap("z", np.where(inside, z, 0.0), ("z score", ()), f"SPM{{Z}} - {name}"),
    ]  # fmt: skip
    if fit.has_local_df:
        maps.append(effective_df)
    if is_t:
        maps += [
            StatMap("effect", fit.effect[index], estimate, name),
            StatMap("variance", fit.variance[index], estimate, f"{how} variance of {name}".strip()),
        ]
    if fit.residual_variance is None:
        return {one.stat: one for one in maps}
    if is_t:
        maps += [
            StatMap("r", partial_r(statistic, of_size), ("correlation", (of_size,)), f"partial r: {contrast.name}"),
            StatMap("d", cohens_d(statistic, of_size), estimate, f"Cohen's d: {contrast.name}"),
        ]
    else:
        maps.append(StatMap("r2", partial_r2(statistic, m, of_size), estimate, f"partial R2: {contrast.name}"))
    if typical < of_size:
        maps.append(effective_df)
    maps.append(StatMap("sigma2", fit.residual_variance, estimate, "residual variance"))
    for stat in ("replication", *QUANTILES) if fit.quantiles else ():
        values, over = fit.quantiles[stat][index], f"{fit.repetitions[index]} subsets"
        if stat == "replication":
            text = f"share of {over} with uncorrected p < {REPLICATION_P:g}: {contrast.name}"
            maps.append(StatMap(stat, values, estimate, text))
        else:
            text = f"{stat} {contrast.kind} over {over} (no p): {contrast.name}"
            maps.append(StatMap(stat + contrast.kind, values, estimate, text))
    return {one.stat: one for one in maps}


def inference_maps(
    inference: Inference, contrast: Contrast, statistic: np.ndarray, df: float | None
) -> dict[str, StatMap]:
    """The maps of corrected inference on one contrast, and effect sizes with their intervals.

    `statistic` is t or F, (n_voxels,); without the residual degrees of freedom `df` there are no effect sizes.
    """
    sides = "two-sided" if inference.two_sided else "one-sided"
    p_value, estimate = ("p value", ()), ("estimate", ())
    maps = []

    def add(stat: str, values: np.ndarray | None, what: str, intent: tuple[str, tuple[float, ...]] = p_value) -> None:
        if values is not None:
            maps.append(StatMap(stat, values, intent, f"{what}: {contrast.name}"))

    if "fdr" in inference.kinds:
        add("qfdr", inference.q_fdr, f"q of false discovery rate, {sides}")
    if inference.random_field is not None:
        add("prft", inference.random_field.p_fwe, f"FWE-corrected p by random fields, {sides}")
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
    return {one.stat: one for one in maps}


def _how(nulls: Nulls, name: str) -> str:
    """Says if some p of a map are not counted."""
    chosen = nulls.approximated.get(name)
    return "" if chosen is None or not chosen.any() else f" (Pareto tail, {nulls.count} perm.)"
