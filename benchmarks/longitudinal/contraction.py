"""Known contractions of real scans by `bidsgate` (PyPI): how much of the change is found, together and singly.

    python benchmarks/longitudinal/contraction.py SCAN SCAN --work WORK

Each scan is contracted by 2 and 5 %, the whole brain or one region (left superior temporal gyrus of LPBA40, brought
into the scan by its own warp). Scan and contracted scan are preprocessed as one person two years apart, and singly.
Recovery is the measured change of GM + WM over the true one: of the whole brain from the tissues in the scans' space,
of the region from the modulated maps (mwmwp, mwp). The image is interpolated linearly where it moves; noise is not new.
Each pair is a line of WORK/contraction.jsonl, and a run is resumed.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from bidsgate.inject_atrophy import AtrophySpec, inject

from vbmstat.assets import template
from vbmstat.image import deform, io, storage
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.preproc.longitudinal import preprocess_person
from vbmstat.preproc.pipeline import preprocess_scan
from vbmstat.preproc.results import Preprocessed
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.roi.atlas import load_atlas

RESULT = Path(__file__).parents[1] / "results" / "longitudinal_contraction.md"
REGION = "Left Superior Temporal Gyrus"
SPEC = PreprocSpec(device="cpu", fwhm_mm=())


def region_mask() -> Volume:
    """The region on the template's grid, 0 or 1."""
    atlas = load_atlas("lpba40")
    (label,) = atlas.table.index[atlas.table["name"] == REGION]
    inside, on = (atlas.image.data == int(label)).float(), template().grid
    return Volume((resample(inside, atlas.image.grid, on) > 0.5).float(), on)


def in_region(maps: Volume, region: Volume) -> float:
    """GM + WM of modulated maps in the region, mL."""
    return float((maps.data[:2].sum(0) * region.data[0]).sum()) * maps.grid.voxel_volume_ml


def brain_ml(result: Preprocessed) -> float:
    """GM + WM of a scan, mL."""
    return sum(result.segmented.volumes_ml[:2])


def measure(path: Path, target: str, factor: float, work: Path) -> dict[str, object]:
    """Contract a scan, preprocess both ways, and compare with the truth."""
    region, scan = region_mask(), io.read_scan(path)
    single = preprocess_scan(scan, SPEC)
    stem = work / f"{path.name.split('.')[0]}_{target}_{factor:g}"
    if target == "region":
        points = deform.inverse_deformation(single.warp.inverse, single.segmented.linear, scan.grid)
        chosen = deform.pull_labels(region, points)
    else:
        chosen = Volume((single.segmented.label.data > 0.5).float(), scan.grid)
    io.write_volume(Path(f"{stem}_target.nii.gz"), chosen)
    io.write_volume(Path(f"{stem}_first.nii.gz"), scan)
    given = {"region_path" if target == "region" else "mask_path": f"{stem}_target.nii.gz"}
    inject(f"{stem}_first.nii.gz", None, f"{stem}_second.nii.gz", None, f"{stem}.json", AtrophySpec(factor), **given)
    second = io.read_scan(Path(f"{stem}_second.nii.gz"))
    person = preprocess_person([scan, second], SPEC, years=[0.0, 2.0]).time_points
    singly = [single, preprocess_scan(second, SPEC)]
    if target == "region":
        together = [in_region(point.aged, region) for point in person]
        apart = [in_region(one.modulated, region) for one in singly]
    else:
        together = [brain_ml(point.preprocessed) for point in person]
        apart = [brain_ml(one) for one in singly]
    recovered = [(after / before - 1) / (factor - 1) for before, after in (together, apart)]
    return {"recovery": round(recovered[0], 3), "recovery_singly": round(recovered[1], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "contraction.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {(row["scan"], row["target"], row["factor"]) for row in rows}
    for scan, target, factor in product(given.scans, ("brain", "region"), (0.95, 0.98)):
        if (scan.name, target, factor) not in done:
            rows.append(
                {"scan": scan.name, "target": target, "factor": factor, **measure(scan, target, factor, given.work)}
            )
            print(rows[-1], flush=True)
            with path.open("a") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
    table = pd.DataFrame(rows).sort_values(["target", "factor", "scan"])
    lines = ["# Known contractions of real scans", "", " ".join(__doc__.split("\n\n")[2].split()), "",
             "| scan | contracted | to | recovery as one person | singly |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row.scan} | {row.target} | {row.factor:.0%} | {row.recovery:.3f} | {row.recovery_singly:.3f} |"
        for row in table.itertuples()
    ]
    storage.write_text(RESULT, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
