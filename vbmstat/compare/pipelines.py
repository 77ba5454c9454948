"""Inputs of a comparison of cohorts: the scans that all pipelines have, their maps, covariates, TIV and times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.compare.config import TISSUES, CohortPlan, ComparisonPlan
from vbmstat.errors import TableError, listed
from vbmstat.files import map_kinds, map_names, naming
from vbmstat.files.runlog import scan_times
from vbmstat.image import io, storage
from vbmstat.image.smooth import smooth_map
from vbmstat.maps.sources import map_folders
from vbmstat.maps.volumes import tiv_of_cat
from vbmstat.metrics import agreement
from vbmstat.progress import OnProgress, ignore
from vbmstat.tables.cohort import ID_COLUMNS, join_participants, read_cohort
from vbmstat.tables.selection import Selection, select_ids

_OF_PIPELINE = ("tiv_ml", "engine", "vbmstat_version")  # columns that differ between pipelines
_NOT_COVARIATES = (*_OF_PIPELINE, "gm_ml", "wm_ml", "csf_ml", "scan", "came_stripped")


@dataclass(frozen=True)
class CohortData:
    """A cohort in several pipelines."""

    name: str
    scans: tuple[str, ...]  # scans in every pipeline and the table of covariates, sorted
    covariates: pd.DataFrame  # one row per scan (index)
    # the first is the reference. One row per scan (index): tiv_ml, engine, vbmstat_version, seconds, and the paths of
    # its modulated maps by tissue, unsmoothed (``gm``) and as the pipeline smoothed them (``gm_smoothed``); missing if
    # unknown
    pipelines: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...]  # what was left out
    is_pooled: bool = False  # whether scans have ids COHORT_SCAN

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The reference paired with each other pipeline."""
        first, *others = self.pipelines
        return [(first, other) for other in others]

    def table(self, pipeline: str) -> pd.DataFrame:
        """Covariates with the pipeline's own TIV, engine and version."""
        return self.covariates.join(self.pipelines[pipeline][list(_OF_PIPELINE)].dropna(axis=1, how="all"))

    def maps(self, pipeline: str, column: str) -> dict[str, Path]:
        """Paths in a column of maps by scan, without missing ones."""
        return dict(self.pipelines[pipeline][column].dropna())


@dataclass(frozen=True)
class MapSet:
    """One pipeline's smoothed maps of a tissue, by scan."""

    data: CohortData
    pipeline: str
    tissue: str
    paths: Mapping[str, Path]


def by_scan(maps: Mapping[str, Path]) -> dict[str, Path]:
    """Maps by scan id (participant and session) if these are unique, else by stem.

    Examples
    --------
    >>> list(by_scan({"sub-1_T1w": Path("a.nii"), "chris_T1w": Path("b.nii")}))
    ['sub-1', 'chris']
    """
    ids = {stem: naming.scan_id(naming.split_ids(stem)) for stem in maps}
    if len(set(ids.values())) < len(ids):
        ids = {stem: stem for stem in maps}
    return {ids[stem].removesuffix("_T1w"): path for stem, path in maps.items()}


