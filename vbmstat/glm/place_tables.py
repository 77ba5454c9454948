"""Tables of places in a fitted model: clusters, peaks and SPM's table, with every corrected p that there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.glm.inference.clusters import (
    Clusters,
    StatisticMap,
    cluster_table,
    coordinates_mm,
    local_maxima,
    peak_table,
    spaced,
)
from vbmstat.glm.inference.p_values import hedges_g

if TYPE_CHECKING:
    from vbmstat.glm.inference.places import Regions
    from vbmstat.glm.inference.rft import FieldInference
    from vbmstat.glm.results import GlmResults
    from vbmstat.maps.store import Space

FLAG = " approximated"  # suffix of the column that flags the approximated p of another


def clusters(results: GlmResults, contrast: str, regions: Regions | None) -> pd.DataFrame:
    """One row per cluster; see :func:`vbmstat.glm.inference.clusters.cluster_table`."""
    found, space, kind = with_clusters(results, contrast)
    inference = results.inference[contrast]
    nulls, field = inference.nulls, inference.random_field
    corrected = {"true_discoveries": inference.true_discoveries}
    if field is not None:
        corrected |= {
            "resels": field.extents, "p_extent_rft": field.p_extent, "p_extent_fwe_rft": field.p_extent_fwe,
            "q_extent_rft": field.q_extent,
        }  # fmt: skip
    if nulls is not None and nulls.p_extent_fwe is not None and nulls.p_mass_fwe is not None:
        corrected |= {"p_extent_fwe": nulls.p_extent_fwe, "p_mass_fwe": nulls.p_mass_fwe}
        corrected |= {
            f"p_{name}_fwe{FLAG}": nulls.approximated[name] for name in ("extent", "mass")
            if name in nulls.approximated
        }  # fmt: skip
    statistic = results.maps[contrast][kind].values
    image = StatisticMap(statistic, kind, space)
    return name_flags(cluster_table(image, found, corrected, at_peak(results, contrast), regions))


def peaks(results: GlmResults, contrast: str, regions: Regions | None) -> pd.DataFrame:
    """One row per peak; see :func:`vbmstat.glm.inference.clusters.peak_table`."""
    found, space, kind = with_clusters(results, contrast)
    statistic = results.maps[contrast][kind].values
    image = StatisticMap(statistic, kind, space)
    threshold, how = results.inference[contrast].critical(statistic)
    beside = {"threshold": np.full(len(statistic), threshold), "threshold_by": np.full(len(statistic), how, object)}
    return name_flags(peak_table(image, found, at_peak(results, contrast) | beside, regions))


def with_clusters(results: GlmResults, contrast: str) -> tuple[Clusters, Space, str]:
    """Clusters of a contrast, their space, and the statistic's name."""
    inference = results.inference.get(contrast)
    if inference is None or inference.clusters is None or results.space is None:
        have = ", ".join(results.inference) or "none"
        msg = f"no clusters for {contrast!r} (corrected inference on maps in files: {have}); ask with inference="
        raise DesignError(msg)
    return inference.clusters, results.space, "t" if "t" in results.maps[contrast] else "F"


def at_peak(results: GlmResults, contrast: str) -> dict[str, np.ndarray]:
    """Columns beside a peak's statistic."""
    names = {
        "z": "z", "p": "p_uncorrected", "prft": "p_fwe_rft", "pfwe": "p_fwe", "ptfce": "p_tfce_fwe",
        "qfdr": "q_fdr", "effect": "effect", "g": "g",
    }  # fmt: skip
    maps = results.maps[contrast]
    unbias = float(hedges_g(np.ones(()), results.df_resid))  # limits of g are those of d times this, as is g itself
    limits = {f"g_{end}": maps[f"d{end}"].values * unbias for end in ("low", "high") if f"d{end}" in maps}
    flags = {f"{names[s]}{FLAG}": chosen for s, chosen in results.approximated(contrast).items() if s in names}
    field = results.inference[contrast].random_field
    topological = {} if field is None else {"q_rft": field.q_peak}
    return {name: maps[stat].values for stat, name in names.items() if stat in maps} | limits | topological | flags


def spm(results: GlmResults, contrast: str, field: FieldInference) -> pd.DataFrame:
    """SPM's table of a contrast."""
    maps, p = results.maps[contrast], results.inference[contrast].p
    return spm_table(field, maps[field.field.kind].values, {"z": maps["z"].values, "p_uncorrected": p})


def spm_table(result: FieldInference, statistic: np.ndarray, at_peak: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row a peak, as SPM lists them: at most three a cluster, more than 8 mm apart, the highest cluster first.

    Parameters
    ----------
    result : FieldInference
        Of a contrast, in the whole mask or in a small volume.
    statistic : ndarray, (n_voxels,)
        T or F.
    at_peak : mapping of str to ndarray, (n_voxels,)
        Further columns of the peak level: z, uncorrected p.

    Returns
    -------
    DataFrame
        Values of a set or cluster stand in each of its rows. Without clusters one row, with a set of none.
    """
    space, labels = result.where.space, result.clusters.labels
    mm, values = coordinates_mm(space), np.where(result.where.mask, statistic, 0.0)
    peaks = spaced(local_maxima(values, labels, space), labels, mm)
    height = pd.Series(np.abs(values[peaks]))
    order = np.argsort(-height.groupby(labels[peaks]).transform("max").to_numpy(), kind="stable")
    peaks = peaks[order]
    cluster = labels[peaks] - 1
    table = pd.DataFrame({
        "cluster": cluster + 1, "cluster_p_fwe": result.p_extent_fwe[cluster],
        "cluster_q_fdr": result.q_extent[cluster], "cluster_k_e": result.clusters.sizes[cluster],
        "cluster_p_uncorrected": result.p_extent[cluster], "peak_p_fwe": result.p_fwe[peaks],
        "peak_q_fdr": result.q_peak[peaks], "peak_value": values[peaks],
        **{f"peak_{name}": of_all[peaks] for name, of_all in at_peak.items()},
        **{name: mm[peaks, axis] for axis, name in enumerate(("x_mm", "y_mm", "z_mm"))},
    }).round({"peak_value": 4, "peak_z": 4, "x_mm": 2, "y_mm": 2, "z_mm": 2})  # fmt: skip
    table = table.astype({"cluster": "Int64", "cluster_k_e": "Int64"})
    if table.empty:
        table = table.reindex([0])
    search = result.where.search
    about = {"statistic": result.field.kind, "set_p": result.p_set, "set_c": len(result.extents)}
    ends = {
        "search_voxels": search.n_voxels, "search_resels": round(float(search.resels[3]), 3),
        "height_p_fwe": round(result.critical_height, 4),
    }  # fmt: skip
    return pd.concat([pd.DataFrame(about, table.index), table, pd.DataFrame(ends, table.index)], axis=1)


def stacked(tables: Mapping[tuple[str, ...], pd.DataFrame], keys: list[str]) -> pd.DataFrame:
    """Tables as one, their keys as its first columns."""
    if not tables:
        return pd.DataFrame(columns=keys)
    return pd.concat(tables, names=keys).reset_index(level=keys).reset_index(drop=True)


def name_flags(table: pd.DataFrame) -> pd.DataFrame:
    """Replace the flags by one column ``approximated``: the names of a row's p that come from a fitted tail."""
    flags = [name for name in table if name.endswith(FLAG)]
    if not flags:
        return table
    names = np.array([name.removesuffix(FLAG) for name in flags])
    listed = [" ".join(names[row]) or None for row in table[flags].to_numpy(dtype=bool)]
    return table.drop(columns=flags).assign(approximated=listed)
