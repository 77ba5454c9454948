"""A stand-in for the engine, as other processes can import it: quick, and the same for the same scan.

Its maps are small and mean nothing; what surrounds the engine (reading, locks, writing, tables) is real.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat.batch import derivatives
from vbmstat.batch.claim import FOLDER
from vbmstat.batch.resources import Execution
from vbmstat.errors import ScanError
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.lesions import Lesions
from vbmstat.preproc.longitudinal import Person, TimePoint
from vbmstat.preproc.pipeline import smooth_maps
from vbmstat.preproc.results import Preprocessed, Segmented
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.preproc.steps.quality import Quality
from vbmstat.preproc.steps.warp import Warp
from vbmstat.progress import OnStep

SCAN = Grid((16, 18, 16), np.diag([12.0, 12.0, 12.0, 1.0]))
TEMPLATE = Grid((12, 14, 12), np.diag([15.0, 15.0, 15.0, 1.0]))
STEPS = ("brain", "segment", "warp")
KILLS = 666.0  # intensity of a scan's first voxel that kills the process, as the system does for want of memory
SLOW = 777.0  # and one that takes longer
STRANGER = 888.0  # and one of another person


@contextmanager
def cut_short(n_renamed: int) -> Iterator[None]:
    """The process is killed when so many finished files have been moved to the output folder."""
    rename, n = os.replace, 0

    def cut(source: Path, target: Path) -> None:
        nonlocal n
        n += FOLDER in Path(source).parts and FOLDER not in Path(target).parts
        if n > n_renamed:
            raise KeyboardInterrupt  # as if killed
        rename(source, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            yield


def light(t1w: Volume, spec: PreprocSpec, on_step: OnStep, lesion_mask: Volume | None = None) -> Preprocessed:
    """Maps that depend on the scan's intensities alone; a fifth of it is hypointensity."""
    mark = float(t1w.data[0, 0, 0, 0])
    for step in STEPS:
        on_step(step)
        if step == "segment" and mark == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if mark == SLOW:
            time.sleep(1.0)
    scan = t1w.data.clamp(min=0) / t1w.data.max()
    tissues = torch.cat([scan, scan**2, 1 - scan])
    wmh = scan[0] / 5 if spec.wmh else None
    brought = None if lesion_mask is None else lesion_mask.data[0]
    images = tissues if wmh is None else torch.cat([tissues, wmh[None]])
    maps = Volume(torch.nn.functional.interpolate(images[None], TEMPLATE.shape)[0], TEMPLATE)
    figures = Quality(**{**dict.fromkeys([field.name for field in fields(Quality)], 1.0), "bright_percent": 0.0})
    still = Displacement(torch.zeros(3, *TEMPLATE.shape), TEMPLATE)
    segmented = Segmented(
        Volume(tissues, t1w.grid), Volume(scan, t1w.grid), np.eye(4), torch.zeros(3, 1, 1, 1), figures, t1w.grid,
        was_stripped=False, engine=spec.engine, lesions=Lesions(spec.lesion_plan(), wmh, brought),
    )  # fmt: skip
    seconds = dict.fromkeys(STEPS, 0.1)
    flow = Volume(still.data, TEMPLATE)
    return Preprocessed(
        segmented, Warp(still, still, flow), maps, maps, smooth_maps(maps, spec.fwhm_mm), figures, seconds
    )


def light_undrawn(t1w: Volume, spec: PreprocSpec, on_step: OnStep) -> Preprocessed:
    """The same in a process of its own, which from then on draws no pictures: they take a second each."""
    derivatives._write_picture = lambda path, *_: storage.write_text(path, "picture")
    return light(t1w, spec, on_step)


def asked(**options: object) -> tuple[PreprocSpec, Execution]:
    """Spec and execution of a run on the CPU with the stand-in; `options` are fields of either."""
    options = {"device": "cpu", "process": light, "process_person": light_person, **options}
    names = {field.name for field in fields(PreprocSpec)}
    spec = PreprocSpec(**{name: value for name, value in options.items() if name in names})
    return spec, Execution(**{name: value for name, value in options.items() if name not in names})


def write_scans(folder: Path, n_scans: int, marks: dict[int, float] | None = None) -> Path:
    """A folder of small images, each different, ``sub-01_T1w.nii.gz`` and so on; `marks` by number from 1."""
    for number in range(1, n_scans + 1):
        data = torch.rand(1, *SCAN.shape, generator=torch.Generator().manual_seed(number))
        data[0, 0, 0, 0] = (marks or {}).get(number, 0.0)
        io.write_volume(folder / f"sub-{number:02d}_T1w.nii.gz", Volume(data, SCAN))
    return folder


def read_failures(out: Path) -> pd.DataFrame:
    """The failed scans of a run: scan, path, step, reason."""
    return pd.read_csv(out / "failures.tsv", sep="\t", dtype=str, keep_default_na=False)


def light_person(
    scans: Sequence[Volume],
    spec: PreprocSpec,
    models: Sequence[str],
    years: Sequence[float] | None,
    on_step: OnStep,
) -> Person:
    """The same of a person: the maps of ageing are a half of those of plasticity; a scan's mark is its likeness."""
    points = []
    for number, scan in enumerate(scans, 1):
        if float(scan.data[0, 0, 0, 0]) == STRANGER:
            msg = f"time point {number} and time point {number + 1}: not the same head as the other scans"
            raise ScanError(msg)
        made = light(scan, spec, on_step)
        aged = Volume(made.modulated.data / 2, made.modulated.grid) if "ageing" in models else None
        smoothed = {} if aged is None else smooth_maps(aged, spec.fwhm_mm)
        points.append(TimePoint(made, np.eye(4), 0.97, 0.01, 1.0, aged, smoothed))
    change = points[-1].preprocessed.modulated.data[:2] - points[0].preprocessed.modulated.data[:2]
    rate = None if years is None else Volume(change * 1e-5, TEMPLATE)
    return Person(tuple(points), scans[0], rate)


def write_people(folder: Path, sessions: Mapping[str, int], marks: Mapping[str, float] | None = None) -> Path:
    """A BIDS folder with so many sessions of each participant; `marks` by ``sub-1_ses-2``."""
    for n, (participant, n_sessions) in enumerate(sessions.items()):
        for session in range(1, n_sessions + 1):
            stem = f"{participant}_ses-{session}"
            data = torch.rand(1, *SCAN.shape, generator=torch.Generator().manual_seed(100 * n + session))
            data[0, 0, 0, 0] = (marks or {}).get(stem, 0.0)
            place = folder / participant / f"ses-{session}" / "anat"
            io.write_volume(place / f"{stem}_T1w.nii.gz", Volume(data, SCAN))
    return folder


def write_dates(folder: Path, participant: str, column: str, values: Sequence[object]) -> None:
    """``sub-X_sessions.tsv`` with a row for each session."""
    rows = pd.DataFrame({"session_id": [f"ses-{n}" for n in range(1, len(values) + 1)], column: values})
    rows.to_csv(folder / participant / f"{participant}_sessions.tsv", sep="\t", index=False, na_rep="n/a")
