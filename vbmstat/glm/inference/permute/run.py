"""Null distributions by permutation: of the largest statistic, TFCE value, cluster extent and cluster mass.

A batch of permutations is one pass over the voxels. For the maximum alone a tile's statistics are forgotten at once;
for TFCE and clusters the whole maps of a batch are kept, so the batch bounds the memory. With early stopping the maxima
are looked at after every 128 permutations, however the work is cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vbmstat.distributed.pool import Cluster
from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.inference.permute.blocks import BLOCK
from vbmstat.glm.inference.permute.checkpoint import PER_VOXEL, resume, save
from vbmstat.glm.inference.permute.grouped_scores import GroupedScores
from vbmstat.glm.inference.permute.images import StatisticImages
from vbmstat.glm.inference.permute.nulls import Nulls, NullSettings, PlainScale, Scale, is_decided, reach
from vbmstat.glm.inference.permute.schemes import Permuted, smallest_p
from vbmstat.glm.inference.permute.scores import PermutedScores, Scored, tail_p
from vbmstat.glm.inference.permute.tails import TAIL_SHARE, Tail, fit_tail, smallest_tail_p
from vbmstat.glm.spec import Compute
from vbmstat.maps.store import Maps
from vbmstat.progress import OnProgress

_ROWS_BYTES = 2**28  # rows of the products of one batch
_MAPS_BYTES = 2**28  # statistic maps of one batch
_MAX_BATCH = 8 * BLOCK
_MAP_TIES = 1e-4  # of a TFCE value or mass: sums over a float32 map
_SAVE_SECONDS = 10.0  # between checkpoints


def permutation_nulls(
    maps: Maps,
    plan: Plan,
    index: int,
    permuted: Permuted,
    statistic: np.ndarray,
    settings: NullSettings,
    compute: Compute | None = None,
    *,
    checkpoint: Path | None = None,
    key: str = "",
) -> Nulls:
    """Permute one contrast.

    Parameters
    ----------
    maps : Maps
        (n_scans, n_voxels), rows in the order of the plan.
    plan : Plan
        Factorised design, without subsets.
    index : int
        Which contrast of the plan.
    permuted : Permuted
        The permutations and their scheme.
    statistic : ndarray, (n_voxels,)
        T or F of the unpermuted data, 0 outside the mask.
    settings : NullSettings
        What is asked.
    compute : Compute, optional
        Where and how fast. Workers of a cluster share the voxels of a batch, or, where whole maps are needed, the
        batches.
    checkpoint : Path, optional
        File that keeps what is done; a run that was interrupted goes on from it, and a finished one is read.
    key : str
        Names the analysis; a checkpoint with another key is ignored.

    Returns
    -------
    Nulls
    """
    compute = compute or Compute()
    cluster, progress = compute.cluster, compute.progress
    kind = plan.contrasts[index].kind
    settings = replace(settings, two_sided=settings.two_sided and kind == "t")
    groups = permuted.groups
    make_scale = Scale if groups is None else PlainScale
    scale = make_scale(kind, settings.two_sided, plan.df_resid, permuted.n_tested)
    count = permuted.rearrangements.count
    images = StatisticImages(maps.space, settings) if settings.wants_maps and maps.space is not None else None
    asked = (maps, plan, permuted, scale, compute if cluster is None else replace(compute, n_threads=1))
    engine = PermutedScores(*asked) if groups is None else GroupedScores(*asked, groups=groups)
    done, state = resume(checkpoint, key, count, len(statistic), _names(settings))
    saved = time.monotonic()
    ties = {"statistic": engine.ties, "tfce": _MAP_TIES, "extent": 0.0, "mass": _MAP_TIES}

    def is_enough() -> bool:
        return bool(done) and done % BLOCK == 0 and is_decided(state, done, settings, ties)

    size = min(_batch_size(engine, images, len(statistic)), BLOCK if settings.stop_after else count)
    batches = [] if is_enough() else _batches(done, count, size)
    state.setdefault("own", np.zeros(len(statistic)))  # a checkpoint that holds permutations holds it
    with closing(_scored(engine, images, batches, cluster, progress)) as scored:
        for batch, (found, scores) in zip(batches, scored, strict=True):
            for name, values in found.items():
                state[name][batch.start : batch.stop] = values
            state["reached"] += scores.reached
            state["own"] = scores.own
            done = batch.stop
            if checkpoint is not None and (done == count or time.monotonic() - saved > _SAVE_SECONDS):
                save(checkpoint, key, done, state)
                saved = time.monotonic()
            if progress:
                progress("permutations", done, count)
            if is_enough():
                break
    if progress and done < count:
        progress("permutations", done, done)
    state = {name: values if name in PER_VOXEL else values[:done] for name, values in state.items()}
    return _summarise(state, statistic, engine, settings, images, ties, progress)


def _names(settings: NullSettings) -> list[str]:
    names = ["statistic"] + ["tfce"] * settings.wants_tfce
    return names + ["extent", "mass"] * (settings.cluster_threshold is not None)


def _batches(done: int, count: int, size: int) -> list[range]:
    """What is left, in batches that begin at multiples of their size."""
    starts = range(done // size * size, count, size) if done < count else ()
    return [range(max(start, done), min(start + size, count)) for start in starts]


def _scored(
    engine: PermutedScores,
    images: StatisticImages | None,
    batches: Sequence[range],
    cluster: Cluster | None,
    progress: OnProgress | None,
) -> Generator[tuple[dict[str, np.ndarray], Scored], None, None]:
    """Maxima of each batch by name, and its scores."""
    scoring = _Scoring(engine, images)
    if cluster is not None and images is not None:
        yield from cluster.map(scoring, batches)
        return
    for batch in batches:
        yield scoring.run(batch, _teller(progress, batch, engine.permuted.rearrangements.count), cluster)


@dataclass(frozen=True)
class _Scoring:
    """A batch of permutations: one pass over the voxels, and whole maps where they are needed."""

    engine: PermutedScores
    images: StatisticImages | None

    def __call__(self, batch: range) -> tuple[dict[str, np.ndarray], Scored]:
        """A task of a cluster."""
        return self.run(batch, lambda _: None, None)

    def run(
        self, batch: range, tell: Callable[[float], None], cluster: Cluster | None
    ) -> tuple[dict[str, np.ndarray], Scored]:
        """Maxima by name, (b,), and the scores without their maps."""
        share = 1.0 if self.images is None else 0.5
        scores = self.engine.run(
            batch.start, batch.stop, self.images is not None, lambda part: tell(share * part), cluster
        )
        found = {"statistic": scores.largest}
        if self.images is not None and scores.fields is not None:
            found |= self.images.maxima(scores.fields, self.engine.workers, lambda part: tell(share + share * part))
        return found, scores._replace(fields=None)


def _teller(progress: OnProgress | None, batch: range, count: int) -> Callable[[float], None]:
    """Reports how much of a batch is done."""

    def tell(share: float) -> None:
        if progress:
            progress("permutations", batch.start + int(len(batch) * share), count)

    return tell


def _batch_size(engine: PermutedScores, images: StatisticImages | None, n_voxels: int) -> int:
    """Permutations at a time: what rows and maps have room for; a multiple or a whole fraction of 128."""
    batch = max(min(_ROWS_BYTES // (4 * engine.rows_each * len(engine.plan.basis)), _MAX_BATCH), 1)
    if images is not None:
        batch = min(batch, _MAPS_BYTES // (4 * n_voxels))
    return batch // BLOCK * BLOCK or 1 << max(batch.bit_length() - 1, 0)


def _summarise(
    state: dict[str, np.ndarray],
    statistic: np.ndarray,
    engine: PermutedScores,
    settings: NullSettings,
    images: StatisticImages | None,
    ties: Mapping[str, float],
    progress: OnProgress | None,
) -> Nulls:
    """P-values from null maxima."""
    scale, rearrangements, mask = engine.scale, engine.permuted.rearrangements, engine.maps.mask
    count = len(state["statistic"])
    score = state["own"]
    is_tested = mask & (statistic != 0)
    own = state["statistic"].copy()
    own[0] = score[is_tested].max(initial=own.min())
    size = scale.statistic(score)
    floor = smallest_tail_p(count, rearrangements.existing)
    maxima = {"statistic": scale.statistic(own)}
    tails: dict[str, Tail | None] = {}
    approximated: dict[str, np.ndarray] = {}

    def corrected(name: str, counted: np.ndarray, observed: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """P of observed values: counted, or of a fitted tail."""
        p = np.where(tested, counted, 1.0)
        if settings.tail == "none" or count == rearrangements.existing:
            return p
        tail = tails[name] = fit_tail(maxima[name], floor)
        chosen = approximated[name] = np.zeros(len(p), bool) if tail is None else tested & tail.covers(observed)
        if tail is not None:
            p[chosen] = tail.p(observed[chosen])
        return p

    p_uncorrected = np.where(is_tested, state["reached"] / count, 1.0)
    if settings.tail == "gpd" and count < rearrangements.existing:
        wanted = is_tested & (p_uncorrected <= TAIL_SHARE)
        p, chosen = tail_p(engine, size, wanted, count, floor, progress)
        p_uncorrected, approximated["uncorrected"] = np.where(chosen, p, p_uncorrected), chosen
    nulls = Nulls(
        count=count,
        planned=rearrangements.count,
        is_exhaustive=count == rearrangements.existing,
        smallest_p=smallest_p(engine.permuted, settings.two_sided),
        maxima=maxima,
        p_uncorrected=p_uncorrected,
        p_fwe=corrected("statistic", reach(own, scale.level(score, ties["statistic"]), 0.0), size, is_tested),
        tails=tails,
        approximated=approximated,
    )
    if settings.wants_tfce and images is not None:
        enhanced = images.enhance(statistic)
        size = np.abs(enhanced)
        maxima["tfce"] = _with_own(state["tfce"], size)
        p_tfce = corrected("tfce", reach(maxima["tfce"], size, ties["tfce"]), size, enhanced != 0)
        nulls = replace(nulls, tfce=enhanced, p_tfce_fwe=p_tfce)
    if images is not None and images.find is not None:
        clusters = images.find(statistic)
        found = {}
        for name, values in (("extent", clusters.sizes), ("mass", clusters.masses)):
            maxima[name] = _with_own(state[name], values)
            counted = reach(maxima[name], values, ties[name])
            found[name] = corrected(name, counted, values, np.ones(len(values), bool))
        nulls = replace(nulls, clusters=clusters, p_extent_fwe=found["extent"], p_mass_fwe=found["mass"])
    return nulls


def _with_own(maxima: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Null maxima with the unpermuted data's first."""
    maxima = maxima.copy()
    maxima[0] = observed.max(initial=0)
    return maxima
