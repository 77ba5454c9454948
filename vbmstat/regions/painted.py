"""Results of regions as images: each voxel of the atlas gets its region's statistic or p."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vbmstat.image.volume import Volume
from vbmstat.lazy import torch
from vbmstat.roi.atlas import Atlas, SoftAtlas

_IN_TRACT = 0.5  # least probability of a soft region in a picture


class Painted(NamedTuple):
    """An image of one column of the table."""

    stat: str  # ``t``, ``F``, ``pfwe`` or ``qfdr``
    # (1, X, Y, Z): on the atlas's grid; outside all regions, and in those without a value, 0, or 1 for p
    volume: Volume
    # NIfTI intent and its parameters; none for a statistic whose degrees of freedom differ between regions
    intent: tuple[str, tuple[float, ...]] | None


def painted_maps(rows: pd.DataFrame, contrast: Mapping[str, Any], atlas: Atlas) -> Iterator[Painted]:
    """The statistic of a contrast and its p corrected over the regions (FWE if there is one, else FDR), painted.

    Parameters
    ----------
    rows : DataFrame
        Rows of the contrast in the table of a model of regions.
    contrast : mapping
        Its ``kind`` and ``weights``, as in ``glm.json``.
    atlas : Atlas
        The atlas. Of a soft one, a voxel belongs to its most probable region, if that has .5 or more there.
    """
    kind, df = contrast["kind"], rows["df"].dropna().unique()
    intent = None
    if len(df) == 1:
        of_kind = ("t test", ()) if kind == "t" else ("f test", (float(len(contrast["weights"])),))
        intent = (of_kind[0], (*of_kind[1], float(df[0])))
    yield Painted(kind, paint(rows, "value", atlas), intent)
    stat, column = ("pfwe", "p_fwe") if rows.get("p_fwe", pd.Series()).notna().any() else ("qfdr", "q_fdr")
    yield Painted(stat, paint(rows, column, atlas, outside=1.0), ("p value", ()))


def paint(rows: pd.DataFrame, column: str, atlas: Atlas, outside: float = 0.0) -> Volume:
    """One column of a table of labels or of merged regions, painted on the atlas; float32, (1, X, Y, Z)."""
    unit = "label" if "label" in rows else "region"
    known = dict(zip(rows[unit], rows[column].fillna(outside), strict=True))
    of_label = {label: label if unit == "label" else region for label, region in atlas.table["region"].items()}
    values = np.full(max(atlas.table.index) + 1, outside, dtype=np.float32)
    for label, name in of_label.items():
        values[label] = known.get(name, outside)
    return Volume(torch.from_numpy(values[_hard_labels(atlas).numpy()])[None], atlas.image.grid)


def _hard_labels(atlas: Atlas) -> torch.Tensor:
    """Label of each voxel, (X, Y, Z), int64; 0 outside."""
    if not isinstance(atlas, SoftAtlas):
        return atlas.image.data[0].long()
    most, at = atlas.image.data.max(dim=0)
    return torch.where(most >= _IN_TRACT, at + 1, 0)
