"""Read and write image files.

Images are read in RAS+ order (the closest canonical orientation). Only this module and
:mod:`vbmstat.image.stored` use nibabel.
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.headers import NIFTI_SUFFIXES
from vbmstat.image.storage import atomic_path
from vbmstat.image.stored import StoredImage, read_stored
from vbmstat.image.volume import Volume
from vbmstat.lazy import torch

TEMPLATE_AXCODES = "LAS"  # axis order on disk of CAT12's template and maps
_MNI_CODE, _SCANNER_CODE = 4, 1
_LEAST_PEAK, _USUAL_PEAK, _LARGEST_PEAK = 1e-6, 1e3, 1e9  # of the intensities of a scan, whose unit is arbitrary


def read_grid(path: Path | str) -> Grid:
    """Grid of an image file in RAS+ order, from its header alone."""
    return read_stored(path).canonical_grid


def is_whole(path: Path | str) -> bool:
    """Whether an image file stores whole numbers, unscaled."""
    header = read_stored(path).header
    is_scaled = any(value not in (None, 1, 0) for value in getattr(header, "get_slope_inter", lambda: (None, None))())
    return np.issubdtype(header.get_data_dtype(), np.integer) and not is_scaled


def read_shape(path: Path | str) -> tuple[int, ...]:
    """Shape of an image file as stored, from its header alone."""
    return read_stored(path).shape


def read_volume(path: Path | str) -> Volume:
    """Read a 3-D image (or a 4-D one with a single volume) as RAS+ float32.

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, ``.mgz``.

    Returns
    -------
    Volume
        One channel, data (1, X, Y, Z) in the closest canonical (RAS+) axis order.

    Raises
    ------
    ScanError
        If the file is unreadable or truncated, is not 3-D, holds more than one volume, or has an affine
        that cannot be inverted.
    """
    stored = read_stored(path)
    if any(n != 1 for n in stored.shape[3:]):
        msg = f"{path}: expected one 3-D volume, got shape {stored.shape}; split it or select a volume first"
        raise ScanError(msg)
    return _to_volume(stored)


def read_scan(path: Path | str) -> Volume:
    """Read a T1w scan: a volume with finite values that are not all equal.

    NaN outside the field of view (all eight corners are NaN) becomes 0. Intensities far beyond those of any scanner
    are multiplied by a power of two.

    Raises
    ------
    ScanError
        As :func:`read_volume`; also if other values are NaN or infinite, or all values are equal.
    """
    volume = read_volume(path)
    data = volume.data
    if torch.isnan(data[:, :: data.shape[1] - 1, :: data.shape[2] - 1, :: data.shape[3] - 1]).all():
        data = torch.where(torch.isnan(data), torch.zeros(()), data)
    low, high = (float(value) for value in data.aminmax())  # NaN where any value is
    if not (np.isfinite(low) and np.isfinite(high)):
        n_bad = int((~torch.isfinite(data)).sum())
        msg = f"{path}: {n_bad} of {data.numel()} values are NaN or infinite; set them to the background value"
        raise ScanError(msg)
    if low == high:
        msg = f"{path}: every value is {low:g}; expected a T1w image, so export or convert it again"
        raise ScanError(msg)
    return Volume(_in_reach(data, max(abs(low), abs(high))), volume.grid)


def _in_reach(data: torch.Tensor, peak: float) -> torch.Tensor:
    """Intensities whose squares fit float32: extreme ones are scaled by a power of two, which loses no digit."""
    if _LEAST_PEAK <= peak <= _LARGEST_PEAK:
        return data
    return (data.double() * 2.0 ** -round(math.log2(peak / _USUAL_PEAK))).float()


def read_channels(path: Path | str, n_channels: int | None = None) -> Volume:
    """Read an image (X, Y, Z, C) or vector image (X, Y, Z, 1, C) as (C, X, Y, Z), RAS+, float32.

    Vector components stay as stored (RAS+ mm in this program's displacement files).
    """
    volume = _to_volume(read_stored(path))
    return volume if n_channels is None else Volume(volume.data[:n_channels].clone(), volume.grid)


def _to_volume(stored: StoredImage) -> Volume:
    values, scaled = stored.values()
    values = apply_orientation(values.reshape(*values.shape[:3], -1), io_orientation(stored.affine))  # (X, Y, Z, C)
    data = torch.empty(values.shape[-1], *values.shape[:-1])
    with np.errstate(all="ignore"):  # values beyond float32 become infinite
        for y in range(values.shape[1]):  # by planes, as axes are turned faster in the processor's cache
            data.numpy()[:, :, y] = np.moveaxis(scaled(np.ascontiguousarray(values[:, y])), -1, 0)
    return Volume(data, stored.canonical_grid)


def read_axcodes(path: Path | str) -> str:
    """Axis codes of an image file as stored, e.g. ``"LAS"``."""
    return "".join(nib.aff2axcodes(read_stored(path).affine))


def read_statistic_header(path: Path | str) -> tuple[str, tuple[float, ...], str]:
    """NIfTI intent, its parameters (degrees of freedom) and the description; ``("none", (), "")`` in other formats."""
    header = read_stored(path).header
    if not isinstance(header, nib.Nifti1Header):
        return "none", (), ""
    name, parameters, _ = header.get_intent()
    text = bytes(header["descrip"]).split(b"\0")[0].decode("utf-8", "replace")
    return name, tuple(float(value) for value in parameters), text


def as_nifti(volume: Volume) -> nib.Nifti1Image:
    """The first channel as a NIfTI image in memory, RAS+, for plotting libraries."""
    return nib.Nifti1Image(volume.data[0].detach().cpu().numpy(), volume.grid.affine)


def write_volume(path: Path | str, volume: Volume, **header: Any) -> None:
    """Write images as NIfTI; `header` as in :func:`write_array`."""
    write_array(path, volume.data.detach().cpu().numpy(), volume.grid, **header)


def write_array(  # noqa: PLR0913 - each is a field of the file's header
    path: Path | str,
    data: np.ndarray,
    grid: Grid,
    *,
    dtype: str = "float32",
    axcodes: str = TEMPLATE_AXCODES,
    space: str = "mni",
    intent: tuple[str, tuple[float, ...]] | None = None,
    description: str = "vbmstat",
    step: float | None = None,
) -> None:
    """Write images as NIfTI with sform = qform, whole or not at all.

    Parameters
    ----------
    path : path
        ``.nii`` or ``.nii.gz``.
    data : ndarray, (C, X, Y, Z)
        One channel gives a 3-D file, several a 5-D vector file (X, Y, Z, 1, C), or with `step` a 4-D one.
    grid : Grid
        RAS+ grid.
    dtype : {"float32", "uint8", "int16", "int32"}
        Type on disk. Never scaled (slope 1, intercept 0) without `step`; values are rounded for integer types.
    axcodes : str
        Axis order on disk, e.g. ``"LAS"`` (CAT12's) or ``"RAS"``.
    space : {"mni", "scanner"}
        Sets sform and qform codes to 4 or 1.
    intent : (str, tuple of float), optional
        NIfTI intent and its parameters, e.g. ``("t test", (96.0,))``.
    description : str
        SPM's description for statistic maps; cut to the 79 bytes that NIfTI has for it.
    step : float, optional
        The channels are a series of scalar images, in multiples of this step, which becomes the slope: counts 0 to 255
        of 1/255 for probabilities as uint8.

    Raises
    ------
    ValueError
        If the path has another suffix, or values do not fit into an integer `dtype`.
    VbmstatError
        If the file cannot be written; see :func:`vbmstat.image.storage.atomic_path`.
    """
    path = Path(path)
    if not path.name.endswith(NIFTI_SUFFIXES):
        msg = f"expected a path ending in .nii or .nii.gz, got {path.name}"
        raise ValueError(msg)
    if np.issubdtype(np.dtype(dtype), np.integer):
        data = data if np.issubdtype(data.dtype, np.integer) else np.rint(data)
        limits = np.iinfo(dtype)
        if not (data.min() >= limits.min and data.max() <= limits.max):  # also refuses NaN
            msg = f"{path.name}: values from {data.min():g} to {data.max():g} do not fit {dtype}"
            raise ValueError(msg)
    data = np.moveaxis(data, 0, -1).astype(dtype, copy=False)  # (X, Y, Z, C)
    ornt = ornt_transform(io_orientation(grid.affine), axcodes2ornt(axcodes))
    affine = grid.affine @ inv_ornt_aff(ornt, grid.shape)
    data = apply_orientation(data, ornt)
    if data.shape[-1] == 1:
        data = data[..., 0]
    elif step is None:
        data = data[:, :, :, None, :]
    image = nib.Nifti1Image(data, affine)
    header = image.header
    code = _MNI_CODE if space == "mni" else _SCANNER_CODE
    image.set_qform(affine, code)
    image.set_sform(affine, code)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1.0 if step is None else step, 0.0)
    header["descrip"] = description.encode("utf-8")[:79].decode("utf-8", "ignore").encode("utf-8")
    if data.ndim == 5:
        header.set_intent("vector", name="displacement")
    if intent is not None:
        header.set_intent(intent[0], intent[1])
    with atomic_path(path) as temporary:
        payload = _to_bytes(image, data)
        if path.name.endswith(".gz"):
            # no time and no name, so that equal maps give equal bytes
            with temporary.open("wb") as raw, igzip.GzipFile("", "wb", 2, raw, mtime=0) as packed:
                packed.write(payload)
        else:
            temporary.write_bytes(payload)


def _to_bytes(image: nib.Nifti1Image, data: np.ndarray) -> memoryview:
    """An image file uncompressed, as ``image.to_bytes()`` gives it; one copy, in which other threads run."""
    stream = BytesIO()
    image.update_header()
    image.header.write_to(stream)
    offset = stream.tell()
    content = np.empty(offset + data.nbytes, dtype=np.uint8)
    content[:offset] = np.frombuffer(stream.getvalue(), dtype=np.uint8)
    np.ndarray(data.shape, data.dtype, content.data, offset, order="F")[:] = data
    return content.data
