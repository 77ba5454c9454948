"""Lesions found by a network and by the plain rule, through the whole of engine `classic`.

    python benchmarks/wmh/measure.py --cache FOLDER
    python benchmarks/wmh/measure.py --cache FOLDER --weights runs/wmh/wmh.safetensors none --sets rendered

Sets, none of them trained on:

* `rendered`: whole heads from label maps 06–10 (40 % bias, 3 % noise), exact lesions of 3 mm³ and more;
* `patient07`: T1w of one person with multiple sclerosis and the consensus of raters who saw FLAIR;
* `injected`: ds000011 with twelve lesions of 30–1,500 mm³ each, injected by bidsgate (T1w only);
* `young`: ds000011, `adults`: 8 people of ds002748; they have no lesions, so that everything found is false.

The engine runs once a scan; `--cache` keeps what it hands to the lesion step. Results are added to
benchmarks/results/wmh.json; the table beside it shows all, wmh_*.png what was found.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import bidsgate.inject_lesions as bidsgate
import cc3d
import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage

from vbmstat.assets.provenance import versions
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.metrics.accuracy import dice
from vbmstat.preproc.networks.lesions import find_network
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.preproc.steps.lesions import LESION_FROM, MIN_LESION_MM3, Evidence, find_lesions
from vbmstat.preproc.steps.reassign import lesion_as_wm, lesion_share
from vbmstat.simulate import render_t1w
from vbmstat.simulate.labels import GM, LESION_LABELS, WM, tissue_labels
from vbmstat.training.prepare_lesions import evidence_of

ROOT = Path(__file__).parents[2]
DATA = ROOT / "../shared/data"
RESULT = ROOT / "benchmarks" / "results" / "wmh.json"
MAPS = ("06", "07", "08", "09", "10")
ADULTS = ("sub-04", "sub-09", "sub-13", "sub-20", "sub-28", "sub-34", "sub-42", "sub-58")
SIZES_MM3 = (3, 30, 100, 500, 1e9)
FOUND_FROM = 0.2  # share of a lesion's voxels from which it counts as found
TOLERANCE_MM = 2.0


@dataclass(frozen=True)
class Scan:
    """A scan, and its true lesions, if it has any."""

    group: str
    name: str
    path: Path
    lesion: Path | None = None

    def t1w(self) -> Volume:
        """The image, rendered if it is a label map."""
        volume = io.read_volume(self.path)
        return volume if self.group != "rendered" else render_t1w(volume, seed=int(self.name))

    def truth(self, grid: Grid) -> np.ndarray:
        """True lesions on the working grid, a crop of the scan."""
        if self.lesion is None:
            return np.zeros(grid.shape, bool)
        mask = io.read_volume(self.lesion)
        values = mask.data[0].numpy()
        inside = np.isin(values, list(LESION_LABELS)) if self.group == "rendered" else values > 0
        start = np.round((np.linalg.inv(mask.grid.affine) @ grid.affine)[:3, 3]).astype(int)
        return inside[tuple(slice(a, a + n) for a, n in zip(start, grid.shape, strict=True))]


def injected(path: Path, folder: Path, seed: int) -> Scan:
    """A scan with lesions of bidsgate, written into a folder."""
    name = path.name.split("_")[0]
    folder.mkdir(parents=True, exist_ok=True)
    t1w, lesion = folder / f"{name}_T1w.nii.gz", folder / f"{name}_lesions.nii.gz"
    if not lesion.is_file():
        spec = bidsgate.LesionSpec(seed=seed)
        bidsgate.inject(path, None, t1w, None, lesion, folder / f"{name}_lesions.json", spec)
    return Scan("injected", name, t1w, lesion)


def scans(groups: list[str], folder: Path) -> Iterator[Scan]:
    """The scans of some sets; injected ones are written into a folder."""
    if "rendered" in groups:
        for number in MAPS:
            path = DATA / "labelmaps" / f"training_seg_{number}.nii.gz"
            yield Scan("rendered", number, path, path)
    if "patient07" in groups:
        folder = DATA / "lesion" / "open_ms-patient07"
        yield Scan("patient07", "07", folder / "T1.nii.gz", folder / "lesion_mask.nii.gz")
    if "injected" in groups:
        for seed, path in enumerate(sorted((DATA / "ds000011").glob("sub-*/anat/*T1w.nii.gz"))):
            yield injected(path, folder, seed)
    for group, dataset, names in (("young", "ds000011", None), ("adults", "ds002748", ADULTS)):
        if group in groups:
            folders = (
                sorted((DATA / dataset).glob("sub-*/anat"))
                if names is None
                else [DATA / dataset / n / "anat" for n in names]
            )
            for folder in folders:
                yield Scan(group, folder.parent.name, next(folder.glob("*T1w.nii.gz")))


def evidence(scan: Scan, cache: Path | None) -> Evidence:
    """What engine `classic` hands to the lesion step."""
    path = cache and cache / f"{scan.group}_{scan.name}.npz"
    if path is not None and path.is_file():
        saved = np.load(path)
        tensors = {key: torch.from_numpy(saved[key].astype(np.float32)) for key in ("brain", "fractions", "prior")}
        grid = Grid(tensors["brain"].shape[1:], saved["affine"])  # type: ignore[arg-type]
        return Evidence(
            Volume(tensors["brain"], grid), tensors["fractions"], tensors["prior"], saved["linear"], scan.t1w()
        )
    t1w = scan.t1w()
    known = evidence_of(segment_scan(t1w), t1w)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"brain": known.brain.data, "fractions": known.fractions, "prior": known.prior}
        arrays = {key: value.numpy().astype(np.float16) for key, value in arrays.items()}
        np.savez_compressed(path, **arrays, affine=known.brain.grid.affine, linear=known.linear)
    return known


def measure(scan: Scan, known: Evidence, weights: str) -> tuple[dict[str, object], np.ndarray, np.ndarray]:
    """A row of results, the lesions found, and the true ones."""
    network = find_network(weights)
    started = time.process_time()
    with torch.inference_mode():
        probability = find_lesions(known, network).data[0]
    mask = (probability > LESION_FROM).numpy()
    seconds = time.process_time() - started
    grid = known.brain.grid
    voxel = float(np.prod(grid.voxel_size_mm))
    truth = without_small(scan.truth(grid), voxel)
    row: dict[str, object] = {
        "set": scan.group, "scan": scan.name, "weights": Path(weights).name, "ml": round(mask.sum() * voxel / 1000, 3),
        "n": int(cc3d.connected_components(mask, connectivity=26).max()), "cpu_s": round(seconds, 1),
    }  # fmt: skip
    if scan.group == "rendered":
        row |= tissue_dice(scan, known, probability)
    if truth.any():
        near = [ndimage.distance_transform_edt(~m, grid.voxel_size_mm) <= TOLERANCE_MM for m in (truth, mask)]
        total = int(mask.sum() + truth.sum())
        row |= {
            "true_ml": round(truth.sum() * voxel / 1000, 3),
            "dice": round(2 * int((mask & truth).sum()) / total, 3),
            "dice_2mm": round(int((mask & near[0]).sum() + (truth & near[1]).sum()) / total, 3),
            "ratio": round(int(mask.sum()) / int(truth.sum()), 3),
            "found": found_by_size(mask, truth, voxel),
        }
    return row, mask, truth


def tissue_dice(scan: Scan, known: Evidence, probability: torch.Tensor) -> dict[str, float]:
    """Dice of GM and WM with the exact labels, without and with the lesions found, and GM mL in true lesions."""
    grid = known.brain.grid
    labels = io.read_volume(scan.path)
    start = np.round((np.linalg.inv(labels.grid.affine) @ grid.affine)[:3, 3]).astype(int)
    part = tuple(slice(a, a + n) for a, n in zip(start, grid.shape, strict=True))
    exact, lesion = tissue_labels(labels).data[0][part], torch.from_numpy(scan.truth(grid))
    share = lesion_share(probability, known.fractions)
    out = {}
    for when, fractions in (("before", known.fractions), ("after", lesion_as_wm(known.fractions, share))):
        found = fractions.argmax(0)  # GM, WM, CSF
        inside = fractions.sum(0) > 0.5
        for index, tissue, label in ((0, "gm", GM), (1, "wm", WM)):
            out[f"{tissue}_{when}"] = round(dice((found == index) & inside, exact == label), 4)
        out[f"gm_in_lesions_ml_{when}"] = round(float((fractions[0] * lesion).sum()) * grid.voxel_volume_ml, 3)
    return out


def without_small(mask: np.ndarray, voxel: float) -> np.ndarray:
    pieces, n = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=n + 1) * voxel
    sizes[0] = 0
    return (sizes >= MIN_LESION_MM3)[pieces]


def found_by_size(mask: np.ndarray, truth: np.ndarray, voxel: float) -> dict[str, list[int]]:
    """Found and true lesions in each class of size."""
    pieces, n = ndimage.label(truth, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=n + 1)[1:] * voxel
    share = ndimage.mean(mask, pieces, np.arange(1, n + 1)) if n else np.zeros(0)
    out = {}
    for low, high in pairwise(SIZES_MM3):
        inside = (sizes >= low) & (sizes < high)
        out[f"{low:g}+"] = [int((inside & (share >= FOUND_FROM)).sum()), int(inside.sum())]
    return out


def picture(known: Evidence, mask: np.ndarray, truth: np.ndarray, path: Path) -> None:
    """Eight axial slices: the brain, and with what was found (red) and is true (cyan)."""
    image = known.brain.data[0].numpy()
    amount = (mask | truth).sum((0, 1)) if (mask | truth).any() else np.ones(image.shape[2])
    slices = np.unique(np.quantile(np.repeat(np.arange(len(amount)), amount), np.linspace(0.05, 0.95, 8)).astype(int))
    figure = Figure(figsize=(2.4 * len(slices), 6.0))
    axes = figure.subplots(2, len(slices), squeeze=False)
    for column, z in zip(axes.T, slices, strict=True):
        for ax in column:
            ax.imshow(image[:, :, z].T, origin="lower", cmap="gray", vmin=0.2, vmax=1.2)
            ax.axis("off")
        for what, colour in ((mask, "red"), (truth, "cyan")):
            if what[:, :, z].any():
                column[1].contour(what[:, :, z].T, [0.5], colors=colour, linewidths=0.7)
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=70)


def table(rows: list[dict]) -> str:
    """Every scan with lesions, then medians."""
    head = (
        "set", "scan", "proposed by", "true mL", "found mL", "ratio", "Dice", "Dice, 2 mm",
        "found of 3+ / 30+ / 100+ / 500+ mm³",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        if "dice" in row:
            found = " / ".join(f"{a} of {b}" for a, b in row["found"].values())
            cells = [
                row["set"],
                row["scan"],
                name_of(row),
                row["true_ml"],
                row["ml"],
                row["ratio"],
                row["dice"],
                row["dice_2mm"],
            ]
            lines.append("| " + " | ".join(map(str, [*cells, found])) + " |")
    lines += [
        "",
        "| rendered head | proposed by | GM Dice, before → after | WM Dice | GM in true lesions, mL |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if "gm_before" in row:
            cells = (f"{row[f'{what}_before']} → {row[f'{what}_after']}" for what in ("gm", "wm", "gm_in_lesions_ml"))
            lines.append(f"| {row['scan']} | {name_of(row)} | " + " | ".join(cells) + " |")
    lines += ["", "| set | proposed by | scans | median | worst | CPU s, median |", "|---|---|---|---|---|---|"]
    for group, weights in sorted({(row["set"], row["weights"]) for row in rows}):
        own = [row for row in rows if (row["set"], row["weights"]) == (group, weights)]
        key, worst, unit = ("dice", min, "Dice") if "dice" in own[0] else ("ml", max, "mL false")
        values = [row[key] for row in own]
        cpu_s = statistics.median(row["cpu_s"] for row in own)
        cells = f"{unit} {statistics.median(values):.2f} | {worst(values):.2f} | {cpu_s:.1f}"
        lines.append(f"| {group} | {name_of(own[0])} | {len(own)} | {cells} |")
    return "\n".join(lines) + "\n"


def name_of(row: dict) -> str:
    return "plain rule" if row["weights"] == "none" else "network"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["vbmstat", "none"])
    parser.add_argument("--sets", nargs="+", default=["rendered", "patient07", "injected", "young", "adults"])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    mpl.use("Agg")
    torch.set_num_threads(1)
    old = json.loads(given.out.read_text())["scans"] if given.out.exists() else []
    rows = {(row["set"], row["scan"], name_of(row)): row for row in old}
    for scan in scans(given.sets, given.cache / "injected"):
        known = evidence(scan, given.cache)
        for weights in given.weights:
            row, mask, truth = measure(scan, known, weights)
            rows[scan.group, scan.name, name_of(row)] = row
            print(row, flush=True)
            if scan.group == "patient07" or scan.name in ("06", "08"):
                picture(known, mask, truth, given.out.parent / f"wmh_{scan.group}_{scan.name}.png")
        ordered = [rows[key] for key in sorted(rows)]
        storage.write_json(given.out, {"versions": versions(), "scans": ordered})
        storage.write_text(given.out.with_suffix(".md"), table(ordered))


if __name__ == "__main__":
    main()
