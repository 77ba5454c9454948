"""An output folder of ``vbmstat preprocess`` as a report reads it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.files import map_kinds, naming
from vbmstat.image import storage
from vbmstat.maps.origins import GROUP_TEMPLATE
from vbmstat.report.methods import (
    Methods,
    lesion_methods,
    preprocessing_methods,
    template_methods,
    time_point_methods,
)
from vbmstat.tables.cohort import TIME_POINTS, Cohort, read_cohort
from vbmstat.tables.schema import group_names

FAILURES = "failures.tsv"
VOLUMES = ("tiv_ml", "gm_ml", "wm_ml", "csf_ml")
LESIONS_ML = ("wmh_ml", "lesion_ml")
_OWN_COLUMNS = (*VOLUMES, "scan", "came_stripped", "engine", "vbmstat_version", GROUP_TEMPLATE)


@dataclass(frozen=True)
class Preprocessing:
    """An output folder of ``vbmstat preprocess``."""

    folder: Path
    cohort: Cohort  # the complete scans
    failures: pd.DataFrame  # scans that failed in the last run: scan, path, step, reason
    sidecars: dict[str, dict[str, Any]]  # provenance by scan id, for scans with a readable sidecar

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per scan, indexed by scan id."""
        return self.cohort.table.set_axis(pd.Index(self.cohort.scan_ids, name="scan_id"))

    @property
    def covariates(self) -> list[str]:
        """Columns of the participants table."""
        own = {*_OWN_COLUMNS, *group_names("lesions")}
        names = (name for name in self.table.columns if name not in own and not name.startswith("qc_"))
        return [name for name in names if not map_kinds.is_map_column(name)]

    @property
    def volumes(self) -> list[str]:
        """Columns of volumes that the table has, those of lesions last."""
        return [name for name in (*VOLUMES, *LESIONS_ML) if name in self.table]

    @property
    def voxel_sizes_mm(self) -> list[float]:
        """Voxel sizes of the maps in template space, from the scans' records."""
        specs = [record.get("spec") for record in self.sidecars.values()]
        return sorted({float(spec.get("voxel_size_mm", 1.5)) for spec in specs if isinstance(spec, dict)}) or [1.5]

    @property
    def fwhm_mm(self) -> list[float]:
        """FWHM of the smoothed maps, mm."""
        return sorted({width for name in self.table.columns if (width := map_kinds.fwhm_of(name)) is not None})

    @property
    def quality_columns(self) -> list[str]:
        """Numeric qc_* columns."""
        return [
            name for name in self.table.columns
            if name.startswith("qc_") and pd.api.types.is_numeric_dtype(self.table[name])
        ]  # fmt: skip

    @cached_property
    def flags(self) -> pd.Series:
        """Warnings of each scan, "" for none."""
        if "qc_warnings" not in self.table:
            return pd.Series("", index=self.table.index)
        return self.table["qc_warnings"].fillna("").astype(str)

    @property
    def engine_versions(self) -> list[tuple[str, str]]:
        """Pairs of engine and version, the most common first."""
        if "engine" not in self.table:
            return []
        pairs = zip(self.table["engine"].astype(str), self.table["vbmstat_version"].astype(str), strict=True)
        return [pair for pair, _ in Counter(pairs).most_common()]

    @property
    def methods(self) -> Methods:
        """The methods section."""
        stripped = self.table.get("came_stripped", pd.Series(dtype=object)).astype(str).str.lower() == "true"
        made = preprocessing_methods(
            len(self.table),
            len(self.failures),
            int(stripped.sum()),
            self.engine_versions,
            self.fwhm_mm,
            self.voxel_sizes_mm,
        )
        ways = self.table.get("wmh_as", pd.Series(dtype=object)).dropna().unique().tolist()
        n_masks = int(self.table.get("lesion_ml", pd.Series(dtype=float)).notna().sum())
        together = self.cohort.table[self.table.get(TIME_POINTS, pd.Series(1, index=self.table.index)).to_numpy() > 1]
        models = {kind.model for name in self.table if (kind := map_kinds.parse_kind(str(name)))}
        people = together.index.get_level_values("participant_id").nunique()
        templates = self.table.get(GROUP_TEMPLATE, pd.Series(dtype=object)).dropna().unique().tolist()
        repeated = time_point_methods(people, len(together), models)
        return made + template_methods(templates) + repeated + lesion_methods(ways, n_masks)

    def output(self, scan: str, kind: str) -> Path | None:
        """An output file of a scan, in any naming style; None if absent."""
        stem = str(self.table.at[scan, "scan"]) if "scan" in self.table else scan
        entry = naming.Scan.of_stem(stem)
        paths = (naming.output_path(self.folder, entry, kind, style) for style in naming.NAME_STYLES)
        return next((path for path in paths if path.is_file()), None)


def read_run(folder: Path, table: Path | None = None) -> Preprocessing:
    """The tables of an output folder, without the scans' records; parameters as in :func:`read_preprocessing`."""
    return Preprocessing(folder, read_cohort(table or folder / "cohort.tsv"), read_failures(folder), {})


def read_failures(folder: Path) -> pd.DataFrame:
    """Scans that failed in the last run: scan, path, step, reason."""
    if not (folder / FAILURES).is_file():
        return pd.DataFrame(columns=["scan", "path", "step", "reason"])
    return pd.read_csv(folder / FAILURES, sep="\t", dtype=str, keep_default_na=False)


def read_preprocessing(folder: Path, table: Path | None = None) -> Preprocessing:
    """Read an output folder of ``vbmstat preprocess``.

    Parameters
    ----------
    folder : Path
        The folder.
    table : Path, optional
        Table with one row per scan; by default ``cohort.tsv`` in the folder.

    Raises
    ------
    TableError
        If the table cannot be read.
    """
    run = read_run(folder, table)
    for scan in run.cohort.scan_ids:
        path = run.output(scan, "sidecar")
        try:
            run.sidecars[scan] = storage.read_json(path) if path else {}
        except (OSError, ValueError):
            continue
    return run
