"""Compare pairs of statistic maps, and pair the maps of two result folders; the result of comparing two of a kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from vbmstat.compare.statistics import Statistic, find_statistics, read_record, read_statistic
from vbmstat.errors import ScanError
from vbmstat.metrics import agreement

Names = tuple[str, str]  # of A and B
_OPPOSITE = -0.3  # a lower correlation suggests a contrast with the opposite sign


@dataclass(frozen=True)
class MapPair:
    """Two statistic maps on the grid of the first, with their measures."""

    # contrast and statistic
    name: str
    kind: str
    # both on a's grid
    a: Statistic
    b: Statistic
    row: dict[str, float]  # from :func:`vbmstat.metrics.agreement.compare_maps`
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`vbmstat.compare.files.compare_files`."""

    kind: str  # of A and B: maps, results, scans or rois
    names: tuple[str, str]  # names of A and B in figures
    table: pd.DataFrame  # one row per contrast and statistic, per scan and tissue, or per region and tissue
    summary: pd.DataFrame
    notes: tuple[str, ...]  # what was left out, resampled, or differs
    pairs: tuple[MapPair, ...] = ()
    values: pd.DataFrame = field(default_factory=pd.DataFrame)  # paired volumes (tidy: a_ml, b_ml) of scans or regions
    by: str = ""  # column of `values` that identifies a row of the table


def compare_pair(a: Path, b: Path, mask: Path | None = None) -> MapPair:
    """Compare two statistic maps from files; b is resampled to the grid of a if they differ.

    Parameters
    ----------
    a, b : Path
        The maps; a is the reference.
    mask : Path, optional
        Voxels to compare, on the grid of a, in place of the maps' own masks.

    Raises
    ------
    ScanError
        If the maps are of different statistics, one is one-sided, or they share no voxel.
    """
    one, other = read_statistic(a, mask), read_statistic(b)
    kinds = {one.kind, other.kind} - {"unknown"}
    if len({kind.removeprefix("median ") for kind in kinds}) > 1:
        msg = f"{a} is a map of {one.kind}, {b} of {other.kind}; compare maps of the same statistic"
        raise ScanError(msg)
    notes: list[str] = []
    if not other.volume.grid.matches(one.volume.grid):
        notes.append(f"B was resampled (trilinear) from {other.volume.grid} to A's grid {one.volume.grid}")
        volume, inside = agreement.on_grid(other.volume, other.mask, one.volume.grid)
        other = replace(other, volume=volume, mask=inside)
    if mask is None:
        _refuse_one_sided(one, other)
    row = agreement.compare_maps(one.volume, other.volume, one.mask, other.mask)
    notes += _notes(one, other, row)
    kind = next(iter(sorted(kinds)), "unknown")
    return MapPair(one.name, kind, one, other, row, tuple(notes))


def _refuse_one_sided(one: Statistic, other: Statistic) -> None:
    if "F" in one.kind or "F" in other.kind:
        return
    which = agreement.one_sided(*(s.volume.data[0][s.mask].numpy() for s in (one, other)))
    if which is not None:
        half = one if which == "a" else other
        msg = (
            f"{half.path} has values of one sign only, the other map of both: a one-sided or thresholded map lacks "
            "the other half; give unthresholded maps, or a --mask of the voxels to compare"
        )
        raise ScanError(msg)


def _notes(a: Statistic, b: Statistic, row: dict[str, float]) -> list[str]:
    """Differences between the maps other than their values."""
    notes = []
    n_common, n_most = int(row["n_voxels"]), int(max(row["n_voxels_a"], row["n_voxels_b"]))
    if n_common < n_most:
        notes.append(
            f"masks differ: {n_common} voxels in common of {int(row['n_voxels_a'])} in A and "
            f"{int(row['n_voxels_b'])} in B"
        )
    if a.kind != b.kind:
        notes.append(
            f"A is a map of {a.kind}, B of {b.kind}; the median over 80 % subsets is about sqrt(.8) times the full t"
        )
    if "median" not in a.kind + b.kind:
        for which, one in (("A", a), ("B", b)):
            if not one.df:
                notes.append(f"{which} gives no degrees of freedom (neither SPM's description nor a NIfTI intent)")
        if a.df and b.df and a.df != b.df:
            df_a, df_b = (", ".join(f"{value:g}" for value in one.df) for one in (a, b))
            notes.append(f"degrees of freedom differ: A {df_a}, B {df_b}; the same effect gives another t")
    floors = [_has_spm_floor(one.path) for one in (a, b)]
    if set(floors) == {True, False}:
        which = "A" if floors[0] else "B"
        notes.append(
            f"only {which} has SPM's variance floor (1e-3 of the largest residual variance), which lowers |t| where "
            "the variance is small; fit the other with --variance spm"
        )
    if row["r"] < _OPPOSITE:
        notes.append("the maps are anticorrelated: is one contrast the negative of the other?")
    return notes


