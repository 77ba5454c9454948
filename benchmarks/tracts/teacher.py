"""The teacher on one real person: how well it can learn TractSeg's masks from the peaks.

    python benchmarks/tracts/teacher.py ../shared/data/tractseg WORK [--minutes 30] [--epochs 60] [--width 16]

The person's peaks and 72 masks (2.5 mm) are both training and test: the figures show that the network, the loss and the
formats work on real data, and nothing about other people. At first every tract is absent, and learning them takes
thousands of steps: so steps are small and cheap (4 slices of a cube that just holds the brain, bfloat16). A run that is
out of time is resumed. The table goes to benchmarks/results/tracts_teacher.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

from vbmstat.image import storage
from vbmstat.image.grid import resample
from vbmstat.tracts.names import TRACTS, WEAK
from vbmstat.tracts.network import TEACHER, load_tract_network, merge_orientations
from vbmstat.tracts.references import read_peaks, read_references
from vbmstat.training.cases import Case, CaseFile, write_cases
from vbmstat.training.config import read_config
from vbmstat.training.prepare_tracts import View, native_cube
from vbmstat.training.run import train
from vbmstat.training.task import Stage
from vbmstat.training.tracts import TractTask, pack_masks, tract_dice

RESULTS = Path(__file__).parents[1] / "results"
SIDE, DEPTH = 72, 3  # the peaks fill 57 × 70 × 60 voxels
BATCH, SLICES, RATE = 4, 1000, 0.01
LARGE_ML = 20.0  # tracts of this volume or more are called large


class TeacherOnly(TractTask):
    """The first stage alone: there is no T1w scan of this person."""

    def stages(self) -> list[Stage]:
        """The teacher."""
        return super().stages()[:1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    references, peaks = read_references(given.folder / "bundles"), read_peaks(given.folder / "peaks.nii.gz")
    view = View(float(peaks.grid.voxel_size_mm.mean()), SIDE)
    cube = native_cube(peaks, SIDE)
    masks = resample(references.data, references.grid, cube)
    arrays = {"peaks": resample(peaks.data, peaks.grid, cube), "tracts_diffusion": pack_masks(masks)}
    given.work.mkdir(parents=True, exist_ok=True)
    write_cases(given.work / "cases.npz", [Case("person", "person", arrays)], view.settings(TRACTS, view.voxel_mm))
    config = given.work / "run.toml"
    config.write_text(
        f'data = "cases.npz"\nepochs = {given.epochs}\nn_channels = {given.width}\ndepth = {DEPTH}\n'
        f'batch_size = {BATCH}\nslices = {SLICES}\nmax_learning_rate = {RATE}\nprecision = "bfloat16"\n'
        "augment = 0.0\nn_folds = 1\nn_validation = 0\n"
    )
    cases = CaseFile(given.work / "cases.npz")
    task = TeacherOnly(cases, read_config(config, TractTask.defaults), torch.device("cpu"), given.work)
    started, cpu = time.monotonic(), time.process_time()
    complete = train(task, given.work, given.minutes, lambda row: print(row, flush=True))
    minutes, cpu_minutes = (time.monotonic() - started) / 60, (time.process_time() - cpu) / 60
    if not complete:
        msg = "out of time before the last epoch; run again to resume, or lower --epochs"
        raise SystemExit(msg)
    network, _ = load_tract_network(given.work, TEACHER)
    image, truth = next(task.examples("person", task.stages()[0], None))
    dice = np.array(tract_dice(merge_orientations(network, image[0]), truth[0]))
    volume = truth[0].sum((1, 2, 3)).numpy() * cube.voxel_volume_ml
    large = volume >= LARGE_ML
    weak = np.array([name in WEAK for name in TRACTS])
    text = f"""# The teacher on one real person

Peaks and 72 masks of one person (2.5 mm) are training and test: this shows that the parts work on real data, nothing
about other people. Width {given.width}, depth {DEPTH}, {given.epochs} epochs of {SLICES} slices, {BATCH} a step,
Adamax {RATE}, bfloat16: {minutes:.1f} minutes of wall time, {cpu_minutes:.1f} of CPU time on one thread.

| tracts | number | mean Dice | lowest |
|---|---|---|---|
"""
    for label, some in ((f"large ({LARGE_ML:g} mL and more)", large), ("others", ~large), ("weak", weak)):
        text += f"| {label} | {some.sum()} | {dice[some].mean():.3f} | {dice[some].min():.3f} |\n"
    text += f"| all | {len(dice)} | {dice.mean():.3f} | {dice.min():.3f} |\n\n| tract | mL | Dice |\n|---|---|---|\n"
    for name, ml, value in zip(TRACTS, volume, dice, strict=True):
        text += f"| {name} | {ml:.1f} | {value:.3f} |\n"
    text += f"\nMeasured on {platform.platform()}, {os.cpu_count()} CPUs, torch {torch.__version__}.\n"
    storage.write_text(RESULTS / "tracts_teacher.md", text)
    print(text)


if __name__ == "__main__":
    main()
