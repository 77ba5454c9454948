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

from vbmstat.assets.provenance import provenance
from vbmstat.device import n_cores
from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.files import naming
from vbmstat.files.naming import TISSUE_NUMBER
from vbmstat.glm.design.covariates import as_numbers, check_spelling
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.design.sites import HARMONIZED, confounding_notes, site_confounding
from vbmstat.harmonize.combat import learn_site_effects
from vbmstat.harmonize.model import CombatModel, preserved_columns
from vbmstat.image import io, storage
from vbmstat.image.volume import Volume
from vbmstat.maps.duplicates import identity_notes
from vbmstat.maps.lesions import is_lesion_response
from vbmstat.maps.masking import MASK_THRESHOLD, MaskRule
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.sources import Source, as_cohort, gather, map_column, with_columns
from vbmstat.maps.store import ArrayMaps, Space
from vbmstat.tables import dictionary
from vbmstat.tables.cells import labels
from vbmstat.tables.cohort import Cohort, closest, index_by_id, read_cohort, read_table, write_cohort

Progress = Callable[[str, int, int], None]
RECORD = "harmonize.json"


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
        Folder for the maps (names and subfolders kept) and ``cohort.tsv``; not the folder of the maps themselves. Maps
        of an earlier run go, but for other tissues of the same scans that were harmonised alike.
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
        :meth:`CombatModel.covariate_rows` and :func:`vbmstat.maps.pack.pack_maps` say.
    """
    out, table = Path(out), as_cohort(cohort)
    earlier = storage.listed_files(out, RECORD)
    if is_lesion_response(response):
        msg = (
            f"formula: {response!r} on the left: ComBat is for values that vary everywhere, lesion maps are mostly zero"
        )
        raise DesignError(msg)
    source = gather(maps, response, table, missing)
    source = with_site(source, site, missing)
    column = f"s6mwp{TISSUE_NUMBER[response]}" if maps is not None else map_column(response, table.table)
    targets = _targets(source, out, table.folder if maps is None else Path(maps))
    sites = site_labels(source.table[site])
    if model is None:
        model, notes = _learn_maps(source, sites, preserve, mask_threshold, out, progress)
        source = replace(source, notes=(*source.notes, *notes))
        source = _told(source, preserve)
    rows = model.covariate_rows(source.table, source.scan_ids)
    space = _space_of(model)
    mark = f"ComBat by {site}" + (f", preserving {model.preserve}" if model.preserve else "")
    kept = source.table.drop(columns=[name for name in source.table if naming.is_map_column(name)])
    others = {name: paths for name, paths in _earlier_maps(out, kept.index, mark).items() if name != column}
    relative = {scan: target.relative_to(out) for scan, target in targets.items()}
    own = {column: [relative[scan].as_posix() for scan in source.scan_ids]}
    new = kept.assign(**{HARMONIZED: mark}, **others, **own)
    valid = {*(path for paths in others.values() for path in paths), *_tables(earlier)}
    with storage.replacing(out, RECORD, keep=valid) as staged:

        def convert(index: int) -> None:
            scan = source.scan_ids[index]
            _convert(source.paths[scan], staged / relative[scan], space, model, sites[index], rows[index])

        with ThreadPoolExecutor(n_cores()) as pool:
            for done, _ in enumerate(pool.map(convert, range(len(sites))), 1):
                if progress:
                    progress("writing maps", done, len(sites))
        write_cohort(staged / "cohort.tsv", Cohort(new, out))
        found = _finish(staged, model, source, site, sites, rows)
    return replace(found, files=(*targets.values(), out / "cohort.tsv", out / RECORD))


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
    earlier = storage.listed_files(out, RECORD)
    if (out / path.name).resolve() == path.resolve():
        msg = f"{out}: the new table would replace {path.name} itself; give another --out"
        raise TableError(msg)
    wide = index_by_id(read_table(path), str(path))
    names = [name for name in wide if str(name).endswith("_ml") and wide[name].notna().any()]
    if not names:
        msg = f"{path}: expected columns of volumes (*_ml), the table has {', '.join(map(str, wide))}"
        raise TableError(msg)
    scan_ids = Cohort(wide, out).scan_ids
    numbers = [as_numbers(wide[name].set_axis(scan_ids), name).to_numpy() for name in names]
    values = ArrayMaps(np.column_stack(numbers), tuple(scan_ids), features=tuple(names))
    source = with_site(gather(values, "volume", as_cohort(cohort), missing), site, missing)
    values = values.select(source.scan_ids)
    sites = site_labels(source.table[site])
    if model is None:
        covariates, columns, summary = preserved_columns(preserve, source.table, source.scan_ids)
        effects = learn_site_effects(values, sites, covariates, columns)
        model = CombatModel(effects, preserve, columns, summary, features=tuple(names))
        source = _told(source, preserve)
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
    with storage.replacing(out, RECORD, keep=earlier) as staged:
        dictionary.write_table(staged / path.name, columns_out, "roi_wide", about=about)
        found = _finish(staged, model, source, site, sites, rows)
    return replace(found, files=(out / path.name, out / RECORD))


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
    return with_columns(source, {site: ""}, missing)


def site_labels(column: pd.Series) -> list[str]:
    """Sites as text, whole numbers without a decimal point: the levels that ``glm`` makes of them.

    Raises
    ------
    DesignError
        If two sites differ only in letter case or blanks.
    """
    names = labels(column)
    check_spelling(str(column.name), names, "")
    return names


def _told(source: Source, preserve: str) -> Source:
    """The source with notes on how each preserved covariate is taken."""
    if not preserve.strip():
        return source
    design = build_design(preserve, source.table, source.scan_ids)
    return replace(source, notes=(*source.notes, *(one.line for one in design.taken), *design.notes))


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
) -> tuple[CombatModel, tuple[str, ...]]:
    """The model of these maps, and what is to be said of their mask."""
    covariates, columns, summary = preserved_columns(preserve, source.table, source.scan_ids)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=out.parent) as folder:
        packed = pack_maps(
            source.paths, Path(folder), MaskRule(mask_threshold), None, None, progress, durable=False
        ).select(source.scan_ids)
        effects = learn_site_effects(packed, sites, covariates, columns, progress)
        notes = (*packed.manifest["mask_notes"], *identity_notes(packed))
    return CombatModel(effects, preserve, columns, summary, packed.space), notes


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


def _tables(files: Sequence[str]) -> list[str]:
    """Tables of volumes, with their dictionaries, among the files of an earlier run."""
    tsv = [name for name in files if name.endswith(".tsv") and name != "cohort.tsv"]
    return [*tsv, *(name.removesuffix(".tsv") + ".json" for name in tsv)]


def _finish(
    out: Path, model: CombatModel, source: Source, site: str, sites: Sequence[str], rows: np.ndarray
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
        "notes": notes,
    }  # fmt: skip
    storage.write_json(out / RECORD, record)
    return Harmonized((), model, confounding, tuple(notes))