def load_cohort(plan: CohortPlan, tissues: Sequence[str]) -> CohortData:
    """Find maps, covariates and volumes of a cohort that is not pooled.

    Raises
    ------
    ScanError, TableError
        If a pipeline has no maps of a tissue, no scan is in all pipelines and the table, or maps are of several
        longitudinal models.
    """
    pipelines = {name: _pipeline(folder, tissues) for name, folder in plan.pipelines.items()}
    notes: list[str] = []
    scans: list[str] = []
    for number, (name, pipeline) in enumerate(pipelines.items()):
        has = list(pipeline.index)
        if not has:
            lacking = ", ".join(f"mwp{TISSUES[tissue]}*" for tissue in tissues)
            msg = f"{plan.name}: {plan.pipelines[name]} ({name}) has no scan with all of {lacking}"
            raise TableError(msg)
        scans = has if number == 0 else agreement.match_ids(scans, has)
    source = plan.participants or next(iter(plan.pipelines.values())) / "cohort.tsv"
    places = [folder for path in (*plan.pipelines.values(), source.parent) for folder in map_folders(path)]
    selected = select_ids(scans, Selection(), places)
    scans = selected.scan_ids
    notes += [f"{plan.name}: {note}" for note in selected.notes]
    people = read_cohort(source).table
    index = pd.MultiIndex.from_tuples([naming.split_ids(scan) for scan in scans], names=list(ID_COLUMNS))
    joined, without = join_participants(pd.DataFrame(index=index), people, str(source))
    joined.index = pd.Index(scans, name="scan_id")
    lost = set(without)
    keep = sorted(scan for scan, key in zip(scans, index, strict=True) if naming.scan_id(key) not in lost)
    if lost:
        notes.append(f"{plan.name}: {len(lost)} scans have no row in {source.name} ({listed(sorted(lost))})")
    for name, pipeline in pipelines.items():
        spare = [scan for scan in pipeline.index if scan not in set(keep)]
        if spare:
            notes.append(f"{plan.name}: {name} has {len(spare)} more scans ({listed(spare)})")
    pipelines = {name: pipeline.loc[keep] for name, pipeline in pipelines.items()}
    columns = [column for tissue in tissues for column in (tissue, f"{tissue}_smoothed")]
    map_names.refuse_mixed_models(
        path for pipeline in pipelines.values() for column in columns for path in pipeline[column].dropna()
    )
    names = [str(column) for column in joined]
    drop = [
        name for name in names if name in _NOT_COVARIATES or name.startswith("qc_") or map_kinds.is_map_column(name)
    ]
    return CohortData(plan.name, tuple(keep), joined.loc[keep].drop(columns=drop), pipelines, tuple(notes))


def _pipeline(folder: Path, tissues: Sequence[str]) -> pd.DataFrame:
    """Scans in a folder that have an unsmoothed or smoothed map of every tissue."""
    stems: dict[str, str] = {}
    maps = {}
    for tissue in tissues:
        for column, smoothed in ((tissue, False), (f"{tissue}_smoothed", True)):
            found = map_names.find_maps(folder, TISSUES[tissue], smoothed)
            maps[column] = pd.Series(by_scan(found), dtype=object)
            stems |= dict(zip(maps[column].index, found, strict=True))
    paths = pd.DataFrame(maps).sort_index()
    for tissue in tissues:
        paths = paths[paths[[tissue, f"{tissue}_smoothed"]].notna().any(axis=1)]
    return scan_rows(folder, {scan: stems[scan] for scan in paths.index}).join(paths)


def scan_rows(folder: Path, stems: Mapping[str, str]) -> pd.DataFrame:
    """TIV (mL), engine, version and seconds of each scan, from the files in a folder.

    This program's sidecars (``report/vbmstat_*.json``) and log take precedence, then ``cohort.tsv`` or ``volumes.tsv``
    (columns participant_id, tiv_ml), then CAT12's ``report/cat_*.xml``.

    Parameters
    ----------
    folder : Path
        Output folder.
    stems : mapping of str to str
        Scan id to stem of its file names.
    """
    rows: dict[str, dict[str, Any]] = {scan: {} for scan in stems}
    reports = [folder / "report", folder.parent / "report", folder]
    tables = [path for path in (folder / "cohort.tsv", folder / "volumes.tsv") if path.is_file()]
    volumes = {path: read_cohort(path) for path in tables}
    times = {**scan_times(folder.parent), **scan_times(folder)}
    for scan, stem in stems.items():
        row = rows[scan]
        if stem in times:
            row["seconds"] = sum(float(value) for value in times[stem]["seconds"].values()) or None
        for place in reports:
            row |= {key: value for key, value in _sidecar(place / f"vbmstat_{stem}.json").items() if key not in row}
        for cohort in volumes.values():
            for key in ("tiv_ml", "engine", "vbmstat_version"):
                if key not in row and key in cohort.table and scan in cohort.scan_ids:
                    row[key] = cohort.table[key].iloc[cohort.scan_ids.index(scan)]
        for place in reports:
            if row.get("tiv_ml") is None:
                row["tiv_ml"] = tiv_of_cat(place, stem)
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=[*_OF_PIPELINE, "seconds"])
    table.index.name = "scan_id"
    return table


