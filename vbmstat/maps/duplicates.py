"""Find scans that have the same map under different ids."""

from __future__ import annotations

import hashlib

import numpy as np

from vbmstat.errors import listed
from vbmstat.maps.store import CHUNK_VOXELS, ArrayMaps, Maps, PackedMaps

_LEAST_VOXELS = 16  # fewer values may be equal by chance, as volumes are rounded
_CHUNKS = 16  # compared, spread over the brain
_MAX_NAMED = 3


def identical_scans(maps: Maps) -> list[tuple[str, ...]]:
    """Groups of scans whose maps are equal in up to 16 tiles of voxels of the mask.

    One tile separates almost all scans; more are read only for those that it does not.
    """
    mask = maps.mask
    starts = [at for at in range(0, maps.n_voxels, CHUNK_VOXELS) if mask[at : at + CHUNK_VOXELS].any()]
    starts = [starts[i] for i in np.unique(np.linspace(0, len(starts) - 1, _CHUNKS).astype(int))] if starts else []
    if sum(int(mask[at : at + CHUNK_VOXELS].sum()) for at in starts) < _LEAST_VOXELS:
        return []
    starts = starts[len(starts) // 2 :] + starts[: len(starts) // 2]  # start in the middle of the brain
    digests = [hashlib.blake2b() for _ in maps.scan_ids]
    groups: dict[bytes, list[int]] = {b"": list(range(len(digests)))}
    for start in starts:
        stop = min(start + CHUNK_VOXELS, maps.n_voxels)
        values = maps.read(start, stop)[:, mask[start:stop]]
        left = [row for rows in groups.values() for row in rows]
        for row in left:
            digests[row].update(values[row].tobytes())
        groups = {}
        for row in left:
            groups.setdefault(digests[row].digest(), []).append(row)
        groups = {digest: rows for digest, rows in groups.items() if len(rows) > 1}
        if not groups:
            return []
    return [tuple(maps.scan_ids[row] for row in rows) for rows in groups.values()]


def equal_scans(maps: Maps, others: Maps) -> list[str]:
    """Scans whose rows in two matrices with the same columns are equal in one tile of the mask."""
    inside = np.flatnonzero(maps.mask)
    if inside.size < _LEAST_VOXELS:
        return []
    start = int(inside[inside.size // 2]) // CHUNK_VOXELS * CHUNK_VOXELS
    stop = min(start + CHUNK_VOXELS, maps.n_voxels)
    kept = maps.mask[start:stop]
    equal = (maps.read(start, stop)[:, kept] == others.read(start, stop)[:, kept]).all(axis=1)
    return [scan for scan, same in zip(maps.scan_ids, equal, strict=True) if same]


def identity_notes(maps: ArrayMaps | PackedMaps) -> tuple[str, ...]:
    """A note on scans that have the same map, if there are any."""
    identical = identical_scans(maps) if isinstance(maps, ArrayMaps) else maps.manifest["identical"]
    ids = set(maps.scan_ids if isinstance(maps, ArrayMaps) else maps.file_ids)
    kept = ([scan for scan in group if scan in ids] for group in identical)
    groups = [
        " = ".join(group[:_MAX_NAMED]) + (" = …" if len(group) > _MAX_NAMED else "") for group in kept if len(group) > 1
    ]
    if not groups:
        return ()
    return (f"scans with the same map under different ids: {listed(groups, _MAX_NAMED)}; keep one of each",)
