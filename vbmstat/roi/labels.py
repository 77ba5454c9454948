"""Tables of an atlas's labels, as other programs write them: number, name, hemisphere and region of each label."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from vbmstat.errors import TableError
from vbmstat.tables.cohort import read_table

_SIDES = {"left": "left", "l": "left", "lh": "left", "right": "right", "r": "right", "rh": "right"}
_FREESURFER_SIDE = re.compile(r"^(?P<kind>(?:ctx|wm)[-_])?(?P<side>left|right|lh|rh)[-_](?P<name>.+)$", re.IGNORECASE)
_SIDE_FIRST = re.compile(r"^(left|right|bothside)\s+(?P<name>.+)$", re.IGNORECASE)
_SIDE_LAST = re.compile(r"^(?P<name>.+)\s+(L|R)$")  # hammers
_SIDE_WITHIN = re.compile(r"_(LH|RH)_")  # Schaefer, whose left and right parcels are not pairs


def read_colours(path: Path) -> pd.DataFrame | None:
    """A FreeSurfer colour table (number, name, red, green, blue, alpha); None if the file is another kind of table.

    Raises
    ------
    TableError
        If a later line is broken.
    """
    lines = [line.split("#")[0].split() for line in path.read_text("utf-8-sig", "replace").splitlines()]
    entries = {number: cells for number, cells in enumerate(lines, 1) if cells}
    broken = [n for n, cells in entries.items() if len(cells) != 6 or not "".join(cells[:1] + cells[2:]).isdecimal()]
    if list(entries)[:1] == broken[:1]:  # the first line is another, or there is none
        return None
    if broken:
        what = f"'number name red green blue alpha' in line {broken[0]}"
        msg = f"{path}: expected {what}, got {' '.join(entries[broken[0]])!r:.80}"
        raise TableError(msg)
    sides = [_freesurfer_side(cells[1]) for cells in entries.values()]
    return pd.DataFrame({
        "label": [int(cells[0]) for cells in entries.values()], "name": [cells[1] for cells in entries.values()],
        "hemisphere": [side for side, _ in sides], "region": [region for _, region in sides],
    })  # fmt: skip


def _freesurfer_side(name: str) -> tuple[str, str]:
    """Hemisphere, and the name without it, from a FreeSurfer name.

    Examples
    --------
    >>> _freesurfer_side("Left-Hippocampus"), _freesurfer_side("ctx-rh-insula"), _freesurfer_side("Brain-Stem")
    (('left', 'Hippocampus'), ('right', 'ctx-insula'), ('both', 'Brain-Stem'))
    """
    match = _FREESURFER_SIDE.match(name)
    if match is None:
        return "both", name
    return _SIDES[match["side"].lower()], f"{match['kind'] or ''}{match['name']}"


def read_labels(path: Path) -> pd.DataFrame:
    """A label table (columns label or index, and name; or CAT12's ROIid and ROIname), indexed by label.

    Raises
    ------
    TableError
        If a column is missing, a label is no whole number, or has two rows.
    """
    raw = _with_label_and_name(read_table(path))
    missing = [column for column in ("label", "name") if column not in raw]
    if missing:
        columns = ", ".join(map(str, raw.columns))
        msg = f"{path}: expected columns label (or index) and name, or ROIid and ROIname, got {columns}"
        raise TableError(msg)
    labels = pd.to_numeric(raw["label"], errors="coerce")
    bad = ~(labels.abs() < 2**31) | (labels != labels.round()) | raw["name"].isna()
    if bad.any():
        label, name = raw.loc[bad, ["label", "name"]].iloc[0]
        msg = f"{path}: expected a whole-number label and a name in every row, got label {label!s} with name {name!s}"
        raise TableError(msg)
    table = pd.DataFrame({"label": labels.astype(int), "name": raw["name"].astype(str)})
    table["hemisphere"] = raw["hemisphere"].fillna("both").astype(str) if "hemisphere" in raw else "both"
    table["region"] = raw["region"].fillna(table["name"]).astype(str) if "region" in raw else table["name"]
    return by_label(table, str(path))


def _with_label_and_name(table: pd.DataFrame) -> pd.DataFrame:
    """The table with BIDS's `index`, or CAT12's `ROIid`, as `label`; a `label` of words beside it becomes `name`."""
    by_name = {str(column).casefold(): column for column in table}
    named = by_name.get("roiname", by_name.get("roiabbr"))
    if "roiid" in by_name and named is not None and "label" not in table:
        table = table.rename(columns={by_name["roiid"]: "label", named: "name"})
        return table if "hemisphere" in table else with_sides(table)
    if "index" not in table:
        return table
    if "label" not in table:
        return table.rename(columns={"index": "label"})
    is_words = pd.to_numeric(table["label"], errors="coerce").isna().all()
    return table.rename(columns={"label": "name", "index": "label"}) if is_words and "name" not in table else table


def with_sides(table: pd.DataFrame) -> pd.DataFrame:
    """The table with hemisphere and region from its names; a missing name has none."""
    words = table["name"].map(lambda name: " ".join(str(name).split()), na_action="ignore")
    sides = [("both", None) if pd.isna(name) else split_side(name) for name in words]
    return table.assign(name=words, hemisphere=[side for side, _ in sides], region=[rest for _, rest in sides])


def split_side(name: str) -> tuple[str, str]:
    """Hemisphere, and the label's name without it.

    Examples
    --------
    >>> split_side("Left Insula")
    ('left', 'Insula')
    >>> split_side("TL hippocampus R")
    ('right', 'TL hippocampus')
    >>> split_side("17Networks_LH_VisCent_ExStr_1")
    ('left', '17Networks_LH_VisCent_ExStr_1')
    >>> split_side("Vermis VI")
    ('both', 'Vermis VI')
    """
    within = _SIDE_WITHIN.search(name)
    if within:
        return _SIDES[within[1].lower()], name
    match = _SIDE_FIRST.match(name)
    if match:
        return _SIDES.get(match[1].lower(), "both"), match["name"].strip()
    match = _SIDE_LAST.match(name)
    return (_SIDES[match[2].lower()], match["name"]) if match else ("both", name)


def by_label(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table indexed by label, each of which has one row."""
    twice = sorted(set(table.loc[table["label"].duplicated(), "label"]))
    if twice:
        msg = f"{source}: label {', '.join(map(str, twice))} has two rows; keep one"
        raise TableError(msg)
    return table.set_index("label")[["hemisphere", "name", "region"]]
