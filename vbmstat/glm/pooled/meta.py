"""Random-effects meta-analysis of the sites' own effects at every voxel, beside the pooled model.

DerSimonian & Laird 1986, Controlled Clinical Trials 7:177, doi:10.1016/0197-2456(86)90046-2; I² of Higgins & Thompson
2002, doi:10.1002/sim.1186.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vbmstat.files.filenames import unique_names
from vbmstat.glm.design.contrast import Contrast, file_label, is_estimable
from vbmstat.glm.pooled.combine import fit_rows, site_rows
from vbmstat.glm.pooled.sums import SiteSums
from vbmstat.glm.spec import Compute
from vbmstat.glm.statmap import StatMap


@dataclass(frozen=True)
class RandomEffects:
    """A meta-analysis at every voxel, arrays (n_voxels,)."""

    # DerSimonian and Laird's effect and its variance
    effect: np.ndarray
    variance: np.ndarray
    # Cochran's Q, and the share of it, 0 to 1, that sampling error does not explain
    q: np.ndarray
    i2: np.ndarray


def random_effects(effects: np.ndarray, variances: np.ndarray) -> RandomEffects:
    """Combine the effects of sites, (n_sites, n_voxels); all results are 0 where a site's variance is.

    Examples
    --------
    >>> one = random_effects(np.array([[0.1], [0.5]]), np.array([[0.01], [0.03]]))  # tau² = .06
    >>> round(float(one.effect[0]), 4), round(float(one.variance[0]), 4), float(one.q[0]), float(one.i2[0])
    (0.275, 0.0394, 4.0, 0.75)
    """
    is_known = (variances > 0).all(axis=0)
    weights = 1 / np.where(is_known, variances, 1.0)
    total = weights.sum(axis=0)
    q = (weights * (effects - (weights * effects).sum(axis=0) / total) ** 2).sum(axis=0)
    excess = np.maximum(q - (len(effects) - 1), 0.0)
    between = excess / (total - (weights**2).sum(axis=0) / total)
    weights = 1 / (np.where(is_known, variances, 1.0) + between)
    total = weights.sum(axis=0)
    i2 = np.divide(excess, q, out=np.zeros_like(q), where=q > 0)
    values = ((weights * effects).sum(axis=0) / total, 1 / total, q, i2)
    return RandomEffects(*(np.where(is_known, one, 0.0) for one in values))


def meta_analysis(
    contrast: Contrast, columns: tuple[str, ...], sites: Mapping[str, SiteSums], voxels: np.ndarray
) -> tuple[dict[str, StatMap], str]:
    """Maps of the sites' own effects of a t-contrast and of their meta-analysis, and a note on what was left out.

    `columns` are those of the contrast's weights; `voxels` the common ones.
    """
    if contrast.kind != "t":
        return {}, f"{contrast.name}: no meta-analysis of an F-contrast"
    fits, left_out = {}, []
    weights = dict(zip(columns, contrast.weights[0], strict=True))
    for name, site in sites.items():
        own = Contrast(contrast.name, np.array([[weights[column] for column in site.about.columns]]), "t")
        rows = site_rows(site, voxels)
        has_all = {column for column, weight in weights.items() if weight} <= set(site.about.columns)
        if has_all and is_estimable(own, rows.design):
            fits[name] = fit_rows(rows, [own], Compute())[1]
        else:
            left_out.append(name)
    if len(fits) < 2:
        return {}, f"{contrast.name}: no meta-analysis; {len(fits)} of {len(sites)} sites can estimate it alone"
    alone = ", ".join(left_out)
    note = f"{contrast.name}: the meta-analysis is without {alone}, which cannot estimate it alone" if left_out else ""
    combined = random_effects(
        *(np.vstack([getattr(fit, what) for fit in fits.values()]) for what in ("effect", "variance"))
    )
    estimate, about = ("estimate", ()), f"of {len(fits)} sites: {contrast.name}"
    maps = [
        StatMap("dleffect", combined.effect, estimate, f"random-effects mean {about}"),
        StatMap("dlvariance", combined.variance, estimate, f"variance of random-effects mean {about}"),
        StatMap("q", combined.q, estimate, f"Cochran's Q {about}"),
        StatMap("i2", combined.i2, estimate, f"I2, 0 to 1, {about}"),
    ]
    for (name, fit), label in zip(fits.items(), unique_names(list(fits), _capital), strict=True):
        for stat, values in (("effect", fit.effect[0]), ("variance", fit.variance[0])):
            maps.append(StatMap(f"{stat}{label}", values, estimate, f"{stat} in {name}: {contrast.name}"))
    return {one.stat: one for one in maps}, note


def _capital(name: str) -> str:
    label = file_label(name)
    return label[:1].upper() + label[1:]
