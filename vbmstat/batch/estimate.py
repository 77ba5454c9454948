"""Estimates of a run: memory, time and disk, from the headers of some scans and from earlier runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vbmstat.batch.plan import RunPlan
from vbmstat.batch.resources import Allotment, allot, disk_free_bytes, probe, taken_bytes
from vbmstat.batch.task import Task
from vbmstat.batch.workers import Workers
from vbmstat.errors import VbmstatError
from vbmstat.files.runlog import scan_times
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import duration

_N_SAMPLED = 32  # scans, spread evenly
# Size of outputs (docs/files.md): MB in template space of 1.5 mm, bytes per voxel of the brain's box in the scan
_TEMPLATE_MB = {
    "wp": 2.1, "mwp": 3.0, "m0wp": 3.1, "wm": 1.2, "wj": 1.9, "rp1": 1.1, "rp2": 1.0, "velocity": 2.5, "y": 13.0,
}  # fmt: skip
_BOX_VOXEL_BYTES = {"p0": 0.31, "p1": 0.33, "p2": 0.26, "p3": 0.22, "m": 0.5, "iy": 8.0}
_TIME_POINT_BYTES = 500_000_000  # that each further scan of a person adds to its process
_SMOOTHED_MB, _ALWAYS_MB, _BOX_MM3 = 1.3, 2.2, 3.6e6
# CPU time on an AMD EPYC (benchmarks/results/preproc_*.md)
_CPU_SECONDS = {"classic": 45.0, "deep": 40.0, "cat": 250.0}


def grids(tasks: Sequence[Task]) -> list[Grid]:
    """Grids of some scans of a run, from their headers; unreadable scans are skipped here and fail when processed."""
    read = []
    for at in sorted({round(at) for at in np.linspace(0, len(tasks) - 1, min(len(tasks), _N_SAMPLED))}):
        try:
            read.append(io.read_grid(tasks[at].scans[0].path))
        except VbmstatError:
            continue
    return read


def memory_bytes(workload: str, scans: Sequence[Grid]) -> int:
    """Memory of a process for the largest of some scans."""
    return taken_bytes(workload, [int(np.prod(grid.shape)) for grid in scans])


def disk_bytes(scans: Sequence[Grid], spec: PreprocSpec) -> int:
    """Mean size of a scan's outputs, over some scans."""
    voxels = _BOX_MM3 * statistics.fmean(1 / (grid.voxel_volume_ml * 1000) for grid in scans) if scans else _BOX_MM3
    maps = sum(_TEMPLATE_MB.get(name, 0.0) for name in spec.outputs if name not in ("velocity", "y"))
    maps += _SMOOTHED_MB * 2 * len(spec.fwhm_mm) * max(len(spec.models), 1)
    maps += _TEMPLATE_MB["mwp"] * (len(spec.models) > 1) * ("mwp" in spec.outputs)
    fields = sum(_TEMPLATE_MB[name] for name in spec.outputs if name in ("velocity", "y"))
    native = sum(_BOX_VOXEL_BYTES.get(name, 0.0) for name in spec.outputs) * voxels
    return int(1e6 * (maps * (1.5 / spec.voxel_size_mm) ** 3 + fields + _ALWAYS_MB) + native)


def share_out(plan: RunPlan, n_todo: int) -> Allotment:
    """How the scans of a plan share this machine."""
    bytes_per_scan = memory_bytes(plan.workload, grids(plan.tasks)) + _TIME_POINT_BYTES * (plan.most_scans - 1)
    share = allot(probe(plan.spec.device), plan.execution, bytes_per_scan, len(plan.tasks), n_todo)
    threads = plan.execution.threads
    if share.jobs == 1 and threads is None:  # this process, whose user may have limited its threads
        threads = min(torch.get_num_threads(), share.threads)
    return replace(share, threads=threads or share.threads)


def seconds_per_scan(out: Path, workload: str, device: str, threads: int) -> tuple[float, str]:
    """Time of a scan and the source of the estimate; 0 if unknown."""
    known = [sum(entry["seconds"].values()) for entry in scan_times(out).values()]
    if known:
        return statistics.median(known), f"median of {len(known)} scans in this folder"
    if device != "cpu" or workload not in _CPU_SECONDS:
        return 0.0, ""
    return _CPU_SECONDS[workload] / threads, "measured on an AMD EPYC"


def sharing(share: Allotment, workers: Workers | None = None) -> str:
    """How scans share the machine, in words."""
    if workers is not None:
        return f"up to {workers.slots} scans at once on the given workers, {share.bytes_per_scan / 1e9:.1f} GB each"
    threads = f"{share.threads} thread{'s' * (share.threads > 1)}{' each' * (share.jobs > 1)}"
    at_once = f"{share.jobs} scans at once" if share.jobs > 1 else "one scan at a time"
    text = f"{at_once}, {threads}, up to {share.bytes_per_scan / 1e9:.1f} GB per scan"
    return f"{text}; {share.note}" if share.note else text


def dry_run_lines(plan: RunPlan, n_complete: int, share: Allotment) -> list[str]:
    """Lines of `--dry-run`: scans to do, time, disk."""
    n_todo, sampled = len(plan.scans) - n_complete, grids(plan.tasks)
    skipped = f", {len(plan.inputs.skipped)} files skipped" if plan.inputs.skipped else ""
    part = f" of shard {plan.shard[0]}/{plan.shard[1]}" if plan.shard else ""
    lines = [
        f"{len(plan.scans)} scans{part}: {n_complete} complete, {n_todo} to do{skipped}; output in {plan.out}",
        f"engine {plan.spec.engine} on {plan.spec.device}: {sharing(share)}",
    ]
    alone = sum(len(task.scans) == 1 for task in plan.tasks)
    if alone < len(plan.tasks):
        together = f"{len(plan.tasks) - alone} ({len(plan.scans) - alone} scans)"
        lines.append(f"longitudinal: people with several sessions: {together}, with one: {alone}")
    seconds, source = seconds_per_scan(plan.out, plan.workload, plan.spec.device, share.threads)
    if n_todo and seconds:
        lines.append(f"time: about {duration(n_todo * seconds / share.jobs)} ({seconds:.0f} s per scan, {source})")
    size, free = disk_bytes(sampled, plan.spec) * n_todo / 1e9, disk_free_bytes(plan.out) / 1e9
    each = disk_bytes(sampled, plan.spec) / 1e6
    lines.append(f"disk: about {size:.1f} GB ({each:.0f} MB per scan); {free:.0f} GB are free there")
    if size > free:
        lines.append("that is more than is free: make room, or choose another --out")
    return lines
