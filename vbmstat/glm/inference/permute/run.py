"""Null distributions by permutation: of the largest statistic, TFCE value, cluster extent and cluster mass.

A batch of permutations is one pass over the voxels. For the maximum alone a tile's statistics are not kept; for TFCE
and clusters the whole maps of a batch are, so the batch bounds the memory. With early stopping the maxima are checked
after every 128 permutations, for any size of batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from vbmstat.device import is_cpu
from vbmstat.distributed.pool import Cluster
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.forecast import PILOT, WARM_UP
from vbmstat.glm.inference.permute.checkpoint import Checkpoint
from vbmstat.glm.inference.permute.flipped_scores import FlippedScores
from vbmstat.glm.inference.permute.grouped_scores import GroupedScores
from vbmstat.glm.inference.permute.images import StatisticImages
from vbmstat.glm.inference.permute.nulls import Nulls, NullSettings, PlainScale, Scale, is_decided, reach
from vbmstat.glm.inference.permute.rearrangements import BLOCK
from vbmstat.glm.inference.permute.schemes import Permuted, smallest_p
from vbmstat.glm.inference.permute.scores import PermutedScores, Scored, working_precision
from vbmstat.glm.inference.permute.tails import TAIL_SHARE, Tails, fit_tails, smallest_tail_p
from vbmstat.glm.spec import Compute
from vbmstat.lazy import torch
from vbmstat.progress import OnProgress

_WORTH_COMPILING = 4e9  # scans × voxels × permutations; as for the fit
_ROWS_BYTES = 2**28  # rows of the products of one batch
_MAPS_BYTES = 2**28  # statistic maps of one batch
_MAX_BATCH = 8 * BLOCK
_MAP_TIES = 1e-4  # of a TFCE value or mass: sums over a float32 map
_SAVE_SECONDS = 10.0  # between checkpoints


def permutation_nulls(
    fitted: Fitted,
    permuted: Permuted,
    settings: NullSettings,
    compute: Compute | None = None,
    checkpoint: Checkpoint | None = None,
) -> Nulls:
    """Permute one contrast.

    Parameters
    ----------
    fitted : Fitted
        Maps, their plan without subsets, and t or F of the unpermuted data.
    permuted : Permuted
        The contrast, the permutations and their scheme.
    settings : NullSettings
        What is to be counted.
    compute : Compute, optional
        Where and how fast. Workers of a cluster share the voxels of a batch, or, where whole maps are needed, the
        batches.
    checkpoint : Checkpoint, optional
        Keeps what is done; an interrupted run goes on from it, and a finished one is read.

    Returns
    -------
    Nulls
    """
    compute = compute or Compute()
    maps, plan, statistic = fitted.maps, fitted.plan, fitted.fit.statistic[permuted.index]
    progress, n_voxels = compute.progress, len(statistic)
    kind = plan.contrasts[permuted.index].kind
    settings = replace(settings, two_sided=settings.two_sided and kind == "t")
    grouped, repeated = permuted.groups is not None, permuted.subjects is not None
    scale = (PlainScale if grouped or repeated else Scale)(kind, settings.two_sided, plan.df_resid, permuted.n_tested)
    alone = compute if compute.cluster is None else replace(compute, n_threads=1)
    engine = _engine_of(fitted, permuted, alone)(maps, plan, permuted, scale, alone)
    images = StatisticImages(maps.space, settings) if settings.wants_maps and maps.space is not None else None
    scoring = _Scoring(engine, images)
    count = permuted.rearrangements.count
    fresh = {name: np.zeros(count) for name in settings.counted}
    fresh |= {"reached": np.zeros(n_voxels, dtype=np.int64), "own": np.zeros(n_voxels)}
    done, state = (0, fresh) if checkpoint is None else checkpoint.resume(fresh)
    saved = time.monotonic()

    def is_enough() -> bool:
        return bool(done) and done % BLOCK == 0 and is_decided(state, done, settings, scoring.ties)

    size = min(scoring.batch_size(n_voxels), BLOCK if settings.stop_after else count)
    batches = [] if is_enough() else _batches(done, count, size)
    if images is not None and done == 0 and compute.cluster is None:  # a few tell the time of the others
        end = WARM_UP + PILOT
        batches = [range(min(WARM_UP, count)), range(WARM_UP, min(end, count)), *_batches(end, count, size)]
        batches = [batch for batch in batches if batch]
    if progress and batches and done == 0 and compute.cluster is None:
        progress("permutations", 0, count)  # from when the time is taken
    with closing(_score(scoring, batches, compute.cluster, progress)) as scored:
        for batch, (maxima, scores) in zip(batches, scored, strict=True):
            for name, values in maxima.items():
                state[name][batch.start : batch.stop] = values
            state["reached"] += scores.reached
            state["own"] = scores.own
            done = batch.stop
            if checkpoint is not None and (done == count or time.monotonic() - saved > _SAVE_SECONDS):
                checkpoint.save(done, state)
                saved = time.monotonic()
            if progress:
                progress("permutations", done, count)
            if is_enough():
                break
    if progress and done < count:
        progress("permutations", done, done)
    state |= {name: state[name][:done] for name in settings.counted}
    return _summarise(state, statistic, scoring, settings, progress)


def _engine_of(fitted: Fitted, permuted: Permuted, compute: Compute) -> type[PermutedScores]:
    """The way to compute scores: compiled where it can and pays."""
    if permuted.groups is not None:
        return GroupedScores
    if permuted.subjects is not None:
        return FlippedScores
    maps, plan, backend = fitted.maps, fitted.plan, compute.backend
    can_compile = is_cpu(compute.device)
    can_compile &= working_precision(maps.dtype, plan.df_resid) == torch.float32
    work = len(plan.basis) * len(maps.mask) * permuted.rearrangements.count
    if not can_compile or backend == "stacked" or (backend == "auto" and work < _WORTH_COMPILING):
        return PermutedScores
    from vbmstat.glm.inference.permute.compiled_scores import CompiledScores  # noqa: PLC0415 - imports the compiler

    return CompiledScores


def _batches(done: int, count: int, size: int) -> list[range]:
    """What is left, in batches that begin at multiples of their size."""
    starts = range(done // size * size, count, size) if done < count else ()
    return [range(max(start, done), min(start + size, count)) for start in starts]


def _score(
    scoring: _Scoring, batches: Sequence[range], cluster: Cluster | None, progress: OnProgress | None
) -> Generator[tuple[dict[str, np.ndarray], Scored], None, None]:
    """Maxima of each batch by name, and its scores."""
    if cluster is not None and scoring.images is not None:
        yield from cluster.map(scoring, batches)
        return
    count = scoring.engine.permuted.rearrangements.count
    for batch in batches:

        def report(share: float, batch: range = batch) -> None:
            if progress:
                progress("permutations", batch.start + int(len(batch) * share), count)

        yield scoring(batch, report, cluster)


@dataclass(frozen=True)
class _Scoring:
    """A batch of permutations: one pass over the voxels, and whole maps where they are needed."""

    engine: PermutedScores
    images: StatisticImages | None

    def __call__(
        self, batch: range, report: Callable[[float], None] = lambda _: None, cluster: Cluster | None = None
    ) -> tuple[dict[str, np.ndarray], Scored]:
        """Maxima by name, (b,), and the scores without their maps."""
        share = 1.0 if self.images is None else 0.5
        keeps_maps = self.images is not None
        scores = self.engine.run(batch.start, batch.stop, keeps_maps, lambda part: report(share * part), cluster)
        maxima = {"statistic": scores.largest}
        if self.images is not None and scores.fields is not None:
            maxima |= self.images.maxima(scores.fields, self.engine.workers, lambda part: report(share + share * part))
        return maxima, scores._replace(fields=None)

    @property
    def ties(self) -> dict[str, float]:
        """Rounding, up to which maxima are equal."""
        return {"statistic": self.engine.ties, "tfce": _MAP_TIES, "extent": 0.0, "mass": _MAP_TIES}

    def batch_size(self, n_voxels: int) -> int:
        """Permutations at a time that fit rows and maps into memory; a multiple or a whole fraction of 128."""
        batch = max(min(_ROWS_BYTES // (4 * self.engine.rows_each * len(self.engine.plan.basis)), _MAX_BATCH), 1)
        if self.images is not None:
            batch = min(batch, _MAPS_BYTES // (4 * n_voxels))
        return int(batch // BLOCK * BLOCK or 1 << max(batch.bit_length() - 1, 0))


def _summarise(
    state: dict[str, np.ndarray],
    statistic: np.ndarray,
    scoring: _Scoring,
    settings: NullSettings,
    progress: OnProgress | None,
) -> Nulls:
    """P-values from null maxima."""
    engine, images, ties = scoring.engine, scoring.images, scoring.ties
    scale, rearrangements, mask = engine.scale, engine.permuted.rearrangements, engine.maps.mask
    score, count = state["own"], len(state["statistic"])
    is_tested = mask & (statistic != 0)
    own = state["statistic"].copy()
    own[0] = score[is_tested].max(initial=own.min())
    size = scale.statistic(score)
    floor = smallest_tail_p(count, rearrangements.existing)
    maxima = {"statistic": scale.statistic(own)}
    tails: dict[str, Tails | None] = {}
    approximated: dict[str, np.ndarray] = {}

    def corrected(name: str, counted: np.ndarray, observed: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """P of observed values: counted, or of a fitted tail."""
        p = np.where(tested, counted, 1.0)
        if settings.tail == "none" or count == rearrangements.existing:
            return p
        tail = tails[name] = fit_tails(maxima[name][:, None], floor)
        tail_p, covered = (p, np.zeros(len(p), dtype=bool)) if tail is None else tail.p(observed)
        chosen = approximated[name] = tested & covered
        return np.where(chosen, tail_p, p)

    p_uncorrected = np.where(is_tested, state["reached"] / count, 1.0)
    if settings.tail == "gpd" and count < rearrangements.existing:
        wanted = is_tested & (p_uncorrected <= TAIL_SHARE)
        p, chosen = engine.tail_p(size, wanted, count, floor, progress)
        p_uncorrected, approximated["uncorrected"] = np.where(chosen, p, p_uncorrected), chosen
    nulls = Nulls(
        count=count,
        planned=rearrangements.count,
        is_exhaustive=count == rearrangements.existing,
        smallest_p=smallest_p(engine.permuted, not scale.is_signed),
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
        p_of = {}
        for name, values in (("extent", clusters.sizes), ("mass", clusters.masses)):
            maxima[name] = _with_own(state[name], values)
            counted = reach(maxima[name], values, ties[name])
            p_of[name] = corrected(name, counted, values, np.ones(len(values), bool))
        nulls = replace(nulls, clusters=clusters, p_extent_fwe=p_of["extent"], p_mass_fwe=p_of["mass"])
    return nulls


def _with_own(maxima: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Null maxima with the unpermuted data's first."""
    return np.append(observed.max(initial=0), maxima[1:])
