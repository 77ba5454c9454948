"""Corrected inference on a fit: from the options to permutations, clusters and q, their notes and record.

Over 300 lines: what is computed, noted and recorded follows the same choices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError, listed
from vbmstat.glm.design.contrast import Contrast
from vbmstat.glm.design.subjects import without_own_mean
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.clusters import CONNECTIVITY, Clusters, find_clusters, neighbour_table
from vbmstat.glm.inference.forecast import Forecast
from vbmstat.glm.inference.p_values import p_of_f, p_one_sided, p_two_sided, q_fdr
from vbmstat.glm.inference.permute.blocks import Node, block_tree, free_tree, level_tree
from vbmstat.glm.inference.permute.checkpoint import Checkpoint, analysis_key
from vbmstat.glm.inference.permute.nulls import ALPHA, TFCE_CONNECTIVITY, Nulls, NullSettings
from vbmstat.glm.inference.permute.rearrangements import blocks_flipped_apart
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Permuted, kept_by_flips
from vbmstat.glm.inference.random_field import Field
from vbmstat.glm.inference.rft import FieldInference, SmoothSpace, field_inference, validity_notes
from vbmstat.glm.inference.smoothness import Smoothness
from vbmstat.glm.inference.thresholds import Threshold, height_thresholds
from vbmstat.glm.inference.true_discoveries import true_discoveries
from vbmstat.glm.spec import SCHEMES, Compute, InferenceSpec
from vbmstat.lazy import stats
from vbmstat.tables.cohort import read_column

# names of columns whose equal values stand for scans that depend on one another
_DEPENDENT = re.compile(r"(participant|subject|person|pair|twin|family)s?([ _.-]?(id|no|nr|number|code|name))?", re.I)
KEPT_BY_FLIPS = 0.9  # of the residuals; below, more than 6 % of null studies reach p < .05 (docs/inference.md)


@dataclass(frozen=True)
class Inference:
    """Corrected inference on one contrast."""

    kinds: tuple[str, ...]  # what was asked: fdr, rft, fwe, tfce, cluster
    two_sided: bool  # False for F
    p: np.ndarray  # (n_voxels,): uncorrected, one- or two-sided as asked; 1 outside the mask
    q_fdr: np.ndarray  # (n_voxels,): false discovery rate; 1 outside the mask
    threshold: float  # cluster-forming threshold in units of t or F
    clusters: Clusters | None  # of the statistic beyond the threshold; None for a plain matrix
    true_discoveries: np.ndarray  # (k,): at least so many voxels of each cluster have an effect, with 95 % confidence
    nulls: Nulls | None  # of the permutations; None if none were asked for
    thresholds: tuple[Threshold, ...]  # heights by each correction, with the voxels that reach them
    random_field: FieldInference | None = None
    small_volumes: Mapping[str, FieldInference] = field(default_factory=dict)  # random fields in parts of the mask

    def critical(self, statistic: np.ndarray) -> tuple[float, str]:
        """Threshold of t or F for a voxel's height, and how it was found: by what was asked, the strictest first."""
        sides = "two-sided" if self.two_sided else "one-sided"
        corrected = None if self.nulls is None else self.nulls.critical()
        if self.nulls is not None and corrected is not None:
            return corrected, f"FWE p = {ALPHA:g} by {self.nulls.count} permutations, {sides}"
        if self.random_field is not None:
            return self.random_field.critical_height, f"FWE p = {ALPHA:g} by random fields, {sides}"
        called = np.abs(statistic[self.q_fdr <= ALPHA])
        if "fdr" in self.kinds and called.size:
            return float(called.min()), f"q of FDR = {ALPHA:g}, {sides}"
        return self.threshold, f"uncorrected, of the clusters, {sides}"


def exchange_tree(asked: InferenceSpec, table: pd.DataFrame, scan_ids: Sequence[str]) -> Node:
    """Which scans may be exchanged, from the block columns.

    Raises
    ------
    DesignError
        If a column is missing somewhere, or several columns are not whole numbers.
    """
    order = sorted(range(len(scan_ids)), key=lambda i: scan_ids[i])
    if not asked.blocks:
        return free_tree(order)
    empty = [scan for scan, gone in zip(scan_ids, table.isna().any(axis=1), strict=True) if gone]
    if empty:
        msg = f"no value in the block columns {', '.join(asked.blocks)} for {listed(empty)}; fill it in"
        raise DesignError(msg)
    if len(asked.blocks) == 1:
        return block_tree([str(value) for value in table.iloc[:, 0]], asked.exchange, order)
    levels = table.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not (levels == np.rint(levels)).all():
        msg = f"several block columns ({', '.join(asked.blocks)}) hold PALM's whole numbers; got other values"
        raise DesignError(msg)
    return level_tree(levels.astype(np.int64), order)


