"""The preprocessing pipeline, from a T1w scan to maps, volumes and quality: the only module that knows the order.

Engines (:mod:`vbmstat.preproc.engines`) differ in steps 3 to 5 and 7 and share the others.

1. brain mask (deepbet, or the scan's own if it is already skull-stripped)
2. linear registration to the template from shape and contrast
3. denoising
4. tissue priors: from a draft segmentation and warp at 2 mm, or from networks
5. bias field and tissues at full resolution; white-matter hypointensities, if asked for
6. quality of the image (:func:`segment_scan` ends here: volumes need no more)
7. warp to the template, coarse to fine, from the tissues; over a group template to the standard one
   (:mod:`vbmstat.preproc.templates`)
8. normalisation, modulation, smoothing, quality of the registration

A lesion that the user brings is left out of the fits of steps 4, 5 and 7 (:mod:`vbmstat.preproc.lesions`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from vbmstat import assets
from vbmstat.device import choose_device
from vbmstat.errors import ScanError
from vbmstat.files.outputs import MAP_STEP
from vbmstat.image import deform, io
from vbmstat.image.grid import Grid
from vbmstat.image.smooth import smooth_map, smooth_onto
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic, Start
from vbmstat.preproc.lesions import LesionPlan, Lesions, brought_lesion
from vbmstat.preproc.results import NO_LESIONS, Prepared, Preprocessed, Segmented
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.steps import bias, brain, linear, quality, working
from vbmstat.preproc.steps.lesions import Evidence
from vbmstat.preproc.steps.warp import Warp
from vbmstat.preproc.templates import find_template
from vbmstat.progress import OnStep, ignore

_PYRAMID_MM = 2.0  # voxel size of the template brain in the linear registration
_LEAST_CONTRAST = 0.05  # of WM; usable T1w scans have 15 % and more
_HOT, _N_SAMPLED = 5.0, 4 * 10**6  # in 22 real scans no voxel is 4 times as bright as the 99.9th percentile
_TEMPLATE_BRAIN_FROM = 0.05  # intensity of the average brain, 0 to 1
_CLASSIC = Classic()
_DEFAULT = PreprocSpec()


def preprocess_scan(
    t1w: Volume, spec: PreprocSpec = _DEFAULT, on_step: OnStep = ignore, lesion_mask: Volume | None = None
) -> Preprocessed:
    """Preprocess one scan.

    Parameters
    ----------
    t1w : Volume
        T1-weighted scan, RAS+, one channel, any intensity unit; whole head or skull-stripped.
    spec : PreprocSpec
        Engine, device and smoothing widths.
    on_step : callable
        Called with the name of each step when it begins.
    lesion_mask : Volume, optional
        A lesion that the user brings, above 0.5, in the scan's space. One that cannot be used is left out, with a note.

    Raises
    ------
    ScanError
        If the image is constant or not finite, or no brain is found that fits the template.
    AssetError
        If the engine lacks a package or weights.
    """
    device, engine = choose_device(spec.device), spec.find_engine()
    segmented = segment_scan(t1w, engine, device, on_step, spec.lesion_plan(lesion_mask))
    clock = Clock(on_step, segmented.seconds)
    with torch.inference_mode():
        with clock.step("warp"):
            warp = register_tissues(segmented, engine)
        return in_template_space(segmented, warp, spec, clock)


def register_tissues(segmented: Segmented, engine: Classic) -> Warp:
    """The warp of a scan's tissues to the standard template, from its linear matrix and coarse velocity."""
    template, lesions = engine.find_template(segmented.fractions.data.device), segmented.lesions
    tissues = Volume(lesions.for_warp(segmented.fractions.data), segmented.fractions.grid)
    aligned = working.align_to_template(tissues, template.tissues, segmented.linear, lesions.weights)
    return template.in_standard(engine.register(aligned, template.tissues, segmented.velocity))


def in_template_space(segmented: Segmented, warp: Warp, spec: PreprocSpec, clock: Clock) -> Preprocessed:
    """Maps of a segmented scan in template space by its linear matrix and a warp, and their quality."""
    template = template_on(segmented.fractions.data.device)
    with clock.step("normalise"):
        maps = segmented.maps
        points, grid = deform.deformation(warp.forward, segmented.linear), spec.grid_of_maps(template.grid)
        warped, modulated = normalise(maps, points, grid)
        smoothed = smooth_maps(modulated, spec.fwhm_mm)
        gm_wm = Volume(warped.data[:2], grid)
        if not grid.matches(template.grid):
            gm_wm = deform.pull(Volume(maps.data[:2], maps.grid), points)
        determinant = warp.forward.jacobian_determinant
        measures = quality.measure_quality(segmented.image, gm_wm, template, determinant, segmented.linear)
    return Preprocessed(segmented, warp, warped, modulated, smoothed, measures, clock.seconds)


