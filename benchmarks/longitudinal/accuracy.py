"""Repeated scans of rendered heads: no change, and cortex thinned in one region, against the truth and single scans.

    python benchmarks/longitudinal/accuracy.py --heads 1 2

For each head: a pair without change, processed as one person and as two single scans; two people of three time points
(no, small and large thinning of a region); and one whose whole cortex thins, together and singly. Every scan has a
pose, shading and noise of its own. A finished head is not computed again; the table next to the JSON shows all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from heads import Head

from vbmstat.image import storage
from vbmstat.image.grid import apply_affine, sample
from vbmstat.image.volume import Volume
from vbmstat.preproc import longitudinal, pipeline
from vbmstat.preproc.longitudinal import Person, preprocess_person
from vbmstat.preproc.pipeline import preprocess_scan
from vbmstat.preproc.results import Preprocessed
from vbmstat.preproc.spec import PreprocSpec

RESULT = Path(__file__).parents[1] / "results" / "longitudinal_accuracy.json"
SPEC = PreprocSpec(device="cpu")
TRIPLES = ((0.0, 0.1, 0.2), (0.0, 0.5, 1.0))  # mm of thinning of the region
EVERYWHERE = (0.0, 0.1, 0.3)  # mm of thinning of the whole cortex
MOST_GM = 0.2  # of either map: where changes of logs are compared


class Prepared:
    """Prepare each scan once, however many people it is in; the time that it took is counted each time."""

    def __init__(self) -> None:
        self.made: dict[bytes, tuple[pipeline.Prepared, float]] = {}
        self.seconds = 0.0
        self.prepare = pipeline.prepare_scan
        longitudinal.prepare_scan = pipeline.prepare_scan = self  # type: ignore[assignment]

    def __call__(self, scan: Volume, *rest: object) -> pipeline.Prepared:
        """`pipeline.prepare_scan`, remembered by the scan's content."""
        key, start = longitudinal._content(scan), time.process_time()
        if key not in self.made:
            self.made[key] = self.prepare(scan, *rest), time.process_time() - start  # type: ignore[arg-type]
            self.seconds -= self.made[key][1]  # already in the caller's own time
        self.seconds += self.made[key][1]
        return self.made[key][0]


def in_region(head: Head, visit: int, result: Preprocessed) -> torch.Tensor:
    """Which voxels of the maps are in the region that is thinned, or within 4 mm of it."""
    points, grid = result.deformation, head.grid
    to_head = head.pose(visit) @ np.linalg.inv(grid.affine)  # scan mm -> voxel of the head
    reach = head.region_within(4.0).astype(np.float32)
    return sample(torch.from_numpy(reach)[None], apply_affine(to_head, points.data))[0] > 0.5


