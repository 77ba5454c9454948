"""Compare pipelines on cohorts: fit every model in every pipeline, then write tables and figures.

Results are in ``glm/COHORT/VARIABLE_TISSUE/PIPELINE``; the packed maps in ``maps/`` may be deleted. Models already
fitted with the same maps, covariates, options and version are kept: ``stamp.json``, written last, records these.
Over 300 lines, as each step of the comparison is one function here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat import __version__
from vbmstat.compare import summary
from vbmstat.compare.config import TISSUES, Plan, Variable
from vbmstat.compare.inputs import CohortData, load_cohort, pool_cohorts, smoothed_maps
from vbmstat.compare.statistics import compare_pair, masked, read_statistic
from vbmstat.compare.tables import join_rois, roi_agreement
from vbmstat.errors import DesignError, ScanError, TableError, VbmstatError
from vbmstat.evaluate.folders import evaluate_folders
from vbmstat.figures import side_by_side
from vbmstat.figures.publication import save_publication
from vbmstat.files.filenames import same_file_key
from vbmstat.files.folders import files_below
from vbmstat.files.naming import split_ids
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import file_labels
from vbmstat.glm.spec import ModelSpec
from vbmstat.image import storage
from vbmstat.maps.masking import file_stamp
from vbmstat.maps.pack import find_store, pack_maps
from vbmstat.progress import OnProgress, ignore
from vbmstat.roi.atlas import Atlas, load_atlas
from vbmstat.roi.output import licence_notice, write_rois
from vbmstat.roi.table import TISSUE_COLUMNS, measure_rois
from vbmstat.tables.cohort import Cohort
from vbmstat.tables.dictionary import write_table

_STAMP = "stamp.json"
_NEEDED = "draws.tsv"
_Failures = dict[tuple[str, str, str], str]  # cohort, variable and tissue -> reason


@dataclass(frozen=True)
class Outcome:
    """Result of :func:`compare_cohorts`.

    Attributes
    ----------
    tables : dict of str to DataFrame
        By file name without suffix.
    summary : str
        Markdown.
    notes : tuple of str
        What was left out or differs.
    n_fitted, n_kept : int
        Models fitted now, and kept from an earlier run.
    failures : tuple of str
        Models that could not be fitted, and why; their variable is left out in that cohort and tissue.
    """

    tables: Mapping[str, pd.DataFrame]
    summary: str
    notes: tuple[str, ...]
    n_fitted: int
    n_kept: int
    failures: tuple[str, ...]


def compare_cohorts(plan: Plan, report: OnProgress = ignore) -> Outcome:
    """Fit every model of a plan in every pipeline on the same subsets, and compare.

    Parameters
    ----------
    plan : Plan
        From :func:`vbmstat.compare.config.read_plan`.
    report : callable
        Called with (stage, done, total).

    Returns
    -------
    Outcome
        Also written below ``plan.out``: tables (TSV), figures (SVG and PNG), summary.md and summary.json.

    Raises
    ------
    VbmstatError
        If a cohort has no scan in all pipelines, or a map cannot be read; finished models are kept.
    """
    cohorts = _load(plan)
    notes = [note for data in cohorts.values() for note in data.notes]
    failures: _Failures = {}
    with storage.replacing(plan.out, "summary.json") as staged:
        fitted = _fit_all(plan, cohorts, report, notes, failures)
        maps = _compare_models(plan, staged / "figures", cohorts, failures, report, notes)
        rois = _compare_rois(plan, staged / "figures", cohorts, report, notes)
        agreement = _evaluate(plan, cohorts, report, notes)
        tables = summary.make_tables(plan, maps, rois, agreement, _times(cohorts))
        kept = tuple(dict.fromkeys([*notes, *(f"not fitted: {reason}" for reason in failures.values())]))
        text = summary.as_markdown(plan, {name: len(data.scans) for name, data in cohorts.items()}, tables, kept)
        for name, table in tables.items():
            write_table(staged / f"{name}.tsv", table, name)
        storage.write_text(staged / "summary.md", text)
        storage.write_json(staged / "summary.json", summary.as_json(tables, kept))
    return Outcome(tables, text, kept, sum(fitted), len(fitted) - sum(fitted), tuple(failures.values()))


def _load(plan: Plan) -> dict[str, CohortData]:
    """Load every cohort with its maps and covariates; refuse scans of two cohorts with the same COHORT_SCAN."""
    cohorts = {name: load_cohort(entry, plan.tissues) for name, entry in plan.cohorts.items() if not entry.pool}
    owner: dict[str, tuple[str, str]] = {}
    for name, data in cohorts.items():
        for scan in data.scans:
            other = owner.setdefault(same_file_key(f"{name}_{scan}"), (name, scan))
            if other != (name, scan):
                msg = f"scan {scan} of {name} and {other[1]} of {other[0]} would both be {name}_{scan}; rename a cohort"
                raise TableError(msg)
    for name, entry in plan.cohorts.items():
        if entry.pool:
            cohorts[name] = pool_cohorts(name, [cohorts[member] for member in entry.pool])
    return {name: cohorts[name] for name in plan.cohorts}


def _fit_all(
    plan: Plan, cohorts: Mapping[str, CohortData], report: OnProgress, notes: list[str], failures: _Failures
) -> list[bool]:
    """Fit the models that are not done, adding to `failures`; return for each model whether it was fitted now."""
    jobs = [
        (data, pipeline, tissue) for name, data in cohorts.items() for tissue in plan.tissues
        for pipeline in data.pipelines if plan.cohorts[name].variables
    ]  # fmt: skip
    done = []
    for number, (data, pipeline, tissue) in enumerate(jobs, 1):
        paths, note = smoothed_maps(data, pipeline, tissue, plan.fwhm_mm, plan.out / "smoothed", report)
        notes += [note] if note else []
        for name in plan.cohorts[data.name].variables:
            try:
                done.append(_fit(plan, data, pipeline, tissue, plan.variables[name], paths))
            except DesignError as error:
                failures[data.name, name, tissue] = str(error)
        report("fitting models", number, len(jobs))
    return done


def _model_folder(plan: Plan, data: CohortData, variable: str, tissue: str, pipeline: str) -> Path:
    return plan.out / "glm" / data.name / f"{variable}_{tissue}" / pipeline


def _fit(
    plan: Plan, data: CohortData, pipeline: str, tissue: str, variable: Variable, paths: Mapping[str, Path]
) -> bool:
    """Fit one model unless it is done; return whether it was fitted now."""
    folder = _model_folder(plan, data, variable.name, tissue, pipeline)
    reference = next(iter(data.pipelines))
    table = data.table(pipeline)
    _check_tiv(variable, table, data, pipeline)
    options: dict[str, Any] = {"missing": "drop", **plan.glm}
    if pipeline != reference:
        draws = _model_folder(plan, data, variable.name, tissue, reference) / _NEEDED
        options |= {"draws": draws} if draws.is_file() else {}
    stamp = {
        "version": __version__, "formula": variable.formula, "contrast": variable.contrast, "options": plan.glm,
        "maps": {scan: file_stamp(path) for scan, path in paths.items()}, "covariates": _digest(table),
        "draws": _file_digest(options["draws"]) if "draws" in options else None,
    }  # fmt: skip
    if _is_done(folder, stamp):
        return False
    mask = ModelSpec.make(variable.formula, **options).mask
    store = plan.out / "maps" / f"{data.name}_{pipeline}_{tissue}"
    existing = find_store(store)
    if existing is not None and set(existing.scan_ids) != set(paths):
        shutil.rmtree(store)  # its mask is that of all its scans
    try:
        packed = pack_maps(paths, store, mask.rule)
        keep = {key: value for key, value in options.items() if key not in ("mask_threshold", "mask_share")}
        fit = fit_glm(packed, f"{tissue} ~ {variable.formula}", table, {variable.name: variable.contrast}, **keep)
    except (DesignError, TableError, ScanError) as error:
        msg = f"{data.name}, {variable.name}, {tissue}, {pipeline}: {error}"
        raise DesignError(msg) from error
    if fit.contrasts[0].kind != "t":
        msg = f"{data.name}, {variable.name}: contrast {variable.contrast!r} is an F-test; give a t-contrast"
        raise DesignError(msg)
    (folder / _STAMP).unlink(missing_ok=True)
    fit.to_directory(folder)
    storage.write_json(folder / _STAMP, stamp)
    return True


def _check_tiv(variable: Variable, table: pd.DataFrame, data: CohortData, pipeline: str) -> None:
    words = "".join(letter if letter.isalnum() or letter == "_" else " " for letter in variable.formula).split()
    if not {"tiv", "tiv_ml"} & set(words):
        return
    values = table["tiv_ml"] if "tiv_ml" in table else pd.Series(index=table.index, dtype=float)
    without = list(values.index[values.isna()])
    if without:
        msg = (
            f"{data.name}: {pipeline} gives no TIV for {', '.join(without[:6])}{' …' if len(without) > 6 else ''}; "
            "expected sidecars (report/vbmstat_*.json), cohort.tsv or volumes.tsv with tiv_ml, or CAT12's "
            "report/cat_*.xml in its folder"
        )
        raise DesignError(msg)


def _digest(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv().encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_done(folder: Path, stamp: Mapping[str, Any]) -> bool:
    """Whether a folder has the same stamp."""
    try:
        return bool(json.loads((folder / _STAMP).read_text(encoding="utf-8")) == json.loads(json.dumps(stamp)))
    except (OSError, ValueError):
        return False


def _compare_models(
    plan: Plan,
    figures: Path,
    cohorts: Mapping[str, CohortData],
    failures: _Failures,
    report: OnProgress,
    notes: list[str],
) -> pd.DataFrame:
    """One row per cohort, tissue, pair, variable and statistic; draws the slices of each cohort and tissue."""
    rows: list[dict[str, Any]] = []
    todo = [(data, tissue) for name, data in cohorts.items() if plan.cohorts[name].variables for tissue in plan.tissues]
    for done, (data, tissue) in enumerate(todo, 1):
        groups: dict[str, list[side_by_side.PanelRow]] = {}
        shown = "median t"
        for name in plan.cohorts[data.name].variables:
            if (data.name, name, tissue) in failures:
                continue
            label = f"contrast-{file_labels([name])[0]}"
            for statistic in ("mediant", "t"):
                file = f"{label}_stat-{statistic}_statmap.nii.gz"
                paths = {p: _model_folder(plan, data, name, tissue, p) / file for p in data.pipelines}
                if not all(path.is_file() for path in paths.values()):
                    continue  # a model without subsets
                pairs = {pair: compare_pair(paths[pair[0]], paths[pair[1]]) for pair in data.pairs}
                for (a, b), pair in pairs.items():
                    n_scans = json.loads((paths[a].parent / "glm.json").read_text(encoding="utf-8"))["n_scans"]
                    keys = {"cohort": data.name, "tissue": tissue, "a": a, "b": b, "variable": name}
                    rows.append({**keys, "statistic": pair.kind, "n_scans": n_scans, **pair.row})
                    notes += [f"{data.name}, {name}, {tissue}, {a} and {b}: {n}" for n in pair.notes
                              if not n.startswith("masks differ")]  # fmt: skip
                if name not in groups:
                    groups[name] = [side_by_side.PanelRow(p, masked(read_statistic(paths[p]))) for p in data.pipelines]
                    shown = "median t" if statistic == "mediant" else "t"
        if groups:
            figure = side_by_side.panels_figure(groups, shown)
            save_publication(figures / f"slices_{data.name}_{tissue}", figure)
        report("comparing t-maps", done, len(todo))
    return pd.DataFrame(rows)


def _compare_rois(
    plan: Plan, figures: Path, cohorts: Mapping[str, CohortData], report: OnProgress, notes: list[str]
) -> pd.DataFrame:
    """Agreement of the pipelines' region volumes; draws the scatter panels."""
    atlas = load_atlas(plan.atlas)
    notes.append(licence_notice(atlas))
    parts = []
    for done, data in enumerate(cohorts.values(), 1):
        tables = {name: _regions(plan, data, name, atlas) for name in data.pipelines}
        for a, b in data.pairs:
            one, other = tables[a], tables[b]
            if one is None or other is None:
                lacks = a if one is None else b
                notes.append(f"{data.name}: {lacks} has no unsmoothed maps of all scans, so no region volumes")
                continue
            joined = join_rois(one, other, "region")
            agreement = roi_agreement(joined, "region")
            keys = {"cohort": data.name, "a": a, "b": b}
            parts.append(pd.DataFrame([keys] * len(agreement)).join(agreement))
            for tissue, part in joined.groupby("tissue", sort=False):
                stem = figures / f"rois_{data.name}_{tissue}_{a}_{b}"
                save_publication(stem, side_by_side.roi_figure(part, (a, b), str(tissue)))
        report("comparing regions", done, len(cohorts))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _regions(plan: Plan, data: CohortData, pipeline: str, atlas: Atlas) -> pd.DataFrame | None:
    """Region volumes of a pipeline (tidy), measured now or earlier; None if unsmoothed maps are missing."""
    maps = data.pipelines[pipeline].maps
    if any(scan not in maps[tissue] for tissue in plan.tissues for scan in data.scans):
        return None
    folder = plan.out / "roi" / data.name / pipeline
    file = folder / f"roi_{atlas.name}_regions.tsv"
    stamp = {
        "version": __version__, "atlas": atlas.name,
        "maps": {tissue: {scan: file_stamp(maps[tissue][scan]) for scan in data.scans} for tissue in plan.tissues},
    }  # fmt: skip
    if not (_is_done(folder, stamp) and file.is_file()):
        columns = {TISSUE_COLUMNS[t]: [str(maps[t][scan].absolute()) for scan in data.scans] for t in plan.tissues}
        ids = pd.MultiIndex.from_tuples([(scan, "") for scan in data.scans], names=["participant_id", "session_id"])
        tables = measure_rois(Cohort(pd.DataFrame(columns, index=ids), Path()), atlas, plan.tissues)
        if len(tables.failures):
            msg = f"{data.name}, {pipeline}: {tables.failures['reason'].iloc[0]}"
            raise DesignError(msg)
        (folder / _STAMP).unlink(missing_ok=True)
        write_rois(folder, tables)
        storage.write_json(folder / _STAMP, stamp)
    return pd.read_csv(file, sep="\t", na_values="n/a", keep_default_na=False, dtype={"participant_id": str})


