"""Pack map files into one masked matrix on disk, in one pass; reopen it as long as it is up to date."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import ScanError, listed
from vbmstat.image import storage
from vbmstat.image.grid import Grid
from vbmstat.image.stored import no_file
from vbmstat.maps.decode import MapReader
from vbmstat.maps.duplicates import identical_scans
from vbmstat.maps.masking import MaskRule, Tally, file_stamp
from vbmstat.maps.segment import Packing, decoder
from vbmstat.maps.store import CHUNK_VOXELS, PackedMaps, Space, even
from vbmstat.progress import OnProgress

_FORMAT = 3
_TALLY = ("low", "high", "n_absent", "n_nan", "last_absent")  # running statistics kept for scans appended later


def pack_maps(
    paths: Mapping[str, Path],
    folder: Path,
    rule: MaskRule | None = None,
    how: Packing | None = None,
    progress: OnProgress | None = None,
) -> PackedMaps:
    """Pack maps into a store, or open the store if it already holds these maps, unchanged.

    Parameters
    ----------
    paths : mapping of str to Path
        Scan id to map; all on one grid.
    folder : Path
        The store. A stale or half-written store is replaced; new scans are appended to a current one.
    rule : MaskRule, optional
        Default: above 0.1 in all scans.
    how : Packing, optional
        Smoothing, scaling and threads.
    progress : callable, optional
        Called with (stage, done, total).

    Raises
    ------
    ScanError
        If a map cannot be read, is on another grid, has NaN inside the mask or another unit than the others, if two
        scans have the same file, or if no voxel passes the mask.
    """
    rule, how = rule or MaskRule(), how or Packing()
    _check_paths(paths)
    existing = find_store(folder)
    if existing is not None and how.voxels is None and _is_current(existing, paths, rule, how):
        if set(existing.scan_ids) >= set(paths):
            return existing.select(list(paths))
        if rule.share == 1 and rule.nan == "raise":
            return _append(existing, paths, rule, how, progress).select(list(paths))
    return _pack(paths, folder, rule, how, progress)


def _check_paths(paths: Mapping[str, Path]) -> None:
    if not paths:
        msg = "no maps to pack"
        raise ScanError(msg)
    absent = [scan for scan, path in paths.items() if not path.is_file()]
    if absent:
        first = paths[absent[0]]
        msg = (
            f"no map file for {listed(absent)} ({first}: {no_file(first)}); "
            "run preprocess for them or leave their rows out"
        )
        raise ScanError(msg)
    by_file: dict[str, str] = {}
    for scan, path in paths.items():
        key = str(path.resolve())
        if key in by_file:
            msg = f"{scan} and {by_file[key]} name the same file {path}; one of the two paths is wrong"
            raise ScanError(msg)
        by_file[key] = scan


def open_store(folder: Path) -> PackedMaps:
    """Open packed maps.

    Raises
    ------
    ScanError
        If the folder is not a store, or a half-written one.
    """
    try:
        return _as_maps(folder, storage.read_json(folder / "manifest.json"))
    except Exception as error:  # numpy raises anything on damaged files
        msg = f"{folder}: expected packed maps, but {error!r:.200}; run vbmstat pack again"
        raise ScanError(msg) from error


def _as_maps(folder: Path, manifest: dict[str, Any]) -> PackedMaps:
    """The maps that a manifest describes; raises any exception if the folder does not hold them."""
    if manifest["format"] != _FORMAT or manifest["chunk_voxels"] != CHUNK_VOXELS:
        raise ValueError(f"format {manifest['format']}")  # noqa: EM102
    segments = tuple((folder / s["file"], int(s["n_scans"])) for s in manifest["segments"])
    n_chunks = -(-int(manifest["n_voxels"]) // CHUNK_VOXELS)
    for path, n_scans in segments:
        if path.stat().st_size != n_chunks * even(n_scans) * CHUNK_VOXELS * 4:
            raise ValueError(f"{path.name} has a wrong size")  # noqa: EM102
    space = Space(
        Grid(tuple(manifest["shape"]), np.array(manifest["affine"])),
        _array(folder / "voxels.npy"),
        manifest["axcodes"],
    )
    mask = _array(folder / manifest["mask_file"])
    ids = tuple(map(str, manifest["scan_ids"]))
    if not mask.shape == space.voxel_index.shape == (manifest["n_voxels"],) or mask.dtype != bool:
        raise ValueError(f"{manifest['mask_file']} does not fit voxels.npy")  # noqa: EM102
    if len(ids) != sum(n_scans for _, n_scans in segments) or not set(ids) <= set(manifest["files"]):
        raise ValueError("the scans of manifest.json are not those of the segments")  # noqa: EM101
    return PackedMaps(folder, ids, space, mask, segments, np.arange(len(ids)), manifest)


def _array(path: Path) -> np.ndarray:
    """A stored array; the file is closed even if it is damaged."""
    with path.open("rb") as stream:
        return np.asarray(np.load(stream))


def find_store(folder: Path) -> PackedMaps | None:
    """The packed maps in a folder, or None."""
    try:
        return open_store(folder)
    except ScanError:
        return None


def _is_current(store: PackedMaps, paths: Mapping[str, Path], rule: MaskRule, how: Packing) -> bool:
    """Whether the store was packed in the same way, and the scans that it shares with `paths` are unchanged."""
    files = store.manifest["files"]
    shared = [scan for scan in paths if scan in files]
    identity = _identity(rule, how)
    return (
        bool(shared)
        and {"fwhm_mm": 0.0, **store.manifest}.items() >= identity.items()
        and all(
            files[scan]["path"] == str(paths[scan].absolute())
            and {k: files[scan][k] for k in ("size", "mtime_ns")} == file_stamp(paths[scan])
            for scan in shared
        )
    )


def _identity(rule: MaskRule, how: Packing) -> dict[str, Any]:
    """What must be equal for a store to be used again, as the manifest records it."""
    return {
        "rule": rule.as_dict(), "fwhm_mm": how.fwhm_mm, "scale": {scan: float(v) for scan, v in how.scale.items()},
    }  # fmt: skip


def _pack(
    paths: Mapping[str, Path], folder: Path, rule: MaskRule, how: Packing, progress: OnProgress | None
) -> PackedMaps:
    """Pack all maps into a new store."""
    reader = MapReader.like(next(iter(paths.values())), how.fwhm_mm)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)  # a crash from here on leaves no store that looks complete
    for old in folder.glob("segment-*.f32"):
        old.unlink()
    with decoder(reader, rule, how, progress) as maps:
        voxels = maps.superset(paths) if how.voxels is None else how.voxels
        np.save(folder / "voxels.npy", voxels)
        tally = Tally(voxels.size)
        files = maps.write(folder / _segment_name(0), paths, voxels, tally)
    manifest = {
        "format": _FORMAT, "chunk_voxels": CHUNK_VOXELS, "n_voxels": int(voxels.size),
        "shape": list(reader.grid.shape), "affine": reader.grid.affine.tolist(), "axcodes": reader.axcodes,
        **_identity(rule, how), "scan_ids": [], "files": {}, "segments": [],
    }  # fmt: skip
    return _finish(folder, manifest, files, tally, rule)


def _append(
    store: PackedMaps, paths: Mapping[str, Path], rule: MaskRule, how: Packing, progress: OnProgress | None
) -> PackedMaps:
    """Append the scans that a store lacks as a new segment; the mask can only shrink."""
    manifest, files = store.manifest, store.manifest["files"]
    new = {scan: path for scan, path in paths.items() if scan not in files}
    reader = MapReader(store.space.grid, store.space.axcodes, Path(next(iter(files.values()))["path"]), how.fwhm_mm)
    tally = Tally(store.n_voxels)
    with np.load(store.folder / manifest["tally_file"]) as stored:
        for name in _TALLY:
            setattr(tally, name, stored[name])
    tally.scans = list(store.scan_ids)
    tally.means, tally.n_lacking = dict(manifest["means"]), dict(manifest["n_lacking"])
    with decoder(reader, rule, how, progress) as maps:
        segment = store.folder / _segment_name(len(store.segments))
        added = maps.write(segment, new, store.space.voxel_index, tally)
    return _finish(store.folder, {**manifest, **_identity(rule, how)}, added, tally, rule)


def _segment_name(number: int) -> str:
    return f"segment-{number:04d}.f32"


def _finish(
    folder: Path, manifest: Mapping[str, Any], added: Mapping[str, dict[str, Any]], tally: Tally, rule: MaskRule
) -> PackedMaps:
    """Check the mask; write it, the running statistics and last the manifest, which makes the store valid."""
    mask = tally.mask(rule)
    tally.check(mask, rule)
    number = len(manifest["segments"])
    manifest = {
        **manifest, "scan_ids": [*manifest["scan_ids"], *added], "files": {**manifest["files"], **added},
        "segments": [*manifest["segments"], {"file": _segment_name(number), "n_scans": len(added)}],
        "mask_file": f"mask-{number + 1:04d}.npy", "tally_file": f"tally-{number + 1:04d}.npz",
        "means": tally.means, "n_lacking": tally.n_lacking, "mask_notes": tally.notes(rule, mask),
    }  # fmt: skip
    np.save(folder / manifest["mask_file"], mask)
    np.savez(folder / manifest["tally_file"], **{name: getattr(tally, name) for name in _TALLY})
    manifest["identical"] = identical_scans(_as_maps(folder, manifest))
    storage.write_json(folder / "manifest.json", manifest)
    return _as_maps(folder, manifest)