def _sidecar(path: Path) -> dict[str, Any]:
    try:
        content = storage.read_json(path)
        return {
            "tiv_ml": float(content["row"]["tiv_ml"]), "engine": content["engine"],
            "vbmstat_version": content["versions"]["vbmstat"],
        }  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def pool_cohorts(name: str, members: Sequence[CohortData]) -> CohortData:
    """Pool cohorts: scans get ids COHORT_SCAN, and a column ``cohort``.

    Raises
    ------
    TableError
        If the members do not have two pipelines in common.
    """
    common = [key for key in members[0].pipelines if all(key in member.pipelines for member in members)]
    if len(common) < 2:
        have = "; ".join(f"{member.name}: {', '.join(member.pipelines)}" for member in members)
        msg = f"{name}: expected at least two pipelines with the same names in all pooled cohorts ({have})"
        raise TableError(msg)
    covariates = _pooled([(member.name, member.covariates.assign(cohort=member.name)) for member in members])
    pipelines = {key: _pooled([(member.name, member.pipelines[key]) for member in members]) for key in common}
    return CohortData(name, tuple(covariates.index), covariates, pipelines, (), is_pooled=True)


def _pooled(tables: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Tables of scans under one another, each scan as COHORT_SCAN."""
    pooled = pd.concat([table.set_axis([f"{name}_{scan}" for scan in table.index]) for name, table in tables])
    return pooled.rename_axis("scan_id").sort_index()


def smoothed_maps(
    data: CohortData, pipeline: str, tissue: str, plan: ComparisonPlan, report: OnProgress = ignore
) -> tuple[MapSet, str | None]:
    """Smoothed maps of all scans: the pipeline's own if their names give the plan's FWHM, else smoothed here.

    Parameters
    ----------
    data : CohortData
        The cohort.
    pipeline, tissue : str
        Pipeline and tissue of the maps.
    plan : ComparisonPlan
        With the FWHM; maps are smoothed to its folder ``smoothed``, where those newer than their source are kept.
    report : callable
        Called with (stage, done, total).

    Returns
    -------
    MapSet, str or None
        The maps, and a note on maps whose name does not give this smoothing.
    """
    fwhm_mm, raw, smoothed = plan.fwhm_mm, data.maps(pipeline, tissue), data.maps(pipeline, f"{tissue}_smoothed")
    named = {scan: map_names.parse_map_name(path.name) for scan, path in smoothed.items()}
    own = {scan: smoothed[scan] for scan, name in named.items() if name and name.fwhm_mm == fwhm_mm}
    if set(own) >= set(data.scans):
        return MapSet(data, pipeline, tissue, {scan: own[scan] for scan in data.scans}), None
    if not set(raw) >= set(data.scans):
        note = f"{data.name}: {pipeline}'s {tissue} maps are used as they are; their names do not say s{fwhm_mm:g}"
        every = raw | smoothed
        return MapSet(data, pipeline, tissue, {scan: every[scan] for scan in data.scans}), note
    made = {}
    for done, scan in enumerate(data.scans, 1):
        name = scan if data.is_pooled else f"{data.name}_{scan}"  # the same file, pooled or not
        made[scan] = (
            plan.out / "smoothed" / pipeline / f"{map_kinds.smoothed_kind(fwhm_mm, TISSUES[tissue])}{name}.nii.gz"
        )
        if not made[scan].is_file() or made[scan].stat().st_mtime < raw[scan].stat().st_mtime:
            io.write_volume(made[scan], smooth_map(io.read_volume(raw[scan]), fwhm_mm), description="smoothed map")
        report(f"smoothing {pipeline} {tissue}", done, len(data.scans))
    return MapSet(data, pipeline, tissue, made), None