def normalise(tissues: Volume, points: Volume, grid: Grid) -> tuple[Volume, Volume]:
    """Tissue maps in template space, warped (wp) and modulated (mwp).

    ``mwp = wp · |det J|`` with J of the linear and nonlinear part together, so that the sum of a modulated map times
    the voxel volume is the tissue's volume in the scan (CAT12's convention).

    Parameters
    ----------
    tissues : Volume
        Fractions in the scan's space, any number of channels.
    points : Volume, (3, X, Y, Z)
        Scan point (RAS+ mm) of each voxel of the template.
    grid : Grid
        Grid of the results.
    """
    both = deform.pull(tissues, points, grid, n_amounts=len(tissues.data)).data
    return Volume(both[: len(tissues.data)], grid), Volume(both[len(tissues.data) :], grid)


def smooth_maps(modulated: Volume, fwhm_mm: Sequence[float]) -> dict[float, Volume]:
    """Modulated maps smoothed by each width, mm, from the values on disk: the same now as in a later run."""
    stored = Volume(torch.round(modulated.data / MAP_STEP) * MAP_STEP, modulated.grid)
    return {width: smooth_map(stored, width) for width in fwhm_mm}


def segment_scan(
    t1w: Volume,
    engine: Classic = _CLASSIC,
    device: torch.device | str = "cpu",
    on_step: OnStep = ignore,
    lesion_plan: LesionPlan = NO_LESIONS.plan,
) -> Segmented:
    """Preprocess one scan up to its tissues, which is all that volumes need.

    Parameters
    ----------
    t1w, on_step
        As in :func:`preprocess_scan`, whose first part this is; so are the errors.
    engine : Classic
        The engine with its weights.
    device : torch.device or str
        Device to compute on.
    lesion_plan : LesionPlan
        What to do about lesions.
    """
    engine.parameters()  # raises before any work if a package or weights are missing
    clock = Clock(on_step)
    with torch.inference_mode():
        prepared = prepare_scan(t1w, engine, torch.device(device), clock, lesion_plan)
        with clock.step("priors"):
            template = engine.find_template(device).tissues
            start = engine.start(prepared.raw, prepared.work, template, prepared.linear)
        return segment_prepared(prepared, start, engine, clock)


def prepare_scan(
    t1w: Volume, engine: Classic, device: torch.device, clock: Clock, lesion_plan: LesionPlan = NO_LESIONS.plan
) -> Prepared:
    """Check a scan, find its brain, register it linearly and denoise it; parameters as in :func:`segment_scan`."""
    t1w = Volume(_checked(t1w).to(device), t1w.grid)
    with clock.step("brain"):
        was_stripped = brain.is_stripped(t1w)
        mask = (brain.stripped_mask(t1w) if was_stripped else brain.extract_brain(t1w, device)).to(device)
        lesion, notes = brought_lesion(lesion_plan, t1w.grid, mask)
        weights = None if lesion is None else 1 - lesion.float()
        mask = mask if lesion is None else mask | lesion  # a cavity at the brain's edge belongs to the brain
    with clock.step("affine"):
        matrix = linear.register_brain(t1w, mask, template_pyramid(device), weights)
    raw = working.crop_to_brain(t1w, mask, weights)
    with clock.step("denoise"):
        work = working.bound_voxels(engine.denoise(raw))
    brought = None if work.weights is None else 1 - work.weights
    lesions = Lesions(replace(lesion_plan, mask=None), brought=brought, notes=notes)
    return Prepared(t1w, raw, work, matrix, was_stripped, lesions)


