"""Training cases from finished preprocessing runs (teachers) and from label maps with rendered images.

A teacher is an output folder of ``vbmstat preprocess --names cat12`` with any engine. Its corrected brain (m), tissue
map (p0) and deformation (y_) make a tissue case; GM and WM of p0 and the deformation make a registration case. A
whole-head label map gives exact tissue and any number of rendered images, each with its own shape, contrast, noise,
bias and blur.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from vbmstat import assets
from vbmstat.assets.provenance import find_file
from vbmstat.errors import VbmstatError
from vbmstat.files import naming
from vbmstat.files.warps import ScanWarp
from vbmstat.image import io, storage
from vbmstat.image.deform import displacement_of, fit_linear
from vbmstat.image.grid import Grid, apply_affine, resample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks.cascade import region_grid, resample_low_passed, tissue_fractions, view_grid
from vbmstat.preproc.networks.intensity import brain_range
from vbmstat.preproc.networks.patches import REGION_SHAPE
from vbmstat.preproc.pipeline import template_pyramid
from vbmstat.preproc.steps.linear import refine_with_tissues, register_brain
from vbmstat.progress import OnStep, ignore
from vbmstat.simulate.anatomy import random_displacement
from vbmstat.simulate.labels import tissue_labels
from vbmstat.simulate.render import render_t1w
from vbmstat.training.cases import Case
from vbmstat.training.registration import registration_grid
from vbmstat.training.velocity import find_velocities

_VELOCITY_MM = 3.0  # finest voxel size of stored velocities
_BRAIN_FROM = 0.1  # of the template's GM and WM: voxels for the linear fit to a deformation
_NO_GM_LABELS = (16, 4, 43, 5, 44, 14, 15, 72)  # brainstem, ventricles
_RENDER = {  # uniform ranges
    "noise_percent": (0.5, 6.0), "bias_percent": (0.0, 60.0), "psf_fwhm_mm": (0.5, 1.8), "contrast": (0.75, 1.35),
    "structure_sd": (0.01, 0.04),
}  # fmt: skip
_SHAPE_VOXEL_MM = 4.0  # voxel size of the displacement that deforms a label map


def view_of(voxel_size_mm: float) -> Grid:
    """View of the region with voxels of about this size; 0.75 mm gives the paper's whole view."""
    region = region_grid(assets.template_brain().grid)
    x, y, z = (round(n * 0.5 / voxel_size_mm) for n in REGION_SHAPE)
    return view_grid(region, (x, y, z))


def template_view(voxel_size_mm: float) -> Grid:
    """The template's field of view with voxels of about this size."""
    grid = assets.template().grid
    return registration_grid([round((n - 1) * 1.5 / voxel_size_mm) + 1 for n in grid.shape])


def tissue_arrays(brain: Volume, p0: Volume, linear: np.ndarray, view: Grid) -> dict[str, torch.Tensor]:
    """Arrays of a tissue case: a brain (zero outside) and its tissue map on a view of the template's region.

    Parameters
    ----------
    brain, p0 : Volume, (1, X, Y, Z)
        Both on the scan's grid.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    view : Grid
        Grid of the case.
    """
    fractions = tissue_fractions(p0.data[0])  # averaging fractions keeps a CSF-WM mixture from becoming GM
    gm, wm, csf = resample_low_passed(fractions, p0.grid, view, linear)
    target = (csf + 2 * gm + 3 * wm)[None]
    image = resample_low_passed(brain.data * (p0.data > 0), brain.grid, view, linear)
    return {"t1w": image / brain_range(image)[1], "p0": target}


def registration_arrays(gm_wm: Volume, deformation: Volume, view: Grid) -> dict[str, torch.Tensor]:
    """Arrays of a registration case: linearly aligned GM and WM, and the half velocity of their warp.

    The velocity is stored at 3 mm, or at the view's voxel size if that is coarser.

    Parameters
    ----------
    gm_wm : Volume, (2, X, Y, Z)
        GM and WM on the scan's grid.
    deformation : Volume, (3, X, Y, Z)
        ``y_``: scan point (mm) of each template voxel.
    view : Grid
        The template's field of view at the network's resolution.
    """
    linear = brain_linear(deformation)
    scan = resample_low_passed(gm_wm.data, gm_wm.grid, view, linear).clamp(0, 1)
    moved_mm = displacement_of(deformation, linear).data
    coarse = view if view.voxel_size_mm.mean() > _VELOCITY_MM else template_view(_VELOCITY_MM)
    moved = resample(moved_mm, deformation.grid, coarse, padding_mode="border") / _size(coarse)  # voxels
    velocity = find_velocities(moved[None]).forward[0] * _size(coarse) / _size(view)
    return {"scan": scan, "velocity": velocity}


def brain_linear(deformation: Volume) -> np.ndarray:
    """Linear part of a deformation ``y_`` in the template's brain: template mm -> scan mm, (4, 4)."""
    template = assets.template()
    brain = resample(template.data, template.grid, deformation.grid).sum(0) > _BRAIN_FROM
    return fit_linear(Volume(deformation.data.where(brain, torch.nan), deformation.grid))


