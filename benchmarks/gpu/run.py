"""All that is to be known of a GPU, in one command of at most eight minutes and without a network.

    make gpu                                        # on a machine with a CUDA build of torch
    python benchmarks/gpu/run.py --wheels .whl      # on a bare one, after `make gpu-wheels` elsewhere
    python benchmarks/gpu/run.py --device cpu --small   # tries the script itself, without a GPU

Five parts, each in its own process with its own time limit: the CUDA tests; every step and network on the CPU and on
the device, with times and differences; scans a minute of `classic`; the paper's model, 4,017 scans × 100 subsets;
10,000 permutations of the largest t. A part writes what it has at once, so that a run that is cut keeps it. Results go
to benchmarks/results/gpu.json and gpu.md, which docs/benchmarks.md includes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMITS_S = {"tests": 90, "steps": 110, "scans": 130, "glm": 70, "permutations": 70}
TESTS = ["tests/test_gpu.py", "tests/test_device.py", "tests/glm/fit/test_engine.py", "tests/test_determinism.py",
         "tests/preproc/networks/test_cascade.py"]  # fmt: skip
FORMULA = "age + sex + tiv"
Row = dict[str, Any]


def main() -> None:
    arguments = parse()
    if arguments.part:
        for row in PARTS[arguments.part](arguments):
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
        return
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if arguments.wheels:
        site = tempfile.mkdtemp()
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target", site]
        subprocess.run([*command, *map(str, arguments.wheels.glob("*.whl"))], check=True)
        environment["PYTHONPATH"] += f":{site}"
    found: Row = {"device": arguments.device, "small": arguments.small, "parts": {}}
    for part in arguments.only or PARTS:
        command = [sys.executable, str(Path(__file__)), "--part", part, "--device", arguments.device]
        found["parts"][part] = limited(
            [*command, *(["--small"] if arguments.small else [])], environment, LIMITS_S[part]
        )
        write(found, arguments.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="coarse images and few scans: does the script work?")
    parser.add_argument("--only", nargs="+", choices=PARTS)
    parser.add_argument(
        "--wheels", type=Path, help="folder of wheels to install first, for a machine without a network"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of gpu.json and gpu.md"
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def limited(command: list[str], environment: dict[str, str], limit_s: float) -> Row:
    """Rows that a part printed before its time was up, and how it ended."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=out, stderr=log, start_new_session=True
        ) as process:
            try:
                code = process.wait(limit_s)
                ended = "complete" if code == 0 else f"failed with code {code}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # its workers and tests, too
                ended = f"cut after {limit_s:g} s"
        out.seek(0), log.seek(0)
        rows = [json.loads(line) for line in out if line.startswith("{") and line.endswith("}\n")]
        tail = [] if ended == "complete" else log.read().splitlines()[-15:]
    return {"ended": ended, "seconds": round(time.perf_counter() - start, 1), "rows": rows, "log": tail}


