"""Harmonised maps and tables of a cohort: ComBat over files, learned on one set of scans and applied to any.

Learning reads the packed maps once in voxel chunks; applying goes scan by scan. What is written is a folder like that
of ``preprocess``, so that ``glm`` reads it: maps under their names and a ``cohort.tsv`` that says what was done.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat import io, naming, storage, tables
from vbmstat.cohort import Cohort, closest, index_by_id, read_cohort, read_table, write_cohort
from vbmstat.errors import ScanError, TableError
from vbmstat.glm.backend import available_cpus
from vbmstat.glm.combat import learn_site_effects
from vbmstat.glm.combat_model import CombatModel, preserved_columns
from vbmstat.glm.formula import TISSUES
from vbmstat.glm.maps import ArrayMaps, Space
from vbmstat.glm.masking import MASK_THRESHOLD, MaskRule
from vbmstat.glm.pack import pack_maps
from vbmstat.glm.sites import HARMONIZED, confounding_notes, site_confounding
from vbmstat.glm.sources import Source, as_cohort, gather, map_column
from vbmstat.provenance import path_label, provenance
from vbmstat.volume import Volume

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Harmonized:
    """What a run wrote and found.

    Attributes
    ----------
    files : tuple of Path
        Everything written, ``harmonize.json`` last.
    model : CombatModel
        What was learned or applied.
    confounding : DataFrame
        Share of each preserved covariate's variance between sites.
    notes : tuple of str
        What a reader should know: confounded covariates, voxels left alone.
    """

    files: tuple[Path, ...]
    model: CombatModel
    confounding: pd.DataFrame
    notes: tuple[str, ...]


def harmonize_maps(
    cohort: Cohort | Path | str,
    site: str,
    out: Path | str,
    *,
    preserve: str = "",
    response: str = "gm",
    maps: Path | str | None = None,
    model: CombatModel | None = None,
    mask_threshold: float = MASK_THRESHOLD,
    missing: str = "raise",
    progress: Progress | None = None,
) -> Harmonized:
    """Take site effects out of a cohort's maps and write the new maps with their cohort table.

    Parameters
    ----------
    cohort : Cohort or path
        One row a scan, with the site and the preserved covariates.
    site : str
        Column with the site.
    out : path
        Folder for the maps (names and subfolders kept) and ``cohort.tsv``; not the folder of the maps themselves.
    preserve : str
        Right-hand side of what must survive, e.g. ``"age + sex"``.
    response : str
        ``gm``, ``wm``, ``csf`` or a column with map paths.
    maps : path, optional
        Folder of maps of any program; by default the cohort's own paths.
    model : CombatModel, optional
        Learned before; by default it is learned from these scans.
    mask_threshold : float
        Voxels above it in all scans that are learned from are harmonised. Voxels that are constant in a site are left
        alone; all others become 0, so that no unharmonised value reaches a model.
    missing : {"raise", "drop"}
        What becomes of scans without a covariate or site, or maps without a row.
    progress : callable, optional
        Called with (stage, done, total).

    Returns
    -------
    Harmonized

    Raises
    ------
    TableError, DesignError, ScanError
        If the site column is unknown or empty, a map would overwrite its source, or as :func:`learn_site_effects`,
        :meth:`CombatModel.covariate_rows` and :func:`vbmstat.glm.pack.pack_maps` say.
    """
    out, table = Path(out), as_cohort(cohort)
    source = gather(maps, response, table, missing)
    source = with_site(source, site, missing)
    column = f"s6mwp{TISSUES[response]}" if maps is not None else map_column(response, table.table)
    targets = _targets(source, out, table.folder if maps is None else Path(maps))
    sites = site_labels(source.table[site])
    if model is None:
        model = _learn_maps(source, sites, preserve, mask_threshold, out, progress)
    rows = model.covariate_rows(source.table, source.scan_ids)
    space = _space_of(model)
    done = 0

    def convert(index: int) -> None:
        scan = source.scan_ids[index]
        _convert(source.paths[scan], targets[scan], space, model, sites[index], rows[index])

    with ThreadPoolExecutor(available_cpus()) as pool:
        for _ in pool.map(convert, range(len(sites))):
            done += 1
            if progress:
                progress("writing maps", done, len(sites))
    mark = f"ComBat by {site}" + (f", preserving {model.preserve}" if model.preserve else "")
    kept = source.table.drop(columns=[name for name in source.table if naming.is_map_column(name)])
    relative = [targets[scan].relative_to(out).as_posix() for scan in source.scan_ids]
    new = kept.assign(**{HARMONIZED: mark}, **_earlier_maps(out, kept.index, mark) | {column: relative})
    write_cohort(out / "cohort.tsv", Cohort(new, out))
    return _finish(out, [*targets.values(), out / "cohort.tsv"], model, source, site, sites, rows)


def harmonize_table(
    table: Path | str,
    cohort: Cohort | Path | str,
    site: str,
    out: Path | str,
    *,
    preserve: str = "",
    model: CombatModel | None = None,
    missing: str = "raise",
) -> Harmonized:
    """Take site effects out of the volumes of a wide ROI table (columns ``*_ml``, one row a scan).

    Parameters
    ----------
    table : path
        As ``vbmstat roi`` writes it; joined to the cohort by id. Columns without any value stay empty.
    cohort, site, out, preserve, model, missing
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
    if (out / path.name).resolve() == path.resolve():
        msg = f"{out}: the new table would replace {path.name} itself; give another --out"
        raise TableError(msg)
    wide = index_by_id(read_table(path), str(path))
    names = [name for name in wide if str(name).endswith("_ml") and wide[name].notna().any()]
    if not names:
        msg = f"{path}: expected columns of volumes (*_ml), the table has {', '.join(map(str, wide))}"
        raise TableError(msg)
    scan_ids = Cohort(wide, out).scan_ids
    values = ArrayMaps(wide[names].to_numpy(np.float64), tuple(scan_ids), features=tuple(names))
    source = with_site(gather(values, "volume", as_cohort(cohort), missing), site, missing)
    values = values.select(source.scan_ids)
    sites = site_labels(source.table[site])
    if model is None:
        covariates, columns, summary = preserved_columns(preserve, source.table, source.scan_ids)
        effects = learn_site_effects(values, sites, covariates, columns)
        model = CombatModel(effects, preserve, columns, summary, features=tuple(names))
    if model.features != tuple(names):
        other = sorted(set(model.features) ^ set(names))[:12]
        msg = f"{path}: the model was learned from other columns ({', '.join(other) or 'another order'} differ)"
        raise TableError(msg)
    rows = model.covariate_rows(source.table, source.scan_ids)
    new = pd.DataFrame(model.effects.adjust(values.data, sites, rows).round(6), source.scan_ids, names)
    order = [scan for scan in scan_ids if scan in new.index]
    written = wide[[scan in new.index for scan in scan_ids]].copy()
    written[names] = new.loc[order].to_numpy()
    columns_out = written.reset_index()
    if not columns_out["session_id"].any():
        columns_out = columns_out.drop(columns="session_id")
    about = {"harmonized": f"ComBat by {site}", "preserved": model.preserve, "from": path.name}
    tables.write_table(out / path.name, columns_out, "roi_wide", about=about)
    return _finish(out, [out / path.name], model, source, site, sites, rows)


