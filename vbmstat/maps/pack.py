"""Pack map files into one masked matrix on disk, in one pass; reopen it as long as it is up to date.

Over 300 lines: writing, appending and checking share one file format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.device import n_cores
from vbmstat.errors import ScanError, listed
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid
from vbmstat.maps.decode import MapReader
from vbmstat.maps.duplicates import identical_scans
from vbmstat.maps.masking import MaskRule, ScanSums, Tally, file_stamp
from vbmstat.maps.rawfile import RawFile
from vbmstat.maps.store import CHUNK_VOXELS, PackedMaps, Scratch, Space, even
from vbmstat.progress import OnProgress

_FORMAT = 3
_BLOCK_SCANS = 32  # decoded together: 32 × 450k voxels × 4 bytes = 58 MB; twice, as one block is written meanwhile
_WRITERS = 4  # threads, which mostly wait for the disk
_SPAN_VOXELS = 32 * CHUNK_VOXELS  # counted and written together: 32 × 16,384 × 4 bytes = 2 MB, inside the L2 cache
_SEED_SCANS = 8  # read first to bound the mask: voxels that fail here fail the rule "all scans"


def pack_maps(
    paths: Mapping[str, Path],
    folder: Path,
    rule: MaskRule | None = None,
    scale: Mapping[str, float] | None = None,
    n_threads: int | None = None,
    progress: OnProgress | None = None,
    durable: bool = True,
    voxels: np.ndarray | None = None,
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
    scale : mapping of str to float, optional
        Factor on a scan's values before the threshold (proportional scaling). Values are stored unscaled.
    n_threads : int, optional
        Decoding threads; all cores by default.
    progress : callable, optional
        Called with (stage, done, total).
    durable : bool
        Flush to disk before the store becomes valid; not needed for a store that is deleted after use.
    voxels : ndarray, (n_voxels,), int64, optional
        Columns to pack (RAS+ C-order indices) instead of those that may pass the mask; always packs again.

    Raises
    ------
    ScanError
        If a map cannot be read, is on another grid, has NaN inside the mask or another unit than the others, if two
        scans have the same file, or if no voxel passes the mask.
    """
    rule = rule or MaskRule()
    _check_paths(paths)
    existing = find_store(folder)
    if existing is not None and voxels is None and _is_current(existing, paths, rule, scale):
        if set(existing.scan_ids) >= set(paths):
            return existing.select(list(paths))
        if rule.share == 1 and rule.nan == "raise":
            return _append(existing, paths, rule, scale or {}, n_threads, progress).select(list(paths))
    return _pack(paths, folder, rule, scale or {}, n_threads, progress, durable, voxels)


def _check_paths(paths: Mapping[str, Path]) -> None:
    if not paths:
        msg = "no maps to pack"
        raise ScanError(msg)
    absent = [scan for scan, path in paths.items() if not path.is_file()]
    if absent:
        first = paths[absent[0]]
        msg = (
            f"no map file for {listed(absent)} ({first}: {io.no_file(first)}); "
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


def _is_current(
    store: PackedMaps, paths: Mapping[str, Path], rule: MaskRule, scale: Mapping[str, float] | None
) -> bool:
    """Whether the scans that the store shares with `paths` are unchanged, and the mask rule is the same."""
    files = store.manifest["files"]
    shared = [scan for scan in paths if scan in files]
    same_files = all(
        files[scan]["path"] == str(paths[scan].absolute())
        and {k: files[scan][k] for k in ("size", "mtime_ns")} == file_stamp(paths[scan])
        for scan in shared
    )
    scales = {scan: float(v) for scan, v in (scale or {}).items()}
    return (
        bool(shared) and same_files and store.manifest["rule"] == rule.as_dict() and (store.manifest["scale"] == scales)
    )


def _pack(
    paths: Mapping[str, Path],
    folder: Path,
    rule: MaskRule,
    scale: Mapping[str, float],
    n_threads: int | None,
    progress: OnProgress | None,
    durable: bool,
    voxels: np.ndarray | None,
) -> PackedMaps:
    scans = list(paths)
    reader = MapReader.like(paths[scans[0]])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)  # a crash from here on leaves no store that looks complete
    for old in folder.glob("segment-*.f32"):
        old.unlink()
    with ThreadPoolExecutor(n_threads or n_cores()) as pool:
        voxels = _superset(paths, reader, rule, scale, pool) if voxels is None else voxels
        tally = Tally(voxels.size)
        digests = _write_segment(
            folder / "segment-0000.f32", paths, reader, voxels, tally, rule, scale, pool, progress, durable
        )
    mask = tally.mask(rule)
    tally.check(mask, rule)
    np.save(folder / "voxels.npy", voxels)
    manifest = {
        "format": _FORMAT,
        "chunk_voxels": CHUNK_VOXELS,
        "n_voxels": int(voxels.size),
        "shape": list(reader.grid.shape),
        "affine": reader.grid.affine.tolist(),
        "axcodes": reader.axcodes,
        "rule": rule.as_dict(),
        "scale": {scan: float(v) for scan, v in scale.items()},
        "scan_ids": scans,
        "files": _file_records(paths, digests),
        "segments": [{"file": "segment-0000.f32", "n_scans": len(scans)}],
    }
    return _finish(folder, manifest, mask, tally, rule)


