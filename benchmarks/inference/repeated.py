"""False positives of sign flips of persons at p <= .05: repeated scans without any effect.

python benchmarks/inference/repeated.py            # writes benchmarks/results/repeated_flips.md

Each of 600 null studies has a design of its own: people with 1 to 4 visits at uneven times, 40 voxels, no effect. The
model is ``group * within(age) + between(age) + sex``. Errors: a random intercept (correlation .8), or that plus a
random slope and patients with twice the spread between people. 300 flips a study.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.permute.blocks import block_tree
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted
from vbmstat.glm.spec import Compute
from vbmstat.glm.variance.sandwich import fit_sandwich, unestimated_subjects
from vbmstat.maps.store import ArrayMaps

CONTRASTS = ("group[T.p]", "within(age)", "between(age)", "group[T.p]:within(age)")
N_STUDIES, N_VOXELS, N_FLIPS = 600, 40, 300
COHORTS = ((20, 10), (20, 5))  # people, patients among them


def study(n_people: int, n_patients: int, is_plain: bool, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Covariates and values of a null study."""
    rng = np.random.default_rng([seed, n_people, n_patients])
    visits = rng.integers(1, 5, n_people)
    visits[:2] = visits[-2:] = 3
    person = np.repeat(np.arange(n_people), visits)
    time = np.concatenate([np.arange(count) + rng.uniform(0, 0.5, count) for count in visits])
    patient = np.arange(n_people) < n_patients
    sex = np.resize(["F", "M"], n_people)
    table = pd.DataFrame({"participant_id": [f"p{i:02d}" for i in person], "session_id": [f"{t:.4f}" for t in time]})
    table = table.assign(group=np.where(patient, "p", "c")[person], sex=rng.permutation(sex)[person])
    table["age"] = rng.uniform(50, 80, n_people)[person] + time
    spread = np.ones(n_people) if is_plain else 1.0 + patient
    values = 2 * (spread[:, None] * rng.standard_normal((n_people, N_VOXELS)))[person]
    values += rng.standard_normal((len(person), N_VOXELS))
    if not is_plain:
        values += 0.5 * time[:, None] * rng.standard_normal((n_people, N_VOXELS))[person]
    return table, pd.DataFrame(values, table["participant_id"] + "_" + table["session_id"])


def rates(n_people: int, n_patients: int, is_plain: bool) -> str:
    """A row of the table: share of voxels (uncorrected) and of studies (FWE) for each contrast."""
    found = []
    for seed in range(N_STUDIES):
        table, values = study(n_people, n_patients, is_plain, seed)
        people, ids = table["participant_id"].to_numpy(), tuple(values.index)
        design = build_design("group * within(age) + between(age) + sex", table, ids)
        plan = make_plan(design, build_contrasts(list(CONTRASTS), design), np.zeros((0, len(ids)), dtype=bool))
        if any(unestimated_subjects(plan, people)):
            continue
        maps, compute = ArrayMaps(values.to_numpy(), ids), Compute(n_threads=1)
        fitted = Fitted(maps, plan, fit_sandwich(maps, plan, people, compute))
        flips = Resampling(
            block_tree(people, "whole", range(len(ids))), N_FLIPS, seed, flip=True, subjects=tuple(people)
        )
        nulls = [
            permutation_nulls(fitted, make_permuted(plan, index, flips), NullSettings(), compute)
            for index in range(len(CONTRASTS))
        ]
        found.append([((one.p_uncorrected <= 0.05).mean(), one.p_fwe.min() <= 0.05) for one in nulls])
    mean = np.mean(found, axis=0)
    cells = " | ".join(f"{100 * voxel:.1f}, {100 * fwe:.1f}" for voxel, fwe in mean)
    errors = "random intercept" if is_plain else "and slope, unequal groups"
    return f"| {n_people}, {n_patients} patients | {errors} | {len(found)} | {cells} |"


if __name__ == "__main__":
    head = f"| people | errors | studies | {' | '.join(CONTRASTS)} |\n|{'---|' * (3 + len(CONTRASTS))}\n"
    lines = []
    for people, patients in COHORTS:
        for is_plain in (True, False):
            lines.append(rates(people, patients, is_plain))
            print(lines[-1], flush=True)
    about = (
        "Per cent of null voxels with p ≤ .05 (uncorrected), and of null studies with a voxel of FWE p ≤ .05 (standard "
    )
    text = f"{about}error 0.9), by {N_FLIPS} sign flips of persons:\n\n{head}" + "\n".join(lines) + "\n"
    Path(__file__).parents[1].joinpath("results", "repeated_flips.md").write_text(text, encoding="utf-8")
