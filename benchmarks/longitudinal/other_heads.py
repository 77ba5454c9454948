"""Similarity of aligned scans of different people, and of one person's scan in another pose: where the limit lies.

    python benchmarks/longitudinal/other_heads.py ../shared/data/ds002748/sub-0*/anat/*_T1w.nii.gz

Every pair is aligned as two time points of a person are. The rescan of each scan is the same image turned by 5° and
shifted by half a voxel (cubic splines), with 3 % noise.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.pipeline import Clock, prepare_scan
from vbmstat.preproc.results import Prepared
from vbmstat.preproc.steps import groupwise

RESULT = Path(__file__).parents[1] / "results" / "longitudinal_other_heads.md"
TURN_DEGREES, SHIFT_VOXELS, NOISE_PERCENT = (5.0, -5.0, 5.0), 0.5, 3.0


def rescan(t1w: Volume) -> Volume:
    """The scan in another pose, with noise of its own; the background stays zero."""
    turn = Rotation.from_euler("xyz", TURN_DEGREES, degrees=True).as_matrix()
    size, middle = t1w.grid.voxel_size_mm, (np.array(t1w.grid.shape) - 1) / 2
    matrix = np.diag(1 / size) @ turn @ np.diag(size)
    image = t1w.data[0].numpy()
    data = ndimage.affine_transform(image, matrix, middle - matrix @ middle + SHIFT_VOXELS, order=3).clip(0)
    inside = ndimage.affine_transform((image != 0).astype(np.float32), matrix, middle - matrix @ middle + SHIFT_VOXELS)
    rng = np.random.default_rng(0)
    sigma = NOISE_PERCENT / 100 * np.percentile(image[image > 0], 90)
    noisy = np.hypot(data + sigma * rng.standard_normal(data.shape), sigma * rng.standard_normal(data.shape))
    return Volume(torch.from_numpy(np.where(inside > 0.5, noisy, 0).astype(np.float32))[None], t1w.grid)


def similarity(pair: list[Prepared]) -> float:
    """Of two scans, aligned as time points are."""
    works = [each.work for each in pair]
    alignment = groupwise.align(works, [each.linear for each in pair])
    images, mask = groupwise.bring(works, alignment)
    return groupwise.similarity(images / groupwise.differential_bias(images, mask, alignment.grid), mask)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path, nargs="+")
    torch.set_num_threads(1)
    prepared: list[Prepared] = []
    same: list[float] = []
    with torch.inference_mode():
        for path in parser.parse_args().scans:
            scan = io.read_scan(path)
            both = [
                prepare_scan(each, Classic(), torch.device("cpu"), Clock(lambda _: None))
                for each in (scan, rescan(scan))
            ]
            prepared.append(both[0])
            same.append(similarity(both))
            print(path.name, same[-1], flush=True)
        different = []
        for pair in combinations(prepared, 2):
            different.append(similarity(list(pair)))
            print(different[-1], flush=True)
    text = f"Correlation in the brain of two aligned scans; {len(same)} people of {path.parents[2].name}.\n\n"
    text += "| pairs | n | least | median | largest |\n|---|---|---|---|---|\n"
    for name, values in (("the same head, another pose and noise", same), ("different people", different)):
        text += f"| {name} | {len(values)} | {min(values):.3f} | {np.median(values):.3f} | {max(values):.3f} |\n"
    storage.write_text(RESULT, text)


if __name__ == "__main__":
    main()
