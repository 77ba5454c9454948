"""Linear models of atlas regions: ``glm`` on the volumes of ``roi``, as one tidy table. Long by its docstrings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vbmstat.assets.provenance import file_record
from vbmstat.errors import DesignError, ScanError, listed
from vbmstat.files.naming import MAP_NUMBER
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.formula import split_formula
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.design.subsets import write_draws
from vbmstat.glm.design.tiv import uses_tiv
from vbmstat.glm.keywords import as_spec, check_types, split_keywords, with_keywords
from vbmstat.glm.record import RECORD, SCANS, data_record, file_records
from vbmstat.glm.results import GlmResults
from vbmstat.glm.spec import VARIANCES, Compute, Contrasts, ModelSpec
from vbmstat.glm.variance.strategy import choose_variance
from vbmstat.image import storage
from vbmstat.maps.kinds import with_unsmoothed_maps
from vbmstat.maps.sources import as_cohort, gather, map_folders, with_tiv
from vbmstat.progress import OnProgress, ignore
from vbmstat.regions.mixed_analysis import MixedResults, fit_mixed_glm
from vbmstat.roi.atlas import Atlas, load_atlas
from vbmstat.roi.output import licence_notice
from vbmstat.roi.table import TISSUE_COLUMNS, RoiTables, cohort_of_maps, measure_rois, volume_column
from vbmstat.tables import dictionary
from vbmstat.tables.cohort import Cohort, find_column
from vbmstat.tables.schema import tables
from vbmstat.tables.selection import ALL, Selection, is_left_out

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vbmstat.glm.keywords import GlmKeywords

LEVELS = ("roi", "region")
_LABEL_COLUMNS = ("label", "hemisphere", "name", "region")
_STATISTICS = {  # statistic of the fit -> column of the table
    "effect": "effect", "p": "p_uncorrected", "pfwe": "p_fwe", "r": "partial_r", "d": "cohens_d",
    "mediant": "median_t", "q25t": "q25_t", "q75t": "q75_t",
    "medianF": "median_f", "q25F": "q25_f", "q75F": "q75_f",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class RoiResults:
    """A model fitted to each region of an atlas.

    Attributes
    ----------
    table : DataFrame
        One row a region and contrast; columns as the data dictionary says.
    design : Design
        Rows are the scans that were used.
    draws : ndarray, (B, n_scans), bool
        The subsets; none for a mixed model.
    atlas : Atlas
        What was measured.
    record : dict
        All that is needed to repeat it.
    """

    table: pd.DataFrame
    design: Design
    draws: np.ndarray
    atlas: Atlas
    record: dict[str, Any]

    def __repr__(self) -> str:
        contrasts = ", ".join(map(str, self.table["contrast"].unique()))
        regions = len(self.table) // max(self.table["contrast"].nunique(), 1)
        return (
            f"RoiResults({self.record['formula']}: {len(self.design.scan_ids)} scans, {regions} regions of "
            f"{self.atlas.name}; contrasts: {contrasts})"
        )

    def _repr_html_(self) -> str:
        strongest = self.table.sort_values("p_uncorrected").groupby("contrast", sort=False).head(5)
        return f"<p>{escape(repr(self))}</p>{strongest.to_html(index=False, float_format='{:.4g}'.format)}"

    def to_directory(self, folder: Path | str) -> list[Path]:
        """Write the table with its data dictionary, the atlas's licence, the design, draws and ``glm.json`` (last).

        What an earlier model left in the folder is removed; see :meth:`vbmstat.glm.results.GlmResults.to_directory`.
        """
        with storage.replacing(folder, RECORD) as staged:
            written = self._write(staged)
        return [Path(folder) / path.relative_to(staged) for path in written]

    def _write(self, folder: Path) -> list[Path]:
        path = folder / f"roi_{self.atlas.name}_glm.tsv"
        licence = folder / f"roi_{self.atlas.name}_LICENCE.txt"
        written = [path, path.with_suffix(".json"), licence, folder / "design.tsv", folder / "design_report.tsv"]
        about = {
            "atlas": self.atlas.name, "licence": self.atlas.licence,
            "labels_absent_from_the_image": list(self.atlas.absent),
        }  # fmt: skip
        dictionary.write_table(path, self.table, "roi_glm", about=about)
        storage.write_text(licence, licence_notice(self.atlas) + "\n")
        dictionary.write_table(written[3], self.design.table, "design")
        dictionary.write_table(written[4], variance_inflation(self.design), "design_report")
        written.append(folder / SCANS)
        dictionary.write_table(written[-1], self.design.people, "model_scans")
        if len(self.draws):
            written.append(folder / "draws.tsv")
            write_draws(written[-1], self.draws, self.design.scan_ids)
        storage.write_json(folder / RECORD, self.record)
        return [*written, folder / RECORD]


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


@with_keywords
def fit_roi_glm(
    model: ModelSpec | str,
    cohort: Cohort | pd.DataFrame | Path | str,
    contrasts: Contrasts = None,
    *,
    regions: RegionSpec | None = None,
    compute: Compute | None = None,
    **keywords: Unpack[GlmKeywords],
) -> RoiResults:
    """Fit a linear model to the volume (mL) of each region of an atlas.

    Parameters
    ----------
    model : ModelSpec or str
        The model, or its formula, ``"gm ~ age + sex + tiv"``; the left side is ``gm``, ``wm``, ``csf`` or ``wmh``.
        A formula without ``inference=`` is given family-wise error if the variance permits permutations; the false
        discovery rate is always there.
    cohort : Cohort, DataFrame or path
        One row a scan, with covariates and (without ``regions.maps``) the columns ``mwp1`` … of unsmoothed modulated
        maps.
    contrasts : sequence of str or mapping, optional
        As for :func:`vbmstat.glm.analysis.fit_glm`.
    regions : RegionSpec, optional
        Atlas, level, random effect, folder of maps.
    compute : Compute, optional
        Where and how fast.
    **keywords
        As for :func:`vbmstat.glm.analysis.fit_glm`.

    Returns
    -------
    RoiResults

    Raises
    ------
    DesignError, TableError, ScanError, AssetError
        If the formula's left side is no tissue, an option is unknown, a scan cannot be measured, or as the steps say.
    """
    regions = regions or RegionSpec()
    random = regions.random
    check_types(keywords)
    of_model, of_compute = split_keywords(keywords)
    if isinstance(model, str) and "inference" not in of_model and random is None:
        variance = choose_variance(of_model.get("variance", VARIANCES[0]))
        of_model = {**of_model, "inference": "fwe" if variance.permutes else "fdr"}
    spec, compute = as_spec(model, contrasts, compute or of_compute, of_model)
    spatial = [kind for kind in spec.inference.kinds if kind in ("tfce", "cluster")]
    if spatial:
        msg = f"regions have no neighbours, so there is no {spatial[0]} inference on them: expected fdr or fwe"
        raise DesignError(msg)
    measured = region_volumes(spec, cohort, regions, compute.progress)
    spec, volumes, names, table, atlas = (
        measured.spec, measured.volumes, measured.names, measured.table, measured.atlas,
    )  # fmt: skip
    if random is not None:
        mixed = fit_mixed_glm(volumes, spec, table, random, compute.progress)
        design, record = mixed.design, mixed.record
        draws = np.empty((0, len(design.scan_ids)), dtype=bool)
        rows = mixed_table(mixed, names, _means(volumes, design))
    else:
        every = replace(spec, contrasts=spec.contrasts or "all")  # permutations of regions take a second
        fit = fit_glm(volumes, every, table, compute=compute)
        design, draws, record = fit.design, fit.draws, fit.record
        rows = tidy_table(fit, names, _means(volumes, design))
    record = {
        **record,
        "spec": replace(spec, selection=measured.selection).record(),
        "level": regions.level,
        "atlas": atlas.name,
        "atlas_licence": atlas.licence,
        "random": random,
    }
    record |= {"maps": file_records(measured.paths(design.scan_ids)), "data": data_record(regions.maps, cohort)}
    record["outputs"] = {"atlas": atlas_record(regions.atlas)}
    record["notes"] = [*measured.notes, *record["notes"]]
    return RoiResults(rows, design, draws, atlas, record)


@dataclass(frozen=True)
class RegionVolumes:
    """Volumes of an atlas's regions, ready for a model.

    Attributes
    ----------
    spec : ModelSpec
        The model, without its selection of scans, which was made.
    selection : Selection
        That selection.
    volumes : DataFrame, (n_scans, n_regions)
        mL, by scan id; columns are labels or regions.
    names : DataFrame
        Label, hemisphere, name and region of each column.
    table, source : Cohort
        The covariates, and the table of the maps.
    atlas : Atlas
        What was measured.
    notes : tuple of str
        What was left out.
    """

    spec: ModelSpec
    selection: Selection
    volumes: pd.DataFrame
    names: pd.DataFrame
    table: Cohort
    source: Cohort
    atlas: Atlas
    notes: tuple[str, ...]

    def paths(self, scan_ids: Sequence[str]) -> dict[str, Path]:
        """Maps of some scans."""
        kept = self.source.table[[scan in set(scan_ids) for scan in self.source.scan_ids]]
        maps = Cohort(kept, self.source.folder)
        column = TISSUE_COLUMNS[split_formula(self.spec.formula)[0]]
        return dict(zip(maps.scan_ids, maps.paths(column), strict=True))


def region_volumes(
    spec: ModelSpec, cohort: Any, regions: RegionSpec, progress: OnProgress | None = None
) -> RegionVolumes:
    """Measure the regions of a model; parameters and errors as in :func:`fit_roi_glm`."""
    tissue, maps = _tissue(spec.formula, regions.level), regions.maps
    recorded, table = spec.select(as_cohort(cohort), map_folders(maps))
    spec = replace(recorded, selection=ALL)
    source = with_unsmoothed_maps(table) if maps is None else _maps_of(table, maps)
    atlas = regions.atlas if isinstance(regions.atlas, Atlas) else load_atlas(regions.atlas)
    measured = measure_rois(source, atlas, [tissue], report=progress or ignore)
    volumes, names, notes = volume_matrix(measured, source.scan_ids, tissue, regions.level, spec.missing)
    if maps is not None:
        table, more = _with_tiv_of_maps(volumes, table, source, spec)
        notes += more
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
    tissue, right = split_formula(spec.formula)
    if find_column("tiv", table.table) is not None or not uses_tiv(right, spec.tiv, table.table.columns):
        return table, ()
    source, column = gather(volumes, tissue, table, spec.missing), TISSUE_COLUMNS[tissue]
    paths = {scan: maps.folder / str(path) for scan, path in zip(maps.scan_ids, maps.table[column], strict=True)}
    joined = with_tiv(replace(source, paths={scan: paths[scan] for scan in source.scan_ids}))
    return Cohort(joined.table, table.folder, path=table.path, flow=source.flow), joined.notes


def atlas_record(atlas: Atlas | Path | str) -> Any:
    """An atlas by its name, or by name and sha256 of its file; None for one in memory."""
    if isinstance(atlas, Atlas):
        return None
    return file_record(atlas) if Path(atlas).suffix in (".nii", ".gz", ".mgz") else str(atlas)


def _means(volumes: pd.DataFrame, design: Design) -> np.ndarray:
    return np.asarray(volumes.loc[list(design.scan_ids)].mean().to_numpy())


def _tissue(formula: str, level: str) -> str:
    if level not in LEVELS:
        msg = f"level={level!r}: expected one of {', '.join(LEVELS)} (or voxel, for maps)"
        raise DesignError(msg)
    tissue = split_formula(formula)[0]
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


def tidy_table(fit: GlmResults, names: pd.DataFrame, means: np.ndarray) -> pd.DataFrame:
    """One row a region and contrast, from a fit of a plain matrix (n_scans, n_regions); mean volumes in mL."""
    parts = []
    for contrast in fit.contrasts:
        values = {name: one.values for name, one in fit.maps[contrast.name].items()}
        part = names.assign(contrast=contrast.name, statistic=contrast.kind, mean_ml=means)
        for stat, column in _STATISTICS.items():
            if stat in values:
                part[column] = values[stat]
        part["value"] = values[contrast.kind]
        part["se"] = np.sqrt(values["variance"]) if contrast.kind == "t" else np.nan
        part["df"] = values.get("df", fit.df_resid)
        part["q_fdr"], part["p_holm"] = _adjusted(values["p"], fit.mask)
        approximated = fit.approximated(contrast.name).get("pfwe")
        if approximated is not None:
            part["approximated"] = ["p_fwe" if chosen else None for chosen in approximated]
        part.loc[~fit.mask, [c for c in part if c not in (*names, "contrast", "statistic", "mean_ml")]] = np.nan
        parts.append(part)
    return _in_order(parts)


def _in_order(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables one below the other, columns in the order of the data dictionary."""
    table = pd.concat(parts, ignore_index=True)
    return table[[column.name for column in tables()["roi_glm"].columns if column.name in table]]


