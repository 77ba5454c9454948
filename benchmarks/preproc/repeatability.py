"""Percent change of a scan's volumes after shift, rotation, added noise or an added bias field.

    python benchmarks/preproc/repeatability.py ../shared/data/ds000011/sub-*/anat/*_T1w.nii.gz --engine classic cat

Each scan is segmented unchanged and after

* ``shift``: resampling by half a voxel along all three axes;
* ``rotation``: turning the head by 10° (nodding, about the x axis) with fixed voxel axes;
* ``noise``: Rician noise with a sigma of 3 % of the median of white matter;
* ``bias``: a multiplicative field of 40 % over the brain (`vbmstat.simulate`'s).

Moved scans are interpolated by cubic splines (scipy, order 3); trilinear interpolation would smooth the image, and the
result would reflect that instead of the new position. In skull-stripped scans the background stays exactly zero.
Volumes need no registration, so engines stop after segmentation. Results are added to
benchmarks/results/preproc_repeatability.json by scan, change and engine; the table next to it shows all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from vbmstat.assets.provenance import versions
from vbmstat.device import choose_device, keep_freed_memory
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.preproc.results import Segmented
from vbmstat.preproc.spec import ENGINES, find_engine
from vbmstat.simulate.render import bias_field, rician

RESULT = Path(__file__).parents[1] / "results" / "preproc_repeatability.json"
SHIFT_VOXELS, ROTATION_DEGREES, NOISE_PERCENT, BIAS_PERCENT = 0.5, 10.0, 3.0, 40.0
VOLUMES = ("gm_ml", "wm_ml", "csf_ml", "tiv_ml")
BAR_PERCENT = 1.0  # of GM, median


def moved(t1w: Volume, to_old: np.ndarray, grid: Grid) -> Volume:
    """Resample the scan to another grid by cubic splines; `to_old`, (4, 4), maps its voxels to the scan's."""
    image = t1w.data[0].numpy()
    given = {"offset": to_old[:3, 3], "output_shape": grid.shape, "mode": "constant"}
    data = ndimage.affine_transform(image, to_old[:3, :3], order=3, **given).clip(image.min(), image.max())
    inside = ndimage.affine_transform((image != 0).astype(np.float32), to_old[:3, :3], order=1, **given) > 0.5
    return Volume(torch.from_numpy(np.where(inside, data, 0).astype(np.float32))[None], grid)


def shift(t1w: Volume, _: Segmented, __: np.random.Generator) -> Volume:
    to_old = np.eye(4)
    to_old[:3, 3] = SHIFT_VOXELS
    return moved(t1w, to_old, Grid(t1w.grid.shape, t1w.grid.affine @ to_old))


def rotation(t1w: Volume, _: Segmented, __: np.random.Generator) -> Volume:
    """Turn the head about the image's centre, in an image large enough to hold it."""
    size = t1w.grid.voxel_size_mm
    angle = np.deg2rad(ROTATION_DEGREES)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    old_shape = np.array(t1w.grid.shape)
    shape = np.ceil(np.abs(turn) @ (old_shape * size) / size).astype(int)
    to_old = np.eye(4)
    to_old[:3, :3] = np.diag(1 / size) @ turn @ np.diag(size)
    to_old[:3, 3] = (old_shape - 1) / 2 - to_old[:3, :3] @ ((shape - 1) / 2)
    return moved(t1w, to_old, Grid(tuple(shape), t1w.grid.affine))


def noise(t1w: Volume, segmented: Segmented, rng: np.random.Generator) -> Volume:
    image = t1w.data[0].numpy()
    white = float(np.median(image[segmented.tissues.data[1].cpu().numpy() > 0.95]))
    noisy = rician(image, NOISE_PERCENT / 100 * white, rng)
    if segmented.was_stripped:
        noisy[image == 0] = 0
    return Volume(torch.from_numpy(noisy)[None], t1w.grid)


def bias(t1w: Volume, segmented: Segmented, rng: np.random.Generator) -> Volume:
    brain = segmented.tissues.data.sum(0).cpu().numpy() > 0.5
    return Volume(t1w.data * torch.from_numpy(bias_field(brain, t1w.grid, BIAS_PERCENT, rng)), t1w.grid)


CHANGES: dict[str, Callable[[Volume, Segmented, np.random.Generator], Volume]] = {
    "shift": shift, "rotation": rotation, "noise": noise, "bias": bias,
}  # fmt: skip


def volumes(segmented: Segmented) -> dict[str, float]:
    tissues = segmented.volumes_ml
    return dict(zip(VOLUMES, (*tissues, sum(tissues)), strict=True))


def measure(path: Path, engine: str, changes: list[str], device: torch.device) -> list[dict[str, object]]:
    """Percent change of each volume for each change of a scan; noise and field are the same for every engine."""
    t1w = io.read_scan(path)
    plain = segment_scan(t1w, find_engine(engine), device)
    before = volumes(plain)
    rows: list[dict[str, object]] = []
    for name in changes:
        rng = np.random.default_rng(zlib.crc32(f"{path.name} {name}".encode()))
        after = volumes(segment_scan(CHANGES[name](t1w, plain, rng), find_engine(engine), device))
        percent = {f"{key}_change_percent": round(100 * (after[key] / before[key] - 1), 3) for key in VOLUMES}
        rows.append({"scan": path.name, "change": name, "engine": engine, **percent})
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Median [largest] absolute change of each volume by change and engine."""
    lines = [f"Absolute change in percent: median [largest] over scans. Target: GM median < {BAR_PERCENT:g}.", ""]
    lines += ["| change | engine | scans | GM | WM | CSF | TIV |", "|---|---|---|---|---|---|---|"]
    for change in (*CHANGES, "all"):
        for engine in sorted({str(row["engine"]) for row in rows}):
            same = [row for row in rows if row["engine"] == engine and change in ("all", row["change"])]
            if same:
                sizes = [[abs(float(str(row[f"{key}_change_percent"]))) for row in same] for key in VOLUMES]
                cells = " | ".join(f"{statistics.median(size):.2f} [{max(size):.2f}]" for size in sizes)
                lines.append(f"| {change} | {engine} | {len(same)} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--change", nargs="+", choices=CHANGES, default=list(CHANGES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    keep_freed_memory()
    device = choose_device(given.device)
    old = json.loads(given.out.read_text())["scans"] if given.out.exists() else []
    rows = {(row["scan"], row["change"], row["engine"]): row for row in old}
    for path in given.scans:
        for engine in given.engine:
            for row in measure(path, engine, given.change, device):
                rows[row["scan"], row["change"], row["engine"]] = row
            ordered = [rows[key] for key in sorted(rows, key=str)]
            storage.write_json(given.out, {"versions": versions(), "scans": ordered})
            storage.write_text(given.out.with_suffix(".md"), table(ordered))
    print(given.out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
