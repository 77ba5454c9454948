"""Read and pair statistic maps of this program, SPM and CAT12.

Over 300 lines, as reading, pairing and comparing use the same headers and notes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vbmstat.errors import ScanError
from vbmstat.files.naming import image_stem
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.metrics import agreement

_SPM = re.compile(r"^SPM\{(?P<kind>[TFZ])(?:_\[(?P<df>[\d.,\s]+)\])?\}(?:\s*-\s*contrast \d+:\s*(?P<name>.*))?")
_MEDIAN = re.compile(r"^median ?(?P<kind>[tF])\b.*over \d+ subsets[^:]*:\s*(?P<name>.*)")
_INTENTS = {"t test": "t", "f test": "F", "z score": "z"}
_OURS = re.compile(r"^contrast-(?P<label>.+)_stat-(?P<stat>t|F|mediant|medianF)_statmap$")
_SPM_FILES = ("spmT_*.nii*", "spmF_*.nii*", "spmT_*.img", "spmF_*.img")
_STATISTICS = {"t": "t", "F": "F", "mediant": "median t", "medianF": "median F"}
_OPPOSITE = -0.3  # a lower correlation suggests a contrast with the opposite sign


@dataclass(frozen=True)
class Statistic:
    """A statistic map with the information in its header.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        The contrast, or the file's stem if the header has none.
    kind : str
        ``t``, ``F``, ``z``, ``median t``, ``median F`` or ``unknown``.
    df : tuple of float
        Degrees of freedom, empty if none are given.
    volume : Volume, (1, X, Y, Z)
        Values.
    mask : Tensor, (X, Y, Z), bool
        The analysis mask beside it; else finite, non-zero voxels (SPM and CAT12 write NaN or 0 outside).
    """

    path: Path
    name: str
    kind: str
    df: tuple[float, ...]
    volume: Volume
    mask: torch.Tensor


@dataclass(frozen=True)
class MapPair:
    """Two statistic maps on the grid of the first, with their measures.

    Attributes
    ----------
    name, kind : str
        Contrast and statistic.
    a, b : Statistic
        Both on a's grid.
    row : dict
        From :func:`vbmstat.metrics.agreement.compare_maps`.
    notes : tuple of str
        Caveats.
    """

    name: str
    kind: str
    a: Statistic
    b: Statistic
    row: dict[str, float]
    notes: tuple[str, ...]


def read_statistic(path: Path, mask: Path | None = None) -> Statistic:
    """Read a statistic map with its degrees of freedom and mask.

    Parameters
    ----------
    path : Path
        A map of this program, SPM, CAT12 or any other with 0 or NaN outside its mask.
    mask : Path, optional
        Its mask; by default ``mask.nii(.gz)`` beside it if on the same grid.

    Raises
    ------
    ScanError
        If a file cannot be read, a given mask is on another grid, or no voxel is left.
    """
    volume = io.read_volume(path)
    kind, df, name = describe(*io.read_statistic_header(path))
    where = torch.isfinite(volume.data[0])
    inside = _mask_of(path, mask, volume)
    where &= volume.data[0] != 0 if inside is None else inside
    if not where.any():
        msg = f"{path}: expected a statistic map, but it is 0 or NaN everywhere{' in the mask' if mask else ''}"
        raise ScanError(msg)
    return Statistic(path, name or image_stem(path), kind, df, volume, where)


def masked(statistic: Statistic) -> Volume:
    """The map with NaN outside its mask, for figures."""
    return Volume(statistic.volume.data.where(statistic.mask[None], torch.nan), statistic.volume.grid)


def describe(intent: str, parameters: Sequence[float], description: str) -> tuple[str, tuple[float, ...], str]:
    """Kind, degrees of freedom and contrast from a header; SPM's description takes precedence over the intent.

    Examples
    --------
    >>> describe("none", (), "SPM{T_[95.0]} - contrast 1: age")
    ('t', (95.0,), 'age')
    >>> describe("f test", (2.0, 40.0), "")
    ('F', (2.0, 40.0), '')
    >>> describe("estimate", (), "mediant over 100 subsets (no p): age")[0]
    'median t'
    """
    spm = _SPM.match(description)
    if spm:
        kind = {"T": "t"}.get(spm["kind"], spm["kind"].replace("Z", "z"))
        df = tuple(float(part) for part in (spm["df"] or "").split(",") if part.strip())
        return kind, df, (spm["name"] or "").strip()
    median = _MEDIAN.match(description)
    if median:
        return f"median {median['kind']}", (), median["name"].strip()
    kind = _INTENTS.get(intent, "unknown")
    return kind, tuple(parameters) if kind in ("t", "F") else (), ""


def _mask_of(path: Path, given: Path | None, volume: Volume) -> torch.Tensor | None:
    beside = [path.parent / name for name in ("mask.nii", "mask.nii.gz", "mask.img")]
    source = given or next((candidate for candidate in beside if candidate.is_file()), None)
    if source is None:
        return None
    mask = io.read_volume(source)
    if mask.grid.matches(volume.grid):
        return mask.data[0] > 0.5
    if given is None:
        return None
    msg = f"{given}: grid {mask.grid} differs from {volume.grid} of {path}; give a mask on the grid of the maps"
    raise ScanError(msg)


def compare_pair(a: Path, b: Path, mask: Path | None = None, levels: Sequence[float] = agreement.T_LEVELS) -> MapPair:
    """Compare two statistic maps from files; b is resampled to the grid of a if they differ.

    Parameters
    ----------
    a, b : Path
        The maps; a is the reference.
    mask : Path, optional
        Voxels to compare, on the grid of a, in place of the maps' own masks.
    levels : sequence of float
        As in :func:`vbmstat.metrics.agreement.compare_maps`.

    Raises
    ------
    ScanError
        If the maps are of different statistics, one is one-sided, or they share no voxel.
    """
    one, other = read_statistic(a, mask), read_statistic(b)
    kinds = {one.kind, other.kind} - {"unknown"}
    plain = {kind.removeprefix("median ") for kind in kinds}
    if len(plain) > 1:
        msg = f"{a} is a map of {one.kind}, {b} of {other.kind}; compare maps of the same statistic"
        raise ScanError(msg)
    notes: list[str] = []
    if not other.volume.grid.matches(one.volume.grid):
        notes.append(f"B was resampled (trilinear) from {other.volume.grid} to A's grid {one.volume.grid}")
        volume, inside = agreement.on_grid(other.volume, other.mask, one.volume.grid)
        other = Statistic(other.path, other.name, other.kind, other.df, volume, inside)
    if mask is None:
        _refuse_one_sided(one, other)
    row = agreement.compare_maps(one.volume, other.volume, one.mask, other.mask, levels)
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
    record = _record(path.parent)
    if record is not None:
        return bool(record.get("spec", {}).get("variance") == "spm")
    return True if path.name.startswith(("spmT_", "spmF_")) else None


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = storage.read_json(folder / "glm.json")
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def find_statistics(folder: Path) -> dict[tuple[str, str], Path]:
    """Statistic maps of a result folder by contrast and statistic (t, F, median t, median F); empty if there are none.

    This program writes ``contrast-NAME_stat-STAT_statmap.nii.gz``, SPM and CAT12 ``spmT_0001.nii`` with the contrast in
    the header's description.
    """
    record = _record(folder) or {}
    names = {entry["label"]: entry["name"] for entry in record.get("contrasts", [])}
    maps: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("contrast-*_statmap.nii*")):
        match = _OURS.match(image_stem(path))
        if match:
            maps[str(names.get(match["label"], match["label"])), _STATISTICS[match["stat"]]] = path
    if maps:
        return maps
    for path in sorted(path for pattern in _SPM_FILES for path in folder.glob(pattern)):
        kind, _, name = describe(*io.read_statistic_header(path))
        key = (name or image_stem(path), kind)
        if key in maps:
            msg = f"{folder}: two maps of {key[0]!r}: {maps[key].name} and {path.name}; rename a contrast or move one"
            raise ScanError(msg)
        maps[key] = path
    return maps


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
    records = [_record(folder) for folder in (a, b)]
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
