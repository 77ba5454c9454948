"""What computes on a device: every step and network with its arguments, and models, as cases for any device.

`tests/test_gpu.py` runs them on a pretend GPU, `benchmarks/gpu/run.py` on a real one and at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from vbmstat import assets
from vbmstat.image import deform
from vbmstat.image import grid as grids
from vbmstat.image import smooth as smoothing
from vbmstat.image import volume as volumes
from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc import lesions as lesion_plans
from vbmstat.preproc import templates
from vbmstat.preproc.engines import cat, classic, deep
from vbmstat.preproc.lesions import LesionPlan
from vbmstat.preproc.networks import (
    cascade,
    deep_t1_wmh,
    intensity,
    multilevel,
    patches,
    symnet,
    unet,
    weights,
)  # fmt: skip
from vbmstat.preproc.networks import lesions as lesion_networks
from vbmstat.preproc.steps import (
    bias,
    brain,
    cleanup,
    denoise,
    groupwise,
    histogram,
    left_out,
    lesion_mask,
    lesions,
    linear,
    linknet,
    priors,
    quality,
    reassign,
    tissue,
    warp,
    within_person,
    working,
)  # fmt: skip
from vbmstat.preproc.steps.lesions import Evidence
from vbmstat.preproc.steps.working import Brain
from vbmstat.tracts import network as tract_network


@dataclass(frozen=True)
class World:
    """A brain, skull-stripped, the template, and what the first steps make of them."""

    template: Volume
    t1w: Volume
    mask: torch.Tensor
    fractions: torch.Tensor
    priors: torch.Tensor
    velocity: torch.Tensor
    lesion: torch.Tensor
    linear: np.ndarray

    @property
    def device(self) -> torch.device:
        return self.mask.device

    @property
    def brain(self) -> Brain:
        return Brain(self.t1w, self.mask, 1 - self.lesion.float())

    @property
    def tissues(self) -> Volume:
        return Volume(self.fractions, self.t1w.grid)

    @property
    def evidence(self) -> Evidence:
        return Evidence(Volume(self.t1w.data / 100, self.t1w.grid), self.fractions, self.priors, self.linear, self.t1w)

    @property
    def aligned(self) -> Volume:
        return working.align_to_template(self.tissues, self.template, self.linear)

    @property
    def warped(self) -> warp.Warp:
        return warp.Warp(*(warp.displacement(sign * self.velocity, self.template.grid) for sign in (1, -1)))

    def put(self, data: Any) -> Any:
        """A module on the device, ready to predict."""
        return weights.ready(data, self.device)


def make_world(voxel_mm: float) -> World:
    """Tissues of the template as a scan of some voxel size, sharpened, with noise and a lesion; all on the CPU."""
    template = assets.template()
    grid = assets.template().grid.with_voxel_size(voxel_mm)
    fine = resample(smooth(template.data, np.maximum(grid.voxel_size_mm / template.grid.voxel_size_mm - 1, 0), 2.0),
                    template.grid, grid).clamp(0, 1)  # fmt: skip
    mask = smooth(fine.sum(0, keepdim=True), 8 / grid.voxel_size_mm, 3.0)[0] > 0.3
    pure = torch.cat([fine, (1 - fine.sum(0, keepdim=True)).clamp(0, 1)]) ** 3
    fractions = pure / pure.sum(0) * mask
    source = torch.Generator().manual_seed(0)
    image = torch.tensordot(torch.tensor([70.0, 100.0, 25.0]), fractions, dims=1)
    mm = grids.apply_affine(grid.affine, grids.voxel_indices(grid.shape))
    lesion = ((mm - torch.tensor([-28.0, -20.0, 25.0]).reshape(3, 1, 1, 1)).square().sum(0) < 100) & mask
    image = (torch.where(lesion, 65.0, image) + 2 * torch.randn(image.shape, generator=source)).clamp(min=1) * mask
    prior = priors.tissue_priors(template, np.eye(4), grid)
    velocity = smooth(3 * torch.randn(3, *warp.PADDED_SHAPE, generator=source), np.full(3, 4.0))
    linear_ = np.array([[1.02, 0.02, 0, 1], [-0.02, 0.99, 0, 2], [0, 0, 1.01, -1], [0, 0, 0, 1]])
    return World(template, Volume(image[None], grid), mask, fractions, prior, velocity, lesion, linear_)


def on_device(value: Any, device: torch.device | str) -> Any:
    """Tensors in dataclasses, tuples and lists on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        return replace(value, **{name: on_device(part, device) for name, part in parts.items()})
    if isinstance(value, tuple | list):
        parts = [on_device(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def numbers(value: Any) -> list[np.ndarray]:
    """All numbers in a result, as arrays of the CPU."""
    if isinstance(value, torch.Tensor):
        return [value.detach().cpu().numpy()]
    if isinstance(value, Mapping):
        return [one for part in value.values() for one in numbers(part)]
    if is_dataclass(value) and not isinstance(value, type):
        return [one for part in fields(value) for one in numbers(getattr(value, part.name))]
    if isinstance(value, tuple | list):
        return [one for part in value for one in numbers(part)]
    return [np.asarray(value)] if isinstance(value, bool | int | float | np.ndarray | np.generic) else []


@contextmanager
def coarse() -> Iterator[None]:
    """The template at 6 mm and few iterations: seconds instead of minutes, through the same code."""
    fine, grid = assets.template(), assets.template().grid.with_voxel_size(6.0)
    template = Volume(resample(smooth(fine.data, np.full(3, 3.9), 2.0), fine.grid, grid), grid)
    view = fine.grid.with_voxel_size(3.0)
    head = torch.tensordot(torch.tensor([0.7, 1.0]), resample(smooth(fine.data, np.ones(3), 2.0), fine.grid, view), 1)

    lesion_view = Grid((64, 64, 16), deep_t1_wmh.VIEW.affine @ np.diag([2.9, 3.2, 4.5, 1.0]))

    def importance(shape: tuple[int, int, int] = (16, 16, 16), sigma: float = 4.0) -> torch.Tensor:
        return patches.importance(shape, sigma)

    changes = {
        "vbmstat.assets.template": lambda: template, "vbmstat.assets.template_brain": lambda: Volume(head[None], view),
        "vbmstat.preproc.steps.warp.PADDED_SHAPE": (32, 40, 32),
        "vbmstat.preproc.steps.warp._LEVELS": ((4, 2), (2, 2), (1, 1)),
        "vbmstat.preproc.steps.warp._N_CONJUGATE_GRADIENT": 2,
        "vbmstat.preproc.steps.working._COARSEST_MM": 10.0, "vbmstat.preproc.engines.classic._DRAFT_MM": 6.0,
        "vbmstat.preproc.steps.linear._START_PITCH": (0.0,), "vbmstat.preproc.steps.linear._START_ROLL": (0.0,),
        "vbmstat.preproc.steps.linear._START_YAW": (0.0, 0.2), "vbmstat.preproc.steps.linear._KEPT_STARTS": 1,
        "vbmstat.preproc.steps.bias._FWHM_SCHEDULE_MM": (90.0, 40.0), "vbmstat.preproc.steps.tissue._N_ROUNDS": 2,
        "vbmstat.preproc.steps.denoise._SEARCH_RADIUS": 1, "vbmstat.preproc.steps.brain._BOX_SHAPE": (16, 16, 16),
        "vbmstat.preproc.steps.brain._BRAIN_SHAPE": (32, 32, 32), "vbmstat.preproc.networks.deep_t1_wmh._WIDTH": 2,
        "vbmstat.preproc.networks.deep_t1_wmh._WIDE": 2, "vbmstat.preproc.networks.deep_t1_wmh._NARROW": 2,
        "vbmstat.preproc.networks.deep_t1_wmh.VIEW": lesion_view,
        "vbmstat.preproc.networks.lesions.OWN_VOXELS_MM": (0.75, 10.0),
        "vbmstat.preproc.networks.cascade.PATCH_SHAPE": (16, 16, 16),
        "vbmstat.preproc.networks.cascade.importance": importance,
    }  # fmt: skip
    with ExitStack() as stack:
        for name, value in changes.items():
            stack.enter_context(mock.patch(name, value))
        yield


def _network(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


class Brightest(torch.nn.Module):
    """In place of deepbet's networks: what is brighter than most of the image is brain."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image > image.mean()).float()


def small_set(w: World, patched: bool = True, refine: bool = False) -> weights.NetworkSet:
    """All kinds of networks with few random weights, on the world's device."""
    made = [w.put(_network(partial(weights.build_network, kind, {"n_channels": 2, "depth": 2})))
            for kind in ("segmentation", "patches", "gm-mask", "registration")]  # fmt: skip
    positions = tuple(patches.regular_positions((48, 48, 40), (16, 16, 16))) if patched else ()
    cascaded = cascade.TissueNetworks(
        made[0], (24, 24, 24), (made[1],) * 18 if patched else (), positions, made[2], (24, 24, 24)
    )
    return weights.NetworkSet(cascaded, made[3], refine, {}, (24, 24, 24))


def _region(w: World) -> Grid:
    grid = w.template.grid
    return cascade.view_grid(grid, (48, 48, 40))


class CatSurf:
    """In place of CAT12's compiled functions, which compute on arrays."""

    @staticmethod
    def vol_sanlm(image: np.ndarray) -> np.ndarray:
        return image

    @staticmethod
    def vol_blood_vessel_correction(image: np.ndarray, size: np.ndarray) -> np.ndarray:
        return image

    @staticmethod
    def vol_amap(image: np.ndarray, labels: np.ndarray, **_: Any) -> tuple[np.ndarray, None, np.ndarray]:
        pure = np.array([image[labels == k].mean() for k in (1, 2, 3)])
        states = np.stack([labels == k for k in (1, -1, 2, -1, 3)], axis=-1)
        return states, None, np.array([pure[0], pure[:2].mean(), pure[1], pure[1:].mean(), pure[2]])

    @staticmethod
    def vol_shoot(gm: np.ndarray, *_: Any, **__: Any) -> dict[str, np.ndarray]:
        at = np.stack(np.meshgrid(*map(np.arange, gm.shape), indexing="ij"), axis=-1).astype(float)
        at[0, 0, 0] = np.nan
        return {"y": at, "iy": at}


def _through_cat(work: Callable[[], Any]) -> Any:
    with mock.patch.object(cat, "_cat_surf", CatSurf):
        return work()


def _extracted(w: World) -> torch.Tensor:
    with mock.patch.object(brain, "_networks", return_value=(w.put(Brightest()), w.put(Brightest()))):
        return brain.extract_brain(w.t1w, w.device)


def _probable(w: World) -> torch.Tensor:
    weights_ = {name: weight.to(w.device) for name, weight in brain.network_weights("deepbet-box", "cpu").items()}
    return linknet.brain_probability(weights_, torch.nn.functional.interpolate(w.t1w.data[None], (32, 32, 64)))


def _slices(w: World) -> tract_network.SliceUNet:
    settings = {"kind": "tracts", "tracts": ["a", "b"], "n_channels": 2, "depth": 2}
    return _network(lambda: tract_network.build_tract_network(settings)).eval().to(w.device)


_POSES = [np.eye(4), np.array([[1.0, 0.02, 0, 1], [-0.02, 1.0, 0, 2], [0, 0, 1, -1], [0, 0, 0, 1]])]


def _visits(w: World) -> list[Brain]:
    return [w.brain, Brain(w.t1w, w.mask)]


def _both(w: World) -> torch.Tensor:
    return torch.cat([w.aligned.data, w.template.data])[None]


# Function -> what is computed of a world on any device. A function in a class is named there.
CASES: dict[Callable[..., Any], Callable[[World], Any]] = {
    grids.voxel_indices: lambda w: grids.voxel_indices((3, 4, 5), w.device),
    grids.apply_affine: lambda w: grids.apply_affine(w.linear, w.velocity),
    grids.sample: lambda w: grids.sample(w.t1w.data, grids.voxel_indices((5, 6, 7), w.device) * 3.3),
    grids.sample_displaced: lambda w: grids.sample_displaced(w.velocity, w.velocity / 4, "border"),
    grids.sample_batch: lambda w: symnet.pull(w.t1w.data[None], 0.3 * w.fractions[None]),
    grids.from_normalised: lambda w: grids.from_normalised(w.fractions[None]),
    grids.resample: lambda w: resample(w.t1w.data, w.t1w.grid, w.template.grid, w.linear),
    smoothing.smooth: lambda w: smooth(w.t1w.data, np.array([1.0, 2.0, 0.0])),
    smoothing.smooth_onto: lambda w: smoothing.smooth_onto(
        w.t1w.data, w.t1w.grid, w.t1w.grid.with_voxel_size(4.0), np.full(3, 2.0)),
    smoothing.smooth_map: lambda w: smoothing.smooth_map(w.t1w, 8.0),
    volumes.jacobian_determinant: lambda w: w.warped.forward.jacobian_determinant,
    brain.is_stripped: lambda w: brain.is_stripped(w.t1w),
    brain.from_zero: lambda w: brain.from_zero(Volume(w.t1w.data - 1000.0, w.t1w.grid)),
    brain.stripped_mask: lambda w: brain.stripped_mask(w.t1w),
    brain.extract_brain: _extracted,
    linknet.brain_probability: _probable,
    linear.pyramid: lambda w: linear.pyramid(w.t1w, w.mask, w.brain.weights),
    linear.shape_and_contrast: lambda w: linear.shape_and_contrast(w.t1w, w.mask, w.brain.weights),
    linear.at_spacing: lambda w: linear.at_spacing(w.t1w, 9.0),
    linear.register_brain: lambda w: linear.register_brain(
        w.t1w, w.mask, linear.pyramid(w.t1w, w.mask), w.brain.weights
    ),
    linear.refine_with_tissues: lambda w: linear.refine_with_tissues(
        Volume(w.fractions[:2], w.t1w.grid), w.template, w.linear
    ),
    working.crop_to_brain: lambda w: working.crop_to_brain(w.t1w, w.mask, w.brain.weights),
    working.bound_voxels: lambda w: working.bound_voxels(w.brain),
    working.resample_brain: lambda w: working.resample_brain(w.brain, w.template.grid),
    working.align_to_template: lambda w: working.align_to_template(w.tissues, w.template, w.linear, w.brain.weights),
    working.gm_wm_to_fit: lambda w: working.gm_wm_to_fit(w.tissues, w.brain.weights),
    working.on_scan_grid: lambda w: [working.on_scan_grid(w.t1w, grid) for grid in (w.t1w.grid, w.template.grid)],
    denoise.noise_sigma: lambda w: denoise.noise_sigma(w.t1w.data[0], w.mask),
    denoise.denoise: lambda w: denoise.denoise(w.t1w.data[0], 2.0),
    histogram.histogram_classes: lambda w: histogram.histogram_classes((w.t1w.data[0][w.mask] + 1.0).log()),
    histogram.gaussian: lambda w: histogram.gaussian(w.t1w.data, w.fractions.mean(), w.fractions.std()),
    histogram.have_t1w_contrast: lambda w: histogram.have_t1w_contrast(w.t1w.data[0], w.fractions),
    bias.bias_field: lambda w: bias.bias_field(w.t1w, w.mask, w.priors, w.brain.weights),
    priors.tissue_priors: lambda w: [
        priors.tissue_priors(w.template, w.linear, w.t1w.grid, at)
        for at in (None, deform.inverse_deformation(w.warped.inverse, w.linear, w.t1w.grid))
    ],
    priors.soften: lambda w: priors.soften(w.tissues, w.mask, w.priors),
    priors.nuclei_as_gm: lambda w: priors.nuclei_as_gm(w.fractions, w.template, w.linear, w.t1w.grid),
    tissue.segment: lambda w: tissue.segment(w.t1w, w.mask, w.priors, w.brain.weights),
    cleanup.plausible: lambda w: cleanup.plausible(w.fractions, w.priors),
    left_out.average_known: lambda w: left_out.average_known(w.fractions, lambda x: smooth(x, np.full(3, 2.0))),
    lesion_mask.lesion_on_grid: lambda w: lesion_mask.lesion_on_grid(
        Volume(w.lesion[None].float(), w.t1w.grid), w.template.grid
    ),
    lesion_mask.check_lesion: lambda w: lesion_mask.check_lesion(w.lesion, w.mask),
    lesions.find_lesions: lambda w: lesions.find_lesions(w.evidence),
    lesions.dark_in_white_matter: lambda w: lesions.dark_in_white_matter(w.evidence),
    lesions.beyond_walls: lambda w: lesions.beyond_walls(w.evidence),
    lesions.enclosed: lambda w: lesions.enclosed(w.lesion, w.lesion, w.mask),
    lesions.without_specks: lambda w: lesions.without_specks(w.lesion.float(), w.t1w.grid.voxel_size_mm),
    reassign.lesion_share: lambda w: reassign.lesion_share(w.lesion.float(), w.fractions),
    reassign.without_lesion: lambda w: reassign.without_lesion(w.fractions, w.lesion.float()),
    reassign.lesion_as_wm: lambda w: reassign.lesion_as_wm(w.fractions, w.lesion.float()),
    lesion_plans.brought_lesion: lambda w: lesion_plans.brought_lesion(
        LesionPlan(mask=Volume(w.lesion[None].float().cpu(), w.t1w.grid)), w.t1w.grid, w.mask
    ),
    warp.register: lambda w: warp.register(w.aligned, w.template),
    warp.register_both_ways: lambda w: warp.register_both_ways(w.aligned, w.template, w.velocity),
    warp.displacement: lambda w: warp.displacement(w.velocity, w.template.grid).data,
    deform.exponential: lambda w: deform.exponential(w.velocity),
    warp.pad: lambda w: warp.pad(w.template.data),
    warp.reduce: lambda w: warp.reduce(warp.pad(w.template.data), 2),
    warp.enlarge: lambda w: warp.enlarge(w.velocity, 2),
    deform.composed: lambda w: deform.composed(w.warped.forward, w.warped.inverse).data,
    deform.deformation: lambda w: deform.deformation(w.warped.forward, w.linear),
    deform.inverse_deformation: lambda w: deform.inverse_deformation(w.warped.inverse, w.linear, w.t1w.grid),
    deform.pull: lambda w: deform.pull(w.tissues, deform.deformation(w.warped.forward, w.linear), n_amounts=1),
    deform.pull_labels: lambda w: deform.pull_labels(
        Volume(w.lesion[None].float(), w.t1w.grid), deform.deformation(w.warped.forward, w.linear)
    ),
    deform.determinant: lambda w: deform.determinant(deform.deformation(w.warped.forward, w.linear)),
    deform.inverse_of: lambda w: deform.inverse_of(w.warped.forward).data,
    deform.fit_linear: lambda w: deform.fit_linear(deform.deformation(w.warped.forward, w.linear)),
    deform.displacement_of: lambda w: deform.displacement_of(deform.deformation(w.warped.forward, w.linear)).data,
    templates.find_template: lambda w: templates.find_template(None, w.device).tissues,
    groupwise.align: lambda w: groupwise.align(_visits(w), _POSES),
    groupwise.bring: lambda w: groupwise.bring(
        _visits(w), groupwise.Alignment(w.template.grid, tuple(_POSES), tuple(_POSES), (0, 0))
    ),
    groupwise.differential_bias: lambda w: groupwise.differential_bias(
        torch.cat([w.t1w.data, 2 * w.t1w.data]), w.mask, w.t1w.grid
    ),
    groupwise.similarity: lambda w: groupwise.similarity(torch.cat([w.t1w.data, w.fractions[:1]]), w.mask),
    within_person.warps_to_mean: lambda w: [
        one.data for one in within_person.warps_to_mean([w.aligned, w.template], np.array([1.0, 2.0]))
    ],
    within_person.rate: lambda w: within_person.rate([w.aligned, w.template], [0.0, 2.0]),
    within_person.compose: lambda w: within_person.compose(w.warped.forward, w.warped.inverse).data,
    quality.measure_image: lambda w: quality.measure_image(w.t1w, w.tissues, Volume(w.mask[None] + 1.0, w.t1w.grid)),
    quality.measure_quality: lambda w: quality.measure_quality(
        quality.ImageQuality(3, 0.1, 40, 30, 1, 0, 0, 0), w.aligned, w.template, w.warped.forward.jacobian_determinant,
        w.linear,
    ),
    classic.without_implausible: lambda w: classic.without_implausible(
        tissue.Segmentation(w.fractions, w.priors[:, 0, 0, 0], 1.0), w.priors
    ),
    classic.warped_priors: lambda w: classic.warped_priors(w.template, w.velocity, w.linear, w.t1w.grid),
    deep.networks: lambda w: next(weights.find_set("vbmstat", w.device).tissue.whole.parameters()),
    deep.segment: lambda w: cascade.segment_tissue(w.t1w, w.mask, w.linear, _region(w), small_set(w).tissue),
    deep.register: lambda w: [
        deep.register(w.aligned, w.template, small_set(w, refine=refine)) for refine in (False, True)
    ],
    cat.denoise: lambda w: _through_cat(lambda: cat.denoise(w.t1w.data[0])),
    cat.segment: lambda w: _through_cat(lambda: cat.segment(w.t1w, w.mask, w.priors)),
    cat.register: lambda w: _through_cat(lambda: cat.register(w.aligned, w.template)),
    cascade.resample_low_passed: lambda w: cascade.resample_low_passed(
        w.t1w.data, w.t1w.grid, w.template.grid, w.linear
    ),
    cascade.segment_tissue: lambda w: cascade.segment_tissue(
        w.t1w, w.mask, w.linear, _region(w), small_set(w, patched=False).tissue
    ),
    cascade.run: lambda w: cascade.run(small_set(w).tissue.whole, w.t1w.data[None]),
    cascade.tissue_fractions: lambda w: cascade.tissue_fractions(3 * w.fractions[0]),
    cascade.without_gm: lambda w: cascade.without_gm(w.fractions, w.lesion),
    cascade.find_no_gm: lambda w: cascade.find_no_gm(3 * w.fractions[0], small_set(w).tissue.gm_mask),
    intensity.brain_range: lambda w: intensity.brain_range(w.t1w.data[0] * w.mask),
    intensity.scale_intensity: lambda w: intensity.scale_intensity(w.t1w.data, 10.0, 90.0),
    lesion_networks.positions: lambda w: lesion_networks.positions(w.linear, w.velocity),
    lesion_networks.network_inputs: lambda w: lesion_networks.network_inputs(w.evidence)[0],
    lesion_networks.find_network: lambda w: lesions.find_lesions(w.evidence, lesion_networks.LesionNetwork(
        w.put(_network(partial(weights.build_network, "wmh", {"n_channels": 2, "depth": 2}))), {}
    )),
    deep_t1_wmh.stretched: lambda w: deep_t1_wmh.PublishedNetwork(
        w.put(_network(deep_t1_wmh.DeepT1WMH)), {}
    )(w.evidence),
    patches.optimise_positions: lambda w: patches.optimise_positions([w.mask], (16, 16, 16)),
    symnet.predict: lambda w: symnet.predict(small_set(w).warp, w.aligned.data[None], w.template.data[None]),
    symnet.compose_warps: lambda w: symnet.compose_warps(symnet.Velocities(_both(w)[:, :3], _both(w)[:, 1:])),
    symnet.exponentiate: lambda w: symnet.exponentiate(_both(w)[:, :3]),
    symnet.pull: lambda w: symnet.pull(_both(w), _both(w)[:, :3]),
    weights.ready: lambda w: w.put(unet.UNet(1, 1, 2, 2).eval())(w.t1w.data[None]).shape,
    weights.load_network: lambda w: next(
        weights.load_network(weights.own_file(weights.shipped_folder(), "segmentation"), w.device)[0].parameters()
    ),
    tract_network.merge_orientations: lambda w: tract_network.merge_orientations(_slices(w), w.fractions),
    multilevel.MultilevelActivation: lambda w: w.put(multilevel.MultilevelActivation())(w.t1w.data),
}  # fmt: skip
HALF = {  # networks run in half precision on a GPU
    deep.segment, deep.register, cascade.segment_tissue, cascade.run, cascade.find_no_gm,
}  # fmt: skip
