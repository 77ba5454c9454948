"""CPU or GPU time and memory of the paper's networks at full size, with random weights.

    python benchmarks/deep/speed.py [--device cuda]

Each part runs in its own process on the template's average brain: the first stage (0.75 mm), one of 27 patches, one of
2 halves of the GM mask, and registration. Times are the better of two runs. Results go to
benchmarks/results/deep_speed.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from vbmstat import assets
from vbmstat.image import storage
from vbmstat.image.grid import resample
from vbmstat.preproc.networks import symnet
from vbmstat.preproc.networks.cascade import WHOLE_VIEW_SHAPE, region_grid, run, view_grid
from vbmstat.preproc.networks.unet import n_parameters
from vbmstat.preproc.networks.weights import build_network

RESULTS = Path(__file__).parents[1] / "results"
PARTS = {  # kind of network, shape of its input, runs per scan
    "whole view": ("segmentation", (1, *WHOLE_VIEW_SHAPE), 1),
    "patch": ("patches", (2, 128, 128, 128), 27),
    "half of the GM mask": ("gm-mask", (1, 128, 288, 256), 2),
    "registration": ("registration", (4, 113, 137, 113), 1),
}


def measure(part: str, device: str) -> dict[str, object]:
    """Time, memory and number of parameters of one part."""
    kind, shape, n = PARTS[part]
    brain = assets.template_brain()
    region = region_grid(brain.grid)
    image = resample(brain.data, brain.grid, view_grid(region, shape[1:])).expand(shape)[None].to(device)
    torch.manual_seed(0)
    network = build_network(kind, {}).eval().to(device=device, memory_format=torch.channels_last_3d)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    with torch.inference_mode():
        for _ in range(2):
            wall, cpu = time.perf_counter(), time.process_time()
            if kind == "registration":
                symnet.compose_warps(symnet.predict(network, image[:, :2], image[:, 2:]))
            else:
                run(network, image)
            if device != "cpu":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    gpu = torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else 0.0
    return {
        "part": part, "times": n, "parameters": n_parameters(network), "wall_s": round(min(times)[0], 2),
        "cpu_s": round(min(cpu for _, cpu in times), 2), "peak_gb": round(gpu or peak / 1e6, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.part:
        sys.stdout.write(json.dumps(measure(arguments.part, arguments.device)))
        return
    command = [sys.executable, __file__, "--device", arguments.device, "--part"]
    rows = [json.loads(subprocess.run([*command, part], check=True, capture_output=True).stdout) for part in PARTS]
    machine = {
        "processor": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "load": os.getloadavg()[0],
    }  # fmt: skip
    storage.write_json(RESULTS / "deep_speed.json", {"machine": machine, "parts": rows})
    header = ["part", "times a scan", "parameters", "wall s", "CPU s", "peak GB above the start"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    storage.write_text(RESULTS / "deep_speed.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
