"""Brains and lesion shapes for the training of the lesion network, as engine `classic` sees them.

A brain is a real scan without lesions, or a head rendered from a label map, with its lesions at a random intensity or
without; every one goes through the whole engine, so that training shows what the network will see. Shapes are the
lesions of other people: masks in MNI space, and those of the label maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from vbmstat import assets
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import warped_priors
from vbmstat.preproc.networks.cascade import resample_low_passed
from vbmstat.preproc.networks.lesions import CONTRAST_RANGE, seen_grid
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.preproc.results import Segmented
from vbmstat.preproc.steps.lesions import Evidence
from vbmstat.progress import OnStep, ignore
from vbmstat.simulate import artefacts, render
from vbmstat.simulate.labels import LESION_LABELS, without_lesions
from vbmstat.training import augment
from vbmstat.training.painted_brains import Brain
from vbmstat.training.painting import shape_grid
from vbmstat.training.prepare import bend_labels

_LEVEL = (0.62, 0.92)  # of lesions, relative to WM; GM is 0.70
_CONTRAST, _STRUCTURE_SD = (0.75, 1.3), (0.01, 0.03)
_RENDER = {  # uniform ranges
    "noise_percent": (0.5, 5.0), "bias_percent": (0.0, 60.0), "texture_percent": (1.0, 3.0), "psf_fwhm_mm": (0.6, 1.6),
}  # fmt: skip
_THICK, _THICKER = 0.25, 2.5  # probability of thick slices, and by how much they may be thicker
_MOVED, _MOTION = 0.2, (0.5, 2.0)  # probability of motion; degrees and mm


def evidence_of(segmented: Segmented, t1w: Volume) -> Evidence:
    """What engine `classic` knew of a scan after its segmentation."""
    grid = segmented.fractions.grid
    prior = warped_priors(assets.template(), segmented.velocity, segmented.linear, grid)
    return Evidence(segmented.work, segmented.fractions.data, prior, segmented.linear, t1w)


def brain_of(evidence: Evidence, lesion: Volume | None = None, *, shown: bool = False) -> Brain:
    """A brain on the grid that the network sees.

    Parameters
    ----------
    evidence : Evidence
        The segmented brain.
    lesion : Volume, optional
        Mask of its own lesions, on any grid of the scan's space.
    shown : bool
        Whether the image shows them.
    """
    own = evidence.brain.grid
    grid = seen_grid(own)
    images = [evidence.contrast.clamp(*CONTRAST_RANGE)[None] - CONTRAST_RANGE[0], evidence.prior[:2]]
    contrast, gm, prior_wm, wm = resample_low_passed(torch.cat([*images, evidence.fractions[1:2]]), own, grid)
    share = torch.zeros(grid.shape) if lesion is None else _on_grid(lesion, grid)
    frame = np.linalg.inv(evidence.linear) @ grid.affine
    return Brain(contrast + CONTRAST_RANGE[0], torch.stack([gm, prior_wm]), wm, share, frame, shown)


def brains_of_scans(paths: Sequence[Path], report: OnStep = ignore) -> Iterator[tuple[str, str, Brain]]:
    """Name, group ("scans") and brain of each real scan without lesions."""
    for path in paths:
        report(path.name)
        t1w = io.read_volume(path)
        yield path.name.split(".nii")[0], "scans", brain_of(evidence_of(segment_scan(t1w), t1w))


def brains_of_labels(
    paths: Sequence[Path], n_images: int, seed: int = 0, report: OnStep = ignore
) -> Iterator[tuple[str, str, Brain]]:
    """Name, group (the map) and brain of heads rendered from label maps; every second image shows the lesions."""
    rng = np.random.default_rng(seed)
    for path in paths:
        original, stem = io.read_volume(path), path.name.split(".nii")[0]
        for number in range(n_images):
            report(f"{stem}, image {number + 1}")
            labels = bend_labels(original, rng)
            lesion, shown = _lesions_of(labels), number % 2 == 1
            t1w = rendered(labels, lesion if shown else None, rng)
            yield f"{stem}_{number}", stem, brain_of(evidence_of(segment_scan(t1w), t1w), lesion, shown=shown)


def shapes(paths: Sequence[Path], report: OnStep = ignore) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and mask of lesions or tracts on :func:`vbmstat.training.painting.shape_grid`, from masks in MNI space."""
    for path in paths:
        report(path.name)
        mask = io.read_volume(path)
        yield path.name.split(".nii")[0], _on_grid(Volume((mask.data > 0).float(), mask.grid), shape_grid())


def rendered(labels: Volume, lesion: Volume | None, rng: np.random.Generator) -> Volume:
    """A head with random contrast, noise, bias and blur; some with thick slices or motion; lesions, if any, at a level.

    Parameters
    ----------
    labels : Volume
        Whole-head label map; its lesions become white matter.
    lesion : Volume, optional
        Mask of lesions on the same grid.
    rng : Generator
        Random numbers.
    """
    contrast = float(rng.uniform(*_CONTRAST))
    signal = render.structure_signal(without_lesions(labels), rng, contrast, float(rng.uniform(*_STRUCTURE_SD)))
    if lesion is not None:
        signal[lesion.data[0].numpy() > 0] = rng.uniform(*_LEVEL) ** contrast
    drawn = {name: float(rng.uniform(*ends)) for name, ends in _RENDER.items()}
    t1w = render.image_from_signal(signal, render.brain_of(labels), labels.grid, rng, render.Acquisition(**drawn))
    kind = rng.uniform()
    if kind < _THICK:
        source = torch.Generator().manual_seed(int(rng.integers(2**31)))
        return Volume(augment.downsample(t1w.data[0], _THICKER, source)[None], t1w.grid)
    if kind < _THICK + _MOVED:
        return artefacts.motion(t1w, float(rng.uniform(*_MOTION)), rng)
    return t1w


def _lesions_of(labels: Volume) -> Volume:
    """Mask of a label map's lesions."""
    mask = torch.isin(labels.data, torch.tensor(sorted(LESION_LABELS), dtype=labels.data.dtype))
    return Volume(mask.float(), labels.grid)


def _on_grid(lesion: Volume, grid: Grid) -> torch.Tensor:
    """Share of each voxel of a grid that is lesion, (X, Y, Z)."""
    return resample_low_passed(lesion.data, lesion.grid, grid)[0].clamp(0, 1)
