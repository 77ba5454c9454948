"""Does longitudinal preprocessing find more? Simulated patients lose cortex in one region, controls lose none.

    python benchmarks/longitudinal/power.py WORK [--people 40]

People are rendered label maps, ten anatomies in proportions of their own; each has two scans, two years apart: new
noise, shading and pose. Patients lose 1 % of the cortex of a region (`heads.py`) a year. The scans are preprocessed
singly and as pairs; a two-sample t of the change of the smoothed maps is thresholded at p < .001, one-sided,
uncorrected. Counted are voxels inside the region of most people (true positives), and more than twice the smoothing
away from everybody's. Every person is kept in WORK, and a run is resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from accuracy import Prepared, in_region
from heads import BIAS_PERCENT, DEGREES, NOISE_PERCENT, SHIFT_MM, Head
from scipy import ndimage, stats

from vbmstat.image import storage
from vbmstat.image.volume import Volume
from vbmstat.preproc.longitudinal import preprocess_person
from vbmstat.preproc.pipeline import preprocess_scan
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.simulate import render

RESULTS = Path(__file__).parents[1] / "results"
YEARS, LOSS = 2.0, 0.01
MAP_MM, FWHM_MM = 1.5, 6.0
N_MAPS, STRETCH_SD = 10, 0.04
P, LEAST_GM = 0.001, 0.1
KINDS = {"singly": "cross", "plasticity (mwp1r)": "long", "ageing (mwmwp1r)": "aged"}


class Participant(Head):
    """A head with the anatomy of a label map, and texture and proportions of its own."""

    def __init__(self, position: int) -> None:
        super().__init__(1 + position % N_MAPS)
        self.seed = 1000 + position
        rng = np.random.default_rng(self.seed)
        self.texture = render.smooth_noise(self.grid, render.TEXTURE_FWHM_MM, rng) * 0.02
        middle = (np.array(self.grid.shape) - 1) / 2
        self.stretch = np.diag([*np.exp(rng.normal(0, STRETCH_SD, 3)), 1.0])
        self.stretch[:3, 3] = middle - self.stretch[:3, :3] @ middle

    def _drawn_pose(self, rng: np.random.Generator) -> np.ndarray:
        return self.stretch @ super()._drawn_pose(rng)

    def thinning_of(self, share: float) -> float:
        """Thinning, mm, that takes a share of the region's cortex; small ones are proportional to the loss."""
        cortex_ml = float(self.gm_fraction(0.0)[self.region].sum() * self.grid.voxel_volume_ml)
        return 0.1 * share * cortex_ml / self.lost_ml(0.1)


def keep(path: Path, maps: np.ndarray) -> None:
    """Keep maps as float16."""
    with storage.atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, maps.astype(np.float16))


def smoothed(of_visits: list[dict[float, Volume]]) -> np.ndarray:
    """The smoothed GM maps of two visits, (2, X, Y, Z)."""
    return np.stack([one[FWHM_MM].data[0].numpy() for one in of_visits])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--people", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    spec, prepared = PreprocSpec(fwhm_mm=(FWHM_MM,)), Prepared()
    for k in range(given.people):
        cross, shared, aged, where = (given.work / f"{stem}{k:02d}.npy" for stem in (*KINDS.values(), "region"))
        if aged.is_file():
            continue
        prepared.made.clear()
        person = Participant(k)
        thinning_mm = person.thinning_of(LOSS * YEARS) if is_patient(k) else 0.0
        scans = [person.scan(visit, thinning_mm * visit) for visit in range(2)]
        keep(cross, smoothed([preprocess_scan(one, spec).smoothed for one in scans]))
        points = preprocess_person(scans, spec, years=[0.0, YEARS]).time_points
        keep(where, in_region(person, 0, points[0].preprocessed).numpy())
        keep(shared, smoothed([one.preprocessed.smoothed for one in points]))
        keep(aged, smoothed([one.aged_smoothed for one in points]))
        print(f"person {k + 1} of {given.people}", flush=True)
    report(given.work, given.people)


def is_patient(position: int) -> bool:
    """As many patients as controls of each anatomy."""
    return position // N_MAPS % 2 == 1


def report(work: Path, n_people: int) -> None:
    """Voxels found, and the noise of the change, by way of preprocessing."""
    people = [k for k in range(n_people) if (work / f"aged{k:02d}.npy").is_file()]
    patient = np.array([is_patient(k) for k in people])
    where = np.mean([np.load(work / f"region{k:02d}.npy") for k in people], axis=0)
    inside = where > 0.5
    outside = ndimage.distance_transform_edt(where == 0, MAP_MM) > 2 * FWHM_MM
    rows = []
    for name, stem in KINDS.items():
        maps = np.stack([np.load(work / f"{stem}{k:02d}.npy") for k in people]).astype(np.float32)
        mean = maps.mean(axis=(0, 1))
        grey, change = mean > LEAST_GM, maps[:, 1] - maps[:, 0]
        t, p = stats.ttest_ind(change[patient], change[~patient], axis=0, alternative="less")
        found, total = grey & (p < P), maps[~patient].sum(axis=(2, 3, 4))
        rows.append({
            "preprocessed": name,
            "found in the region": f"{int(found[inside].sum())} of {int((grey & inside).sum())}",
            "found far from it": f"{int(found[outside].sum())} of {int((grey & outside).sum())}",
            "strongest t": f"{float(t[inside & grey].min()):.1f}",
            "patients' change in the region, %":
                f"{100 * float(np.median((change[patient].mean(0) / mean)[inside & grey])):.2f}",
            "SD of the controls' change, % of GM, median voxel":
                f"{100 * float(np.median(change[~patient].std(axis=0, ddof=1)[grey] / mean[grey])):.2f}",
            "controls' change of all GM, %, median":
                f"{100 * float(np.median(np.abs(total[:, 1] / total[:, 0] - 1))):.2f}",
        })  # fmt: skip
    lines = [[*rows[0]], ["---"] * len(rows[0]), *(one.values() for one in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f"""# Power of longitudinal preprocessing

{patient.sum()} simulated patients lose {100 * LOSS:g} % of a region's cortex a year, {(~patient).sum()} controls
nothing. Two scans {YEARS:g} years apart, 1 mm voxels, {NOISE_PERCENT:g} % noise, {BIAS_PERCENT:g} % shading; poses
differ by {DEGREES:g}° and {SHIFT_MM:g} mm (standard deviation of each angle and shift of each scan). Maps smoothed with
{FWHM_MM:g} mm; two-sample t of the change, one-sided p < {P:g}, uncorrected. People are {N_MAPS} label maps in
proportions of their own ({100 * STRETCH_SD:g} % a direction); texture, skull and scalp belong to the head.

{table}
"""
    storage.write_text(RESULTS / "longitudinal_power.md", text)
    print(text)


if __name__ == "__main__":
    main()
