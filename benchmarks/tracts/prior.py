"""Is ``tracts72-prior`` plausible, symmetric and stable? Writes benchmarks/results/tracts_prior.md.

    python benchmarks/tracts/prior.py REFERENCES FOLDER RESCAN_A RESCAN_B

REFERENCES: the person's masks, FA beside them. FOLDER: output of preprocess and tracts. RESCAN_A, RESCAN_B: stems of
two scans of one (simulated) person in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

from vbmstat import assets
from vbmstat.batch.tract_prior import person_in_template
from vbmstat.batch.tracts import source_of
from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume
from vbmstat.metrics.accuracy import dice
from vbmstat.roi.atlas import load_atlas
from vbmstat.tracts.names import TRACTS, WEAK, mirrored, region, side
from vbmstat.tracts.prior import Prior

MORI = {  # region of TractSeg -> pattern of mori's names
    "CST": "corticospinal", "CG": "Cingulum", "MCP": "Middle Cerebellar|Cerebellar Peduncle$", "CC": "Corpus Callosum",
    "UF": "Uncinate", "FX": "Fornix", "ATR": "Anterior Capsule Limb", "OR": "Posterior Thalamic",
    "SLF_II": "Superior Longitudinal", "IFO": "Fronto",
}  # fmt: skip
RESULT = Path(__file__).parents[1] / "results" / "tracts_prior.md"


def own_masks(prior: Prior, person: Volume, wm: Volume) -> pd.DataFrame:
    """The prior in the template against the reference person's masks there: volumes, Dice, peak."""
    rows, ml = [], wm.grid.voxel_volume_ml
    for row, tract in enumerate(TRACTS):
        p = resample(prior.probability.data[row : row + 1], prior.probability.grid, wm.grid)[0] * wm.data[0]
        mask, found = person.data[row] > 0.5, p >= prior.threshold[row]
        rows.append({
            "tract": tract, "weak": tract in WEAK, "threshold": prior.threshold[row], "peak": float(p.max()),
            "own_ml": float((person.data[row] * wm.data[0]).sum()) * ml, "expected_ml": float(p.sum()) * ml,
            "dice": dice(found, mask), "dice_in_wm": dice(found, mask & (wm.data[0] > 0.5)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def asymmetry(prior: Prior) -> float:
    """Largest difference of a tract from the mirror image of its other side."""
    other = [TRACTS.index(mirrored(tract)) for tract in TRACTS]
    return float((prior.probability.data - prior.probability.data[other].flip(1)).abs().max())


def against_mori(prior: Prior) -> pd.DataFrame:
    """Mean probability in the labels of mori with the tract's name, and in all other labels of that side."""
    atlas = load_atlas("mori")
    labels, rows = atlas.image.data[0], []
    for row, tract in enumerate(TRACTS):
        pattern = MORI.get(region(tract))
        same_side = (atlas.table["hemisphere"] == side(tract)) | (side(tract) == "both")
        named = atlas.table["name"].str.contains(pattern or "^$") & same_side
        if pattern is None or not named.any():
            continue
        p = resample(prior.probability.data[row : row + 1], prior.probability.grid, atlas.image.grid)[0]
        here, other = (
            torch.isin(labels, torch.tensor(list(atlas.table.index[which]), dtype=labels.dtype))
            for which in (named, same_side & ~named)
        )
        names = ", ".join(atlas.table["name"][named])
        rows.append({"tract": tract, "mori": names, "inside": float(p[here].mean()), "other": float(p[other].mean())})
    return pd.DataFrame(rows)


def main() -> None:
    references, folder, one, two = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    prior, wm = source_of(None, None).prior, assets.template().channel(1)
    own, mori = own_masks(prior, person_in_template(references), wm), against_mori(prior)
    table = pd.read_csv(folder / "tracts.tsv", sep="\t")
    volumes, masks = (table.pivot(index="name", columns="scan", values=kind) for kind in ("volume_ml", "mask_ml"))
    change, mask_change = (200 * (v[two] - v[one]).abs() / (v[two] + v[one]) for v in (volumes, masks))
    left = [tract for tract in TRACTS if side(tract) == "left"]
    pairs = [(volumes.loc[tract], volumes.loc[mirrored(tract)]) for tract in left]
    ratio = pd.concat([100 * (a - b) / (a + b) for a, b in pairs])
    strong, volume_ratio = own[~own["weak"]], own["expected_ml"] / own["own_ml"]
    kept = volume_ratio[~own["weak"]]
    weak = ", ".join(f"{r.tract} {r.dice_in_wm:.2f}" for r in own[own["weak"]].itertuples())
    weak_ratio = ", ".join(f"{own['tract'][i]} {volume_ratio[i]:.2f}" for i in own.index[own["weak"]])
    text = [
        "# `tracts72-prior`: plausible, symmetric, stable?",
        "",
        "Made from one person. Each Dice below is **in-sample**: that person's own masks, warped to the template. It "
        "says that blur and mirroring kept the tract's place; how well the prior finds another person's tracts cannot "
        "be measured here.",
        "",
        f"* Masks against the person's own in white matter: median Dice {strong['dice_in_wm'].median():.2f} "
        f"({strong['dice_in_wm'].min():.2f} to {strong['dice_in_wm'].max():.2f}) over {len(strong)} tracts; "
        f"weak ones: {weak}.",
        f"* Expected volume / the person's own in white matter: {kept.min():.2f} to {kept.max():.2f}; "
        f"weak ones: {weak_ratio}.",
        f"* Left and right in the template: largest difference from the mirror image {asymmetry(prior):.4f} (tolerance "
        f"1/255). In {volumes.shape[1]} scans, (L − R) / (L + R) of the volumes: mean {ratio.mean():.1f} %, "
        f"largest {ratio.abs().max():.1f} %.",
        f"* Scan and rescan (`{one}`, `{two}`: one simulated person, other noise and bias): the expected volume "
        f"differs by {change.median():.2f} % in the median and {change.max():.2f} % at most ({change.idxmax()}), "
        f"the mask by {mask_change.median():.2f} % and {mask_change.max():.2f} % ({mask_change.idxmax()}).",
        "",
        "Labels of `mori` whose names match. Definitions differ, so this checks places and is no score.",
        "",
        "| tract | labels of mori | mean p there | in the other labels of that side |",
        "|---|---|---|---|",
        *(f"| {r.tract} | {r.mori} | {r.inside:.2f} | {r.other:.2f} |" for r in mori.itertuples()),
        "",
        "| tract | weak | threshold | peak p | own, in WM (mL) | expected (mL) | Dice in WM | Dice |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {r.tract} | {'weak' if r.weak else ''} | {r.threshold:.2f} | {r.peak:.2f} | {r.own_ml:.1f} | "
            f"{r.expected_ml:.1f} | {r.dice_in_wm:.2f} | {r.dice:.2f} |"
            for r in own.itertuples()
        ),
    ]
    RESULT.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
