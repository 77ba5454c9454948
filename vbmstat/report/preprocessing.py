"""The report of a preprocessing run: the status and quality of each scan, and which ones to check.

Over 300 lines: one short function for each part of the page.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.assets import ASSETS
from vbmstat.figures import publication
from vbmstat.figures.lesions import frequency_figure
from vbmstat.files import naming
from vbmstat.image import storage
from vbmstat.metrics.homogeneity import OUTLIER_Z, robust_z
from vbmstat.metrics.lesions import lesion_frequency
from vbmstat.report.citations import bibtex, cited
from vbmstat.report.methods import Methods, lesion_methods, preprocessing_methods
from vbmstat.report.page import (
    Cell,
    Picture,
    Table,
    described,
    figures_folder,
    number,
    photograph,
    publish,
    render,
    table_of,
)
from vbmstat.report.rules import preprocessing_rules
from vbmstat.tables.cohort import Cohort, read_cohort
from vbmstat.tables.schema import LESION_COLUMNS

VOLUMES = ("tiv_ml", "gm_ml", "wm_ml", "csf_ml")
LESIONS_ML = ("wmh_ml", "lesion_ml")
_OWN_COLUMNS = (*VOLUMES, *LESION_COLUMNS, "scan", "came_stripped", "engine", "vbmstat_version")
MAX_PICTURES = 120  # in a page: about 15 MB; larger cohorts show marked scans and an even sample of the others
_SHARE_MARKED = 0.75  # largest share of marked scans among the pictures of a large cohort
_PICTURE_PIXELS = 800
_MIN_FOR_UNUSUAL = 8  # scans
MAX_LESION_MAPS = 1000  # that the frequency map is made of; larger cohorts are sampled evenly


@dataclass(frozen=True)
class Preprocessing:
    """An output folder of ``vbmstat preprocess``.

    Attributes
    ----------
    folder : Path
        The folder.
    cohort : Cohort
        The complete scans.
    failures : DataFrame
        Scans that failed in the last run: scan, path, step, reason.
    sidecars : dict of str to dict
        Provenance by scan id, for scans with a readable sidecar.
    """

    folder: Path
    cohort: Cohort
    failures: pd.DataFrame
    sidecars: dict[str, dict[str, Any]]

    @property
    def table(self) -> pd.DataFrame:
        """One row per scan, indexed by scan id."""
        return self.cohort.table.set_axis(pd.Index(self.cohort.scan_ids, name="scan_id"))

    @property
    def covariates(self) -> list[str]:
        """Columns of the participants table."""
        names = [name for name in self.table.columns if name not in _OWN_COLUMNS and not name.startswith("qc_")]
        return [name for name in names if not naming.is_map_column(name)]

    @property
    def fwhm_mm(self) -> list[float]:
        """FWHM of the smoothed maps, mm."""
        return sorted({width for name in self.table.columns if (width := naming.fwhm_of(name)) is not None})

    @property
    def quality_columns(self) -> list[str]:
        """Numeric qc_* columns."""
        return [
            name for name in self.table.columns
            if name.startswith("qc_") and pd.api.types.is_numeric_dtype(self.table[name])
        ]  # fmt: skip

    @property
    def volumes(self) -> list[str]:
        """Columns of volumes, those of lesions last."""
        return [name for name in (*VOLUMES, *LESIONS_ML) if name in self.table]

    @property
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
            len(self.table), len(self.failures), int(stripped.sum()), self.engine_versions, self.fwhm_mm
        )
        ways = self.table.get("wmh_as", pd.Series(dtype=object)).dropna().unique().tolist()
        n_masks = int(self.table.get("lesion_ml", pd.Series(dtype=float)).notna().sum())
        return made + lesion_methods(ways, n_masks)

    def output(self, scan: str, kind: str) -> Path | None:
        """An output file of a scan, in any naming style; None if absent."""
        stem = str(self.table.at[scan, "scan"]) if "scan" in self.table else scan
        entry = naming.Scan(Path(stem), stem, *naming.split_ids(stem))
        paths = (naming.output_path(self.folder, entry, kind, style) for style in naming.NAME_STYLES)
        return next((path for path in paths if path.is_file()), None)


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
    cohort = read_cohort(table or folder / "cohort.tsv")
    failures = folder / "failures.tsv"
    columns = ["scan", "path", "step", "reason"]
    failed = (
        pd.read_csv(failures, sep="\t", dtype=str, keep_default_na=False)
        if failures.is_file()
        else pd.DataFrame(columns=columns)
    )
    run = Preprocessing(folder, cohort, failed, {})
    for scan in cohort.scan_ids:
        path = run.output(scan, "sidecar")
        try:
            run.sidecars[scan] = storage.read_json(path) if path else {}
        except (OSError, ValueError):
            continue
    return run


def write_preprocessing_report(folder: Path, out: Path) -> Path:
    """Write the page of a preprocessing run, and its figures as files beside it."""
    run = read_preprocessing(folder)
    unusual = unusual_values(run.table[[*run.quality_columns, *(name for name in VOLUMES if name in run.table)]])
    is_marked = (run.flags != "") | (unusual != "")
    shown = pictured_scans(list(run.table.index), is_marked.to_numpy())
    pictures = _pictures(run, shown, unusual)
    methods = run.methods
    entries = cited([*methods.keys, "ridgway2008"])
    page = render(
        "preprocessing.html",
        title=f"Preprocessing of {len(run.table)} scan{'s' if len(run.table) != 1 else ''}",
        run=run,
        n_found=len(run.table) + len(run.failures),
        n_flagged=int((run.flags != "").sum()),
        n_unusual=int((unusual != "").sum()),
        failures=_failures(run),
        cohort=described(run.table[[*run.covariates, *run.volumes]],
                         "Participants and volumes: mean ± standard deviation (range), or counts"),
        strips=_strips(run, is_marked, figures_folder(out)),
        alike=_alike(run),
        lesions=_lesions(run, figures_folder(out)),
        quality=_quality_table(run, unusual, {picture.anchor for picture in pictures}),
        pictures=pictures,
        n_hidden=len(run.table) - len(pictures),
        provenance=_provenance(run),
        inputs=_inputs(run),
        methods=methods,
        rules=preprocessing_rules(int((run.flags != "").sum()), len(run.engine_versions) > 1),
        references=entries,
        bibtex=bibtex(entries),
    )  # fmt: skip
    storage.write_text(out, page)
    return out


def unusual_values(table: pd.DataFrame) -> pd.Series:
    """Values of each scan that are far from the cohort's: ``"tiv ml (z = 4.1)"``, or "".

    Parameters
    ----------
    table : DataFrame
        Numeric columns; those that are z-scores themselves are left out.

    Notes
    -----
    By :func:`vbmstat.metrics.homogeneity.robust_z`, for 8 scans or more.
    """
    texts = pd.Series("", index=table.index)
    for name in table.columns:
        values = table[name].to_numpy(dtype=float)
        if np.isfinite(values).sum() < _MIN_FOR_UNUSUAL or name.endswith("_z"):
            continue
        z = robust_z(values)
        for row in np.flatnonzero(np.abs(z) > OUTLIER_Z):
            note = f"{readable(name)} (z = {z[row]:.1f})".replace("-", "−")
            texts.iloc[row] = f"{texts.iloc[row]}; {note}" if texts.iloc[row] else note
    return texts


def pictured_scans(scans: list[str], is_marked: np.ndarray, limit: int = MAX_PICTURES) -> list[str]:
    """Scans with a picture in the page: all, or, in a large cohort, marked ones and an even sample of the others.

    Examples
    --------
    >>> pictured_scans(list("abcdefgh"), np.array([0, 0, 0, 1, 0, 0, 0, 0], bool), limit=4)
    ['a', 'd', 'e', 'h']
    """
    if len(scans) <= limit:
        return scans
    marked = np.flatnonzero(is_marked)[: int(_SHARE_MARKED * limit)]
    others = np.flatnonzero(~is_marked)
    even = others[np.linspace(0, len(others) - 1, min(limit - len(marked), len(others))).round().astype(int)]
    return [scans[index] for index in sorted({*marked.tolist(), *even.tolist()})]


def readable(column: str) -> str:
    """``qc_noise_percent`` -> ``noise percent``."""
    return column.removeprefix("qc_").replace("_", " ")


def _anchor(run: Preprocessing, scan: str) -> str:
    return f"scan-{run.table.index.get_loc(scan)}"


def _pictures(run: Preprocessing, scans: list[str], unusual: pd.Series) -> list[Picture]:
    pictures = []
    for scan in scans:
        path = run.output(scan, "picture")
        if path is None:
            continue
        caption = ": ".join(filter(None, (scan, "; ".join(filter(None, (run.flags[scan], unusual[scan]))))))
        alt = f"Tissue outlines on slices of {scan}, and its warped grey matter with the template's outline"
        pictures.append(photograph(path, _PICTURE_PIXELS, alt, caption, _anchor(run, scan)))
    return pictures


def _quality_table(run: Preprocessing, unusual: pd.Series, anchors: set[str]) -> Table:
    columns = [*run.quality_columns, *run.volumes]
    rows = []
    for scan, values in zip(run.table.index, run.table[columns].itertuples(index=False), strict=True):
        notes = "; ".join(filter(None, (run.flags[scan], unusual[scan])))
        anchor = _anchor(run, scan)
        head = Cell(scan, scan, f"#{anchor}" if anchor in anchors else "", bool(notes))
        rows.append((head, Cell(notes, notes, is_marked=bool(notes)), *(number(value) for value in values)))
    headings = ("scan", "to check", *(readable(name) for name in columns))
    return Table("Quality of each scan; click a name for its picture, a heading to sort", headings, tuple(rows))


def _failures(run: Preprocessing) -> Table | None:
    return table_of(run.failures[["scan", "step", "reason"]], "Scans that failed") if len(run.failures) else None


def _strips(run: Preprocessing, is_marked: pd.Series, folder: Path) -> Picture:
    columns = [*run.volumes, *run.quality_columns]
    figure = publication.strips_figure(run.table[columns].rename(columns=readable), is_marked.to_numpy())
    caption = "One point per scan; the line is the median. Orange: flagged, or far from the other scans."
    return publish(folder, "quality", figure, "Strip plots: volumes and quality measures of all scans", caption)


def _lesions(run: Preprocessing, folder: Path) -> Picture | None:
    """The frequency map of hypointensities, if the scans have maps of them."""
    maps = [path for scan in run.table.index if (path := run.output(scan, "wp7")) is not None]
    shown = maps[:: -(-len(maps) // MAX_LESION_MAPS)] if maps else []
    frequency = lesion_frequency(shown)
    if frequency is None:
        return None
    below = f"{int((run.table['wmh_detectable'].astype(str) == 'False').sum())} scans are below what can be detected."
    of = "" if len(shown) == len(maps) else f" An even sample of {len(shown)} of {len(maps)} scans."
    alt = "Slices of the average brain with the share of the scans that have a white-matter hypointensity"
    caption = f"Frequency of white-matter hypointensities over the scans. {below}{of}"
    return publish(folder, "lesion_frequency", frequency_figure(frequency, len(shown)), alt, caption)


def _alike(run: Preprocessing) -> Picture | None:
    """The picture of the scans' similarity, which preprocess draws for five scans or more."""
    path = run.folder / "report" / "cohort.png"
    if not path.is_file():
        return None
    alt = "Mean correlation of each scan's grey matter map with the others', sorted, and against the image rating"
    return photograph(path, 1100, alt, "Similarity of the scans: correlations of grey matter maps", "")


