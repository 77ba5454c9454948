"""The order of the steps: one T1w scan in, maps, volumes and quality out. Nothing else knows this order.

Engines share it; they differ in how they denoise, segment and warp (3, 5 and 6). In place of 4, `deep` asks networks,
which see the brain as it came; what they say of a coarse view is the prior of 5, and of the paper's 0.5 mm, its result.

1. brain mask (deepbet, or the scan's own if it came stripped)
2. affine to the template from shape and contrast
3. denoising
4. at 2 mm: bias, tissues with affine priors, coarse warp; and again with the warped priors
5. at full resolution: bias and tissues with the warped priors; what is implausible is moved; quality of the image
   (:func:`segment_scan` ends here: volumes need no more)
6. the warp, coarse to fine, from the tissues
7. normalisation, modulation, smoothing, quality
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from vbmstat import assets
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.grid import Grid, resample
from vbmstat.preproc.engines import cat, deep
from vbmstat.preproc.steps import (
    bias,
    brain,
    cleanup,
    denoise,
    linear,
    modulate,
    priors,
    quality,
    smooth,
    tissue,
    warp,
    working,
)  # fmt: skip
from vbmstat.volume import Displacement, Volume

FWHM_MM = 6.0
_DRAFT_MM = 2.0
_LEAST_PRIOR = 0.02  # of each tissue, where networks' fractions are priors of the bias field
_LEAST_CONTRAST = 0.05  # of WM; usable T1w scans have 15 % and more
_HOT, _N_LOOKED_AT = 5.0, 4 * 10**6  # no voxel of 22 real scans is 4 times as bright as their 99.9th percentile
_TEMPLATE_BRAIN_FROM = 0.05  # intensity of the average brain, 0 to 1


@dataclass(frozen=True)
class _Engine:
    """What engines do differently."""

    denoise: Callable[[torch.Tensor, float], torch.Tensor]  # image, sigma of its noise
    segment: Callable[[Volume, torch.Tensor, torch.Tensor], tissue.Segmentation]  # corrected brain, mask, priors
    register: Callable[[Volume, Volume, torch.Tensor], warp.Warp]  # aligned tissues, template, draft velocity
    parameters: Callable[[], dict[str, Any]] = dict  # for the sidecar; raises AssetError if not installed


_ENGINES = {
    "classic": _Engine(denoise.denoise, tissue.segment, warp.register_both_ways),
    "cat": _Engine(cat.denoise, cat.segment, cat.register, cat.parameters),
}
DEEP = "deep"
ENGINES = (*_ENGINES, DEEP)


def engine_parameters(name: str, weights: str = deep.DEFAULT_WEIGHTS) -> dict[str, Any]:
    """What the sidecar records of an engine beside its name, after making sure that it can run.

    Parameters
    ----------
    name : {"classic", "cat", "deep"}
        The engine.
    weights : str
        Of `deep`: ``deepmriprep``, ``vbmstat`` or a folder.

    Raises
    ------
    VbmstatError
        If there is no engine of that name.
    AssetError
        If it needs an extra that is not installed, or weights that are not there.
    """
    if name not in ENGINES:
        msg = f"expected engine {', '.join(ENGINES[:-1])} or {ENGINES[-1]}, got {name!r}"
        raise VbmstatError(msg)
    return deep.parameters(weights) if name == DEEP else _ENGINES[name].parameters()


@dataclass(frozen=True)
class Segmented:
    """What an engine makes of one scan up to its tissues, before the warp.

    Attributes
    ----------
    fractions : Volume
        GM, WM, CSF fractions on the working grid: the brain's box in the scan, voxels of 0.7 to 1.5 mm.
    work : Volume
        Bias-corrected, denoised brain on that grid, WM at 1; zero outside the brain.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    velocity : Tensor, (3, X, Y, Z)
        Coarse velocity on the template's grid, where the warp starts.
    image : ImageQuality
        Figures of the scan as it came.
    scan_grid : Grid
        The scan's own grid.
    was_stripped : bool
        Whether the scan came without skull.
    engine : str
        Name of the engine.
    seconds : dict
        Wall time of each step.
    """

    fractions: Volume
    work: Volume
    linear: np.ndarray
    velocity: torch.Tensor
    image: quality.ImageQuality
    scan_grid: Grid
    was_stripped: bool
    engine: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def volumes_ml(self) -> tuple[float, float, float]:
        """GM, WM, CSF volume in the scan's space; their sum is the TIV."""
        gm_ml, wm_ml, csf_ml = self.fractions.sums_ml
        return gm_ml, wm_ml, csf_ml

    @property
    def tissues(self) -> Volume:
        """GM, WM, CSF fractions on the scan's own grid (p1, p2, p3)."""
        return Volume(working.on_scan_grid(self.fractions, self.scan_grid), self.scan_grid)

    @property
    def label(self) -> Volume:
        """CAT12's p0 on the scan's own grid, as :attr:`Preprocessed.label`."""
        return _label(self.tissues)

    @property
    def corrected(self) -> Volume:
        """The brain of :attr:`work` on the scan's own grid."""
        return Volume(working.on_scan_grid(self.work, self.scan_grid), self.scan_grid)


