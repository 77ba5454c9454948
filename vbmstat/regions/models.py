"""Linear models of atlas regions: ``glm`` on the volumes of ``roi``, as one tidy table and painted maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.formula import split_change, split_formula
from vbmstat.glm.design.inflation import variance_inflation
from vbmstat.glm.design.matrix import Design
from vbmstat.glm.design.subsets import write_draws
from vbmstat.glm.keywords import as_spec, check_types, split_keywords, with_keywords
from vbmstat.glm.record import RECORD, SCANS, data_record, file_records
from vbmstat.glm.spec import VARIANCES, Compute, Contrasts, ModelSpec
from vbmstat.glm.variance.strategy import choose_variance
from vbmstat.image import io, storage
from vbmstat.regions.mixed_analysis import fit_mixed_glm
from vbmstat.regions.painted import painted_maps
from vbmstat.regions.tables import mixed_table, tidy_table
from vbmstat.regions.volumes import RegionSpec, region_volumes
from vbmstat.roi.atlas import Atlas, atlas_record, licence_notice
from vbmstat.tables import dictionary
from vbmstat.tables.cohort import Cohort

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from vbmstat.glm.keywords import GlmKeywords


@dataclass(frozen=True, repr=False)
class RoiResults:
    """A model fitted to each region of an atlas."""

    table: pd.DataFrame  # one row a region and contrast; columns as the data dictionary says
    design: Design  # rows are the scans that were used
    draws: np.ndarray  # (B, n_scans), bool: the subsets; none for a mixed model
    atlas: Atlas
    record: dict[str, Any]  # all that is needed to repeat it

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

        ``contrast-NAME_stat-t_roimap.nii.gz`` (or F) and ``…_stat-pfwe_…`` (or qfdr) have each region's value painted
        on the atlas, for pictures.

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
        for contrast in self.record["contrasts"]:
            rows = self.table[self.table["contrast"] == contrast["name"]]
            for one in painted_maps(rows, contrast, self.atlas):
                written.append(folder / f"contrast-{contrast['label']}_stat-{one.stat}_roimap.nii.gz")
                what = f"{self.atlas.name}: {contrast['name']}"
                io.write_volume(written[-1], one.volume, intent=one.intent, description=what)
        storage.write_json(folder / RECORD, self.record)
        return [*written, folder / RECORD]


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
    if random is not None and split_change(split_formula(spec.formula)[0])[1] is not None:
        msg = "change() has one row a person, --random several scans of each: give one of the two"
        raise DesignError(msg)
    spatial = [kind for kind in spec.inference.kinds if kind in ("tfce", "cluster")]
    if spatial:
        msg = f"regions have no neighbours, so there is no {spatial[0]} inference on them: expected fdr or fwe"
        raise DesignError(msg)
    data = data_record(regions.maps, cohort)  # the table as it is read here
    measured = region_volumes(spec, cohort, regions, compute.progress)
    spec, volumes, names, table, atlas = (
        measured.spec, measured.volumes, measured.names, measured.table, measured.atlas,
    )  # fmt: skip
    if random is not None:
        mixed = fit_mixed_glm(volumes, spec, table, random, compute.progress)
        design, record = mixed.design, mixed.record
        draws = np.empty((0, len(design.scan_ids)), dtype=bool)
        scans = list(design.scan_ids)
        rows = mixed_table(mixed, names, _means(volumes, scans))
    else:
        every = replace(spec, contrasts=spec.contrasts or "all")  # permutations of regions take a second
        fit = fit_glm(volumes, every, table, compute=compute)
        design, draws, record = fit.design, fit.draws, fit.record
        scans = [scan for one in record.get("change", {}).values() for scan in one] or list(design.scan_ids)
        rows = tidy_table(fit, names, _means(volumes, scans))
    record = {
        **record,
        "spec": replace(spec, selection=measured.selection).record(),
        "level": regions.level,
        "atlas": atlas.name,
        "atlas_licence": atlas.licence,
        "random": random,
    }
    record |= {"maps": file_records(measured.paths(scans)), "data": data}
    record["outputs"] = {"atlas": atlas_record(regions.atlas)}
    record["notes"] = [*measured.notes, *record["notes"]]
    return RoiResults(rows, design, draws, atlas, record)


def _means(volumes: pd.DataFrame, scans: Sequence[str]) -> np.ndarray:
    return np.asarray(volumes.loc[list(scans)].mean().to_numpy())
