"""Small volumes to search in: a sphere, a region of an atlas, or a mask image, written as one word or path."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vbmstat.assets.provenance import file_record
from vbmstat.errors import DesignError
from vbmstat.glm.inference.clusters import coordinates_mm
from vbmstat.glm.inference.places import Regions, labels_at
from vbmstat.image import io
from vbmstat.image.headers import IMAGE_SUFFIXES
from vbmstat.maps.store import Space
from vbmstat.tables.cohort import closest

_SPHERE = "sphere:"


@dataclass(frozen=True)
class SmallVolume:
    """A volume that was chosen before looking at the map.

    Raises
    ------
    DesignError
        If it is none of them.
    """

    # as it was written: ``sphere:-24,-20,-16,8`` (MNI mm, radius), a region's name, or the path of a mask image
    text: str
    regions: Regions | None = None  # atlases that regions are of

    def __post_init__(self) -> None:
        if self.is_sphere:
            self._sphere()
        elif self.is_image:
            if not Path(self.text).is_file():
                msg = f"small volume {self.text}: no such mask image"
                raise DesignError(msg)
        elif not self._labels():
            names = [name for atlas in self._atlases for name in atlas.names.values()]
            near = closest(self.text, names) or "none"
            msg = (
                f"small volume {self.text!r}: no region of the atlases, no mask image, no sphere:x,y,z,r "
                f"(nearest regions: {near})"
            )
            raise DesignError(msg)

    @property
    def is_sphere(self) -> bool:
        """Whether it is a sphere."""
        return self.text.startswith(_SPHERE)

    @property
    def is_image(self) -> bool:
        """Whether it is a mask image."""
        return self.text.endswith(IMAGE_SUFFIXES)

    @property
    def name(self) -> str:
        """In tables: its text, or the file's name."""
        return Path(self.text).name if self.is_image else self.text

    def record(self) -> Any:
        """What ``glm.json`` says of it: its text, or the file with its hash."""
        return file_record(self.text) if self.is_image else self.text

    def inside(self, space: Space, mask: np.ndarray) -> np.ndarray:
        """Columns of the mask (n_voxels,) that lie in it, bool.

        Raises
        ------
        DesignError
            If there is none, or the mask image has another grid than the maps.
        """
        if self.is_image:
            volume = io.read_volume(Path(self.text))
            if not volume.grid.matches(space.grid):
                msg = f"small volume {self.text}: grid {volume.grid} differs from {space.grid} of the maps; resample it"
                raise DesignError(msg)
            chosen = volume.data[0].numpy().reshape(-1)[space.voxel_index] > 0
        else:
            mm = coordinates_mm(space)
            if self.is_sphere:
                *centre, radius = self._sphere()
                chosen = np.linalg.norm(mm - centre, axis=1) <= radius
            else:
                [(atlas, labels)] = self._labels()
                chosen = np.isin(labels_at(atlas, mm), labels)
        if not (chosen & mask).any():
            msg = f"small volume {self.text}: no voxel in the mask of the model; is it in MNI mm, and of this tissue?"
            raise DesignError(msg)
        return np.asarray(chosen & mask)

    def _sphere(self) -> list[float]:
        """Centre and radius, mm."""
        try:
            numbers = [float(part) for part in self.text.removeprefix(_SPHERE).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != 4 or not np.isfinite(numbers).all() or numbers[-1] <= 0:
            msg = f"small volume {self.text}: expected sphere:x,y,z,r with the centre and a positive radius in mm"
            raise DesignError(msg)
        return numbers

    @property
    def _atlases(self) -> list[Regions]:
        return [] if self.regions is None else list(self.regions.each())

    def _labels(self) -> list[tuple[Regions, list[int]]]:
        """The first atlas that has the name, and its labels; left and right of a name without a side."""
        name = self.text.casefold()
        wanted = {name, f"left {name}", f"right {name}"}
        of_each = ((a, [label for label, one in a.names.items() if one.casefold() in wanted]) for a in self._atlases)
        return [(atlas, labels) for atlas, labels in of_each if labels][:1]


def small_volumes(texts: Sequence[str], regions: Regions | None, kinds: Collection[str]) -> list[SmallVolume]:
    """Small volumes of an analysis with these kinds of inference.

    Raises
    ------
    DesignError
        If one is misspelt, two have one name, or ``rft`` is not among the kinds.
    """
    if texts and "rft" not in kinds:
        asked = ", ".join(sorted(kinds)) or "none"
        msg = f"small volumes (--svc) belong to random fields: add --inference rft (asked: {asked})"
        raise DesignError(msg)
    volumes = [SmallVolume(text, regions) for text in dict.fromkeys(texts)]
    names = [one.name for one in volumes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        msg = f"small volumes: two mask images are named {twice}; rename one"
        raise DesignError(msg)
    return volumes
