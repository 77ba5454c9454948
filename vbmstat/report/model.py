"""The report of a model: its design, the results of each contrast, and their stability.

Over 300 lines: one short function for each part of the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from vbmstat.errors import TableError, VbmstatError, listed
from vbmstat.figures import model as model_figures
from vbmstat.figures import publication
from vbmstat.glm.record import has_own_df
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.maps.sources import rows_of
from vbmstat.report.citations import bibtex, cited
from vbmstat.report.methods import glm_methods
from vbmstat.report.page import (
    Cell,
    Picture,
    Table,
    cell,
    described,
    figures_folder,
    fixed,
    number,
    publish,
    render,
    table_of,
)
from vbmstat.report.preprocessing import Preprocessing, read_preprocessing
from vbmstat.report.rules import glm_rules
from vbmstat.report.viewer import viewer_html
from vbmstat.roi.atlas import Atlas, load_atlas
from vbmstat.tables.cohort import ID_COLUMNS, Cohort, find_column, read_table

_P_UNCORRECTED, _P_CORRECTED = 0.001, 0.05  # of the outlines in pictures
_MAX_VIEWERS = 8  # 0.6 MB each
_ATLAS = "lpba40"
_MAX_TABLE_ROWS = 200
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True)
class ContrastReport:
    """The page's content about one contrast."""

    anchor: str
    name: str
    summary: str
    pictures: tuple[Picture, ...]
    viewer: str
    tables: tuple[Table, ...]
    stability: tuple[Picture, ...]
    stability_text: str
    effects: tuple[Picture, ...]


@dataclass(frozen=True)
class Model:
    """A result folder of ``vbmstat glm``.

    Attributes
    ----------
    folder : Path
        The folder.
    record : dict
        Content of ``glm.json``.
    design : DataFrame, (n_scans, n_regressors)
        Indexed by scan id.
    """

    folder: Path
    record: dict[str, Any]
    design: pd.DataFrame

    @property
    def is_of_regions(self) -> bool:
        """Whether the model is of atlas regions, not voxels."""
        return bool(self.record.get("level", "voxel") != "voxel")

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

    def outline(self, contrast: Mapping[str, Any], statistic: Volume) -> tuple[float, str]:
        """Threshold of the outlines in pictures, and its meaning in words.

        The statistic at corrected p = 0.05 if permutations gave one and a voxel reaches it, else at uncorrected
        p = 0.001.
        """
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
            if float(size.max()) >= corrected:
                return float(corrected), what
            meaning += f"; no voxel reaches {corrected:.2f}, the {what}"
        return threshold, meaning


def read_model(folder: Path) -> Model:
    """Read a result folder of ``vbmstat glm``; raises VbmstatError if glm.json or design.tsv cannot be read."""
    try:
        record = storage.read_json(folder / "glm.json")
        design = pd.read_csv(folder / "design.tsv", sep="\t", dtype={"scan_id": str}).set_index("scan_id")
        contrasts, _ = record["contrasts"], record["spec"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{folder}: expected the results of vbmstat glm, but glm.json or design.tsv cannot be read ({error!r}); "
            "if an older version made them, fit the model again"
        )
        raise VbmstatError(msg) from error
    if record.get("level", "voxel") != "voxel":  # a table of regions in place of maps
        record["n_voxels"] = max((len(pd.read_csv(path, sep="\t")) for path in _roi_paths(folder)), default=0) // max(
            len(contrasts), 1
        )
    return Model(folder, record, design)


