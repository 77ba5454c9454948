"""Does distillation help on phantom heads? With and without a teacher, several seeds, thin and all tracts.

    python benchmarks/tracts/distillation.py WORK [--heads 40] [--epochs 22] [--seeds 4]

Heads are those of `tests.tract_heads`: their tracts are known, and they are no anatomy. Cases go through the
program's own preparation (rigid registration included) and training; WORK keeps them, and a run is resumed. The table
goes to benchmarks/results/tracts_distillation.md, whatever the sign of the result.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tests.tract_heads import PHANTOM_TRACTS, THIN_TRACTS, tract_head
from vbmstat.image import storage
from vbmstat.tracts.network import STUDENT, TEACHER, load_tract_network, merge_orientations
from vbmstat.training.cases import Case, write_cases
from vbmstat.training.folds import grouped_folds
from vbmstat.training.prepare_tracts import View, tract_arrays
from vbmstat.training.run import open_task, train
from vbmstat.training.tracts import TractTask, tract_dice

RESULTS = Path(__file__).parents[1] / "results"
# The paper: 56 slices a step and 1e-3 over 500 epochs.
SHORT = {"slices": 56, "batch_size": 7, "n_validation": 4, "max_learning_rate": 0.01}
SIDE, VOXEL_MM, WIDTH, DEPTH, FOLDS = 32, 3.0, 8, 2, 5
VIEW = View(VOXEL_MM, SIDE, min_dice=0.5)


def cases(n_heads: int) -> Iterator[Case]:
    for number in range(n_heads):
        head = tract_head(number, VOXEL_MM, SIDE)
        arrays = tract_arrays(head.t1w, head.wm, head.references, head.peaks, VIEW)
        yield Case(f"head{number:02d}", f"head{number:02d}", arrays)


def configured(folder: Path, **settings: object) -> Path:
    """Write a configuration."""
    fixed = {"data": "cases.npz", "n_channels": WIDTH, "depth": DEPTH, "n_folds": FOLDS, **SHORT}
    path = folder / f"{settings.pop('name')}.toml"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in {**fixed, **settings}.items()).replace("'", '"'))
    return path


def test_dice(task: TractTask, run: Path, kind: str) -> np.ndarray:
    """Dice of each test head and tract, (n_heads, n_tracts)."""
    network, _ = load_tract_network(run, kind)
    names = task.cases.names
    folds = grouped_folds(task.cases.groups, FOLDS, task.config.seed)
    stage = next(stage for stage in task.stages() if stage.file[0] == kind)
    rows = []
    for name, fold in zip(names, folds, strict=True):
        if fold == (task.config.fold + 1) % FOLDS:
            image, truth = next(task.examples(name, stage, None))
            rows.append(tract_dice(merge_orientations(network, image[0]), truth[0]))
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=22)
    parser.add_argument("--seeds", type=int, default=4)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    data = given.work / "cases.npz"
    if not data.is_file():
        write_cases(data, cases(given.heads), VIEW.settings(PHANTOM_TRACTS, VOXEL_MM))
    thin = [PHANTOM_TRACTS.index(name) for name in THIN_TRACTS]
    rows, per_tract = [], {}
    for seed in range(given.seeds):
        for name, weight in (("distilled", 0.5), ("alone", 1.0)):
            out = given.work / f"{name}{seed}"
            config = configured(
                given.work, name=f"{name}{seed}", epochs=given.epochs, seed=seed, reference_weight=weight
            )
            task = open_task(STUDENT, config)
            assert isinstance(task, TractTask)  # noqa: S101
            train(task, out, on_epoch=lambda row: print(row, flush=True))
            for kind, label in ((TEACHER, "teacher"), (STUDENT, name)):
                if kind == TEACHER and name == "alone":
                    continue
                found = test_dice(task, out, kind)
                per_tract[label, seed] = np.nanmean(found, axis=0)
                scores = {"all": np.nanmean(found), "thin": np.nanmean(found[:, thin])}
                rows.append({"network": label, "seed": seed, **scores})
                print(rows[-1], flush=True)
    write_report(pd.DataFrame(rows), per_tract, given)


def write_report(table: pd.DataFrame, per_tract: dict[tuple[str, int], np.ndarray], given: argparse.Namespace) -> None:
    """Scores of every run, differences between students of one seed, and Dice of each tract."""
    wide = table[table.network != "teacher"].pivot(index="seed", columns="network", values=["all", "thin"])
    gain = {part: wide[part]["distilled"] - wide[part]["alone"] for part in ("all", "thin")}
    gains = "; ".join(
        f"{part} tracts {values.mean():+.4f} (seeds {', '.join(f'{value:+.4f}' for value in values)})"
        for part, values in gain.items()
    )
    mean = {name: np.mean([v for (n, _), v in per_tract.items() if n == name], axis=0) for name, _ in per_tract}
    tracts = pd.DataFrame(mean, index=list(PHANTOM_TRACTS)).round(3)
    n_test, rate = given.heads // FOLDS, SHORT["max_learning_rate"]
    text = f"""# Distillation on phantom heads

Test Dice on {n_test} of {given.heads} phantom heads ({given.heads - 2 * n_test} train, {SHORT["n_validation"]} choose
the epoch), {SIDE}³ voxels of {VOXEL_MM} mm, {len(PHANTOM_TRACTS)} tracts, width {WIDTH}, depth {DEPTH}, {given.epochs}
epochs of {SHORT["slices"]} slices a head, {SHORT["batch_size"]} slices a step, Adamax {rate}.
Phantoms are no anatomy: the size of a gain says nothing about people.

Gain of distillation (lambda 0.5) over references alone, paired by seed: {gains}.

| network | seed | Dice, all tracts | Dice, thin (CA, FX) |
|---|---|---|---|
"""
    for row in table.to_dict("records"):
        text += f"| {row['network']} | {row['seed']} | {row['all']:.3f} | {row['thin']:.3f} |\n"
    text += "\nDice of each tract, mean of the seeds:\n\n| tract | " + " | ".join(tracts.columns) + " |\n"
    text += "|---" * (len(tracts.columns) + 1) + "|\n"
    for name, row in tracts.iterrows():
        text += f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |\n"
    text += f"\nMeasured on {platform.platform()}, {os.cpu_count()} CPUs (one thread), torch {torch.__version__}.\n"
    storage.write_text(RESULTS / "tracts_distillation.md", text)
    print(text)


if __name__ == "__main__":
    main()
