"""The maps of a model as one matrix of scans by voxels, and maps that do not belong in one model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from vbmstat.errors import DesignError, ScanError, TableError
from vbmstat.glm.design.formula import split_change, split_formula
from vbmstat.glm.design.sites import HARMONIZED
from vbmstat.glm.spec import Compute, ModelSpec
from vbmstat.image import io
from vbmstat.maps.change import ChangeMaps
from vbmstat.maps.duplicates import equal_scans, identity_notes
from vbmstat.maps.lesions import is_lesion_response
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.origins import GROUP_TEMPLATE, WMH_AS, templates_in
from vbmstat.maps.pack import pack_maps
from vbmstat.maps.paths import Smoothing, refuse_mixed_kinds
from vbmstat.maps.segment import Packing
from vbmstat.maps.sources import Source
from vbmstat.maps.store import CHUNK_VOXELS, ArrayMaps, Maps, PackedMaps

_ORIGIN = ("engine", "vbmstat_version", WMH_AS, HARMONIZED)  # columns in which the maps of a model must agree


def refuse_mixtures(table: pd.DataFrame, allowed: bool, paths: Mapping[str, Path] | None = None) -> None:
    """Refuse maps of several engines, versions, harmonisations or kinds in one model, unless `allowed`.

    Raises
    ------
    TableError, ScanError
        Naming what differs, with counts.
    """
    refuse_mixed_kinds(paths or {}, allowed)
    for mixed in mixtures(table):
        if not allowed:
            msg = f"{mixed}; preprocess all scans alike, or give --allow-mixed"
            raise TableError(msg)


def mixtures(table: pd.DataFrame) -> list[str]:
    """In what the maps differ, with counts: ``the maps mix engine values (cat: 2 scans, deep: 1 scans)``."""
    found = []
    for name, counts in origins(table).items():
        if len(counts) > 1:
            counted = ", ".join(f"{value}: {n} scans" for value, n in counts.items())
            found.append(f"the maps mix {name} values ({counted})")
    return found


def origins(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """What made the maps, as far as the table says: engine, version … with the scans of each value, in order."""
    found = {}
    for name in _ORIGIN:
        column = table[name] if name in table else pd.Series(dtype=object)
        if name == WMH_AS and column.notna().any():  # a scan without --wmh has its tissues as they were segmented
            column = column.fillna("none")
        found[name] = column.dropna().astype(str).value_counts().sort_index().to_dict()
    found[GROUP_TEMPLATE] = templates_in(table).value_counts().sort_index().to_dict()
    return found


@dataclass(frozen=True)
class Packer:
    """Packs the maps of a model: into the user's store, or into a folder that is deleted when `stack` closes."""

    # the model, and where its maps are packed
    spec: ModelSpec
    compute: Compute
    stack: ExitStack  # open while the maps are read

    def open(self, source: Source, scale: np.ndarray | None) -> ArrayMaps | PackedMaps:
        """The maps of a source as a matrix; `scale`, (n_scans,), multiplies each scan before it is masked.

        Raises
        ------
        DesignError
            If a matrix is to be masked or stored.
        ScanError
            As :func:`vbmstat.maps.pack.pack_maps`.
        """
        compute, mask = self.compute, self.spec.mask
        if source.maps is not None:
            if compute.store is not None or mask.image is not None or mask.threshold is not None:
                msg = "a matrix or packed maps are masked already: mask, mask_threshold and store are for maps in files"
                raise DesignError(msg)
            return source.maps
        folder = Path(self._temporary_folder() if compute.store is None else compute.store)
        scales = {} if scale is None else dict(zip(source.scan_ids, scale.tolist(), strict=True))
        is_kept = compute.store is not None
        how = Packing(source.smoothing.applied_mm, scales, n_threads=compute.n_threads, durable=is_kept)
        rule = replace(mask.rule, sparse=is_lesion_response(split_change(split_formula(self.spec.formula)[0])[0]))
        packed = pack_maps(source.paths, folder, rule, how, compute.progress)
        return packed if source.change is None else ChangeMaps.of(packed, source.change)

    def pack_covariate(self, name: str, paths: Mapping[str, Path], smoothing: Smoothing, maps: Maps) -> PackedMaps:
        """Maps of the voxelwise covariate ``map(name)`` in the columns of the model's maps.

        Raises
        ------
        DesignError, ScanError
            If one of the two is no set of files, or the covariate's maps have another grid, are the model's own maps,
            or vary nowhere in the mask.
        """
        if maps.space is None:
            msg = "map() needs maps in files on both sides of the formula"
            raise DesignError(msg)
        refuse_mixed_kinds(paths, self.spec.allow_mixed)
        grid, covariate_grid = maps.space.grid, io.read_grid(next(iter(paths.values())))
        if not covariate_grid.matches(grid):
            msg = (
                f"map({name}): grid {covariate_grid} of the covariate's maps differs from {grid} of the maps; resample"
            )
            raise ScanError(msg)
        rule, compute = MaskRule(None, nan=self.spec.mask.nan), self.compute
        how = Packing(smoothing.applied_mm, {}, maps.space.voxel_index, compute.n_threads, durable=False)
        try:
            packed = pack_maps(paths, Path(self._temporary_folder()), rule, how, compute.progress)
        except ScanError as error:
            msg = f"map({name}): {error}"
            raise ScanError(msg) from error
        same = equal_scans(maps, packed)
        if same:
            which = f"in {len(same)} scans, e.g. {same[0]}"
            msg = f"map({name}): the covariate's map is the one on the left of the formula {which}; give other maps"
            raise ScanError(msg)
        if not (maps.mask & packed.mask).any():
            msg = (
                f"map({name}): no voxel of the mask varies in the covariate's maps; are they of this tissue and space?"
            )
            raise ScanError(msg)
        return packed

    def _temporary_folder(self) -> str:
        scratch = self.compute.scratch
        if scratch is not None and not Path(scratch).exists():
            Path(scratch).mkdir(parents=True)
            self.stack.callback(_remove_if_empty, Path(scratch))  # a fit that fails leaves nothing
        return self.stack.enter_context(tempfile.TemporaryDirectory(prefix=".vbmstat-maps-", dir=scratch))


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def map_notes(maps: ArrayMaps | PackedMaps) -> tuple[str, ...]:
    """Notes on what made the mask small, on a mask of more scans than the model's, and on scans with equal maps."""
    if isinstance(maps, ArrayMaps):
        return identity_notes(maps)
    same = () if maps.manifest["rule"].get("sparse") else identity_notes(maps)  # people without lesions have one map
    n_packed = len(maps.manifest["scan_ids"])
    shared = () if n_packed == len(maps.file_ids) else (f"the mask is that of all {n_packed} packed scans",)
    return (*maps.manifest["mask_notes"], *shared, *same)


def global_scale(maps: Maps, scale: np.ndarray | None) -> np.ndarray:
    """Grand mean over each scan's mean inside the mask, (n_scans,), times an earlier scale.

    Raises
    ------
    DesignError
        If a mean is not positive.
    """
    sums, mask = np.zeros(len(maps.scan_ids)), maps.mask
    for start in range(0, maps.n_voxels, CHUNK_VOXELS):
        stop = min(start + CHUNK_VOXELS, maps.n_voxels)
        sums += maps.read(start, stop)[:, mask[start:stop]].sum(axis=1, dtype=np.float64)
    before = np.ones(len(sums)) if scale is None else scale
    means = sums * before
    bad = [scan for scan, mean in zip(maps.scan_ids, means, strict=True) if not mean > 0]
    if bad:
        msg = f"global scaling needs positive means; they are not for {', '.join(bad[:12])}"
        raise DesignError(msg)
    return np.asarray(means.mean() / means * before)
