"""Share of null voxels with p < .05: every estimator of the variance on every kind of design.

    nice python benchmarks/glm/calibration.py    # writes benchmarks/results/glm_calibration.md, about two minutes
    nice python benchmarks/glm/calibration.py --mixed                      # mixed models of 300 regions as well: slow

No covariate has an effect. A row is right if the share is 4 to 6 %, if the model is refused, or if a printed note says
what is wrong (`told`). `subset` is the share of subsets with p < .05, averaged over voxels. Voxels are a float32 matrix
(8,000 columns), regions a float64 table (4,000; few: 300). The errors of repeated scans have a random intercept of each
person (correlation 0 or .8); with weights, the variances that the weights say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design, with_map_column
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit.map_covariate import fit_voxels_with_map
from vbmstat.glm.fit.plan import make_covariate_plan, make_plan
from vbmstat.glm.inference.p_values import p_two_sided
from vbmstat.maps.store import ArrayMaps
from vbmstat.regions.mixed_analysis import fit_mixed_glm

N_SCANS, N_VOXELS, N_REGIONS, N_FEW, REPEATS = 24, 8000, 4000, 300, 40
RESULTS = Path(__file__).parents[1] / "results" / "glm_calibration.md"
INDEPENDENT: dict[str, dict[str, Any]] = {
    "ols": {}, "ols, weights": {"weights": "w"}, "spm": {"variance": "spm"}, "hc3": {"variance": "hc3"},
    "hc3, weights": {"variance": "hc3", "weights": "w"}, "groups": {"variance": "groups:group"},
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A design: its table, formula and contrasts, and the correlation inside a person."""

    name: str
    table: pd.DataFrame
    formula: str
    contrasts: tuple[str, ...]
    correlation: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def noise(self) -> np.ndarray:
        """Errors without effect, (n_scans, N_VOXELS)."""
        rng = np.random.default_rng(len(self.name))
        person = pd.factorize(self.table["participant_id"])[0]
        shared = rng.standard_normal((person.max() + 1, N_VOXELS))[person]
        own = rng.standard_normal((len(person), N_VOXELS))
        return np.sqrt(self.correlation) * shared + np.sqrt(1 - self.correlation) * own  # (n, v)


def cross_sectional() -> Iterator[Study]:
    """Designs of one scan a person."""
    rng = np.random.default_rng(7)
    base = pd.DataFrame({
        "participant_id": [f"s{i:02d}" for i in range(N_SCANS)], "age": rng.uniform(20, 80, N_SCANS),
        "tiv": rng.normal(1500, 120, N_SCANS), "w": rng.uniform(0.5, 2.0, N_SCANS),
    })  # fmt: skip
    for rare in (12, 8, 4, 2, 1):
        table = base.assign(group=np.where(np.arange(N_SCANS) < N_SCANS - rare, "c", "p"))
        joint = ("age", "group[T.p]", "F(age, group[T.p])")
        yield Study(f"{N_SCANS - rare}:{rare} + age", table, "gm ~ age + group", joint)
    three = base.assign(group=np.repeat(list("cpq"), 8))
    yield Study("8:8:8", three, "gm ~ age + group", ("age", "group[T.p]", "group"))
    nested = base.assign(site=np.repeat(list("abcd"), (9, 8, 5, 2)), group=np.repeat(["c", "p"], (17, 7)))
    sites = ("age", "site[T.b]", "site[T.d] - site[T.c]", "site")
    yield Study("nested site 9:8, 5:2", nested, "gm ~ age + site", sites)
    slopes = base.assign(group=np.where(np.arange(N_SCANS) % 3 == 0, "p", "c"))
    by_group = ("age", "group[T.p]:age", "F(age, group[T.p]:age)")
    yield Study("slopes 16:8", slopes, "gm ~ group * age", by_group)
    holes = slopes.assign(tiv=slopes["tiv"].where(np.arange(N_SCANS) % 6 != 1))
    kept = {"missing": "drop"}
    yield Study("missing rows", holes, "gm ~ age + tiv + group", ("age", "tiv", "F(age, tiv)"), options=kept)
    for leverage in (0.9, 0.99, 0.999):
        dose = rng.standard_normal(N_SCANS)
        dose[-1] = 0.0
        far = np.sqrt(leverage / (1 - leverage) * (dose**2).sum())  # leverage about this
        table = slopes.assign(dose=np.append(dose[:-1], far))
        yield Study(f"one scan of leverage {leverage}", table, "gm ~ dose + group", ("dose", "group[T.p]", "F(dose)"))


