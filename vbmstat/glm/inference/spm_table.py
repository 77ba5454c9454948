"""SPM's table of results: set, cluster and peak level, from random fields."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from vbmstat.glm.inference.clusters import coordinates_mm, local_maxima, spaced
from vbmstat.glm.inference.rft import FieldInference


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