def _parameters(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Spec and parameters of a scan, without those in other columns."""
    both = {**sidecar.get("spec", {}), **sidecar.get("parameters", {})}
    shown = both.keys() - {"assets", "engine", "device"}
    return {name: both[name] for name in shown if both[name] is not None}


def _provenance(run: Preprocessing) -> Table:
    """How the maps were made: one row per combination of engine, device, parameters and versions."""
    ways = Counter(
        (
            f"{entry.get('engine', '?')} on {entry.get('device', '?')}",
            ", ".join(f"{name} {version}" for name, version in entry.get("versions", {}).items()),
            json.dumps(_parameters(entry), sort_keys=True),
            ", ".join(f"{k} {v[:12]}…" for k, v in entry.get("parameters", {}).get("assets", {}).items()),
        )
        for entry in run.sidecars.values()
    )  # fmt: skip
    frame = pd.DataFrame(
        [(*way, n) for way, n in ways.most_common()], columns=["engine", "versions", "parameters", "assets", "scans"]
    )
    licences = "; ".join(f"{asset.name}: {asset.licence}" for asset in ASSETS.values())
    return table_of(frame, f"How the maps were made. Licences of the assets: {licences}")


def _inputs(run: Preprocessing) -> Table:
    rows = [
        (scan, file["path"], file["sha256"])
        for scan, entry in run.sidecars.items() for file in entry.get("inputs", [])
    ]  # fmt: skip
    return table_of(pd.DataFrame(rows, columns=["scan", "input", "sha256"]), "Inputs")
