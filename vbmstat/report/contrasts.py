"""The part of a model's page on one contrast: pictures, interactive slices, tables and stability over subsets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.figures import model as model_figures
from vbmstat.figures import publication
from vbmstat.glm.record import has_own_df
from vbmstat.image.volume import Volume
from vbmstat.report.look import Look, look_figure
from vbmstat.report.model_folder import Model, Outline
from vbmstat.report.page import Cell, Picture, Table, fixed, publish, table_of
from vbmstat.report.spm_table import SpmTable, spm_tables
from vbmstat.report.viewer import viewer_html

MAX_VIEWERS = 8  # 0.6 MB each
_MAX_TABLE_ROWS = 200


@dataclass(frozen=True)
class ContrastReport:
    """The page's content about one contrast."""

    anchor: str
    name: str
    summary: str
    pictures: tuple[Picture, ...]
    viewer: str
    spm: tuple[SpmTable, ...]
    tables: tuple[Table, ...]
    stability: tuple[Picture, ...]
    stability_text: str
    effects: tuple[Picture, ...]
    peak: tuple[Picture, ...]


def contrast_report(
    model: Model, entry: Mapping[str, Any], index: int, folder: Path, look: Look | None = None
) -> ContrastReport:
    """The page's part on the `index`-th contrast, `entry` of ``glm.json``; figures are written to `folder`.

    `look` has the data at the contrast's first peak.
    """
    symbol, label, name = entry["kind"], entry["label"], entry["name"]
    statistic = model.map(entry, symbol)
    if statistic is None:  # a model of a table
        return ContrastReport(f"contrast-{index}", name, "", (), "", (), _tables(model, entry), (), "", (), ())
    outline = model.outline(entry, statistic)
    threshold, meaning, _ = outline
    shown = outline.tested(statistic)
    mosaic = publish(
        folder, f"contrast-{label}_{symbol}",
        publication.stat_map_figure(shown, f"{name}: {symbol} of all scans", symbol, threshold),
        f"Slices of the {symbol}-map of {name} on the average brain",
        f"{symbol}-map of all scans. Outlines: {symbol} beyond {threshold:.2f} ({meaning}); below, faded.",
    )  # fmt: skip
    glass = publish(
        folder, f"contrast-{label}_glassbrain", model_figures.glass_brain_figure(shown, name, threshold, symbol),
        f"Glass brain of the {symbol}-map of {name}",
        f"Largest {symbol} along each line of sight, beyond {threshold:.2f}.",
    )  # fmt: skip
    viewer = viewer_html(shown, f"{name}: {symbol}", threshold) if index < MAX_VIEWERS else ""
    stability, text = _stability(model, entry, statistic, outline, folder)
    low, high = (fixed(float(value)).text for value in (statistic.data.min(), statistic.data.max()))
    n_voxels = model.record["n_voxels"]
    counted = f"{outline.n_beyond(statistic):,} of {n_voxels:,} voxel{'' if n_voxels == 1 else 's'}"
    summary = f"{symbol} from {low} to {high}{_freedom(model, entry)}; {counted} beyond {threshold:.2f} ({meaning})."
    return ContrastReport(
        f"contrast-{index}", name, summary, (mosaic, glass), viewer, spm_tables(model, entry),
        (*_thresholds(model, entry), *_tables(model, entry), *_discoveries(model, entry)), stability, text,
        _effects(model, entry, folder), () if look is None else (_peak(look, folder),),
    )  # fmt: skip


def _peak(look: Look, folder: Path) -> Picture:
    """Adjusted data and residuals at the first peak."""
    fit = look.fit
    held = f", adjusted for {', '.join(fit.adjusted_for)} at their means" if fit.adjusted_for else ""
    worst = ", ".join(f"{row.scan_id} {row.cooks_distance:.2g}" for row in fit.worst().itertuples())
    caption = (
        f"{look.response} {look.place}{held}; 95 % confidence limits with {fit.variance}. The peak was chosen for its "
        f"statistic, so that its effect is biased upwards. Largest Cook's distances: {worst}. "
        f"{' '.join(f'{note}.' for note in fit.notes)}"
    )
    alt = f"Adjusted data at the first peak of {fit.contrast}, and residuals against the fit"
    return publish(folder, look.stem, look_figure(look), alt, caption.rstrip())


def _freedom(model: Model, entry: Mapping[str, Any]) -> str:
    """The degrees of freedom of a contrast, where contrasts differ in them."""
    if not has_own_df(model.record) or entry.get("df") is None:
        return ""
    is_local = model.path(entry, "df").is_file()
    return f" with {entry['df']:.4g} degrees of freedom{' (median over voxels)' if is_local else ''}"


def _effects(model: Model, entry: Mapping[str, Any], folder: Path) -> tuple[Picture, ...]:
    effect = model.map(entry, "r")
    if effect is None:
        return ()
    figure = publication.stat_map_figure(effect, f"{entry['name']}: partial correlation", "partial r")
    caption = "Effect size: partial correlation at every voxel, not thresholded. Largest values are biased upwards."
    alt = f"Slices of the partial correlation with {entry['name']}"
    return (publish(folder, f"contrast-{entry['label']}_r", figure, alt, caption),)