def _finish(folder: Path, manifest: dict[str, Any], mask: np.ndarray, tally: Tally, rule: MaskRule) -> PackedMaps:
    """Write mask and running statistics, then the manifest, which makes the store valid."""
    number = len(manifest["segments"])
    manifest |= {
        "mask_file": f"mask-{number:04d}.npy", "tally_file": f"tally-{number:04d}.npz", "means": tally.means,
        "n_lacking": tally.n_lacking, "mask_notes": tally.notes(rule, mask),
    }  # fmt: skip
    np.save(folder / manifest["mask_file"], mask)
    np.savez(
        folder / manifest["tally_file"],
        low=tally.low,
        high=tally.high,
        n_absent=tally.n_absent,
        n_nan=tally.n_nan,
        last_absent=tally.last_absent,
    )
    store = _as_maps(folder, manifest)
    manifest["identical"] = identical_scans(store)
    storage.write_json(folder / "manifest.json", manifest)
    return replace(store, manifest=manifest)


def _file_records(paths: Mapping[str, Path], digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {
        scan: {"path": str(path.absolute()), **file_stamp(path), "sha256": digests[scan]}
        for scan, path in paths.items()
    }


def _superset(
    paths: Mapping[str, Path],
    reader: MapReader,
    rule: MaskRule,
    scale: Mapping[str, float],
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """Voxels that may pass the mask, in storage order of the first file: those in the mask image and in some scans."""
    voxels = reader.stored_order()
    if rule.image is not None:
        inside = np.empty(voxels.size, dtype=np.float32)
        reader.read(rule.image, voxels, inside)
        voxels = voxels[inside > 0.5]
        if not voxels.size:
            msg = f"{rule.image}: no voxel of this mask is above 0.5; expected an image that is 1 inside the mask"
            raise ScanError(msg)
    if rule.threshold is None:
        return voxels.astype(np.int64)
    seeds = list(paths)[:: max(len(paths) // _SEED_SCANS, 1)] if rule.share == 1 else list(paths)
    tally = Tally(voxels.size)
    for block in _batches(seeds):
        rows = np.empty((len(block), voxels.size), dtype=np.float32)
        jobs = [(paths[scan], voxels, row) for scan, row in zip(block, rows, strict=True)]
        list(pool.map(lambda job: reader.read(*job), jobs))
        tally.finish(block, tally.add(block, rows, 0, _thresholds(rule, scale, block)))
    kept = tally.common(rule)
    if rule.share == 1:
        kept |= _lost_to_few(tally, rule, rows <= _thresholds(rule, scale, seeds)[:, None])
    if not kept.any():
        raise ScanError(tally.why_empty(rule))
    return voxels[kept].astype(np.int64)


def _lost_to_few(tally: Tally, rule: MaskRule, absent: np.ndarray) -> np.ndarray:
    """Columns that only unusual seed scans lack; kept, so that the tally of all scans reports these scans."""
    odd = [tally.scans.index(scan) for scan in tally.culprits(rule, int(tally.common(rule).sum()))]
    short = [tally.scans.index(scan) for scan in tally.short()]
    lost = (tally.n_absent == 1) & np.isin(tally.last_absent, odd)
    return lost if not short else lost | ~np.delete(absent, short, axis=0).any(axis=0)


def _thresholds(rule: MaskRule, scale: Mapping[str, float], scans: Sequence[str]) -> np.ndarray:
    """Threshold on each scan's stored values, (k,)."""
    threshold = -np.inf if rule.threshold is None else rule.threshold
    return np.array([threshold / scale.get(scan, 1.0) for scan in scans], dtype=np.float32)


def _batches(scans: Sequence[str], size: int = _BLOCK_SCANS) -> Iterator[Sequence[str]]:
    for start in range(0, len(scans), size):
        yield scans[start : start + size]


def _write_segment(
    path: Path,
    paths: Mapping[str, Path],
    reader: MapReader,
    voxels: np.ndarray,
    tally: Tally,
    rule: MaskRule,
    scale: Mapping[str, float],
    pool: ThreadPoolExecutor,
    progress: OnProgress | None,
    durable: bool = True,
) -> dict[str, str]:
    """Decode maps into a chunk-major raw file, one block of scans while the last is written; return the sha256s."""
    n_scans, n_chunks = len(paths), -(-voxels.size // CHUNK_VOXELS)
    digests: dict[str, str] = {}
    scratch, done = Scratch(), 0
    buffers = [np.zeros((_BLOCK_SCANS, n_chunks * CHUNK_VOXELS), dtype=np.float32) for _ in range(2)]
    written: list[Future[ScanSums]] = []
    blocks = list(_batches(list(paths)))
    with RawFile(path, n_chunks * even(n_scans) * CHUNK_VOXELS * 4) as stream, ThreadPoolExecutor(_WRITERS) as writers:

        def write(start: int, block: Sequence[str], rows: np.ndarray, first: int) -> ScanSums:
            """Count and write some columns of a block."""
            stop = start + _SPAN_VOXELS
            values = rows[: len(block), start : min(stop, voxels.size)]
            sums = tally.add(block, values, start, _thresholds(rule, scale, block))
            if tally.nan_of:
                np.nan_to_num(rows[:, start:stop], copy=False)
            piece = scratch.array("piece", (len(rows), CHUNK_VOXELS))
            for at in range(start, min(stop, rows.shape[1]), CHUNK_VOXELS):
                np.copyto(piece, rows[:, at : at + CHUNK_VOXELS])
                stream.write(piece, (at * even(n_scans) + first * CHUNK_VOXELS) * 4)
            return sums

        for number, block in enumerate([*blocks, []]):
            rows = buffers[number % 2][: even(len(block))]
            rows[len(block) :] = 0
            jobs = [(paths[scan], voxels, row[: voxels.size]) for scan, row in zip(block, rows, strict=False)]
            digests |= dict(zip(block, pool.map(lambda job: reader.read(*job), jobs), strict=True))
            if number:
                last = blocks[number - 1]
                tally.finish(last, ScanSums.joined([future.result() for future in written]))
                done += len(last)
                if progress:
                    progress("reading maps", done, n_scans)
            spans = range(0, n_chunks * CHUNK_VOXELS, _SPAN_VOXELS) if block else ()
            written = [writers.submit(write, start, block, rows, done) for start in spans]
        if durable:
            stream.sync()
    return digests


def _append(
    store: PackedMaps,
    paths: Mapping[str, Path],
    rule: MaskRule,
    scale: Mapping[str, float],
    n_threads: int | None,
    progress: OnProgress | None,
) -> PackedMaps:
    """Append the scans that a store lacks as a new segment; the mask can only shrink."""
    new = {scan: path for scan, path in paths.items() if scan not in store.manifest["files"]}
    manifest = dict(store.manifest)
    reader = MapReader(store.space.grid, store.space.axcodes, Path(next(iter(manifest["files"].values()))["path"]))
    tally = Tally(store.n_voxels)
    with np.load(store.folder / manifest["tally_file"]) as stored:
        tally.low, tally.high = stored["low"], stored["high"]
        tally.n_absent, tally.n_nan = stored["n_absent"], stored["n_nan"]
        tally.last_absent = stored["last_absent"]
    tally.scans = list(store.scan_ids)
    tally.means, tally.n_lacking = dict(manifest["means"]), dict(manifest["n_lacking"])
    name = f"segment-{len(store.segments):04d}.f32"
    with ThreadPoolExecutor(n_threads or n_cores()) as pool:
        digests = _write_segment(
            store.folder / name, new, reader, store.space.voxel_index, tally, rule, scale, pool, progress
        )
    mask = tally.mask(rule)
    tally.check(mask, rule)
    manifest["segments"] = [*manifest["segments"], {"file": name, "n_scans": len(new)}]
    manifest["scan_ids"] = [*manifest["scan_ids"], *new]
    manifest["files"] = {**manifest["files"], **_file_records(new, digests)}
    manifest["scale"] = {scan: float(v) for scan, v in scale.items()}
    return _finish(store.folder, manifest, mask, tally, rule)
