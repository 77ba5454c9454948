"""Checkpoints of permutations: null maxima so far in an npz, written whole, ignored when the analysis is another."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.inference.permute.blocks import BLOCK
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.image.storage import atomic_path
from vbmstat.maps.store import Maps

_VERSION = 2  # of what a checkpoint holds, and of how it is counted
PER_VOXEL = ("reached", "own")  # the rest holds a value a permutation


def analysis_key(maps: Maps, plan: Plan, permuted: Permuted, settings: NullSettings, extra: Any = None) -> str:
    """Hash of all that null maxima depend on: design, contrast, permutations, maps, mask, what is asked."""
    found = permuted.rearrangements
    digest = hashlib.sha256()
    for array in (
        plan.basis,
        plan.scan_weights,
        plan.scan_scale,
        permuted.parts.interest,
        permuted.parts.tested,
        permuted.moving,
        permuted.groups,
        maps.mask,
        found.tree.rows,
        *found.sources(0, min(found.count, BLOCK)),
    ):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    text = [_VERSION, found.count, found.seed, found.tree.structure, permuted.scheme, list(vars(settings).values())]
    digest.update(json.dumps([*text, extra], default=str).encode())
    manifest = getattr(maps, "manifest", None)
    if manifest is not None:
        digest.update(json.dumps([manifest["files"][scan]["sha256"] for scan in maps.scan_ids]).encode())
    else:
        digest.update(np.ascontiguousarray(maps.read(0, maps.n_voxels)).tobytes())
    return digest.hexdigest()


def resume(
    path: Path | None, key: str, count: int, n_voxels: int, names: Sequence[str]
) -> tuple[int, dict[str, np.ndarray]]:
    """How many permutations a checkpoint holds, and their state; an empty one if it is of another analysis."""
    fresh = {name: np.zeros(count) for name in names} | {"reached": np.zeros(n_voxels, dtype=np.int64)}
    if path is None or not path.is_file():
        return 0, fresh
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return 0, fresh
            state = {name: stored[name] for name in (*fresh, *(set(PER_VOXEL) & set(stored.files)))}
            return int(stored["done"]), state
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return 0, fresh


def save(path: Path, key: str, done: int, state: dict[str, np.ndarray]) -> None:
    """Write a checkpoint whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, key=np.array(key), done=np.array(done), **state)  # type: ignore[arg-type]
