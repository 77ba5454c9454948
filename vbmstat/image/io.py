"""Read and write image files: the only module that uses nibabel.

Images are read in RAS+ order (the closest canonical orientation). Free text of input headers is never copied.
Over 300 lines, as it is the one wall between files from anywhere and the program: a third of it is checks.
"""

from __future__ import annotations

import logging
import math
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from isal import igzip
from nibabel.arrayproxy import ArrayProxy
from nibabel.imageglobals import logger as nibabel_log
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from vbmstat.errors import ScanError
from vbmstat.image import headers
from vbmstat.image.grid import Grid
from vbmstat.image.headers import IMAGE_SUFFIXES, NIFTI_SUFFIXES
from vbmstat.image.storage import atomic_path
from vbmstat.image.volume import Volume

MAX_VOXELS = 1 << 30  # a 1024³ image; larger headers are damaged or hostile
TEMPLATE_AXCODES = "LAS"  # axis order on disk of CAT12's template and maps
_MNI_CODE, _SCANNER_CODE = 4, 1
_MAX_EXTENT_MM = 2000.0  # of any corner from the scanner's origin
_LEAST_PEAK, _USUAL_PEAK, _LARGEST_PEAK = 1e-6, 1e3, 1e9  # of the intensities of a scan, whose unit is arbitrary
_LARGEST_AFFINE = 1e6  # entry of a voxel-to-mm matrix
_LEAST_ORTHOGONALITY = 0.2  # volume of a voxel over that of a box with the same edge lengths
_NIFTI_HEADERS = {  # (version, header and data are two files) -> class
    (1, False): nib.Nifti1Header, (1, True): nib.nifti1.Nifti1PairHeader,
    (2, False): nib.Nifti2Header, (2, True): nib.nifti2.Nifti2PairHeader,
}  # fmt: skip
_MAX_DEFLATE_RATIO = 1032  # the best that gzip can do
_MAX_TRAILER_BYTES = 16 << 20


def read_grid(path: Path | str) -> Grid:
    """Grid of an image file in RAS+ order, from its header alone."""
    return _read_header(Path(path)).canonical_grid


def read_shape(path: Path | str) -> tuple[int, ...]:
    """Shape of an image file as stored, from its header alone."""
    return _read_header(Path(path)).shape


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
    stored = _read_header(Path(path))
    if any(n != 1 for n in stored.shape[3:]):
        msg = f"{path}: expected one 3-D volume, got shape {stored.shape}; split it or select a volume first"
        raise ScanError(msg)
    return _to_volume(stored, Path(path))


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
    volume = _to_volume(_read_header(Path(path)), Path(path))
    return volume if n_channels is None else Volume(volume.data[:n_channels].clone(), volume.grid)


@dataclass(frozen=True)
class _Stored:
    """The checked header of an image file."""

    data_path: Path
    header: Any  # a nibabel header
    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def canonical_grid(self) -> Grid:
        orientation = io_orientation(self.affine)
        order = np.argsort(orientation[:, 0])
        affine = self.affine @ inv_ornt_aff(orientation, self.shape[:3])
        return Grid(tuple(np.array(self.shape[:3])[order]), affine)


def _to_volume(stored: _Stored, path: Path) -> Volume:
    try:
        with _quiet(), np.errstate(all="ignore"):
            data = np.asanyarray(ArrayProxy(_source(stored), stored.header))
    except Exception as error:  # nibabel raises anything on damaged bytes
        msg = (
            f"{path}: expected a complete image of shape {stored.shape}, but reading it failed ({_words(error)}); "
            "copy or convert the file again"
        )
        raise ScanError(msg) from error
    if data.dtype.fields is not None or np.iscomplexobj(data):
        msg = f"{path}: expected one real number per voxel, got {data.dtype}; export the magnitude, or convert it"
        raise ScanError(msg)
    data = data.reshape(*data.shape[:3], -1)
    data = apply_orientation(data, io_orientation(stored.affine))
    with np.errstate(over="ignore"):  # values beyond float32 become infinite
        data = np.ascontiguousarray(np.moveaxis(data, -1, 0), dtype=np.float32)  # (C, X, Y, Z)
    return Volume(torch.from_numpy(data), stored.canonical_grid)


_MUTED = threading.local()