def write_model_report(folder: Path, out: Path, cohort: Path | None = None) -> Path:
    """Write the page of a model, and its figures as files beside it.

    Parameters
    ----------
    folder : Path
        Result folder of ``vbmstat glm``.
    out : Path
        The page.
    cohort : Path, optional
        The model's table of scans; by default a cohort.tsv with all of them, in one of the two folders above.
    """
    model = read_model(folder)
    run = _preprocessing(model, cohort)
    record = model.record
    contrasts = [
        _contrast(model, entry, index, figures_folder(out))
        for index, entry in enumerate(record["contrasts"]) if not model.is_of_regions
    ]  # fmt: skip
    n_flagged = 0 if run is None else int((run.flags.reindex(record["scan_ids"]).fillna("") != "").sum())
    own = glm_methods(record)
    methods = own if run is None or not run.engine_versions else run.methods + own
    entries = cited([*methods.keys, "taylor2023"])
    has_clusters = any(_cluster_files(model, entry) for entry in record["contrasts"])
    has_preprocessing = run is not None and bool(run.engine_versions)
    page = render(
        "model.html",
        title=record["formula"],
        record=record,
        model=model,
        has_own_df=has_own_df(record),
        participants=_participants(model, run),
        left_out=_left_out(model, run),
        overview=None if model.is_of_regions else _overview(model),
        design=_design_pictures(model, figures_folder(out)),
        covariates=_covariates(model),
        design_table=_design_table(model),
        contrasts=contrasts,
        rois=_roi_tables(model),
        n_viewers=_MAX_VIEWERS,
        methods=methods,
        rules=glm_rules(record, has_preprocessing, n_flagged, has_clusters),
        references=entries,
        bibtex=bibtex(entries),
        options=_options(record),
        inputs=_inputs(record),
    )  # fmt: skip
    storage.write_text(out, page)
    return out


def _preprocessing(model: Model, cohort: Path | None) -> Preprocessing | None:
    """The table of the model's scans, with the run that made their maps; None if no table has all scans."""
    if cohort is not None:
        if not cohort.is_file():
            msg = f"{cohort}: no such cohort table"
            raise VbmstatError(msg)
        run, without = _matched(read_preprocessing(cohort.parent, cohort), model.record["scan_ids"])
        if without:
            msg = f"{cohort}: no row for {listed(without, 5)}, which the model used; give the model's own table"
            raise VbmstatError(msg)
        return run
    for path in (parent / "cohort.tsv" for parent in model.folder.absolute().parents[:2]):
        if path.is_file():
            run, without = _matched(read_preprocessing(path.parent), model.record["scan_ids"])
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


def _participants(model: Model, run: Preprocessing | None) -> Table:
    """The covariates of the formula over the scans of the model."""
    caption = "Scans in the model: mean ± standard deviation (range), or counts"
    if run is None:
        columns = [name for name in model.design.columns if name != "Intercept"]
        return described(model.design[columns], caption)
    table = run.table.loc[model.record["scan_ids"]]
    words = set(_WORD.findall(model.record["formula"].partition("~")[2]))
    names = {find_column(word, table) for word in words}
    columns = [name for name in table.columns if name in names]
    factor = next((name for name in columns if not pd.api.types.is_numeric_dtype(table[name])), None)
    return described(table[[*columns, *(name for name in ("gm_ml",) if name in table)]], caption, factor)


def _left_out(model: Model, run: Preprocessing | None) -> Table | None:
    """Scans of the cohort that are not in the model, and why."""
    if run is None:
        return None
    left = [scan for scan in run.table.index if scan not in set(model.record["scan_ids"])]
    if not left:
        return None
    words = [w for w in _WORD.findall(model.record["formula"].partition("~")[2]) if w in run.table]
    rows = []
    for scan in left:
        missing = [word for word in words if pd.isna(run.table.at[scan, word])]
        named = [note for note in model.record["notes"] if re.search(rf"(?<![\w-]){re.escape(scan)}(?![\w-])", note)]
        reason = named[0].split(":")[0] if named else "the model was not given its map"
        rows.append((scan, f"no value of {', '.join(missing)}" if missing else reason))
    return table_of(pd.DataFrame(rows, columns=["scan", "why"]), "Scans of the cohort that are not in the model")


def _overview(model: Model) -> Table:
    """One row per contrast: its extreme values and their positions."""
    atlas = _atlas()
    rows = []
    for index, entry in enumerate(model.record["contrasts"]):
        statistic = model.map(entry, entry["kind"])
        if statistic is None:
            continue
        data = statistic.data[0]
        threshold, meaning = model.outline(entry, statistic)
        beyond = int((data.abs() > threshold).sum())
        row: list[Cell] = [Cell(entry["name"], entry["name"], f"#contrast-{index}")]
        extremes = [data.argmax()] if entry["kind"] != "t" else [data.argmax(), data.argmin()]
        for at in extremes:
            place = np.unravel_index(int(at), statistic.grid.shape)
            mm = (statistic.grid.affine @ [*place, 1.0])[:3]
            row += [fixed(float(data[place])), Cell(_coordinates(mm)), Cell(region_at(atlas, mm))]
        row += [Cell("–")] * (7 - len(row))
        counted = number(entry["repetitions_estimated"]) if model.record["n_subsets"] else Cell("none")
        row += [number(beyond), Cell(f"{threshold:.2f} ({meaning})"), counted]
        rows.append(tuple(row))
    headings = (
        "contrast", "largest", "MNI mm", "region", "smallest", "MNI mm", "region", "voxels beyond", "threshold",
        "subsets",
    )  # fmt: skip
    caption = f"Extremes of each statistic over {model.record['n_voxels']:,} voxels; regions of {_ATLAS.upper()}"
    return Table(caption, headings, tuple(rows))


