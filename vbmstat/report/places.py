"""Places of a finished model, voxels or regions, and the values of its maps there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vbmstat.errors import VbmstatError, listed
from vbmstat.figures.view import parse_point
from vbmstat.glm.design.contrast import Contrast, file_label
from vbmstat.glm.design.formula import split_formula
from vbmstat.glm.inference.places import Regions, names_at
from vbmstat.glm.setup import Setup, set_up
from vbmstat.glm.spec import Compute, InferenceSpec, ModelSpec, Subsets
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.maps.decode import MapReader
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.segment import Packing, decoder
from vbmstat.maps.sources import as_cohort
from vbmstat.regions.volumes import RegionSpec, RegionVolumes, region_volumes
from vbmstat.report.model_folder import Model
from vbmstat.report.notebook import regions_of
from vbmstat.report.recorded import Recorded
from vbmstat.tables.cohort import closest, read_table

PEAK = "peak"
ReadVoxels = Callable[[Mapping[str, Path], np.ndarray, float, Mapping[str, Any]], tuple[np.ndarray, list[str]]]


@dataclass(frozen=True)
class Place:
    """A place: its name, how files call it, its voxels (RAS+ C-order) or, at level roi, its column; mm of a voxel."""

    name: str
    slug: str
    voxels: np.ndarray
    region: str = ""
    mm: tuple[float, ...] | None = None


class Values(NamedTuple):
    """Values of the maps at a place, and of a voxelwise covariate (where there is none, the same), (n_scans,) each."""

    response: np.ndarray
    covariate: np.ndarray


def nearest_voxel(point: np.ndarray, mm: np.ndarray, grid: Grid, option: str = "--at") -> int:
    """Index of the voxel of the mask, at mm (n_voxels, 3), next to a point; VbmstatError if it is beyond a voxel."""
    distance = np.linalg.norm(mm - point, axis=1)
    nearest = int(np.argmin(distance))
    if distance[nearest] > np.linalg.norm(grid.affine[:3, :3], axis=0).max():
        given, at = (",".join(f"{value:g}" for value in one) for one in (point, np.round(mm[nearest], 2)))
        msg = f"{option} {given}: outside the analysis mask; the nearest voxel in it is at {at}"
        raise VbmstatError(msg)
    return nearest


def without_inference(recorded: Recorded) -> ModelSpec:
    """The model without subsets, and with as little inference as its variance needs."""
    asked = recorded.spec.inference
    inference = replace(asked, permutations=2, tail="none", stop_after=0) if asked.blocks else InferenceSpec()
    return replace(recorded.spec, inference=inference, subsets=Subsets(repeats=0))


def read_voxels(
    paths: Mapping[str, Path], voxels: np.ndarray, fwhm_mm: float, then: Mapping[str, Any]
) -> tuple[np.ndarray, list[str]]:
    """Values of maps at some voxels, (n_scans, k), as the fit read them, and scans with another file than `then`."""
    rows = np.empty((len(paths), len(voxels)), dtype=np.float32)
    with decoder(MapReader.like(next(iter(paths.values())), fwhm_mm), MaskRule(None), Packing()) as maps:
        hashes = maps.read(list(paths.values()), voxels, rows)
    return rows, [scan for scan, digest in zip(paths, hashes, strict=True) if then[scan]["sha256"] != digest]


@dataclass(frozen=True)
class VoxelPlaces:
    """A model of maps, whose voxels `read` reads."""

    model: Model
    recorded: Recorded
    read: ReadVoxels = read_voxels

    @cached_property
    def setup(self) -> Setup:
        """The model as it is set up now."""
        return set_up(without_inference(self.recorded), self.recorded.maps, as_cohort(self.recorded.cohort), Compute())

    @cached_property
    def response(self) -> str:
        """What the maps hold, with the unit of modulated ones."""
        response, path = split_formula(self.recorded.spec.formula)[0], next(iter(self.setup.source.paths.values()))
        return f"{response} (mL/mL)" if "mwp" in path.name else response

    @cached_property
    def _mask(self) -> tuple[np.ndarray, np.ndarray, Grid]:
        """Voxels of the analysis mask, their mm (n_voxels, 3), and the grid."""
        mask = io.read_volume(self.model.folder / "mask.nii.gz")
        inside = np.flatnonzero(mask.data.numpy().ravel() > 0)
        at = np.stack(np.unravel_index(inside, mask.grid.shape), axis=1)
        return inside, at @ mask.grid.affine[:3, :3].T + mask.grid.affine[:3, 3], mask.grid

    @cached_property
    def _regions(self) -> Regions | None:
        return regions_of([one for one in self.recorded.atlases if one not in (None, "none")])

    def place(self, at: str, contrast: Contrast) -> Place:
        """The voxels of a place."""
        inside, mm, _ = self._mask
        if at == PEAK:
            return self._point(self._peak(contrast), "peak ")
        if "," in at and not any(letter.isalpha() for letter in at):
            return self._point(np.array(parse_point(at, "--at")), "")
        names = [] if self._regions is None else names_at(self._regions, mm)
        voxels = inside[[name.casefold() == at.casefold() for name in names]] if names else inside[:0]
        if not len(voxels):
            near = closest(at, dict.fromkeys(names))
            hint = f"nearest {near}" if near else "the model has no atlas" if self._regions is None else "none is near"
            msg = f"--at {at!r}: expected x,y,z in mm, peak, or a region as the table of peaks names it ({hint})"
            raise VbmstatError(msg)
        return Place(f"{at}, mean of {len(voxels):,} voxels", file_label(at), voxels, at)

    def _peak(self, contrast: Contrast) -> np.ndarray:
        """RAS+ mm of the strongest peak; without a table of peaks of the strongest voxel."""
        path = self.model.folder / f"contrast-{contrast.label}_peaks.tsv"
        peaks = read_table(path) if path.is_file() else pd.DataFrame()
        if len(peaks):
            return np.asarray(peaks.loc[peaks[contrast.kind].abs().idxmax(), ["x_mm", "y_mm", "z_mm"]], dtype=float)
        inside, mm, _ = self._mask
        return np.asarray(mm[np.argmax(np.abs(self._statistic(contrast)[inside]))])

    def _statistic(self, contrast: Contrast) -> np.ndarray:
        """The statistic's map, (n,)."""
        volume = self.model.map({"label": contrast.label}, contrast.kind)
        if volume is None:
            msg = f"{self.model.path({'label': contrast.label}, contrast.kind)}: no such map; fit the model again"
            raise VbmstatError(msg)
        return np.asarray(volume.data.numpy().ravel())

    def _point(self, point: np.ndarray, what: str) -> Place:
        """The voxel at a point in mm."""
        inside, mm, grid = self._mask
        nearest = nearest_voxel(point, mm, grid)
        at = [f"{value:g}" for value in np.round(mm[nearest], 2)]
        region = "" if self._regions is None else names_at(self._regions, mm[[nearest]])[0]
        sides = zip(("RL", "AP", "SI"), at, strict=True)
        slug = "".join(f"{pair[text.startswith('-')]}{text.removeprefix('-')}" for pair, text in sides)
        name = f"{what}at {', '.join(at).replace('-', '−')} mm{f', {region}' if region else ''}"
        return Place(name, slug, inside[[nearest]], region, tuple(mm[nearest].tolist()))

    def values(self, places: Sequence[Place]) -> tuple[list[Values], list[str]]:
        """Means over each place, and a line on maps that have changed."""
        voxels = np.unique(np.concatenate([place.voxels for place in places]))
        source, covariate, record = self.setup.source, self.setup.covariate, self.model.record
        read, changed = self.read(source.paths, voxels, source.smoothing.applied_mm, record["maps"])
        if source.change is not None:
            read = source.change.combine(read)
        of_map = read
        if covariate is not None:
            then = record["map_covariate"]["maps"]
            of_map, more = self.read(covariate[1], voxels, covariate[2].applied_mm, then)
            changed = [*changed, *more]
        at = [np.searchsorted(voxels, place.voxels) for place in places]
        means = [Values(*(rows[:, i].mean(axis=1, dtype=np.float64) for rows in (read, of_map))) for i in at]
        note = f"not the maps of the fit any more, shown as they are now: {listed(changed)}"
        return means, [note] if changed else []

    def statistic(self, place: Place, contrast: Contrast) -> float | None:
        """The statistic of the fit at a voxel; None for a region."""
        return float(self._statistic(contrast)[place.voxels[0]]) if len(place.voxels) == 1 else None


