"""Statistic maps with what lies beside them, and what is left of them as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from vbmstat.assets import sha256
from vbmstat.assets.provenance import versions
from vbmstat.compare.statistics import Statistic as ReadStatistic
from vbmstat.compare.statistics import read_record, read_statistic
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.files.naming import image_stem
from vbmstat.glm.inference.clusters import StatisticMap, cluster_table, peak_table
from vbmstat.glm.inference.places import Regions
from vbmstat.glm.inference.rft import SmoothSpace
from vbmstat.glm.inference.smoothness import Smoothness
from vbmstat.image import io, storage
from vbmstat.maps.store import Space
from vbmstat.tables import dictionary
from vbmstat.threshold.apply import Statistic, Thresholded, transform
from vbmstat.threshold.rules import Rule

_STAT = "_stat-"
_RESELS = ("resels_per_voxel.nii.gz", "RPV.nii", "RPV.nii.gz", "RPV.img")
_ONE_DF = 1e-3  # range of degrees of freedom that are one number
_INTENTS = {"p": ("p value", ()), "z": ("z score", ())}


def open_statistic(path: Path, mask: Path | None = None, *, one_sided: bool | None = None) -> Statistic:
    """A statistic map with its degrees of freedom, null maxima and smoothness, as far as they lie beside it.

    Parameters
    ----------
    path : Path
        A t, F or z map of vbmstat, SPM or CAT12.
    mask : Path, optional
        Look at these voxels only, an image on the grid of the map.
    one_sided : bool, optional
        Positive values of t or z only; by default as the model was tested, two-sided for other programs' maps.

    Raises
    ------
    ScanError
        If a file cannot be read, or the map is none of these.
    VbmstatError
        If the permutations looked at other tails.
    """
    read = read_statistic(path)
    if read.kind not in ("t", "F", "z") or (read.kind != "z" and not read.df):
        what = {"t": "a t map without them", "F": "an F map without them", "unknown": "another image"}.get(
            read.kind, f"a {read.kind} map"
        )
        why = "; a median over subsets has no p" if read.kind.startswith("median") else ""
        msg = f"{path}: expected a t, F or z map with its degrees of freedom in the header, got {what}{why}"
        raise ScanError(msg)
    if read.kind == "z" and (original := tested_map(path)) is not None:
        msg = f"{path}: the model tested t or F, from which this z was made; threshold {original.name} (--to z gives z)"
        raise VbmstatError(msg)
    beside = _Beside(path, read_record(path.parent) or {}, read.name)
    tested = beside.is_two_sided()
    sides = 1 if read.kind == "F" or (one_sided if one_sided is not None else tested is False) else 2
    maxima = beside.maxima()
    if maxima and tested is not None and (sides == 2) != tested and read.kind != "F":
        ran = "two-sided" if tested else "one-sided"
        msg = f"{path}: its permutations were {ran}; leave --one-sided/--two-sided out, or fit the model again"
        raise VbmstatError(msg)
    inside = read.mask if mask is None else read.mask & _mask_on_grid(mask, read)
    if not inside.any():
        msg = f"{mask}: no voxel of the mask lies in the analysis mask of {path}"
        raise VbmstatError(msg)
    index = np.flatnonzero(inside.numpy())
    space = Space(read.volume.grid, index)
    values = read.volume.data[0].numpy().ravel()[index].astype(np.float64)
    *df_contrast, df = read.df or (np.inf,)
    return Statistic(
        read.kind, values, space, df if (local := beside.local_df(index)) is None else local,
        df_contrast[0] if df_contrast else 1.0, sides, maxima,
        float(beside.contrast.get("cluster_forming_threshold", np.nan)), beside.smooth(space, sides),
        not beside.variance.startswith("sandwich"),
    )  # fmt: skip


def tested_map(path: Path) -> Path | None:
    """The t or F map of the same contrast beside a map of vbmstat; None if there is none."""
    stem, found, _ = image_stem(path).partition(_STAT)
    names = (path.parent / f"{stem}{_STAT}{kind}_statmap.nii.gz" for kind in ("t", "F")) if found else ()
    return next((one for one in names if one.is_file()), None)


@dataclass(frozen=True)
class _Beside:
    """The files beside a map."""

    path: Path
    record: dict[str, Any]
    name: str

    @property
    def contrast(self) -> dict[str, Any]:
        """What the record says of the inference on the map's contrast."""
        entries = (self.record.get("inference") or {}).get("contrasts", [])
        return next((one for one in entries if one["name"] == self.name), {})

    @property
    def variance(self) -> str:
        """The model's variance; ``ols`` without a model's record."""
        return str((self.record.get("spec") or {}).get("variance", "ols"))

    def is_two_sided(self) -> bool | None:
        """Whether the model's test was two-sided; None without a model's record."""
        asked = (self.record.get("spec") or {}).get("inference")
        by_spec = None if asked is None else not asked.get("one_sided")
        two_sided: bool | None = self.contrast.get("two_sided", by_spec)
        return two_sided

    def _of_contrast(self, ending: str) -> Path | None:
        """A file of the same contrast, if there is one."""
        stem, found, _ = image_stem(self.path).partition(_STAT)
        path = self.path.parent / f"{stem}{ending}"
        return path if found and path.is_file() else None

    def maxima(self) -> dict[str, np.ndarray]:
        """Null maxima of the permutations."""
        path = self._of_contrast("_nullmaxima.tsv")
        if path is None:
            return {}
        table = pd.read_csv(path, sep="\t")
        return {str(name): table[name].to_numpy(np.float64) for name in table if table[name].notna().all()}

    def local_df(self, index: np.ndarray) -> np.ndarray | None:
        """Degrees of freedom of each voxel, where they differ."""
        path = self._of_contrast(f"{_STAT}df_statmap.nii.gz")
        if path is None:
            return None
        df = io.read_volume(path).data[0].numpy().ravel()[index].astype(np.float64)
        return df if np.ptp(df) > _ONE_DF else None

    def smooth(self, space: Space, sides: int) -> SmoothSpace | None:
        """Smoothness of the residuals: that of the record, else the mean of SPM's RPV image."""
        if self.variance not in ("ols", "spm"):
            return None
        resels = self._resels(space)
        recorded = ((self.record.get("inference") or {}).get("smoothness") or {}).get("fwhm_mm")
        if recorded is not None and all(recorded):
            fwhm_mm = np.asarray(recorded, dtype=np.float64)
        elif resels is not None:
            fwhm_mm = np.nanmean(resels) ** (-1 / 3) * space.grid.voxel_size_mm
        else:
            return None
        if resels is None:
            resels = np.full(space.voxel_index.size, np.prod(space.grid.voxel_size_mm / fwhm_mm))
        x, y, z = fwhm_mm.tolist()
        return SmoothSpace(space, np.ones(space.voxel_index.size, bool), Smoothness((x, y, z), resels), sides)

    def _resels(self, space: Space) -> np.ndarray | None:
        """Resels of each voxel, NaN where they are not known; None without such an image."""
        path = next((one for name in _RESELS if (one := self.path.parent / name).is_file()), None)
        if path is None:
            return None
        volume = io.read_volume(path)
        if not volume.grid.matches(space.grid):
            return None
        values = volume.data[0].numpy().ravel()[space.voxel_index].astype(np.float64)
        return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def _mask_on_grid(path: Path, read: ReadStatistic) -> torch.Tensor:
    mask = io.read_volume(path)
    if not mask.grid.matches(read.volume.grid):
        msg = f"{path}: grid {mask.grid} differs from {read.volume.grid} of {read.path}; give a mask on its grid"
        raise ScanError(msg)
    return mask.data[0] > 0.5