def segment_prepared(
    prepared: Prepared, start: Start, engine: Classic, clock: Clock, field_: torch.Tensor | None = None
) -> Segmented:
    """Tissues, lesions and image quality of a prepared scan.

    Parameters
    ----------
    prepared : Prepared
        The scan.
    start : Start
        Priors on the working grid, linear matrix and velocity.
    engine : Classic
        The engine with its weights.
    clock : Clock
        Where times of steps go.
    field_ : Tensor, (X, Y, Z), optional
        Bias field on the working grid; by default it is fitted.
    """
    work, grid = prepared.work, prepared.work.image.grid
    with clock.step("segment"):
        if field_ is None:
            field_ = bias.bias_field(work.image, work.mask, start.prior, work.weights)
        corrected = Volume(work.image.data / field_, grid)
        segmentation = engine.segment(corrected, work.mask, start, work.weights)
        _check_contrast(segmentation.means)
        in_brain = Volume(corrected.data * work.mask / float(segmentation.means[2]), grid)
    lesions = prepared.lesions
    if lesions.plan.wmh:
        with clock.step("lesions"):
            evidence = Evidence(in_brain, segmentation.fractions, start.prior, start.linear, prepared.t1w)
            lesions = lesions.search(evidence)
    fractions = Volume(lesions.into_tissues(segmentation.fractions), grid)
    with clock.step("quality"):
        image = quality.measure_image(prepared.raw.image, fractions, Volume(field_[None], grid))
    apart_ml = sum(Volume(segmentation.fractions, grid).sums_ml) - sum(fractions.sums_ml)
    return Segmented(
        fractions, in_brain, start.linear, start.velocity, image, prepared.t1w.grid, prepared.was_stripped,
        engine.name, clock.seconds, lesions, apart_ml,
    )  # fmt: skip


def template_on(device: torch.device) -> Volume:
    """GM and WM of the standard template, on a device."""
    return find_template(None, device).tissues


class Clock:
    """Wall time of named steps."""

    def __init__(self, on_step: OnStep, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})
        self._on_step = on_step

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Report a step and take its time."""
        self._on_step(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def _checked(t1w: Volume) -> torch.Tensor:
    """The scan's data from 0 at no signal, hot voxels clamped; refuses images that cannot be of a head."""
    data = t1w.data
    if not torch.isfinite(data).all():
        msg = "expected finite intensities, but some voxels are NaN or infinite; set them to the background value"
        raise ScanError(msg)
    if float(data.max()) == float(data.min()):
        msg = f"expected a T1w image, but every voxel is {float(data.max()):g}; the file is empty"
        raise ScanError(msg)
    extent = np.array(t1w.grid.shape) * t1w.grid.voxel_size_mm
    if extent.min() < 80 or extent.max() > 600:
        msg = (
            f"expected a field of view of 80 to 600 mm along each axis, got {extent.round().astype(int)} mm; "
            "check the voxel size in the header"
        )
        raise ScanError(msg)
    data = brain.from_zero(t1w)
    limit = _HOT * _brightest(data)
    return data.clamp(max=limit) if float(data.max()) > limit else data


def _brightest(data: torch.Tensor) -> float:
    """The 99.9th percentile of an image's positive values, or infinity if it has none."""
    sample = data.flatten()[:: max(1, data.numel() // _N_SAMPLED)]
    positive = sample[sample > 0]
    return float(np.quantile(positive.cpu().numpy(), 0.999)) if len(positive) else float("inf")


def _check_contrast(means: torch.Tensor) -> None:
    """Refuse images without T1w contrast: T2w, FLAIR, phantoms, noise."""
    csf, gm, wm = (float(mean) for mean in means)
    if not csf < gm < (1 - _LEAST_CONTRAST) * wm:
        msg = (
            f"expected T1w contrast (CSF darker than GM, GM darker than WM by {100 * _LEAST_CONTRAST:.0f} %), got "
            f"mean intensities CSF {csf:.3g}, GM {gm:.3g}, WM {wm:.3g}; is this a T1-weighted scan?"
        )
        raise ScanError(msg)


@cache
def template_pyramid(device: torch.device) -> linear.Pyramid:
    """The template brain for the linear registration; cached for all scans of a run."""
    brain_ = io.read_volume(assets.asset_path("template-brain"))  # not kept: it is of 190 MB
    grid = brain_.grid.with_voxel_size(_PYRAMID_MM)
    low_passed = smooth_onto(brain_.data, brain_.grid, grid, np.full(3, _PYRAMID_MM / 0.5 - 1), 2.0)
    image = Volume(low_passed.to(device), grid)
    return linear.pyramid(image, image.data[0] > _TEMPLATE_BRAIN_FROM)
