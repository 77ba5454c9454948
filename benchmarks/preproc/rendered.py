"""Dice of an engine with exact labels, on whole heads rendered from label maps 06-10, which must not be tuned on.

    python benchmarks/preproc/rendered.py --engine classic cat
    python benchmarks/preproc/rendered.py --engine classic --maps 06 --noise 3    # one scan, as a check

``vbmstat.simulate.render_t1w`` renders the T1w images with 40 % bias and 3 % or 9 % Rician noise. The engine runs all
steps from brain extraction to tissues; Dice needs no registration. p0 is rounded to labels and compared over the whole
image, so that tissue outside the brain mask counts as lost. Results are added to
benchmarks/results/preproc_rendered.json by map, noise and engine; the table next to it shows all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from vbmstat.assets.provenance import versions
from vbmstat.device import choose_device, keep_freed_memory
from vbmstat.image import io, storage
from vbmstat.metrics import accuracy
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.preproc.spec import ENGINES, find_engine
from vbmstat.simulate import render_t1w, tissue_labels

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "preproc_rendered.json"
BIAS_PERCENT = 40.0
MAPS = ("06", "07", "08", "09", "10")
NOISE_PERCENT = (3.0, 9.0)
BAR = {3.0: {"gm": 0.96, "wm": 0.97, "csf": 0.90}, 9.0: {"gm": 0.92, "wm": 0.95}}


def measure(path: Path, noise: float, engine: str, device: torch.device, weights: str) -> dict[str, object]:
    """Render one head, run the engine, and compare p0 with the exact tissues."""
    volume = io.read_volume(path)
    number = path.name.removesuffix(".nii.gz")[-2:]
    t1w = render_t1w(volume, noise_percent=noise, bias_percent=BIAS_PERCENT, seed=int(number))
    truth = tissue_labels(volume).data
    started = time.perf_counter()
    result = segment_scan(t1w, find_engine(engine, weights if engine == "deep" else None), device)
    seconds = time.perf_counter() - started
    labels = result.label.data.round().cpu()
    measured_ml = dict(zip(("gm", "wm", "csf"), result.volumes_ml, strict=True))
    row: dict[str, object] = {"map": number, "noise_percent": noise, "engine": engine}
    for tissue, value in accuracy.TISSUES.items():
        true_ml = int((truth == value).sum()) * volume.grid.voxel_volume_ml
        row[f"dice_{tissue}"] = round(accuracy.dice(labels == value, truth == value), 4)
        row[f"{tissue}_error_percent"] = round(100 * (measured_ml[tissue] / true_ml - 1), 2)
    return {**row, "wall_s": round(seconds, 1)}


def table(rows: list[dict[str, object]]) -> str:
    """Every scan, then medians by engine and noise with their required minimum."""
    dice_of, error_of = ([pattern.format(t) for t in accuracy.TISSUES] for pattern in ("dice_{}", "{}_error_percent"))
    columns = ["map", "noise_percent", "engine", *dice_of, *error_of, "wall_s"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]
    lines += ["", "Medians and required minimum:", ""]
    lines += ["| noise % | engine | scans | GM | WM | CSF |", "|---|---|---|---|---|---|"]
    for noise, engine in sorted({(row["noise_percent"], row["engine"]) for row in rows}, key=str):
        same = [row for row in rows if (row["noise_percent"], row["engine"]) == (noise, engine)]
        cells = []
        for tissue in accuracy.TISSUES:
            median = statistics.median(row[f"dice_{tissue}"] for row in same)
            bar = BAR.get(noise, {}).get(tissue)
            cells.append(f"{median:.3f}" + (f" (≥ {bar:.2f})" if bar else ""))
        lines.append(f"| {noise:g} | {engine} | {len(same)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=["classic"])
    parser.add_argument("--weights", default="vbmstat", help="weights of engine deep")
    parser.add_argument("--maps", nargs="+", default=MAPS)
    parser.add_argument("--noise", nargs="+", type=float, default=NOISE_PERCENT)
    parser.add_argument("--labelmaps", type=Path, default=ROOT / "../shared/data/labelmaps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    keep_freed_memory()
    device = choose_device(given.device)
    old = json.loads(given.out.read_text())["scans"] if given.out.exists() else []
    rows = {(row["map"], row["noise_percent"], row["engine"]): row for row in old}
    for number in given.maps:
        for noise in given.noise:
            for engine in given.engine:
                row = measure(given.labelmaps / f"training_seg_{number}.nii.gz", noise, engine, device, given.weights)
                rows[number, noise, engine] = row
                print(row, flush=True)
                ordered = [rows[key] for key in sorted(rows, key=str)]
                storage.write_json(given.out, {"bias_percent": BIAS_PERCENT, "versions": versions(), "scans": ordered})
                storage.write_text(given.out.with_suffix(".md"), table(ordered))


if __name__ == "__main__":
    main()
