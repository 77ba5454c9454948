"""Whole statistic maps of permutations: TFCE values and clusters, several maps at a time.

TFCE: Smith & Nichols 2009 (doi:10.1016/j.neuroimage.2008.03.061) with H = 2, E = 0.5, 26 neighbours, exact: the
observed map through the package `tfce` by CAT12's author, of permuted ones only the largest value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from vbmstat.glm.inference.clusters import Clusters, find_clusters, neighbour_table
from vbmstat.glm.inference.permute.nulls import TFCE_CONNECTIVITY, NullSettings
from vbmstat.maps.store import Scratch, Space


class StatisticImages:
    """TFCE and clusters of whole maps, several at a time."""

    def __init__(self, space: Space, settings: NullSettings) -> None:
        self.settings = settings
        at = np.array(np.unravel_index(space.voxel_index, space.grid.shape))  # (3, n_voxels)
        at -= at.min(axis=1, keepdims=True) - 1
        self.shape = tuple(int(n) for n in at.max(axis=1) + 2)  # with a rim of one voxel
        self.flat = np.ravel_multi_index(tuple(at), self.shape).astype(np.int32)
        around = np.array([one for one in itertools.product((-1, 0, 1), repeat=3) if any(one)])
        self.offsets = (around @ [self.shape[1] * self.shape[2], self.shape[2], 1]).astype(np.int32)
        self.scratch = Scratch()
        self.find: Callable[[np.ndarray], Clusters] | None = None  # clusters of one map, if wanted
        if settings.cluster_threshold is not None:
            self.find = partial(
                find_clusters, threshold=settings.cluster_threshold, two_sided=settings.two_sided,
                neighbours=neighbour_table(space),
            )  # fmt: skip

    def enhance(self, statistic: np.ndarray) -> np.ndarray:
        """TFCE of one map (n_voxels,), float32; negative where the statistic is, if two-sided."""
        from tfce import tfce  # noqa: PLC0415 - imports scipy.stats

        box = np.zeros(self.shape, dtype=np.float32)
        box.reshape(-1)[self.flat] = statistic
        # tfce wants Fortran order; the transpose of a C array is one, and neighbourhoods have no axis order
        enhanced = tfce(box.T, connectivity=TFCE_CONNECTIVITY, two_sided=self.settings.two_sided).T
        if not self.settings.two_sided:
            enhanced = np.maximum(enhanced, 0)
        return np.asarray(np.ascontiguousarray(enhanced).reshape(-1)[self.flat])

    def largest_enhanced(self, statistic: np.ndarray) -> float:
        """Largest size of the TFCE values of one map (n_voxels,), float32: as `enhance`, in half the time."""
        from vbmstat.glm.inference.permute.kernel import enhance_largest  # noqa: PLC0415 - imports the compiler

        n, kinds = int(np.prod(self.shape)), {"parent": np.int32, "size": np.int32, "best": float, "cube": float}
        work = [self.scratch.array(name, (n,), kind) for name, kind in kinds.items()]
        order = np.argsort(statistic)
        rising = statistic[order]
        above, below = np.searchsorted(rising, 0.0, side="right"), np.searchsorted(rising, 0.0)
        parts = [(rising[above:][::-1], order[above:][::-1])]
        parts += [(-rising[:below], order[:below])] if self.settings.two_sided else []
        return max(float(enhance_largest(*map(np.ascontiguousarray, (heights, self.flat[at])), self.offsets, *work))
                   for heights, at in parts)  # fmt: skip

    def maxima(self, maps: np.ndarray, workers: int, report: Callable[[float], None]) -> dict[str, np.ndarray]:
        """Largest TFCE value, extent and mass of each map (b, n_voxels)."""
        rows = []
        with ThreadPoolExecutor(workers) as pool:
            for i, row in enumerate(pool.map(self._largest, maps)):
                rows.append(row)
                report((i + 1) / len(maps))
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _largest(self, statistic: np.ndarray) -> dict[str, float]:
        largest: dict[str, float] = {}
        if self.settings.wants_tfce:
            largest["tfce"] = self.largest_enhanced(statistic)
        if self.find is not None:
            clusters = self.find(statistic)
            largest["extent"] = float(clusters.sizes.max(initial=0))
            largest["mass"] = float(clusters.masses.max(initial=0.0))
        return largest