def cases_of_run(
    folder: Path, registration: bool, view: Grid, inputs: Sequence[Path] = (), report: OnStep = ignore
) -> Iterator[Case]:
    """A case for each scan of a preprocessing run; the folder's name is their group.

    The image of a tissue case is the original scan, found by name and hash below the folders `inputs`, or, without
    `inputs`, the run's corrected brain.

    Raises
    ------
    VbmstatError
        If the folder has no maps with CAT12's names, or a scan is not found.
    """
    label_maps = sorted((folder / "mri").glob("p0*.nii*"))
    if not label_maps:
        msg = f"{folder}: expected mri/p0… of 'vbmstat preprocess --names cat12', found none"
        raise VbmstatError(msg)
    group = folder.resolve().name
    for path in label_maps:
        stem = path.name.removeprefix("p0").split(".nii")[0]
        report(f"{group}/{stem}")
        p0 = io.read_volume(path)
        deformation = ScanWarp(naming.files_beside(path, stem)).to_scan
        if registration:
            gm_wm = Volume(tissue_fractions(p0.data[0])[:2], p0.grid)
            arrays = registration_arrays(gm_wm, deformation, view)
        else:
            brain = io.read_volume(_input(folder, stem, inputs) if inputs else _sibling(path, "m"))
            arrays = tissue_arrays(brain, p0, brain_linear(deformation), view)
        yield Case(f"{group}_{stem}", group, arrays)


def cases_of_labels(
    paths: Sequence[Path], n_images: int, view: Grid, seed: int = 0, report: OnStep = ignore
) -> Iterator[Case]:
    """Cases from whole-head label maps, each deformed and rendered `n_images` times; each map is its own group."""
    rng = np.random.default_rng(seed)
    for path in paths:
        original = io.read_volume(path)
        stem = path.name.split(".nii")[0]
        for number in range(n_images):
            report(f"{stem}, image {number + 1}")
            labels = bend_labels(original, rng)
            tissue = tissue_labels(labels)
            drawn = {name: float(rng.uniform(*ends)) for name, ends in _RENDER.items()}
            brain = render_t1w(labels, **drawn, seed=int(rng.integers(2**31)))
            brain = Volume(brain.data * (tissue.data > 0), labels.grid)
            linear = _align(brain, tissue)
            no_gm = torch.isin(labels.data, torch.tensor(_NO_GM_LABELS, dtype=labels.data.dtype)).float()
            where = (resample(no_gm, labels.grid, view, linear) > 0.5).float()
            yield Case(f"{stem}_{number}", stem, {**tissue_arrays(brain, tissue, linear, view), "no_gm": where})


def bend_labels(labels: Volume, rng: np.random.Generator) -> Volume:
    """Give a label map a random person's shape: nearest labels at smoothly displaced points, (1, X, Y, Z)."""
    grid = labels.grid
    coarse = grid.with_voxel_size(_SHAPE_VOXEL_MM)
    moved_mm = resample(random_displacement(coarse, rng), coarse, grid, padding_mode="border")
    to_voxels = np.eye(4)
    to_voxels[:3, :3] = np.linalg.inv(grid.affine[:3, :3])
    at = (voxel_indices(grid.shape) + apply_affine(to_voxels, moved_mm)).round().long()
    last = torch.tensor(grid.shape).reshape(3, 1, 1, 1) - 1
    inside = ((at >= 0) & (at <= last)).all(0)
    x, y, z = at.clamp(min=0).minimum(last)
    return Volume((labels.data[0][x, y, z] * inside)[None], grid)


def _align(brain: Volume, tissue: Volume) -> np.ndarray:
    """Linear registration as in the engines, template mm -> scan mm."""
    linear = register_brain(brain, tissue.data[0] > 0, template_pyramid(torch.device("cpu")))
    template = assets.template()
    gm_wm = Volume(tissue_fractions(tissue.data[0])[:2], tissue.grid)
    return refine_with_tissues(gm_wm, Volume(template.data[:2], template.grid), linear)


def _size(grid: Grid) -> torch.Tensor:
    """Voxel size, mm, (3, 1, 1, 1)."""
    return torch.as_tensor(grid.voxel_size_mm, dtype=torch.float32).reshape(3, 1, 1, 1)


def _input(folder: Path, stem: str, inputs: Sequence[Path]) -> Path:
    """The original scan, by the name and hash in the run's record."""
    entry = storage.read_json(folder / "report" / f"vbmstat_{stem}.json")["inputs"][0]
    return find_file(entry["path"], entry["sha256"], inputs)


def _sibling(p0: Path, prefix: str) -> Path:
    """Path of another map of the same scan."""
    path = p0.with_name(prefix + p0.name.removeprefix("p0"))
    if not path.is_file():
        msg = f"{path}: missing next to {p0.name}; preprocess this scan again"
        raise VbmstatError(msg)
    return path
