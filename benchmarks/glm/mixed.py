"""False positives of mixed models at p <= .05, by number of people and scans and the share of variance between people.

python benchmarks/glm/mixed.py            # writes benchmarks/results/mixed.md, about a minute

Half of the people are patients; no effect of group, age, time or their interaction; a random intercept and noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.regions.mixed import MixedFit, fit_mixed
from vbmstat.regions.mixed_analysis import mixed_notes

CONTRASTS = ("age", "group", "time", "group[T.p]:time", "F(group, group[T.p]:time, age)")
N_COLUMNS = 10_000
ICC = (0.0, 0.3, 0.9)
PEOPLE = {  # scans of each
    "8 × 3": [3] * 8, "12 × 2": [2] * 12, "12 × 3": [3] * 12, "30 × 2": [2] * 30, "30 × 3": [3] * 30,
    "12, 1–4 scans": [1, 2, 3, 4] * 3, "30, 1–4 scans": ([1, 2, 3, 4] * 8)[:30], "40, half of them twice": [1, 2] * 20,
    "5 × 3": [3] * 5, "7 × 3": [3] * 7, "8 × 2": [2] * 8, "20, five of them twice": [2] * 5 + [1] * 15,
    "6, two of them 10 times": [10] * 2 + [2] * 4,
}  # fmt: skip


def study(scans: list[int], rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    person = np.repeat(np.arange(len(scans)), scans)
    patient = np.arange(len(scans)) // 2 % 2 == 1
    age = rng.uniform(20, 80, len(scans))
    table = pd.DataFrame({"group": np.where(patient, "p", "c")[person], "age": age[person]})
    table["time"] = np.concatenate([np.arange(k) for k in scans]).astype(float)
    return table, person


def rows(name: str, scans: list[int]) -> list[str]:
    rng = np.random.default_rng(len(scans))
    table, person = study(scans, rng)
    design = build_design("group * time + age", table, [f"{i}" for i in range(len(table))])
    contrasts = build_contrasts(list(CONTRASTS), design)
    lines = []
    for icc in ICC:
        between = rng.standard_normal((len(scans), N_COLUMNS))[person]
        values = np.sqrt(icc) * between + np.sqrt(1 - icc) * rng.standard_normal((len(person), N_COLUMNS))
        fit = fit_mixed(values, design, contrasts, [f"{k}" for k in person])
        cells = [f"{(p <= 0.05).mean():.3f}" for p in fit.p]
        zero = f"{(fit.random_variance == 0).mean():.2f}"
        lines.append(f"| {name} | {icc:g} | {zero} | {' | '.join(cells)} | {largest_of_z(fit):.3f} | {told(fit)} |")
    return lines


def largest_of_z(fit: MixedFit) -> float:
    """The largest share among the t-contrasts if t were taken for z."""
    return float((2 * stats.norm.sf(np.abs(fit.statistic[:-1])) <= 0.05).mean(axis=1).max())


def told(fit: MixedFit) -> str:
    """Which notes a user gets, by their first words."""
    notes = mixed_notes(fit, [""] * fit.p.shape[1])
    words = {"few subjects": "few subjects", "no variance between": "zero variance"}
    return ", ".join(short for start, short in words.items() if any(note.startswith(start) for note in notes))


if __name__ == "__main__":
    head = ("people × scans", "ICC", "share at σ_b² = 0", *CONTRASTS, "worst as z", "notes")
    lines = [line for name, scans in PEOPLE.items() for line in rows(name, scans)]
    table = "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines])
    text = f"Share of {N_COLUMNS} null columns with p <= .05 (chance: ± .004):\n\n{table}\n"
    Path(__file__).parents[1].joinpath("results", "mixed.md").write_text(text, encoding="utf-8")
    print(text)
