"""Paths of a model's maps in a table's column, a folder or a path template, and the smoothing that they still need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.errors import ScanError, TableError, listed
from vbmstat.files.map_kinds import (
    MAP_NUMBER,
    fwhm_of,
    is_fwhm,
    is_map_column,
    map_columns,
    modulated_kind,
    parse_kind,
    smoothed_kind,
)
from vbmstat.files.map_names import (
    by_known_ids,
    find_maps,
    is_of_model,
    longitudinal_model,
    parse_map_name,
    several_kinds,
)
from vbmstat.files.naming import split_ids
from vbmstat.files.search import images_instead
from vbmstat.maps.kinds import model_of_columns
from vbmstat.tables.cohort import Cohort, closest

USUAL_FWHM_MM = 6.0


@dataclass(frozen=True)
class Smoothing:
    """Smoothing of a model's maps, widths as FWHM.

    Attributes
    ----------
    of_files_mm : float or None
        Width that the files have, by their names: 0 for unsmoothed ones, None if it is not known.
    applied_mm : float
        Width that they are smoothed with while they are packed; 0 for none.
    is_asked : bool
        Whether the user named the width.
    """

    of_files_mm: float | None = None
    applied_mm: float = 0.0
    is_asked: bool = False

    @property
    def record(self) -> dict[str, float | None]:
        """What ``glm.json`` says of it."""
        return {"of_files_fwhm_mm": self.of_files_mm, "applied_fwhm_mm": self.applied_mm}

    @property
    def width_mm(self) -> float | None:
        """Width of the maps that are fitted; None if it is not known."""
        return self.applied_mm or self.of_files_mm

    @property
    def warning(self) -> str:
        """What to print before a model of unsmoothed maps is fitted; empty if they are smoothed, or 0 was asked for."""
        if self.of_files_mm != 0 or self.applied_mm or self.is_asked:
            return ""
        return (
            "WARNING: the maps are not smoothed, so voxelwise results are speckle, and the report's methods will say "
            f"“Maps were not smoothed”; smooth them with --fwhm {USUAL_FWHM_MM:g} (or say --fwhm 0 if this is meant)"
        )

    @property
    def note(self) -> str:
        """One line for the results; empty if there is nothing to say."""
        if self.applied_mm:
            return f"unsmoothed maps are smoothed with a Gaussian of {self.applied_mm:g} mm FWHM before they are masked"
        if self.is_asked and self.of_files_mm:
            return f"the maps are smoothed by {self.of_files_mm:g} mm FWHM already and are used as they are"
        return self.warning


def check_fwhm(fwhm_mm: float | None) -> None:
    """Refuse a width that no map can have; None and 0 pass."""
    if fwhm_mm not in (None, 0) and not is_fwhm(fwhm_mm):
        msg = f"--fwhm {fwhm_mm}: expected 0.1 to 50 mm with at most two decimals, or 0 for unsmoothed maps"
        raise ScanError(msg)


def smoothing_of(paths: Mapping[str, Path], fwhm_mm: float | None, column: str = "") -> Smoothing:
    """What is to be done to maps that shall be smoothed by `fwhm_mm`; None leaves them as they are.

    File names say how maps are smoothed; where they do not, the table's column does (``s6mwp1``, ``mwp1``).

    Raises
    ------
    ScanError
        If a width is asked for and some maps have another one.
    """
    check_fwhm(fwhm_mm)
    of_column = fwhm_of(column) or 0.0 if is_map_column(column) else None
    names = {path: parse_map_name(path.name) for path in paths.values()}
    widths = {path: of_column if name is None else name.fwhm_mm for path, name in names.items()}
    if fwhm_mm is None:
        return Smoothing(next(iter(widths.values())) if len(set(widths.values())) == 1 else None)
    if set(widths.values()) == {fwhm_mm}:
        return Smoothing(fwhm_mm, is_asked=True)
    smoothed = [path.name for path, width in widths.items() if width or (width is None and names[path] is not None)]
    if smoothed:
        msg = (
            f"--fwhm {fwhm_mm:g}: {len(smoothed)} of {len(paths)} maps are smoothed already (e.g. {smoothed[0]}); "
            "leave --fwhm out, or give unsmoothed maps (mwp1*)"
        )
        raise ScanError(msg)
    return Smoothing(0.0, fwhm_mm, is_asked=True)


def refuse_mixed_kinds(paths: Mapping[str, Path], allowed: bool) -> None:
    """Refuse maps of several kinds in one model (``mwp1*`` and ``mwp1r*``, 6 and 8 mm), unless allowed."""
    kinds = "" if allowed else several_kinds(paths)
    if kinds:
        msg = (
            f"the maps are of several kinds ({kinds}); make all of one kind, leave the others out (--where, as "
            '"time_points > 1"), or give --allow-mixed'
        )
        raise ScanError(msg)


def map_column(response: str, table: pd.DataFrame, fwhm_mm: float | None = None) -> str:
    """Column with the map paths for a formula's left side.

    Parameters
    ----------
    response : str
        ``gm``, ``wm``, ``csf`` or a column.
    table : DataFrame
        The cohort's.
    fwhm_mm : float, optional
        Take maps smoothed by this width, or unsmoothed ones; by default smoothed ones, if there are any.

    Raises
    ------
    TableError
        If there is no such column, or several are meant.
    """
    if response not in MAP_NUMBER:
        if response in table:
            return response
        near = closest(response, [*MAP_NUMBER, *table.columns])
        msg = (
            f"formula: {response!r} on the left names no maps; write gm, wm, csf, wmh or a column with paths "
            f"(nearest {near or 'none'})"
        )
        raise TableError(msg)
    number = MAP_NUMBER[response]
    candidates = map_columns(table.columns, number)
    candidates = [name for name in candidates if table[name].notna().any()] or candidates
    model = model_of_columns(candidates, table, response)
    if candidates and fwhm_mm is not None:
        kinds = [*([smoothed_kind(fwhm_mm, number, model)] if fwhm_mm else []), modulated_kind(number, model)]
        found = [kind for kind in kinds if kind in candidates]
        if not found:
            msg = (
                f"--fwhm {fwhm_mm:g}: expected a column {' or '.join(kinds)}, the table has {', '.join(candidates)}; "
                "make these maps with vbmstat preprocess, or leave --fwhm out"
            )
            raise TableError(msg)
        lacks = table[found[0]].isna() & table[found[-1]].notna()  # smoothed maps of some scans only
        return found[-1] if lacks.any() else found[0]
    smoothed = [name for name in candidates if fwhm_of(name) is not None]
    if len(smoothed) > 1:
        msg = f"formula: {response} may be any of the columns {', '.join(smoothed)}; choose one width with --fwhm"
        raise TableError(msg)
    if candidates:
        return candidates[0]
    msg = f"formula: {response} needs a column s6mwp{number} with map paths; the table has {', '.join(table)}"
    raise TableError(msg)


def from_cohort(cohort: Cohort, column: str, missing: str) -> tuple[dict[str, Path], list[str]]:
    """Maps by scan id from a column of the table, and a note on rows without one."""
    notes = []
    if missing == "drop":
        empty = cohort.table[column].isna().to_numpy()
        dropped = [scan for scan, gone in zip(cohort.scan_ids, empty, strict=True) if gone]
        if dropped:
            notes.append(f"dropped {len(dropped)} scans without a {column} map: {', '.join(dropped)}")
        cohort = Cohort(cohort.table[~empty], cohort.folder)
    paths = dict(zip(cohort.scan_ids, cohort.paths(column), strict=True))
    lost = [scan for scan, path in paths.items() if not path.exists()]
    if lost and not any(path.parent.is_dir() for path in paths.values()):
        name = "the table" if cohort.path is None else str(cohort.path)
        msg = (
            f"{name}: no map of {listed(lost)} ({paths[lost[0]]}); paths in a table start from its own folder, so a "
            "copy elsewhere does not find them: give the cohort.tsv beside the maps, and leave scans out with "
            "--exclude or --where"
        )
        raise ScanError(msg)
    return paths, notes


def from_template(template: str, cohort: Cohort) -> dict[str, Path]:
    """Maps by scan id, a path for each row of the table."""
    paths = {}
    for scan, (participant, session) in zip(cohort.scan_ids, cohort.table.index, strict=True):
        try:
            name = template.format(participant_id=participant, session_id=session, scan_id=scan)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            msg = f"{template}: expected only {{participant_id}}, {{session_id}} and {{scan_id}} in braces ({error})"
            raise TableError(msg) from error
        paths[scan] = Path(name)
    return paths


def in_folder(folder: Path, response: str, fwhm_mm: float | None) -> dict[str, Path]:
    """Maps in a folder, by the scan ids in their names.

    Parameters
    ----------
    response : str
        Left side of the formula: ``gm``, ``wm``, ``csf``, ``wmh``, or a kind of maps as their names begin, such as
        ``s6mwmwp1r``, which is taken where a scan has several; at least one scan must have it.
    fwhm_mm : float, optional
        Take maps of this width, or unsmoothed ones, of the tissue.
    """
    if not folder.is_dir():
        msg = f"{folder}: no such folder of maps"
        raise ScanError(msg)
    if (folder / "manifest.json").is_file() and (folder / "voxels.npy").is_file():
        msg = f"{folder}: packed maps; give them as --store, beside --cohort or --maps with the folder they came from"
        raise ScanError(msg)
    number, kind = _asked(response)
    maps: dict[str, Path] = {}
    if fwhm_mm is not None and not kind:
        maps, raw = (find_maps(folder, number, fwhm_mm=width) for width in (fwhm_mm, 0.0))
        maps = maps if set(maps) >= set(raw) else raw
    maps = maps or find_maps(folder, number, **kind)
    maps = maps if "model" not in kind or any(is_of_model(one.name, kind["model"]) for one in maps.values()) else {}
    if not maps:
        examples = "" if kind else f" (s6mwp{number}*, smwc{number}*, …)"
        msg = f"{folder}: no {response} map{examples} in it or below; {images_instead(folder)}"
        raise ScanError(msg)
    return _by_id(folder, maps)


def _asked(response: str) -> tuple[int, dict[str, Any]]:
    """Number of the tissue on the left of a formula, and of a kind of maps the keywords of `find_maps`."""
    if response in MAP_NUMBER:
        return MAP_NUMBER[response], {}
    parsed = parse_kind(response)
    if parsed is not None:
        return parsed.number, {"fwhm_mm": parsed.fwhm_mm, "model": parsed.model}
    parsed = parse_kind(response.removeprefix("s"))  # the prefix of SPM says no width
    if parsed is None:
        msg = (
            f"formula: {response!r} on the left; maps in a folder are found by tissue or as their names begin: write "
            "gm, wm, csf, wmh or such as s6mwp1r"
        )
        raise TableError(msg)
    return parsed.number, {"smoothed": True, "model": parsed.model}


def only_unsmoothed(folder: Path, response: str, smoothed: Mapping[str, Path], cohort: Cohort) -> list[str]:
    """A note on scans of the table whose maps are in the folder, but were not smoothed as the others' were."""
    if len(smoothed) >= len(cohort.scan_ids):
        return []
    model = longitudinal_model(next(iter(smoothed.values())).name)
    raw = _by_id(folder, find_maps(folder, _asked(response)[0], smoothed=False, model=model))
    left = by_known_ids({scan: path for scan, path in raw.items() if scan not in smoothed}, set(cohort.scan_ids))
    people = set(cohort.table.index.get_level_values("participant_id"))
    lost = [
        f"{scan} ({path.name})" for scan, path in sorted(left.items())
        if split_ids(scan)[0] in people or split_ids(scan)[0].removeprefix("sub-") in people
    ]  # fmt: skip
    what = "scans have an unsmoothed map only, beside smoothed ones of others, and are left out"
    return [f"{len(lost)} {what}: {listed(lost)}; smooth them, or all with --fwhm"] if lost else []


def _by_id(folder: Path, maps: Mapping[str, Path]) -> dict[str, Path]:
    """Maps by scan id, of maps by stem."""
    by_id: dict[str, Path] = {}
    for stem, path in maps.items():
        scan = "_".join(filter(None, split_ids(stem)))
        if scan in by_id:
            msg = f"{folder}: two maps of {scan}: {by_id[scan]} and {path}; keep one of them"
            raise ScanError(msg)
        by_id[scan] = path
    return by_id
