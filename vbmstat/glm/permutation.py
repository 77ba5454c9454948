"""Null distributions by permutation: of the largest statistic, TFCE value, cluster extent and cluster mass.

A batch of permutations is one pass over the voxels: the residuals of a tile, scaled to unit length, times the rows of
:mod:`vbmstat.glm.permute`. For the maximum alone a tile's statistics are forgotten at once; for TFCE and clusters the
whole maps of a batch are kept, so the batch bounds the memory. P-values count the permutations that reach the observed
value, the unpermuted data among them (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585). TFCE: Smith & Nichols 2009
(doi:10.1016/j.neuroimage.2008.03.061) with H = 2, E = 0.5, 26 neighbours, exact through the package `tfce`.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tfce import tfce

from vbmstat.glm.backend import BACKENDS, Product, available_cpus, choose_backend
from vbmstat.glm.blocks import BLOCK
from vbmstat.glm.clusters import CONNECTIVITY, Clusters, find_clusters, neighbour_table
from vbmstat.glm.engine import fit_full_sample, pad_tile, stream, tile_layout
from vbmstat.glm.maps import Maps, Space
from vbmstat.glm.permute import Permuted, smallest_p
from vbmstat.glm.plan import Plan
from vbmstat.glm.tensors import Tensors, make_tensors
from vbmstat.io import atomic_path

TFCE_CONNECTIVITY = 26
_ROWS_BYTES = 2**28  # rows of the products of one batch
_MAPS_BYTES = 2**28  # statistic maps of one batch
_MAX_BATCH = 8 * BLOCK
_TIES = {np.dtype(np.float32): 4e-6, np.dtype(np.float64): 1e-10}  # of s²: equal up to rounding is equal
_MAP_TIES = 1e-4  # of a TFCE value or mass: sums over a float32 map
_SAVE_SECONDS = 10.0  # between checkpoints
_VERSION = 1  # of what a checkpoint holds

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class NullSettings:
    """What is asked of a permutation test.

    Attributes
    ----------
    two_sided : bool
        For t: the largest |t|, clusters of either sign. F is one-sided by nature.
    wants_tfce : bool
        TFCE as well.
    cluster_threshold : float, optional
        Forming threshold in units of the statistic; None for no clusters.
    connectivity : {6, 18, 26}
        Of clusters.
    tfce_connectivity : {6, 18, 26}
        Of TFCE.
    """

    two_sided: bool = True
    wants_tfce: bool = False
    cluster_threshold: float | None = None
    connectivity: int = CONNECTIVITY
    tfce_connectivity: int = TFCE_CONNECTIVITY

    @property
    def wants_maps(self) -> bool:
        """Whether whole maps are needed."""
        return self.wants_tfce or self.cluster_threshold is not None


@dataclass(frozen=True)
class Nulls:
    """What the permutations of one contrast tell.

    Attributes
    ----------
    count : int
        Permutations, the unpermuted data among them.
    is_exhaustive : bool
        Whether they are all that exist.
    smallest_p : float
        No p can be smaller.
    maxima : dict of str to ndarray, (count,)
        Largest ``statistic``, ``tfce``, ``extent``, ``mass`` of each permutation, the unpermuted first.
    p_uncorrected : ndarray, (n_voxels,)
        Share of the permutations that reach a voxel's statistic there; 1 outside the mask.
    p_fwe : ndarray, (n_voxels,)
        Share whose largest statistic reaches it.
    tfce, p_tfce_fwe : ndarray, (n_voxels,), or None
        TFCE value and its corrected p.
    clusters : Clusters or None
        Of the observed map.
    p_extent_fwe, p_mass_fwe : ndarray, (k,), or None
        Corrected p of each cluster.
    """

    count: int
    is_exhaustive: bool
    smallest_p: float
    maxima: dict[str, np.ndarray]
    p_uncorrected: np.ndarray
    p_fwe: np.ndarray
    tfce: np.ndarray | None = None
    p_tfce_fwe: np.ndarray | None = None
    clusters: Clusters | None = None
    p_extent_fwe: np.ndarray | None = None
    p_mass_fwe: np.ndarray | None = None


def permutation_nulls(
    maps: Maps,
    plan: Plan,
    index: int,
    permuted: Permuted,
    statistic: np.ndarray,
    settings: NullSettings,
    *,
    device: str = "cpu",
    backend: str = "auto",
    chunk_voxels: int | None = None,
    n_threads: int | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    key: str = "",
) -> Nulls:
    """Permute one contrast.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels), rows in the order of the plan.
    plan : Plan
        Factorised design.
    index : int
        Which contrast of the plan.
    permuted : Permuted
        The permutations and their scheme.
    statistic : ndarray, (n_voxels,)
        T or F of the unpermuted data, 0 outside the mask.
    settings : NullSettings
        What is asked.
    device, backend, chunk_voxels, n_threads
        As in :func:`vbmstat.glm.engine.fit_voxels`; results do not depend on them.
    progress : callable, optional
        Called with (stage, permutations done, total).
    checkpoint : Path, optional
        File that keeps what is done; a run that was interrupted goes on from it, and a finished one is read.
    key : str
        Names the analysis; a checkpoint with another key is ignored.

    Returns
    -------
    Nulls
    """
    kind = plan.contrasts[index].kind
    settings = replace(settings, two_sided=settings.two_sided and kind == "t")
    scale = _Scale(kind, settings.two_sided, plan.df_resid, permuted.n_tested)
    count = permuted.rearrangements.count
    images = _Images(maps.space, settings) if settings.wants_maps and maps.space is not None else None
    engine = _Engine(maps, plan, permuted, scale, device, backend, chunk_voxels, n_threads)
    done, state = _resume(checkpoint, key, count, len(statistic), _names(settings))
    saved = time.monotonic()
    batch = _batch_size(engine, images, len(statistic))
    while done < count:
        stop = min(done + batch, count)
        tell = _teller(progress, done, stop, count, images is not None)
        maxima, reached, fields = engine.run(done, stop, images is not None, _part(tell, 0.0))
        state["statistic"][done:stop] = maxima
        state["reached"] += reached
        if images is not None and fields is not None:
            found = images.maxima(fields, engine.workers, _part(tell, 0.5))
            for name, values in found.items():
                state[name][done:stop] = values
        done = stop
        if checkpoint is not None and (done == count or time.monotonic() - saved > _SAVE_SECONDS):
            _save(checkpoint, key, done, state)
            saved = time.monotonic()
        tell(1.0)
    return _summarise(state, statistic, maps.mask, permuted, settings, scale, images, engine.ties)


def _names(settings: NullSettings) -> list[str]:
    names = ["statistic"] + ["tfce"] * settings.wants_tfce
    return names + ["extent", "mass"] * (settings.cluster_threshold is not None)


def _teller(progress: Progress | None, start: int, stop: int, count: int, has_maps: bool) -> Callable[[float], None]:
    """Reports how much of a batch is done; without maps the products are all of it."""

    def tell(share: float) -> None:
        share = share if has_maps else min(2 * share, 1.0)
        if progress:
            progress("permutations", start + int((stop - start) * share), count)

    return tell


def _part(tell: Callable[[float], None], start: float) -> Callable[[float], None]:
    """Reports one half of a batch."""
    return lambda share: tell(start + share / 2)


def _batch_size(engine: _Engine, images: _Images | None, n_voxels: int) -> int:
    """Permutations at a time: what rows and maps have room for."""
    n_rows = engine.permuted.n_tested + engine.permuted.moving.shape[1]
    batch = min(_ROWS_BYTES // (4 * n_rows * len(engine.plan.basis)), _MAX_BATCH)
    if images is not None:
        batch = min(batch, _MAPS_BYTES // (4 * n_voxels))
    return max(batch // BLOCK * BLOCK or batch, 1)


@dataclass(frozen=True)
class _Scale:
    """Between s (or s²) in [-1, 1], which is cheap to compare, and the statistic."""

    kind: str
    two_sided: bool
    df: float
    m: int

    @property
    def is_signed(self) -> bool:
        """Whether scores are s and not s²."""
        return self.kind == "t" and not self.two_sided

    def score(self, statistic: np.ndarray) -> np.ndarray:
        """S², or s where signs count, of t or F."""
        if self.kind == "F":
            return np.asarray(statistic * self.m / (statistic * self.m + self.df))
        s2 = statistic**2 / (statistic**2 + self.df)
        return np.asarray(np.sign(statistic) * np.sqrt(s2) if self.is_signed else s2)

    def statistic(self, score: np.ndarray) -> np.ndarray:
        """T (its size if two-sided) or F of a score."""
        s2 = np.minimum(score.astype(np.float64) ** (2 if self.is_signed else 1), 1 - 1e-12)
        odds = s2 / (1 - s2)
        if self.kind == "F":
            return np.asarray(odds * self.df / self.m)
        return np.asarray(np.sqrt(odds * self.df) * (np.sign(score) if self.is_signed else 1.0))


class _Engine:
    """Scores of permutations over all voxels, tile by tile."""

    def __init__(
        self, maps: Maps, plan: Plan, permuted: Permuted, scale: _Scale, device: str, backend: str,
        chunk_voxels: int | None, n_threads: int | None,
    ) -> None:  # fmt: skip
        kind = torch.device(device).type
        self.product: Product = BACKENDS[choose_backend(kind) if backend == "auto" else backend]
        self.dtype = torch.float64 if maps.dtype == np.float64 else torch.float32
        self.ties = _TIES[np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)]
        bare = replace(plan, contrasts=(), members=plan.members[:0], subset_basis=plan.subset_basis[:0],
                       subset_df=plan.subset_df[:0])  # fmt: skip
        self.tensors = make_tensors(bare, self.dtype, device, self.product, robust=False)
        self.exact = make_tensors(bare, torch.float64, device, self.product, robust=False)
        self.maps, self.plan, self.permuted, self.scale, self.device = maps, plan, permuted, scale, device
        self.layout = tile_layout(kind, chunk_voxels, n_threads)
        self.workers = n_threads or available_cpus()
        self.tested = torch.as_tensor(permuted.parts.tested).to(device)  # (n, m) float64
        self.coordinates = torch.as_tensor(permuted.parts.coordinates).to(device)  # (m, r)

    def run(
        self, start: int, stop: int, keep: bool, tell: Callable[[float], None]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Largest score of each permutation (b,), how many reach a voxel's own (n_voxels,), and maps (b, n_voxels)."""
        n_voxels = len(self.maps.mask)
        blocks = [self._rows(at, min(at + BLOCK, stop)) for at in range(start, stop, BLOCK)]
        floor = -1.0 if self.scale.is_signed else 0.0
        maxima = np.full(stop - start, floor)
        reached = np.zeros(n_voxels, dtype=np.int64)
        fields = np.zeros((stop - start, n_voxels), dtype=np.float32) if keep else None
        for at, (largest, counts, values) in stream(
            [self.maps], self.layout, lambda y, inside: self._tile(y[0], inside, blocks, keep)
        ):
            np.maximum(maxima, largest, out=maxima)
            reached[at : at + len(counts)] = counts
            if fields is not None:
                fields[:, at : at + len(counts)] = values
            tell((at + len(counts)) / n_voxels)
        return maxima, reached, fields

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows of a block's products, (k · b, n), those of one direction together."""
        rows = self.permuted.rows(start, stop)
        return torch.as_tensor(rows.reshape(-1, rows.shape[2])).to(device=self.device, dtype=self.dtype)

    def _tile(
        self, values: torch.Tensor, inside: torch.Tensor, blocks: Sequence[torch.Tensor], keep: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        width = values.shape[1]
        unit, own = self._unit_residuals(pad_tile(values), inside)  # (n, v), (v,)
        level = own - self.ties * own.abs()
        largest, counts, kept = [], torch.zeros_like(level, dtype=torch.int64), []
        for rows in blocks:
            score, signed = self._scores(self.product(rows, unit))
            largest.append(score.amax(dim=1))
            counts += (score >= level).sum(dim=0)
            if keep:
                kept.append(self._statistic(score, signed)[:, :width].cpu().numpy())
        reached = torch.where(own != 0, counts, 0)[:width]
        return torch.cat(largest).cpu().numpy(), reached.cpu().numpy(), np.concatenate(kept) if keep else None

    def _unit_residuals(self, values: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """R_Z y of length 1 (n, v), and its score with the unpermuted design (v,); zeros outside the mask."""
        unit, own, doubtful = self._reduced(values, self.tensors)
        width = inside.shape[0]
        columns = torch.nonzero(doubtful[:width] & inside.to(doubtful.device)).flatten()
        if self.dtype != torch.float64 and len(columns):
            again, own_again, _ = self._reduced(pad_tile(values[:, columns.cpu()]), self.exact)
            unit[:, columns] = again[:, : len(columns)].to(unit.dtype)
            own[columns] = own_again[: len(columns)].to(own.dtype)
        outside = torch.ones_like(doubtful)
        outside[:width] = ~inside.to(outside.device)
        unit[:, outside] = 0
        own[outside] = 0
        return unit, own

    def _reduced(self, values: torch.Tensor, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        full = fit_full_sample(values, tensors)
        tested = self.coordinates @ full.coefficients  # (m, v)
        squares = (tested**2).sum(dim=0)
        total = full.sigma**2 * self.plan.df_resid + squares
        usable = (full.sigma > 0) & (total > 0)
        per_length = torch.where(usable, total.clamp(min=1e-300).rsqrt(), 0.0)
        unit = full.rest * per_length.to(full.rest.dtype)
        unit = unit.addmm_(self.tested.to(unit.dtype), (tested * per_length).to(unit.dtype))
        own = tested[0] * per_length if self.scale.is_signed else squares * per_length**2
        return unit, own.to(self.dtype), full.doubtful

    def _scores(self, products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (b, v) of products (k · b, v), and the product with the first tested direction."""
        m, k = self.permuted.n_tested, self.permuted.n_tested + self.permuted.moving.shape[1]
        parts = products.view(k, -1, products.shape[1])
        first = parts[0]
        score = first if self.scale.is_signed else first * first
        for other in parts[1:m]:
            score = score.addcmul_(other, other)
        if k > m:
            left = torch.ones_like(first)
            for other in parts[m:]:
                left.addcmul_(other, other, value=-1)
            left.clamp_(min=torch.finfo(left.dtype).tiny)
            score = score * left.rsqrt_() if self.scale.is_signed else score.div_(left)
        return score, first

    def _statistic(self, score: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
        """T with its sign, or F, of scores."""
        s2 = (score * score if self.scale.is_signed else score).clamp(max=1 - 1e-6)
        odds = s2 / (1 - s2)
        if self.scale.kind == "F":
            return odds * (self.scale.df / self.scale.m)
        return torch.copysign((odds * self.scale.df).sqrt(), signed)


class _Images:
    """Whole maps: TFCE and clusters, several at a time."""

    def __init__(self, space: Space, settings: NullSettings) -> None:
        self.settings = settings
        at = np.array(np.unravel_index(space.voxel_index, space.grid.shape))  # (3, n_voxels)
        low = at.min(axis=1, keepdims=True)
        self.shape = tuple(int(n) for n in (at - low).max(axis=1) + 1)
        self.flat = np.ravel_multi_index(tuple(at - low), self.shape)
        has_clusters = settings.cluster_threshold is not None
        self.neighbours = neighbour_table(space, settings.connectivity) if has_clusters else None

    def enhance(self, statistic: np.ndarray) -> np.ndarray:
        """TFCE of one map (n_voxels,), float32; negative where the statistic is, if two-sided."""
        box = np.zeros(self.shape, dtype=np.float32)
        box.reshape(-1)[self.flat] = statistic
        # tfce wants Fortran order; the transpose of a C array is one, and neighbourhoods have no axis order
        enhanced = tfce(box.T, connectivity=self.settings.tfce_connectivity, two_sided=self.settings.two_sided).T
        if not self.settings.two_sided:
            enhanced = np.maximum(enhanced, 0)
        return np.ascontiguousarray(enhanced).reshape(-1)[self.flat]

    def find(self, statistic: np.ndarray) -> Clusters:
        """Clusters of one map."""
        assert self.neighbours is not None and self.settings.cluster_threshold is not None  # noqa: S101, PT018
        return find_clusters(statistic, self.settings.cluster_threshold, self.settings.two_sided, self.neighbours)

    def maxima(self, fields: np.ndarray, workers: int, tell: Callable[[float], None]) -> dict[str, np.ndarray]:
        """Largest TFCE value, extent and mass of each map (b, n_voxels)."""
        rows = []
        with ThreadPoolExecutor(workers) as pool:
            for i, row in enumerate(pool.map(self._largest, fields)):
                rows.append(row)
                tell((i + 1) / len(fields))
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _largest(self, statistic: np.ndarray) -> dict[str, float]:
        found: dict[str, float] = {}
        if self.settings.wants_tfce:
            found["tfce"] = float(np.abs(self.enhance(statistic)).max(initial=0.0))
        if self.neighbours is not None:
            clusters = self.find(statistic)
            found["extent"] = float(clusters.sizes.max(initial=0))
            found["mass"] = float(clusters.masses.max(initial=0.0))
        return found


def _summarise(
    state: dict[str, np.ndarray], statistic: np.ndarray, mask: np.ndarray, permuted: Permuted, settings: NullSettings,
    scale: _Scale, images: _Images | None, ties: float,
) -> Nulls:
    """P-values from null maxima."""
    count = permuted.rearrangements.count
    score = np.where(mask, scale.score(statistic), 0.0)
    is_tested = mask & (statistic != 0)
    own = state["statistic"].copy()
    own[0] = score[is_tested].max(initial=own.min())
    maxima = {"statistic": scale.statistic(own)}
    nulls = Nulls(
        count=count,
        is_exhaustive=permuted.rearrangements.is_exhaustive,
        smallest_p=smallest_p(permuted, settings.two_sided),
        maxima=maxima,
        p_uncorrected=np.where(is_tested, np.maximum(state["reached"], 1) / count, 1.0),
        p_fwe=np.where(is_tested, reach(own, score, ties), 1.0),
    )
    if settings.wants_tfce and images is not None:
        enhanced = images.enhance(statistic)
        maxima["tfce"] = _with_own(state["tfce"], np.abs(enhanced))
        p_tfce = np.where(enhanced != 0, reach(maxima["tfce"], np.abs(enhanced), _MAP_TIES), 1.0)
        nulls = replace(nulls, tfce=enhanced, p_tfce_fwe=p_tfce)
    if settings.cluster_threshold is not None and images is not None:
        clusters = images.find(statistic)
        maxima["extent"] = _with_own(state["extent"], clusters.sizes)
        maxima["mass"] = _with_own(state["mass"], clusters.masses)
        nulls = replace(
            nulls, clusters=clusters, p_extent_fwe=reach(maxima["extent"], clusters.sizes, 0.0),
            p_mass_fwe=reach(maxima["mass"], clusters.masses, _MAP_TIES),
        )
    return nulls


def _with_own(maxima: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Null maxima with the unpermuted data's first."""
    maxima = maxima.copy()
    maxima[0] = observed.max(initial=0)
    return maxima


def reach(maxima: np.ndarray, observed: np.ndarray, ties: float) -> np.ndarray:
    """Share of the maxima (count,) that reach each observed value, equal up to `ties` of it counting as equal.

    Examples
    --------
    >>> reach(np.array([3.0, 1.0, 2.0, 2.0]), np.array([2.0, 3.0]), 0.0).tolist()
    [0.75, 0.25]
    """
    level = observed - ties * np.abs(observed)
    return np.asarray((len(maxima) - np.searchsorted(np.sort(maxima), level, side="left")) / len(maxima))


def analysis_key(maps: Maps, plan: Plan, permuted: Permuted, settings: NullSettings, extra: Any = None) -> str:
    """Hash of all that null maxima depend on: design, contrast, permutations, maps, mask, what is asked."""
    found = permuted.rearrangements
    digest = hashlib.sha256()
    for array in (
        plan.basis, plan.scan_weights, plan.scan_scale, permuted.parts.interest, permuted.parts.tested,
        permuted.moving, maps.mask, found.tree.rows, *found.sources(0, min(found.count, BLOCK)),
    ):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    text = [_VERSION, found.count, found.seed, found.tree.structure, permuted.scheme, list(vars(settings).values())]
    digest.update(json.dumps([*text, extra], default=str).encode())
    manifest = getattr(maps, "manifest", None)
    if manifest is not None:
        digest.update(json.dumps([manifest["files"][scan]["sha256"] for scan in maps.scan_ids]).encode())
    else:
        digest.update(np.ascontiguousarray(maps.read(0, maps.n_voxels)).tobytes())
    return digest.hexdigest()


def _resume(
    path: Path | None, key: str, count: int, n_voxels: int, names: Sequence[str]
) -> tuple[int, dict[str, np.ndarray]]:
    """How many permutations a checkpoint holds, and their state; an empty one if it is of another analysis."""
    fresh = {name: np.zeros(count) for name in names} | {"reached": np.zeros(n_voxels, dtype=np.int64)}
    if path is None or not path.is_file():
        return 0, fresh
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return 0, fresh
            state = {name: stored[name] for name in fresh}
            return int(stored["done"]), state
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return 0, fresh


def _save(path: Path, key: str, done: int, state: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream_:
        np.savez(stream_, key=np.array(key), done=np.array(done), **state)  # type: ignore[arg-type]
