"""Error of fitted tails (500 permutations) and of early stopping, against full runs of 20,000 permutations.

    python benchmarks/inference/tail.py real --cohort cohort.tsv --formula "gm ~ age + gender + tiv" --contrast age
    python benchmarks/inference/tail.py noise               # the same of simulated maps without effect
    python benchmarks/inference/tail.py errors              # false positives over simulated cohorts

Each takes about five minutes of one core and writes its part of benchmarks/results/inference_tail.json; the table is
made of all parts. The first two permute once, 20,000 times, at reduced resolution (real maps: every third voxel of each
axis). The null maxima are dealt into 40 sets of 500, a tail is fitted to each, and its p at the values whose p in the
full run is 0.05, 0.01, 0.002 and 0.001 are compared with that p: the median ratio, and the range that holds 90 % of the
sets. The p of 500 single voxels are treated alike, each with its own null. `errors` takes cohorts of 24 maps of smooth
noise (in a box of 18³ voxels, FWHM 2.5 voxels) and counts those with any p <= alpha.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from null import N_SCANS, noise, space
from scipy import ndimage

from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import Design, build_design
from vbmstat.glm.fit.engine import fit_voxels
from vbmstat.glm.fit.plan import Plan, make_plan
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.corrected import forming_threshold
from vbmstat.glm.inference.permute.blocks import free_tree
from vbmstat.glm.inference.permute.nulls import Nulls, NullSettings, Scale, is_decided
from vbmstat.glm.inference.permute.rearrangements import BLOCK
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Permuted, Resampling, make_permuted
from vbmstat.glm.inference.permute.scores import PermutedScores
from vbmstat.glm.inference.permute.tails import fit_tails, smallest_tail_p
from vbmstat.glm.spec import Compute
from vbmstat.image.grid import Grid
from vbmstat.image.io import read_volume
from vbmstat.maps.store import ArrayMaps, Space
from vbmstat.tables.cohort import read_cohort

RESULTS = Path(__file__).parents[1] / "results"
FULL, FEW, STRIDE, FORMING_P = 20_000, 500, 3, 0.001
STOP_AFTER, STOPPED = 20, 2000  # permutations that reach the strongest finding; planned
BOX, BOX_FWHM, MARGIN = (18, 18, 18), 2.5, 6  # voxels
TRUE_P = (0.05, 0.01, 0.002, 0.001)
TESTS = {
    "statistic": "max-t", "tfce": "TFCE", "extent": "cluster extent", "mass": "cluster mass",
    "uncorrected": "single voxels",
}  # fmt: skip
WAYS = {"counted": "counted", "gpd": "Pareto tail"}
FLOOR = smallest_tail_p(FEW, 10**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("real", "noise", "errors", "table"))
    parser.add_argument("--cohort", type=Path, help="cohort table of `vbmstat preprocess`")
    parser.add_argument("--formula", default="gm ~ age + gender + tiv")
    parser.add_argument("--contrast", default="age")
    parser.add_argument("--name", help="of the data, in the table")
    parser.add_argument("--full", type=int, default=FULL, help="permutations of the full run")
    parser.add_argument("--cohorts", type=int, default=600, help="of `errors`")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = {"real": real, "noise": simulated, "errors": errors, "table": lambda _: {}}[arguments.part]
    start = time.perf_counter()
    found = work(arguments)
    path = arguments.out / "inference_tail.json"
    parts = json.loads(path.read_text()) if path.is_file() else {}
    if found:
        name = arguments.name or arguments.part
        parts[name] = found | {"part": arguments.part, "seconds": round(time.perf_counter() - start, 1)}
        path.write_text(json.dumps(parts, indent=1) + "\n")
    text = table(parts)
    path.with_suffix(".md").write_text(text)
    sys.stdout.write(text)


class Test:
    """A contrast of a design over maps, to be permuted."""

    def __init__(self, design: Design, spec: str, values: np.ndarray, where: Space) -> None:
        contrasts = build_contrasts([spec], design)
        self.design = design
        self.plan: Plan = make_plan(design, contrasts, np.empty((0, len(values)), bool))
        self.values, self.maps = values, ArrayMaps(values, design.scan_ids, where)
        self.fitted = Fitted(self.maps, self.plan, fit_voxels(self.maps, self.plan, Compute(n_threads=1)))
        self.statistic = self.fitted.fit.statistic[0]
        self.threshold = forming_threshold(FORMING_P, "t", True, 1, self.plan.df_resid)

    def permuted(self, count: int, seed: int) -> Permuted:
        """Its permutations, Freedman–Lane."""
        tree = free_tree(range(len(self.design.scan_ids)))
        return make_permuted(self.plan, 0, Resampling(tree, count, seed))

    def nulls(self, permuted: Permuted, **settings: Any) -> Nulls:
        """Everything at once, two-sided."""
        asked = NullSettings(True, True, self.threshold, **settings)
        return permutation_nulls(self.fitted, permuted, asked, Compute(n_threads=1))

    def null_of_voxels(self, permuted: Permuted, columns: np.ndarray) -> np.ndarray:
        """|t| of every permutation at some voxels, (count, v)."""
        scale = Scale("t", True, self.plan.df_resid, 1)
        engine = PermutedScores(self.maps, self.plan, permuted, scale, Compute(n_threads=1))
        blocks = engine.rows(0, permuted.rearrangements.count)
        values = torch.from_numpy(np.ascontiguousarray(self.values[:, columns]))
        parts = [engine.null(values[:, at : at + 64], blocks) for at in range(0, len(columns), 64)]
        return np.concatenate(parts, axis=1)


def real(arguments: argparse.Namespace) -> dict[str, Any]:
    """Preprocessed maps of a cohort."""
    cohort = read_cohort(arguments.cohort)
    right = arguments.formula.split("~")[1].replace("tiv", "tiv_ml")
    design = build_design(right, cohort.table, cohort.scan_ids)
    folder = arguments.cohort.parent
    step = (slice(None, None, STRIDE),) * 3
    images, grid = [], None
    for path in cohort.table["s6mwp1"]:
        volume = read_volume(folder / path)
        images.append(volume.data[0].numpy()[step])
        grid = volume.grid
    assert grid is not None  # noqa: S101
    affine = grid.affine.copy()
    affine[:3, :3] *= STRIDE
    stack = np.stack(images)
    inside = np.flatnonzero((stack > 0.1).all(axis=0))
    where = Space(Grid(stack.shape[1:], affine), inside)
    values = np.ascontiguousarray(stack.reshape(len(stack), -1)[:, inside], dtype=np.float32)
    return measure(Test(design, arguments.contrast, values, where), arguments.full) | {
        "formula": arguments.formula, "contrast": arguments.contrast,
    }  # fmt: skip


def cohort_of_noise(seed: int, make: Callable[[np.random.Generator], np.ndarray], where: Space) -> Test:
    """24 maps of smooth noise; group of 8 against 16, nuisance age, as in null.py."""
    rng = np.random.default_rng([seed, 77])
    group = np.where(np.arange(N_SCANS) % 3 == 0, "patient", "control")
    covariates = pd.DataFrame({"group": group, "age": rng.uniform(20, 80, N_SCANS) + 10 * (group == "patient")})
    design = build_design("group + age", covariates, [f"sub-{i:02d}" for i in range(N_SCANS)])
    return Test(design, "group", make(rng), where)


def noise_in_a_box(rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit variance, (n_scans, 18³)."""
    wide = rng.standard_normal((N_SCANS, *(n + 2 * MARGIN for n in BOX)), dtype=np.float32)
    inner = (slice(None), *(slice(MARGIN, -MARGIN),) * 3)
    maps = ndimage.gaussian_filter(wide, (0, *(BOX_FWHM / np.sqrt(8 * np.log(2)),) * 3))[inner]
    return np.asarray(maps.reshape(N_SCANS, -1) / maps.std())


