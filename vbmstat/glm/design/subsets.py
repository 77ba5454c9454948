"""Subsets of scans drawn without replacement: seeded, stratified on request, stored and reused."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError, TableError
from vbmstat.tables import dictionary


def draw_subsets(
    scan_ids: Sequence[str], repeats: int, fraction: float, seed: int, strata: Sequence[str] | None = None
) -> np.ndarray:
    """Random subsets of ``floor(fraction · n)`` scans, independent of the order of the rows.

    Parameters
    ----------
    scan_ids : sequence of str
        Row names; the draw is made over the sorted ids.
    repeats : int
        Number of subsets, 0 for none.
    fraction : float
        Share of the scans in a subset, in (0, 1].
    seed : int
        Of NumPy's PCG64.
    strata : sequence of str, optional
        Label of each scan; every label keeps its share (largest remainders) and at least one scan.

    Returns
    -------
    ndarray, (repeats, n_scans), bool
        Membership, columns in the order of `scan_ids`.

    Examples
    --------
    >>> draw_subsets(["b", "a", "c", "d", "e"], 2, 0.8, 0).sum(axis=1).tolist()
    [4, 4]
    """
    if repeats < 0 or not 0 < fraction <= 1:
        msg = f"expected repeats >= 0 and 0 < fraction <= 1, got {repeats} and {fraction}"
        raise DesignError(msg)
    n_scans = len(scan_ids)
    order = sorted(range(n_scans), key=lambda i: scan_ids[i])
    labels = np.zeros(n_scans, dtype=int)
    if strata is not None:
        labels = np.unique([str(strata[i]) for i in order], return_inverse=True)[1]
    counts = _stratum_sizes(np.bincount(labels), fraction)
    members = [np.flatnonzero(labels == label) for label in range(len(counts))]
    generator = np.random.default_rng(seed)
    drawn = np.zeros((repeats, n_scans), dtype=bool)
    for row in drawn:
        for positions, count in zip(members, counts, strict=True):
            row[generator.permutation(positions)[:count]] = True
    draws = np.empty_like(drawn)
    draws[:, order] = drawn
    return draws


def _stratum_sizes(sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Scans to draw from each stratum: largest remainders to ``floor(fraction · n)``, at least one each."""
    exact = fraction * sizes
    counts = np.maximum(np.floor(exact), 1).astype(int)
    short = int(np.floor(fraction * sizes.sum() + 1e-9)) - counts.sum()
    for label in np.argsort(-(exact - np.floor(exact)), kind="stable")[: max(short, 0)]:
        counts[label] += 1
    return np.asarray(np.minimum(counts, sizes))


def draws_hash(draws: np.ndarray, scan_ids: Sequence[str]) -> str:
    """SHA-256 of ids and membership, rows in the order of the sorted ids."""
    order = sorted(range(len(scan_ids)), key=lambda i: scan_ids[i])
    digest = hashlib.sha256("\n".join(scan_ids[i] for i in order).encode())
    digest.update(np.packbits(draws[:, order], axis=1).tobytes())
    return digest.hexdigest()


def write_draws(path: Path | str, draws: np.ndarray, scan_ids: Sequence[str]) -> None:
    """Write draws as a TSV: ``scan_id`` and one string of 0 and 1 over the repetitions."""
    membership = ["".join("01"[int(inside)] for inside in column) for column in draws.T]
    dictionary.write_table(path, pd.DataFrame({"scan_id": list(scan_ids), "repetitions": membership}), "draws")


def read_draws(path: Path | str, scan_ids: Sequence[str]) -> np.ndarray:
    """Read draws for these scans, matched by id.

    Raises
    ------
    TableError
        If the file lacks a scan or holds others.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such table of draws"
        raise TableError(msg)
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if list(table.columns) != ["scan_id", "repetitions"] or table["scan_id"].duplicated().any():
        msg = f"{path}: expected columns scan_id, repetitions with one row a scan, got {', '.join(table)}"
        raise TableError(msg)
    stored = dict(zip(table["scan_id"], table["repetitions"], strict=True))
    differing = sorted(set(stored) ^ set(scan_ids))
    if differing:
        msg = f"{path}: draws are for other scans ({', '.join(differing[:12])} differ); draw anew or use the same scans"
        raise TableError(msg)
    draws = np.array([[character == "1" for character in stored[scan]] for scan in scan_ids], dtype=bool)
    return np.ascontiguousarray(draws.T)
