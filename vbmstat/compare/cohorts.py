"""Compare pipelines on cohorts: fit every model in every pipeline, then write tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.compare import summary
from vbmstat.compare.config import TISSUES, ComparisonPlan
from vbmstat.compare.models import Stamp, fit_model, model_folder
from vbmstat.compare.pairs import compare_pair
from vbmstat.compare.pipelines import CohortData, load_cohort, pool_cohorts, smoothed_maps
from vbmstat.compare.regions import join_rois, read_rois, roi_agreement
from vbmstat.compare.statistics import masked, read_statistic
from vbmstat.errors import DesignError, TableError, VbmstatError
from vbmstat.evaluate.folders import evaluate_folders
from vbmstat.figures import side_by_side
from vbmstat.figures.publication import save_publication
from vbmstat.files.filenames import same_file_key
from vbmstat.files.folders import files_below
from vbmstat.files.naming import scan_id, split_ids
from vbmstat.glm.design.contrast import file_labels
from vbmstat.image import storage
from vbmstat.maps.masking import file_stamp
from vbmstat.progress import OnProgress, ignore
from vbmstat.roi.atlas import Atlas, licence_notice, load_atlas
from vbmstat.roi.output import write_rois
from vbmstat.roi.table import TISSUE_COLUMNS, measure_rois
from vbmstat.tables.cohort import ID_COLUMNS, Cohort, read_table
from vbmstat.tables.dictionary import write_table


@dataclass(frozen=True)
class CohortComparison:
    """Result of :func:`compare_cohorts`."""

    tables: Mapping[str, pd.DataFrame]  # by file name without suffix
    summary: str  # Markdown
    notes: tuple[str, ...]
    # models fitted now, and kept from an earlier run
    n_fitted: int
    n_kept: int
    # models that could not be fitted, and why; their variable is left out in that cohort and tissue
    failures: tuple[str, ...]


def compare_cohorts(plan: ComparisonPlan, report: OnProgress = ignore) -> CohortComparison:
    """Fit every model of a plan in every pipeline on the same subsets, and compare.

    Parameters
    ----------
    plan : ComparisonPlan
        From :func:`vbmstat.compare.config.read_plan`.
    report : callable
        Called with (stage, done, total).

    Returns
    -------
    CohortComparison
        Also written below ``plan.out``: tables (TSV), figures (SVG and PNG), summary.md and summary.json.

    Raises
    ------
    VbmstatError
        If a cohort has no scan in all pipelines, or a map cannot be read; finished models are kept.
    """
    with storage.replacing(plan.out, "summary.json") as staged:
        run = _Run(plan, load_cohorts(plan), staged / "figures", report)
        fitted = run.fit_models()
        maps, rois, scans = run.compare_models(), run.compare_regions(), run.evaluate()
        tables = summary.make_tables(plan, maps, rois, scans, _times(run.cohorts))
        failures = tuple(run.failures.values())
        notes = tuple(dict.fromkeys([*run.notes, *(f"not fitted: {reason}" for reason in failures)]))
        text = summary.as_markdown(plan, {name: len(data.scans) for name, data in run.cohorts.items()}, tables, notes)
        for name, table in tables.items():
            write_table(staged / f"{name}.tsv", table, name)
        storage.write_text(staged / "summary.md", text)
        storage.write_json(staged / "summary.json", summary.as_json(tables, notes))
    return CohortComparison(tables, text, notes, sum(fitted), len(fitted) - sum(fitted), failures)


def load_cohorts(plan: ComparisonPlan) -> dict[str, CohortData]:
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


@dataclass
class _Run:
    """A comparison under way; notes and failures (by cohort, variable and tissue) add up."""

    plan: ComparisonPlan
    cohorts: Mapping[str, CohortData]
    figures: Path
    report: OnProgress
    notes: list[str] = field(default_factory=list)
    failures: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.notes += [note for data in self.cohorts.values() for note in data.notes]

    def fit_models(self) -> list[bool]:
        """Fit the models that are not done; return for each model whether it was fitted now."""
        jobs = [
            (data, pipeline, tissue) for data, tissue in self._modelled() for pipeline in data.pipelines
        ]  # fmt: skip
        done = []
        for number, (data, pipeline, tissue) in enumerate(jobs, 1):
            maps, note = smoothed_maps(data, pipeline, tissue, self.plan, self.report)
            self.notes += [note] if note else []
            for name in self.plan.cohorts[data.name].variables:
                try:
                    done.append(fit_model(self.plan, maps, self.plan.variables[name]))
                except DesignError as error:
                    self.failures[data.name, name, tissue] = str(error)
            self.report("fitting models", number, len(jobs))
        return done

    def _modelled(self) -> list[tuple[CohortData, str]]:
        """Cohorts with models, by tissue."""
        used = [data for name, data in self.cohorts.items() if self.plan.cohorts[name].variables]
        return [(data, tissue) for data in used for tissue in self.plan.tissues]

    def compare_models(self) -> pd.DataFrame:
        """One row per cohort, tissue, pair, variable and statistic; draws the slices of each cohort and tissue."""
        rows: list[dict[str, Any]] = []
        for done, (data, tissue) in enumerate(self._modelled(), 1):
            panels: dict[str, list[side_by_side.PanelRow]] = {}
            shown = "median t"
            for name in self.plan.cohorts[data.name].variables:
                for statistic, paths in self._maps(data, tissue, name).items():
                    rows += self._compare_maps(data, tissue, name, paths)
                    if name not in panels:
                        maps = [(pipeline, read_statistic(path)) for pipeline, path in paths.items()]
                        panels[name] = [side_by_side.PanelRow(pipeline, masked(one)) for pipeline, one in maps]
                        shown = statistic
            if panels:
                figure = side_by_side.panels_figure(panels, shown)
                save_publication(self.figures / f"slices_{data.name}_{tissue}", figure)
            self.report("comparing t-maps", done, len(self._modelled()))
        return pd.DataFrame(rows)

    def _maps(self, data: CohortData, tissue: str, variable: str) -> dict[str, dict[str, Path]]:
        """Maps of a variable by statistic and pipeline; no median without subsets, none if a model failed."""
        if (data.name, variable, tissue) in self.failures:
            return {}
        every = {}
        for stem, statistic in (("mediant", "median t"), ("t", "t")):
            file = f"contrast-{file_labels([variable])[0]}_stat-{stem}_statmap.nii.gz"
            paths = {p: model_folder(self.plan, data.name, variable, tissue, p) / file for p in data.pipelines}
            if all(path.is_file() for path in paths.values()):
                every[statistic] = paths
        return every

    def _compare_maps(
        self, data: CohortData, tissue: str, variable: str, paths: Mapping[str, Path]
    ) -> list[dict[str, Any]]:
        """A row per pair of pipelines."""
        rows = []
        for a, b in data.pairs:
            pair = compare_pair(paths[a], paths[b])
            n_scans = storage.read_json(paths[a].parent / "glm.json")["n_scans"]
            keys = {"cohort": data.name, "tissue": tissue, "a": a, "b": b, "variable": variable}
            rows.append({**keys, "statistic": pair.kind, "n_scans": n_scans, **pair.row})
            where = f"{data.name}, {variable}, {tissue}, {a} and {b}"
            self.notes += [f"{where}: {note}" for note in pair.notes if not note.startswith("masks differ")]
        return rows

    def compare_regions(self) -> pd.DataFrame:
        """Agreement of the pipelines' region volumes; draws the scatter panels."""
        atlas = load_atlas(self.plan.atlas)
        self.notes.append(licence_notice(atlas))
        parts = []
        for done, data in enumerate(self.cohorts.values(), 1):
            tables = {name: self._regions(data, name, atlas) for name in data.pipelines}
            for a, b in data.pairs:
                one, other = tables[a], tables[b]
                if one is None or other is None:
                    lacks = a if one is None else b
                    self.notes.append(f"{data.name}: {lacks} has no unsmoothed maps of all scans, so no region volumes")
                    continue
                joined = join_rois(one, other, "region")
                agreement = roi_agreement(joined, "region")
                agreement.insert(0, "cohort", data.name)
                parts.append(agreement.assign(a=a, b=b))
                for tissue, part in joined.groupby("tissue", sort=False):
                    stem = self.figures / f"rois_{data.name}_{tissue}_{a}_{b}"
                    save_publication(stem, side_by_side.roi_figure(part, (a, b), str(tissue)))
            self.report("comparing regions", done, len(self.cohorts))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _regions(self, data: CohortData, pipeline: str, atlas: Atlas) -> pd.DataFrame | None:
        """Region volumes of a pipeline (tidy), measured now or earlier; None if unsmoothed maps are missing."""
        tissues = self.plan.tissues
        maps = {tissue: data.maps(pipeline, tissue) for tissue in tissues}
        if any(scan not in maps[tissue] for tissue in tissues for scan in data.scans):
            return None
        folder = self.plan.out / "roi" / data.name / pipeline
        file = folder / f"roi_{atlas.name}_regions.tsv"
        stamps = {tissue: {scan: file_stamp(maps[tissue][scan]) for scan in data.scans} for tissue in tissues}
        stamp = Stamp(folder, {"atlas": atlas.name, "maps": stamps})
        if not (stamp.matches() and file.is_file()):
            columns = {TISSUE_COLUMNS[t]: [str(maps[t][scan].absolute()) for scan in data.scans] for t in tissues}
            ids = pd.MultiIndex.from_tuples([(scan, "") for scan in data.scans], names=ID_COLUMNS)
            tables = measure_rois(Cohort(pd.DataFrame(columns, index=ids), Path()), atlas, tissues)
            if len(tables.failures):
                msg = f"{data.name}, {pipeline}: {tables.failures['reason'].iloc[0]}"
                raise DesignError(msg)
            stamp.clear()
            write_rois(folder, tables)
            stamp.write()
        return read_rois(file)

    def evaluate(self) -> pd.DataFrame:
        """Evaluate segmentation and registration, scan by scan, of cohorts that are not pooled."""
        parts = []
        for data in self.cohorts.values():
            folders = self.plan.cohorts[data.name].pipelines
            file = self.plan.out / "evaluation" / data.name / "evaluation_scans.tsv"
            stamp = Stamp(file.parent, {"files": {name: _files(path, data.scans) for name, path in folders.items()}})
            if folders and not (stamp.matches() and file.is_file()):
                try:
                    evaluation = evaluate_folders(list(folders.values()), report=self.report, names=list(folders))
                except VbmstatError as error:
                    self.notes.append(f"{data.name}: segmentation and registration were not compared: {error}")
                    continue
                self.notes += [f"{data.name}: {note}" for note in evaluation.notes]
                kept = evaluation.scans[[_scan_of(stem) in set(data.scans) for stem in evaluation.scans["scan"]]]
                write_table(file, kept, "evaluation_scans")
                stamp.write()
            if folders:
                parts.append(read_table(file).assign(cohort=data.name))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _scan_of(stem: str) -> str:
    return scan_id(split_ids(stem)).removesuffix("_T1w")


def _files(folder: Path, scans: Iterable[str]) -> dict[str, dict[str, int]]:
    """Stamps of the files that the evaluation reads."""
    wanted = ("p0", "y_", "u_", *(f"{prefix}{number}" for prefix in ("wp", "mwp") for number in TISSUES.values()))
    paths = [path for path in files_below(folder) if path.name.startswith(wanted)]
    return {path.name: file_stamp(path) for path in paths if any(scan in path.name for scan in scans)}


def _times(cohorts: Mapping[str, CohortData]) -> pd.DataFrame:
    """Recorded seconds of each scan and pipeline."""
    parts = [
        pd.DataFrame({"cohort": name, "pipeline": key, "scan": source.index,
                      "seconds": source["seconds"].to_numpy()})
        for name, data in cohorts.items() for key, source in data.pipelines.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True).dropna(subset="seconds")
