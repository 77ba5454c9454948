"""Tables of label and region volumes (mL) of a cohort, tidy and wide, each with its data dictionary.

Volumes are measured in template space (sums of modulated maps) or in each scan's own space (sums of its tissue
fractions in the labels warped there). A region is the sum of the labels that share its name: a left and right pair.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat.errors import ScanError, TableError, VbmstatError
from vbmstat.files import map_kinds, map_names, naming
from vbmstat.files.search import images_instead
from vbmstat.maps.kinds import with_unsmoothed_maps
from vbmstat.maps.origins import origins_of_maps, refuse_mixed_templates
from vbmstat.maps.sources import as_cohort
from vbmstat.progress import OnProgress, ignore
from vbmstat.roi.atlas import Atlas, SoftAtlas, load_atlas
from vbmstat.roi.images import measure_images
from vbmstat.roi.spaces import InScan, InTemplate, check_some_field
from vbmstat.tables.cohort import ID_COLUMNS, Cohort, closest
from vbmstat.tables.flow import Step

SPACES = ("template", "native")
TISSUE_COLUMNS = {name: f"mwp{number}" for name, number in map_kinds.MAP_NUMBER.items()}  # unsmoothed modulated maps
_ROWS_SHOWN = 10  # in a notebook


@dataclass(frozen=True)
class Native:
    """Measure in each scan's own space; the atlas on each scan's grid is written to `label_images`, if given."""

    label_images: Path | str | None = None


@dataclass(frozen=True, repr=False)
class RoiTables:
    """Volumes of a cohort in an atlas.

    Attributes
    ----------
    atlas : Atlas
        The atlas.
    labels : DataFrame
        One row per scan and label: participant_id, session_id, label, hemisphere, name, region, roi_gm_ml, roi_wm_ml,
        roi_csf_ml.
    regions : DataFrame
        One row per scan and region: participant_id, session_id, region, roi_gm_ml, roi_wm_ml,
        roi_csf_ml.
    failures : DataFrame
        Maps that could not be measured: scan_id, tissue, reason. Their volumes are missing.
    not_measured : tuple of str
        Tissues without any map in the cohort; their columns hold missing values.
    space : {"template", "native"}
        Where the volumes were measured.
    flow : tuple of Step
        Which scans took part.
    """

    atlas: Atlas
    labels: pd.DataFrame
    regions: pd.DataFrame
    failures: pd.DataFrame = field(default_factory=pd.DataFrame)
    not_measured: tuple[str, ...] = ()
    space: str = "template"
    flow: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        empty = f"; no maps of {', '.join(self.not_measured)}" if self.not_measured else ""
        failed = f"; {len(self.failures)} failures" if len(self.failures) else ""
        n_scans = len(self.labels.groupby([name for name in ID_COLUMNS if name in self.labels]))
        return (
            f"RoiTables({self.atlas.name}: {n_scans} scans, {len(self.atlas.table)} labels, "
            f"{self.regions['region'].nunique()} regions{empty}{failed})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.regions.head(_ROWS_SHOWN).to_html(index=False)}"

    @property
    def stem(self) -> str:
        """Start of the file names: ``roi_lpba40``, ``roi_lpba40_native``."""
        return stem(self.atlas.name, self.space)


def stem(atlas: str, space: str) -> str:
    """Start of the file names of an atlas's tables: ``roi_lpba40``, ``roi_lpba40_native``."""
    return f"roi_{atlas}" + ("_native" if space == "native" else "")


def volume_column(tissue: str) -> str:
    """Column of a tissue's volume in a label or region; ``gm_ml`` without ``roi_`` is the whole scan's."""
    return f"roi_{tissue}_ml"


