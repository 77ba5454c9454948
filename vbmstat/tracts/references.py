"""Reference masks and fibre directions as TractSeg writes them: ``bundle_segmentations/NAME.nii.gz``, peaks."""

from __future__ import annotations

from pathlib import Path

import torch

from vbmstat.errors import ScanError, listed
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.tracts.names import TRACTS

FOLDER = "bundle_segmentations"  # TractSeg's name
_N_PEAKS = 3


def read_references(folder: Path | str) -> Volume:
    """Masks of the 72 tracts of a person, (72, X, Y, Z), 0 or 1, in the order of ``TRACTS``.

    Parameters
    ----------
    folder : path
        ``bundle_segmentations`` of TractSeg, or the folder that holds it.

    Raises
    ------
    ScanError
        If the folder or a tract is missing, or a tract is empty, has another grid, or values other than 0 and 1, or the
        images have one slice.
    """
    folder = masks_folder(Path(folder))
    if not folder.is_dir():
        msg = f"{folder}: no such folder; expected TractSeg's {FOLDER} or the folder that holds it"
        raise ScanError(msg)
    paths = {name: _image(folder, name) for name in TRACTS}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        msg = f"{folder}: {len(missing)} of {len(TRACTS)} tracts are missing ({listed(missing)}); run TractSeg again"
        raise ScanError(msg)
    grid = io.read_grid(paths[TRACTS[0]])
    masks = torch.empty(len(TRACTS), *grid.shape)
    for row, path in enumerate(paths.values()):
        mask = io.read_volume(path)
        check_grid(path, mask.grid, grid, "the first tract's")
        values = torch.unique(mask.data)
        if not torch.isin(values, torch.tensor([0.0, 1.0])).all():
            msg = f"{path}: expected a mask of 0 and 1, got {float(values[-1]):g}; write bundle_segmentations again"
            raise ScanError(msg)
        if not mask.data.any():
            msg = f"{path}: the mask is empty; leave this person out, or segment again"
            raise ScanError(msg)
        masks[row] = mask.data[0]
    return Volume(masks, grid)


def masks_folder(folder: Path) -> Path:
    """TractSeg's ``bundle_segmentations`` in a folder, or the folder itself."""
    return folder / FOLDER if (folder / FOLDER).is_dir() else folder


def write_references(volume: Volume, folder: Path | str) -> list[Path]:
    """Write masks (72, X, Y, Z) as TractSeg names and stores them: int32, 0 and 1, one file a tract.

    Returns
    -------
    list of Path
        ``folder/bundle_segmentations/NAME.nii.gz``.
    """
    if len(volume.data) != len(TRACTS):
        msg = f"expected {len(TRACTS)} masks, got {len(volume.data)}"
        raise ScanError(msg)
    written = []
    for row, name in enumerate(TRACTS):
        path = Path(folder) / FOLDER / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        io.write_volume(path, volume.channel(row), dtype="int32", space="scanner", description=f"tract {name}")
        written.append(path)
    return written


def read_peaks(path: Path | str) -> Volume:
    """Three fibre directions a voxel, (9, X, Y, Z): x, y, z of each in RAS+ mm, as in MRtrix; 0 for none.

    NaN in all three components of a peak is MRtrix's way to write none.

    Raises
    ------
    ScanError
        If the image has not nine volumes, one slice, values that are NaN in part of a peak or infinite, or no peak.
    """
    peaks = io.read_channels(path)
    if len(peaks.data) != 3 * _N_PEAKS:
        msg = f"{path}: expected {3 * _N_PEAKS} volumes (three peaks of x, y, z), got {len(peaks.data)}"
        raise ScanError(msg)
    triples = peaks.data.reshape(_N_PEAKS, 3, *peaks.grid.shape)
    bad = torch.isinf(triples).any(1) | (torch.isnan(triples).any(1) & ~torch.isnan(triples).all(1))  # (3, X, Y, Z)
    if bad.any():
        msg = f"{path}: {int(bad.sum())} peaks hold NaN or infinite components; compute the peaks again"
        raise ScanError(msg)
    data = torch.nan_to_num(peaks.data)
    if not data.any():
        msg = f"{path}: no voxel has a peak; expected fibre directions (MRtrix's sh2peaks, TractSeg's peaks.nii.gz)"
        raise ScanError(msg)
    return Volume(data, peaks.grid)


def check_grid(path: Path | str, grid: Grid, expected: Grid, whose: str) -> None:
    """Raise ScanError if an image has another grid."""
    if not grid.matches(expected):
        msg = f"{path}: its grid {grid} differs from {whose} {expected}; resample it, or take files of one run"
        raise ScanError(msg)


def _image(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.nii.gz"
    return packed if packed.is_file() else folder / f"{name}.nii"