def forming_threshold(wanted: float, kind: str, two_sided: bool, m: float, df: float) -> float:
    """Cluster-forming threshold as t or F: below 1 an uncorrected p, else the value itself."""
    if wanted >= 1:
        return wanted
    if kind == "F":
        return float(stats.f.isf(wanted, m, df))
    return float(stats.t.isf(wanted / 2 if two_sided else wanted, df))


def infer(
    fitted: Fitted,
    contrasts: Sequence[Contrast],
    permuted: Sequence[Permuted | None],
    asked: InferenceSpec,
    compute: Compute,
) -> dict[str, Inference]:
    """Corrected inference on every contrast of a fit, by its name; nothing where none is asked for.

    Parameters
    ----------
    fitted : Fitted
        Maps, their plan without subsets, and the fit.
    contrasts : sequence of Contrast
        Those of the fit.
    permuted : sequence of Permuted or None
        The permutations of each contrast; None where none are asked for.
    asked : InferenceSpec
        What is asked.
    compute : Compute
        Where and how fast, and the folder of checkpoints.

    Raises
    ------
    DesignError
        If TFCE or clusters are asked of a plain matrix, whose columns have no neighbours.
    """
    maps, fit = fitted.maps, fitted.fit
    if maps.space is None and {"rft", "tfce", "cluster"} & set(asked.kinds):
        msg = "rft, tfce and cluster need maps in files: the columns of a matrix have no neighbours; use fdr, fwe"
        raise DesignError(msg)
    if not asked.kinds:
        return {}
    neighbours = None if maps.space is None else neighbour_table(maps.space)
    inferences = {}
    counts = {contrasts[one.index].name: one.rearrangements.count for one in permuted if one is not None}
    spare = [contrast.name for contrast in contrasts if contrast.name not in counts]
    forecast = Forecast(counts, spare, None if compute.cluster else compute.announce, compute.progress)
    compute = replace(compute, progress=forecast)
    for index, (contrast, permutation) in enumerate(zip(contrasts, permuted, strict=True)):
        two_sided = contrast.kind == "t" and not asked.one_sided
        statistic = fit.statistic[index]
        m = float(np.linalg.matrix_rank(contrast.weights))
        threshold = forming_threshold(asked.cluster_threshold, contrast.kind, two_sided, m, fit.forming_df(index))
        nulls = None
        if permutation is not None:
            settings = NullSettings(
                two_sided, "tfce" in asked.kinds, threshold if "cluster" in asked.kinds else None,
                wants_fwe="fwe" in asked.kinds, tail=asked.tail, stop_after=asked.stop_after,
            )  # fmt: skip
            checkpoint = None
            if compute.checkpoint is not None:
                file = Path(compute.checkpoint) / checkpoint_name(contrast)
                checkpoint = Checkpoint(file, analysis_key(maps, fitted.plan, permutation, settings))
            forecast.begin(contrast.name)
            nulls = permutation_nulls(fitted, permutation, settings, compute, checkpoint)
        clusters = None if nulls is None else nulls.clusters
        if clusters is None and neighbours is not None:
            clusters = find_clusters(statistic, threshold, two_sided, neighbours)
        df, p_of_t = fit.df_inside(index), p_two_sided if two_sided else p_one_sided
        inside = statistic[fit.mask]
        p, q = np.ones((2, len(statistic)))
        p[fit.mask] = p_of_f(inside, m, df) if contrast.kind == "F" else p_of_t(inside, df)
        q[fit.mask] = q_fdr(p[fit.mask])
        labels = np.zeros(len(inside), np.int32) if clusters is None else clusters.labels[fit.mask]
        discoveries = true_discoveries(p[fit.mask], labels, ALPHA)
        height = partial(forming_threshold, kind=contrast.kind, two_sided=two_sided, m=m, df=fit.forming_df(index))
        heights = height_thresholds(
            np.abs(inside) if two_sided else inside, p[fit.mask], q[fit.mask],
            None if fit.has_local_df else height, nulls,
        )  # fmt: skip
        inferences[contrast.name] = Inference(
            asked.kinds, two_sided, p, q, threshold, clusters, discoveries, nulls, heights
        )
    return inferences


