"""Decode maps: bound their mask, and write them to a segment of a store, a block of scans at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.device import n_cores, one_thread, single_threaded
from vbmstat.errors import ScanError
from vbmstat.maps.decode import MapReader
from vbmstat.maps.masking import MaskRule, ScanSums, Tally, file_stamp
from vbmstat.maps.rawfile import RawFile
from vbmstat.maps.store import CHUNK_VOXELS, Scratch, even
from vbmstat.progress import OnProgress, ignore

_BLOCK_SCANS = 32  # decoded together: 32 × 450k voxels × 4 bytes = 58 MB; twice, as one block is written meanwhile
_WRITERS = 4  # threads, which mostly wait for the disk
_SPAN_VOXELS = 32 * CHUNK_VOXELS  # counted and written together: 32 × 16,384 × 4 bytes = 2 MB, inside the L2 cache
_SEED_SCANS = 8  # read first to bound the mask: voxels that fail here fail the rule "all scans"


@dataclass(frozen=True)
class Packing:
    """How maps are packed, beside the mask rule.

    Attributes
    ----------
    fwhm_mm : float
        Width of the Gaussian that maps are smoothed with as they are read, before the mask; 0 for none.
    scale : mapping of str to float
        Factor on a scan's values before the threshold (proportional scaling). Values are stored unscaled.
    voxels : ndarray, (n_voxels,), int64, optional
        Columns to pack (RAS+ C-order indices) instead of those that may pass the mask; always packs again.
    n_threads : int, optional
        Decoding threads; all cores by default.
    durable : bool
        Flush to disk before the store becomes valid; not needed for a store that is deleted after use.
    """

    fwhm_mm: float = 0.0
    scale: Mapping[str, float] = field(default_factory=dict)
    voxels: np.ndarray | None = None
    n_threads: int | None = None
    durable: bool = True


@dataclass(frozen=True)
class Decoder:
    """Maps on one grid, read by several threads under one mask rule; made by :func:`decoder`."""

    reader: MapReader
    rule: MaskRule
    how: Packing
    pool: ThreadPoolExecutor
    progress: OnProgress

    def read(self, paths: Sequence[Path], voxels: np.ndarray, rows: np.ndarray) -> list[str]:
        """Read maps at some voxels into rows of an array; return the SHA-256 of each file."""
        return list(self.pool.map(lambda path, row: self.reader.read(path, voxels, row), paths, rows))

    def thresholds(self, scans: Sequence[str]) -> np.ndarray:
        """Threshold on each scan's stored values, (k,)."""
        threshold = -np.inf if self.rule.threshold is None else self.rule.threshold
        return np.array([threshold / self.how.scale.get(scan, 1.0) for scan in scans], dtype=np.float32)

    def superset(self, paths: Mapping[str, Path]) -> np.ndarray:
        """Voxels that may pass the mask, in storage order of the first file: in the mask image and in some scans.

        Raises
        ------
        ScanError
            If there are none.
        """
        voxels, rule = self.reader.stored_order(), self.rule
        if rule.image is not None:
            inside = np.empty(voxels.size, dtype=np.float32)
            replace(self.reader, fwhm_mm=0.0).read(rule.image, voxels, inside)
            voxels = voxels[inside > 0.5]
            if not voxels.size:
                msg = f"{rule.image}: no voxel of this mask is above 0.5; expected an image that is 1 inside the mask"
                raise ScanError(msg)
        if rule.threshold is None:
            return voxels.astype(np.int64)
        seeds = list(paths)[:: max(len(paths) // _SEED_SCANS, 1)] if rule.share == 1 else list(paths)
        tally = Tally(voxels.size)
        for block in _blocks(seeds):
            rows = np.empty((len(block), voxels.size), dtype=np.float32)
            self.read([paths[scan] for scan in block], voxels, rows)
            tally.finish(block, tally.add(block, rows, 0, self.thresholds(block)))
        kept = tally.common(rule)
        if rule.share == 1:
            kept |= _lost_to_few(tally, rule, rows <= self.thresholds(seeds)[:, None])
        if not kept.any():
            raise ScanError(tally.why_empty(rule))
        return np.asarray(voxels[kept], dtype=np.int64)

    def write(
        self, segment: Path, paths: Mapping[str, Path], voxels: np.ndarray, tally: Tally
    ) -> dict[str, dict[str, Any]]:
        """Decode maps into a chunk-major raw file, a block of scans while the last is written.

        Returns
        -------
        dict of str to dict
            Path, size, modification time and SHA-256 of each scan's map.
        """
        n_scans, n_chunks, done = len(paths), -(-voxels.size // CHUNK_VOXELS), 0
        stage = "reading and smoothing maps" if self.reader.fwhm_mm else "reading maps"
        files: dict[str, dict[str, Any]] = {}
        scratch = Scratch()
        buffers = [np.zeros((_BLOCK_SCANS, n_chunks * CHUNK_VOXELS), dtype=np.float32) for _ in range(2)]
        written: list[Future[ScanSums]] = []
        blocks = list(_blocks(list(paths)))
        n_bytes = n_chunks * even(n_scans) * CHUNK_VOXELS * 4
        with RawFile(segment, n_bytes) as stream, ThreadPoolExecutor(_WRITERS) as writers:

            def write(start: int, block: Sequence[str], rows: np.ndarray, first: int) -> ScanSums:
                """Count and write some columns of a block."""
                stop = start + _SPAN_VOXELS
                values = rows[: len(block), start : min(stop, voxels.size)]
                sums = tally.add(block, values, start, self.thresholds(block))
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
                some = [paths[scan] for scan in block]
                hashes = self.read(some, voxels, rows[: len(block), : voxels.size])
                for scan, path, sha256 in zip(block, some, hashes, strict=True):
                    files[scan] = {"path": str(path.absolute()), **file_stamp(path), "sha256": sha256}
                if number:
                    last = blocks[number - 1]
                    tally.finish(last, ScanSums.joined([future.result() for future in written]))
                    done += len(last)
                    self.progress(stage, done, n_scans)
                spans = range(0, n_chunks * CHUNK_VOXELS, _SPAN_VOXELS) if block else ()
                written = [writers.submit(write, start, block, rows, done) for start in spans]
            if self.how.durable:
                stream.sync()
        return files


@contextmanager
def decoder(reader: MapReader, rule: MaskRule, how: Packing, progress: OnProgress | None = None) -> Iterator[Decoder]:
    """A decoder with its threads; each smooths on one core."""
    pool = ThreadPoolExecutor(how.n_threads or n_cores(), initializer=one_thread)
    with single_threaded(), pool:
        yield Decoder(reader, rule, how, pool, progress or ignore)


def _lost_to_few(tally: Tally, rule: MaskRule, absent: np.ndarray) -> np.ndarray:
    """Columns that only unusual seed scans lack; kept, so that the tally of all scans reports these scans."""
    odd = [tally.scans.index(scan) for scan in tally.culprits(rule, int(tally.common(rule).sum()))]
    short = [tally.scans.index(scan) for scan in tally.short()]
    lost: np.ndarray = (tally.n_absent == 1) & np.isin(tally.last_absent, odd)
    return lost if not short else lost | ~np.delete(absent, short, axis=0).any(axis=0)


def _blocks(scans: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(scans), _BLOCK_SCANS):
        yield scans[start : start + _BLOCK_SCANS]