@dataclass(frozen=True)
class Asked:
    """What a user asked for: the rules, the scale of the written map, and atlases that name places."""

    height: Rule
    extent: Rule
    to: str
    regions: Regions | None


def write_thresholded(path: Path, folder: Path, statistic: Statistic, left: Thresholded, asked: Asked) -> list[Path]:
    """Write the map that is left, its clusters as labels, tables of clusters and peaks, and a record.

    Names are ``MAP_HEIGHT[_EXTENT]_SCALE.nii.gz`` and so on, in `folder`.
    """
    stem = image_stem(path).removesuffix("_statmap")
    stem += f"_{asked.height.label}" + (f"_{asked.extent.label}" if asked.extent.level else "")
    scale = statistic.kind if asked.to == "same" else asked.to
    outside = 1.0 if asked.to == "p" else 0.0
    values = np.where(left.kept, transform(statistic, asked.to), outside)
    axcodes = io.read_axcodes(path)
    files = [folder / f"{stem}_{name}" for name in (f"{scale}.nii.gz", "clusters.nii.gz")]
    about = f"{scale}, {left.height_by}" + (f", {left.extent_by}" if left.extent_by else "")
    folder.mkdir(parents=True, exist_ok=True)
    image = statistic.space.volume(values, outside)
    io.write_volume(files[0], image, axcodes=axcodes, intent=_intent(statistic, asked.to), description=about[:79])
    labels = statistic.space.volume(left.clusters.labels)
    io.write_volume(files[1], labels, axcodes=axcodes, dtype="int32", intent=("label", ()), description=about[:79])
    for name, table in tables_of(statistic, left, asked.regions).items():
        files.append(folder / f"{stem}_{name}.tsv")
        dictionary.write_table(files[-1], table, name)
    files.append(folder / f"{stem}.json")
    storage.write_json(files[-1], _record(path, statistic, left, asked))
    return files


def tables_of(statistic: Statistic, left: Thresholded, regions: Regions | None) -> dict[str, pd.DataFrame]:
    """Tables of what is left of a map, its ``clusters`` and ``peaks``, with the names of their places."""
    of = StatisticMap(statistic.values, statistic.kind, statistic.space)
    at_peak = {"z": statistic.z(), "p_uncorrected": statistic.p()}
    return {
        "clusters": cluster_table(of, left.clusters, left.p_extent, at_peak, regions),
        "peaks": peak_table(of, left.clusters, at_peak, regions),
    }


def _intent(statistic: Statistic, to: str) -> tuple[str, tuple[float, ...]]:
    if to == "same" and not statistic.has_local_df:
        named = {"t": "t test", "F": "f test", "z": "z score"}
        df = {"t": (float(statistic.df),), "F": (statistic.df_contrast, float(statistic.df)), "z": ()}
        return named[statistic.kind], df[statistic.kind]
    return _INTENTS.get(to, ("estimate", ()))


def _record(path: Path, statistic: Statistic, left: Thresholded, asked: Asked) -> dict[str, Any]:
    return {
        "command": "threshold", "map": str(path.name), "sha256": sha256(path), "statistic": statistic.kind,
        "df": "local" if statistic.has_local_df else statistic.df, "sides": statistic.sides,
        "n_voxels": len(statistic.values), "height": left.height if np.isfinite(left.height) else None,
        "height_by": left.height_by, "extent_by": left.extent_by, "scale": asked.to, "n_kept": int(left.kept.sum()),
        "clusters": len(left.clusters.sizes), "versions": versions(),
    }  # fmt: skip
