"""Preprocessing of one person's repeated scans; no time point is privileged.

1. each scan alone and alike: brain, linear registration, denoising (:func:`vbmstat.preproc.pipeline.prepare_scan`)
2. rigid alignment to their mean, differential bias, average (:mod:`vbmstat.preproc.steps.groupwise`)
3. the average, segmented as a scan is: bias field, tissues, warp to the template; all time points share them
4. each time point, resampled once to the average's grid and segmented from the same start: the average's tissues,
   softened, as priors
5. plasticity: each time point's tissues, sampled once by template -> average, modulated (mwp1r)
6. ageing: with a stiff warp from the person's mean shape to each time point, modulated by both (mwmwp1r); rates

Time points are worked in an order of their content, so that results do not depend on the order in which they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from vbmstat.device import choose_device
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.image import deform
from vbmstat.image.grid import Grid, resample
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic, Start
from vbmstat.preproc.lesions import Lesions
from vbmstat.preproc.pipeline import (
    Clock,
    in_template_space,
    normalise,
    prepare_scan,
    register_tissues,
    segment_prepared,
    smooth_maps,
    template_on,
)
from vbmstat.preproc.results import Prepared, Preprocessed, Segmented
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.steps import bias, groupwise, priors, within_person, working
from vbmstat.preproc.steps.groupwise import Alignment
from vbmstat.preproc.steps.working import Brain
from vbmstat.progress import OnStep, ignore

PLASTICITY, AGEING = "plasticity", "ageing"
_PURE_POWER = 4  # of a fraction, so that mixed voxels weigh little
_LEAST_SIMILARITY = 0.8  # aligned scans of one head have .99, of different people .44 to .65


@dataclass(frozen=True)
class TimePoint:
    """Result of one time point.

    Attributes
    ----------
    preprocessed : Preprocessed
        As of a single scan. The tissues are in the scan's own space (on the average's grid, put there by `rigid`),
        ``segmented.linear`` is template mm -> this scan's mm, the warp is the person's. ``warped``, ``modulated`` and
        ``smoothed`` are the plasticity maps (mwp1r).
    rigid : ndarray, (4, 4)
        Average mm -> scan mm.
    similarity : float
        Correlation of the aligned scan with the mean of the others within the brain.
    residual_mm : float
        How far the last update of the rigid alignment moved the brain, at most.
    bias_percent : float
        Range of the differential bias over the brain (5th to 95th percentile), percent.
    aged : Volume, optional
        Ageing maps (mwmwp1r): GM, WM, CSF in template space, modulated twice; None without that model.
    aged_smoothed : dict of float to Volume
        Smoothed ageing maps by FWHM in mm.
    """

    preprocessed: Preprocessed
    rigid: np.ndarray
    similarity: float
    residual_mm: float
    bias_percent: float
    aged: Volume | None
    aged_smoothed: dict[float, Volume]


@dataclass(frozen=True)
class Person:
    """Result of one person.

    Attributes
    ----------
    time_points : tuple of TimePoint
        In the order given.
    average : Volume
        Bias-corrected average brain on its own grid, WM at 1.
    rate : Volume, optional
        GM and WM, mL per year per voxel of the template: slope of the ageing maps, or of the plasticity maps if only
        those were asked for. None without two different dates.
    """

    time_points: tuple[TimePoint, ...]
    average: Volume
    rate: Volume | None


@dataclass(frozen=True)
class _Average:
    """The average, segmented, and what each time point takes from it, on its grid."""

    segmented: Segmented
    alignment: Alignment
    prior: torch.Tensor  # (3, X, Y, Z)
    mask: torch.Tensor
    images: torch.Tensor  # (n, X, Y, Z), aligned scans
    differential: torch.Tensor  # (n, X, Y, Z), bias of each scan beside the average's
    shared: torch.Tensor  # (X, Y, Z), the average's bias


def preprocess_person(
    scans: Sequence[Volume],
    spec: PreprocSpec,
    models: Sequence[str] = (PLASTICITY, AGEING),
    years: Sequence[float] | None = None,
    on_step: OnStep = ignore,
) -> Person:
    """Preprocess the scans of one person.

    Parameters
    ----------
    scans : sequence of Volume
        Two or more T1-weighted scans as in :func:`vbmstat.preproc.pipeline.preprocess_scan`.
    spec : PreprocSpec
        As for single scans; without a lesion mask.
    models : sequence of str
        Which of plasticity and ageing are wanted; the plasticity maps are always there.
    years : sequence of float, optional
        Date of each scan in years, from any origin. Without: equal weights, and no rates.
    on_step : callable
        Called with the name of each step when it begins.

    Raises
    ------
    VbmstatError
        If there are fewer than two scans, other numbers of dates, or a lesion mask.
    ScanError
        If a scan cannot be used, or is not of the same head as the others; the message names the time point.
    """
    _check(scans, spec, models, years)
    device, engine = choose_device(spec.device), spec.find_engine()
    engine.parameters()  # raises before any work if a package or weights are missing
    if not engine.takes_priors:
        msg = f"engine {engine.label} takes no priors, so time points cannot start from their average; use classic"
        raise VbmstatError(msg)
    order = sorted(range(len(scans)), key=lambda k: _content(scans[k]))
    dates = None if years is None else [float(years[k]) for k in order]
    names = [f"time point {k + 1}" for k in order]
    with torch.inference_mode():
        clocks = [Clock(_prefixed(on_step, name)) for name in names]
        prepared = []
        for k, clock, name in zip(order, clocks, names, strict=True):
            with _named(name):
                prepared.append(prepare_scan(scans[k], engine, device, clock, spec.lesion_plan()))
        clock = Clock(_prefixed(on_step, "average"))
        with clock.step("align"):
            alignment = groupwise.align([each.work for each in prepared], [each.linear for each in prepared])
        with _named("the average of the scans"):
            average = _average(prepared, alignment, engine, clock)
        similarity = groupwise.similarity(average.images / average.differential, average.mask)
        _check_same_head(similarity, names)
        with clock.step("warp"):
            warp = register_tissues(average.segmented, engine)
        results = []
        for k, each in enumerate(prepared):
            with _named(names[k]):
                segmented = _segment_time_point(each, average, k, engine, clocks[k])
            results.append(in_template_space(segmented, warp, spec, clocks[k]))
        aged: list[Volume | None] = [None] * len(results)
        if AGEING in models:
            with clock.step("ageing"):
                aged = [*_ageing_maps(results, dates, spec)]
        changed = [each.modulated if old is None else old for each, old in zip(results, aged, strict=True)]
        rate = None if dates is None else within_person.rate(changed, dates)
    time_points = [
        TimePoint(
            result, alignment.rigids[k], similarity[k], alignment.residual_mm[k],
            _range_percent(average.differential[k], average.mask), old,
            {} if old is None else smooth_maps(old, spec.fwhm_mm),
        )
        for k, (result, old) in enumerate(zip(results, aged, strict=True))
    ]  # fmt: skip
    given = sorted(range(len(order)), key=lambda k: order[k])
    return Person(tuple(time_points[k] for k in given), average.segmented.work, rate)


def _check(scans: Sequence[Volume], spec: PreprocSpec, models: Sequence[str], years: Sequence[float] | None) -> None:
    if len(scans) < 2:
        msg = (
            f"expected two or more scans of a person, got {len(scans)}; preprocess single scans without --longitudinal"
        )
        raise VbmstatError(msg)
    if not models or not set(models) <= {PLASTICITY, AGEING}:
        msg = f"expected models {PLASTICITY} or {AGEING}, got {', '.join(models) or 'none'}"
        raise VbmstatError(msg)
    if years is not None and (len(years) != len(scans) or not np.isfinite(years).all()):
        msg = f"expected a date in years for each of {len(scans)} scans, got {list(years)}"
        raise VbmstatError(msg)
    if spec.lesion_mask is not None:
        msg = "lesion masks cannot be used with repeated scans yet; leave the mask out or preprocess the scans singly"
        raise VbmstatError(msg)


def _content(scan: Volume) -> bytes:
    """Hash of an image and its grid."""
    return hashlib.sha256(scan.data.cpu().numpy().tobytes() + scan.grid.affine.tobytes()).digest()


def _prefixed(on_step: OnStep, name: str) -> OnStep:
    return lambda step: on_step(f"{name}: {step}")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors of a scan begin with its time point."""
    try:
        yield
    except ScanError as error:
        msg = f"{name}: {error}"
        raise ScanError(msg) from error


