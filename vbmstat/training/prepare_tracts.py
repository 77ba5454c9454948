"""Training cases for tract networks: T1w scans with TractSeg's reference masks and peaks of the same people.

References live in diffusion space. As in the paper (section 1.1), one rigid transform moves them to the T1w image;
the paper registers the b0 image with FSL, here the scan's white matter is registered to the union of the tracts, which
every TractSeg folder holds. The fit is the project's linear one, from which the nearest rotation is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from vbmstat.errors import ScanError, VbmstatError, listed
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, resample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.metrics.accuracy import dice
from vbmstat.preproc.pipeline import segment_scan
from vbmstat.preproc.steps.linear import refine_with_tissues
from vbmstat.progress import OnStep, ignore
from vbmstat.tracts.names import TRACTS
from vbmstat.tracts.network import cube_around, directions_on, needed_side
from vbmstat.tracts.references import check_grid, read_peaks, read_references
from vbmstat.tracts.structure_tensor import Widths
from vbmstat.training.cases import Case
from vbmstat.training.tracts import pack_masks

COLUMNS = ("participant_id", "t1w", "references", "peaks")
MIN_DICE = 0.68  # of white matter and tracts; one person .73, others up to .67 (benchmarks/results/tracts_persons.md)


@dataclass(frozen=True)
class View:
    """Cubes on which cases are stored.

    Attributes
    ----------
    voxel_mm : float
        Voxel size in T1w space.
    side : int
        Voxels of an edge.
    widths : Widths
        Widths of the structure tensor.
    min_dice : float
        Smallest Dice of white matter and tracts of one person.
    """

    voxel_mm: float = 1.25
    side: int = 160
    widths: Widths = field(default_factory=Widths)
    min_dice: float = MIN_DICE

    def peaks_side(self, peaks_mm: float) -> int:
        """Edge, in voxels, of the cube in diffusion space: the same mm."""
        return int(np.ceil(self.side * self.voxel_mm / peaks_mm - 1e-6))

    def settings(self, tracts: tuple[str, ...], peaks_mm: float) -> dict[str, object]:
        """Settings of a file of cases."""
        widths = [self.widths.sigma, self.widths.rho, self.widths.along]
        return {
            "kind": "tracts", "tracts": list(tracts), "shape": [self.side] * 3, "voxel_mm": self.voxel_mm,
            "widths": widths, "peaks_shape": [self.peaks_side(peaks_mm)] * 3, "peaks_mm": peaks_mm,
        }  # fmt: skip


def tract_arrays(brain: Volume, wm: Volume, references: Volume, peaks: Volume, view: View) -> dict[str, torch.Tensor]:
    """Arrays of a case.

    Parameters
    ----------
    brain : Volume, (1, X, Y, Z)
        T1w brain, 0 outside.
    wm : Volume, (1, X, Y, Z)
        Its white matter, 0 to 1, on the same grid.
    references : Volume, (n_tracts, A, B, C)
        Masks in diffusion space.
    peaks : Volume, (9, A, B, C)
        Peaks on the same grid.
    view : View
        Cubes of the case.

    Raises
    ------
    ScanError
        If peaks and references differ in their grid, the cube would cut the brain, or the tracts are of another one.
    """
    check_grid("peaks", peaks.grid, references.grid, "the references'")
    needed = needed_side(brain, view.voxel_mm)
    if needed > view.side:
        msg = f"the brain spans {needed} voxels of {view.voxel_mm:g} mm, the cube {view.side}: give --side {needed}"
        raise ScanError(msg)
    to_diffusion = rigid_to_tracts(wm, references, view.min_dice)
    cube = cube_around(brain, view.voxel_mm, view.side)
    side = view.peaks_side(float(peaks.grid.voxel_size_mm.mean()))
    there = native_cube(peaks, side)
    # the centre of a voxel stays one, so resampling to the diffusion cube copies values
    return {
        "directions": directions_on(cube, brain, view.widths),
        "tracts": pack_masks(resample(references.data, references.grid, cube, to_diffusion)),
        "peaks": resample(peaks.data, peaks.grid, there),
        "tracts_diffusion": pack_masks(resample(references.data, references.grid, there)),
        "to_peaks": torch.from_numpy(np.linalg.inv(there.affine) @ to_diffusion @ cube.affine)[None, None],
    }


def rigid_to_tracts(wm: Volume, references: Volume, min_dice: float = MIN_DICE) -> np.ndarray:
    """Rigid transform from the T1w image to its tracts in diffusion space: T1w mm -> diffusion mm, (4, 4).

    Raises
    ------
    ScanError
        If white matter and tracts overlap with a Dice below `min_dice` after it.
    """
    union = Volume(references.data.amax(0, keepdim=True), references.grid)
    centred = np.eye(4)
    centred[:3, 3] = _centre(union) - _centre(wm)
    fits = [_nearest_rigid(refine_with_tissues(union, wm, start), _centre(wm)) for start in (np.eye(4), centred)]
    overlaps = [_overlap(wm, union, fit) for fit in fits]
    best = int(np.argmax(overlaps))
    if overlaps[best] < min_dice:
        msg = (
            f"Dice of white matter and tracts is {overlaps[best]:.2f} after a rigid registration, expected at least "
            f"{min_dice:.2f}; are scan and references of one person?"
        )
        raise ScanError(msg)
    return fits[best]


def cases_of_table(
    table: Path, view: View, report: OnStep = ignore, leave_out: OnStep | None = None
) -> tuple[Iterator[Case], dict[str, object]]:
    """Cases of a table of people, and the settings of their file.

    Parameters
    ----------
    table : Path
        TSV with the columns ``participant_id``, ``t1w``, ``references`` (TractSeg's folder) and ``peaks``, and, if
        people come from several studies, ``group``; paths are relative to its folder.
    view : View
        Cubes of the cases.
    report : callable
        Called with each id.
    leave_out : callable, optional
        Called with a line on a person who cannot be used, and the others go on; by default that is an error.

    Raises
    ------
    VbmstatError
        If a column or a path of the table is missing: before the first scan, as each takes about a minute.
    """
    try:
        rows = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        why = "cannot be read as a TSV" if table.is_file() else "no such table"
        msg = f"{table}: {why}; expected rows with the columns {', '.join(COLUMNS)}"
        raise VbmstatError(msg) from error
    missing = [column for column in COLUMNS if column not in rows]
    if missing or rows.empty:
        msg = f"{table}: expected rows with the columns {', '.join(COLUMNS)}; missing: {', '.join(missing) or 'rows'}"
        raise VbmstatError(msg)
    gone = [path for column in COLUMNS[1:] for path in rows[column] if not (table.parent / path).exists()]
    if gone:
        msg = f"{table}: no such file or folder: {listed(gone)}; paths are relative to the table's folder"
        raise VbmstatError(msg)
    first_mm = float(io.read_grid(table.parent / rows["peaks"][0]).voxel_size_mm.mean())

    def cases() -> Iterator[Case]:
        for row in rows.to_dict("records"):
            name = str(row["participant_id"])
            report(name)
            try:
                yield Case(name, str(row.get("group") or name), _arrays_of(table.parent, row, first_mm, view))
            except ScanError as error:
                msg = f"{name}: {error}"
                if leave_out is None:
                    raise ScanError(msg) from error
                leave_out(msg)

    return cases(), view.settings(TRACTS, first_mm)


def _arrays_of(folder: Path, row: Mapping[str, str], peaks_mm: float, view: View) -> dict[str, torch.Tensor]:
    """Arrays of a person of a table in this folder, whose peaks should have this voxel size."""
    peaks = read_peaks(folder / row["peaks"])
    if not np.allclose(peaks.grid.voxel_size_mm, peaks_mm, rtol=0.02):
        msg = f"peaks {peaks.grid}; expected isotropic voxels of {peaks_mm:g} mm, as the first person's"
        raise ScanError(msg)
    segmented = segment_scan(io.read_scan(folder / row["t1w"]))
    references = read_references(folder / row["references"])
    return tract_arrays(segmented.work, segmented.fractions.channel(1), references, peaks, view)


def _overlap(wm: Volume, union: Volume, linear: np.ndarray) -> float:
    moved = resample(union.data, union.grid, wm.grid, linear)
    return dice(moved > 0.5, wm.data > 0.5)


def _nearest_rigid(linear: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The rotation nearest to a linear transform, about the same centre."""
    left, _, right = np.linalg.svd(linear[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = left @ right
    rigid[:3, 3] = (linear @ np.append(centre, 1.0))[:3] - rigid[:3, :3] @ centre
    return rigid


def _centre(volume: Volume) -> np.ndarray:
    """Centre of mass, mm, (3,)."""
    at = apply_affine(volume.grid.affine, voxel_indices(volume.grid.shape)).double()
    centre: np.ndarray = ((at * volume.data).sum((1, 2, 3)) / volume.data.sum()).numpy()
    return centre


def native_cube(peaks: Volume, side: int) -> Grid:
    """A cube of the image's own voxels, centred on the box of its peaks."""
    box = [(peaks.data != 0).any(0).movedim(axis, 0).flatten(1).any(1).nonzero() for axis in range(3)]
    start = [int(float(at.min() + at.max() + 1) / 2 - side / 2) for at in box]
    x, y, z = start
    return peaks.grid.crop((x, y, z), (x + side, y + side, z + side))
