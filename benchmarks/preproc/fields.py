"""Tissues under many bias fields, on heads rendered from label maps: the worst, not only the usual.

    python benchmarks/preproc/fields.py WORK --maps 01 02 --seeds 20 --percent 40 --thinning 0 1

Each head is rendered with 3 % noise and a field drawn at random, its cortex thinned as asked, and segmented by engine
classic. Dice of GM, WM and CSF is taken with the exact labels. The error of the field is the ratio of the corrected
image to the one rendered without field and noise, in GM and WM, 2nd to 98th percentile over the median. Every image
is a line of WORK/fields.jsonl, and a run is resumed.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.image import io, storage
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.metrics import accuracy
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.simulate import render_t1w, tissue_labels
from vbmstat.simulate.atrophy import pial_surface

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "preproc_fields.md"
SULCAL_CSF = 24


def thinned(labels: Volume, thinning_mm: float) -> Volume:
    """A label map whose outer cortex has become CSF."""
    surface = pial_surface(labels)
    lost = surface.cortex & (surface.gm_fraction(thinning_mm) < 0.5)
    return Volume(torch.where(torch.from_numpy(lost)[None], SULCAL_CSF, labels.data), labels.grid)


def measure(labels: Volume, percent: float, seed: int) -> dict[str, object]:
    """Render a head under one field and compare its tissues with the labels."""
    t1w = render_t1w(labels, noise_percent=3.0, bias_percent=percent, seed=seed)
    plain = render_t1w(labels, noise_percent=0.0, bias_percent=0.0, seed=seed)
    truth = tissue_labels(labels).data
    result = segment_scan(t1w)
    found = result.label.data.round()
    row: dict[str, object] = {
        f"dice_{name}": round(accuracy.dice(found == value, truth == value), 4)
        for name, value in accuracy.TISSUES.items()
    }
    corrected = resample(result.work.data, result.work.grid, labels.grid)[0]
    ratio = (corrected / plain.data[0].clamp(min=1))[(truth[0] > 1) & (corrected > 0)].numpy()
    low, middle, high = np.percentile(ratio, [2, 50, 98])
    return {**row, "field_low": round(low / middle, 3), "field_high": round(high / middle, 3)}


def report(rows: list[dict[str, object]]) -> str:
    """Worst, 1st percentile and median of Dice, by field and thinning."""
    table = pd.DataFrame(rows)
    lines = ["# Tissues under many bias fields", "", __doc__.split("\n\n")[2].replace("\n", " "), "",
             "| field, % | thinning, mm | images | tissue | worst Dice | 1st percentile | median | worst head |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for (percent, thinning), group in table.groupby(["percent", "thinning"]):
        for name in accuracy.TISSUES:
            dice = group[f"dice_{name}"]
            worst = group.loc[dice.idxmin()]
            lines.append(
                f"| {percent:g} | {thinning:g} | {len(group)} | {name.upper()} | {dice.min():.3f} | "
                f"{dice.quantile(0.01):.3f} | {dice.median():.3f} | map {worst['map']}, seed {worst['seed']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--maps", nargs="+", default=[f"{n:02d}" for n in range(1, 11)])
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 20), help="first, and the one after the last")
    parser.add_argument("--percent", nargs="+", type=float, default=[20.0, 40.0, 80.0])
    parser.add_argument("--thinning", nargs="+", type=float, default=[0.0, 1.0])
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "fields.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {(row["map"], row["percent"], row["thinning"], row["seed"]) for row in rows}
    for seed, number, thinning, percent in product(range(*given.seeds), given.maps, given.thinning, given.percent):
        if (number, percent, thinning, seed) not in done:
            labels = io.read_volume(ROOT / f"../shared/data/labelmaps/training_seg_{number}.nii.gz")
            labels = thinned(labels, thinning) if thinning else labels
            row = {"map": number, "percent": percent, "thinning": thinning, "seed": seed}
            rows.append({**row, **measure(labels, percent, 1000 + seed)})
            print(rows[-1], flush=True)
            with path.open("a") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
    storage.write_text(RESULT, report(rows))


if __name__ == "__main__":
    main()
