"""Random field inference on one statistic map: heights, peaks, clusters and their number, as in SPM's table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vbmstat.errors import DesignError
from vbmstat.glm.inference.clusters import Clusters, find_clusters, local_maxima, neighbour_table
from vbmstat.glm.inference.p_values import q_fdr
from vbmstat.glm.inference.random_field import (
    Field,
    SearchVolume,
    expected_extent,
    extent_threshold,
    height_threshold,
    p_extent,
    p_height,
    p_peak_above,
    p_set,
)
from vbmstat.glm.inference.resels import resel_counts
from vbmstat.glm.inference.smoothness import Smoothness
from vbmstat.lazy import ndimage
from vbmstat.maps.store import Space

_SURFACE = np.array([1 / 2, 2 / 3, 2 / 3, 1])  # SPM's correction of a cluster's intrinsic volumes for its surface
_RPV_FWHM = 3.0  # voxels by which the local roughness is smoothed for extents, as in SPM
ALPHA = 0.05
FEWEST_DF = 3
LEAST_FWHM, LEAST_DF, LARGEST_FORMING_P, LEAST_SMOOTHING_MM = 3.0, 30.0, 0.001, 12.0


@dataclass(frozen=True)
class FieldInference:
    """What random field theory says of one contrast in a search volume.

    Attributes
    ----------
    field, where
        Kind of field; search volume, smoothness and sides of the test.
    clusters : Clusters
        Inside the search volume, beyond the forming height.
    forming : float
        Cluster-forming height.
    p_fwe : ndarray, (n_voxels,)
        Corrected p of the height at each voxel; 1 outside the search volume.
    extents : ndarray, (k,)
        Resels of each cluster, by the local roughness.
    p_extent, p_extent_fwe, q_extent : ndarray, (k,)
        Uncorrected and FWE-corrected p of extents, topological FDR.
    q_peak : ndarray, (n_voxels,)
        Topological FDR at the peaks inside clusters; 1 elsewhere.
    p_set : float
        P of so many clusters.
    peak_at_q_fdr : float, optional
        Smallest peak whose topological FDR is at most .05.
    """

    field: Field
    where: SmoothSpace
    clusters: Clusters
    forming: float
    p_fwe: np.ndarray
    extents: np.ndarray
    p_extent: np.ndarray
    p_extent_fwe: np.ndarray
    q_extent: np.ndarray
    q_peak: np.ndarray
    p_set: float
    peak_at_q_fdr: float | None

    @cached_property
    def critical_height(self) -> float:
        """T or F of corrected p = .05."""
        return height_threshold(self.field, self.where.search)

    def record(self) -> dict[str, Any]:
        """What ``glm.json`` says of it: the lines under SPM's table."""
        search, field, sizes = self.where.search, self.field, self.clusters.sizes
        resel_voxels = float(np.prod(self.where.fwhm_voxels))

        def smallest(p: np.ndarray) -> int | None:
            return int(sizes[p <= ALPHA].min()) if (p <= ALPHA).any() else None

        return {
            "resels": search.resels.round(3).tolist(), "fwhm_voxels": [round(f, 3) for f in self.where.fwhm_voxels],
            "df": [field.df_contrast, field.df_resid], f"height_at_p_fwe_{ALPHA}": self.critical_height,
            f"extent_at_p_fwe_{ALPHA}_resels": extent_threshold(field, self.forming, search),
            "clusters": len(self.extents), "p_set": self.p_set,
            "voxels": search.n_voxels, "voxel_size_mm": list(map(float, self.where.space.grid.voxel_size_mm)),
            "resel_voxels": round(resel_voxels, 3), "forming_height": self.forming,
            "forming_p": self.where.sides * float(field.tail(self.forming)),
            "forming_p_fwe": float(p_height(field, self.forming, search)),
            "expected_voxels_per_cluster": expected_extent(field, self.forming) * resel_voxels,
            "expected_clusters": float(search.expected_clusters(field, self.forming)),
            f"peak_at_q_fdr_{ALPHA}": self.peak_at_q_fdr,
            f"smallest_cluster_at_p_fwe_{ALPHA}_voxels": smallest(self.p_extent_fwe),
            f"smallest_cluster_at_q_fdr_{ALPHA}_voxels": smallest(self.q_extent),
        }  # fmt: skip

    def inside(self, statistic: np.ndarray, volume: np.ndarray) -> FieldInference:
        """The same in a small volume: its own resel counts, the smoothness of the whole, clusters cut at its border.

        Parameters
        ----------
        statistic : ndarray, (n_voxels,)
            T or F.
        volume : ndarray, (n_voxels,), bool
        """
        where = replace(self.where, mask=self.where.mask & volume)
        values, two_sided = np.where(where.mask, statistic, 0.0), where.sides == 2
        clusters = find_clusters(values, self.forming, two_sided, neighbour_table(where.space))
        return field_inference(values, self.field, clusters, self.forming, where)


