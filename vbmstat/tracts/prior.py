"""``tracts72-prior``: where white matter belongs to each tract, in template space, from people with reference masks.

A person's masks M, warped to the template, are smoothed within its white matter w (normalised convolution, G a
Gaussian): ``p = G*(M w) / G*w`` is the probability that white matter at a point belongs to the tract. People are
averaged, and left and right tracts are averaged with their mirror images. In a scan, p is carried through its warp and
multiplied by its white matter.

The width stands for the distance between two people's tracts after registration: each strays by about 2.4 mm (SD) from
the mean person, so a reference and a new person differ by sqrt(2) · 2.4 = 3.4 mm, which is 8 mm FWHM. Studies find 3 to
5 mm. Averaging more people adds their spread to it, so with many references take less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.errors import ScanError
from vbmstat.image import io, storage
from vbmstat.image.grid import apply_affine, resample, sample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.tracts.names import TRACTS, WEAK, mirrored, region, side

FWHM_MM = 8.0
NAME = "tracts72"  # of the files: an atlas that `vbmstat roi --atlas` reads
STEP = 1 / 255  # of probabilities on disk (uint8)
_GRID_MM = 3.0  # enough for images this smooth
_LEAST = 0.02  # smaller probabilities are 0
_LEAST_WM = 0.02  # smoothed white matter below is no place of a tract


@dataclass(frozen=True)
class Prior:
    """Probabilities of the tracts in template space."""

    probability: Volume  # (72, X, Y, Z): of white matter there to belong to the tract; in the order of ``TRACTS``
    # (72,): probability above which the template's white matter has the tract's expected volume: thin tracts, when
    # blurred, hardly reach .5
    threshold: np.ndarray
    grade: str = "one person"  # number of people; tracts that are not weak have it as their grade


def build_prior(people: Sequence[Volume], wm: Volume, fwhm_mm: float = FWHM_MM) -> Prior:
    """The prior from people's masks.

    Parameters
    ----------
    people : sequence of Volume, (72, X, Y, Z)
        Masks on the template's grid, whose first axis is symmetric about x = 0.
    wm : Volume, (1, X, Y, Z)
        White matter of the template.
    fwhm_mm : float
        Width of the Gaussian.
    """
    grid = wm.grid.with_voxel_size(_GRID_MM)
    width = fwhm_mm / wm.grid.voxel_size_mm
    inside = smooth(wm.data, width, 3.0)
    data = torch.zeros(len(TRACTS), *grid.shape)
    for person in people:
        for row in range(len(TRACTS)):
            within = smooth(person.data[row : row + 1] * wm.data, width, 3.0)
            p = torch.where(inside > _LEAST_WM, within / inside.clamp(min=_LEAST_WM), torch.zeros(()))
            data[row] += resample(p, wm.grid, grid)[0] / len(people)
    other = [TRACTS.index(mirrored(tract)) for tract in TRACTS]
    data = (data + data[other].flip(1)) / 2
    data = torch.where(data < _LEAST, torch.zeros(()), data.clamp(max=1))
    data = torch.round(data / STEP) * STEP
    grade = "one person" if len(people) == 1 else f"{len(people)} people"
    return Prior(Volume(data, grid), _thresholds(Volume(data, grid), wm), grade)


def _thresholds(probability: Volume, wm: Volume) -> np.ndarray:
    """Per tract, the level of p·wm whose mask has the volume sum(p·wm), (72,), at most .5."""
    levels = []
    for row in range(len(TRACTS)):
        p = resample(probability.data[row : row + 1], probability.grid, wm.grid) * wm.data
        ordered = p.reshape(-1).sort(descending=True).values
        levels.append(min(float(ordered[int(p.sum())]), 0.5))
    return np.asarray(np.floor(np.array(levels) * 1000) / 1000)  # never above the highest probability


def write_prior(prior: Prior, folder: Path) -> list[Path]:
    """Write the prior as a soft atlas: ``tracts72.nii.gz`` (uint8) and its table ``tracts72.tsv``."""
    folder.mkdir(parents=True, exist_ok=True)
    image, table = folder / f"{NAME}.nii.gz", folder / f"{NAME}.tsv"
    counts = Volume(prior.probability.data / STEP, prior.probability.grid)
    io.write_volume(image, counts, dtype="uint8", step=STEP, description="vbmstat tracts72-prior")
    grades = ["weak" if tract in WEAK else prior.grade for tract in TRACTS]
    rows = {
        "label": range(1, len(TRACTS) + 1), "hemisphere": [side(tract) for tract in TRACTS], "name": TRACTS,
        "region": [region(tract) for tract in TRACTS], "grade": grades, "threshold": prior.threshold,
    }  # fmt: skip
    storage.write_table(table, pd.DataFrame(rows))
    return [image, table]


def read_prior(folder: Path) -> Prior:
    """Read what :func:`write_prior` wrote.

    Raises
    ------
    ScanError
        If a file is missing, or is not a prior of the 72 tracts.
    """
    image, table = folder / f"{NAME}.nii.gz", folder / f"{NAME}.tsv"
    missing = [path.name for path in (image, table) if not path.is_file()]
    if missing:
        msg = f"{folder}: no {' and '.join(missing)}; expected the output of vbmstat tracts build-prior"
        raise ScanError(msg)
    rows, volume = pd.read_csv(table, sep="\t"), io.read_channels(image)
    is_whole = {"threshold", "grade"} <= {*rows} and len(volume.data) == len(TRACTS)
    if list(rows.get("name", [])) != list(TRACTS) or not is_whole:
        msg = f"{table}: expected the 72 tracts in TractSeg's order with thresholds and grades; build the prior again"
        raise ScanError(msg)
    threshold = pd.to_numeric(rows["threshold"], errors="coerce").to_numpy(float)
    for path, values in ((image, volume.data.numpy()), (table, threshold)):
        if not (values.min() >= 0 and values.max() <= 1 + STEP):  # also refuses NaN
            msg = f"{path}: expected probabilities from 0 to 1, got {values.min():g} to {values.max():g}"
            raise ScanError(msg)
    return Prior(volume, threshold, str(rows["grade"][0]))  # the first is no weak tract


def carry(prior: Prior, template_mm: Volume, wm: Volume) -> Iterator[torch.Tensor]:
    """The prior at template points, times white matter: each tract's probability in turn, (X, Y, Z).

    Parameters
    ----------
    prior : Prior
        In template space.
    template_mm : Volume, (3, X, Y, Z)
        Template point (RAS+ mm) of each voxel: an ``iy_`` field, or the coordinates of the template's own grid.
    wm : Volume, (1, X, Y, Z)
        White matter on the same grid.
    """
    at = apply_affine(np.linalg.inv(prior.probability.grid.affine), template_mm.data)
    for row in range(len(TRACTS)):
        yield (sample(prior.probability.data[row : row + 1], at)[0] * wm.data[0]).clamp_(0, 1)
