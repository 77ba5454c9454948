"""All-resolution inference: a lower bound of the true discoveries in any set of voxels (Rosenblatt et al. 2018).

By closed testing with Simes' tests (Goeman et al. 2019, doi:10.1093/biomet/asz041) the bounds hold at once, with
probability 1 - α, for all sets: clusters at any threshold, regions of an atlas, sets chosen after looking. They need
p-values that Simes' inequality holds for, which is accepted for smooth maps. doi:10.1016/j.neuroimage.2018.07.060.
nilearn's `cluster_level_inference` has the same bounds for its own clusters.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from vbmstat.glm.inference.places import Regions, labels_at


def hommel_value(p: np.ndarray, alpha: float = 0.05) -> int:
    """Size of the largest set of hypotheses that Simes' test at `alpha` does not reject.

    Parameters
    ----------
    p : ndarray, (n_tests,)
        Uncorrected p-values of all voxels.
    alpha : float
    """
    p = np.sort(p)
    n = len(p)
    if n == 0 or p[-1] < alpha:
        return 0
    if p[0] > alpha or n == 1:
        return n
    slope = float(np.max((alpha - p[:-1]) / np.arange(n - 1, 0, -1)))
    return int(min(np.trunc(alpha / slope), n))


def true_discoveries(p: np.ndarray, labels: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Lower bound of the number of true discoveries in each labelled set, at once with probability 1 - `alpha`.

    Parameters
    ----------
    p : ndarray, (n_voxels,)
        Uncorrected p-values of all voxels that were tested.
    labels : ndarray, (n_voxels,), int
        Set of each voxel; 0 is none.
    alpha : float

    Returns
    -------
    ndarray, (k,), int
        For the sets 1 to k.

    Examples
    --------
    >>> true_discoveries(np.array([1e-6, 1e-5, 1e-5, 0.4, 0.9]), np.array([1, 1, 2, 2, 0])).tolist()
    [2, 1]
    """
    h = hommel_value(p, alpha)
    bounds = np.zeros(int(labels.max(initial=0)), dtype=np.int64)
    for label in range(1, len(bounds) + 1):
        ranks, counts = np.unique(np.maximum(np.ceil(h * p[labels == label] / alpha), 1), return_counts=True)
        bounds[label - 1] = max(0, int(np.max(1 - ranks + np.cumsum(counts), initial=0)))
    return bounds


def discoveries_by_region(p: np.ndarray, mm: np.ndarray, regions: Regions) -> pd.DataFrame:
    """Lower bound of the true discoveries in each region of an atlas and of those after it, all at once.

    Parameters
    ----------
    p : ndarray, (n_tests,)
        Uncorrected p-values of all voxels that were tested.
    mm : ndarray, (n_tests, 3)
        Where they are.
    regions : Regions
        Atlases.

    Returns
    -------
    DataFrame
        atlas, region, size_voxels, true_discoveries, share; regions with a tested voxel, the largest share first.
    """
    parts = []
    for atlas in regions.each():
        labels, ranks, sizes = np.unique(labels_at(atlas, mm), return_inverse=True, return_counts=True)
        named = labels > 0
        order = np.cumsum(named) * named  # 1, 2 … of the labels of regions
        bounds, sizes = true_discoveries(p, order[ranks.reshape(-1)]), sizes[named]
        part = pd.DataFrame({
            "atlas": atlas.atlas, "region": [atlas.name(label) for label in labels[named]], "size_voxels": sizes,
            "true_discoveries": bounds, "share": np.round(bounds / sizes, 4),
        })  # fmt: skip
        parts.append(part.sort_values("share", ascending=False, kind="stable"))
    return pd.concat(parts, ignore_index=True)
