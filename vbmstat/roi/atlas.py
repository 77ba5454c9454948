"""Atlases: a label image and a table of its labels, joined by label and never by position.

A soft atlas has a volume of probabilities a label instead; its regions overlap, so their volumes are not additive.

Images are read from the deepmriprep wheel. Label tables are `atlases/<name>/labels.tsv` of this project, or else the
wheel's csv. Licences are those that CAT12 states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import assets
from vbmstat.assets.provenance import file_record
from vbmstat.errors import AssetError, ScanError, TableError
from vbmstat.files import map_kinds
from vbmstat.image import io
from vbmstat.image.headers import IMAGE_SUFFIXES
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.roi.labels import by_label, read_colours, read_labels, with_sides
from vbmstat.tables.cohort import closest

LEVELS = ("roi", "region")  # of volumes: each label; left and right merged
DISTRIBUTION, FOLDER = "deepmriprep", "deepmriprep/data/templates"
_NO_NOTE = "no licence stated; cite it, and ask its makers before redistributing or using it commercially"
_TABLE_SUFFIXES = (".tsv", ".csv", ".txt", ".ctab", ".lut")
_FREESURFER_TABLE = "FreeSurferColorLUT.txt"
TRACTS = "tracts72"
TRACTS_SHA256 = "57a68dd91e529d3f0db89e0706ad6e9bf809a3521f1a774fccc4775d4c0c40fb"
TRACTS_LICENCE = (
    "Apache-2.0 (TractSeg's test data, changed: registered, mirrored, smoothed); made from one person, so no population"
    "; FX, CA, ILF and UF are weak (thin or tortuous)"
)


@dataclass(frozen=True)
class AtlasSource:
    """A known atlas: file stem in the wheel, sha256 of the image, licence note."""

    stem: str
    sha256: str
    licence: str


# Images in the deepmriprep wheel
_SHA256 = {
    "aal3": "8cce393837491455f43fd700b5dff782f448cb78a7ed21014f155a7118ab151d",
    "anatomy3": "498bae211e4d8014624f0f2a16ea72ff784ec8b7a233bb0900ff05d3feb25368",
    "cobra": "56f3b1e2958e1d31ded3ef2dbf591b0e62c6b28520ae21625918bf96c6577615",
    "hammers": "b40bd6c774b1125b9122ca8c561bebeb5b64e92007e827f11268798ec2d2286d",
    "ibsr": "45c5ece8888340596dec095459bac19ca3dca6e92844c9276b6c10bb2834782e",
    "julichbrain": "5eebef7a2aee12fd49f7409385b28579027fe748684b468133fef3dd5f259570",
    "lpba40": "59c8dfd72a9fc021241d41b7b7fd415385911e0d3d6ef05371badd7d1ed5a05c",
    "mori": "59d29b19131db756a6e6d59fc4a1d2329170fb777669b23fe4d29425ad6ecd54",
    "neuromorphometrics": "0abcb25b0f06c9d0e9229b2be4215a340ba08ad068f1cf29796f1c003c79c189",
    "schaefer100": "203697d7e99c2781d6018cb45539edde4a644248597606692216e633d9af3f90",
    "schaefer200": "ccaf22cb67d34a7db87cb6d193c24dfda6b88bb9044f100ecb90dcfba5462520",
    "schaefer400": "499d70327494febec2ee360e01f0b1288944f46268cf00f7e1efabebae2a4ca4",
    "schaefer600": "ea8a611e9322e37c2d01cbf67a05c49d1ce6f02603eba138ac0a7be85f2b1b47",
    "suit": "09e6525bcbddf9d35687c53c64d02ba02628ae18d58610ce8724651c416cb2e1",
    "thalamic_nuclei": "ab796595f05992ee5ee8b92237e7770d61e4aa25987714ec7ef5685673831fcd",
    "thalamus": "db495e90111827cd4d559e875d717e3ea9e511ef265ebb787fb6b0031916850b",
}
_LICENCES = {
    "hammers": "academic, non-commercial research after filling out its licence agreement (brain-development.org); "
    "no redistribution",
    "ibsr": "all rights reserved; no anatomical or morphological studies without explicit permission of the IBSR",
    "lpba40": "free for non-commercial use only; cite doi:10.1016/j.neuroimage.2007.09.031",
    "neuromorphometrics": "CC BY-NC: non-commercial use only, with attribution",
    "suit": "CC BY-NC 3.0: non-commercial use only, with attribution",
    "thalamic_nuclei": "CC BY 4.0: with attribution",
    "thalamus": "all rights reserved (Lausanne)",
}
SOURCES = {
    name: AtlasSource(re.sub(r"^schaefer(\d+)$", r"Schaefer2018_\1Parcels_17Networks_order", name), digest,
                      _LICENCES.get(name, _NO_NOTE))
    for name, digest in _SHA256.items()
}  # fmt: skip


@dataclass(frozen=True)
class Atlas:
    """A label image with names.

    Attributes
    ----------
    name : str
        E.g. ``"lpba40"``; the file's stem for a user's own atlas.
    image : Volume, (1, X, Y, Z)
        Integer labels in template space (0: background).
    table : DataFrame
        One row per label, indexed by `label` (int): hemisphere (left, right, both), name, region (the name shared by
        a left and right pair). Every label of the image has a row.
    absent : tuple of int
        Labels of the table that the image lacks.
    licence : str
        What the authors allow.
    tissues : tuple of str
        Tissues whose volumes in its labels mean something: white matter only for tracts.
    """

    name: str
    image: Volume
    table: pd.DataFrame
    absent: tuple[int, ...]
    licence: str
    tissues: tuple[str, ...] = tuple(map_kinds.TISSUES)


@dataclass(frozen=True)
class SoftAtlas(Atlas):
    """An atlas of probabilities: `image` (n_labels, X, Y, Z), 0 to 1, in the order of `table`; regions may overlap."""


def load_atlas(atlas: str | Path) -> Atlas:
    """Load a known atlas, or a label image with its table beside it.

    Parameters
    ----------
    atlas : str or path
        One of `SOURCES`, or the path of a label image (``.nii``, ``.nii.gz``, ``.mgz``) in template space. Its label
        table lies beside it: ``NAME.tsv`` (or ``.csv``) with the columns `label` (or `index`, as in BIDS) and `name`
        (or CAT12's `ROIid` and `ROIname`), optionally `hemisphere` and `region`; or a FreeSurfer colour table
        (``NAME.txt``, ``NAME.ctab``, ``FreeSurferColorLUT.txt``), which may have labels that the image lacks. An image
        with several volumes is a :class:`SoftAtlas`: probabilities (0 to 1, or percent), label n for the nth volume.

    Raises
    ------
    AssetError
        If the name is unknown, or the file in the wheel differs from the tested one.
    ScanError
        If the image is unreadable or a value is not a whole number.
    TableError
        If the table is missing, lacks a column, or has two rows for a label.
    """
    if Path(atlas).name.endswith(IMAGE_SUFFIXES):
        return _own_atlas(Path(atlas))
    name = str(atlas).lower()
    if name == TRACTS:
        return _soft_atlas(TRACTS, project_file(TRACTS, "tracts72.nii.gz"), TRACTS_LICENCE)
    if name not in SOURCES:
        near = closest(name, (*SOURCES, TRACTS))
        hint = f"; did you mean {near}?" if near else ""
        msg = f"atlas {str(atlas)!r}: expected one of {', '.join((*SOURCES, TRACTS))}, or a label image (.nii.gz){hint}"
        raise AssetError(msg)
    source = SOURCES[name]
    path = assets.distribution_file(DISTRIBUTION, f"{FOLDER}/{source.stem}.nii.gz")
    digest = assets.sha256(path)
    if digest != source.sha256:
        msg = f"{path}: sha256 {digest[:12]}… differs from the tested {source.sha256[:12]}…; install the tested version"
        raise AssetError(msg)
    table_path = _project_table(name)
    table = wheel_table(source) if table_path is None else read_labels(table_path)
    return _join(name, io.read_volume(path), table, source.licence, str(path))


def _own_atlas(path: Path) -> Atlas:
    """Load a label image with its table beside it."""
    name = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    if max(io.read_shape(path)[3:], default=1) > 1:
        return _soft_atlas(name, path, "the user's own atlas")
    image = io.read_volume(path)
    names = [*(name + suffix for suffix in _TABLE_SUFFIXES), _FREESURFER_TABLE]
    table_path = next((path.with_name(each) for each in names if path.with_name(each).is_file()), None)
    if table_path is None:
        msg = (
            f"{path}: expected its label table {path.with_name(names[0])} (columns label and name), or a FreeSurfer "
            f"colour table ({name}.txt, {_FREESURFER_TABLE}) beside it"
        )
        raise TableError(msg)
    table = read_colours(table_path)
    if table is None:
        return _join(name, image, read_labels(table_path), "the user's own atlas", str(path))
    held = table[table["label"].isin(torch.unique(image.data).tolist())]
    if (held["label"] > 0).sum() == 0:
        msg = f"{table_path}: none of its labels is in {path}; expected the colour table of this image"
        raise TableError(msg)
    return _join(name, image, by_label(held, str(table_path)), "the user's own atlas", str(path))


_MOST_SHARE, _LEAST_PERCENT = 1.05, 10.0  # largest value: interpolation exceeds 1 a little; percent are far above


def _soft_atlas(name: str, path: Path, licence: str) -> SoftAtlas:
    """Load an image of several volumes of probabilities with its table beside it."""
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    tables = [path.with_name(stem + suffix) for suffix in (".tsv", ".csv")]
    table_path = next((each for each in tables if each.is_file()), None)
    if table_path is None:
        msg = f"{path}: expected the table of its volumes {tables[0]} (columns label, from 1, and name) beside it"
        raise TableError(msg)
    table, image = read_labels(table_path), io.read_channels(path)
    if list(table.index) != list(range(1, len(image.data) + 1)):
        what = f"labels 1 to {len(image.data)} in order, one for each volume of {path.name}"
        msg = f"{table_path}: expected {what}, got {len(table)} rows from {table.index[0]} to {table.index[-1]}"
        raise TableError(msg)
    low, high = float(image.data.min()), float(image.data.max())  # NaN if any value is
    if not (low >= 0 and 0 < high <= 100) or _MOST_SHARE < high < _LEAST_PERCENT:
        msg = f"{path}: expected probabilities (0 to 1, or percent), got values from {low:g} to {high:g}"
        raise ScanError(msg)
    data = image.data / 100 if high > _MOST_SHARE else image.data.clamp(max=1.0)
    tissues = ("wm",) if stem == TRACTS else tuple(map_kinds.TISSUES)
    return SoftAtlas(name, Volume(data, image.grid), table, (), licence, tissues)


def project_file(name: str, file: str) -> Path:
    """``atlases/<name>/<file>``: in the package if installed, at the repository's root if editable."""
    package = Path(str(resources.files("vbmstat")))
    installed = package / "atlases" / name / file
    return installed if installed.is_file() else package.parent / "atlases" / name / file


def _project_table(name: str) -> Path | None:
    """The project's label table of an atlas; None if it has none."""
    path = project_file(name, "labels.tsv")
    return path if path.is_file() else None


def wheel_table(source: AtlasSource, names: Mapping[int, str] | None = None) -> pd.DataFrame:
    """The label table in the wheel (csv with semicolons; columns ROIid, ROIname), indexed by label.

    Parameters
    ----------
    source : AtlasSource
        The atlas.
    names : mapping of int to str, optional
        Names that replace or complete those of the csv.
    """
    path = assets.distribution_file(DISTRIBUTION, f"{FOLDER}/{source.stem}.csv")
    raw = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False)
    named = {int(label): name for label, name in zip(raw["ROIid"], raw["ROIname"], strict=True)} | dict(names or {})
    if raw["ROIid"].duplicated().any():
        msg = f"{path}: a label has two rows; install the tested version of {DISTRIBUTION}"
        raise AssetError(msg)
    table = with_sides(pd.DataFrame({"label": list(named), "name": list(named.values())}))
    return table.set_index("label")[["hemisphere", "name", "region"]]