def _evaluate(plan: Plan, cohorts: Mapping[str, CohortData], report: OnProgress, notes: list[str]) -> pd.DataFrame:
    """Evaluate segmentation and registration, scan by scan, of cohorts that are not pooled."""
    parts = []
    single = [data for name, data in cohorts.items() if not plan.cohorts[name].pool]
    for data in single:
        folder = plan.out / "evaluation" / data.name
        folders = plan.cohorts[data.name].pipelines
        stamp = {"version": __version__, "files": {n: _files(path, data.scans) for n, path in folders.items()}}
        file = folder / "evaluation_scans.tsv"
        if not (_is_done(folder, stamp) and file.is_file()):
            try:
                evaluation = evaluate_folders(list(folders.values()), report=report, names=list(folders))
            except VbmstatError as error:
                notes.append(f"{data.name}: segmentation and registration were not compared: {error}")
                continue
            notes += [f"{data.name}: {note}" for note in evaluation.notes]
            kept = evaluation.scans[[_scan_of(stem) in set(data.scans) for stem in evaluation.scans["scan"]]]
            write_table(file, kept, "evaluation_scans")
            storage.write_json(folder / _STAMP, stamp)
        table = pd.read_csv(file, sep="\t", na_values="n/a", keep_default_na=False, dtype={"scan": str})
        parts.append(table.assign(cohort=data.name))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _scan_of(stem: str) -> str:
    return "_".join(filter(None, split_ids(stem))).removesuffix("_T1w")


def _files(folder: Path, scans: Iterable[str]) -> dict[str, dict[str, int]]:
    """Stamps of the files that the evaluation reads."""
    wanted = ("p0", "y_", *(f"{prefix}{number}" for prefix in ("wp", "mwp") for number in TISSUES.values()))
    paths = [path for path in files_below(folder) if path.name.startswith(wanted)]
    return {path.name: file_stamp(path) for path in paths if any(scan in path.name for scan in scans)}


def _times(cohorts: Mapping[str, CohortData]) -> pd.DataFrame:
    """Recorded seconds of each scan and pipeline."""
    parts = [
        pd.DataFrame({"cohort": name, "pipeline": key, "scan": source.table.index,
                      "seconds": source.table["seconds"].to_numpy()})
        for name, data in cohorts.items() for key, source in data.pipelines.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True).dropna(subset="seconds")