def _average(prepared: Sequence[Prepared], alignment: Alignment, engine: Classic, clock: Clock) -> _Average:
    """Average of the aligned scans, segmented as a scan is."""
    grid = alignment.grid
    with clock.step("average"):
        images, mask = groupwise.bring([each.work for each in prepared], alignment)
        differential = groupwise.differential_bias(images, mask, grid)
        brain = Brain(Volume((images / differential).mean(0, keepdim=True), grid), mask)
    linear = np.mean([np.linalg.inv(r) @ p.linear for r, p in zip(alignment.rigids, prepared, strict=True)], axis=0)
    plan = replace(prepared[0].lesions.plan, wmh=False)
    person = Prepared(brain.image, brain, brain, linear, prepared[0].was_stripped, Lesions(plan))
    with clock.step("priors"):
        start = engine.start(brain, brain, engine.find_template(mask.device).tissues, linear)
    shared = bias.bias_field(brain.image, mask, start.prior)
    segmented = segment_prepared(person, start, engine, clock, shared)
    prior = priors.soften(segmented.fractions, mask, start.prior)
    # Only white matter tells bias from atrophy: cortex that thins darkens the voxels at its surface.
    white = segmented.fractions.data[1] ** _PURE_POWER
    differential *= groupwise.differential_bias(images / differential, white, grid)
    return _Average(segmented, alignment, prior, mask, images, differential, shared)


