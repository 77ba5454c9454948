"""Noise of change where nothing changed, singly and together, on heads that are not derived from the template.

    python benchmarks/longitudinal/noise.py --heads 1 2 --scans ../shared/data/ds002748/sub-02/anat/sub-02_T1w.nii.gz

Pairs are rendered label maps (`heads.py`), and real scans put into two new poses (cubic splines) with new shading and
new noise; the noise that a real scan has moves with the head. A finished pair is not computed again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from accuracy import SPEC, Prepared, log_change
from heads import BIAS_PERCENT, DEGREES, NOISE_PERCENT, SHIFT_MM, Head
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.preproc.longitudinal import preprocess_person
from vbmstat.preproc.pipeline import preprocess_scan
from vbmstat.simulate import render

RESULT = Path(__file__).parents[1] / "results" / "longitudinal_noise.json"
FWHM_MM, LEAST_GM = 6.0, 0.1


def rescan(t1w: Volume, visit: int) -> Volume:
    """The scan in a new pose, with shading and noise of its own."""
    rng, size, middle = np.random.default_rng(visit), t1w.grid.voxel_size_mm, (np.array(t1w.grid.shape) - 1) / 2
    turn = Rotation.from_euler("xyz", rng.normal(0, DEGREES, 3), degrees=True).as_matrix()
    matrix, shift = np.diag(1 / size) @ turn @ np.diag(size), rng.normal(0, SHIFT_MM, 3) / size
    moved = ndimage.affine_transform(t1w.data[0].numpy(), matrix, middle - matrix @ middle + shift, order=3).clip(0)
    white = np.percentile(moved[moved > 0], 90)
    moved *= render.bias_field(moved > white / 3, t1w.grid, BIAS_PERCENT, rng)
    return Volume(torch.from_numpy(render.rician(moved / white, NOISE_PERCENT / 100, rng) * 600)[None], t1w.grid)


def measured(scans: list[Volume]) -> dict[str, dict[str, float]]:
    """SD of the smoothed change (% of GM) and of the log change of a voxel, and change of all GM (%), of each kind."""
    points = preprocess_person(scans, SPEC, years=[0.0, 1.0]).time_points
    single = [preprocess_scan(scan, SPEC) for scan in scans]
    kinds = {
        "singly": [(one.modulated, one.smoothed) for one in single],
        "plasticity": [(one.preprocessed.modulated, one.preprocessed.smoothed) for one in points],
        "ageing": [(one.aged, one.aged_smoothed) for one in points],
    }
    found = {}
    for kind, ((first, smooth_first), (second, smooth_second)) in kinds.items():
        low = torch.stack([smooth_first[FWHM_MM].data[0], smooth_second[FWHM_MM].data[0]])
        grey = low.mean(0) > LEAST_GM
        found[kind] = {
            "smoothed": 100 * float(((low[1] - low[0]) / low.mean(0))[grey].std()),
            "voxel": float(log_change(first.data[0], second.data[0]).std()),
            "total": 100 * (second.sums_ml[0] / first.sums_ml[0] - 1),
        }
    return found


def save(results: dict[str, dict[str, dict[str, float]]]) -> None:
    text = f"""Pairs without change in poses of their own (4°, 4 mm), with new shading ({BIAS_PERCENT:g} %) and noise
({NOISE_PERCENT:g} %); rendered label maps, and real scans put into new poses (`noise.py`). SD over voxels of the
change of maps smoothed with {FWHM_MM:g} mm, % of GM (above {LEAST_GM:g}); SD of the log change of single voxels; change
of all GM, %.

| head | singly, smoothed | plasticity | ageing | singly, voxel | plasticity | ageing | singly, all GM | together |
|---|---|---|---|---|---|---|---|---|
"""
    for head, found in results.items():
        kinds = [found[kind] for kind in ("singly", "plasticity", "ageing")]
        values = [f"{each['smoothed']:.2f}" for each in kinds] + [f"{each['voxel']:.3f}" for each in kinds]
        values += [f"{each['total']:+.2f}" for each in kinds[:2]]
        text += f"| {head} | {' | '.join(values)} |\n"
    storage.write_text(RESULT, json.dumps(results, indent=1) + "\n")
    storage.write_text(RESULT.with_suffix(".md"), text)
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, nargs="*", default=[])
    parser.add_argument("--scans", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepared = Prepared()  # each scan is prepared once for both
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for number in given.heads:
        name = f"rendered {number:02d}"
        if name not in results:
            prepared.made.clear()
            results[name] = measured([Head(number).scan(visit) for visit in (1, 2)])
            save(results)
    for path in given.scans:
        name = f"{path.parents[2].name} {path.parents[1].name}"
        if name not in results:
            prepared.made.clear()
            t1w = io.read_scan(path)
            results[name] = measured([rescan(t1w, visit) for visit in (1, 2)])
            save(results)


if __name__ == "__main__":
    main()
