"""Names of places in maps: the regions of an atlas, of a second one where the first has none, and the nearest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vbmstat.image.volume import Volume

NONE = "none"  # name of a place in no region
_MIN_SHARE = 0.05  # a region with less of a cluster is not named


@dataclass(frozen=True)
class Regions:
    """An atlas for naming: any label image and the names of its labels."""

    image: Volume  # (1, X, Y, Z): whole-number labels in the maps' RAS+ mm, on any grid; 0 is no region
    names: Mapping[int, str]  # name of each label
    second: Regions | None = None  # names what this one leaves without a name
    atlas: str = ""  # its own name, which the names of a second atlas get

    def each(self) -> Iterator[Regions]:
        """Go through the atlas and those after it."""
        yield self
        if self.second is not None:
            yield from self.second.each()

    def name(self, label: int) -> str:
        """Name of a label; ``none`` for 0."""
        return self.names.get(int(label), f"label {label}") if label else NONE


def labels_at(regions: Regions, mm: np.ndarray) -> np.ndarray:
    """Label of the nearest voxel of an atlas at points (k, 3) in mm; 0 outside its image."""
    grid = regions.image.grid
    inverse = np.linalg.inv(grid.affine)
    at = np.rint(mm @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
    inside = ((at >= 0) & (at < np.array(grid.shape))).all(axis=1)
    labels = np.zeros(len(mm), dtype=np.int64)
    image = regions.image.data[0].cpu().numpy()
    labels[inside] = np.rint(image[tuple(at[inside].T)]).astype(np.int64)
    return labels


def names_at(regions: Regions, mm: np.ndarray) -> list[str]:
    """Names at points (k, 3) in mm; those of the second atlas, with its name, where the first has none."""
    names = [regions.name(label) for label in labels_at(regions, mm)]
    without = [i for i, name in enumerate(names) if name == NONE]
    if regions.second is not None and without:
        for i, name in zip(without, names_at(regions.second, mm[without]), strict=True):
            names[i] = name if name == NONE else f"{name} ({regions.second.atlas})"
    return names


def with_nearest(names: Sequence[str], regions: Regions, mm: np.ndarray) -> list[str]:
    """Names with the nearest region of the first atlas, and its distance, where there is none at points (k, 3) mm."""
    from scipy.spatial import cKDTree  # noqa: PLC0415 - only here, a fifth of a second

    without = np.array([name == NONE for name in names], dtype=bool)
    inside = np.argwhere(regions.image.data[0].cpu().numpy() > 0)  # (n, 3)
    if not without.any() or not len(inside):
        return list(names)
    affine = regions.image.grid.affine
    places = inside @ affine[:3, :3].T + affine[:3, 3]
    distances, rows = cKDTree(places).query(mm[without])
    near = iter(zip(names_at(regions, places[rows]), distances, strict=True))
    return [f"{NONE} ({region} at {far:.0f} mm)" if name == NONE else name
            for name in names for region, far in ([next(near)] if name == NONE else [("", 0.0)])]  # fmt: skip


def region_shares(names: Sequence[str]) -> str:
    """Names of a cluster's voxels with their shares, the largest first: ``"left hippocampus 62 %; none 38 %"``."""
    values, counts = np.unique(np.array(names), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    shares = [(values[i], counts[i] / len(names)) for i in order]
    return "; ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share >= _MIN_SHARE)
