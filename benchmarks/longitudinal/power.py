"""Does longitudinal preprocessing find more? Simulated patients lose grey matter in one region, controls do not.

    python benchmarks/longitudinal/power.py WORK [--people 40]

Each person has two scans, two years apart: new noise, bias field and pose. Patients lose 1 % of the grey matter of a
ball around the left insula a year. The scans are preprocessed singly and as pairs; a two-sample t of the change of the
smoothed maps is thresholded at p < .001, one-sided, uncorrected. Counted are voxels inside the ball (true positives)
and outside, more than the smoothing away from it. Every scan and person is kept in WORK, and a run is resumed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from accuracy import Prepared
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation

from vbmstat.assets import template
from vbmstat.image import grid, storage
from vbmstat.image.volume import Volume
from vbmstat.preproc.longitudinal import preprocess_person
from vbmstat.preproc.pipeline import preprocess_scan
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.simulate import anatomy, render
from vbmstat.simulate.cohort import DEFAULT_REGION, Settings, draw_participants
from vbmstat.simulate.head import draw_person, scan_grid
from vbmstat.simulate.render import Acquisition, image_from_signal

RESULTS = Path(__file__).parents[1] / "results"
YEARS, LOSS = 2.0, 0.01
VOXEL_MM, FWHM_MM = 1.5, 6.0
DRAWN_MM = 1.0  # voxels that heads are drawn on
TEXTURE, DARK = 0.02, 0.1  # of white matter: variation within tissue; bone and air have none
FWHM_OF_SIGMA = 2.3548
POSE_DEGREES, POSE_MM = 4.0, 4.0
P, LEAST_GM = 0.001, 0.1
KINDS = {"singly": "cross", "plasticity (mwp1r)": "long", "ageing (mwmwp1r)": "aged"}


def session(settings: Settings, position: int, visit: int, factor: float, tiv_ml: float) -> Volume:
    """A person's scan at a visit: the same head with a change of the region, new pose, noise and bias field.

    Texture, skull and scalp belong to the head: drawn anew in each scan, they would be change that no method can undo.
    """
    rng = np.random.default_rng([settings.seed, position, 0])
    head = anatomy.template_head()
    shape = anatomy.random_shape(head, rng, tiv_ml / 1925.0, settings.variation)
    scores = anatomy.own_scores(head, rng, settings.variation)
    weight = settings.region.weight(grid.apply_affine(head.grid.affine, grid.voxel_indices(head.grid.shape)))
    scores[2] += anatomy.csf_shift(scores, weight, factor) * weight
    fine, on = scan_grid(DRAWN_MM), scan_grid(settings.voxel_size_mm)
    person = draw_person(head, scores, shape.to_template(fine), fine, rng)
    texture = render.smooth_noise(fine, render.TEXTURE_FWHM_MM, rng)
    signal = person.signal + np.float32(TEXTURE) * texture * (person.signal > DARK)
    signal = ndimage.gaussian_filter(signal, settings.voxel_size_mm / FWHM_OF_SIGMA / DRAWN_MM, truncate=3.0)
    own = np.random.default_rng([settings.seed, position, 1 + visit])
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", own.normal(0, POSE_DEGREES, 3), degrees=True).as_matrix()
    move[:3, 3] = own.normal(0, POSE_MM, 3)
    to_fine = np.linalg.inv(fine.affine) @ move @ on.affine
    signal, brain = (
        ndimage.affine_transform(each, to_fine[:3, :3], to_fine[:3, 3], output_shape=on.shape, order=order)
        for each, order in ((signal, 3), (person.fractions.sum(0).numpy(), 1))
    )
    look = Acquisition(settings.noise_percent, settings.bias_percent, texture_percent=0, psf_fwhm_mm=0)
    return image_from_signal(signal.clip(0), brain > 0.5, on, own, look)


def keep(path: Path, of_visits: list[dict[float, Volume]]) -> None:
    """Keep the smoothed GM maps of two visits, (2, X, Y, Z)."""
    maps = np.stack([one[FWHM_MM].data[0].numpy() for one in of_visits])
    with storage.atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, maps.astype(np.float16))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--people", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    settings = Settings(given.people, voxel_size_mm=VOXEL_MM, seed=20)
    tiv_ml = draw_participants(settings)["tiv_aim_ml"].to_numpy()
    spec, prepared = PreprocSpec(fwhm_mm=(FWHM_MM,)), Prepared()
    for k in range(given.people):
        cross, shared, aged = (given.work / f"{stem}{k:02d}.npy" for stem in KINDS.values())
        if aged.is_file():
            continue
        prepared.made.clear()
        loss = LOSS * YEARS if k % 2 else 0.0
        scans = [session(settings, k, visit, 1 - loss * visit, float(tiv_ml[k])) for visit in range(2)]
        if not cross.is_file():
            keep(cross, [preprocess_scan(one, spec).smoothed for one in scans])
        points = preprocess_person(scans, spec, years=[0.0, YEARS]).time_points
        keep(shared, [one.preprocessed.smoothed for one in points])
        keep(aged, [one.aged_smoothed for one in points])
        print(f"person {k + 1} of {given.people}", flush=True)
    report(given.work, given.people)


def report(work: Path, n_people: int) -> None:
    """Voxels found, and the noise of the change, by way of preprocessing."""
    on = template().grid
    points = grid.apply_affine(on.affine, grid.voxel_indices(on.shape))
    centre = torch.tensor(DEFAULT_REGION.centre_mm).reshape(3, 1, 1, 1)
    distance = (points - centre).square().sum(0).sqrt().numpy()
    inside, outside = distance < DEFAULT_REGION.radius_mm, distance > DEFAULT_REGION.radius_mm + 2 * FWHM_MM
    done = min(sum((work / f"{stem}{k:02d}.npy").is_file() for k in range(n_people)) for stem in KINDS.values())
    n_used, rows = done // 2 * 2, []
    for name, stem in KINDS.items():
        maps = np.stack([np.load(work / f"{stem}{k:02d}.npy") for k in range(n_used)]).astype(np.float32)
        mean = maps.mean(axis=(0, 1))
        grey, change, patient = mean > LEAST_GM, maps[:, 1] - maps[:, 0], np.arange(n_used) % 2 == 1
        t, p = stats.ttest_ind(change[patient], change[~patient], axis=0, alternative="less")
        found, total = grey & (p < P), maps[~patient].sum(axis=(2, 3, 4))
        rows.append({
            "preprocessed": name,
            "found in the region": f"{int(found[inside].sum())} of {int((grey & inside).sum())}",
            "found far from it": f"{int(found[outside].sum())} of {int((grey & outside).sum())}",
            "strongest t": f"{float(t[inside & grey].min()):.1f}",
            "SD of the controls' change, % of GM, median voxel":
                f"{100 * float(np.median(change[~patient].std(axis=0, ddof=1)[grey] / mean[grey])):.2f}",
            "controls' change of all GM, %, median":
                f"{100 * float(np.median(np.abs(total[:, 1] / total[:, 0] - 1))):.2f}",
        })  # fmt: skip
    lines = [[*rows[0]], ["---"] * len(rows[0]), *(one.values() for one in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = f"""# Power of longitudinal preprocessing

{n_used // 2} simulated patients lose {100 * LOSS:g} % of a region's grey matter a year, {n_used // 2} controls nothing.
Two scans {YEARS:g} years apart, {VOXEL_MM:g} mm voxels, 3 % noise, 40 % bias; poses differ by {POSE_DEGREES:g}° and
{POSE_MM:g} mm (standard deviation of each angle and shift of each scan). Maps smoothed with {FWHM_MM:g} mm; two-sample
t of the change, one-sided p < {P:g}, uncorrected. Texture, skull and scalp belong to the head. The heads are derived
from the template, whose warp brings single scans' borders back to its own: single scans of real heads are noisier.

{table}
"""
    storage.write_text(RESULTS / "longitudinal_power.md", text)
    print(text)


if __name__ == "__main__":
    main()
