"""Harmonised maps and tables of a cohort: ComBat over files, learned on one set of scans and applied to any.

One module, as maps and tables share the site column, the model and the record.

Learning reads the packed maps once in voxel chunks; applying goes scan by scan. The output is a folder like that of
``preprocess``, which ``glm`` reads: maps under their names and a ``cohort.tsv`` that says what was done.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from vbmstat.assets.provenance import provenance
from vbmstat.device import n_cores
from vbmstat.errors import DesignError, ScanError, TableError, listed
from vbmstat.files import map_kinds
from vbmstat.files.map_kinds import TISSUE_NUMBER
from vbmstat.glm.design.covariates import as_numbers, check_spelling
from vbmstat.glm.design.sites import HARMONIZED, confounding_notes, site_confounding
from vbmstat.harmonize.model import CombatModel, Preserved, learn_model, preserved_covariates
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.maps.duplicates import identity_notes
from vbmstat.maps.lesions import is_lesion_response
from vbmstat.maps.masking import MASK_THRESHOLD, MaskRule
from vbmstat.maps.origins import refuse_mixed_templates
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.paths import map_column
from vbmstat.maps.segment import Packing
from vbmstat.maps.sources import Source, as_cohort, gather, map_folders, with_columns
from vbmstat.maps.store import ArrayMaps, Space
from vbmstat.progress import OnProgress
from vbmstat.tables import dictionary
from vbmstat.tables.cells import labels
from vbmstat.tables.cohort import Cohort, closest, index_by_id, read_cohort, read_table, write_cohort
from vbmstat.tables.flow import flow_record
from vbmstat.tables.selection import Selection, select

RECORD = "harmonize.json"


@dataclass(frozen=True)
class Harmonized:
    """Results of a run."""

    files: tuple[Path, ...]  # everything written, ``harmonize.json`` last
    model: CombatModel  # learned from these scans, or given
    confounding: pd.DataFrame  # share of each preserved covariate's variance between sites
    notes: tuple[str, ...]  # what a reader should know: confounded covariates, voxels left alone


@dataclass(frozen=True)
class HarmonizeSpec:
    """How site effects are removed.

    Attributes
    ----------
    site : str
        Column with the site.
    preserve : str
        Right-hand side of what must survive, e.g. ``"age + sex"``.
    model : CombatModel, optional
        Learned before; by default it is learned from these scans.
    missing : {"raise", "drop"}
        What becomes of scans without a covariate or site, or maps without a row.
    response : str
        ``gm``, ``wm``, ``csf`` or a column with map paths; for maps.
    mask_threshold : float
        Voxels above it in all scans that are learned from are harmonised; for maps. Voxels that are constant in a site
        are left alone; all others become 0, so that no unharmonised value reaches a model.
    selection : Selection
        Which scans take part.
    """

    site: str
    preserve: str = ""
    model: CombatModel | None = None
    missing: str = "raise"
    response: str = "gm"
    mask_threshold: float = MASK_THRESHOLD
    selection: Selection = field(default_factory=Selection)

    def select(self, cohort: Cohort | Path | str, maps: Path | str | None = None) -> Cohort:
        """The scans that take part."""
        table = as_cohort(cohort)
        return select(table, self.selection.resolved(table, map_folders(maps)))


def harmonize_maps(
    cohort: Cohort | Path | str,
    spec: HarmonizeSpec,
    out: Path | str,
    maps: Path | str | None = None,
    progress: OnProgress | None = None,
) -> Harmonized:
    """Remove site effects from a cohort's maps and write the new maps with their cohort table.

    Parameters
    ----------
    cohort : Cohort or path
        One row a scan, with the site and the preserved covariates.
    spec : HarmonizeSpec
        Site, what is preserved, which maps.
    out : path
        Folder for the maps (names and subfolders kept) and ``cohort.tsv``; not the folder of the maps themselves. Maps
        of an earlier run are removed, but for other tissues of the same scans that were harmonised alike.
    maps : path, optional
        Folder of maps of any program; by default the cohort's own paths.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Harmonized

    Raises
    ------
    TableError, DesignError, ScanError
        If the site column is unknown or empty, a map would overwrite its source, or as
        :func:`~vbmstat.harmonize.combat.learn_site_effects`, :meth:`CombatModel.covariate_rows` and
        :func:`vbmstat.maps.pack.pack_maps` say.
    """
    out, table = Path(out), spec.select(cohort, maps)
    earlier = storage.listed_files(out, RECORD)
    if is_lesion_response(spec.response):
        msg = f"{spec.response!r}: ComBat is for values that vary everywhere; lesion maps are mostly zero"
        raise DesignError(msg)
    source = _with_site(gather(maps, spec.response, table, spec.missing), spec.site, spec.missing)
    column = spec.response
    if column in TISSUE_NUMBER:
        column = f"s6mwp{TISSUE_NUMBER[column]}" if maps is not None else map_column(column, table.table)
    targets = _targets(source, out, table.folder if maps is None else Path(maps))

    def learn(sites: list[str], preserved: Preserved) -> tuple[CombatModel, tuple[str, ...]]:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=out.parent) as folder:
            rule = MaskRule(spec.mask_threshold)
            packed = pack_maps(source.paths, Path(folder), rule, Packing(durable=False), progress)
            packed = packed.select(source.scan_ids)
            model = learn_model(packed, sites, preserved, progress)
            return model, (*packed.manifest["mask_notes"], *identity_notes(packed))

    task = _task(spec, source, learn)
    model, source = task.model, task.source
    if model.space is None:
        msg = "the model was learned from a table, not from maps"
        raise ScanError(msg)
    mark = f"ComBat by {spec.site}" + (f", preserving {model.preserve}" if model.preserve else "")
    kept = source.table.drop(columns=[name for name in source.table if map_kinds.is_map_column(name)])
    others = {name: paths for name, paths in _earlier_maps(out, kept.index, mark).items() if name != column}
    relative = {scan: target.relative_to(out) for scan, target in targets.items()}
    own = {column: [relative[scan].as_posix() for scan in source.scan_ids]}
    new = kept.assign(**{HARMONIZED: mark}, **others, **own)
    valid = {*(path for paths in others.values() for path in paths), *_tables(earlier)}
    with storage.replacing(out, RECORD, keep=valid) as staged, ThreadPoolExecutor(n_cores()) as pool:
        written = [staged / relative[scan] for scan in source.scan_ids]
        for done, _ in enumerate(pool.map(task.write_map, range(len(written)), written), 1):
            if progress:
                progress("writing maps", done, len(written))
        write_cohort(staged / "cohort.tsv", Cohort(new, out))
        return task.finish(staged, (*targets.values(), out / "cohort.tsv", out / RECORD))


def harmonize_table(table: Path | str, cohort: Cohort | Path | str, spec: HarmonizeSpec, out: Path | str) -> Harmonized:
    """Remove site effects from the volumes of a wide ROI table (columns ``*_ml``, one row a scan).

    Parameters
    ----------
    table : path
        As ``vbmstat roi`` writes it; joined to the cohort by id. Columns without any value stay empty.
    cohort, spec, out
        As for :func:`harmonize_maps`; the new table has the old one's name.

    Returns
    -------
    Harmonized

    Raises
    ------
    TableError, DesignError, ScanError
        As for :func:`harmonize_maps`; also if the table has no column ``*_ml``, or not those that were learned.
    """
    path, out = Path(table), Path(out)
    earlier = storage.listed_files(out, RECORD)
    if (out / path.name).resolve() == path.resolve():
        msg = f"{out}: the new table would replace {path.name} itself; give another --out"
        raise TableError(msg)
    wide = index_by_id(read_table(path), str(path))
    names = [name for name in wide if str(name).endswith("_ml") and wide[name].notna().any()]
    if not names:
        msg = f"{path}: expected columns of volumes (*_ml), the table has {listed(list(wide), 6)}"
        raise TableError(msg)
    scan_ids = Cohort(wide, out).scan_ids
    numbers = [as_numbers(wide[name].set_axis(scan_ids), name).to_numpy() for name in names]
    values = ArrayMaps(np.column_stack(numbers), tuple(scan_ids), features=tuple(names))
    source = _with_site(gather(values, "volume", spec.select(cohort), spec.missing), spec.site, spec.missing)
    values = values.select(source.scan_ids)
    task = _task(spec, source, lambda sites, preserved: (learn_model(values, sites, preserved), ()))
    model = task.model
    if model.features != tuple(names):
        other = sorted(set(model.features) ^ set(names))
        msg = f"{path}: the model was learned from other columns ({listed(other) or 'another order'} differ)"
        raise TableError(msg)
    new = pd.DataFrame(model.effects.adjust(values.data, task.sites, task.rows).round(6), source.scan_ids, names)
    order = [scan for scan in scan_ids if scan in new.index]
    written = wide[[scan in new.index for scan in scan_ids]].copy()
    written[names] = new.loc[order].to_numpy()
    columns_out = written.reset_index()
    if not columns_out["session_id"].any():
        columns_out = columns_out.drop(columns="session_id")
    about = {"harmonized": f"ComBat by {spec.site}", "preserved": model.preserve, "from": path.name}
    with storage.replacing(out, RECORD, keep=earlier) as staged:
        dictionary.write_table(staged / path.name, columns_out, "roi_wide", about=about)
        return task.finish(staged, (out / path.name, out / RECORD))


def _with_site(source: Source, site: str, missing: str) -> Source:
    """The source of one template with a complete site column; without scans that lack it if `missing` is ``"drop"``."""
    if site not in source.table:
        near = closest(site, source.table.columns) or "none"
        msg = f"no column {site!r} in the table (nearest {near}); --site names the column with the site"
        raise TableError(msg)
    refuse_mixed_templates(source.table)
    return with_columns(source, {site: ""}, missing)


def _site_labels(column: pd.Series) -> list[str]:
    """Sites as text, the levels that ``glm`` makes of them; refuses two that differ only in letter case or blanks."""
    names = labels(column)
    check_spelling(str(column.name), names, "")
    return names


def _targets(source: Source, out: Path, folder: Path) -> dict[str, Path]:
    """Where each map goes: its path below `folder`, or where maps lie elsewhere, below the folder they share."""
    # without "..", which could point outside the output folder
    paths = {scan: Path(os.path.normpath(path.absolute())) for scan, path in source.paths.items()}
    home = Path(os.path.normpath(folder.absolute()))
    inside = all(path.is_relative_to(home) for path in paths.values())
    base = home if inside else Path(os.path.commonpath([path.parent for path in paths.values()]))
    targets = {scan: out / path.relative_to(base) for scan, path in paths.items()}
    bad = [scan for scan, target in targets.items() if not target.name.endswith((".nii", ".nii.gz"))]
    if bad:
        msg = f"maps of {listed(bad)} are no NIfTI files; convert them to .nii.gz"
        raise ScanError(msg)
    same = [scan for scan, target in targets.items() if target.resolve() == source.paths[scan].resolve()]
    if same:
        msg = f"{out}: the new maps would replace the old ones of {listed(same)}; give another --out"
        raise ScanError(msg)
    return targets


def _earlier_maps(out: Path, scans: pd.Index, mark: str) -> dict[str, list[str]]:
    """Map columns of an earlier run into the same folder over the same scans (another tissue)."""
    if not (out / "cohort.tsv").is_file():
        return {}
    old = read_cohort(out / "cohort.tsv").table
    if not old.index.equals(scans) or HARMONIZED not in old or set(old[HARMONIZED]) != {mark}:
        return {}
    return {name: old[name].tolist() for name in old if map_kinds.is_map_column(name)}


@dataclass(frozen=True)
class _Task:
    """The scans of a run and the model that is applied to them: sites (n_scans,), preserved covariates (n_scans, p)."""

    site: str
    source: Source
    sites: list[str]
    model: CombatModel
    rows: np.ndarray

    def write_map(self, index: int, target: Path) -> None:
        """Harmonise the map of one scan."""
        space, effects = cast("Space", self.model.space), self.model.effects
        path = self.source.paths[self.source.scan_ids[index]]
        volume = io.read_volume(path)
        if not volume.grid.matches(space.grid):
            msg = f"{path}: grid {volume.grid} differs from {space.grid} of the maps learned from; resample it"
            raise ScanError(msg)
        flat = volume.data.numpy().reshape(-1)
        values = effects.adjust(flat[space.voxel_index][None], [self.sites[index]], self.rows[[index]])[0]
        image = space.unmask(np.where(effects.adjusted | effects.constant, values, 0))
        new = Volume(torch.from_numpy(image)[None], space.grid)
        io.write_volume(target, new, axcodes=space.axcodes, description="vbmstat ComBat")

    def finish(self, folder: Path, files: tuple[Path, ...]) -> Harmonized:
        """Write ``harmonize.json`` into a folder; `files` are all that is written."""
        model, effects = self.model, self.model.effects
        confounding = site_confounding(self.rows, model.columns, self.sites)
        notes = [*self.source.notes, *confounding_notes(confounding, self.site)]
        n_constant = int(effects.constant.sum())
        if n_constant:
            notes.append(f"{n_constant} voxels or columns are constant within a site and were left alone")
        inputs = list(self.source.paths.values())
        origin = provenance("harmonize", {"site": self.site, "preserve": model.preserve}, inputs)
        shares = confounding.replace([np.inf], np.nan).astype(object).where(confounding.notna(), None)
        record = {
            **origin, "method": "ComBat, parametric empirical Bayes",
            "sites_learned": dict(zip(effects.sites, effects.n_scans.tolist(), strict=True)),
            "scans": dict(zip(self.source.scan_ids, self.sites, strict=True)),
            "flow": flow_record(self.source.flow), "n_adjusted": int(effects.adjusted.sum()), "n_constant": n_constant,
            "confounding": shares.to_dict("records"), "notes": notes,
        }  # fmt: skip
        storage.write_json(folder / RECORD, record)
        return Harmonized(files, model, confounding, tuple(notes))


def _task(
    spec: HarmonizeSpec, source: Source, learn: Callable[[list[str], Preserved], tuple[CombatModel, tuple[str, ...]]]
) -> _Task:
    """The scans with the spec's model, or the one that `learn` makes, with notes, of sites and preserved covariates."""
    sites, model = _site_labels(source.table[spec.site]), spec.model
    if model is None:
        preserved = preserved_covariates(spec.preserve, source.table, source.scan_ids)
        model, notes = learn(sites, preserved)
        source = replace(source, notes=(*source.notes, *notes, *preserved.notes))
    return _Task(spec.site, source, sites, model, model.covariate_rows(source.table, source.scan_ids))


def _tables(files: Sequence[str]) -> list[str]:
    """Tables of volumes, with their dictionaries, among the files of an earlier run."""
    tsv = [name for name in files if name.endswith(".tsv") and name != "cohort.tsv"]
    return [*tsv, *(name.removesuffix(".tsv") + ".json" for name in tsv)]
