"""Tissues under many bias fields, on heads rendered from label maps: the worst, not only the usual.

    python benchmarks/preproc/fields.py WORK --images 200

Each head is rendered with 3 % noise and a field drawn at random. Image N has a random range of the field (20, 40 or
80 %; half of them 40 %), thinning of the cortex (0, .5 or 1 mm) and widening of the lateral ventricles (0 or 5 mm);
N gives them all. It is segmented by engine classic; Dice of GM, WM and CSF is taken with the exact labels. The error of
the field is the ratio of the corrected image to the one rendered without field and noise, in GM and WM, 2nd to 98th
percentile over the median.

Every image is a line of WORK/fields.jsonl, and a run is resumed.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from vbmstat.image import io, storage
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.metrics import accuracy
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.simulate import render_t1w, tissue_labels
from vbmstat.simulate.atrophy import pial_surface

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "preproc_fields.md"
N_MAPS, SULCAL_CSF, VENTRICLES, WHITE_MATTER = 10, 24, (4, 43), (2, 41, 77)


def changed(labels: Volume, thinning_mm: float, widening_mm: float) -> Volume:
    """A label map whose outer cortex has become CSF, and the white matter around the ventricles, too."""
    values = labels.data[0].numpy().copy()
    if thinning_mm:
        surface = pial_surface(labels)
        values[surface.cortex & (surface.gm_fraction(thinning_mm) < 0.5)] = SULCAL_CSF
    if widening_mm:
        distance = ndimage.distance_transform_edt(~np.isin(values, VENTRICLES), labels.grid.voxel_size_mm)
        values[(distance <= widening_mm) & np.isin(values, WHITE_MATTER)] = VENTRICLES[0]
    return Volume(torch.from_numpy(values)[None], labels.grid)


def draw(number: int) -> dict[str, object]:
    """What image `number` is rendered with."""
    rng = np.random.default_rng([20, number])
    return {
        "image": number,
        "map": f"{1 + number % N_MAPS:02d}",
        "percent": float(rng.choice([20, 40, 40, 80])),
        "thinning": float(rng.choice([0.0, 0.5, 1.0])),
        "widening": float(rng.choice([0.0, 5.0])),
    }


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
    """Worst, 1st percentile and median of Dice, by field."""
    table = pd.DataFrame(rows)
    lines = ["# Tissues under many bias fields", "", str(__doc__).split("\n\n")[2].replace("\n", " "), "",
             "| field, % | images | tissue | worst Dice | 1st percentile | median | worst head |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for percent, group in table.groupby("percent"):
        for name in accuracy.TISSUES:
            dice = group[f"dice_{name}"]
            worst = group.loc[dice.idxmin()]
            lines.append(
                f"| {percent:g} | {len(group)} | {name.upper()} | {dice.min():.3f} | {dice.quantile(0.01):.3f} | "
                f"{dice.median():.3f} | image {worst['image']} (map {worst['map']}, thinned {worst['thinning']:g} mm, "
                f"ventricles {worst['widening']:g} mm wider) |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no image after this time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "fields.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done, end = {row["image"] for row in rows}, time.monotonic() + 60 * given.minutes
    for number in range(given.images):
        if number in done or time.monotonic() > end:
            continue
        drawn = draw(number)
        labels = io.read_volume(ROOT / f"../shared/data/labelmaps/training_seg_{drawn['map']}.nii.gz")
        labels = changed(labels, drawn["thinning"], drawn["widening"])  # type: ignore[arg-type]
        rows.append({**drawn, **measure(labels, drawn["percent"], 1000 + number)})  # type: ignore[arg-type]
        print(rows[-1], flush=True)
        with path.open("a") as stream:
            stream.write(json.dumps(rows[-1]) + "\n")
    storage.write_text(RESULT, report(rows))


if __name__ == "__main__":
    main()
