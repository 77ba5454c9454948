"""Finished models for the page: what they are, their maps and clusters, the people behind a place, two side by side."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.compare.pairs import compare_pair
from vbmstat.errors import TableError, VbmstatError, listed
from vbmstat.figures.view import View, parse_point
from vbmstat.glm.inference.places import Regions
from vbmstat.glm.record import RECORD
from vbmstat.glm.results import ATLASES, P_STATS
from vbmstat.image import io, storage
from vbmstat.report.model_folder import Model, read_model
from vbmstat.report.notebook import regions_of
from vbmstat.report.show import show_map
from vbmstat.tables.exclusions import read_exclusions
from vbmstat.tables.selection import EXCLUSIONS, cohort_of_ids
from vbmstat.threshold.apply import Statistic, critical_height, threshold
from vbmstat.threshold.files import open_statistic, tables_of
from vbmstat.threshold.rules import read_extent, read_height
from vbmstat.ui.commands import command_line, fitted_arguments
from vbmstat.ui.plain import plain
from vbmstat.ui.study import MissingError, Study, result_folder

_HEIGHTS = ("p=0.001", "fdr=0.05")  # for results without corrected inference
_MOST_PAIRS = 5000
_STABILITY = ("median", "q25", "q75", "replication")
_DRAWING = threading.Lock()  # matplotlib draws one figure at a time


def results(study: Study) -> list[dict[str, Any]]:
    """A line on each model of the folder; one that cannot be read has a `problem`."""
    found = []
    for folder in study.results():
        record, problem = _content(folder), None
        try:
            read_model(folder)
        except VbmstatError as error:
            problem = str(error)
        made = datetime.fromtimestamp((folder / RECORD).stat().st_mtime, timezone.utc)
        inference = _part(_part(record, "spec"), "inference").get("kinds") or []
        found.append({
            "id": study.relative(folder), "title": folder.name, "formula": record.get("formula"),
            "n_scans": record.get("n_scans"), "level": record.get("level", "voxel"), "inference": inference,
            "made": made.isoformat(timespec="seconds"), "version": _part(record, "versions").get("vbmstat"),
            "problem": problem,
        })  # fmt: skip
    return found


def _content(folder: Path) -> dict[str, Any]:
    try:
        content = storage.read_json(folder / RECORD)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    return part if isinstance(part, Mapping) else {}


def result_details(study: Study, result: str) -> dict[str, Any]:
    """A model with its contrasts, their maps, thresholds and clusters."""
    folder = result_folder(study, result)
    model = read_model(folder)
    record = model.record
    try:
        notes = [*_excluded_since(study, model), *record["notes"]]
        contrasts = [_contrast(study, model, entry) for entry in record["contrasts"]]
        grid = io.read_grid(folder / "mask.nii.gz") if (folder / "mask.nii.gz").is_file() else None
        return {
            "id": result, "formula": record["formula"], "n_scans": record["n_scans"], "df": record.get("df_resid"),
            "level": record.get("level", "voxel"), "median": bool(record.get("n_subsets")), "notes": notes,
            "voxel_size_mm": None if grid is None else list(grid.voxel_size_mm), "contrasts": contrasts,
            "report": study.url(folder / "report.html"), "template": "/api/assets/template.nii.gz",
            "mask": study.url(folder / "mask.nii.gz"), "command": command_line(fitted_arguments(model, study.run)),
        }  # fmt: skip
    except (KeyError, TypeError, AttributeError) as error:
        msg = f"{result}: glm.json is damaged or of an older version ({error!r}); fit the model again"
        raise VbmstatError(msg) from error


def _excluded_since(study: Study, model: Model) -> list[str]:
    """A note on scans of the model that ``exclusions.tsv`` names by now."""
    scans = [] if model.is_pooled else [scan for scan in model.scans if scan]
    try:
        excluded, _ = read_exclusions(study.run / EXCLUSIONS, cohort_of_ids(scans)) if scans else ({}, [])
    except TableError:
        return []
    return [f"excluded since this fit: {listed(list(excluded))}; fit it again"] if excluded else []


def _contrast(study: Study, model: Model, entry: Mapping[str, Any]) -> dict[str, Any]:
    stem = f"contrast-{entry['label']}_stat-"
    paths = [path for path in sorted(model.folder.glob(f"{stem}*map.nii.gz")) if path.name.startswith(stem)]
    maps = [
        {"label": (stat := path.name.removeprefix(stem).split("_")[0]), "url": study.url(path),
         "kind": _kind(stat, entry["kind"]), "description": io.read_statistic_header(path)[2]}
        for path in paths
    ]  # fmt: skip
    maps.sort(key=lambda one: (one["label"] != entry["kind"], one["kind"], one["label"]))
    stable = [one["url"] for name in ("replication", f"median{entry['kind']}") for one in maps if one["label"] == name]
    clusters = model.folder / f"contrast-{entry['label']}_clusters.tsv"
    return {
        "name": entry["name"], "kind": entry["kind"], "label": entry["label"], "maps": maps,
        "thresholds": list(_thresholds(model, entry)), "stability": next(iter(stable), None),
        "clusters": _clusters(pd.read_csv(clusters, sep="\t", na_values=["n/a"])) if clusters.is_file() else [],
    }  # fmt: skip


def _kind(stat: str, of_contrast: str) -> str:
    if stat in (of_contrast, "z"):
        return "statistic"
    if stat in P_STATS:
        return "p"
    return "stability" if stat.startswith(_STABILITY) else "effect"


def _thresholds(model: Model, entry: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Heights of the fit's own table, else those that need no more than the map."""
    inference = _part(model.record, "inference").get("contrasts") or []
    own: Mapping[str, Any] = next((one for one in inference if one["name"] == entry["name"]), {})
    for one in own.get("thresholds") or []:
        note = f"{one['voxels']:,} {'regions' if model.is_of_regions else 'voxels'}"
        yield {"label": one["by"], "height": one["height"], "two_sided": own["two_sided"], "note": note}
    if own.get("thresholds") or not model.path(entry, entry["kind"]).is_file():
        return
    try:
        statistic = open_statistic(model.path(entry, entry["kind"]))
        for text in _HEIGHTS:
            height, by = critical_height(statistic, read_height(text))
            yield {"label": by, "height": plain(height), "two_sided": statistic.is_two_sided, "note": ""}
    except VbmstatError:
        return