def longitudinal() -> Iterator[Study]:
    """Designs of repeated scans: 1 to 4 visits of each person."""
    for people, rare, correlation in (
        (12, 4, 0.0), (12, 4, 0.8), (20, 5, 0.0), (20, 5, 0.8), (20, 2, 0.0), (20, 2, 0.8), (20, 1, 0.8), (60, 20, 0.0),
        (60, 20, 0.8),
    ):  # fmt: skip
        rng = np.random.default_rng(people)
        visits = rng.integers(1, 5, people)
        person = np.repeat(np.arange(people), visits)
        table = pd.DataFrame({
            "participant_id": [f"s{i:02d}" for i in person], "group": np.where(person < people - rare, "c", "p"),
            "session_id": np.concatenate([[f"{k}" for k in range(n)] for n in visits]),
            "age": rng.uniform(20, 80, people)[person],
        })  # fmt: skip
        table["time"] = table["session_id"].astype(float)
        contrasts = ("group[T.p]", "time", "F(group[T.p], time)")
        yield Study(f"{people - rare}:{rare} people", table, "gm ~ group + time + age", contrasts, correlation)


def rows(study: Study, estimator: str, options: Mapping[str, Any], level: str) -> Iterator[tuple[str, ...]]:
    """Cells of the table, one row a contrast."""
    values = study.noise()[:, : {"voxel": N_VOXELS, "region": N_REGIONS, "few regions": N_FEW}[level]]
    if "weights" in options:
        values = values / np.sqrt(study.table["w"].to_numpy())[:, None]  # the errors that the weights say
    ids = study.table["participant_id"]
    if "session_id" in study.table:
        ids = ids + "_" + study.table["session_id"]
    if level == "voxel":
        maps: Any = ArrayMaps(values.astype(np.float32), tuple(ids))
    else:
        maps = pd.DataFrame(values, index=list(ids))
    has_subsets = estimator.split(",", maxsplit=1)[0] in ("ols", "spm", "hc3")
    for contrast in study.contrasts:
        head = (estimator, study.name, f"{study.correlation:g}", contrast, level)
        try:
            if estimator == "mixed":
                mixed = fit_mixed_glm(maps, study.formula, study.table, [contrast], **options)
                yield (*head, percent(mixed.fit.p[0]), "", "", told(mixed.record["notes"], contrast))
                continue
            repeats = {"repeats": REPEATS} if has_subsets else {}
            found = fit_glm(maps, study.formula, study.table, [contrast], **repeats, **options, **study.options)
        except DesignError as error:
            reason = str(error)
            yield (*head, "refused", "", "", reason if len(reason) < 160 else reason[:157] + "...")
            continue
        one = found.maps[contrast]
        df = np.median(one["df"].values) if "df" in one else found.df_resid
        subset = f"{100 * one['replication'].values.mean():.1f}" if "replication" in one else ""
        yield (*head, percent(one["p"].values), subset, f"{df:.1f}", told(found.record["notes"], contrast))


def percent(p: np.ndarray) -> str:
    return f"{100 * (p < 0.05).mean():.1f}"


def told(notes: list[str], contrast: str) -> str:
    """What a note says about the contrast."""
    about = [note.split(": ", 1)[1] for note in notes if note.startswith(f"contrast {contrast!r}")]
    return "; ".join(note.split(";")[0] for note in about)


def with_map() -> Iterator[tuple[str, ...]]:
    """``map()``: the covariate is another noise at every voxel."""
    study = next(s for s in cross_sectional() if s.name.startswith("22:2"))
    ids = tuple(study.table["participant_id"])
    design = build_design("age + group", study.table, ids)
    contrasts = build_contrasts(["age", "group[T.p]", "map(wm)"], with_map_column(design, "wm"))
    base = make_plan(design, (), draw_subsets(ids, REPEATS, 0.8, 0))
    plan = make_covariate_plan(base, design, contrasts)
    covariate = np.random.default_rng(1).standard_normal((N_SCANS, N_VOXELS)).astype(np.float32)
    fit = fit_voxels_with_map(ArrayMaps(study.noise().astype(np.float32), ids), ArrayMaps(covariate, ids), plan)
    for k, contrast in enumerate(contrasts):
        share, subset = percent(p_two_sided(fit.statistic[k], fit.df[k])), 100 * fit.quantiles["replication"][k].mean()
        yield "ols, map()", study.name, "0", contrast.name, "voxel", share, f"{subset:.1f}", f"{fit.df[k]:.1f}", ""


def every_row(with_mixed: bool) -> Iterator[tuple[str, ...]]:
    for study in cross_sectional():
        for estimator, options in INDEPENDENT.items():
            if estimator != "groups" or study.name.endswith(("+ age", "slopes 16:8", "missing rows", "8:8:8")):
                yield from rows(study, estimator, options, "voxel")
        yield from rows(study, "hc3", {"variance": "hc3"}, "region")
    yield from with_map()
    for study in longitudinal():
        yield from rows(study, "sandwich", {"variance": "sandwich:participant_id"}, "voxel")
        if with_mixed:
            yield from rows(study, "mixed", {"random": "participant_id"}, "few regions")


if __name__ == "__main__":
    names = ("estimator", "design", "correlation", "contrast", "level", "p < .05, %", "subset, %", "df", "told")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in every_row("--mixed" in sys.argv[1:]):
        lines.append(f"| {' | '.join(row)} |")
        print(lines[-1], flush=True)
    text = f"{__doc__.split('as well: slow')[-1].strip()}\n\n" + "\n".join(lines) + "\n"
    RESULTS.write_text(text, encoding="utf-8")
