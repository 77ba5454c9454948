"""Means of images that users bring for their scans (PET, quantitative maps) in the labels of an atlas.

The atlas is carried to each image's own grid in the scan's space; the image is not resampled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat.errors import TableError, VbmstatError
from vbmstat.files import map_kinds, map_names, naming
from vbmstat.files.filenames import tell_apart
from vbmstat.files.lesion_masks import find_lesion_masks
from vbmstat.roi.atlas import Atlas
from vbmstat.roi.measure import moments
from vbmstat.roi.spaces import InScan
from vbmstat.tables.cohort import Cohort

_SUMS = ["n", "total", "squares"]


@dataclass(frozen=True)
class ImageColumns:
    """Columns ``NAME_mean``, ``NAME_sd``, ``NAME_voxels`` of the tables of labels and regions, and failures."""

    labels: dict[str, np.ndarray] = field(default_factory=dict)
    regions: dict[str, np.ndarray] = field(default_factory=dict)
    failures: pd.DataFrame = field(default_factory=pd.DataFrame)


def measure_images(
    cohort: Cohort, atlas: Atlas, images: Sequence[str], labels: pd.DataFrame, keys: Sequence[str]
) -> ImageColumns:
    """Mean, standard deviation and number of voxels of images in each label and region.

    Parameters
    ----------
    cohort : Cohort
        With a column of modulated maps, beside which the scans' warps are.
    atlas : Atlas
        The atlas.
    images : sequence of str
        Paths with ``{participant_id}``, ``{session_id}``, ``{scan_id}`` or ``{name}``.
    labels : DataFrame
        A row for each scan and label, in their order.
    keys : sequence of str
        Its columns that tell regions of scans apart.
    """
    of_labels, of_regions, failures = dict[str, np.ndarray](), dict[str, np.ndarray](), list[dict[str, str]]()
    for name, pattern in _named(images).items():
        sums = _sums_of_scans(cohort, name, pattern, InScan(atlas), failures)
        parts = labels[list(keys)].assign(**dict(zip(_SUMS, sums.reshape(3, -1), strict=True)))
        both = parts.groupby(list(keys), sort=False)[_SUMS].agg(lambda values: values.sum(skipna=False))
        for columns, summed in ((of_labels, sums.reshape(3, -1)), (of_regions, both.to_numpy().T)):
            for ending, values in zip(("mean", "sd", "voxels"), moments(summed), strict=True):
                columns[f"{name}_{ending}"] = values.round(6)
    return ImageColumns(of_labels, of_regions, pd.DataFrame(failures, columns=["scan_id", "tissue", "reason"]))


def _named(images: Sequence[str]) -> dict[str, str]:
    """Patterns by the name of their columns: the file's name without placeholders and suffix."""
    words = [re.sub(r"\{[^}]*\}", " ", naming.image_stem(Path(pattern))) for pattern in images]
    names = ["_".join(re.findall(r"[A-Za-z0-9]+", text)) or "image" for text in words]
    return dict(zip(tell_apart(names, [f"_{n}" for n in range(1, len(names) + 1)]), images, strict=True))


def _sums_of_scans(
    cohort: Cohort, name: str, pattern: str, measure: InScan, failures: list[dict[str, str]]
) -> np.ndarray:
    """Voxels, sums and sums of squares in each label of each scan, (3, n_scans, n_labels); failures are added."""
    sums = np.full((3, len(cohort.table), len(measure.atlas.table)), np.nan)
    column = next(
        column for column in cohort.table if map_kinds.is_map_column(column) and map_kinds.fwhm_of(column) is None
    )
    maps = [None if pd.isna(entry) else cohort.folder / str(entry) for entry in cohort.table[column]]
    scans = [_scan_of(path, ids) for path, ids in zip(maps, cohort.table.index, strict=True)]
    found = find_lesion_masks(pattern, scans, "--image")
    for row, (path, scan) in enumerate(zip(maps, scans, strict=True)):
        try:
            if path is None or scan not in found:
                msg = f"no {column} path in its row" if path is None else f"{pattern}: no image of this scan"
                raise TableError(msg)
            sums[:, row] = measure.sums(path, found[scan])
        except VbmstatError as error:
            failures.append({"scan_id": cohort.scan_ids[row], "tissue": name, "reason": str(error)})
    sums[:, :, measure.atlas.table.index.isin(measure.atlas.absent)] = np.nan
    return sums


def _scan_of(path: Path | None, ids: tuple[str, str]) -> naming.Scan:
    """The scan of a row: its ids, and the name that its map has."""
    parsed = None if path is None else map_names.parse_map_name(path.name)
    return naming.Scan(path or Path(), naming.scan_id(ids) if parsed is None else parsed.stem, *ids)
