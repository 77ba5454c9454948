"""Registration of the same tissues by network, optimisation and both: fit, regularity, inverse consistency, time.

    python benchmarks/deep/warp.py --weights FOLDER --scans ../shared/data/ds000011
    python benchmarks/deep/warp.py --ways network hybrid --limit 1    # a quick look

Every method gets GM and WM of engine `classic`, aligned by its linear registration. `classic` starts from the draft
velocity of its segmentation, `from zero` from the identity. The inverse consistency error is the distance between a
point of the template's brain and its image under warp and inverse. Results go to benchmarks/results/deep_warp.json and
the table next to it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from vbmstat import assets
from vbmstat.assets.provenance import device_label, versions
from vbmstat.image import io, storage
from vbmstat.image.grid import apply_affine, sample, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.metrics import accuracy
from vbmstat.preproc import pipeline
from vbmstat.preproc.engines import cat, deep
from vbmstat.preproc.networks.weights import find_set
from vbmstat.preproc.steps import warp, working

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "deep_warp.json"
IN_BRAIN = 0.1  # of the template's GM and WM
MEASURES = (
    "cpu_s", "wall_s", "mse_to_template", "linear_elasticity", "published_elasticity", "jacobian_min", "folded_voxels",
    "inverse_error_mean_mm", "inverse_error_max_mm",
)  # fmt: skip
Way = Callable[[Volume, Volume, torch.Tensor], warp.Warp]


def ways_of(weights: str) -> dict[str, Way]:
    """Methods to compare: aligned tissues, template and draft velocity -> warp."""
    networks = find_set(weights)
    alone = replace(networks, refine_warp=False)
    return {
        "network": lambda tissues, template, _: deep.register(tissues, template, alone),
        "hybrid": lambda tissues, template, _: deep.register(tissues, template, networks),
        "classic": warp.register_both_ways,
        "from zero": lambda tissues, template, _: warp.register_both_ways(tissues, template),
        "cat": lambda tissues, template, _: cat.register(tissues, template),
    }


def inverse_error_mm(warped: warp.Warp, brain: torch.Tensor) -> torch.Tensor:
    """Distance between ``inverse(forward(x))`` and x (mm) for brain voxels of the template, (n,)."""
    grid = warped.forward.grid
    size = torch.as_tensor(grid.voxel_size_mm, dtype=torch.float32).reshape(3, 1, 1, 1)
    at = voxel_indices(grid.shape) + warped.forward.data / size
    back = warped.forward.data + sample(warped.inverse.data, at, padding_mode="border")
    return back.square().sum(0).sqrt()[brain]


def measure(way: Way, tissues: Volume, template: Volume, draft: torch.Tensor) -> dict[str, float]:
    """Measures of one warp."""
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        warped = way(tissues, template, draft)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    grid = template.grid
    points = apply_affine(grid.affine, voxel_indices(grid.shape)) + warped.forward.data
    moved = sample(tissues.data, apply_affine(torch.linalg.inv(torch.as_tensor(grid.affine)).numpy(), points))
    determinant = warped.forward.jacobian_determinant
    field = Displacement(warped.forward.data, grid)
    error = inverse_error_mm(warped, template.data.sum(0) > IN_BRAIN)
    return {
        "cpu_s": round(cpu, 2),
        "wall_s": round(wall, 2),
        "mse_to_template": round(accuracy.mse_to_template(Volume(moved, grid), template), 5),
        "linear_elasticity": round(accuracy.linear_elasticity(field), 4),
        "published_elasticity": round(accuracy.published_elasticity(field), 1),
        "jacobian_min": round(float(determinant.min()), 4),
        "folded_voxels": int((determinant <= 0).sum()),
        "inverse_error_mean_mm": round(float(error.mean()), 4),
        "inverse_error_max_mm": round(float(error.max()), 3),
    }


def table(rows: list[dict[str, object]]) -> str:
    """Median [worst scan] of each method."""
    lines = ["| way | scans | " + " | ".join(MEASURES) + " |", "|" + "---|" * (len(MEASURES) + 2)]
    for way in dict.fromkeys(row["way"] for row in rows):
        same = [row for row in rows if row["way"] == way]
        cells = []
        for name in MEASURES:
            values = [row[name] for row in same]
            worst = min(values) if name == "jacobian_min" else max(values)
            cells.append(f"{statistics.median(values):.4g} [{worst:.4g}]")
        lines.append(f"| {way} | {len(same)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="vbmstat")
    parser.add_argument("--scans", type=Path, default=ROOT / "../shared/data/ds000011")
    parser.add_argument("--ways", nargs="+")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    ways = ways_of(given.weights)
    template = assets.template()
    rows: list[dict[str, object]] = []
    for path in sorted(given.scans.rglob("*_T1w.nii.gz"))[: given.limit]:
        segmented = pipeline.segment_scan(io.read_scan(path))
        with torch.inference_mode():
            tissues = working.align_to_template(segmented.fractions, template, segmented.linear)
        for name in given.ways or ways:
            row = {"scan": path.name, "way": name, **measure(ways[name], tissues, template, segmented.velocity)}
            rows.append(row)
            print(row, flush=True)
        about = {"threads": torch.get_num_threads(), "cpu": device_label("cpu"), "cores": os.cpu_count()}
        storage.write_json(given.out, {**about, "versions": versions(), "scans": rows})
        storage.write_text(given.out.with_suffix(".md"), table(rows))


if __name__ == "__main__":
    main()