def measure_rois(  # noqa: PLR0913 - keywords of one measurement
    cohort: Cohort | pd.DataFrame | Path | str,
    atlas: Atlas | str | Path = "lpba40",
    tissues: Sequence[str] | None = None,
    *,
    space: str | Native = "template",
    means: Sequence[str] = (),
    images: Sequence[str] = (),
    report: OnProgress = ignore,
) -> RoiTables:
    """Volumes (mL) of each label and merged region of an atlas, for every scan of a cohort.

    Parameters
    ----------
    cohort : Cohort, DataFrame or path
        With columns `mwp1`, `mwp2`, `mwp3`, `mwp7` (or `mwmwp1r`, `mwp1r` …), any of them: unsmoothed modulated maps
        in template space. Native space needs the scan's tissue maps (p1, p2, p3, p7) and ``iy_`` beside them.
    atlas : Atlas, str or path
        An atlas, its name, or a label image with its table (see :func:`vbmstat.roi.atlas.load_atlas`).
    tissues : sequence of str, optional
        Any of ``gm``, ``wm``, ``csf``, ``wmh``; by default those of the atlas (the first three; white matter for
        tracts), and hypointensities if there are maps of them.
    space : {"template", "native"} or Native
        Sum modulated maps in template space, or tissue fractions in the scan's own space.
    means : sequence of str
        Columns with maps in template space (tissue, FA, any) whose mean in each label is wanted too.
    images : sequence of str
        Images of the scans in their own space (PET, quantitative maps), whose mean, standard deviation and number of
        voxels in each label are wanted too: paths with ``{participant_id}``, ``{session_id}``, ``{scan_id}`` or
        ``{name}``. The atlas is carried to the image's own grid; the image is not resampled.
    report : callable, optional
        Called with (stage, done, total) after each scan.

    Returns
    -------
    RoiTables
        Labels that the atlas image lacks have missing values, not 0; maps that cannot be read give missing values and
        a row in `failures`.

    Raises
    ------
    TableError
        If the cohort has none of the map columns or mixes templates, or a tissue or the space is unknown.
    AssetError, ScanError
        If the atlas cannot be used, or native space is asked for and no scan has an inverse field.
    """
    cohort = with_unsmoothed_maps(as_cohort(cohort))
    refuse_mixed_templates(cohort.table)
    atlas = atlas if isinstance(atlas, Atlas) else load_atlas(atlas)
    if isinstance(tissues, str):
        tissues = [tissues]
    if tissues is None:
        tissues = [*atlas.tissues, *_present(cohort, [map_kinds.WMH])]
    unknown = [tissue for tissue in tissues if tissue not in TISSUE_COLUMNS]
    if unknown:
        msg = f"tissue {', '.join(unknown)}: expected {', '.join(TISSUE_COLUMNS)}"
        raise TableError(msg)
    if space not in SPACES and not isinstance(space, Native):
        msg = f"space {space!r}: expected {' or '.join(SPACES)}"
        raise TableError(msg)
    present = _present(cohort, tissues)
    if not present:
        wanted = ", ".join(TISSUE_COLUMNS[tissue] for tissue in tissues)
        near = closest(wanted.split(", ", maxsplit=1)[0], cohort.table.columns) or "none"
        msg = f"expected a column of unsmoothed modulated maps ({wanted}) in the table (nearest to the first: {near})"
        raise TableError(msg)
    absent = [column for column in means if column not in cohort.table]
    if absent:
        msg = f"no column {', '.join(absent)} of maps to average; the table has {', '.join(cohort.table)}"
        raise TableError(msg)
    in_template = InTemplate(atlas)
    measure: InTemplate | InScan = in_template
    if space != "template":
        check_some_field(cohort, [TISSUE_COLUMNS[tissue] for tissue in present])
        measure = InScan(atlas, space.label_images if isinstance(space, Native) else None)
    volumes, failures = _measure_scans(cohort, atlas, tissues, measure, report)
    labels = _label_table(cohort, atlas, tissues, volumes)
    keys = [column for column in (*ID_COLUMNS, "region", "additive") if column in labels]
    columns = [volume_column(tissue) for tissue in tissues]
    sums = labels.groupby(keys, sort=False)[columns].agg(lambda values: values.sum(skipna=False))  # all, or missing
    for column in means:
        average, volume, failed = _mean_in_scans(cohort, column, in_template)
        failures = pd.concat([failures, failed], ignore_index=True)
        parts = labels.assign(total=(average * volume).reshape(-1), weight=volume.reshape(-1))
        both = parts.groupby(keys, sort=False)[["total", "weight"]].agg(lambda values: values.sum(skipna=False))
        labels[f"{column}_mean"] = average.reshape(-1).round(6)
        sums[f"{column}_mean"] = both["total"] / both["weight"]
    of_images = measure_images(cohort, atlas, images, labels, keys)
    labels, sums = labels.assign(**of_images.labels), sums.assign(**of_images.regions)
    failures = pd.concat([failures, of_images.failures], ignore_index=True)
    regions = sums.round(6).reset_index()
    not_measured = tuple(tissue for tissue in tissues if tissue not in present)
    where = space if isinstance(space, str) else "native"
    return RoiTables(atlas, labels, regions, failures, not_measured, where, cohort.flow)