@dataclass(frozen=True)
class Preprocessed:
    """What an engine makes of one scan.

    Attributes
    ----------
    tissues : Volume
        GM, WM, CSF fractions on the scan's own grid (p1, p2, p3).
    corrected : Volume
        Bias-corrected, denoised scan on its own grid, WM at 1; zero outside the brain.
    warped, modulated, smoothed : Volume
        GM, WM, CSF on the template's grid (wp, mwp, s6mwp).
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    displacement : Displacement
        Template point -> affinely aligned scan point, mm.
    deformation, inverse_deformation : Volume
        SPM's ``y_`` (template grid, scan mm) and ``iy_`` (the brain's box in the scan, template mm).
    gm_ml, wm_ml, csf_ml, tiv_ml : float
        Volumes in the scan's space; TIV is the sum of the three.
    quality : Quality
        Figures of the scan and its preprocessing.
    was_stripped : bool
        Whether the scan came without skull.
    engine : str
        Name of the engine.
    seconds : dict
        Wall time of each step.
    """

    tissues: Volume
    corrected: Volume
    warped: Volume
    modulated: Volume
    smoothed: Volume
    linear: np.ndarray
    displacement: Displacement
    deformation: Volume
    inverse_deformation: Volume
    gm_ml: float
    wm_ml: float
    csf_ml: float
    tiv_ml: float
    quality: quality.Quality
    was_stripped: bool
    engine: str
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def label(self) -> Volume:
        """CAT12's p0: CSF 1, GM 2, WM 3, mixtures between; 0 outside the brain."""
        return _label(self.tissues)


def preprocess_scan(
    t1w: Volume,
    device: torch.device | str = "cpu",
    on_step: Callable[[str], None] = lambda _: None,
    engine: str = "classic",
    weights: str = deep.DEFAULT_WEIGHTS,
) -> Preprocessed:
    """Run an engine on one scan.

    Parameters
    ----------
    t1w : Volume
        T1-weighted scan, RAS+, one channel, any intensity unit; whole head or stripped.
    device : torch.device or str
        Where to compute.
    on_step : callable
        Told the name of each step when it begins.
    engine : {"classic", "cat", "deep"}
        Who denoises, segments and warps; the rest is the same.
    weights : str
        Networks of `deep`: ``deepmriprep``, ``vbmstat`` or a folder.

    Raises
    ------
    ScanError
        If the image is constant, not finite in most voxels, or no brain is found that fits the template.
    VbmstatError
        If there is no such engine, or it is not installed.
    """
    device = torch.device(device)
    segmented = segment_scan(t1w, device, on_step, engine, weights)
    clock = _Clock(on_step, segmented.seconds)
    affine, fractions = segmented.linear, segmented.fractions
    with torch.inference_mode():
        template = Volume(assets.template().data.to(device), assets.template().grid)
        with clock.step("warp"):
            aligned = working.align_to_template(fractions, template, affine)
            if engine == DEEP:
                moved, inverse = deep.register(aligned, template, deep.networks(weights, device))
            else:
                moved, inverse = _ENGINES[engine].register(aligned, template, segmented.velocity)
        with clock.step("normalise"):
            warped, modulated = modulate.normalise(fractions, moved, affine)
            smoothed = smooth.smooth_map(modulated, FWHM_MM)
        with clock.step("native"):
            determinant = modulate.jacobian_determinant(moved)
            gm_wm = Volume(warped.data[:2], warped.grid)
            gm_ml, wm_ml, csf_ml = segmented.volumes_ml
            return Preprocessed(
                tissues=segmented.tissues, corrected=segmented.corrected, warped=warped, modulated=modulated,
                smoothed=smoothed, linear=affine,
                displacement=moved, deformation=modulate.deformation(moved, affine),
                inverse_deformation=modulate.inverse_deformation(inverse, affine, fractions.grid),
                gm_ml=gm_ml, wm_ml=wm_ml, csf_ml=csf_ml, tiv_ml=gm_ml + wm_ml + csf_ml,
                quality=quality.measure_quality(segmented.image, gm_wm, template, determinant, affine),
                was_stripped=segmented.was_stripped, engine=engine, seconds=clock.seconds,
            )


