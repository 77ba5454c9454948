"""Checkpoints of permutations: the null maxima so far in an npz file, used by the same analysis only."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vbmstat.glm.fit.plan import Plan
from vbmstat.glm.inference.permute.nulls import NullSettings
from vbmstat.glm.inference.permute.rearrangements import BLOCK
from vbmstat.glm.inference.permute.schemes import Permuted
from vbmstat.image.storage import atomic_path
from vbmstat.maps.change import ChangeMaps
from vbmstat.maps.store import Maps, PackedMaps

_VERSION = 3  # of what a checkpoint holds, and of how it is counted


def analysis_key(maps: Maps, plan: Plan, permuted: Permuted, settings: NullSettings) -> str:
    """Hash of all that null maxima depend on: design, contrast, permutations, maps, mask, settings."""
    drawn = permuted.rearrangements
    digest = hashlib.sha256()
    for array in (
        plan.basis, plan.scan_weights, plan.scan_scale, plan.contrasts[permuted.index].rows, permuted.parts.interest,
        permuted.parts.tested, permuted.moving, permuted.groups, permuted.subjects, maps.mask, drawn.tree.rows,
        *drawn.sources(0, min(drawn.count, BLOCK)),
    ):  # fmt: skip
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    text = [_VERSION, drawn.count, drawn.seed, drawn.tree.structure, permuted.scheme, list(vars(settings).values())]
    digest.update(json.dumps(text, default=str).encode())
    if isinstance(maps, PackedMaps):
        of = maps.change.of if isinstance(maps, ChangeMaps) else None
        digest.update(json.dumps([[maps.manifest["files"][scan]["sha256"] for scan in maps.file_ids], of]).encode())
    else:
        digest.update(np.ascontiguousarray(maps.read(0, maps.n_voxels)).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A file with the permutations done so far, and the key of their analysis; one with another key is ignored."""

    path: Path
    key: str

    def resume(self, fresh: Mapping[str, np.ndarray]) -> tuple[int, dict[str, np.ndarray]]:
        """How many permutations the file holds, and the state after them; 0 and `fresh` without a file of this key."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                if str(stored["key"]) == self.key:
                    return int(stored["done"]), {name: stored[name] for name in fresh}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            pass
        return 0, dict(fresh)

    def save(self, done: int, state: Mapping[str, np.ndarray]) -> None:
        """Write the file whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, key=np.array(self.key), done=np.array(done), **state)  # type: ignore[arg-type]