def _segment_time_point(prepared: Prepared, average: _Average, k: int, engine: Classic, clock: Clock) -> Segmented:
    """Tissues of a time point from the average's start.

    They are on the average's grid, which a rigid motion puts into the scan's space: partial volumes at a border are
    then alike in all time points, which takes a third of the noise from their differences.
    """
    alignment, shared = average.alignment, average.segmented
    rigid = alignment.rigids[k]
    grid = Grid(alignment.grid.shape, rigid @ alignment.grid.affine)
    expected = torch.cat([average.prior, average.mask.float()[None]])
    own = alignment.grid
    *prior, mask = resample(expected, own, own, np.linalg.inv(alignment.sizes[k]), padding_mode="border")
    work = Brain(Volume(average.images[k : k + 1], grid), mask > 0.5)
    start = Start(torch.stack(prior), rigid @ shared.linear, shared.velocity)
    field = average.shared * average.differential[k]
    return segment_prepared(replace(prepared, work=work), start, engine, clock, field)


def _ageing_maps(results: Sequence[Preprocessed], years: Sequence[float] | None, spec: PreprocSpec) -> list[Volume]:
    """GM, WM, CSF of each time point in the person's mean shape, modulated twice, in template space."""
    template = template_on(results[0].modulated.data.device)
    aligned = [
        working.align_to_template(Volume(s.lesions.for_warp(s.fractions.data), s.fractions.grid), template, s.linear)
        for s in (each.segmented for each in results)
    ]
    moves = within_person.warps_to_mean(aligned, within_person.stiffness(len(results), years))
    grid = spec.grid_of_maps(template.grid)
    maps = []
    for each, move in zip(results, moves, strict=True):
        whole = within_person.compose(each.warp.forward, move)
        maps.append(normalise(each.segmented.maps, deform.deformation(whole, each.segmented.linear), grid)[1])
    return maps


def _check_same_head(similarity: Sequence[float], names: Sequence[str]) -> None:
    others = sorted(name for name, value in zip(names, similarity, strict=True) if value < _LEAST_SIMILARITY)
    if others:
        msg = (
            f"{' and '.join(others)}: not the same head as the other scans (r = {min(similarity):.2f} in the brain, "
            f"expected {_LEAST_SIMILARITY:g} or more); check the sessions, or leave one out"
        )
        raise ScanError(msg)


def _range_percent(field: torch.Tensor, mask: torch.Tensor) -> float:
    low, high = np.percentile(field[mask].cpu().numpy()[::10], [5, 95])
    return float(100 * (high - low))
