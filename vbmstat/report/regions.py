"""A model of atlas regions in the report: its table, and each contrast painted on the atlas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vbmstat.figures import publication
from vbmstat.figures.view import View
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.report.model_folder import Model
from vbmstat.report.page import Picture, Table, publish, table_of
from vbmstat.tables.cohort import read_table

_LEVEL = 0.05  # of corrected p
_CORRECTED = {"pfwe": "family-wise error", "qfdr": "false discovery rate"}


def region_tables(model: Model) -> list[Table]:
    """Tables of a model of regions; none for one of voxels."""
    tables = []
    for path in model.roi_tables:
        frame = read_table(path).dropna(axis=1, how="all")
        caption = f"Regions of {model.record.get('atlas', 'the atlas')}; click a heading to sort ({path.name})"
        tables.append(table_of(frame, caption, lambda name: name.replace("_", " ")))
    return tables


def region_pictures(model: Model, folder: Path) -> list[Picture]:
    """Each contrast of a model of regions, painted on the atlas; none for voxels, and for results before painting."""
    pictures = []
    for contrast in model.record["contrasts"] if model.is_of_regions else []:
        kind, name = contrast["kind"], contrast["name"]
        corrected = next((stat for stat in _CORRECTED if _path(model, contrast, stat).is_file()), None)
        if corrected is None:
            continue
        statistic, p = (io.read_volume(_path(model, contrast, stat)) for stat in (kind, corrected))
        passes = Volume((p.data < _LEVEL).float(), p.grid)
        how = f"outlined: p < {_LEVEL:g}, corrected over the regions ({_CORRECTED[corrected]})"
        figure = publication.stat_map_figure(statistic, name, kind, view=View(contour_of=passes))
        caption = f"{name}: {kind} of each region of {model.record['atlas']}; {how}"
        pictures.append(publish(folder, f"contrast-{contrast['label']}_regions", figure, caption, caption))
    return pictures


def _path(model: Model, contrast: Mapping[str, Any], stat: str) -> Path:
    return model.folder / f"contrast-{contrast['label']}_stat-{stat}_roimap.nii.gz"
