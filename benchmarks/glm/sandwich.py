"""False positives of repeated scans at p < .05: ordinary least squares against the sandwich estimator.

python benchmarks/glm/sandwich.py            # writes benchmarks/results/sandwich.md

People with 1 to 4 visits, a quarter of them patients; no effect of group, age, time or their interaction. Errors: a
random intercept (correlation .8), or that plus a random slope and patients with twice the spread between people.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.variance.sandwich import fit_sandwich
from vbmstat.maps.store import ArrayMaps

CONTRASTS = ("group", "time", "group[T.p]:time", "F(group, group[T.p]:time, age)")
N_VOXELS = 10_000


def study(n_people: int, is_plain: bool, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    visits = rng.integers(1, 5, n_people)
    subject = np.repeat(np.arange(n_people), visits)
    patient = np.arange(n_people) < n_people // 4
    table = pd.DataFrame({"group": np.where(patient, "p", "c")[subject], "age": rng.uniform(20, 80, n_people)[subject]})
    table["time"] = np.concatenate([np.arange(k) for k in visits]).astype(float)
    spread = np.ones(n_people) if is_plain else 1.0 + patient
    values = 2 * (spread[:, None] * rng.standard_normal((n_people, N_VOXELS)))[subject]
    values += rng.standard_normal((len(subject), N_VOXELS))
    if not is_plain:
        values += 0.5 * table["time"].to_numpy()[:, None] * rng.standard_normal((n_people, N_VOXELS))[subject]
    return table, subject, values


def rates(n_people: int, is_plain: bool) -> list[str]:
    table, subject, values = study(n_people, is_plain, np.random.default_rng(n_people))
    ids = [f"{i}" for i in range(len(table))]
    design = build_design("group * time + age", table, ids)
    contrasts = build_contrasts(list(CONTRASTS), design)
    plan = make_plan(design, contrasts, np.zeros((0, len(table)), dtype=bool))
    errors = "random intercept" if is_plain else "and slope, unequal groups"
    lines = []
    coefficients = plan.basis.T @ values
    sigma2 = ((values**2).sum(axis=0) - (coefficients**2).sum(axis=0)) / plan.df_resid
    p = []
    for contrast in plan.contrasts:
        estimate = contrast.rows @ coefficients
        if contrast.kind == "t":
            p.append(2 * stats.t.sf(np.abs(estimate[0]) / contrast.norm / np.sqrt(sigma2), plan.df_resid))
        else:
            p.append(stats.f.sf((estimate**2).mean(axis=0) / sigma2, len(estimate), plan.df_resid))
    lines.append(row(n_people, errors, "least squares", p))
    maps = ArrayMaps(values, tuple(ids))
    fit = fit_sandwich(maps, plan, subject.astype(str))
    p = [
        2 * stats.t.sf(np.abs(t), df) if c.kind == "t" else stats.f.sf(t, len(c.rows), df)
        for c, t, df in zip(plan.contrasts, fit.statistic, fit.df, strict=True)
    ]
    lines.append(row(n_people, errors, "sandwich", p))
    return lines


def row(n_people: int, errors: str, method: str, p: list[np.ndarray]) -> str:
    found = " | ".join(f"{(one < 0.05).mean():.3f}" for one in p)
    return f"| {n_people} | {errors} | {method} | {found} |"


if __name__ == "__main__":
    head = f"| people | errors | method | {' | '.join(CONTRASTS)} |\n|{'---|' * (3 + len(CONTRASTS))}\n"
    lines = [line for n in (20, 50, 150) for plain in (True, False) for line in rates(n, plain)]
    text = f"Share of {N_VOXELS} null voxels with p < .05:\n\n{head}" + "\n".join(lines) + "\n"
    Path(__file__).parents[1].joinpath("results", "sandwich.md").write_text(text, encoding="utf-8")
    print(text)