def _is_unmuted(_record: logging.LogRecord) -> bool:
    return not getattr(_MUTED, "on", False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence nibabel's own warnings in this thread: our one-line errors say more."""
    nibabel_log.addFilter(_is_unmuted)
    _MUTED.on = True
    try:
        yield
    finally:
        _MUTED.on = False


def _words(error: Exception) -> str:
    """Another library's message, on one line."""
    text = " ".join(str(error).split())[:300]
    return text if " " in text else f"{type(error).__name__} {text}"


def _source(stored: _Stored) -> Any:
    """The file's path or, if gzipped, its bytes in memory: isal is fast, and reading to the end checks the CRC."""
    path = stored.data_path
    if not _is_packed(path):
        return str(path)
    end = int(stored.header.get_data_offset()) + math.prod(stored.shape) * stored.header.get_data_dtype().itemsize
    if end > _MAX_DEFLATE_RATIO * path.stat().st_size:
        msg = f"the header announces {end} bytes, more than a file of {path.stat().st_size} bytes can hold"
        raise ValueError(msg)
    with igzip.open(path) as stream:
        content = stream.read(end)
        trailer = stream.read(_MAX_TRAILER_BYTES)  # MGH tags, padding; the CRC is checked at the very end
    if len(trailer) == _MAX_TRAILER_BYTES:
        msg = f"far more data follows the {end} bytes that the header announces"
        raise ValueError(msg)
    if len(content) < end:
        msg = f"expected {end} bytes of data, got {len(content)}"
        raise EOFError(msg)
    return BytesIO(content)


def _is_packed(path: Path) -> bool:
    return path.name.endswith((".gz", ".mgz"))


def _read_header(path: Path) -> _Stored:
    """Read and check the header of an image file."""
    _check_is_file(path)
    try:
        head = _first_bytes(path.with_suffix(".hdr") if path.suffix == ".img" else path)
        wrong = headers.wrong_header(head)
        if not wrong:
            with _quiet(), np.errstate(all="ignore"):
                stored = _parse(head, path)
    except ScanError:
        raise
    except Exception as error:  # nibabel raises anything on damaged bytes
        advice = "ask for permission" if isinstance(error, PermissionError) else "copy or convert it again"
        wrong = f"it cannot be read ({_words(error)}); {advice}"
    if wrong:
        msg = f"{path}: expected a NIfTI or MGH image, but {wrong}"
        raise ScanError(msg)
    _check_geometry(stored, path)
    return stored


def _check_is_file(path: Path) -> None:
    """Refuse paths that are not regular files with an image suffix, and names that no table can hold."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in str(path)):
        msg = f"{path}: expected a name without control characters, in UTF-8; rename it"
        raise ScanError(msg)
    try:
        is_file = path.is_file()
    except OSError as error:
        msg = f"{path}: cannot be accessed ({error.strerror})"
        raise ScanError(msg) from error
    if not is_file:
        msg = f"{path}: {no_file(path)}"
        raise ScanError(msg)
    if not path.name.endswith(IMAGE_SUFFIXES):
        msg = f"{path}: expected an image ({', '.join(IMAGE_SUFFIXES)}); convert it first, e.g. with dcm2niix"
        raise ScanError(msg)


def no_file(path: Path) -> str:
    """Why a path is not a file; empty if it is one."""
    if path.is_file():
        return ""
    if path.exists():
        return "a folder, not an image" if path.is_dir() else "not a regular file (a pipe or a device)"
    return "a broken link; fetch the content (datalad get)" if path.is_symlink() else "no such file"


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file, uncompressed, as many as the largest header has."""
    with path.open("rb") as stream:
        raw = stream.read(headers.HEAD_BYTES)
    wrong = headers.wrong_packing(raw, path.name)
    if wrong:
        msg = f"{path}: expected a NIfTI or MGH image, but it is {wrong}"
        raise ScanError(msg)
    if not _is_packed(path):
        return raw
    with igzip.open(path) as stream:
        return bytes(stream.read(headers.HEAD_BYTES))


def _parse(head: bytes, path: Path) -> _Stored:
    """Parse a header from its first bytes; extensions are left out, as nothing here needs them."""
    if path.name.endswith((".mgz", ".mgh")):
        header: Any = nib.freesurfer.mghformat.MGHHeader.from_fileobj(BytesIO(head))
        affine = header.get_affine()
    else:
        version, is_pair = headers.nifti_version(head), path.suffix in (".img", ".hdr")
        if not version:
            msg = "no NIfTI header" + ("; Analyze files do not say which side is left" if is_pair else "")
            raise ValueError(msg)
        kind = _NIFTI_HEADERS[version, is_pair]
        header = kind(head[: kind.template_dtype.itemsize])
        affine = header.get_best_affine()
    data_path = path.with_suffix(".img") if path.suffix == ".hdr" else path
    return _Stored(data_path, header, tuple(int(n) for n in header.get_data_shape()), affine)


def _check_geometry(stored: _Stored, path: Path) -> None:
    """Refuse grids that no image of a head can have."""
    shape, affine = stored.shape, stored.affine
    if len(shape) < 3 or min(shape[:3], default=0) < 2:
        msg = f"{path}: expected a 3-D image, got shape {shape}; give the reconstructed volume, not a slice"
        raise ScanError(msg)
    if np.prod(shape, dtype=float) > MAX_VOXELS:
        msg = f"{path}: the header gives {shape} voxels, more than any T1w scan has; the file is damaged"
        raise ScanError(msg)
    if not _is_sound(affine):
        rows = "none" if affine is None else np.array2string(affine[:3], precision=3).replace("\n", "")
        msg = f"{path}: expected an invertible voxel-to-mm matrix in the header, got {rows}; repair the header"
        raise ScanError(msg)
    corners = affine[:3, :3] @ ((np.array(shape[:3]) - 1) * np.indices((2, 2, 2)).reshape(3, -1).T).T + affine[:3, 3:]
    if np.abs(corners).max() > _MAX_EXTENT_MM:
        size = "×".join(f"{n * mm:.4g}" for n, mm in zip(shape, np.linalg.norm(affine[:3, :3], axis=0), strict=False))
        msg = (
            f"{path}: expected an image within {_MAX_EXTENT_MM:g} mm of the scanner's origin, got one of {size} mm "
            f"whose corner is {np.abs(corners).max():.4g} mm away; check the voxel size and the origin in the header"
        )
        raise ScanError(msg)


def _is_sound(affine: np.ndarray | None) -> bool:
    """Whether a voxel-to-mm matrix is finite and its axes span 3-D space."""
    if affine is None or not np.isfinite(affine).all() or np.abs(affine).max() > _LARGEST_AFFINE:
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(sizes.min() > 0 and abs(np.linalg.det(affine[:3, :3] / sizes)) > _LEAST_ORTHOGONALITY)


def read_axcodes(path: Path | str) -> str:
    """Axis codes of an image file as stored, e.g. ``"LAS"``."""
    return "".join(nib.aff2axcodes(_read_header(Path(path)).affine))


def read_statistic_header(path: Path | str) -> tuple[str, tuple[float, ...], str]:
    """NIfTI intent, its parameters (degrees of freedom) and the description; ``("none", (), "")`` in other formats."""
    header = _read_header(Path(path)).header
    if not isinstance(header, nib.Nifti1Header):
        return "none", (), ""
    name, parameters, _ = header.get_intent()
    text = bytes(header["descrip"]).split(b"\0")[0].decode("utf-8", "replace")
    return name, tuple(float(value) for value in parameters), text


def as_nifti(volume: Volume) -> nib.Nifti1Image:
    """The first channel as a NIfTI image in memory, RAS+, for plotting libraries."""
    return nib.Nifti1Image(volume.data[0].detach().cpu().numpy(), volume.grid.affine)


def write_volume(
    path: Path | str,
    volume: Volume,
    *,
    dtype: str = "float32",
    axcodes: str = TEMPLATE_AXCODES,
    space: str = "mni",
    intent: tuple[str, tuple[float, ...]] | None = None,
    description: str = "vbmstat",
) -> None:
    """Write images as NIfTI with sform = qform, whole or not at all.

    Parameters
    ----------
    path : path
        ``.nii`` or ``.nii.gz``.
    volume : Volume
        One channel gives a 3-D file, several a 5-D vector file (X, Y, Z, 1, C).
    dtype : {"float32", "uint8", "int16", "int32"}
        Type on disk. Never scaled (slope 1, intercept 0); values are rounded for integer types.
    axcodes : str
        Axis order on disk, e.g. ``"LAS"`` (CAT12's) or ``"RAS"``.
    space : {"mni", "scanner"}
        Sets sform and qform codes to 4 or 1.
    intent : (str, tuple of float), optional
        NIfTI intent and its parameters, e.g. ``("t test", (96.0,))``.
    description : str
        SPM's description for statistic maps; cut to the 79 bytes that NIfTI has for it.

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
    data = volume.data.detach().cpu().numpy()
    if np.issubdtype(np.dtype(dtype), np.integer):
        data = np.rint(data)
        limits = np.iinfo(dtype)
        if not (data.min() >= limits.min and data.max() <= limits.max):  # also refuses NaN
            msg = f"{path.name}: values from {data.min():g} to {data.max():g} do not fit {dtype}"
            raise ValueError(msg)
    data = np.moveaxis(data, 0, -1).astype(dtype)  # (X, Y, Z, C)
    ornt = ornt_transform(io_orientation(volume.grid.affine), axcodes2ornt(axcodes))
    affine = volume.grid.affine @ inv_ornt_aff(ornt, volume.grid.shape)
    data = apply_orientation(data, ornt)
    data = data[..., 0] if data.shape[-1] == 1 else data[:, :, :, None, :]
    image = nib.Nifti1Image(data, affine)
    header = image.header
    code = _MNI_CODE if space == "mni" else _SCANNER_CODE
    image.set_qform(affine, code)
    image.set_sform(affine, code)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1.0, 0.0)
    header["descrip"] = description.encode("utf-8")[:79].decode("utf-8", "ignore").encode("utf-8")
    if data.ndim == 5:
        header.set_intent("vector", name="displacement")
    if intent is not None:
        header.set_intent(intent[0], intent[1])
    with atomic_path(path) as temporary:
        payload = image.to_bytes()
        if path.name.endswith(".gz"):
            # no time and no name, so that equal maps give equal bytes
            with temporary.open("wb") as raw, igzip.GzipFile("", "wb", 2, raw, mtime=0) as packed:
                packed.write(payload)
        else:
            temporary.write_bytes(payload)
