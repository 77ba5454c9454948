"""Headers of image files as stored, checked before anything trusts them, and the bytes of their voxels.

Only this module and :mod:`vbmstat.image.io` use nibabel. Extensions of headers are left out, and their free text is
never copied.
"""

from __future__ import annotations

import logging
import math
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.arrayproxy import ArrayProxy
from nibabel.imageglobals import logger as nibabel_log
from nibabel.orientations import inv_ornt_aff, io_orientation
from nibabel.volumeutils import apply_read_scaling

from vbmstat.errors import ScanError
from vbmstat.image import headers
from vbmstat.image.grid import Grid
from vbmstat.image.headers import IMAGE_SUFFIXES

MAX_VOXELS = 1 << 30  # a 1024³ image; larger headers are damaged or hostile
_MAX_EXTENT_MM = 2000.0  # of any corner from the scanner's origin
_LARGEST_AFFINE = 1e6  # entry of a voxel-to-mm matrix
_LEAST_ORTHOGONALITY = 0.2  # volume of a voxel over that of a box with the same edge lengths
_NIFTI_HEADERS = {  # (version, header and data are two files) -> class
    (1, False): nib.Nifti1Header, (1, True): nib.nifti1.Nifti1PairHeader,
    (2, False): nib.Nifti2Header, (2, True): nib.nifti2.Nifti2PairHeader,
}  # fmt: skip
_MAX_DEFLATE_RATIO = 1032  # the best that gzip can do
_MAX_TRAILER_BYTES = 16 << 20
_MUTED = threading.local()


@dataclass(frozen=True)
class StoredImage:
    """An image file whose header is read and checked."""

    # the file, and that of the voxels (another one for .hdr)
    path: Path
    data_path: Path
    header: Any  # nibabel's
    shape: tuple[int, ...]  # as stored
    affine: np.ndarray  # (4, 4), float64: voxel index as stored to RAS+ mm

    @property
    def canonical_grid(self) -> Grid:
        """The grid in RAS+ order."""
        orientation = io_orientation(self.affine)
        order = np.argsort(orientation[:, 0])
        affine = self.affine @ inv_ornt_aff(orientation, self.shape[:3])
        return Grid(tuple(np.array(self.shape[:3])[order]), affine)

    def values(self) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
        """The voxels as stored, and a function that scales them (to float64, if at all): one real number each.

        Raises
        ------
        ScanError
            If they are truncated, damaged, complex or coloured.
        """
        try:
            with _quiet(), np.errstate(all="ignore"):
                proxy = ArrayProxy(_source(self), self.header)
                data = proxy.get_unscaled()
        except Exception as error:  # nibabel raises anything on damaged bytes
            msg = (
                f"{self.path}: expected a complete image of shape {self.shape}, but reading it failed "
                f"({_words(error)}); copy or convert the file again"
            )
            raise ScanError(msg) from error
        if data.dtype.fields is not None or np.iscomplexobj(data):
            what = f"expected one real number per voxel, got {data.dtype}"
            msg = f"{self.path}: {what}; export the magnitude, or convert it"
            raise ScanError(msg)
        return data, lambda part: np.asarray(apply_read_scaling(part, proxy.slope, proxy.inter))


def read_stored(path: Path | str) -> StoredImage:
    """Read and check the header of an image file.

    Raises
    ------
    ScanError
        If the path is no image file, or its header is damaged or no image of a head can have it.
    """
    path = Path(path)
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
    _check_geometry(stored)
    return stored


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


def _source(stored: StoredImage) -> Any:
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


def _parse(head: bytes, path: Path) -> StoredImage:
    """Parse a header from its first bytes."""
    if path.name.endswith((".mgz", ".mgh")):
        header: Any = nib.freesurfer.mghformat.MGHHeader.from_fileobj(BytesIO(head))
        affine = header.get_affine()
    else:
        version, is_pair = headers.nifti_version(head), path.suffix in (".img", ".hdr")
        if not version:
            msg = "no NIfTI header" + ("; Analyze files do not say which side is left" if is_pair else "")
            raise ValueError(msg)
        kind: Any = _NIFTI_HEADERS[version, is_pair]
        header = kind(head[: kind.template_dtype.itemsize])
        affine = header.get_best_affine()
    data_path = path.with_suffix(".img") if path.suffix == ".hdr" else path
    return StoredImage(path, data_path, header, tuple(int(n) for n in header.get_data_shape()), affine)


def _check_geometry(stored: StoredImage) -> None:
    """Refuse grids that no image of a head can have."""
    path, shape, affine = stored.path, stored.shape, stored.affine
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
    grid = Grid((shape[0], shape[1], shape[2]), affine)
    farthest = np.abs(grid.corners_mm[:3]).max()
    if farthest > _MAX_EXTENT_MM:
        size = "×".join(f"{extent:.4g}" for extent in shape[:3] * grid.voxel_size_mm)
        msg = (
            f"{path}: expected an image within {_MAX_EXTENT_MM:g} mm of the scanner's origin, got one of {size} mm "
            f"whose corner is {farthest:.4g} mm away; check the voxel size and the origin in the header"
        )
        raise ScanError(msg)


def _is_sound(affine: np.ndarray | None) -> bool:
    """Whether a voxel-to-mm matrix is finite and its axes span 3-D space."""
    if affine is None or not np.isfinite(affine).all() or np.abs(affine).max() > _LARGEST_AFFINE:
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(sizes.min() > 0 and abs(np.linalg.det(affine[:3, :3] / sizes)) > _LEAST_ORTHOGONALITY)