def with_site(source: Source, site: str, missing: str) -> Source:
    """The source, after its site column is known to be complete (or without the scans that lack it).

    Raises
    ------
    TableError
        If there is no such column, or scans lack a site and `missing` is ``"raise"``.
    """
    if site not in source.table:
        near = closest(site, source.table.columns) or "none"
        msg = f"no column {site!r} in the table (nearest {near}); --site names the column with the site"
        raise TableError(msg)
    empty = source.table[site].isna().to_numpy()
    if not empty.any():
        return source
    without = [scan for scan, gone in zip(source.scan_ids, empty, strict=True) if gone]
    if missing != "drop":
        msg = f"no {site} for {', '.join(without[:12])}; fill it in or leave these scans out with --missing drop"
        raise TableError(msg)
    notes = (*source.notes, f"dropped {len(without)} scans without {site}: {', '.join(without)}")
    return replace(source.select(~empty), notes=notes)


def site_labels(column: pd.Series) -> list[str]:
    """Sites as text; whole numbers without a decimal point."""
    return [f"{value:g}" if isinstance(value, float) else str(value) for value in column]


def _targets(source: Source, out: Path, folder: Path) -> dict[str, Path]:
    """Where each map goes: its path below `folder`, or where maps lie elsewhere, below the folder they share."""
    # without "..", which would lead out of the output folder
    paths = {scan: Path(os.path.normpath(path.absolute())) for scan, path in source.paths.items()}
    home = Path(os.path.normpath(folder.absolute()))
    inside = all(path.is_relative_to(home) for path in paths.values())
    base = home if inside else Path(os.path.commonpath([path.parent for path in paths.values()]))
    targets = {scan: out / path.relative_to(base) for scan, path in paths.items()}
    bad = [scan for scan, target in targets.items() if not target.name.endswith((".nii", ".nii.gz"))]
    if bad:
        msg = f"maps of {', '.join(bad[:12])} are no NIfTI files; convert them to .nii.gz"
        raise ScanError(msg)
    same = [scan for scan, target in targets.items() if target.resolve() == source.paths[scan].resolve()]
    if same:
        msg = f"{out}: the new maps would replace the old ones of {', '.join(same[:12])}; give another --out"
        raise ScanError(msg)
    return targets