def _stability(
    model: Model, entry: Mapping[str, Any], statistic: Volume, outline: Outline, folder: Path
) -> tuple[tuple[Picture, ...], str]:
    symbol, name, label = entry["kind"], entry["name"], entry["label"]
    maps = [volume for quantile in ("median", "q25", "q75") if (volume := model.map(entry, quantile + symbol))]
    if len(maps) < 3 or not model.record["n_subsets"]:
        return (), ""
    values, median, low, high = (volume.data[0].numpy() for volume in (statistic, *maps))
    inside, threshold = values != 0, outline.threshold
    share = np.mean(model.record["scans_per_subset"]) / model.record["n_scans"]
    title, what = f"{name}: median {symbol} over subsets", f"median {symbol}"
    mosaic = publish(
        folder, f"contrast-{label}_median{symbol}",
        publication.stat_map_figure(outline.tested(maps[0]), title, what, threshold),
        f"Slices of the median {symbol} over subsets of {name}",
        f"Median {symbol} over {entry['repetitions_estimated']} subsets, drawn like the {symbol}-map above. It is "
        "descriptive: it has no p-value.",
    )  # fmt: skip
    scatter = publish(
        folder, f"contrast-{label}_stability",
        publication.stability_figure(values[inside], median[inside], (high - low)[inside], symbol, math.sqrt(share)),
        f"Median {symbol} over subsets against {symbol} of all scans, and the quartile range against it",
        "Left: density of voxels. Right: interquartile range over subsets; line and band are its median and quartiles "
        "over voxels.",
    )  # fmt: skip
    beyond = np.abs(outline.tested(statistic).data[0].numpy()) > threshold
    if not beyond.any():
        return (mosaic, scatter), f"No voxel lies beyond {threshold:.2f} in the full sample."
    n_beyond = int(beyond.sum())
    which = f"the {n_beyond:,} voxels" if n_beyond > 1 else "the one voxel"
    near_zero = np.where(values > 0, low, -high)[beyond]
    replication = model.map(entry, "replication")
    text = (
        f"Of {which} beyond {threshold:.2f} in the full sample, "
        f"{100 * float((near_zero > 0).mean()):.0f} % have the same sign in at least three quarters of the subsets, "
        f"and {100 * float((near_zero > threshold).mean()):.0f} % are beyond the same {symbol} in as many."
    )
    if replication is not None:
        share = 100 * float(np.median(replication.data[0].numpy()[beyond]))
        text += f" In the median of these voxels, {share:.0f} % of the subsets have an uncorrected p below 0.05."
    return (mosaic, scatter), text


def cluster_files(model: Model, entry: Mapping[str, Any]) -> list[Path]:
    """Tables of a contrast's clusters and peaks."""
    paths = (model.folder / f"contrast-{entry['label']}_{name}.tsv" for name in ("clusters", "peaks"))
    return [path for path in paths if path.is_file()]


def _tables(model: Model, entry: Mapping[str, Any]) -> tuple[Table, ...]:
    """Cluster tables, and the statistics of a model of a table."""
    tables, stats = [], model.folder / f"contrast-{entry['label']}_stats.tsv"
    for path in (*cluster_files(model, entry), *([stats] if stats.is_file() else [])):
        frame = pd.read_csv(path, sep="\t", na_values=["n/a"])
        frame = frame[sorted(frame.columns, key=lambda name: (name != "cluster", name not in ("region", "regions")))]
        beyond = ""
        if "threshold_by" in frame and len(frame):  # one for the whole table
            first = frame.iloc[0]
            beyond = f"; threshold {fixed(float(first['threshold'])).text} ({first['threshold_by']})"
            frame = frame.drop(columns=["threshold", "threshold_by"])
        more = f", the first {_MAX_TABLE_ROWS} of {len(frame)} rows" if len(frame) > _MAX_TABLE_ROWS else ""
        what = path.name.removeprefix(f"contrast-{entry['label']}_").removesuffix(".tsv").replace("_", " ")
        tables.append(
            table_of(frame.head(_MAX_TABLE_ROWS), f"{entry['name']}: {what}{more} ({path.name}){beyond}",
                     lambda name: name.replace("_", " "))
        )  # fmt: skip
    return tuple(tables)


def _thresholds(model: Model, entry: Mapping[str, Any]) -> Iterator[Table]:
    """Heights that a voxel must reach by each correction."""
    for one in (model.record.get("inference") or {}).get("contrasts", []):
        rows = one.get("thresholds") or []
        if one["name"] == entry["name"] and rows:
            sides = f"|{entry['kind']}|" if one["two_sided"] else entry["kind"]
            columns = {"by": "threshold", "height": sides, "voxels": "significant voxels"}
            frame = pd.DataFrame(rows).rename(columns=columns)
            frame[sides] = [Cell("–") if pd.isna(height) else fixed(height) for height in frame[sides]]
            yield table_of(
                frame, f"{entry['name']}: heights by each correction, of {model.record['n_voxels']:,} voxels"
            )


def _discoveries(model: Model, entry: Mapping[str, Any]) -> Iterator[Table]:
    """Regions with true discoveries."""
    path = model.folder / f"contrast-{entry['label']}_regions.tsv"
    if path.is_file():
        frame = pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False)
        found = frame[frame["true_discoveries"] > 0].drop(columns="share")
        found["share"] = [f"{100 * share:.0f} %" for share in frame.loc[found.index, "share"]]
        caption = (
            f"{entry['name']}: true discoveries by region: at least so many of its voxels have an effect, with 95 % "
            f"confidence for all regions at once; regions without one: {len(frame) - len(found)} ({path.name})"
        )
        order = ["region", "atlas", "size_voxels", "true_discoveries", "share"]
        yield table_of(found[order].head(_MAX_TABLE_ROWS), caption, lambda name: name.replace("_", " "))
