"""Overlap of white matter and tracts: of one person, and of different people after a rigid registration.

    python benchmarks/tracts/persons.py ../shared/data/tractseg --finished DERIVATIVES --p0 CAT12/mri/p0*

The reference person has no T1w scan here. Its own white matter is taken from its FA map, and, as a stand-in for a T1w
scan of one's own, the tracts are carried to scans of DERIVATIVES (`vbmstat preprocess`) through their own warps. Other
people are those scans, and p0 maps of CAT12, after the rigid registration of `prepare_tracts`. Phantom heads have both.
The table goes to benchmarks/results/tracts_persons.md; the limit in `prepare_tracts` is chosen from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from tests.tract_heads import tract_head
from vbmstat import assets
from vbmstat.batch.tract_prior import person_in_template
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid, apply_affine, resample, sample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.metrics.accuracy import dice
from vbmstat.tracts.references import read_references
from vbmstat.training.prepare_tracts import MIN_DICE, rigid_to_tracts

RESULTS = Path(__file__).parents[1] / "results"
N_HEADS = 6


def after_rigid(wm: Volume, union: Volume) -> float:
    """Dice as `prepare_tracts` measures it."""
    linear = rigid_to_tracts(wm, union, 0.0)
    return float(dice(resample(union.data, union.grid, wm.grid, linear) > 0.5, wm.data > 0.5))


def coarse(wm: torch.Tensor, grid: Grid) -> Volume:
    """White matter on voxels of 2 mm."""
    target = grid.with_voxel_size(2.0)
    anti_alias = np.maximum(target.voxel_size_mm / grid.voxel_size_mm - 1, 0)
    return Volume(resample(smooth(wm, anti_alias, 2.0), grid, target), target)


def carried(union: Volume, mri: Path, scan: str) -> float:
    """Dice of a scan's white matter and tracts of the template, carried by the scan's own warp."""
    wm, field = io.read_volume(mri / f"p2{scan}"), io.read_channels(mri / f"iy_{scan}")
    there = sample(union.data, apply_affine(np.linalg.inv(union.grid.affine), field.data))
    return float(dice(there > 0.5, resample(wm.data, wm.grid, field.grid) > 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--finished", type=Path, nargs="*", default=[])
    parser.add_argument("--p0", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    references = read_references(given.folder / "bundles")
    union = Volume(references.data.amax(0, keepdim=True), references.grid)
    fa = io.read_volume(given.folder / "FA.nii.gz")
    rows: dict[str, list[float]] = {}
    for level in (0.15, 0.2, 0.25, 0.3):
        name = f"same person: FA of {level:g} and more"
        rows[name] = [after_rigid(Volume((fa.data >= level).float(), fa.grid), union)]
    in_template = person_in_template(given.folder / "bundles")
    warped = Volume(in_template.data.amax(0, keepdim=True), in_template.grid)
    rows["same person: the template's white matter"] = [
        float(dice(warped.data > 0.5, assets.template().data[1:2] > 0.5))
    ]
    found = [(folder / "mri", path.name.removeprefix("p2")) for folder in given.finished for path in
             sorted((folder / "mri").glob("p2*.nii.gz"))]  # fmt: skip
    rows["stand-in for the same person: carried by the scan's own warp"] = [carried(warped, *scan) for scan in found]
    wm = [io.read_volume(mri / f"p2{scan}") for mri, scan in found]
    rows["other people, engine classic, rigid"] = [after_rigid(coarse(one.data, one.grid), union) for one in wm]
    p0 = [io.read_volume(path) for path in given.p0]
    rows["other people, CAT12, rigid"] = [after_rigid(coarse((p.data - 2).clamp(0, 1), p.grid), union) for p in p0]
    heads = [tract_head(seed) for seed in range(N_HEADS)]
    of_head = [Volume(head.references.data.amax(0, keepdim=True), head.references.grid) for head in heads]
    rows["phantoms, own tracts"] = [after_rigid(h.wm, u) for h, u in zip(heads, of_head, strict=True)]
    others = [*of_head[1:], of_head[0]]
    rows["phantoms, another head's tracts"] = [after_rigid(h.wm, u) for h, u in zip(heads, others, strict=True)]
    rolled = Volume(union.data.flip(3), union.grid)
    rows["same person: tracts upside down"] = [after_rigid(Volume((fa.data >= 0.2).float(), fa.grid), rolled)]
    text = "# Overlap of white matter and tracts\n\nDice of white matter and the union of the 72 tracts.\n\n"
    text += "| white matter | n | lowest | median | highest |\n|---|---|---|---|---|\n"
    for name, values in rows.items():
        if values:
            figures = " | ".join(f"{value:.3f}" for value in (min(values), np.median(values), max(values)))
            text += f"| {name} | {len(values)} | {figures} |\n"
    text += f"\nThe limit of `prepare-tracts` is {MIN_DICE}.\n"
    storage.write_text(RESULTS / "tracts_persons.md", text)
    print(text)


if __name__ == "__main__":
    main()