@dataclass(frozen=True)
class RegionPlaces:
    """A model of the regions of an atlas."""

    model: Model
    recorded: Recorded

    @cached_property
    def _measured(self) -> RegionVolumes:
        one = self.recorded
        return region_volumes(
            without_inference(one), one.cohort, RegionSpec(str(one.atlases[0]), one.level, None, one.maps)
        )

    @cached_property
    def setup(self) -> Setup:
        """The model as it is set up now."""
        return set_up(self._measured.spec, self._measured.volumes, self._measured.table, Compute())

    @property
    def response(self) -> str:
        """What was measured."""
        response = split_formula(self.recorded.spec.formula)[0]
        return f"{response} (mL)" if self.setup.source.change is not None else f"{response} volume (mL)"

    def place(self, at: str, contrast: Contrast) -> Place:
        """The column of a region, by its name, label or merged name; ``peak``: that of the strongest statistic."""
        names = self._measured.names
        if at == PEAK:
            table = self._table(contrast)
            row = int(table["value"].abs().idxmax())
        else:
            keys = [name for name in ("name", "region", "label") if name in names]
            found = [
                int(i) for key in keys for i in np.flatnonzero(names[key].astype(str).str.casefold() == at.casefold())
            ]
            if not found:
                near = closest(at, names[keys[0]].astype(str))
                msg = f"--at {at!r}: expected peak, or a region of the table{f' (nearest {near})' if near else ''}"
                raise VbmstatError(msg)
            row = found[0]
        name = str(names.iloc[row]["name" if "name" in names else "region"])
        return Place(name, file_label(name), np.array([row]), name)

    def _table(self, contrast: Contrast) -> pd.DataFrame:
        table = read_table(self.model.roi_tables[0])
        return table[table["contrast"] == contrast.name].reset_index(drop=True)

    def values(self, places: Sequence[Place]) -> tuple[list[Values], list[str]]:
        """Volumes of each region."""
        maps = self.setup.source.maps
        rows = np.empty((len(self.setup.design.scan_ids), 0)) if maps is None else maps.read(0, maps.n_voxels)
        return [Values(rows[:, place.voxels[0]], rows[:, place.voxels[0]]) for place in places], []

    def statistic(self, place: Place, contrast: Contrast) -> float | None:
        """The statistic of the fit."""
        return float(self._table(contrast)["value"][place.voxels[0]])