def with_random_fields(
    inferences: Mapping[str, Inference], fitted: Fitted, contrasts: Sequence[Contrast], smooth: Smoothness
) -> dict[str, Inference]:
    """Add random field inference to the contrasts that :func:`infer` was asked for."""
    fit, added = fitted.fit, {}
    for index, contrast in enumerate(contrasts):
        inference = inferences[contrast.name]
        if fitted.maps.space is not None and inference.clusters is not None:
            where = SmoothSpace(fitted.maps.space, fit.mask, smooth, 2 if inference.two_sided else 1)
            kind = Field(contrast.kind, fit.df_resid, float(np.linalg.matrix_rank(contrast.weights)))
            statistic = fit.statistic[index]
            result = field_inference(statistic, kind, inference.clusters, inference.threshold, where)
            n_beyond = int((result.p_fwe <= ALPHA).sum())
            height = Threshold(f"FWE p = {ALPHA:g}, random fields", result.critical_height, n_beyond)
            inference = replace(inference, random_field=result, thresholds=(*inference.thresholds, height))
        added[contrast.name] = inference
    return added


def checkpoint_name(contrast: Contrast) -> str:
    """File of a contrast's interrupted permutations."""
    return f"contrast-{contrast.label}_permutations.npz"


def exchange_notes(
    permuted: Sequence[Permuted | None], asked: InferenceSpec, table: pd.DataFrame, matrix: np.ndarray
) -> tuple[str, ...]:
    """Notes where sign flips treat a person's scans as independent, or move residuals into the nuisance.

    `table` has a row a scan; `matrix` (n_scans, n_regressors) is the design.
    """
    flipped = [one for one in permuted if one is not None and one.subjects is None]
    if not flipped or not asked.sign_flip:
        return ()
    notes = []
    column = _flipped_apart(np.asarray(flipped[0].rearrangements.flips), table, matrix)
    if blocks_flipped_apart(flipped[0].rearrangements.tree):
        notes.append(
            f"Signs are flipped scan by scan, as if a person's scans ({', '.join(asked.blocks)}) were independent. "
            "This gives false positives; add --exchange whole."
        )
    elif column is not None:
        notes.append(
            f"Signs of scans with the same {column} are flipped one by one, as if they were independent. If they are "
            f"not, this gives false positives; use --blocks {column} --exchange whole."
        )
    kept = min(kept_by_flips(one) for one in flipped)
    if kept < KEPT_BY_FLIPS and asked.scheme == SCHEMES[0]:  # Smith's scheme corrects for it
        notes.append(
            f"sign flips move {100 * (1 - kept):.0f} % of the residuals into the other columns of the model, so p are "
            "too small; flip people as wholes (--blocks PERSON --exchange whole), fit maps of differences with gm ~ 1, "
            "or leave columns out"
        )
    return tuple(notes)


def _flipped_apart(flips: np.ndarray, table: pd.DataFrame, matrix: np.ndarray) -> str | None:
    """The first column of persons, pairs or families whose scans flip apart and whose means are not in the design."""
    flip_of_scan = flips.argmax(axis=0)  # (n_scans,)
    for name in (name for name in [*table.index.names, *table] if _DEPENDENT.fullmatch(str(name))):
        values = pd.Series(np.asarray(read_column(name, table), dtype=object))
        values = values.where(values.isna(), values.astype(str))
        flip_apart = pd.Series(flip_of_scan).groupby(values).nunique() > 1
        if (flip_apart & without_own_mean(values.dropna(), matrix[values.notna()])).any():
            return str(name)
    return None


