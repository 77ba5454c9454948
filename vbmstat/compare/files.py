"""Compare two of a kind: statistic maps, result folders of a model, folders of maps of the same scans, ROI tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pandas as pd

from vbmstat.compare.config import TISSUES
from vbmstat.compare.pairs import Comparison, Names, compare_pair, pair_statistics
from vbmstat.compare.regions import compare_rois
from vbmstat.compare.scans import compare_scans
from vbmstat.compare.statistics import find_statistics
from vbmstat.errors import ScanError
from vbmstat.evaluate import folders
from vbmstat.files import map_names, naming
from vbmstat.files.search import images_instead
from vbmstat.maps.sources import map_folders
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables.selection import Selection

if TYPE_CHECKING:
    from typing_extensions import Unpack

_TABLE_SUFFIXES = (".tsv", ".csv", ".xlsx")
_IN_WORDS = {
    "maps": "a statistic map", "results": "a folder of statistic maps", "scans": "a folder of maps of scans",
    "rois": "a table",
}  # fmt: skip
_MAIN = ["name", "statistic", "n_voxels", "r", "slope", "intercept", "sd_ratio", "bias", "peak_a", "peak_b",
         "peak_distance_mm"]  # fmt: skip


class CompareOptions(TypedDict, total=False):
    """Choices of :func:`compare_files`.

    Attributes
    ----------
    mask : Path, optional
        For statistic maps: voxels to compare, on the grid of `a`.
    names : (str, str), optional
        Their names; by default the parts in which the paths differ.
    selection : Selection, optional
        For maps of scans and ROI tables: which scans take part.
    """

    mask: Path | None
    names: Names | None
    selection: Selection | None


def compare_files(a: Path, b: Path, *, report: OnProgress = ignore, **options: Unpack[CompareOptions]) -> Comparison:
    """Compare two statistic maps, two result folders of a model, two folders of maps of the same scans, or ROI tables.

    Parameters
    ----------
    a, b : Path
        Two of the same kind; `a` is the reference.
    report : callable
        Called with (stage, done, total).
    **options
        As in `CompareOptions`.

    Raises
    ------
    ScanError, TableError
        If a path is none of these, the two are of different kinds, or have nothing in common.
    """
    kind, other = _kind(a), _kind(b)
    if kind != other:
        msg = f"{a} is {_IN_WORDS[kind]}, {b} is {_IN_WORDS[other]}; compare two of a kind"
        raise ScanError(msg)
    mask, selection = options.get("mask"), options.get("selection")
    names = options.get("names") or short_names(a, b)
    if kind in ("scans", "rois"):
        if mask is not None:
            msg = "--mask is for statistic maps"
            raise ScanError(msg)
        rules = _with_own_table(selection or Selection(), a)
        return compare_scans(a, b, names, rules, report) if kind == "scans" else compare_rois(a, b, names, rules)
    if selection is not None and (selection.exclude or selection.where or selection.tables):
        msg = "--exclude, --where and --table are for maps of scans and ROI tables; fit both models with them"
        raise ScanError(msg)
    paths, notes = ([("", a, b)], []) if kind == "maps" else pair_statistics(a, b)
    pairs = []
    for done, (name, one, two) in enumerate(paths, 1):
        pair = compare_pair(one, two, mask)
        pairs.append(replace(pair, name=name) if name else pair)
        report("comparing", done, len(paths))
    notes += [note if kind == "maps" else f"{pair.name}, {pair.kind}: {note}" for pair in pairs for note in pair.notes]
    table = pd.DataFrame([{"name": pair.name, "statistic": pair.kind, **pair.row} for pair in pairs])
    main = [*_MAIN, *(name for name in table if str(name).startswith("dice_"))]
    return Comparison(kind, names, table, table[main], tuple(notes), tuple(pairs))


def _with_own_table(rules: Selection, a: Path) -> Selection:
    """The rules with the cohort table of A for their conditions, unless they name tables."""
    own = next((folder / "cohort.tsv" for folder in map_folders(a) if (folder / "cohort.tsv").is_file()), None)
    return replace(rules, tables=(own,)) if rules.where and not rules.tables and own else rules


def _kind(path: Path) -> str:
    if path.is_dir():
        if find_statistics(path):
            return "results"
        if any(map_names.find_maps(path, tissue) for tissue in TISSUES.values()):
            return "scans"
        msg = (
            f"{path}: expected statistic maps (contrast-*_statmap.nii.gz, spmT_*.nii) or modulated maps of scans "
            f"(mwp1*, s6mwp1*, mwc1*), found neither; {images_instead(path)}"
        )
        raise ScanError(msg)
    if not path.exists():
        msg = f"{path}: no such file or folder"
        raise ScanError(msg)
    return "rois" if path.suffix.lower() in _TABLE_SUFFIXES else "maps"


def short_names(a: Path, b: Path) -> Names:
    """The last parts in which two paths differ.

    Examples
    --------
    >>> short_names(Path("out/classic/ds1"), Path("out/cat/ds1"))
    ('classic', 'cat')
    >>> short_names(Path("x/one.nii.gz"), Path("x/one.nii.gz"))
    ('one', 'one (again)')
    """
    if a.absolute() == b.absolute():
        return naming.image_stem(a), f"{naming.image_stem(a)} (again)"
    one, other = (naming.image_stem(Path(name)) for name in folders.short_names([a, b]))
    return one, other
