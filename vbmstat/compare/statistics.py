"""Statistic maps of this program, SPM and CAT12 from files: what each says of itself, which belong together."""

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
_OPPOSITE = -0.3  # a correlation below looks like the contrast turned round


@dataclass(frozen=True)
class Statistic:
    """A statistic map and what its header says.

    Attributes
    ----------
    path : Path
        The file.
    name : str
        The contrast, or the file's stem where the header names none.
    kind : str
        ``t``, ``F``, ``z``, ``median t``, ``median F`` or ``unknown``.
    df : tuple of float
        Degrees of freedom, empty where none are given.
    volume : Volume, (1, X, Y, Z)
        Values.
    mask : Tensor, (X, Y, Z), bool
        The analysis mask beside it; else where the map is finite and not zero, as SPM and CAT12 leave them.
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
        What a reader must know.
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
        Of this program, SPM, CAT12 or any that has values inside a mask and 0 or NaN outside.
    mask : Path, optional
        Where it has values; by default ``mask.nii(.gz)`` beside it if it is on the same grid.

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


def masked(found: Statistic) -> Volume:
    """The map with NaN outside its mask, as figures want it."""
    return Volume(found.volume.data.where(found.mask[None], torch.nan), found.volume.grid)


def describe(intent: str, parameters: Sequence[float], description: str) -> tuple[str, tuple[float, ...], str]:
    """Kind, degrees of freedom and contrast that a header states; SPM's description comes before the intent.

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
    found = given or next((candidate for candidate in beside if candidate.is_file()), None)
    if found is None:
        return None
    mask = io.read_volume(found)
    if mask.grid.matches(volume.grid):
        return mask.data[0] > 0.5
    if given is None:
        return None
    msg = f"{given}: grid {mask.grid} differs from {volume.grid} of {path}; give a mask on the grid of the maps"
    raise ScanError(msg)


