"""Tables that compare engines, for the docs, from the results of ``vbmstat evaluate``.

    vbmstat preprocess ../shared/data/ds000011 --out deep/ds000011 --engine deep        # and classic, cat
    vbmstat evaluate folders cat/ds000011 classic/ds000011 deep/ds000011 --out evaluation
    maps=../shared/data/labelmaps/training_seg
    vbmstat evaluate artefacts ${maps}_06.nii.gz --engine classic --engine cat --engine deep
    vbmstat evaluate atrophy ${maps}_07.nii.gz --engine classic --engine cat --engine deep
    python benchmarks/deep/tables.py evaluation

Writes benchmarks/results/deep_engines.md and copies the tables of single images and the figures next to it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd

from vbmstat.evaluate.summary import side_by_side
from vbmstat.image import storage

RESULTS = Path(__file__).parents[1] / "results"
MEASURES = (
    "dice_gm", "dice_wm", "dice_csf", "r_mwp1", "mse_to_template", "linear_elasticity", "published_elasticity",
    "jacobian_min",
)  # fmt: skip
KEPT = ("evaluation_artefacts.tsv", "evaluation_artefacts.png", "evaluation_atrophy.tsv", "evaluation_atrophy.png")


def folders(summary: pd.DataFrame) -> str:
    """Median and worst value of each measure, one column per folder."""
    wide = side_by_side(summary[summary["measure"].isin(MEASURES)]).reset_index()
    return markdown(wide)


def artefacts(table: pd.DataFrame) -> str:
    """Mean GM Dice over heads by artefact and strength, one column per engine."""
    order = table[["artefact", "strength"]].drop_duplicates()
    wide = table.pivot_table(index=["artefact", "strength"], columns="engine", values="dice_gm")
    return markdown(wide.reindex(pd.MultiIndex.from_frame(order)).round(3).fillna("failed").reset_index())


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    folder = parser.parse_args().evaluation

    def read(name: str) -> pd.DataFrame:
        return pd.read_csv(folder / f"{name}.tsv", sep="\t")

    heads = ", ".join(sorted(read("evaluation_artefacts")["head"].unique()))
    parts = [
        "Output folders of ds000011, median and, in brackets, the worst of the scans:\n",
        folders(read("evaluation_summary")),
        f"Dice of GM with exact labels of {heads}, by artefact:\n",
        artefacts(read("evaluation_artefacts")),
        "Graded atrophy, 0 to 1 mm:\n",
        markdown(read("evaluation_atrophy_summary").round(3)),
    ]
    storage.write_text(RESULTS / "deep_engines.md", "\n".join(parts))
    for name in KEPT:
        shutil.copy(folder / name, RESULTS / f"deep_{name.removeprefix('evaluation_')}")


if __name__ == "__main__":
    main()
