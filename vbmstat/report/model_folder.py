"""A result folder of ``vbmstat glm`` as a report reads it, and the preprocessing run of its scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from scipy import stats

from vbmstat.errors import TableError, VbmstatError, listed
from vbmstat.glm.record import SCANS
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.maps.sources import rows_of
from vbmstat.report.run_folder import Preprocessing, read_preprocessing
from vbmstat.tables.cohort import ID_COLUMNS, Cohort, read_table

_P_UNCORRECTED, _P_CORRECTED = 0.001, 0.05  # of the outlines in pictures


class Outline(NamedTuple):
    """What pictures outline and tables count: values of the tested sign beyond a threshold."""

    threshold: float
    meaning: str  # in words
    is_one_sided: bool = False  # whether only positive t were tested

    def tested(self, statistic: Volume) -> Volume:
        """A map without the sign that was not tested."""
        return Volume(statistic.data.clamp(min=0), statistic.grid) if self.is_one_sided else statistic

    def n_beyond(self, statistic: Volume) -> int:
        """Voxels beyond the threshold."""
        return int((self.tested(statistic).data.abs() > self.threshold).sum())


@dataclass(frozen=True)
class Model:
    """A result folder of ``vbmstat glm``."""

    folder: Path
    record: dict[str, Any]  # content of ``glm.json``
    design: pd.DataFrame  # (n_scans, n_regressors): indexed by scan id; empty for a model of sites' sums

    @property
    def people(self) -> pd.DataFrame:
        """Covariates of the scans, indexed by scan id; columns of the design for results of earlier versions."""
        if (self.folder / SCANS).is_file():
            return read_table(self.folder / SCANS).set_index("scan_id").set_axis(self.design.index)
        return self.design[[name for name in self.design.columns if name != "Intercept"]]

    @property
    def scans(self) -> list[str]:
        """Ids of the scans; of a model of change, which has a row a person, those of all people."""
        change = self.record.get("change")
        return list(self.record["scan_ids"]) if change is None else [scan for one in change.values() for scan in one]

    @property
    def is_of_regions(self) -> bool:
        """Whether the model is of atlas regions, not voxels."""
        return bool(self.record.get("level", "voxel") != "voxel")

    @property
    def is_pooled(self) -> bool:
        """Whether the model is of sums that sites shared, not of scans."""
        return "sites" in self.record

    @property
    def roi_tables(self) -> list[Path]:
        """Tables of a model of regions."""
        return sorted(self.folder.glob("roi*_glm.tsv"))

    def path(self, contrast: Mapping[str, Any], stat: str) -> Path:
        """Path of a map."""
        return self.folder / f"contrast-{contrast['label']}_stat-{stat}_statmap.nii.gz"

    def map(self, contrast: Mapping[str, Any], stat: str) -> Volume | None:
        """A map with 0 for NaN; None if it was not written."""
        path = self.path(contrast, stat)
        if not path.is_file():
            return None
        volume = io.read_volume(path)
        return Volume(torch.nan_to_num(volume.data), volume.grid)

    def outline(self, contrast: Mapping[str, Any], statistic: Volume) -> Outline:
        """Corrected p = 0.05 if permutations gave its statistic and a voxel reaches it, else uncorrected 0.001."""
        df = contrast.get("df") or self.record["df_resid"]
        if contrast["kind"] == "t":
            threshold, meaning = float(stats.t.isf(_P_UNCORRECTED / 2, df)), "two-sided uncorrected p"
        else:
            threshold, meaning = float(stats.f.isf(_P_UNCORRECTED, len(contrast["weights"]), df)), "uncorrected p"
        meaning = f"{meaning} = {_P_UNCORRECTED:g}"
        for entry in (self.record.get("inference") or {}).get("contrasts", []):
            corrected = entry.get(f"statistic_at_p_fwe_{_P_CORRECTED}")
            if entry["name"] != contrast["name"] or corrected is None or not self.path(contrast, "pfwe").is_file():
                continue
            size = statistic.data.abs() if entry["two_sided"] else statistic.data
            sides = "two-sided" if entry["two_sided"] else "one-sided"
            what = f"{sides} family-wise error corrected p = {_P_CORRECTED:g}"
            if float(size.max()) > corrected:
                is_one_sided = contrast["kind"] == "t" and not entry["two_sided"]
                return Outline(float(corrected), what + ", positive values only" * is_one_sided, is_one_sided)
            meaning += f"; no voxel reaches {corrected:.2f}, the {what}"
        return Outline(threshold, meaning)


def read_model(folder: Path) -> Model:
    """Read a result folder of ``vbmstat glm``; raises VbmstatError if glm.json or design.tsv cannot be read."""
    try:
        record = storage.read_json(folder / "glm.json")
        design = pd.DataFrame()
        if "sites" not in record:
            design = pd.read_csv(folder / "design.tsv", sep="\t", dtype={"scan_id": str}).set_index("scan_id")
        contrasts, _ = record["contrasts"], record["spec"]
        _check(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{folder}: expected the results of vbmstat glm, but glm.json or design.tsv cannot be read ({error!r}); "
            "if an older version made them, fit the model again"
        )
        raise VbmstatError(msg) from error
    model = Model(folder, record, design)
    if model.is_of_regions:
        rows = max((len(pd.read_csv(path, sep="\t")) for path in model.roi_tables), default=0)
        record["n_voxels"] = rows // max(len(contrasts), 1)
    return model


def _check(record: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError if a record is not as `glm` writes it: a page reads much of it."""
    for contrast in record["contrasts"]:
        _ = contrast["name"], contrast["label"], contrast["kind"], len(contrast["weights"])
    if not record["contrasts"]:
        what = "contrasts"
        raise KeyError(what)
    if not isinstance(record.get("n_scans", 0), int) or not isinstance(record.get("inference") or {}, dict):
        what = "n_scans or inference of another kind"
        raise TypeError(what)


def find_preprocessing(model: Model, cohort: Path | None) -> Preprocessing | None:
    """The table of the model's scans with the run that made their maps; None if no table has all scans.

    Parameters
    ----------
    model : Model
        The model.
    cohort : Path, optional
        Its table; by default a cohort.tsv with all its scans, in one of the two folders above.

    Raises
    ------
    VbmstatError
        If `cohort` does not exist, or lacks a scan.
    """
    if cohort is not None:
        if not cohort.is_file():
            msg = f"{cohort}: no such cohort table"
            raise VbmstatError(msg)
        run, without = _matched(read_preprocessing(cohort.parent, cohort), model.scans)
        if without:
            msg = f"{cohort}: no row for {listed(without, 5)}, which the model used; give the model's own table"
            raise VbmstatError(msg)
        return run
    for path in (parent / "cohort.tsv" for parent in model.folder.absolute().parents[:2]):
        if path.is_file():
            run, without = _matched(read_preprocessing(path.parent), model.scans)
            if not without:
                return run
    return None


def _matched(run: Preprocessing, scans: list[str]) -> tuple[Preprocessing, list[str]]:
    """The run with the model's scans first, and the scans without a row; ids are matched as in ``glm --maps``."""
    try:
        rows, without, used = rows_of(list(scans), run.cohort, "the table")
    except TableError:  # no scan has a row
        return run, list(scans)
    if without:
        return run, without
    spare = [scan not in used for scan in run.cohort.scan_ids]
    rows.index = pd.MultiIndex.from_tuples([(scan, "") for scan in scans], names=list(ID_COLUMNS))
    table = pd.concat([rows, run.cohort.table[spare]])
    return replace(run, cohort=Cohort(table, run.cohort.folder)), []
