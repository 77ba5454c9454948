"""The report of a model: its scans, its design, and the results of each contrast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vbmstat.errors import VbmstatError, listed
from vbmstat.figures import model as model_figures
from vbmstat.figures import publication
from vbmstat.glm.inference.places import NONE, names_at
from vbmstat.glm.record import has_own_df
from vbmstat.image import storage
from vbmstat.report.citations import bibtex, cited
from vbmstat.report.contrasts import MAX_VIEWERS, cluster_files, contrast_report
from vbmstat.report.look import Look, look_at
from vbmstat.report.methods import counted_scans, glm_methods, owners_in
from vbmstat.report.model_folder import Model, find_preprocessing, read_model
from vbmstat.report.notebook import regions_of
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
from vbmstat.report.places import PEAK
from vbmstat.report.regions import region_pictures, region_tables
from vbmstat.report.rules import glm_rules
from vbmstat.report.run_folder import Preprocessing

_ATLAS = "lpba40"
_MAX_NAMED = 200  # scans in a cell
_MOST_READ = 1000  # maps read for the data at peaks: some 50 ms each


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
    run, record = None if model.is_pooled else find_preprocessing(model, cohort), model.record
    looks = {} if model.is_pooled else _looks(model)
    contrasts = [
        contrast_report(model, entry, index, figures_folder(out), looks.get(entry["name"]))
        for index, entry in enumerate(record["contrasts"]) if not model.is_of_regions
    ]  # fmt: skip
    n_flagged = None if run is None else int((run.flags.reindex(model.scans).fillna("") != "").sum())
    has_preprocessing = run is not None and bool(run.engine_versions)
    methods = glm_methods(record)
    if run is not None and has_preprocessing:
        methods = run.methods + methods
    entries = cited([*methods.keys, "taylor2023"])
    has_clusters = any(cluster_files(model, entry) for entry in record["contrasts"])
    page = render(
        "model.html",
        title=record["formula"],
        record=record,
        counted=f"{record['n_scans']} people" if "change" in record else counted_scans(owners_in(record)),
        model=model,
        has_own_df=has_own_df(record),
        participants=_participants(model, run),
        flow=_flow(model),
        overview=None if model.is_of_regions else _overview(model),
        design=_design_pictures(model, figures_folder(out)),
        covariates=_covariates(model),
        design_table=_design_table(model),
        contrasts=contrasts,
        rois=region_tables(model),
        painted=region_pictures(model, figures_folder(out)),
        n_viewers=MAX_VIEWERS,
        methods=methods,
        rules=glm_rules(record, has_preprocessing, n_flagged, has_clusters),
        references=entries,
        bibtex=bibtex(entries),
        options=_options(record),
        inputs=_inputs(record),
    )  # fmt: skip
    storage.write_text(out, page)
    return out


def _looks(model: Model) -> dict[str, Look]:
    """The data at the first peak of the first contrasts; none if the maps are many, or not in the folders above."""
    names = [entry["name"] for entry in model.record["contrasts"][:MAX_VIEWERS]]
    if model.is_of_regions or model.record["n_scans"] > _MOST_READ:
        return {}
    try:
        looks = look_at(model.folder, [(PEAK, name) for name in names], None, model.folder.absolute().parents[:2])
    except VbmstatError:
        return {}
    return dict(zip(names, looks, strict=True))


def _participants(model: Model, run: Preprocessing | None) -> Table:
    """Covariates, age, sex and TIV over the people of the model, by the levels of its first factor."""
    if model.is_pooled:
        sites = pd.DataFrame(model.record["sites"]).drop(columns=["file", "sha256"])
        return table_of(sites, "Sites in the model, whose scans are not here: means over scans (sites.tsv)")
    people = model.people
    factors = [str(one["name"]) for one in model.record.get("covariates") or [] if one["kind"] == "factor"]
    if run is not None and "change" not in model.record:
        found = run.table.loc[model.record["scan_ids"]]
        more = [name for name in ("tiv_ml", "gm_ml") if name in found and name not in people]
        people = people.join(found[more].set_axis(people.index))
    again = pd.Series(owners_in(model.record)).duplicated().to_numpy()
    who = "People in the model, each by the first scan" if again.any() else "Scans in the model"
    caption, people = f"{who}: mean ± standard deviation (range), or counts", people[~again]
    by = next((name for name in factors if name in people), None)
    return described(people.astype(dict.fromkeys(set(factors) & set(people), str)), caption, by)


def _flow(model: Model) -> Table | None:
    """How many scans were left at each step, which were left out, and why; None for records of earlier versions."""
    rows = []
    for step in model.record.get("flow") or []:
        named = [f"{scan} ({why})" if why else scan for scan, why in step["left_out"].items()]
        rows.append((step["step"], number(len(named)), number(step["n_left"]), listed(named, _MAX_NAMED)))
    if not rows:
        return None
    rows.append(("in the model", number(0), number(model.record["n_scans"]), ""))
    frame = pd.DataFrame(rows, columns=["step", "left out", "scans left", "who"])
    return table_of(frame, "Flow of scans from the table to the model; glm.json names all")


def _overview(model: Model) -> Table:
    """One row per contrast: its extreme values and their positions."""
    try:
        atlas = regions_of([_ATLAS])
    except VbmstatError:
        atlas = None
    rows = []
    for index, entry in enumerate(model.record["contrasts"]):
        statistic = model.map(entry, entry["kind"])
        if statistic is None:
            continue
        data = statistic.data[0]
        outline = model.outline(entry, statistic)
        row: list[Cell] = [Cell(entry["name"], entry["name"], f"#contrast-{index}")]
        extremes = [data.argmax()] if entry["kind"] != "t" else [data.argmax(), data.argmin()]
        for at in extremes:
            place = np.unravel_index(int(at), statistic.grid.shape)
            mm = (statistic.grid.affine @ [*place, 1.0])[:3]
            [name] = [NONE] if atlas is None else names_at(atlas, mm[None])
            coordinates = ", ".join(f"{value:.0f}".replace("-", "−") for value in mm)
            row += [fixed(float(data[place])), Cell(coordinates), Cell("" if name == NONE else name)]
        row += [Cell("–")] * (7 - len(row))
        counted = number(entry["repetitions_estimated"]) if model.record["n_subsets"] else Cell("none")
        row += [number(outline.n_beyond(statistic)), Cell(f"{outline.threshold:.2f} ({outline.meaning})"), counted]
        rows.append(tuple(row))
    headings = (
        "contrast", "largest", "MNI mm", "region", "smallest", "MNI mm", "region", "voxels beyond", "threshold",
        "subsets",
    )  # fmt: skip
    caption = f"Extremes of each statistic over {model.record['n_voxels']:,} voxels; regions of {_ATLAS.upper()}"
    return Table(caption, headings, tuple(rows))


def _design_pictures(model: Model, folder: Path) -> list[Picture]:
    if model.is_pooled:
        return []
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
    rows += [(site["site"], site["file"], site["sha256"]) for site in record.get("sites", [])]
    return table_of(pd.DataFrame(rows, columns=["scan", "map", "sha256"]), "Maps")
