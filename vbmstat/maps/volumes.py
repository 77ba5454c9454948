"""Total intracranial volume from the files that programs write beside their maps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.files.map_names import parse_map_name, realigned_id
from vbmstat.files.naming import split_ids
from vbmstat.image import storage
from vbmstat.tables.cohort import find_column
from vbmstat.tables.selection import read_further, spellings

_CAT_TIV = re.compile(r"<vol_TIV>\s*([\d.]+)\s*</vol_TIV>")
TABLES = ("cohort.tsv", "volumes.tsv", "tiv.csv", "tiv.txt", "tiv.tsv")  # with ids; others are given as --table
_T1PREP = (("subjectmeasures", "vol_TIV", "value"), ("vol_tiv", "value"), ("tiv_volume",))  # its versions, newest first


def tiv_beside(paths: Mapping[str, Path]) -> tuple[pd.Series, str]:
    """TIV of scans from the files beside their maps.

    Searched in the map's folder and the one above, and ``report/`` in them: sidecars of vbmstat, tables (`TABLES`),
    ``cat_*.xml`` of CAT12, ``log_*.json`` of T1Prep.

    Parameters
    ----------
    paths : mapping of str to Path
        Map of each scan.

    Returns
    -------
    tiv : Series, (n_scans,), float64
        mL, NaN where none is found.
    source : str
        Which files, with counts: ``CAT12's report/cat_*.xml (15 scans)``.
    """
    found: dict[str, tuple[float, str] | None] = {}
    tables: dict[Path, dict[str, tuple[float, str]]] = {}
    for scan, path in paths.items():
        parsed = parse_map_name(path.name)
        names_in_files = (None if parsed is None else parsed.stem, realigned_id(path.name), scan)
        stems = [name for name in names_in_files if name]
        places = [path.parent, path.parent.parent]
        for place in places:
            if place not in tables:
                tables[place] = _tables_in(place)
        reports = [folder for place in places for folder in (place / "report", place)]
        names = spellings(*split_ids(scan))
        in_table = next((table[name] for table in map(tables.get, places) for name in names if table and name in table),
                        None)  # fmt: skip
        found[scan] = _first(_of_vbmstat, stems, reports) or (
            in_table
        ) or _first(tiv_of_cat, stems, reports) or _first(_of_t1prep, stems, reports)  # fmt: skip
    counts = Counter(one[1] for one in found.values() if one)
    source = ", ".join(f"{name} ({n} scans)" for name, n in counts.items())
    return pd.Series({scan: one[0] if one else float("nan") for scan, one in found.items()}, dtype=float), source


def _first(read: Any, stems: Sequence[str], reports: Sequence[Path]) -> tuple[float, str] | None:
    """TIV and its source from the first file of a kind that has it."""
    values = ((read(folder, stem), read.__doc__.partition(":")[0]) for folder in reports for stem in stems)
    return next(((value, source) for value, source in values if value is not None), None)


def tiv_of_cat(folder: Path, stem: str) -> float | None:
    """CAT12's report/cat_*.xml: TIV in mL; None without a readable file."""
    try:
        match = _CAT_TIV.search((folder / f"cat_{stem}.xml").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return float(match[1]) if match else None


def _of_vbmstat(folder: Path, stem: str) -> float | None:
    """Sidecars of vbmstat: TIV in mL; None without one."""
    for name in (f"vbmstat_{stem}.json", f"{stem}_desc-vbmstat_provenance.json"):
        value = _number(folder / name, ("row", "tiv_ml"))
        if value is not None:
            return value
    return None


def _of_t1prep(folder: Path, stem: str) -> float | None:
    """T1Prep's log_*.json: TIV in mL; None without one."""
    files = (folder / f"log_{stem}.json", folder / f"{stem}_log.json")
    values = (_number(path, keys) for path in files if path.is_file() for keys in _T1PREP)
    return next((value for value in values if value is not None), None)


def _number(path: Path, keys: Sequence[str]) -> float | None:
    """A positive number in a JSON file."""
    try:
        content: Any = storage.read_json(path)
        for key in keys:
            content = content[key]
        return float(content) if float(content) > 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tables_in(folder: Path) -> dict[str, tuple[float, str]]:
    """TIV by scan id, with the table's name, from the tables of a folder."""
    found: dict[str, tuple[float, str]] = {}
    for path in (folder / name for name in TABLES):
        if not path.is_file():
            continue
        try:
            table = read_further(path)
        except TableError:
            continue
        column = find_column("tiv", table)
        if column is not None and pd.api.types.is_numeric_dtype(table[column]):
            ids = ["_".join(filter(None, key)) for key in table.index]
            values = zip(ids, table[column], strict=True)
            found = {scan: (float(value), path.name) for scan, value in values if pd.notna(value)} | found
    return found