def segment_scan(
    t1w: Volume,
    device: torch.device | str = "cpu",
    on_step: Callable[[str], None] = lambda _: None,
    engine: str = "classic",
    weights: str = deep.DEFAULT_WEIGHTS,
) -> Segmented:
    """Run an engine on one scan as far as the tissues: all that volumes need.

    Parameters and errors are those of :func:`preprocess_scan`, of which this is the first part.
    """
    engine_parameters(engine, weights)
    device = torch.device(device)
    clock = _Clock(on_step)
    with torch.inference_mode():
        t1w = Volume(_checked(t1w).to(device), t1w.grid)
        template = Volume(assets.template().data.to(device), assets.template().grid)
        with clock.step("brain"):
            was_stripped = brain.is_stripped(t1w)
            mask = (brain.stripped_mask(t1w) if was_stripped else brain.extract_brain(t1w, device)).to(device)
        with clock.step("affine"):
            affine = linear.register_brain(t1w, mask, template_pyramid(device))
        raw = working.crop_to_brain(t1w, mask)
        if engine == DEEP:
            found = _found_by_networks(raw, template, affine, deep.networks(weights, device), clock)
        else:
            found = _found_by_steps(raw, template, affine, _ENGINES[engine], clock)
        with clock.step("quality"):
            image = quality.measure_image(raw.image, found.fractions, found.bias)
        return Segmented(
            found.fractions, found.work, found.linear, found.velocity, image, t1w.grid, was_stripped, engine,
            clock.seconds,
        )  # fmt: skip


@dataclass(frozen=True)
class _Found:
    """Between affine and quality; volumes on the working grid."""

    fractions: Volume
    work: Volume  # corrected brain, WM at 1
    bias: Volume
    linear: np.ndarray
    velocity: torch.Tensor


def _found_by_steps(raw: working.Brain, template: Volume, affine: np.ndarray, steps: _Engine, clock: _Clock) -> _Found:
    """Denoise, draft, bias and tissues."""
    with clock.step("denoise"):
        work = working.bound_voxels(_denoised(raw, steps.denoise))
    with clock.step("draft"):
        affine, velocity = _draft(work, template, affine)
    with clock.step("segment"):
        prior = _warped_priors(template, velocity, affine, work.image.grid)
        return _found_with_priors(work, prior, affine, velocity, steps.segment)


def _found_by_networks(
    raw: working.Brain, template: Volume, affine: np.ndarray, networks: deep.NetworkSet, clock: _Clock
) -> _Found:
    """What the networks say; of a coarse view it is the prior that the template gives to the other engines."""
    coarse = networks.tissue.is_coarse
    with clock.step("denoise"):
        work = working.bound_voxels(_denoised(raw, denoise.denoise) if coarse else raw)
    with clock.step("networks"):
        region = assets.template_brain().grid
        found = deep.segment(raw.image, raw.mask, affine, work.image.grid, region, networks) * work.mask
        affine = linear.refine_with_tissues(Volume(found[:2], work.image.grid), template, affine)
        still = torch.zeros(3, *warp.PADDED_SHAPE, device=found.device)
    with clock.step("segment"):
        prior = (priors.nuclei_as_gm(found, template, affine, work.image.grid) if coarse else found) + _LEAST_PRIOR
        as_found = None if coarse else found
        return _found_with_priors(work, prior / prior.sum(0), affine, still, tissue.segment, as_found)


def _found_with_priors(
    work: working.Brain,
    prior: torch.Tensor,
    affine: np.ndarray,
    velocity: torch.Tensor,
    segment: Callable[[Volume, torch.Tensor, torch.Tensor], tissue.Segmentation],
    fractions: torch.Tensor | None = None,
) -> _Found:
    """Bias field and, unless they are there, tissues of a brain with the priors of GM, WM and CSF."""
    field_ = bias.bias_field(work.image, work.mask, prior)
    corrected = Volume(work.image.data / field_, work.image.grid)
    if fractions is None:
        segmented = segment(corrected, work.mask, prior)
        means, fractions = segmented.means, cleanup.plausible(segmented.fractions, prior)
    else:
        means = _tissue_means(corrected.data, fractions)
    _check_contrast(means)
    in_brain = Volume(corrected.data * work.mask / float(means[2]), corrected.grid)
    return _Found(Volume(fractions, work.image.grid), in_brain, Volume(field_[None], in_brain.grid), affine, velocity)


def _tissue_means(image: torch.Tensor, fractions: torch.Tensor) -> torch.Tensor:
    """Mean intensity of CSF, GM and WM."""
    pure = fractions**4  # mixed voxels say little about a tissue's mean
    return ((pure * image).sum((1, 2, 3)) / pure.sum((1, 2, 3)).clamp(min=1e-6))[[2, 0, 1]]


