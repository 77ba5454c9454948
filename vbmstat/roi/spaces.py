"""Measure a scan's files in template space or in its own space; what successive maps share is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.errors import ScanError
from vbmstat.files import map_kinds, naming
from vbmstat.files.filenames import same_file_key, unique_names
from vbmstat.files.warps import ScanWarp
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.roi.atlas import Atlas, SoftAtlas
from vbmstat.roi.measure import label_shares, mean_in_labels, measure_map, sums_in_labels
from vbmstat.roi.native import check_coverage, native_labels, native_shares
from vbmstat.roi.soft import soft_native_shares, soft_shares
from vbmstat.tables.cohort import Cohort


def check_some_field(cohort: Cohort, columns: Sequence[str]) -> None:
    """Refuse native space if no map in the columns has an inverse field beside it: one error, not one per scan."""
    entries = [str(entry) for column in columns for entry in cohort.table[column].dropna()]
    paths = [naming.native_paths(cohort.folder / entry) for entry in entries]
    if not any(each and ScanWarp(each).is_known for each in paths):
        unknown = f"{entries[0]} is by a program not known to write any"
        wanted = f"e.g. {paths[0]['iy']}" if paths[0] else unknown
        msg = f"no scan has its inverse field ({wanted}); write them with the maps, or measure in template space"
        raise ScanError(msg)


class InTemplate:
    """Measures modulated maps; keeps the label shares of the last grid, as nearly all maps have the same."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.grid: Grid | None = None
        self.shares: Any = None

    def __call__(self, path: Path, tissue_name: str) -> np.ndarray:
        """Volumes of one map, (n_labels,), mL."""
        tissue = self._read(path)
        with _naming(path):
            return measure_map(tissue, self.shares, tissue_name == map_kinds.WMH)

    def mean(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Mean of a map in each label, and the volume (mL) that it is the mean over, (n_labels,) each."""
        image = self._read(path)
        with _naming(path):
            return mean_in_labels(image, self.shares)

    def _read(self, path: Path) -> Volume:
        """Read a map, and compute the shares on its grid if it has another than the last."""
        image = io.read_volume(path)
        if self.grid is None or not self.grid.matches(image.grid):
            shares = soft_shares if isinstance(self.atlas, SoftAtlas) else label_shares
            self.shares = shares(self.atlas, image.grid)
            self.grid = image.grid
        return image


class InScan:
    """Measures tissue maps in the scan's own space; keeps the label shares of the last scan for its three tissues."""

    def __init__(self, atlas: Atlas, label_images: Path | str | None = None) -> None:
        if label_images is not None and isinstance(atlas, SoftAtlas):
            msg = f"atlas {atlas.name}: its regions overlap, so there is no label image; leave out --label-images"
            raise ScanError(msg)
        self.atlas = atlas
        self.label_images = label_images
        self.named: dict[str, Path] = {}  # name of a label image -> the field it was made with
        self.scan: tuple[Path, Grid] | None = None
        self.field: Any = None
        self.shares: Any = None

    def __call__(self, modulated: Path, tissue: str) -> np.ndarray:
        """Volumes of the scan that a modulated map belongs to, (n_labels,), mL."""
        paths = naming.native_paths(modulated)
        if not paths:
            msg = f"{modulated}: expected the name of a map by CAT12, SPM, T1Prep or vbmstat, which have inverse fields"
            raise ScanError(msg)
        fractions = io.read_volume(paths[tissue])
        if self.scan is None or self.scan[0] != paths["iy"] or not self.scan[1].matches(fractions.grid):
            self._warp_atlas(paths, fractions.grid)
        with _naming(paths[tissue]):
            check_coverage(fractions, self.field)
            return measure_map(fractions, self.shares, tissue == map_kinds.WMH)

    def sums(self, modulated: Path, image: Path) -> np.ndarray:
        """Voxels, sums and sums of squares of an image of the scan in each label, (3, n_labels); on its own grid."""
        paths = naming.native_paths(modulated)
        if not paths:
            msg = f"{modulated}: expected the name of a map by CAT12, SPM, T1Prep or vbmstat, which have inverse fields"
            raise ScanError(msg)
        values = io.read_volume(image)
        with _naming(image):
            self._warp_atlas(paths, values.grid)
            return sums_in_labels(values, self.shares)

    def _warp_atlas(self, paths: Mapping[str, Path], grid: Grid) -> None:
        """Read a scan's inverse field and compute the label shares on its grid."""
        self.scan, path = None, paths["iy"]
        warp = ScanWarp(paths)
        self.field = warp.to_template(warp.box or grid)
        shares = soft_native_shares if isinstance(self.atlas, SoftAtlas) else native_shares
        self.shares = shares(self.atlas, self.field, grid)
        if self.label_images is not None:
            name = naming.image_stem(path).removeprefix("iy_").split("_from-")[0]
            if self.named.setdefault(same_file_key(name), path) != path:  # a scan of that name in another folder
                stem = name
                name = unique_names([str(path), str(self.named[same_file_key(stem)])], lambda _: stem)[0]
            labels = native_labels(self.atlas, self.field, grid)
            io.write_volume(Path(self.label_images) / f"{name}.nii.gz", labels, dtype="int32", space="scanner")
        self.scan = path, grid


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file in front of an error's message."""
    try:
        yield
    except ScanError as error:
        msg = f"{path}: {error}"
        raise ScanError(msg) from error