def _join(name: str, image: Volume, table: pd.DataFrame, licence: str, source: str) -> Atlas:
    """Join image and table; labels without a name are called ``label N``."""
    values = torch.unique(image.data)
    broken = values[(values != values.round()) | (values < 0)]
    if len(broken):
        msg = (
            f"{source}: expected whole-number labels, got {float(broken[0]):g}; "
            "the image was interpolated or saved with a scaling factor; save it as integers"
        )
        raise ScanError(msg)
    labels = [int(label) for label in values if label > 0]
    if not labels:
        msg = f"{source}: expected labels above 0, but the image has none"
        raise ScanError(msg)
    table = table.drop(index=0, errors="ignore")  # the background
    for label in labels:
        if label not in table.index:
            table.loc[label] = ["both", f"label {label}", f"label {label}"]
    absent = tuple(int(label) for label in table.index if label not in set(labels))
    return Atlas(name, image, table, absent, licence)


def atlas_record(atlas: Atlas | Path | str) -> Any:
    """An atlas by its name, or by name and sha256 of its file; None for one in memory."""
    if isinstance(atlas, Atlas):
        return None
    return file_record(atlas) if Path(atlas).suffix in (".nii", ".gz", ".mgz") else str(atlas)


def licence_notice(atlas: Atlas) -> str:
    """What the authors of an atlas allow, in one line."""
    overlap = " Its regions overlap: their volumes are not additive." if isinstance(atlas, SoftAtlas) else ""
    return f"Atlas {atlas.name}: {atlas.licence}.{overlap}"
