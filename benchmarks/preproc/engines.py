"""Engines `classic` and `cat` on the same scans: agreement, distance to the template, regularity.

    vbmstat preprocess ../shared/data/ds000011 --out classic/ds000011
    vbmstat preprocess ../shared/data/ds000011 --out cat/ds000011 --engine cat       # and so on for other datasets
    python benchmarks/preproc/engines.py classic cat --peer cat12=../shared/data/cat12

Both folders hold one output folder per dataset; `vbmstat evaluate folders` compares their common datasets and scans. A
peer is a folder of the same layout from any program. Results go to benchmarks/results/preproc_engines.json (every scan)
and .md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from vbmstat.assets.provenance import versions
from vbmstat.evaluate.folders import evaluate_folders
from vbmstat.evaluate.outputs import find_outputs
from vbmstat.image import storage

RESULT = Path(__file__).parents[1] / "results" / "preproc_engines.json"
ENGINES = ("classic", "cat")
BAR = {"dice_gm": 0.93, "dice_wm": 0.95, "dice_csf": 0.85, "r_mwp1": 0.97}
REGISTRATION = ("mse_to_template", "linear_elasticity", "published_elasticity", "jacobian_min", "jacobian_max")
PEER_MEASURES = ("dice_gm", "dice_wm", "dice_csf", "r_mwp1")
VOLUMES = ("gm_ml", "wm_ml", "csf_ml", "tiv_ml")


def datasets_of(*folders: Path) -> list[str]:
    """Names of the sub-folders that all folders have."""
    return sorted(set.intersection(*({path.name for path in folder.iterdir() if path.is_dir()} for folder in folders)))


def measure(dataset: str, folders: dict[str, Path], peers: dict[str, Path]) -> list[dict[str, object]]:
    """Rows of a dataset: scan, folder, reference and the measures."""
    own = [folders[engine] / dataset for engine in ("cat", "classic")]
    rows = _rows(dataset, own, ["cat", "classic"])
    for name, folder in peers.items():
        if (folder / dataset).is_dir():
            for engine in ENGINES:
                compared = _rows(dataset, [folder / dataset, folders[engine] / dataset], [name, engine])
                rows += [row for row in compared if row["reference"] == name]
    return rows + [{"dataset": dataset, **row} for row in volumes(own)]


def _rows(dataset: str, folders: list[Path], names: list[str]) -> list[dict[str, object]]:
    table = evaluate_folders(folders, names=names).scans
    records = [{"dataset": dataset, **row} for row in table.to_dict("records")]
    return [{key: value for key, value in row.items() if not pd.isna(value)} for row in records]


def volumes(own: list[Path]) -> list[dict[str, object]]:
    """Volume differences of `classic` in percent of `cat`, scan by scan."""
    cat, classic = (find_outputs(folder) for folder in own)
    rows = []
    for scan in sorted(set(cat.sidecar) & set(classic.sidecar)):
        theirs, ours = (json.loads(entry.sidecar[scan].read_text())["row"] for entry in (cat, classic))
        change = {f"{name}_change_percent": round(100 * (ours[name] / theirs[name] - 1), 3) for name in VOLUMES}
        rows.append({"scan": cat.stems[scan], "folder": "classic", "reference": "cat volumes", **change})
    return rows


def report(table: pd.DataFrame) -> str:
    """The tables in Markdown."""
    pair = table[(table["folder"] == "classic") & (table["reference"] == "cat")]
    lines = ["## `classic` against `cat`", "", "Median over scans; in brackets the worst scan.", ""]
    bars = " | ".join(f"{name} (≥ {least:g})" for name, least in BAR.items())
    lines += [f"| dataset | scans | {bars} |", "|---|---|" + "---|" * len(BAR)]
    for dataset, rows in pair.groupby("dataset"):
        cells = [f"{rows[name].median():.3f} [{rows[name].min():.3f}]" for name in BAR]
        lines.append(f"| {dataset} | {len(rows)} | " + " | ".join(cells) + " |")
    lines += ["", "## Registration", "", "Median [worst] over scans; `classic` must have no more than `cat`.", ""]
    lines += ["| dataset | engine | scans | " + " | ".join(REGISTRATION) + " |", "|---" * (len(REGISTRATION) + 3) + "|"]
    template = table[table["reference"] == "template"]
    groups = [*template.groupby(["dataset", "folder"]), *template.assign(dataset="all").groupby(["dataset", "folder"])]
    for (dataset, engine), rows in groups:
        worst = {name: rows[name].min() if name == "jacobian_min" else rows[name].max() for name in REGISTRATION}
        cells = [f"{rows[name].median():.4g} [{worst[name]:.4g}]" for name in REGISTRATION]
        lines.append(f"| {dataset} | {engine} | {len(rows)} | " + " | ".join(cells) + " |")
    change = table[table["reference"] == "cat volumes"]
    lines += ["", "## Volumes of `classic`, percent more than `cat`'s", "", "Median [smallest, largest].", ""]
    lines += ["| dataset | scans | " + " | ".join(VOLUMES) + " |", "|---|---|" + "---|" * len(VOLUMES)]
    for dataset, rows in change.groupby("dataset"):
        columns = [rows[f"{name}_change_percent"] for name in VOLUMES]
        cells = [f"{values.median():+.1f} [{values.min():+.1f}, {values.max():+.1f}]" for values in columns]
        lines.append(f"| {dataset} | {len(rows)} | " + " | ".join(cells) + " |")
    peers = table[~table["reference"].isin(["cat", "template", "cat volumes"])]
    if len(peers):
        lines += ["", "## Against peers", "", "Median over scans; in brackets the worst scan.", ""]
        lines += ["| dataset | peer | engine | scans | " + " | ".join(PEER_MEASURES) + " |"]
        lines += ["|---" * (len(PEER_MEASURES) + 4) + "|"]
    for (dataset, peer, engine), rows in peers.groupby(["dataset", "reference", "folder"]):
        cells = [f"{rows[name].median():.3f} [{rows[name].min():.3f}]" for name in PEER_MEASURES]
        lines.append(f"| {dataset} | {peer} | {engine} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classic", type=Path, help="folder with an output folder of engine classic for each dataset")
    parser.add_argument("cat", type=Path, help="the same for engine cat")
    parser.add_argument("--peer", nargs="*", default=[], metavar="NAME=FOLDER", help="the same for other programs")
    parser.add_argument("--dataset", nargs="*", help="datasets to compare; all by default")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    folders = {"classic": given.classic, "cat": given.cat}
    peers = {name: Path(folder) for name, folder in (entry.split("=", 1) for entry in given.peer)}
    rows: list[dict[str, object]] = []
    for dataset in given.dataset or datasets_of(*folders.values()):
        rows += measure(dataset, folders, peers)
        print(f"{dataset}: {len(rows)} rows", flush=True)
    storage.write_json(given.out, {"versions": versions(), "rows": rows})
    text = report(pd.DataFrame(rows))
    storage.write_text(given.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