def cohort_of_maps(folder: Path | str, known: Container[str] = ()) -> Cohort:
    """A cohort of the unsmoothed modulated maps in a folder, with the names of any program in `files.map_names`.

    Parameters
    ----------
    folder : path
        Searched with its sub-folders.
    known : container of str
        Ids of the table that the scans will be joined to; see :func:`vbmstat.files.map_names.by_known_ids`.

    Raises
    ------
    ScanError
        If the folder has no such map, or maps of several kinds.
    """
    folder = Path(folder)
    if not folder.is_dir():
        msg = f"{folder}: no such folder"
        raise ScanError(msg)
    maps_of = {
        column: map_names.by_known_ids(map_names.find_maps(folder, number, smoothed=False, model="ageing"), known)
        for column, number in zip(TISSUE_COLUMNS.values(), map_kinds.MAP_NUMBER.values(), strict=True)
    }
    stems = sorted({stem for maps in maps_of.values() for stem in maps})
    if not stems:
        msg = (
            f"{folder}: no unsmoothed modulated map (mwp1*.nii.gz, mwc1*.nii, …), and smoothed ones give no volumes; "
            f"{images_instead(folder)}"
        )
        raise ScanError(msg)
    for kinds in filter(None, map(map_names.several_kinds, maps_of.values())):
        msg = f"{folder}: the maps are of several kinds ({kinds}); keep only one kind there"
        raise ScanError(msg)
    ids = [naming.split_ids(stem) for stem in stems]
    if len(set(ids)) < len(ids):
        ids = [(stem, "") for stem in stems]
    index = pd.MultiIndex.from_tuples(ids, names=list(ID_COLUMNS))
    rows = {
        column: [str(maps[stem].relative_to(folder)) if stem in maps else None for stem in stems]
        for column, maps in maps_of.items()
        if maps
    }
    first = [next(maps[stem] for maps in maps_of.values() if stem in maps) for stem in stems]
    origins = origins_of_maps(first)
    return Cohort(pd.DataFrame({**rows, **origins.to_dict("list")}, index=index), folder)


def _present(cohort: Cohort, tissues: Sequence[str]) -> list[str]:
    """Tissues with at least one map in the cohort."""
    columns = {tissue: TISSUE_COLUMNS[tissue] for tissue in tissues}
    return [t for t, column in columns.items() if column in cohort.table and cohort.table[column].notna().any()]


def _measure_scans(
    cohort: Cohort,
    atlas: Atlas,
    tissues: Sequence[str],
    measure: Callable[[Path, str], np.ndarray],
    report: OnProgress,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Volumes (n_scans, n_labels, n_tissues), NaN where not measured, and the failures."""
    volumes = np.full((len(cohort.table), len(atlas.table), len(tissues)), np.nan)
    failures = []
    for row, scan_id in enumerate(cohort.scan_ids):
        for tissue in _present(cohort, tissues):
            entry = cohort.table[TISSUE_COLUMNS[tissue]].iloc[row]
            try:
                if pd.isna(entry):
                    msg = f"no {TISSUE_COLUMNS[tissue]} path in its row"
                    raise TableError(msg)
                volumes[row, :, tissues.index(tissue)] = measure(cohort.folder / str(entry), tissue)
            except VbmstatError as error:
                failures.append({"scan_id": scan_id, "tissue": tissue, "reason": str(error)})
        report("measuring regions", row + 1, len(cohort.table))
    missing = atlas.table.index.isin(atlas.absent)
    volumes[:, missing] = np.nan
    return volumes, pd.DataFrame(failures, columns=["scan_id", "tissue", "reason"])


def _mean_in_scans(cohort: Cohort, column: str, measure: InTemplate) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Means of the maps of a column and the volumes behind them, (n_scans, n_labels) each; failures."""
    shape = len(cohort.table), len(measure.atlas.table)
    mean, volume, failures = np.full(shape, np.nan), np.full(shape, np.nan), []
    for row, scan_id in enumerate(cohort.scan_ids):
        entry = cohort.table[column].iloc[row]
        try:
            if pd.isna(entry):
                msg = f"no {column} path in its row"
                raise TableError(msg)
            mean[row], volume[row] = measure.mean(cohort.folder / str(entry))
        except VbmstatError as error:
            failures.append({"scan_id": scan_id, "tissue": column, "reason": str(error)})
    return mean, volume, pd.DataFrame(failures, columns=["scan_id", "tissue", "reason"])


def _label_table(cohort: Cohort, atlas: Atlas, tissues: Sequence[str], volumes: np.ndarray) -> pd.DataFrame:
    """The tidy table, scans in the cohort's order and labels in the atlas's."""
    n_scans, n_labels = volumes.shape[:2]
    ids = cohort.table.index.to_frame(index=False)
    if not ids["session_id"].any():
        ids = ids[["participant_id"]]
    left = ids.loc[np.repeat(np.arange(n_scans), n_labels)].reset_index(drop=True)
    names = atlas.table.reset_index()[["label", "hemisphere", "name", "region"]]
    if isinstance(atlas, SoftAtlas):
        names = names.assign(additive=False)
    middle = names.loc[np.tile(np.arange(n_labels), n_scans)].reset_index(drop=True)
    right = pd.DataFrame(volumes.reshape(n_scans * n_labels, -1), columns=[volume_column(tissue) for tissue in tissues])
    return pd.concat([left, middle, right.round(6)], axis=1)