def mixed_table(results: MixedResults, names: pd.DataFrame, means: np.ndarray) -> pd.DataFrame:
    """One row a region and contrast, from a mixed model whose columns are the regions; as :func:`tidy_table`."""
    fit, parts = results.fit, []
    total = fit.random_variance + fit.residual_variance
    for k, contrast in enumerate(results.contrasts):
        part = names.assign(contrast=contrast.name, statistic=contrast.kind, mean_ml=means)
        part = part.assign(effect=fit.effect[k], se=fit.se[k], value=fit.statistic[k], df=fit.df[k])
        part["p_uncorrected"] = fit.p[k]
        part["q_fdr"], part["p_holm"] = _adjusted(fit.p[k], np.isfinite(fit.p[k]))
        part["random_variance"], part["residual_variance"] = fit.random_variance, fit.residual_variance
        part["icc"], part["converged"] = fit.random_variance / total, fit.converged
        parts.append(part)
    return _in_order(parts)


def _adjusted(p: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Benjamini-Hochberg's q and Holm's p over the regions that vary."""
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415 - heavy imports

    adjusted = np.full((2, len(p)), np.nan)
    if mask.any():
        for row, method in zip(adjusted, ("fdr_bh", "holm"), strict=True):
            row[mask] = multipletests(p[mask], method=method)[1]
    return adjusted[0], adjusted[1]