def compare_pair(a: Path, b: Path, mask: Path | None = None, levels: Sequence[float] = agreement.T_LEVELS) -> MapPair:
    """Compare two statistic maps from files; b is resampled onto the grid of a where they differ.

    Parameters
    ----------
    a, b : Path
        The maps; a is the reference.
    mask : Path, optional
        On the grid of a: voxels to compare, in place of what the maps say.
    levels : sequence of float
        See :func:`vbmstat.metrics.agreement.compare_maps`.

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
            f"{half.path} has values of one sign only, the other map of both: a one-sided or thresholded map says "
            "nothing of the other half; give unthresholded maps, or a --mask to compare within"
        )
        raise ScanError(msg)


def _notes(a: Statistic, b: Statistic, row: dict[str, float]) -> list[str]:
    """What differs between the maps other than their values."""
    notes = []
    n_common, n_most = int(row["n_voxels"]), int(max(row["n_voxels_a"], row["n_voxels_b"]))
    if n_common < n_most:
        notes.append(
            f"masks differ: {n_common} voxels in common of {int(row['n_voxels_a'])} in A and "
            f"{int(row['n_voxels_b'])} in B"
        )
    if a.kind != b.kind:
        notes.append(
            f"A is a map of {a.kind}, B of {b.kind}; the median over 80 % subsets lies near sqrt(.8) of the full t"
        )
    if "median" not in a.kind + b.kind:
        for which, one in (("A", a), ("B", b)):
            if not one.df:
                notes.append(f"{which} states no degrees of freedom (neither SPM's description nor a NIfTI intent)")
        if a.df and b.df and a.df != b.df:
            df_a, df_b = (", ".join(f"{value:g}" for value in one.df) for one in (a, b))
            notes.append(f"degrees of freedom differ: A {df_a}, B {df_b}; the same effect has another t")
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
    """Whether t was computed with SPM's floor: glm.json says it; SPM's own files (spmT without it) have it."""
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
    """Statistic maps of a result folder by contrast and statistic (t, F, median t, median F).

    Folders of this program have ``contrast-NAME_stat-STAT_statmap.nii.gz``, those of SPM and CAT12 ``spmT_0001.nii``,
    whose contrast is read from the description. Empty if there are none.
    """
    record = _record(folder) or {}
    names = {entry["label"]: entry["name"] for entry in record.get("contrasts", [])}
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("contrast-*_statmap.nii*")):
        match = _OURS.match(image_stem(path))
        if match:
            found[str(names.get(match["label"], match["label"])), _STATISTICS[match["stat"]]] = path
    if found:
        return found
    for path in sorted(path for pattern in _SPM_FILES for path in folder.glob(pattern)):
        kind, _, name = describe(*io.read_statistic_header(path))
        key = (name or image_stem(path), kind)
        if key in found:
            msg = f"{folder}: two maps of {key[0]!r}: {found[key].name} and {path.name}; rename a contrast or move one"
            raise ScanError(msg)
        found[key] = path
    return found


def pair_statistics(a: Path, b: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Maps of two result folders that belong together, by the contrast's name (letters and digits, any case).

    Contrasts that have the same letters and digits are matched by their names in full.

    Returns
    -------
    list of (str, Path, Path), list of str
        Contrast and maps in the order of a, and notes on contrasts that only one folder has.

    Raises
    ------
    ScanError
        If no contrast is in both, unless each has just one t-map.
    """
    found = [find_statistics(folder) for folder in (a, b)]
    plain = _common_keys(found[0], found[1])
    pairs = [
        (plain[0][key][0], found[0][plain[0][key]], found[1][plain[1][key]]) for key in plain[0] if key in plain[1]
    ]
    notes = []
    if not pairs:
        only = [[key for key in maps if key[1] == "t"] for maps in found]
        if [len(keys) for keys in only] != [1, 1]:
            names = [", ".join(sorted({name for name, _ in maps})) for maps in found]
            msg = f"{a} and {b} have no contrast in common (A: {names[0]}; B: {names[1]}); give two maps to compare"
            raise ScanError(msg)
        notes.append(f"the only t-maps are compared, though their contrasts are called {only[0][0][0]!r} and "
                     f"{only[1][0][0]!r}")  # fmt: skip
        return [(only[0][0][0], found[0][only[0][0]], found[1][only[1][0]])], notes
    for which, ours, theirs in (("A", plain[0], plain[1]), ("B", plain[1], plain[0])):
        spare = sorted({ours[key][0] for key in ours if key not in theirs and key[1] in ("t", "F")})
        if spare:
            notes.append(f"only {which} has the contrasts {', '.join(spare)}")
    return pairs, notes + _record_notes(a, b)


def _common_keys(*found: Mapping[tuple[str, str], Path]) -> list[dict[tuple[str, str], tuple[str, str]]]:
    """Contrast and statistic of each map by what pairs it with another folder's.

    That is the contrast's letters and digits; its name in full where several contrasts of a folder have the same ones,
    such as those of the levels ``<65`` and ``>65``.
    """
    count = Counter((at, _letters(name), kind) for at, maps in enumerate(found) for name, kind in maps)
    vague = {(letters, kind) for (_, letters, kind), n in count.items() if n > 1 or not letters}
    return [
        {(name if (_letters(name), kind) in vague else _letters(name), kind): (name, kind) for name, kind in maps}
        for maps in found
    ]


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _record_notes(a: Path, b: Path) -> list[str]:
    """Other scans or subsets in two folders of this program."""
    records = [_record(folder) for folder in (a, b)]
    if records[0] is None or records[1] is None:
        return []
    notes, scans = [], [set(record.get("scan_ids", [])) for record in records if record]
    if scans[0] != scans[1]:
        notes.append(f"the fits are of other scans: {len(scans[0])} in A, {len(scans[1])} in B, "
                     f"{len(scans[0] & scans[1])} in both")  # fmt: skip
    draws = [record.get("draws_sha256") for record in records if record]
    if all(draws) and draws[0] != draws[1]:
        notes.append("the median maps are of other subsets; fit B with --draws draws.tsv of A")
    return notes