def _atlas() -> Atlas | None:
    try:
        return load_atlas(_ATLAS)
    except VbmstatError:
        return None


def region_at(atlas: Atlas | None, position_mm: np.ndarray) -> str:
    """Name of the region at a point; "" outside all regions."""
    if atlas is None:
        return ""
    index = np.rint(np.linalg.inv(atlas.image.grid.affine) @ [*position_mm, 1.0])[:3].astype(int)
    if (index < 0).any() or (index >= atlas.image.grid.shape).any():
        return ""
    label = round(float(atlas.image.data[(0, *index)]))
    return str(atlas.table.at[label, "name"]) if label in atlas.table.index else ""


def _coordinates(mm: np.ndarray) -> str:
    return ", ".join(f"{value:.0f}".replace("-", "−") for value in mm)


def _design_pictures(model: Model, folder: Path) -> list[Picture]:
    matrix = model.design.to_numpy(dtype=float)
    figure = model_figures.design_figure(matrix, list(model.design.columns), list(model.design.index))
    n_scans, n_columns = matrix.shape
    shape = f"{n_scans} scans and {n_columns} column{'' if n_columns == 1 else 's'}"
    pictures = [
        publish(folder, "design", figure, f"Design matrix of {shape} in grey",
                "Design matrix, each column scaled to its own range")
    ]  # fmt: skip
    varying = model.design.loc[:, model.design.nunique() > 1]
    if varying.shape[1] > 1:
        text = "; ".join(f"{a} and {b} {value:.2f}" for (a, b), value in varying.corr().stack().items() if a < b)
        figure = publication.correlation_figure(varying.corr())
        alt, caption = f"Correlations of the columns: {text}", "Correlation of the columns"
        pictures.append(publish(folder, "correlations", figure, alt, caption))
    return pictures


def _design_table(model: Model) -> Table:
    frame = pd.DataFrame(model.record["design_report"])
    frame = frame.drop(columns=[name for name in frame if frame[name].isna().all()])
    names = {"vif": "variance inflation", "r_tiv": "r with TIV", "r2_site": "R² of sites"}
    return table_of(frame, "Collinearity of the columns, and with TIV", lambda name: names.get(name, name))


def _covariates(model: Model) -> Table | None:
    """How each covariate was coded; None for records of earlier versions, which do not say."""
    covariates = model.record.get("covariates") or []
    rows = tuple((Cell(one["name"]), Cell(one["line"].removeprefix(f"{one['name']}: "))) for one in covariates)
    return Table("Coding of the covariates", ("covariate", "coded as"), rows) if rows else None


def _contrast(model: Model, entry: Mapping[str, Any], index: int, folder: Path) -> ContrastReport:
    symbol, label, name = entry["kind"], entry["label"], entry["name"]
    statistic = model.map(entry, symbol)
    if statistic is None:  # a model of a table
        return ContrastReport(f"contrast-{index}", name, "", (), "", _tables(model, entry), (), "", ())
    threshold, meaning = model.outline(entry, statistic)
    values = statistic.data[0].numpy()
    mosaic = publish(
        folder, f"contrast-{label}_{symbol}",
        publication.stat_map_figure(statistic, f"{name}: {symbol} of all scans", symbol, threshold),
        f"Slices of the {symbol}-map of {name} on the average brain",
        f"{symbol}-map of all scans. Outlines: {symbol} beyond {threshold:.2f} ({meaning}); below, faded.",
    )  # fmt: skip
    glass = publish(
        folder, f"contrast-{label}_glassbrain", model_figures.glass_brain_figure(statistic, name, threshold, symbol),
        f"Glass brain of the {symbol}-map of {name}",
        f"Largest {symbol} along each line of sight, beyond {threshold:.2f}.",
    )  # fmt: skip
    viewer = viewer_html(statistic, f"{name}: {symbol}", threshold) if index < _MAX_VIEWERS else ""
    stability, text = _stability(model, entry, values, threshold, folder)
    low, high = (fixed(float(value)).text for value in (values.min(), values.max()))
    beyond = int((np.abs(values) > threshold).sum())
    n_voxels = model.record["n_voxels"]
    counted = f"{beyond:,} of {n_voxels:,} voxel{'' if n_voxels == 1 else 's'}"
    summary = f"{symbol} from {low} to {high}{_freedom(model, entry)}; {counted} beyond {threshold:.2f} ({meaning})."
    return ContrastReport(
        f"contrast-{index}", name, summary, (mosaic, glass), viewer, _tables(model, entry), stability, text,
        _effects(model, entry, folder),
    )  # fmt: skip