def _has_spm_floor(path: Path) -> bool | None:
    """Whether t was computed with SPM's variance floor, from glm.json; always so for SPM's own files."""
    record = read_record(path.parent)
    if record is not None:
        return bool(record.get("spec", {}).get("variance") == "spm")
    return True if path.name.startswith(("spmT_", "spmF_")) else None


def pair_statistics(a: Path, b: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pair the maps of two result folders by contrast name (letters and digits, any case).

    Contrasts with the same letters and digits are matched by their full names.

    Returns
    -------
    list of (str, Path, Path), list of str
        Contrast and maps in the order of a, and notes on contrasts in only one folder.

    Raises
    ------
    ScanError
        If no contrast is in both, unless each has just one t-map.
    """
    both = [find_statistics(folder) for folder in (a, b)]
    plain = _common_keys(both[0], both[1])
    pairs = [(plain[0][key][0], both[0][plain[0][key]], both[1][plain[1][key]]) for key in plain[0] if key in plain[1]]
    notes = []
    if not pairs:
        only = [[key for key in maps if key[1] == "t"] for maps in both]
        if [len(keys) for keys in only] != [1, 1]:
            names = [", ".join(sorted({name for name, _ in maps})) for maps in both]
            msg = f"{a} and {b} have no contrast in common (A: {names[0]}; B: {names[1]}); give two maps to compare"
            raise ScanError(msg)
        notes.append(f"the only t-maps are compared, though their contrasts are called {only[0][0][0]!r} and "
                     f"{only[1][0][0]!r}")  # fmt: skip
        return [(only[0][0][0], both[0][only[0][0]], both[1][only[1][0]])], notes
    for which, ours, theirs in (("A", plain[0], plain[1]), ("B", plain[1], plain[0])):
        spare = sorted({ours[key][0] for key in ours if key not in theirs and key[1] in ("t", "F")})
        if spare:
            notes.append(f"only {which} has the contrasts {', '.join(spare)}")
    return pairs, notes + _record_notes(a, b)


def _common_keys(*folders: Mapping[tuple[str, str], Path]) -> list[dict[tuple[str, str], tuple[str, str]]]:
    """Contrast and statistic of each map by the key that pairs it with the other folder's.

    The key is the contrast's letters and digits, or its full name if these are not unique in a folder, as for the
    levels ``<65`` and ``>65``.
    """
    count = Counter((at, _letters(name), kind) for at, maps in enumerate(folders) for name, kind in maps)
    ambiguous = {(letters, kind) for (_, letters, kind), n in count.items() if n > 1 or not letters}
    return [
        {(name if (_letters(name), kind) in ambiguous else _letters(name), kind): (name, kind) for name, kind in maps}
        for maps in folders
    ]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _record_notes(a: Path, b: Path) -> list[str]:
    """Notes on different scans or subsets in two folders of this program."""
    records = [read_record(folder) for folder in (a, b)]
    if records[0] is None or records[1] is None:
        return []
    notes, scans = [], [set(record.get("scan_ids", [])) for record in records if record]
    if scans[0] != scans[1]:
        notes.append(f"the fits have different scans: {len(scans[0])} in A, {len(scans[1])} in B, "
                     f"{len(scans[0] & scans[1])} in both")  # fmt: skip
    draws = [record.get("draws_sha256") for record in records if record]
    if all(draws) and draws[0] != draws[1]:
        notes.append("the median maps are over different subsets; fit B with --draws draws.tsv of A")
    return notes