def inference_notes(
    inferences: Mapping[str, Inference], asked: InferenceSpec, smoothing_mm: float | None = None
) -> tuple[str, ...]:
    """Notes on random fields, in maps smoothed by a known FWHM or not, and on the permutations."""
    notes: list[str] = []
    fields = [one.random_field for one in inferences.values() if one.random_field is not None]
    notes += dict.fromkeys(note for one in fields for note in validity_notes(one, smoothing_mm))
    for name, inference in inferences.items():
        nulls = inference.nulls
        if nulls is None:
            continue
        verb = "sign flips" if asked.sign_flip else "permutations"
        if nulls.planned < asked.permutations:
            used = "all of them were used, and " if nulls.is_exhaustive else ""
            notes.append(
                f"{name}: {asked.permutations} {verb} were asked and {nulls.planned} exist; {used}"
                f"no p can be below {nulls.smallest_p:.2g}"
            )
        notes += _shortcut_notes(name, nulls, asked, verb)
        if nulls.smallest_p > ALPHA:
            notes.append(f"{name}: nothing can reach p = {ALPHA}: the smallest is {nulls.smallest_p:.2g}")
        if nulls.critical() is None:
            notes.append(
                f"{name}: too few {verb} for a critical value at p = {ALPHA}: neither it nor the power there (n80fwe) "
                "is given"
            )
    return tuple(notes)


_WORDS = {
    "statistic": "the largest statistic", "tfce": "TFCE", "extent": "cluster extent", "mass": "cluster mass",
}  # fmt: skip


def _shortcut_notes(name: str, nulls: Nulls, asked: InferenceSpec, verb: str) -> list[str]:
    """What was stopped early, and which p are approximated."""
    notes = []
    if nulls.count < nulls.planned:
        notes.append(
            f"{name}: stopped after {nulls.count} of {nulls.planned} {verb}: at least {asked.stop_after} of them "
            "reach the strongest finding"
        )
    if asked.tail == "none":
        return notes
    if nulls.is_exhaustive:
        return [*notes, f"{name}: all {verb} that exist were done, so that p are exact; no tail was fitted"]
    fitted = [_WORDS[what] for what, tail in nulls.tails.items() if tail is not None]
    missing = [_WORDS[what] for what, tail in nulls.tails.items() if tail is None]
    if fitted:
        floor = next(tail.floor for tail in nulls.tails.values() if tail is not None)
        notes.append(
            f"{name}: small p of {', '.join(fitted)} are approximated by a generalised Pareto distribution fitted to "
            f"{nulls.count} {verb}, down to {floor:.2g}; the smallest p that can be counted is {nulls.smallest_p:.2g}"
        )
    if missing:
        notes.append(f"{name}: no generalised Pareto distribution fits {', '.join(missing)}; those p are counted")
    return notes


def inference_record(
    inferences: Mapping[str, Inference], asked: InferenceSpec, smooth: Smoothness | None
) -> dict[str, Any]:
    """The corrected inference, for ``glm.json``."""
    order = "scan id" if len(asked.blocks) == 1 else "last block column, then scan id"  # of scans in whole blocks
    record: dict[str, Any] = {
        "kinds": list(asked.kinds), "blocks": list(asked.blocks),
        "exchange": asked.exchange if len(asked.blocks) == 1 else None,
        "order_inside_blocks": order if asked.blocks else None,
        "scheme": asked.scheme if asked.permutes else None, "sign_flip": asked.sign_flip,
        "tfce": {"H": 2.0, "E": 0.5, "connectivity": TFCE_CONNECTIVITY}, "cluster_connectivity": CONNECTIVITY,
        "contrasts": [_contrast_record(name, one) for name, one in inferences.items()],
    }  # fmt: skip
    if smooth is not None:
        record["smoothness"] = {"fwhm_mm": [round(v, 3) for v in smooth.fwhm_mm], "resels": round(smooth.resels, 2)}
    return record


def _contrast_record(name: str, inference: Inference) -> dict[str, Any]:
    nulls = inference.nulls
    record: dict[str, Any] = {
        "name": name, "two_sided": inference.two_sided, "cluster_forming_threshold": inference.threshold,
        "thresholds": [one._asdict() for one in inference.thresholds],
    }  # fmt: skip
    if inference.random_field is not None:
        record["random_field"] = inference.random_field.record()
    if nulls is not None:
        record |= {
            "permutations": nulls.count, "permutations_planned": nulls.planned, "all_that_exist": nulls.is_exhaustive,
            "smallest_p": nulls.smallest_p,
        }  # fmt: skip
        if nulls.approximated:
            counts = {what: int(chosen.sum()) for what, chosen in nulls.approximated.items()}
            tails = {what: tail and tail.record() for what, tail in nulls.tails.items()}
            record["approximated"] = {"number_of_p": counts, "tails": tails}
        record |= {f"{what}_at_p_fwe_{ALPHA}": nulls.critical(what) for what in nulls.maxima}
    return record
