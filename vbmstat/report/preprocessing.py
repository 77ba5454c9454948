"""The report of a preprocessing run: the status and quality of each scan, and which ones to check."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.assets import ASSETS
from vbmstat.figures import publication
from vbmstat.figures.lesions import frequency_figure
from vbmstat.image import storage
from vbmstat.metrics.homogeneity import OUTLIER_Z, robust_z
from vbmstat.metrics.lesions import lesion_frequency
from vbmstat.report.citations import bibtex, cited
from vbmstat.report.methods import counted_scans
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
from vbmstat.report.run_folder import Preprocessing, read_preprocessing
from vbmstat.tables.schema import group_names

MAX_PICTURES = 120  # in a page: about 15 MB; larger cohorts show marked scans and an even sample of the others
_SHARE_MARKED = 0.75  # largest share of marked scans among the pictures of a large cohort
_PICTURE_PIXELS = 800
_MIN_FOR_UNUSUAL = 8  # scans
MAX_LESION_MAPS = 1000  # that the frequency map is made of; larger cohorts are sampled evenly


def write_preprocessing_report(folder: Path, out: Path) -> Path:
    """Write the page of a preprocessing run, and its figures as files beside it."""
    run = read_preprocessing(folder)
    unusual = unusual_values(run.table[[*run.quality_columns, *run.volumes]])
    is_flagged = run.flags != ""
    is_marked = is_flagged | (unusual != "")
    shown = pictured_scans(list(run.table.index), is_marked.to_numpy())
    pictures = _pictures(run, shown, unusual)
    methods = run.methods
    entries = cited([*methods.keys, "ridgway2008"])
    page = render(
        "preprocessing.html",
        title=f"Preprocessing of {counted_scans(run.cohort.table.index.get_level_values('participant_id'))}",
        run=run,
        n_found=len(run.table) + len(run.failures),
        n_flagged=int(is_flagged.sum()),
        n_unusual=int((unusual != "").sum()),
        failures=table_of(run.failures[["scan", "step", "reason"]], "Scans that failed") if len(run.failures) else None,
        cohort=_cohort(run),
        strips=_strips(run, is_marked, figures_folder(out)) if len(run.table) > 1 else None,
        alike=_alike(run),
        lesions=_lesions(run, figures_folder(out)),
        quality=_quality_table(run, unusual, {picture.anchor for picture in pictures}),
        pictures=pictures,
        tracts=_tract_pictures(run, shown),
        n_hidden=len(run.table) - len(pictures),
        provenance=_provenance(run),
        inputs=_inputs(run),
        methods=methods,
        rules=preprocessing_rules(int(is_flagged.sum()), len(run.engine_versions) > 1),
        references=entries,
        bibtex=bibtex(entries),
    )  # fmt: skip
    storage.write_text(out, page)
    return out


def _cohort(run: Preprocessing) -> Table:
    """Covariates and volumes over the participants, each by the first scan; what has changed since, by the last."""
    people = run.table.groupby(run.cohort.table.index.get_level_values("participant_id"), sort=False)
    first, last = (rows.reset_index(drop=True) for rows in (people.head(1), people.tail(1)))
    since = [name for name in group_names("time_points") if name in run.covariates]
    again = ", each by the first scan; years and changes by the last" * (len(first) < len(run.table))
    rest = [name for name in run.covariates if name not in since]
    found = pd.concat([first[rest + run.volumes], last[since].dropna(axis=1, how="all")], axis=1)
    return described(found, f"Participants and volumes{again}: mean ± standard deviation (range), or counts")


def unusual_values(table: pd.DataFrame) -> pd.Series:
    """Values of each scan that are outliers in the cohort: ``"tiv ml (z = 4.1)"``, or "".

    Parameters
    ----------
    table : DataFrame
        Numeric columns; columns of z-scores are left out.

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


def _pictures(run: Preprocessing, scans: list[str], unusual: pd.Series) -> list[Picture]:
    """Pictures of these scans, each with the anchor ``scan-ROW``, and of where they depart from the others."""
    pictures = []
    for scan in scans:
        path = run.output(scan, "picture")
        if path is not None:
            caption = ": ".join(filter(None, (scan, _to_check(run, unusual, scan))))
            alt = f"Tissue outlines on slices of {scan}, and its warped grey matter with the template's outline"
            anchor = f"scan-{run.table.index.get_loc(scan)}"
            pictures.append(photograph(path, _PICTURE_PIXELS, alt, caption, anchor))
        local = run.output(scan, "local_picture")
        if local is not None:
            alt = f"Three slices of the average brain with the robust z of GM + WM of {scan} in this cohort"
            caption = f"{scan}: GM + WM against the other scans (robust z), where they are farthest apart"
            pictures.append(photograph(local, _PICTURE_PIXELS, alt, caption, ""))
    return pictures


def _tract_pictures(run: Preprocessing, scans: list[str]) -> list[Picture]:
    """Pictures of the tracts of these scans, if `vbmstat tracts` drew them."""
    paths = {scan: path for scan in scans if (path := run.output(scan, "tract_picture")) is not None}
    alt = "Outlines of corticospinal tract, corpus callosum, fornix and uncinate fasciculus on slices of"
    return [photograph(path, _PICTURE_PIXELS, f"{alt} {scan}", f"{scan}: tracts", "") for scan, path in paths.items()]


def _to_check(run: Preprocessing, unusual: pd.Series, scan: str) -> str:
    return "; ".join(filter(None, (run.flags[scan], unusual[scan])))


def _quality_table(run: Preprocessing, unusual: pd.Series, anchors: set[str]) -> Table:
    columns = [*run.quality_columns, *run.volumes]
    rows = []
    for row, (scan, *values) in enumerate(run.table[columns].itertuples(name=None)):
        notes, anchor = _to_check(run, unusual, scan), f"scan-{row}"
        head = Cell(scan, scan, f"#{anchor}" if anchor in anchors else "", bool(notes))
        rows.append((head, Cell(notes, notes, is_marked=bool(notes)), *(number(value) for value in values)))
    rows.sort(key=lambda row: not row[0].is_marked)  # those to check first, else in the cohort's order
    headings = ("scan", "to check", *(readable(name) for name in columns))
    return Table("Quality of each scan; click a name for its picture, a heading to sort", headings, tuple(rows))


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


def _strips(run: Preprocessing, is_marked: pd.Series, folder: Path) -> Picture:
    """Volumes and quality measures of all scans side by side; of one scan the table says the same."""
    columns = run.table[[*run.volumes, *run.quality_columns]].rename(columns=readable)
    return publish(
        folder, "quality", publication.strips_figure(columns, is_marked.to_numpy()),
        "Strip plots: volumes and quality measures of all scans",
        "One point per scan; the line is the median. Orange: flagged, or far from the other scans.",
    )  # fmt: skip


def _alike(run: Preprocessing) -> Picture | None:
    """The picture of the scans' similarity, if preprocess drew one."""
    path = run.folder / "report" / "cohort.png"
    if not path.is_file():
        return None
    alt = "Mean correlation of each scan's grey matter map with the others', sorted, and against the image rating"
    return photograph(path, 1100, alt, "Similarity of the scans: correlations of grey matter maps", "")


def _parameters(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Spec and parameters of a scan, without those in other columns."""
    both = {**sidecar.get("spec", {}), **sidecar.get("parameters", {})}
    return {k: v for k, v in both.items() if k not in ("assets", "engine", "device") and v is not None}


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
