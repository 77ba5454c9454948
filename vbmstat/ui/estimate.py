"""How long a model will take, from a part of it: one map is read, and some random voxels are fitted as it asks."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from vbmstat.device import n_cores
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.setup import Setup
from vbmstat.glm.spec import Compute
from vbmstat.maps.decode import MapReader
from vbmstat.maps.masking import MASK_THRESHOLD
from vbmstat.maps.store import ArrayMaps
from vbmstat.progress import duration

PILOT_PERMUTATIONS = 32
_PILOT_VOXELS = 4096
_AROUND_S, _INFERENCE_S = 15.0, 15.0  # to start, and to write maps, tables and pictures; to name places


@dataclass(frozen=True)
class Estimate:
    """Time of a model on this machine, s, and the disk that its packed maps take while it runs, GB."""

    seconds: float
    disk_gb: float
    text: str


def estimate(setup: Setup, pilot: Setup) -> Estimate | None:
    """Estimate a model of voxels; None for one of which the pilot says too little.

    Parameters
    ----------
    setup : Setup
        The model.
    pilot : Setup
        The same with at most `PILOT_PERMUTATIONS`.
    """
    kinds = set(setup.spec.inference.kinds)
    if setup.covariate is not None or setup.source.change is not None or not setup.source.paths:
        return None
    n_scans, threads = len(setup.design.scan_ids), n_cores()
    map_s, n_voxels = _one_map(setup)
    reading = n_scans * map_s / threads
    fit_s, permutation_s = _voxels(pilot)
    fitting = fit_s * n_voxels / threads
    count = sum(one.rearrangements.count for one in setup.permuted if one is not None)
    permuting = permutation_s * n_voxels * count / threads
    around = _AROUND_S + _INFERENCE_S * bool(kinds)
    total, disk = reading + fitting + permuting + around, 4e-9 * n_scans * n_voxels
    parts = [f"reading {n_scans} maps {duration(reading)}", f"fitting {duration(fitting)}"]
    parts += [f"{count:,} permutations {duration(permuting)}"] if count else []
    parts.append(f"start, tables and figures {duration(around)}")
    more = ", and more for TFCE and clusters, which the job tells after its first permutations"
    text = f"about {duration(total)} ({', '.join(parts)}{more if kinds & {'tfce', 'cluster'} else ''})"
    return Estimate(total, disk, f"{text}; {disk:.1f} GB on the disk while it runs")


def _one_map(setup: Setup) -> tuple[float, int]:
    """Seconds to read one map, and how many of its voxels may be in the mask."""
    path = next(iter(setup.source.paths.values()))
    reader = MapReader.like(path, setup.source.smoothing.applied_mm)
    values = np.empty(int(np.prod(reader.grid.shape)), np.float32)
    reader.read(path, np.arange(values.size), values)  # the first is slower: the voxels' order is worked out
    start = time.perf_counter()
    reader.read(path, np.arange(values.size), values)
    threshold = setup.spec.mask.rule.threshold
    return time.perf_counter() - start, int((values > (MASK_THRESHOLD if threshold is None else threshold)).sum())


def _voxels(pilot: Setup) -> tuple[float, float]:
    """Seconds of one thread to fit a voxel, and for a permutation of it."""
    ids, rng = pilot.design.scan_ids, np.random.default_rng(0)
    compute, plan = Compute(n_threads=1), pilot.make_plan()
    maps = ArrayMaps(rng.normal(1, 0.1, (len(ids), _PILOT_VOXELS)).astype(np.float32), ids)
    pilot.fit(plan, ArrayMaps(maps.data[:, :64], ids), None, compute)  # compiled by now
    start = time.perf_counter()
    fit = pilot.fit(plan, maps, None, compute)
    fitted_s = (time.perf_counter() - start) / _PILOT_VOXELS
    permuted = next((one for one in pilot.permuted if one is not None), None)
    if permuted is None:
        return fitted_s, 0.0
    start = time.perf_counter()
    permutation_nulls(Fitted(maps, pilot.bare, fit), permuted, NullSettings(True), compute)
    return fitted_s, (time.perf_counter() - start) / _PILOT_VOXELS / permuted.rearrangements.count