def log_change(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    inside = (first > MOST_GM) & (second > MOST_GM)
    return (second[inside] / first[inside]).log()


def no_change(head: Head, prepared: Prepared) -> dict[str, object]:
    scans = [head.scan(visit) for visit in (1, 2)]
    prepared.seconds, start = 0.0, time.process_time()
    person = preprocess_person(scans, SPEC, years=[0.0, 1.0])
    long_s = time.process_time() - start + prepared.seconds
    prepared.seconds, start = 0.0, time.process_time()
    single = [preprocess_scan(scan, SPEC) for scan in scans]
    single_s = time.process_time() - start + prepared.seconds
    found: dict[str, object] = {"cpu_s": [long_s / 2, single_s / 2], "similarity": person.time_points[0].similarity}
    kinds = {
        "plasticity": [each.preprocessed.modulated for each in person.time_points],
        "ageing": [each.aged for each in person.time_points if each.aged],
        "single": [each.modulated for each in single],
    }
    for kind, (first, second) in kinds.items():
        volumes = [np.array(volume.sums_ml) for volume in (first, second)]
        change = log_change(first.data[0], second.data[0])
        found[kind] = {
            "percent": (100 * np.log(volumes[1] / volumes[0])).tolist(),
            "sd": float(change.std()), "median_absolute": float(change.abs().median()),
        }  # fmt: skip
    return found


def thinned(head: Head, levels: tuple[float, ...], first_visit: int) -> list[dict[str, float]]:
    """True and measured loss of GM against the first time point, mL, and the share of it that is in the region."""
    visits = [1, *range(first_visit, first_visit + len(levels) - 1)]
    scans = [head.scan(visit, level) for visit, level in zip(visits, levels, strict=True)]
    person = preprocess_person(scans, SPEC, years=[float(k) for k in range(len(levels))])
    region = in_region(head, visits[0], person.time_points[0].preprocessed)
    return [row(head, person, k, level, region) for k, level in enumerate(levels) if k]


def row(head: Head, person: Person, k: int, level: float, region: torch.Tensor) -> dict[str, float]:
    out = {"thinning_mm": level, "true_ml": head.lost_ml(level)}
    native = [each.preprocessed.segmented.volumes_ml[0] for each in (person.time_points[0], person.time_points[k])]
    out["all_ml"] = native[0] - native[1]
    for model in ("plasticity", "ageing"):
        maps = [
            each.preprocessed.modulated if model == "plasticity" else each.aged
            for each in (person.time_points[0], person.time_points[k])
        ]
        lost = (maps[0].data[0] - maps[1].data[0]) * maps[0].grid.voxel_volume_ml
        out[f"{model}_region_ml"] = float(lost[region].sum())
        out[f"{model}_elsewhere_ml"] = float(lost[~region].sum())
    return out


def thinned_everywhere(number: int) -> list[dict[str, float]]:
    """True loss of GM against the first time point, and the loss measured together and singly, mL."""
    head = Head(number, np.inf)
    scans = [head.scan(visit, level) for visit, level in zip((1, 5, 6), EVERYWHERE, strict=True)]
    person = preprocess_person(scans, SPEC, years=[0.0, 1.0, 2.0])
    together = [each.preprocessed.segmented.volumes_ml[0] for each in person.time_points]
    singly = [preprocess_scan(scan, SPEC).segmented.volumes_ml[0] for scan in scans]
    aged = [each.aged.sums_ml[0] for each in person.time_points if each.aged]
    return [
        {"thinning_mm": level, "true_ml": head.lost_ml(level)}
        | {name: gm[0] - gm[k] for name, gm in (("together", together), ("ageing", aged), ("singly", singly))}
        for k, level in enumerate(EVERYWHERE)
        if k
    ]


def table(results: dict[str, dict[str, object]]) -> str:
    lines = [
        f"Heads: {', '.join(results)}. Pairs without change: change of volumes, and of voxels of GM (log).",
        "",
        "| head | maps | GM % | WM % | CSF % | SD | median abs. | CPU s a scan |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for head, found in results.items():
        pair = found["no_change"]
        for kind in ("plasticity", "ageing", "single"):
            change, cpu = pair[kind], pair["cpu_s"][kind == "single"]
            percents = " | ".join(f"{value:+.2f}" for value in change["percent"])
            lines.append(
                f"| {head} | {kind} | {percents} | {change['sd']:.3f} | {change['median_absolute']:.3f} | {cpu:.0f} |"
            )
    lines += [
        "",
        "Cortex thinned in one region of 92 mL: GM lost since the first time point, mL.",
        "",
        "| head | thinned mm | true | whole brain | plasticity, region | elsewhere | ageing, region | elsewhere |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = (
        "true_ml",
        "all_ml",
        "plasticity_region_ml",
        "plasticity_elsewhere_ml",
        "ageing_region_ml",
        "ageing_elsewhere_ml",
    )
    for head, found in results.items():
        for each in found.get("thinned", []):
            lines.append(f"| {head} | {each['thinning_mm']:g} | {' | '.join(f'{each[name]:.2f}' for name in names)} |")
    lines += [
        "",
        "The whole cortex thinned: GM lost since the first time point, mL, and its share of the truth.",
        "",
        "| head | thinned mm | true | together | ageing maps | singly |",
        "|---|---|---|---|---|---|",
    ]
    for head, found in results.items():
        for each in found.get("everywhere", []):
            measured = (f"{each[n]:.2f} ({each[n] / each['true_ml']:.2f})" for n in ("together", "ageing", "singly"))
            lines.append(f"| {head} | {each['thinning_mm']:g} | {each['true_ml']:.2f} | {' | '.join(measured)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, nargs="+", default=[1])
    heads = parser.parse_args().heads
    torch.set_num_threads(1)
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for number in heads:
        head, prepared, found = Head(number), Prepared(), results.setdefault(f"{number:02d}", {})
        if "no_change" not in found:
            found["no_change"] = no_change(head, prepared)
            save(results)
        for levels, visit in zip(TRIPLES, (5, 3), strict=True):
            done = [each["thinning_mm"] for each in found.get("thinned", [])]
            if not set(levels[1:]) <= set(done):
                found.setdefault("thinned", []).extend(thinned(head, levels, visit))
                save(results)
        if "everywhere" not in found:
            found["everywhere"] = thinned_everywhere(number)
            save(results)


def save(results: dict[str, dict[str, object]]) -> None:
    storage.write_text(RESULT, json.dumps(results, indent=1) + "\n")
    storage.write_text(RESULT.with_suffix(".md"), table(results))
    print(table(results))


if __name__ == "__main__":
    main()
