"""A coarse template and people who differ from it by smooth flows, so that a whole group takes seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat import __version__, assets
from vbmstat.batch.stored_images import write_image
from vbmstat.files.warps import LINEAR, SCAN, TEMPLATE, grid_record
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid, resample, sample, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc import group_template
from vbmstat.preproc.group_template import Level
from vbmstat.preproc.steps import warp
from vbmstat.tables.cohort import Cohort, index_by_id, write_cohort

COARSE_MM, COARSE_PADDED = 8.0, (24, 30, 24)
_LEVELS = tuple(Level(stiff, fwhm_mm, True) for stiff, fwhm_mm in ((0, 8), (2, 8), (1, 8), (1, 8), (1, 0)))
_SCAN_MM = 5.0  # voxels of the people's tissue maps
_standard = assets.template  # before a test replaces it


@cache
def coarse_template() -> Volume:
    """GM and WM of the standard template on voxels of 8 mm, symmetric grid."""
    fine = _standard()
    grid = Grid((21, 26, 21), np.array([[8.0, 0, 0, -80], [0, 8, 0, -117], [0, 0, 8, -70], [0, 0, 0, 1]]))
    low = smooth(fine.data, np.full(3, np.sqrt((COARSE_MM / 1.5) ** 2 - 1)), 3.0)
    return Volume(resample(low, fine.grid, grid), grid)


def be_coarse(patch) -> None:
    """The standard template, and the room that warps have, on voxels of 8 mm; nothing is drawn."""
    patch.setattr(assets, "template", coarse_template)
    patch.setattr(warp, "PADDED_SHAPE", COARSE_PADDED)
    patch.setattr(warp, "_LEVELS", ((2, 1), (1, 4)))
    patch.setattr(group_template, "LEVELS", _LEVELS)
    patch.setattr("vbmstat.batch.group_template.template_figure", lambda *_: None)
    patch.setattr("vbmstat.batch.group_template.save_png", lambda at, _: storage.write_text(at, "picture"))


def flow(seed: int, amplitude_mm: float = 16.0) -> torch.Tensor:
    """A smooth velocity, mm."""
    rough = torch.randn(3, *COARSE_PADDED, generator=torch.Generator().manual_seed(seed))
    velocity = smooth(rough, np.full(3, 9.0), 3.0)
    return velocity * (amplitude_mm / velocity.abs().max())


def on_padded(velocity: torch.Tensor) -> Volume:
    """A velocity on the grid that it is stored on."""
    grid, affine = coarse_template().grid, coarse_template().grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ [(padded - n) // 2 for padded, n in zip(COARSE_PADDED, grid.shape, strict=True)]
    return Volume(velocity, Grid(COARSE_PADDED, affine))


def tissues_of(seed: int, push_mm: float = 0.0) -> Volume:
    """A person's linearly aligned GM and WM: the template through a flow, and a push of all people to the right."""
    template = coarse_template()
    velocity = flow(seed)
    velocity[0] += push_mm
    field = warp.displacement(velocity, template.grid)
    at = voxel_indices(template.grid.shape) + field.data / COARSE_MM
    sharp = template.data**1.5
    return Volume(sample(sharp / sharp.sum(0).clamp(min=1), at), template.grid)


def write_people(folder: Path, n: int, order: int = 1, **row) -> Path:
    """A finished output folder of `n` people, with their true warps, whose table lists them forwards or backwards."""
    rows = []
    for number in list(range(1, n + 1))[::order]:
        stem = f"sub-{number:02d}_T1w"
        aligned = tissues_of(number)
        grid = aligned.grid.with_voxel_size(_SCAN_MM)
        linear = np.eye(4)
        linear[:3, 3] = (number, -number, 2.0)
        scan = Grid(grid.shape, linear @ grid.affine)
        images = resample(aligned.data, aligned.grid, grid).clamp(0, 1)
        for tissue in (1, 2):
            counts = Volume(torch.round(images[tissue - 1 : tissue] * 255), scan)
            io.write_volume(folder / "mri" / f"p{tissue}{stem}.nii.gz", counts, dtype="uint8", step=1 / 255)
        write_image(folder / "mri" / f"u_{stem}.nii.gz", "velocity", on_padded(-flow(number)))
        known = {"gm_ml": 700.0 + number, "wm_ml": 500.0}
        record = {"scan": stem, "command": "preprocess", "engine": "classic", "versions": {"vbmstat": __version__}}
        grids = {TEMPLATE: grid_record(coarse_template().grid), SCAN: grid_record(scan)}
        record |= {"row": known, "affine": {LINEAR: linear.tolist(), **grids}}
        storage.write_json(folder / "report" / f"vbmstat_{stem}.json", record)
        rows.append({"participant_id": f"sub-{number:02d}", "session_id": "", "scan": stem, "engine": "classic",
                     "age": 20 + number, **known, **row})  # fmt: skip
    table = index_by_id(pd.DataFrame(rows), "people")
    write_cohort(folder / "cohort.tsv", Cohort(table, folder))
    return folder
