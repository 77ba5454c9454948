"""Whether two commits give the same bytes: the same commands with both, and every output compared.

    git worktree add ../before COMMIT
    python benchmarks/determinism/compare_commits.py ../before . --out ../compared [--case classic deep ...]

A case is a command; ``{scans}`` and ``{cohort}`` stand for the inputs, which are made once. Outputs of a clean commit
stay in the output folder and are used again. JSON files that differ are listed entry by entry, images by their largest
difference. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.rerun import Compared, compare_outputs

COMMAND = Path(sys.executable).with_name("vbmstat")
_PREPROCESS = "preprocess {scans} --jobs 1 --device cpu --engine"
_GLM = "glm --cohort {cohort} --repeats 20 --seed 1 --atlas none"
_MODEL = f'{_GLM} "gm ~ age + sex + tiv"'
_INFERENCE = "--permutations 200 --cluster-threshold 0.01 --inference"
CASES = {
    "classic": f"{_PREPROCESS} classic",
    "classic-bids": f"{_PREPROCESS} classic --names bids",
    "deep": f"{_PREPROCESS} deep",
    "cat": f"{_PREPROCESS} cat",
    "ols": f"{_MODEL} --contrast age --contrast sex",
    "hc3": f"{_MODEL} --contrast age --robust hc3",
    "spm": f"{_MODEL} --contrast age --spm-resms --spm-names",
    "repeated": f'{_GLM} "gm ~ age + group" --contrast age --repeated participant',
    "variance-groups": f'{_GLM} "gm ~ age + sex" --contrast sex --variance-groups sex',
    "weights": f"{_MODEL} --contrast age --weights weight",
    "fdr": f"{_MODEL} --contrast age --inference fdr",
    "fwe": f"{_MODEL} --contrast age {_INFERENCE} fwe",
    "tfce": f"{_MODEL} --contrast age {_INFERENCE} tfce,cluster",
    "smith": f"{_MODEL} --contrast age --scheme smith {_INFERENCE} fwe",
    "subsets": f"{_MODEL} --contrast age --stratify sex --fraction 0.7",
    "regions": 'glm --cohort {cohort} "gm ~ age + tiv" --contrast age --level region',
    "roi": "roi --cohort {cohort}",
    "harmonize": "harmonize --cohort {cohort} --site site --preserve age",
}
_N_SCANS, _SHAPE = 40, (38, 46, 38)
_AFFINE = np.array([[-4.0, 0, 0, 74], [0, 4.0, 0, -110], [0, 0, 4.0, -66], [0, 0, 0, 1]])


def make_inputs(folder: Path, source: Path) -> dict[str, str]:
    """One simulated head of 2 mm, and a cohort of invented maps with two sessions of every participant."""
    scans, cohort = folder / "scans", folder / "cohort" / "cohort.tsv"
    if not scans.is_dir():
        run(source, f"simulate {scans} --n 1 --voxel-size 2 --seed 1", folder)
    if not cohort.is_file():
        make_cohort(cohort)
    return {"scans": str(scans), "cohort": str(cohort)}


def make_cohort(path: Path) -> None:
    """A cohort table and its maps: smooth noise in an ellipsoid, an age effect on one side."""
    rng = np.random.default_rng(0)
    sessions = np.arange(_N_SCANS) % 2
    sex = np.array(["F", "M"])[np.arange(_N_SCANS) // 2 % 2]
    table = pd.DataFrame({
        "participant_id": [f"sub-{number // 2:02d}" for number in range(_N_SCANS)],
        "session_id": [f"ses-{number + 1}" for number in sessions],
        "participant": [f"p{number // 2:02d}" for number in range(_N_SCANS)],
        "age": (np.repeat(rng.uniform(20, 80, _N_SCANS // 2), 2) + sessions).round(1),
        "sex": sex, "site": np.array(["a", "b"])[np.arange(_N_SCANS) // 2 // 2 % 2],
        "group": np.array(["control", "patient"])[np.arange(_N_SCANS) // 2 % 3 % 2],
        "tiv_ml": (1400 + 100 * (sex == "M") + rng.normal(0, 90, _N_SCANS)).round(1),
        "weight": rng.uniform(0.5, 2, _N_SCANS).round(3), "engine": "classic", "vbmstat_version": "0.1.0",
    })  # fmt: skip
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in _SHAPE], indexing="ij")
    inside = x**2 + y**2 + z**2 < 0.8
    paths = []
    for scan, (participant, session, age) in enumerate(table[["participant_id", "session_id", "age"]].to_numpy()):
        coarse = torch.from_numpy(np.random.default_rng(scan).normal(0, 0.1, (1, 1, 10, 12, 10)))
        noise = torch.nn.functional.interpolate(coarse, _SHAPE, mode="trilinear")[0].numpy()
        image = (inside * (0.5 - 0.003 * (age - 50) * (x > 0) + noise)).astype(np.float32)
        paths.append(f"mri/mwp1{participant}_{session}_T1w.nii.gz")
        io.write_volume(path.parent / paths[-1], Volume(torch.from_numpy(image), Grid(_SHAPE, _AFFINE)))
    storage.write_table(path, table.assign(**dict.fromkeys(("mwp1", "mwp2", "mwp3", "s6mwp1"), paths)))


def run(source: Path, command: str, folder: Path) -> None:
    """``vbmstat COMMAND`` with the code of a source folder, one thread, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(source.absolute()), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    words = [str(COMMAND), *shlex.split(command)]
    done = subprocess.run(words, check=False, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{source}: vbmstat {command} failed:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")


def label_of(source: Path) -> str:
    """The commit of a source folder, with ``-changed`` if its files differ from that commit."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(source), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "vbmstat", "atlases")
    return git("rev-parse", "--short", "HEAD") + ("-changed" if changed else "")


def run_case(source: Path, label: str, case: str, inputs: dict[str, str], out: Path) -> Path:
    """Outputs of a case with one source; those of a clean commit are kept."""
    folder = out / label / case
    if label.endswith("-changed"):
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        made = out / label / f".{case}"
        shutil.rmtree(made, ignore_errors=True)
        command = shlex.join(word.format(**inputs) for word in shlex.split(CASES[case]))
        run(source, f"{command} --out {case}", made)
        (made / case).rename(folder)
        shutil.rmtree(made)
    return folder


def details(found: Compared, before: Path, after: Path) -> list[str]:
    """What differs in a file, a line each."""
    paths = [before / found.name, after / found.name]
    if found.name.endswith(".json") and all(path.is_file() for path in paths):
        entries = [dict(_entries(json.loads(path.read_text()))) for path in paths]
        pairs = {name: [one.get(name, "absent") for one in entries] for name in {**entries[0], **entries[1]}}
        return [f"{name}: {old} -> {new}" for name, (old, new) in pairs.items() if old != new]
    return [found.detail] if found.detail else []


def _entries(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of a JSON value under dotted names."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _entries(entry, f"{name}.{key}" if name else key)
    else:
        yield name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="Folder with the code of one commit.")
    parser.add_argument("after", type=Path, help="Folder with the code of the other.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    given = parser.parse_args()
    out = given.out.absolute()
    inputs = make_inputs(out / "inputs", given.before)
    sources = [(source, label_of(source)) for source in (given.before, given.after)]
    n_different = 0
    for case in given.case:
        before, after = (run_case(source, label, case, inputs, out) for source, label in sources)
        compared = [found for found in compare_outputs(before, after) if "logs/" not in found.name]
        different = [found for found in compared if found.status != "same bytes"]
        print(f"{case}: {len(compared) - len(different)} of {len(compared)} files have the same bytes")
        for found in different:
            print(f"  {found.status}: {found.name}")
            for line in details(found, before, after):
                print(f"    {line}")
        n_different += len(different)
    sys.exit(bool(n_different))


if __name__ == "__main__":
    main()
