"""A group template of simulated people, and regions measured over it and over the standard template.

    vbmstat simulate STUDY --n 12 --maps
    python benchmarks/template/group.py people STUDY WORK
    python benchmarks/template/group.py build STUDY WORK
    python benchmarks/template/group.py regions STUDY WORK --route standard --n 12     # and --route group
    python benchmarks/template/group.py report STUDY WORK

The tissues are the simulated ones, not segmented, so that differences are those of template and warp. Results go to
benchmarks/results/group_template.json and .md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat import __version__, assets
from vbmstat.batch.finished import FinishedScan
from vbmstat.batch.group_template import build_template
from vbmstat.batch.stored_images import write_image
from vbmstat.files import naming
from vbmstat.files.warps import LINEAR, TEMPLATE, grid_record
from vbmstat.image import deform, io, storage
from vbmstat.image.volume import Volume
from vbmstat.preproc.pipeline import normalise
from vbmstat.preproc.steps import linear, warp, working
from vbmstat.preproc.templates import find_template
from vbmstat.roi.atlas import load_atlas
from vbmstat.roi.measure import label_shares, measure_map
from vbmstat.tables.cohort import Cohort, index_by_id, write_cohort

RESULTS = Path(__file__).parents[1] / "results"
ROUTES = ("standard", "group")
SMALLEST_ML = 1.0  # smaller regions are listed, but not in the summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("people", "build", "regions", "report"))
    parser.add_argument("study", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--route", choices=ROUTES, default=ROUTES[0])
    parser.add_argument("--n", type=int, default=12, help="Number of people whose regions are measured.")
    parser.add_argument("--atlas", default="lpba40")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if arguments.part == "people":
            write_people(arguments.study, arguments.work / "people")
        elif arguments.part == "build":
            build(arguments.work)
        elif arguments.part == "regions":
            measure(arguments.work, arguments.route, arguments.n, arguments.atlas)
        else:
            report(arguments.work)


def write_people(study: Path, folder: Path) -> None:
    """What preprocess leaves of each person, from the simulated tissues: p1, p2, velocity, the record, the table."""
    standard = find_template(None, "cpu").tissues
    rows = []
    for path in sorted(study.glob("derivatives/truth/sub-*/**/*label-GM*probseg.nii.gz")):
        gm, wm = (io.read_volume(str(path).replace("label-GM", f"label-{tissue}")) for tissue in ("GM", "WM"))
        tissues = Volume(torch.cat([gm.data, wm.data]), gm.grid)
        matrix = linear.refine_with_tissues(tissues, assets.template(), np.eye(4))
        person = path.name.split("_", maxsplit=1)[0]
        stem = f"{person}_T1w"
        for number, image in ((1, gm), (2, wm)):
            counts = Volume(torch.round(image.data.clamp(0, 1) * 255), image.grid)
            io.write_volume(folder / "mri" / f"p{number}{stem}.nii.gz", counts, dtype="uint8", step=1 / 255)
        started = time.process_time()
        aligned = working.align_to_template(tissues, standard, matrix)
        warped = warp.register_both_ways(aligned, standard)
        seconds = round(time.process_time() - started, 1)
        write_image(folder / "mri" / f"u_{stem}.nii.gz", "velocity", warped.velocity)
        gm_ml, wm_ml = tissues.sums_ml
        row = {"gm_ml": gm_ml, "wm_ml": wm_ml}
        record = {"scan": stem, "engine": "truth", "versions": {"vbmstat": __version__}, "row": row}
        affine = {LINEAR: matrix.tolist(), TEMPLATE: grid_record(standard.grid)}
        record |= {"affine": affine, "cpu_seconds": seconds}
        storage.write_json(folder / "report" / f"vbmstat_{stem}.json", record)
        rows.append({"participant_id": person, "session_id": "", "scan": stem, "engine": "truth", **row})
    write_cohort(folder / "cohort.tsv", Cohort(index_by_id(pd.DataFrame(rows), "people"), folder))


def build(work: Path) -> None:
    """The template, and its CPU time."""
    started = time.process_time()
    built = build_template(work / "people", work / "group")
    seconds = round(time.process_time() - started)
    field = find_template(str(work / "group"), "cpu").to_standard
    moved, linear_part = field.data.square().sum(0).sqrt(), deform.fit_linear(deform.deformation(field, np.eye(4)))
    brain = assets.template().data.sum(0) > 0.5
    storage.write_json(work / "build.json", {
        "people": len(built.record["people"]), "levels": built.record["levels"], "cpu_seconds": seconds,
        "to_standard_mm": float(moved[brain].mean()), "to_standard_det": float(np.linalg.det(linear_part)),
    })  # fmt: skip


def measure(work: Path, route: str, n: int, atlas: str) -> None:
    """Volumes of regions of each person by one route."""
    template = find_template(None if route == ROUTES[0] else str(work / "group"), "cpu")
    standard, loaded = assets.template(), load_atlas(atlas)
    shares = label_shares(loaded, standard.grid)
    for sidecar in sorted((work / "people" / "report").glob("vbmstat_*.json"))[:n]:
        stem = sidecar.stem.removeprefix("vbmstat_")
        path = work / "regions" / f"{route}_{stem}.tsv"
        if path.is_file():
            continue
        started = time.process_time()
        finished = FinishedScan(work / "people", naming.Scan(Path(stem), stem, *naming.split_ids(stem)), "cat12")
        images = finished.images(("p1", "p2"), "run the part people")
        tissues = Volume(torch.cat([image.data for image in images.values()]), images["p1"].grid)
        matrix = np.array(finished.record["affine"][LINEAR])
        if route == ROUTES[0]:
            points = finished.warp.to_scan
        else:
            aligned = working.align_to_template(tissues, template.tissues, matrix)
            field = template.in_standard(warp.register_both_ways(aligned, template.tissues)).forward
            points = deform.deformation(field, matrix)
        _, modulated = normalise(tissues, points, standard.grid)
        seconds = time.process_time() - started + (finished.record["cpu_seconds"] if route == ROUTES[0] else 0)
        sums = {
            f"{tissue}_ml": measure_map(modulated.channel(i), shares, False) for i, tissue in enumerate(("gm", "wm"))
        }
        whole = {f"whole_{tissue}_ml": modulated.sums_ml[i] for i, tissue in enumerate(("gm", "wm"))}
        true = {f"true_{tissue}_ml": tissues.sums_ml[i] for i, tissue in enumerate(("gm", "wm"))}
        table = pd.DataFrame({"region": loaded.table["name"].to_numpy(), **sums})
        table = table.assign(scan=stem, cpu_seconds=round(seconds, 1), **whole, **true)
        path.parent.mkdir(exist_ok=True)
        storage.write_table(path, table)


def report(work: Path) -> None:
    """The figures as a table to read."""
    built = storage.read_json(work / "build.json")
    tables = {
        route: pd.concat([pd.read_csv(path, sep="\t") for path in sorted((work / "regions").glob(f"{route}_*.tsv"))])
        for route in ROUTES
    }
    both = tables["standard"].merge(tables["group"], on=["scan", "region"], suffixes=("_standard", "_group"))
    summary = {"scans": int(both["scan"].nunique())}
    for tissue in ("gm", "wm"):
        before, now = both[f"{tissue}_ml_standard"], both[f"{tissue}_ml_group"]
        rows = both.assign(percent=100 * (now / before - 1), ml=before)
        regions = rows.groupby("region").agg(percent=("percent", "median"), ml=("ml", "median"))
        large = regions[regions["ml"] >= SMALLEST_ML]["percent"]
        kept = both[f"whole_{tissue}_ml_group"] / both[f"true_{tissue}_ml_group"] - 1
        summary[tissue] = {
            "regions": len(large), "median_percent": round(float(large.abs().median()), 2),
            "within_1_percent": int((large.abs() <= 1).sum()), "worst": str(large.abs().idxmax()),
            "worst_percent": round(float(large[large.abs().idxmax()]), 2),
            "whole_worst_percent": round(float(100 * kept.abs().max()), 3),
        }  # fmt: skip
    for route in ROUTES:
        summary[f"cpu_seconds_{route}"] = float(tables[route]["cpu_seconds"].median())
    storage.write_json(RESULTS / "group_template.json", {**built, "regions": summary})
    text = as_markdown(built, summary)
    storage.write_text(RESULTS / "group_template.md", text)
    print(text)


def as_markdown(built: dict, summary: dict) -> str:
    """The figures of a template and of regions."""
    first = built["levels"][0]["gradient_energy"]
    lines = [
        f"Template of {built['people']} simulated people"
        + (f", {built['cpu_seconds'] / built['people']:.0f} CPU s a person." if "cpu_seconds" in built else "."),
        f"Its way to the standard template: {built['to_standard_mm']:.2f} mm on average in the brain, determinant of "
        f"the linear part {built['to_standard_det']:.4f}.", "",
        "| level | gradient energy, of level 0's | mean displacement, mm |", "|---|---|---|",
        *(
            f"| {number} | {level['gradient_energy'] / first:.3f} | {level['mean_displacement_mm']:.3f} |"
            for number, level in enumerate(built["levels"])
        ),
        "",
        f"Regions of {summary['scans']} people over the group template against the standard one (median over people; "
        f"regions of {SMALLEST_ML:g} mL or more):", "",
        "| tissue | regions | typical region | within 1 % | most different | whole brain against the scan, worst |",
        "|---|---|---|---|---|---|",
        *(
            f"| {tissue.upper()} | {one['regions']} | ± {one['median_percent']} % | {one['within_1_percent']} "
            f"| {one['worst']} {one['worst_percent']:+} % | {one['whole_worst_percent']} % |"
            for tissue, one in ((tissue, summary[tissue]) for tissue in ("gm", "wm"))
        ),
        "",
        f"Registration and normalisation of a person: {summary['cpu_seconds_standard']:.0f} CPU s over the standard, "
        f"{summary['cpu_seconds_group']:.0f} over the group template.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
