"""A stand-in for the engine, as other processes can import it: quick, and the same for the same scan.

Its maps are small and mean nothing; what surrounds the engine (reading, locks, writing, tables) is real.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vbmstat import derivatives, io, storage
from vbmstat.grid import Grid
from vbmstat.preproc.pipeline import Preprocessed
from vbmstat.preproc.steps.quality import Quality
from vbmstat.volume import Displacement, Volume

TEMPLATE = Grid((12, 14, 12), np.diag([15.0, 15.0, 15.0, 1.0]))
STEPS = ("brain", "segment", "warp")
KILLS = 666.0  # intensity of a scan's first voxel that kills the process, as the system does for want of memory
SLOW = 777.0  # and one that takes longer


def light(
    t1w: Volume, device: torch.device | str, on_step: Callable[[str], None], engine: str, **_: Any
) -> Preprocessed:
    """Maps that depend on the scan's intensities alone."""
    mark = float(t1w.data[0, 0, 0, 0])
    for step in STEPS:
        on_step(step)
        if step == "segment" and mark == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if mark == SLOW:
            time.sleep(1.0)
    scan = t1w.data.clamp(min=0) / t1w.data.max()
    tissues = torch.cat([scan, scan**2, 1 - scan])
    on_template = torch.nn.functional.interpolate(tissues[None], TEMPLATE.shape)[0]
    field = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in TEMPLATE.shape), indexing="ij"))
    maps = Volume(on_template, TEMPLATE)
    return Preprocessed(
        tissues=Volume(tissues, t1w.grid), corrected=Volume(scan, t1w.grid), warped=maps, modulated=maps, smoothed=maps,
        linear=np.eye(4), displacement=Displacement(torch.zeros_like(field), TEMPLATE),
        deformation=Volume(field, TEMPLATE),
        inverse_deformation=Volume(torch.zeros(3, 4, 4, 4), Grid((4, 4, 4), np.eye(4))),
        gm_ml=600.0 + float(scan.mean()), wm_ml=500.0, csf_ml=300.0, tiv_ml=1400.0 + float(scan.mean()),
        quality=Quality(**dict.fromkeys([field.name for field in fields(Quality)], 1.0)),
        was_stripped=False, engine=engine, seconds=dict.fromkeys(STEPS, 0.1),
    )  # fmt: skip


def light_undrawn(*arguments: Any, **options: Any) -> Preprocessed:
    """The same in a process of its own, which from then on draws no pictures: they take a second each."""
    derivatives._write_picture = lambda path, *_: storage.write_text(path, "picture")
    return light(*arguments, **options)


def write_scans(folder: Path, n_scans: int, marks: dict[int, float] | None = None) -> Path:
    """A folder of small images, each different, ``sub-01_T1w.nii.gz`` and so on; `marks` by number from 1."""
    for number in range(1, n_scans + 1):
        data = torch.rand(1, 16, 18, 16, generator=torch.Generator().manual_seed(number))
        data[0, 0, 0, 0] = (marks or {}).get(number, 0.0)
        grid = Grid((16, 18, 16), np.diag([12.0, 12.0, 12.0, 1.0]))
        io.write_volume(folder / f"sub-{number:02d}_T1w.nii.gz", Volume(data, grid))
    return folder
