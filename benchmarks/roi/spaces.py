"""Volumes of regions measured in template space against those measured in each scan's own space.

    python benchmarks/roi/spaces.py DERIVATIVES ...

Each argument is an output folder of `vbmstat preprocess`. Results go to benchmarks/results/roi_spaces.json and .md:
for every region and tissue the median over scans of the difference, native − template, in percent of their mean. The
columns `pooled` show where it comes from: there the scan's tissue was first averaged onto voxels of 1.5 mm, the
template's, so that both routes mix tissues across a label's border alike.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.files import naming
from vbmstat.image import io, storage
from vbmstat.image.grid import apply_affine, sample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import load_atlas
from vbmstat.roi.table import SPACES, RoiTables, measure_rois
from vbmstat.tables.cohort import Cohort, read_cohort

RESULTS = Path(__file__).parents[1] / "results"
TISSUES = ("gm", "wm", "csf")
SMALLEST_ML = 1.0  # regions with less of a tissue (WM in a cortical label's edge) are listed, but not in the summary
POOLED_MM = 1.5
OCTANTS = tuple(itertools.product((-0.25, 0.25), repeat=3))
KEYS = ["participant_id", "session_id", "region"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--atlas", default="lpba40")
    arguments = parser.parse_args()
    atlas = load_atlas(arguments.atlas)
    summary, regions = [], []
    for folder in arguments.folders:
        cohort, tables, seconds = read_cohort(folder / "cohort.tsv"), {}, {}
        for space in SPACES:
            started = time.perf_counter()
            tables[space] = measure_rois(cohort, atlas, TISSUES, space=space)
            seconds[space] = round((time.perf_counter() - started) / len(cohort.table), 2)
        with tempfile.TemporaryDirectory() as pooled:
            tables["pooled"] = measure_rois(pool(cohort, Path(pooled)), atlas, TISSUES, space="native")
        differences = compare(tables["template"], tables["native"])
        differences["pooled_percent"] = compare(tables["template"], tables["pooled"])["percent"]
        for tissue, rows in differences.groupby("tissue", sort=False):
            by_region = rows.groupby("region", sort=False).agg(
                median_ml=("template_ml", "median"), median_percent=("percent", "median"),
                worst_percent=("percent", lambda values: values[values.abs().idxmax()]),
                pooled_percent=("pooled_percent", "median"),
            )  # fmt: skip
            regions += [
                {"folder": folder.name, "tissue": tissue, **row}
                for row in by_region.round(3).reset_index().to_dict("records")
            ]
            large = by_region[by_region["median_ml"] >= SMALLEST_ML]
            worst = large["median_percent"].abs().idxmax()
            summary.append({
                "folder": folder.name, "tissue": tissue, "n_scans": len(cohort.table), "n_regions": len(large),
                "median_abs_percent": round(float(large["median_percent"].abs().median()), 2),
                "worst_region": worst, "worst_region_percent": round(float(large.loc[worst, "median_percent"]), 2),
                "worst_scan_percent": round(float(large["worst_percent"].abs().max()), 2),
                "pooled_median_abs_percent": round(float(large["pooled_percent"].abs().median()), 2),
                "pooled_worst_region_percent": round(float(large["pooled_percent"].abs().max()), 2),
                "r_min": round(correlations(rows, large.index).min(), 4),
                "native_s_a_scan": seconds["native"], "template_s_a_scan": seconds["template"],
            })  # fmt: skip
    storage.write_json(RESULTS / "roi_spaces.json", {"atlas": atlas.name, "summary": summary, "regions": regions})
    text = as_markdown(summary)
    storage.write_text(RESULTS / "roi_spaces.md", text)
    print(text)


def as_markdown(summary: list[dict]) -> str:
    """The summary as a table to read."""
    lines = [
        "| scans | tissue | regions | typical region | most different region | the same, pooled | r over scans |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        lines.append(
            f"| {row['n_scans']} of {row['folder']} | {row['tissue'].upper()} | {row['n_regions']} "
            f"| ± {row['median_abs_percent']} % | {row['worst_region']} {row['worst_region_percent']:+} % "
            f"| ± {row['pooled_worst_region_percent']} % at most | ≥ {row['r_min']} |"
        )
    return "\n".join(lines) + "\n"


def compare(template: RoiTables, native: RoiTables) -> pd.DataFrame:
    """One row a scan, region and tissue: both volumes and their difference."""
    long = []
    for tissue in TISSUES:
        column = f"{tissue}_ml"
        keys = [key for key in KEYS if key in template.regions]
        both = template.regions[[*keys, column]].merge(
            native.regions[[*keys, column]], on=keys, suffixes=("_template", "_native"), validate="one_to_one"
        )
        both = both.rename(columns={f"{column}_template": "template_ml", f"{column}_native": "native_ml"})
        mean = (both["template_ml"] + both["native_ml"]) / 2
        both["percent"] = 100 * (both["native_ml"] - both["template_ml"]) / mean.where(mean > 0)
        long.append(both.assign(tissue=tissue))
    return pd.concat(long, ignore_index=True)


def pool(cohort: Cohort, out: Path) -> Cohort:
    """The cohort's tissue maps averaged onto voxels of the template's size, with links to the fields."""
    for entry in cohort.paths("mwp1"):
        paths = naming.native_paths(entry)
        for tissue in TISSUES:
            io.write_volume(out / "mri" / paths[tissue].name, coarse(io.read_volume(paths[tissue])), space="scanner")
        (out / "mri" / paths["field"].name).symlink_to(paths["field"].absolute())
    return Cohort(cohort.table, out)


def coarse(volume: Volume) -> Volume:
    """A map on voxels of about 1.5 mm, each the mean over its octants."""
    grid = volume.grid.with_voxel_size(POOLED_MM)
    to_volume, at = np.linalg.inv(volume.grid.affine) @ grid.affine, voxel_indices(grid.shape)
    parts = [
        sample(volume.data, apply_affine(to_volume, at + torch.tensor(offset).reshape(3, 1, 1, 1)))
        for offset in OCTANTS
    ]
    return Volume(torch.stack(parts).mean(0), grid)


def correlations(rows: pd.DataFrame, regions: pd.Index) -> pd.Series:
    """Correlation over scans of the two volumes, each region."""
    return pd.Series(
        {name: part["template_ml"].corr(part["native_ml"])
         for name, part in rows.groupby("region", sort=False) if name in regions}
    )  # fmt: skip


if __name__ == "__main__":
    main()
