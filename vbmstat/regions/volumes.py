"""Volumes of an atlas's regions, ready for a model: which atlas, which maps, which scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError, ScanError, listed
from vbmstat.files.map_kinds import MAP_NUMBER, TISSUES
from vbmstat.glm.data import refuse_mixtures
from vbmstat.glm.design.formula import split_change, split_formula
from vbmstat.glm.design.tiv import uses_tiv
from vbmstat.glm.spec import ModelSpec
from vbmstat.maps.kinds import with_unsmoothed_maps
from vbmstat.maps.sources import as_cohort, gather, map_folders, with_tiv
from vbmstat.progress import OnProgress, ignore
from vbmstat.roi.atlas import LEVELS, Atlas, SoftAtlas, load_atlas
from vbmstat.roi.table import TISSUE_COLUMNS, RoiTables, cohort_of_maps, measure_rois, volume_column
from vbmstat.tables.cohort import Cohort, find_column
from vbmstat.tables.selection import ALL, Selection, is_left_out

_LABEL_COLUMNS = ("label", "hemisphere", "name", "region")


@dataclass(frozen=True)
class RegionSpec:
    """What is measured, and the random effect.

    Attributes
    ----------
    atlas : Atlas, str or path
        See :func:`vbmstat.roi.atlas.load_atlas`.
    level : {"roi", "region"}
        One row a label (left and right apart), or a merged region.
    random : str, optional
        Column with the subject of each scan: a mixed model with a random intercept of each
        (:func:`vbmstat.regions.mixed.fit_mixed`) in place of least squares.
    maps : path, optional
        Folder of unsmoothed modulated maps of any program; the cohort then is the table of covariates.
    """

    atlas: Atlas | Path | str = "lpba40"
    level: str = "roi"
    random: str | None = None
    maps: Path | str | None = None


@dataclass(frozen=True)
class RegionVolumes:
    """Volumes of an atlas's regions, ready for a model."""

    spec: ModelSpec  # the model, without its selection of scans, which was made
    selection: Selection  # that selection
    volumes: pd.DataFrame  # (n_scans, n_regions): mL, by scan id; columns are labels or regions
    names: pd.DataFrame  # label, hemisphere, name and region of each column
    # the covariates, and the table of the maps
    table: Cohort
    source: Cohort
    atlas: Atlas
    notes: tuple[str, ...]  # what was left out

    def paths(self, scan_ids: Sequence[str]) -> dict[str, Path]:
        """Maps of some scans."""
        kept = self.source.table[[scan in set(scan_ids) for scan in self.source.scan_ids]]
        maps = Cohort(kept, self.source.folder)
        column = TISSUE_COLUMNS[split_change(split_formula(self.spec.formula)[0])[0]]
        return dict(zip(maps.scan_ids, maps.paths(column), strict=True))


def region_volumes(
    spec: ModelSpec, cohort: Any, regions: RegionSpec, progress: OnProgress | None = None
) -> RegionVolumes:
    """Measure the regions of a model; parameters and errors as in :func:`vbmstat.regions.models.fit_roi_glm`."""
    tissue, maps = _tissue(spec.formula, regions.level), regions.maps
    recorded, table = spec.select(as_cohort(cohort), map_folders(maps))
    spec = replace(recorded, selection=ALL)
    source = with_unsmoothed_maps(table) if maps is None else _maps_of(table, maps)
    refuse_mixtures(source.table, spec.allow_mixed)
    atlas = regions.atlas if isinstance(regions.atlas, Atlas) else load_atlas(regions.atlas)
    measured = measure_rois(source, atlas, [tissue], report=progress or ignore)
    volumes, names, notes = volume_matrix(measured, source.scan_ids, tissue, regions.level, spec.missing)
    if maps is not None:
        table, more = _with_tiv_of_maps(volumes, table, source, spec)
        notes += more
    if isinstance(atlas, SoftAtlas):
        notes += (f"regions of {atlas.name} overlap: an effect in one shows in others that share its voxels",)
    if tissue in TISSUES and tissue not in atlas.tissues:
        notes += (
            f"{atlas.name} is made for {' and '.join(atlas.tissues)}: {tissue} in its regions is that of neighbours",
        )
    return RegionVolumes(spec, recorded.selection, volumes, names, table, source, atlas, tuple(notes))


