"""Clusters and peaks of a statistic map: labels, sizes, and tables with MNI coordinates and region names.

Voxels are columns of a masked matrix. With a table of each column's neighbours, labelling a map touches only the voxels
above the threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vbmstat.glm.inference.places import Regions, names_at, region_shares, with_nearest
from vbmstat.maps.store import Space

CONNECTIVITY = 18  # faces and edges, as SPM's clusters
PEAK_DISTANCE_MM = 8.0  # between the peaks listed for a cluster, and
PEAKS_LISTED = 3  # how many at most: SPM's defaults
_SQUARED_REACH = {6: 1, 18: 2, 26: 3}  # of a neighbour's offset


@dataclass(frozen=True)
class Clusters:
    """Clusters of a statistic map beyond a threshold."""

    labels: np.ndarray  # (n_voxels,), int32: 0 outside; clusters are numbered from 1, the largest first
    signs: np.ndarray  # (k,), int: 1 or -1
    sizes: np.ndarray  # (k,), int: voxels
    # (k,), float64: sum over the cluster of what exceeds the threshold (Bullmore 1999, doi:10.1109/42.750253)
    masses: np.ndarray


def neighbour_table(space: Space, connectivity: int = CONNECTIVITY) -> np.ndarray:
    """Half of each column's neighbours (the others have it as theirs), (n_voxels, connectivity / 2), int32.

    Neighbours share a face (6), an edge (18) or a corner (26); ``n_voxels`` stands for none.
    """
    n_voxels = space.voxel_index.size
    shape = space.grid.shape
    columns = np.full([n + 2 for n in shape], n_voxels, dtype=np.int32)  # one voxel of margin
    at = np.array(np.unravel_index(space.voxel_index, shape)) + 1  # (3, n_voxels)
    columns[tuple(at)] = np.arange(n_voxels)
    reach = _SQUARED_REACH[connectivity]
    offsets = [o for o in itertools.product((-1, 0, 1), repeat=3) if o > (0, 0, 0) and sum(i * i for i in o) <= reach]
    return np.stack([columns[tuple(at + np.array(offset)[:, None])] for offset in offsets], axis=1)


def connected(inside: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, int]:
    """Component (from 0) of each of the columns `inside` (k,), and their number."""
    rank = np.full(len(neighbours) + 1, -1, dtype=np.int32)
    rank[inside] = np.arange(inside.size)
    theirs = rank[neighbours[inside]]  # (k, half)
    ours, side = np.nonzero(theirs >= 0)
    graph = coo_array((np.ones(ours.size, bool), (ours, theirs[ours, side])), shape=(inside.size, inside.size))
    n_components, component = connected_components(graph, directed=False)
    return component, int(n_components)


class StatisticMap(NamedTuple):
    """A statistic map in space: t or F of every column (n_voxels,), its kind, and where columns lie."""

    values: np.ndarray
    kind: str
    space: Space


def find_clusters(statistic: np.ndarray, threshold: float, two_sided: bool, neighbours: np.ndarray) -> Clusters:
    """Clusters beyond a threshold, and if two-sided below minus the threshold; positive and negative values never join.

    `statistic` is t or F, (n_voxels,), 0 outside the mask; `neighbours` is from :func:`neighbour_table`.
    """
    labels = np.zeros(len(statistic), dtype=np.int32)
    by_sign: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # sign, size, mass of each cluster
    so_far = 0
    for sign in (1, -1) if two_sided else (1,):
        inside = np.flatnonzero(sign * statistic > threshold)
        if not inside.size:
            continue
        component, n = connected(inside, neighbours)
        labels[inside] = component + so_far + 1
        excess = np.abs(statistic[inside]).astype(np.float64) - threshold
        sizes, masses = np.bincount(component, minlength=n), np.bincount(component, excess, minlength=n)
        by_sign.append((np.full(n, sign), sizes, masses))
        so_far += n
    if not by_sign:
        return Clusters(labels, np.empty(0, int), np.empty(0, int), np.empty(0))
    signs, sizes, masses = (np.concatenate(parts) for parts in zip(*by_sign, strict=True))
    order = np.lexsort((-masses, -sizes))
    new = np.zeros(so_far + 1, dtype=np.int32)
    new[order + 1] = np.arange(1, so_far + 1)
    return Clusters(new[labels], signs[order], sizes[order], masses[order])


def local_maxima(statistic: np.ndarray, labels: np.ndarray, space: Space) -> np.ndarray:
    """Columns inside clusters that none of their 26 neighbours in the cluster exceeds, the largest first."""
    neighbours = neighbour_table(space, 26)
    size, label = np.abs(statistic), np.append(labels, 0)
    inside = np.flatnonzero(labels)
    beaten = np.zeros(len(statistic), dtype=bool)
    for theirs in neighbours[inside].T:  # each pair is seen once: mark whichever of the two is smaller
        together = label[theirs] == label[inside]
        ours, other = inside[together], theirs[together]
        is_smaller = size[ours] < size[other]
        beaten[ours[is_smaller]] = True
        beaten[other[~is_smaller]] = True
    peaks = inside[~beaten[inside]]
    return peaks[np.argsort(-size[peaks], kind="stable")]


def spaced(peaks: np.ndarray, labels: np.ndarray, mm: np.ndarray) -> np.ndarray:
    """Of peaks (k,) in falling order, at most three a cluster that lie 8 mm apart, in order of cluster."""
    kept: dict[int, list[int]] = {}
    for peak in peaks:
        others = kept.setdefault(int(labels[peak]), [])
        is_apart = all(np.linalg.norm(mm[peak] - mm[other]) > PEAK_DISTANCE_MM for other in others)
        if is_apart and len(others) < PEAKS_LISTED:
            others.append(int(peak))
    return np.array([peak for label in sorted(kept) for peak in kept[label]], dtype=np.int64)


def coordinates_mm(space: Space) -> np.ndarray:
    """RAS+ mm of every column, (n_voxels, 3)."""
    at = np.stack(np.unravel_index(space.voxel_index, space.grid.shape), axis=1)
    return np.asarray(at @ space.grid.affine[:3, :3].T + space.grid.affine[:3, 3])


def cluster_table(
    statistic: StatisticMap,
    clusters: Clusters,
    corrected: Mapping[str, np.ndarray],
    at_peak: Mapping[str, np.ndarray],
    regions: Regions | None = None,
) -> pd.DataFrame:
    """One row a cluster.

    Parameters
    ----------
    statistic : StatisticMap
        T or F.
    clusters : Clusters
        Of this statistic.
    corrected : mapping of str to ndarray, (k,)
        Columns with a value a cluster, e.g. ``p_extent_fwe``.
    at_peak : mapping of str to ndarray, (n_voxels,)
        Maps whose value at the peak is listed, e.g. ``p_fwe``.
    regions : Regions, optional
        Atlas for the share of the cluster in each region.

    Returns
    -------
    DataFrame
        cluster, sign, size_voxels, size_ml, mass, the corrected values, x_mm, y_mm, z_mm of the peak and the values
        there, regions.
    """
    values, space = statistic.values, statistic.space
    mm = coordinates_mm(space)
    order = np.argsort(clusters.labels, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(clusters.labels, minlength=len(clusters.sizes) + 1))[:-1])[1:]
    peaks = np.array([rows[np.argmax(np.abs(values[rows]))] for rows in members], dtype=np.int64)
    table = pd.DataFrame({
        "cluster": np.arange(1, len(peaks) + 1), "sign": clusters.signs, "size_voxels": clusters.sizes,
        "size_ml": clusters.sizes * space.grid.voxel_volume_ml, "mass": clusters.masses, **corrected,
        **_where(peaks, mm), f"peak_{statistic.kind}": values[peaks],
        **{f"peak_{name}": of_all[peaks] for name, of_all in at_peak.items()},
    })  # fmt: skip
    if regions is not None:
        table["regions"] = [region_shares(names_at(regions, mm[rows])) for rows in members]
    return _rounded(table)


def peak_table(
    statistic: StatisticMap, clusters: Clusters, at_peak: Mapping[str, np.ndarray], regions: Regions | None = None
) -> pd.DataFrame:
    """One row a peak: at most three a cluster, more than 8 mm apart; arguments as in :func:`cluster_table`.

    Returns
    -------
    DataFrame
        cluster, x_mm, y_mm, z_mm, the statistic, the values there, region.
    """
    mm = coordinates_mm(statistic.space)
    peaks = spaced(local_maxima(statistic.values, clusters.labels, statistic.space), clusters.labels, mm)
    table = pd.DataFrame({
        "cluster": clusters.labels[peaks], **_where(peaks, mm), statistic.kind: statistic.values[peaks],
        **{name: of_all[peaks] for name, of_all in at_peak.items()},
    })  # fmt: skip
    if regions is not None:
        table["region"] = with_nearest(names_at(regions, mm[peaks]), regions, mm[peaks])
    return _rounded(table)


def _rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Statistics, sizes and coordinates with four decimals; p, q and effects, which may be small, whole."""
    kept = ("p_", "q_", "effect", "peak_p_", "peak_q_", "peak_effect")
    columns = [name for name in table.select_dtypes("number") if not name.startswith(kept)]
    return table.round(dict.fromkeys(columns, 4))


def _where(peaks: np.ndarray, mm: np.ndarray) -> dict[str, np.ndarray]:
    return {name: mm[peaks, axis] for axis, name in enumerate(("x_mm", "y_mm", "z_mm"))}
