"""The whole chain on a simulated cohort: scans with a known effect in, t-map and ROI table out.

Run by ``make demo``. It simulates people whose grey matter in one ball declines with age, preprocesses their scans,
fits ``gm ~ age + sex + tiv``, measures regions, and checks that the t-map peaks where the effect was put.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from vbmstat.image import io

OUT = Path("demo-out")
N_SCANS = 12
VOXEL_SIZE_MM = 2.0
EFFECT_PERCENT = -12.0  # of the ball's grey matter per SD of age
TOLERANCE_MM = 8.0  # the maps are smoothed by 6 mm, and anatomy varies


def main() -> int:
    started = time.monotonic()
    bids, derivatives = OUT / "bids", OUT / "bids" / "derivatives" / "vbmstat"
    glm = OUT / "glm"
    vbmstat(
        "simulate", bids, "--n", N_SCANS, "--effect", EFFECT_PERCENT, "--voxel-size", VOXEL_SIZE_MM,
        "--variation", 0.5, "--seed", 1, "--overwrite",
    )  # fmt: skip
    vbmstat("preprocess", bids)
    vbmstat("glm", "gm ~ age + sex + tiv", "--cohort", derivatives / "cohort.tsv", "--out", glm)
    vbmstat("roi", "--cohort", derivatives / "cohort.tsv", "--atlas", "lpba40", "--out", OUT / "roi")
    distance_mm, t, inside = peak_against_truth(glm / "contrast-age_stat-t_statmap.nii.gz", bids)
    print(f"\n{time.monotonic() - started:.0f} s for {N_SCANS} scans. Where to look:")
    print(f"  pictures of each scan   {derivatives / 'report'}")
    print(f"  cohort table            {derivatives / 'cohort.tsv'}")
    print(f"  t-maps, glass brains    {glm}")
    print(f"  volumes of regions      {OUT / 'roi'}")
    where = "inside" if inside else f"{distance_mm:.0f} mm outside"
    print(f"The t-map of age has its strongest decline (t = {t:.1f}) {where} the region where the effect was put.")
    return 0 if distance_mm <= TOLERANCE_MM else 1


def vbmstat(*arguments: object) -> None:
    """Run one command, shown as a user would type it."""
    words = [str(argument) for argument in arguments]
    print("\n$ vbmstat " + " ".join(f'"{word}"' if " " in word else word for word in words), flush=True)
    subprocess.run([str(Path(sys.executable).with_name("vbmstat")), *words], check=True)  # noqa: S603


def peak_against_truth(t_map: Path, bids: Path) -> tuple[float, float, bool]:
    """Distance (mm) from the most negative t to the region of the effect, that t, and whether it lies inside."""
    truth = bids / "derivatives" / "truth"
    region_file = json.loads((truth / "ground_truth.json").read_text())["effect_mask"]
    stat, region = io.read_volume(t_map), io.read_volume(truth / region_file)
    values, inside = stat.data[0].numpy(), region.data[0].numpy() > 0.5
    peak = np.unravel_index(values.argmin(), values.shape)
    gap_mm = np.linalg.norm((np.argwhere(inside) - peak) * stat.grid.voxel_size_mm, axis=1).min()
    return float(gap_mm), float(values[peak]), bool(inside[peak])


if __name__ == "__main__":
    sys.exit(main())