def _maps_of(table: Cohort, maps: Path | str) -> Cohort:
    """The maps of a folder, without those of scans that the selection leaves out."""
    found = cohort_of_maps(maps, {*table.scan_ids, *table.left_out})
    kept = [not is_left_out(scan, table.left_out) for scan in found.scan_ids]
    return replace(found, table=found.table[kept])


def _with_tiv_of_maps(
    volumes: pd.DataFrame, table: Cohort, maps: Cohort, spec: ModelSpec
) -> tuple[Cohort, tuple[str, ...]]:
    """Covariates of the scans with TIV from the files beside the maps, and notes; the table itself if it has TIV."""
    response, right = split_formula(spec.formula)
    tissue = split_change(response)[0]
    if find_column("tiv", table.table) is not None or not uses_tiv(right, spec.tiv, table.table.columns):
        return table, ()
    source, column = gather(volumes, tissue, table, spec.missing), TISSUE_COLUMNS[tissue]
    paths = {scan: maps.folder / str(path) for scan, path in zip(maps.scan_ids, maps.table[column], strict=True)}
    joined = with_tiv(replace(source, paths={scan: paths[scan] for scan in source.scan_ids}))
    return Cohort(joined.table, table.folder, path=table.path, flow=source.flow), joined.notes


def _tissue(formula: str, level: str) -> str:
    if level not in LEVELS:
        msg = f"level={level!r}: expected one of {', '.join(LEVELS)} (or voxel, for maps)"
        raise DesignError(msg)
    tissue = split_change(split_formula(formula)[0])[0]
    if tissue not in MAP_NUMBER:
        msg = f"formula: {tissue!r} on the left; regions are measured in {', '.join(MAP_NUMBER)}"
        raise DesignError(msg)
    return tissue


def volume_matrix(
    measured: RoiTables, scan_ids: Sequence[str], tissue: str, level: str, missing: str
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Volumes in mL (n_scans, n_regions) by scan id, the regions' names (a row each), and notes on what was left out.

    Raises
    ------
    ScanError
        If a scan could not be measured and `missing` is ``"raise"``, or none could.
    """
    tidy = measured.labels if level == "roi" else measured.regions
    columns = [name for name in _LABEL_COLUMNS if name in tidy]
    n_regions = len(tidy) // len(scan_ids)
    names = tidy[columns].iloc[:n_regions].reset_index(drop=True)
    values = tidy[volume_column(tissue)].to_numpy(dtype=np.float64).reshape(len(scan_ids), n_regions)
    features = names["label" if level == "roi" else "region"].astype(str)
    failed = dict(zip(measured.failures["scan_id"], measured.failures["reason"], strict=True))
    ok = np.array([scan not in failed for scan in scan_ids])
    notes = []
    if failed and (missing == "raise" or not ok.any()):
        scan, reason = next(iter(failed.items()))
        more = f"; also {listed(list(failed)[1:])}" if len(failed) > 1 else ""
        msg = f"{scan} cannot be measured: {reason}{more}; make these maps again, or leave them out with --missing drop"
        raise ScanError(msg)
    if failed:
        notes.append(f"left out {len(failed)} scans that could not be measured: {', '.join(failed)}")
    present = np.isfinite(values[ok]).all(axis=0)
    if not present.all():
        notes.append(f"the atlas image lacks {listed(features[~present].tolist())}; no row for them")
    volumes = pd.DataFrame(values[ok][:, present], index=list(np.array(scan_ids)[ok]), columns=features[present])
    return volumes, names[present].reset_index(drop=True), notes