def _clusters(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table of clusters; all its columns are in `values`."""
    rows = []
    for row in plain(table):
        p = next((row[name] for name in ("peak_p_fwe", "peak_p_fwe_rft") if row.get(name) is not None), None)
        value = next((row[name] for name in ("peak_t", "peak_F", "peak_z") if row.get(name) is not None), None)
        rows.append({
            "rank": row["cluster"], "region": row.get("regions") or "", "t": value, "p_fwe": p,
            "peak_mm": [row["x_mm"], row["y_mm"], row["z_mm"]], "extent_ml": row["size_ml"],
            "extent_voxels": row["size_voxels"], "values": row,
        })  # fmt: skip
    return rows


def regions(study: Study, result: str) -> dict[str, Any]:
    """The table of a model of regions."""
    model = read_model(result_folder(study, result))
    if not model.roi_tables:
        msg = f"{result}: a model of voxels has no table of regions; fit it with --level roi"
        raise MissingError(msg)
    table = pd.read_csv(model.roi_tables[0], sep="\t", na_values=["n/a"])
    return {"columns": list(table.columns), "rows": plain(table)}


@cache
def names_of_places() -> Regions | None:
    """The atlases that name places, read once."""
    return regions_of(ATLASES)


@dataclass(frozen=True)
class Picked:
    """A contrast's map above a height: what the slider shows, as files and rows."""

    path: Path
    statistic: Statistic
    height: str
    extent: str
    contrast: str

    @classmethod
    def of(cls, study: Study, result: str, query: Mapping[str, str]) -> Picked:
        """From what the page asks: `contrast`, `threshold` (3.1, p=0.001, fdr=0.05, fwe=0.05) and `extent`."""
        model = read_model(result_folder(study, result))
        entry = _entry(model, query.get("contrast"))
        path = model.path(entry, entry["kind"])
        if not path.is_file():
            msg = f"{result}: a model of regions has no map of voxels; look at its table"
            raise MissingError(msg)
        height, extent = query.get("threshold") or "p=0.001", query.get("extent") or "0"
        return cls(path, open_statistic(path), height, extent, entry["name"])

    @property
    def label(self) -> str:
        """The contrast as files call it, ``contrast-age``."""
        return self.path.name.partition("_")[0]

    def table(self) -> tuple[pd.DataFrame, list[str]]:
        """Its clusters with names of places, and the arguments of ``vbmstat`` that make it."""
        left = threshold(self.statistic, read_height(self.height), read_extent(self.extent))
        made = ["threshold", str(self.path), "--height", self.height, "--extent", self.extent]
        return tables_of(self.statistic, left, names_of_places())["clusters"], made

    def rows(self) -> dict[str, Any]:
        """The same for the page."""
        table, made = self.table()
        height, by = critical_height(self.statistic, read_height(self.height))
        return {
            "contrast": self.contrast, "height": plain(height), "by": by, "clusters": _clusters(table),
            "command": command_line(made),
        }  # fmt: skip

    def figure(self, form: str, at: str) -> tuple[bytes, list[str]]:
        """A picture of slices through a point, ``x,y,z`` in mm or nothing, and the arguments that make it."""
        if form not in ("svg", "png", "pdf"):
            msg = f"format {form!r}: expected svg, png or pdf"
            raise VbmstatError(msg)
        rule = read_height(self.height)
        height = rule.level if rule.by == "value" else critical_height(self.statistic, rule)[0]
        height = height if np.isfinite(height) else float(np.abs(self.statistic.values).max())
        view = View(crosshair=parse_point(at) if at else None, title=self.contrast)
        made = [
            "show",
            str(self.path),
            "--threshold",
            f"{height:.9g}",
            "--title",
            self.contrast,
            "--out",
            f"figure.{form}",
        ]
        made += [f"--crosshair={at}"] if at else []
        with tempfile.TemporaryDirectory(prefix="vbmstat-") as folder, _DRAWING:
            return show_map(self.path, Path(folder) / f"figure.{form}", height, view).read_bytes(), made


def _entry(model: Model, name: str | None) -> dict[str, Any]:
    """The contrast of a name, the first if there is none."""
    entries: list[dict[str, Any]] = model.record["contrasts"]
    found = next((one for one in entries if one["name"] == name), None if name else entries[0])
    if found is None:
        msg = f"contrast {name!r}: expected one of {', '.join(one['name'] for one in entries)}"
        raise VbmstatError(msg)
    return found


def pairs(study: Study, first: str, second: str, contrast: str | None) -> dict[str, Any]:
    """Agreement of a contrast's maps in two results, and some of their voxels."""
    models = [read_model(result_folder(study, one)) for one in (first, second)]
    entry = _entry(models[0], contrast)
    paths = [model.path(_entry(model, entry["name"]), entry["kind"]) for model in models]
    if not all(path.is_file() for path in paths):
        msg = "two models of voxels can be compared; one of these has no map of the contrast"
        raise MissingError(msg)
    pair = compare_pair(*paths)
    common = pair.a.mask & pair.b.mask
    values = np.stack([one.volume.data[0][common].numpy() for one in (pair.a, pair.b)], axis=1)
    step = -(-len(values) // _MOST_PAIRS)  # evenly through the brain
    points = plain(values[::step].round(3))
    made = command_line(["compare", *(str(model.folder) for model in models)])
    return {**plain(pair.row), "points": points, "notes": list(pair.notes), "contrast": entry["name"], "command": made}