def simulated(arguments: argparse.Namespace) -> dict[str, Any]:
    """One cohort without effect."""
    return measure(cohort_of_noise(0, noise, space()), arguments.full)


def measure(test: Test, full: int) -> dict[str, Any]:
    """P of sets of 500 permutations against those of all."""
    permuted, start = test.permuted(full, 0), time.perf_counter()
    nulls = test.nulls(permuted)
    runs = {"full": _run(nulls, start)}
    rows = []
    for name, maxima in nulls.maxima.items():
        rest = maxima[1:]
        values = np.array([np.quantile(rest, 1 - p, method="higher") for p in TRUE_P])
        true = np.array([(rest >= value).mean() for value in values])
        sets = [np.append(maxima[0], part) for part in np.array_split(rest, full // FEW)]
        for way in WAYS:
            ratios = np.array([_p(part, values, way) / true for part in sets])
            rows += _rows(name, way, true, ratios)
    columns = np.random.default_rng(0).choice(len(test.statistic), 500, replace=False)
    null = test.null_of_voxels(permuted, columns)
    values = np.quantile(null[1:], 1 - np.array(TRUE_P), axis=0, method="higher")  # (4, v)
    true = np.array([(null[1:] >= value).mean() for value in values])
    parts = [null[part] for part in np.array_split(np.arange(1, full), full // FEW)]
    for way in ("counted", "gpd"):
        ratios = np.array([[_p_voxels(part, value, way) for value in values] for part in parts])  # (sets, 4, v)
        rows += _rows("uncorrected", way, true, ratios.transpose(0, 2, 1).reshape(-1, len(TRUE_P)) / true)
    for way, settings, count in (
        ("gpd", {"tail": "gpd"}, FEW),
        ("stop", {"stop_after": STOP_AFTER}, STOPPED),
    ):
        start = time.perf_counter()
        runs[way] = _run(test.nulls(test.permuted(count, 1), **settings), start)
    return {
        "n_scans": len(test.design.scan_ids), "n_voxels": len(test.statistic), "full": full, "rows": rows,
        "runs": runs,
    }  # fmt: skip


def _p(null: np.ndarray, values: np.ndarray, way: str) -> np.ndarray:
    """P of values from few permutations, the first being the data."""
    counted = (1 + (null[1:] >= values[:, None]).sum(axis=1)) / len(null)
    tails = None if way == "counted" else fit_tails(null[:, None], FLOOR)
    if tails is None:
        return counted
    p, chosen = tails.p(values)
    return np.where(chosen, p, counted)


def _p_voxels(null: np.ndarray, values: np.ndarray, way: str) -> np.ndarray:
    counted = (1 + (null >= values).sum(axis=0)) / (len(null) + 1)
    tails = None if way == "counted" else fit_tails(np.concatenate([values[None], null]), FLOOR)
    if tails is None:
        return counted
    p, chosen = tails.p(values)
    return np.where(chosen, p, counted)


def _rows(name: str, way: str, true: np.ndarray, ratios: np.ndarray) -> list[dict[str, Any]]:
    low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95), axis=0)
    rms = np.sqrt((np.log2(ratios) ** 2).mean(axis=0))
    return [
        {"test": name, "way": way, "p_full": float(p), "ratio": float(m), "low": float(a), "high": float(b),
         "rms_log2": float(r)}
        for p, a, m, b, r in zip(true, low, middle, high, rms, strict=True)
    ]  # fmt: skip


def _run(nulls: Nulls, start: float) -> dict[str, Any]:
    """Seconds since the start, permutations, and the smallest corrected p of each test."""
    assert nulls.p_tfce_fwe is not None and nulls.p_extent_fwe is not None and nulls.p_mass_fwe is not None  # noqa: S101, PT018
    each = (nulls.p_fwe, nulls.p_tfce_fwe, nulls.p_extent_fwe, nulls.p_mass_fwe)
    smallest = {name: float(p.min(initial=1.0)) for name, p in zip(TESTS, each, strict=False)}
    return {"seconds": round(time.perf_counter() - start, 1), "permutations": nulls.count, "p_fwe": smallest}


def errors(arguments: argparse.Namespace) -> dict[str, Any]:
    """Cohorts without effect that have any p <= alpha: counted, by tails, and stopped early; 500 permutations."""
    names = ("statistic", "tfce", "extent", "mass")
    ties = {"statistic": 1e-9, "tfce": 1e-9, "extent": 0.0, "mass": 1e-9}
    found: dict[str, list[list[float]]] = {way: [] for way in (*WAYS, "stop")}
    counts = []
    box = Space(Grid(BOX, np.eye(4)), np.arange(np.prod(BOX)))
    for cohort in range(arguments.cohorts):
        test = cohort_of_noise(1000 + cohort, noise_in_a_box, box)
        maxima = test.nulls(test.permuted(FEW, cohort)).maxima
        for way in WAYS:
            found[way].append([float(_p(maxima[name], maxima[name][:1], way)[0]) for name in names])
        done = BLOCK
        settings = NullSettings(True, True, test.threshold, stop_after=STOP_AFTER)
        while done < FEW and not is_decided(maxima, done, settings, ties):
            done = min(done + BLOCK, FEW)
        counts.append(done)
        found["stop"].append([float((maxima[name][:done] >= maxima[name][0]).mean()) for name in names])

    def share(alpha: float) -> dict[str, list[float]]:
        return {way: (np.array(p) <= alpha + 1e-9).mean(axis=0).round(4).tolist() for way, p in found.items()}

    return {
        "cohorts": arguments.cohorts, "tests": names, "n_voxels": int(np.prod(BOX)),
        "false_positives": {"0.05": share(0.05), "0.01": share(0.01)},
        "mean_permutations_stopped": float(np.mean(counts)),
    }  # fmt: skip


def table(parts: dict[str, Any]) -> str:
    lines = [
        "Fitted tails and early stopping against full runs (`benchmarks/inference/tail.py`). Maps at reduced "
        f"resolution; one thread of a shared machine, torch {torch.__version__}. No p is extrapolated below "
        f"0.1 / {FEW} = {FLOOR:g}, hence the ratios of 0.10 at p = 0.002 and 0.20 at p = 0.001.", "",
    ]  # fmt: skip
    for name, part in parts.items():
        if part["part"] == "errors":
            lines += _errors_table(part)
            continue
        lines += [
            f"**{name}**: {part['n_scans']} scans, {part['n_voxels']:,} voxels; p of {FEW} permutations over that of "
            f"{part['full']:,}: median ratio (5 % to 95 % of the sets)", "",
            "| test | way | " + " | ".join(f"p = {p:g}" for p in TRUE_P) + " |", "|---|---|" + "---|" * len(TRUE_P),
        ]  # fmt: skip
        frame = pd.DataFrame(part["rows"])
        for (test, way), some in frame.groupby(["test", "way"], sort=False):
            cells = [f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})" for row in some.itertuples()]
            if way in WAYS:  # older parts hold gamma distributions, too
                lines.append(f"| {TESTS[test]} | {WAYS[way]} | " + " | ".join(cells) + " |")
        tests = ", ".join(list(TESTS.values())[:4])
        lines += ["", f"| run | permutations | seconds | smallest corrected p: {tests} |", "|---|---|---|---|"]
        words = {"full": "full", "gpd": f"{FEW}, Pareto tail", "stop": f"{STOPPED:,}, stop after {STOP_AFTER}"}
        for way, run in part["runs"].items():
            p = ", ".join(f"{value:.4f}" for value in run["p_fwe"].values())
            lines.append(f"| {words[way]} | {run['permutations']:,} | {run['seconds']:.0f} | {p} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _errors_table(part: dict[str, Any]) -> list[str]:
    lines = [
        f"**False positives** over {part['cohorts']} cohorts of noise, {FEW} permutations (stopped early: "
        f"{part['mean_permutations_stopped']:.0f} on average)", "",
        "| alpha | way | " + " | ".join(TESTS[name] for name in part["tests"]) + " |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    words = WAYS | {"stop": f"stop after {STOP_AFTER}"}
    for alpha, ways in part["false_positives"].items():
        for way, shares in ways.items():
            lines.append(f"| {alpha} | {words[way]} | " + " | ".join(f"{100 * s:.1f} %" for s in shares) + " |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