def _label(tissues: Volume) -> Volume:
    gm, wm, csf = tissues.data
    return Volume((csf + 2 * gm + 3 * wm)[None], tissues.grid)


class _Clock:
    """Wall time of named steps."""

    def __init__(self, on_step: Callable[[str], None], seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})
        self._on_step = on_step

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._on_step(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)


def _checked(t1w: Volume) -> torch.Tensor:
    """The scan's data, hot voxels dimmed; refuses what is no image of a head."""
    data = t1w.data
    if not torch.isfinite(data).all():
        msg = "expected finite intensities, but some voxels are NaN or infinite; set them to the background's value"
        raise ScanError(msg)
    if float(data.max()) == float(data.min()):
        msg = f"expected a T1w image, but every voxel is {float(data.max()):g}; the file is empty"
        raise ScanError(msg)
    extent = np.array(t1w.grid.shape) * t1w.grid.voxel_size_mm
    if extent.min() < 80 or extent.max() > 600:
        msg = (
            f"expected a field of view that holds a brain (80 to 600 mm an axis), got {extent.round().astype(int)} mm; "
            "check the voxel size in the header"
        )
        raise ScanError(msg)
    limit = _HOT * _brightest(data)
    return data.clamp(max=limit) if float(data.max()) > limit else data


def _brightest(data: torch.Tensor) -> float:
    """The 99.9th percentile of an image's positive values, or infinity if it has none."""
    few = data.flatten()[:: max(1, data.numel() // _N_LOOKED_AT)]
    positive = few[few > 0]
    return float(np.quantile(positive.cpu().numpy(), 0.999)) if len(positive) else float("inf")


def _check_contrast(means: torch.Tensor) -> None:
    """Refuse what has no T1w contrast: T2w and FLAIR images, phantoms, noise."""
    csf, gm, wm = (float(mean) for mean in means)
    if not csf < gm < (1 - _LEAST_CONTRAST) * wm:
        msg = (
            f"expected T1w contrast (CSF darker than GM, GM darker than WM by {100 * _LEAST_CONTRAST:.0f} %), found "
            f"mean intensities CSF {csf:.3g}, GM {gm:.3g}, WM {wm:.3g}; is this a T1-weighted scan?"
        )
        raise ScanError(msg)


@cache
def template_pyramid(device: torch.device) -> linear.Pyramid:
    """The template brain as the affine registration wants it; kept for all scans of a run."""
    brain_ = assets.template_brain()
    grid = brain_.grid.with_voxel_size(_DRAFT_MM)
    low_passed = smooth.smooth(brain_.data, np.full(3, _DRAFT_MM / 0.5 - 1), 2.0)
    image = Volume(resample(low_passed, brain_.grid, grid).to(device), grid)
    return linear.pyramid(image, image.data[0] > _TEMPLATE_BRAIN_FROM)


def _denoised(raw: working.Brain, remove: Callable[[torch.Tensor, float], torch.Tensor]) -> working.Brain:
    image = raw.image.data[0]
    found = remove(image, denoise.noise_sigma(image, raw.mask))
    return working.Brain(Volume(found[None], raw.image.grid), raw.mask)


def _draft(work: working.Brain, template: Volume, affine: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
    """Refined affine and coarse velocity from a segmentation at 2 mm."""
    size = np.maximum(_DRAFT_MM, work.image.grid.voxel_size_mm)
    draft = working.resample_brain(work, work.image.grid.with_voxel_size(size))
    velocity: torch.Tensor | None = None
    for _ in range(2):
        prior = _warped_priors(template, velocity, affine, draft.image.grid)
        corrected = Volume(draft.image.data / bias.bias_field(draft.image, draft.mask, prior), draft.image.grid)
        fractions = Volume(tissue.segment(corrected, draft.mask, prior).fractions, draft.image.grid)
        if velocity is None:
            affine = linear.refine_with_tissues(Volume(fractions.data[:2], fractions.grid), template, affine)
        aligned = working.align_to_template(fractions, template, affine)
        velocity = warp.register(aligned, template, start=velocity, finest=False)
    return affine, velocity  # type: ignore[return-value]


def _warped_priors(template: Volume, velocity: torch.Tensor | None, affine: np.ndarray, grid: Grid) -> torch.Tensor:
    coordinates = None
    if velocity is not None:
        coordinates = modulate.inverse_deformation(warp.displacement(-velocity, template.grid), affine, grid)
    return priors.tissue_priors(template, affine, grid, coordinates)
