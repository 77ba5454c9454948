"""Images that are odd, against the same head as it is: tissues, maps, and what was said.

    python benchmarks/preproc/odd_images.py IMAGES WORK

IMAGES holds files `CASE_T1w.nii.gz`, among them `plain_T1w.nii.gz`. Each is preprocessed by engine classic in WORK (a
run is resumed). r is the correlation of the GM map, smoothed by 6 mm, with that of the plain image, where either
exceeds .1. What was said is what the scan tells by itself, without the others. Lesions are painted, so GM lost to them
is right: what counts there is the warning.
"""

from __future__ import annotations

import argparse
import io as memory
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from vbmstat import preprocess
from vbmstat.errors import VbmstatError
from vbmstat.image import io, storage

RESULT = Path(__file__).parents[1] / "results" / "odd_images.md"
PLAIN, SUFFIX, N_COLUMNS = "plain_T1w", "_T1w", 7


def correlation(path: Path, plain: Path) -> float:
    """Correlation of two smoothed GM maps where either exceeds .1."""
    a, b = (io.read_volume(one).data.numpy() for one in (path, plain))
    either = (a > 0.1) | (b > 0.1)
    return float(np.corrcoef(a[either], b[either])[0, 1])


def table(cohort: pd.DataFrame, out: Path, failures: pd.DataFrame) -> str:
    """A row an image: volumes, r, and warnings or the refusal."""
    rows = cohort.set_index("scan")
    lines = [
        "# Odd images", "", str(__doc__).split("\n\n")[2].replace("\n", " "), "",
        "![An axial slice of each image with the outlines of GM and WM](odd_images.png)", "",
        "| image | GM, mL | WM | CSF | r with plain | what was said |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for scan, row in rows.loc[[PLAIN, *sorted(set(rows.index) - {PLAIN})]].iterrows():
        r = correlation(out / row["s6mwp1"], out / rows.loc[PLAIN, "s6mwp1"])
        said = "; ".join(storage.read_json(out / f"report/qc_{scan}.json")["warnings"])
        lines.append(f"| {str(scan).removesuffix(SUFFIX)} | {row['gm_ml']:.0f} | {row['wm_ml']:.0f} | "
                     f"{row['csf_ml']:.0f} | {r:.3f} | {said or 'nothing'} |")  # fmt: skip
    for scan, reason in zip(failures["scan"], failures["reason"], strict=True):
        lines.append(f"| {scan.removesuffix(SUFFIX)} | | | | | refused: {Path(reason).name} |")
    return "\n".join(lines) + "\n"


def contact_sheet(images: Path, out: Path, scans: list[str]) -> bytes:
    """A PNG with an axial slice of each image through the middle of its brain, outlined."""
    n_rows = -(-len(scans) // N_COLUMNS)
    figure, axes = plt.subplots(n_rows, N_COLUMNS, figsize=(1.6 * N_COLUMNS, 1.9 * n_rows), squeeze=False)
    for panel in axes.flat:
        panel.axis("off")
    for panel, scan in zip(axes.flat, scans, strict=False):
        image = io.read_volume(images / f"{scan}.nii.gz")
        label = io.read_volume(next(out.glob(f"mri/p0{scan}.nii*"))).data[0].numpy()
        x, y, z = (np.flatnonzero(label.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3))
        cut = (slice(x[0], x[-1]), slice(y[0], y[-1]), int(z[0] + 0.65 * len(z)))
        shown, aspect = image.data[0].numpy()[cut].T, image.grid.voxel_size_mm[1] / image.grid.voxel_size_mm[0]
        panel.imshow(shown, cmap="gray", origin="lower", vmax=np.percentile(shown, 99.5), aspect=aspect)
        panel.contour(label[cut].T, levels=[1.5, 2.5], colors=["tab:cyan", "tab:orange"], linewidths=0.4)
        panel.set_title(scan.removesuffix(SUFFIX), fontsize=7, pad=2)
    figure.tight_layout(pad=0.2)
    drawn, small = memory.BytesIO(), memory.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(48).save(small, "PNG", optimize=True)
    return small.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("work", type=Path)
    given = parser.parse_args()
    try:
        preprocess(given.images, given.work, outputs=("p0",), jobs=1)
    except VbmstatError as error:  # some are refused; the others are complete
        print(error)
    cohort = pd.read_csv(given.work / "cohort.tsv", sep="\t", na_values=["n/a"])
    refused = given.work / "failures.tsv"
    failures = pd.read_csv(refused, sep="\t") if refused.is_file() else pd.DataFrame(columns=["scan", "reason"])
    inputs = pd.read_csv(given.work / "inputs.tsv", sep="\t")
    skipped = inputs[inputs["status"] == "skipped"]
    skipped = pd.DataFrame({"scan": [Path(path).name.split(".")[0] for path in skipped["path"]],
                            "reason": skipped["reason"]})  # fmt: skip
    storage.write_text(RESULT, table(cohort, given.work, pd.concat([failures, skipped])))
    RESULT.with_suffix(".png").write_bytes(contact_sheet(given.images, given.work, list(cohort["scan"])))


if __name__ == "__main__":
    main()