def _earlier_maps(out: Path, scans: pd.Index, mark: str) -> dict[str, list[str]]:
    """Map columns of an earlier run into the same folder over the same scans (another tissue)."""
    if not (out / "cohort.tsv").is_file():
        return {}
    old = read_cohort(out / "cohort.tsv").table
    if not old.index.equals(scans) or HARMONIZED not in old or set(old[HARMONIZED]) != {mark}:
        return {}
    return {name: old[name].tolist() for name in old if naming.is_map_column(name)}


def _learn_maps(
    source: Source, sites: Sequence[str], preserve: str, mask_threshold: float, out: Path, progress: Progress | None
) -> CombatModel:
    covariates, columns, summary = preserved_columns(preserve, source.table, source.scan_ids)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=out.parent) as folder:
        packed = pack_maps(
            source.paths, Path(folder), MaskRule(mask_threshold), None, None, progress, durable=False
        ).select(source.scan_ids)
        effects = learn_site_effects(packed, sites, covariates, columns, progress)
    return CombatModel(effects, preserve, columns, summary, packed.space)


def _space_of(model: CombatModel) -> Space:
    if model.space is None:
        msg = "the model was learned from a table, not from maps"
        raise ScanError(msg)
    return model.space


def _convert(path: Path, target: Path, space: Space, model: CombatModel, site: str, covariates: np.ndarray) -> None:
    """Harmonise one map file."""
    volume = io.read_volume(path)
    if not volume.grid.matches(space.grid):
        msg = f"{path}: grid {volume.grid} differs from {space.grid} of the maps that were learned from; resample it"
        raise ScanError(msg)
    flat = volume.data.numpy().reshape(-1)
    effects = model.effects
    values = effects.adjust(flat[space.voxel_index][None], [site], covariates[None])[0]
    image = space.unmask(np.where(effects.adjusted | effects.constant, values, 0))
    new = Volume(torch.from_numpy(image)[None], space.grid)
    io.write_volume(target, new, axcodes=space.axcodes, description="vbmstat ComBat")


def _finish(
    out: Path, files: Sequence[Path], model: CombatModel, source: Source, site: str, sites: Sequence[str],
    rows: np.ndarray,
) -> Harmonized:
    """Write ``harmonize.json`` and say what a reader should know."""
    confounding = site_confounding(rows, model.columns, sites)
    effects = model.effects
    notes = [*source.notes, *confounding_notes(confounding, site)]
    if effects.constant.any():
        notes.append(f"{int(effects.constant.sum())} voxels or columns are constant within a site and were left alone")
    inputs = list(source.paths.values())
    origin = provenance("harmonize", {"site": site, "preserve": model.preserve}, inputs)
    learned = dict(zip(effects.sites, effects.n_scans.tolist(), strict=True))
    record = {
        **origin, "method": "ComBat, parametric empirical Bayes", "sites_learned": learned,
        "scans": dict(zip(source.scan_ids, sites, strict=True)), "n_adjusted": int(effects.adjusted.sum()),
        "n_constant": int(effects.constant.sum()),
        "confounding": confounding.replace([np.inf], np.nan).astype(object).where(confounding.notna(), None)
        .to_dict("records"),
        "notes": notes, "files": [path_label(path, out) for path in files],
    }  # fmt: skip
    storage.write_json(out / "harmonize.json", record)
    return Harmonized((*files, out / "harmonize.json"), model, confounding, tuple(notes))