def field_inference(
    statistic: np.ndarray, field: Field, clusters: Clusters, forming: float, where: SmoothSpace
) -> FieldInference:
    """Random field inference on a map.

    Parameters
    ----------
    statistic : ndarray, (n_voxels,)
        T or F.
    field : Field
        Its kind and degrees of freedom.
    clusters : Clusters
        Beyond the forming height, of both signs in a two-sided test.
    forming : float
        Cluster-forming height.
    where : SmoothSpace
        Search volume and smoothness.
    """
    search = where.search
    size = np.abs(statistic) if where.sides == 2 else np.asarray(statistic)
    p_fwe = np.ones(len(statistic))
    p_fwe[where.mask] = p_height(field, size[where.mask], search)
    extents = where.extents(clusters)
    uncorrected, corrected = p_extent(field, forming, extents, search)
    peaks = local_maxima(statistic, clusters.labels, where.space)
    q = q_fdr(p_peak_above(field, size[peaks], forming, search))
    q_peak = np.ones(len(statistic))
    q_peak[peaks] = q
    return FieldInference(
        field,
        where,
        clusters,
        forming,
        p_fwe,
        extents,
        uncorrected,
        corrected,
        q_fdr(uncorrected),
        q_peak,
        p_set(field, forming, len(extents), 0.0, search) if len(extents) else 1.0,
        float(size[peaks[q <= ALPHA]].min()) if (q <= ALPHA).any() else None,
    )


@dataclass(frozen=True)
class SmoothSpace:
    """A search volume with its smoothness."""

    space: Space  # where columns lie
    mask: np.ndarray  # (n_voxels,), bool: the search volume
    smooth: Smoothness  # of the residuals
    sides: int  # of the test, 1 or 2

    @property
    def fwhm_voxels(self) -> tuple[float, float, float]:
        """Smoothness in voxels."""
        x, y, z = np.asarray(self.smooth.fwhm_mm) / self.space.grid.voxel_size_mm
        return float(x), float(y), float(z)

    @cached_property
    def search(self) -> SearchVolume:
        """Resel counts and voxels."""
        inside = self.space.unmask(self.mask) > 0
        return SearchVolume(resel_counts(inside, self.fwhm_voxels), int(self.mask.sum()), self.sides)

    def extents(self, clusters: Clusters) -> np.ndarray:
        """Resels of each cluster, (k,): its intrinsic volumes times its mean local roughness (Hayasaka et al. 2004)."""
        known = np.isfinite(self.smooth.resels_per_voxel)
        sigma = _RPV_FWHM / np.sqrt(8 * np.log(2))
        roughness, weight = (
            ndimage.gaussian_filter(self.space.unmask(values), sigma, mode="constant")
            for values in (np.where(known, self.smooth.resels_per_voxel, 0.0), known)
        )
        local = np.divide(roughness, weight, out=np.zeros_like(roughness), where=weight > 0)
        labels = self.space.unmask(clusters.labels).astype(np.int32)
        boxes = ndimage.find_objects(labels, max_label=len(clusters.sizes))
        extents = np.zeros(len(clusters.sizes))
        for index, box in enumerate(boxes):
            inside = labels[box] == index + 1
            extents[index] = local[box][inside].mean() * (_SURFACE @ resel_counts(inside, (1, 1, 1)))
        return extents


def check_fields(smooth: Smoothness, df_resid: float) -> None:
    """Refuse random fields where the smoothness is not known, or where so few degrees of freedom make no such field."""
    if df_resid < FEWEST_DF:
        msg = f"rft needs at least {FEWEST_DF} residual degrees of freedom, got {df_resid:g}; leave out covariates"
        raise DesignError(msg)
    if not (np.isfinite(smooth.fwhm_mm).all() and np.min(smooth.fwhm_mm) > 0):
        msg = (
            "rft needs voxels with neighbours along x, y and z whose residuals vary, and the mask has none; take a "
            "larger mask, or fdr"
        )
        raise DesignError(msg)


def validity_notes(result: FieldInference, smoothing_mm: float | None) -> tuple[str, ...]:
    """Where random field theory is known to fail (Nichols & Hayasaka 2003; Silver et al. 2011; Flandin & Friston 2019).

    Parameters
    ----------
    result : FieldInference
    smoothing_mm : float, optional
        FWHM by which the maps were smoothed, where it is known.
    """
    notes = []
    narrow = min(result.where.fwhm_voxels)
    if not narrow >= LEAST_FWHM:
        notes.append(
            f"residuals are rough for random fields (FWHM {narrow:.1f} voxels; at least 3 are needed): p of heights "
            "are conservative"
        )
    if result.field.df_resid < LEAST_DF:
        notes.append(
            f"{result.field.df_resid:.0f} residual degrees of freedom are few for random fields (at least 30 are "
            "needed): p of heights are conservative, p of extents unreliable"
        )
    p = float(result.field.tail(result.forming))
    if p > LARGEST_FORMING_P * (1 + 1e-6):
        notes.append(
            f"clusters formed at p = {p:.2g} have too small p by random fields; use --cluster-threshold 0.001 or less"
        )
    if smoothing_mm is None or smoothing_mm < LEAST_SMOOTHING_MM:
        width = "" if smoothing_mm is None else f" (here {smoothing_mm:g} mm)"
        notes.append(
            f"p of extents by random fields were too small in grey-matter maps smoothed by less than 12 mm{width} "
            "(Silver et al. 2011); for clusters take --inference cluster"
        )
    return tuple(notes)