def write(found: Row, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    lines = [f"Made by `benchmarks/gpu/run.py --device {found['device']}{' --small' if found['small'] else ''}`.", ""]
    for part, result in found["parts"].items():
        lines += [f"**{part}**: {result['ended']}, {result['seconds']:g} s", ""]
        columns = list(dict.fromkeys(name for row in result["rows"] for name in row))
        if columns:
            lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in result["rows"]]
            lines.append("")
        lines += [f"    {line}" for line in result["log"]] + ([""] if result["log"] else [])
    (folder / "gpu.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds until the device has finished, and the result."""
    import torch  # noqa: PLC0415 - main() runs before the wheels are installed

    start = time.perf_counter()
    result = work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def tests(arguments: argparse.Namespace) -> Iterator[Row]:
    """The tests marked `gpu`; without a GPU they are skipped."""
    which = TESTS[:2] if arguments.small else TESTS
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--durations=0", *which]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = process.stdout.splitlines()
    yield {"outcome": lines[-1].strip("= ") if lines else "nothing", "code": process.returncode}
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            yield {"outcome": line}
    if process.returncode not in (0, 5):
        sys.stderr.write(process.stdout[-4000:] + process.stderr[-1000:])
        sys.exit(process.returncode)


def steps(arguments: argparse.Namespace) -> Iterator[Row]:
    """Every case of the tests on a brain of 1 mm: the better of two times, and the differences."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from tests.device_cases import CASES, coarse, make_world, numbers, on_device  # noqa: PLC0415

    with coarse() if arguments.small else nullcontext(), torch.inference_mode():
        world = make_world(6.0 if arguments.small else 1.0)
        there = on_device(world, arguments.device)
        for function, case in CASES.items():
            row: Row = {"function": f"{function.__module__.removeprefix('vbmstat.')}.{function.__name__}"}
            try:
                took, expected = timed(lambda case=case: case(world), "cpu")
                row["cpu_s"] = round(took, 3)
                again = [timed(lambda case=case: case(there), arguments.device) for _ in range(2)]
                row["device_s"] = round(min(seconds for seconds, _ in again), 3)
                pairs = list(zip(numbers(again[0][1]), numbers(expected), strict=True))
                apart = [np.abs(one.astype(float) - other.astype(float)) for one, other in pairs if one.size]
                row |= {"largest": max((float(one.max()) for one in apart), default=0.0),
                        "mean": max((float(one.mean()) for one in apart), default=0.0)}  # fmt: skip
            except Exception as error:  # the other steps are to be seen, too
                row["error"] = f"{type(error).__name__}: {error}"[:300]
            yield row


def scans(arguments: argparse.Namespace) -> Iterator[Row]:
    """Scans a minute of `classic`, from file to file. A process works on one scan; several may share the GPU."""
    import torch  # noqa: PLC0415

    from tests.device_cases import coarse, make_world  # noqa: PLC0415
    from vbmstat import preprocess, simulate_cohort  # noqa: PLC0415
    from vbmstat.image import io  # noqa: PLC0415
    from vbmstat.simulate import Settings  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder, coarse() if arguments.small else nullcontext():
        inputs = Path(folder) / "in"
        if arguments.small:
            io.write_volume(inputs / "sub-01_T1w.nii.gz", make_world(6.0).t1w)
        else:
            simulate_cohort(inputs, Settings(8))
        for jobs in (1,) if arguments.small else (1, 2, 4, 8):
            n = max(2, jobs)
            files = sorted(inputs.rglob("*T1w.nii.gz"))[:n]
            out = Path(folder) / f"out-{jobs}"
            took, done = timed(lambda jobs=jobs, out=out, files=files: preprocess(
                files, out, device=arguments.device, jobs=jobs), arguments.device)  # fmt: skip
            memory = torch.cuda.max_memory_allocated() / 1e9 if arguments.device != "cpu" and jobs == 1 else 0.0
            yield {
                "scans_at_once": jobs, "scans": len(done.table), "seconds": round(took, 1),
                "scans_a_minute": round(60 * len(done.table) / took, 2),
                "gpu_gb": round(memory, 2),
            }  # fmt: skip


def _study(n_scans: int, n_voxels: int, draws: int) -> tuple[Any, Any, Any]:
    """Random maps, their design and its plan."""
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from vbmstat.glm.design.contrast import default_contrasts  # noqa: PLC0415
    from vbmstat.glm.design.matrix import build_design  # noqa: PLC0415
    from vbmstat.glm.design.subsets import draw_subsets  # noqa: PLC0415
    from vbmstat.glm.fit.plan import make_plan  # noqa: PLC0415
    from vbmstat.maps.store import ArrayMaps  # noqa: PLC0415

    rng = np.random.default_rng(0)
    sex = np.array(["F", "M"])[np.arange(n_scans) % 2]
    table = pd.DataFrame({"age": rng.uniform(20, 80, n_scans), "sex": sex, "tiv": rng.normal(1480, 130, n_scans)})
    ids = [f"sub-{number:05d}" for number in range(n_scans)]
    design = build_design(FORMULA, table, ids)
    values = torch.randn(n_scans, n_voxels, generator=torch.Generator().manual_seed(0)).mul_(0.05).add_(0.5).numpy()
    subsets = draw_subsets(ids, draws, 0.8, 0) if draws else np.empty((0, n_scans), bool)
    return ArrayMaps(values, ids), design, make_plan(design, default_contrasts(design), subsets)


def glm(arguments: argparse.Namespace) -> Iterator[Row]:
    """The paper's model with maps in memory, on the CPU and on the device."""
    import numpy as np  # noqa: PLC0415

    from vbmstat.glm.fit.engine import fit_voxels  # noqa: PLC0415
    from vbmstat.glm.spec import Compute  # noqa: PLC0415

    n_scans, n_voxels, draws = (60, 3000, 5) if arguments.small else (4017, 394_591, 100)
    maps, _, plan = _study(n_scans, n_voxels, draws)
    fits = {}
    for number, device in enumerate((arguments.device, arguments.device, "cpu")):
        took, fit = timed(lambda device=device: fit_voxels(maps, plan, Compute(device)), device)
        fits["cpu" if number == 2 else "device"] = fit
        yield {"device": device, "scans": n_scans, "voxels": n_voxels, "subsets": draws, "seconds": round(took, 3)}
    one, other = fits["device"], fits["cpu"]
    apart = {"t": (one.statistic, other.statistic), "median t": (one.quantiles["median"], other.quantiles["median"])}
    for name, (a, b) in apart.items():
        yield {"device": f"difference of {name}", "largest": float(np.abs(a - b).max())}


def permutations(arguments: argparse.Namespace) -> Iterator[Row]:
    """Permutations of the largest t; on the CPU a hundredth of them, for the difference."""
    import numpy as np  # noqa: PLC0415

    from vbmstat.glm.fit.engine import fit_voxels  # noqa: PLC0415
    from vbmstat.glm.fit.tile import Fitted  # noqa: PLC0415
    from vbmstat.glm.inference.permute.blocks import free_tree  # noqa: PLC0415
    from vbmstat.glm.inference.permute.nulls import NullSettings  # noqa: PLC0415
    from vbmstat.glm.inference.permute.run import permutation_nulls  # noqa: PLC0415
    from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted  # noqa: PLC0415
    from vbmstat.glm.spec import Compute  # noqa: PLC0415

    n_scans, n_voxels, count = (40, 3000, 500) if arguments.small else (500, 400_000, 10_000)
    maps, _, plan = _study(n_scans, n_voxels, 0)
    maxima = {}
    for device, wanted in ((arguments.device, count), ("cpu", count // 100)):
        compute = Compute(device)
        fitted = Fitted(maps, plan, fit_voxels(maps, plan, compute))
        permuted = make_permuted(plan, 1, Resampling(free_tree(range(n_scans)), wanted))
        took, nulls = timed(
            lambda fitted=fitted, permuted=permuted, compute=compute: permutation_nulls(
                fitted, permuted, NullSettings(), compute), device)  # fmt: skip
        maxima[wanted] = nulls.maxima["statistic"]
        yield {
            "device": device,
            "scans": n_scans,
            "voxels": n_voxels,
            "permutations": wanted,
            "seconds": round(took, 2),
        }
    few = maxima[count // 100]
    yield {"device": "difference of t", "largest": float(np.abs(maxima[count][: len(few)] - few).max())}


PARTS = {"tests": tests, "steps": steps, "scans": scans, "glm": glm, "permutations": permutations}

if __name__ == "__main__":
    main()