def _freedom(model: Model, entry: Mapping[str, Any]) -> str:
    """The degrees of freedom of a contrast, where they are not those of all."""
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
    model: Model, entry: Mapping[str, Any], values: np.ndarray, threshold: float, folder: Path
) -> tuple[tuple[Picture, ...], str]:
    symbol, name, label = entry["kind"], entry["name"], entry["label"]
    maps = [volume for quantile in ("median", "q25", "q75") if (volume := model.map(entry, quantile + symbol))]
    if len(maps) < 3 or not model.record["n_subsets"]:
        return (), ""
    median, low, high = (volume.data[0].numpy() for volume in maps)
    inside = values != 0
    share = np.mean(model.record["scans_per_subset"]) / model.record["n_scans"]
    mosaic = publish(
        folder, f"contrast-{label}_median{symbol}",
        publication.stat_map_figure(maps[0], f"{name}: median {symbol} over subsets", f"median {symbol}", threshold),
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
    beyond = inside & (np.abs(values) > threshold)
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


def _cluster_files(model: Model, entry: Mapping[str, Any]) -> list[Path]:
    return sorted(
        path for path in model.folder.glob("contrast-*.tsv")
        if path.name.startswith(f"contrast-{entry['label']}_") and ("cluster" in path.name or "peak" in path.name)
    )  # fmt: skip


def _tables(model: Model, entry: Mapping[str, Any]) -> tuple[Table, ...]:
    """Cluster tables, and the statistics of a model of a table."""
    paths = _cluster_files(model, entry)
    paths += [path for path in (model.folder / f"contrast-{entry['label']}_stats.tsv",) if path.is_file()]
    tables = []
    for path in paths:
        frame = pd.read_csv(path, sep="\t", na_values=["n/a"])
        frame = frame[sorted(frame.columns, key=lambda name: (name != "cluster", name not in ("region", "regions")))]
        more = f", the first {_MAX_TABLE_ROWS} of {len(frame)} rows" if len(frame) > _MAX_TABLE_ROWS else ""
        what = path.name.removeprefix(f"contrast-{entry['label']}_").removesuffix(".tsv").replace("_", " ")
        tables.append(
            table_of(frame.head(_MAX_TABLE_ROWS), f"{entry['name']}: {what}{more} ({path.name})",
                     lambda name: name.replace("_", " "))
        )  # fmt: skip
    return tuple(tables)


def _roi_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("roi*_glm.tsv"))


def _roi_tables(model: Model) -> list[Table]:
    """Tables of a model over regions."""
    tables = []
    for path in _roi_paths(model.folder):
        frame = read_table(path).dropna(axis=1, how="all")
        caption = f"Regions of {model.record.get('atlas', 'the atlas')}; click a heading to sort ({path.name})"
        tables.append(table_of(frame, caption, lambda name: name.replace("_", " ")))
    return tables


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A nested spec as rows: ``subsets.repeats``."""
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        is_part = isinstance(value, Mapping) and name != "contrasts"
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if is_part else {name: value}
    return flat


def _options(record: Mapping[str, Any]) -> Table:
    versions = [f"{name} {version}" for name, version in record["versions"].items()]
    rows = tuple(
        (Cell(key), cell(", ".join(map(str, value)) if isinstance(value, list) else value))
        for key, value in {**_flat(record["spec"]), "versions": versions}.items()
    )
    return Table("Every option of the fit, and versions", ("option", "value"), rows)


def _inputs(record: Mapping[str, Any]) -> Table:
    rows = [(scan, file["path"], file.get("sha256", "")) for scan, file in record["maps"].items()]
    return table_of(pd.DataFrame(rows, columns=["scan", "map", "sha256"]), "Maps")
