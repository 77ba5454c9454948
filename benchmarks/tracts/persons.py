"""Overlap of white matter and tracts: of one person, and of different people after a rigid registration.

    python benchmarks/tracts/persons.py ../shared/data/tractseg ../shared/data/cat12/*/mri/p0*.nii*

One person's white matter (FA of at least 0.2, 0.25 and 0.3; there is no T1w scan of this person) against the union of
the same person's tracts; other people's white matter (p0 of CAT12) against it. Printed as a table for
benchmarks/results/tracts_persons.md; the limit in `prepare_tracts` lies between.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from vbmstat.image import io, storage
from vbmstat.image.grid import resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.metrics.accuracy import dice
from vbmstat.tracts.references import read_references
from vbmstat.training.prepare_tracts import MIN_DICE, rigid_to_tracts

RESULTS = Path(__file__).parents[1] / "results"


def overlap(wm: Volume, union: Volume) -> float:
    linear = rigid_to_tracts(wm, union, 0.0)
    return dice(resample(union.data, union.grid, wm.grid, linear) > 0.5, wm.data > 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("p0", type=Path, nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    references = read_references(given.folder / "bundles")
    union = Volume(references.data.amax(0, keepdim=True), references.grid)
    fa = io.read_volume(given.folder / "FA.nii.gz")
    text = "# Overlap of white matter and tracts\n\n| white matter | Dice with the tracts |\n|---|---|\n"
    for level in (0.2, 0.25, 0.3):
        same = overlap(Volume((fa.data >= level).float(), fa.grid), union)
        text += f"| same person, FA of {level:g} and more | {same:.3f} |\n"
    others = []
    for path in given.p0:
        p0 = io.read_volume(path)
        coarse = p0.grid.with_voxel_size(2.0)
        wm = smooth((p0.data - 2).clamp(0, 1), coarse.voxel_size_mm / p0.grid.voxel_size_mm - 1, 2.0)
        others.append(overlap(Volume(resample(wm, p0.grid, coarse), coarse), union))
        text += f"| another person, {path.parent.parent.name} {path.name.split('.')[0]} | {others[-1]:.3f} |\n"
    text += f"\nOther people: {np.min(others):.3f} to {np.max(others):.3f}. The limit is {MIN_DICE}.\n"
    storage.write_text(RESULTS / "tracts_persons.md", text)
    print(text)


if __name__ == "__main__":
    main()
