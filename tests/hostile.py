"""Small bad and odd images: each must give the right result or one clear line.

``BAD`` cases must raise a ScanError whose message matches; ``ODD`` cases must be read, and hold the values of
:func:`phantom` at the right places in mm (``tests/test_io.py``). Later tests send all of them through preprocess.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (12, 14, 10)
VOXEL_MM = (2.0, 1.5, 3.0)
AFFINE = np.array([[2.0, 0, 0, -11], [0, 1.5, 0, -9], [0, 0, 3.0, -14], [0, 0, 0, 1]])
LARGE_FOR_TRUNCATION = (40, 40, 40)


@dataclass(frozen=True)
class Case:
    """One file: its name, what writes it, and the error message it must give (none: it must be read)."""

    name: str
    write: Callable[[Path], Path]
    match: str | None = None


def phantom(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Whole numbers without symmetry, float32: any flip or permutation of axes changes the image."""
    return np.random.default_rng(0).integers(1, 1000, shape).astype(np.float32)


def oblique(affine: np.ndarray, degrees: float = 30.0) -> np.ndarray:
    """The affine turned about the x axis (a pitched head)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]]) @ affine


def nifti(data: np.ndarray, affine: np.ndarray | None = AFFINE, *, sform: int = 1, qform: int = 1) -> nib.Nifti1Image:
    """A NIfTI image with the codes given."""
    image = nib.Nifti1Image(data, affine)
    if affine is not None:
        image.set_sform(affine, sform)
        image.set_qform(affine, qform)
    return image


def _save(image: nib.Nifti1Image, path: Path) -> Path:
    nib.save(image, path)
    return path


def _saved(make: Callable[[], nib.Nifti1Image], suffix: str = ".nii.gz") -> Callable[[Path], Path]:
    """Write the image that `make` makes."""
    return lambda folder: _save(make(), folder / f"scan{suffix}")


def _cut(fraction: float, suffix: str = ".nii.gz") -> Callable[[Path], Path]:
    """The first part of a file."""

    def write(folder: Path) -> Path:
        path = _save(nifti(phantom(LARGE_FOR_TRUNCATION)), folder / f"scan{suffix}")
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * fraction)])
        return path

    return write


def _raw(content: bytes, name: str = "scan.nii.gz") -> Callable[[Path], Path]:
    """Any bytes."""

    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return write


def _header_claims(shape: tuple[int, int, int], suffix: str = ".nii.gz") -> Callable[[Path], Path]:
    """A header for a shape with the few data of the phantom behind it."""

    def write(folder: Path) -> Path:
        image = nifti(phantom())
        header = bytearray(image.to_bytes())
        header[42:48] = np.array(shape, "<i2").tobytes()  # dim[1..3]
        path = folder / f"scan{suffix}"
        path.write_bytes(gzip.compress(bytes(header)) if suffix.endswith("gz") else bytes(header))
        return path

    return write


def _edited(offset: int, value: np.ndarray, data: np.ndarray | None = None) -> Callable[[Path], Path]:
    """A sound uncompressed file with other bytes in its header."""

    def write(folder: Path) -> Path:
        content = bytearray(nifti(phantom() if data is None else data).to_bytes())
        content[offset : offset + value.nbytes] = value.tobytes()
        path = folder / "scan.nii"
        path.write_bytes(bytes(content))
        return path

    return write


def _flipped_bit(folder: Path) -> Path:
    path = _save(nifti(phantom(LARGE_FOR_TRUNCATION)), folder / "scan.nii.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the stored checksum: the data decode, but are not what was packed
    path.write_bytes(bytes(content))
    return path


def _gzip_bomb(folder: Path) -> Path:
    path = folder / "scan.nii.gz"
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(nifti(phantom()).to_bytes())
        for _ in range(64):
            stream.write(bytes(1 << 20))
    return path


def _rgb() -> nib.Nifti1Image:
    return nifti(np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


def _filled(value: float, where: tuple[slice, ...] = (slice(None),)) -> Callable[[], nib.Nifti1Image]:
    def make() -> nib.Nifti1Image:
        data = phantom()
        data[where] = value
        return nifti(data)

    return make


def _big_endian() -> nib.Nifti1Image:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    return nib.Nifti1Image(phantom().astype(">i2"), AFFINE, header)


def _forms_disagree() -> nib.Nifti1Image:
    image = nifti(phantom())
    wrong = AFFINE.copy()
    wrong[:3, 3] += 100
    image.set_qform(wrong, 1)
    return image


def _in_strange_folder(folder: Path) -> Path:
    place = folder / "Müller & Söhne (2) 脳"
    place.mkdir()
    return _save(nifti(phantom()), place / "scan é.nii.gz")


_MIDDLE = (slice(5, 7), slice(5, 7), slice(5, 7))
_FLOAT_NAN = np.array([np.nan], "<f4")
_INT16 = phantom().astype("<i2")

BAD = [
    *(
        Case(f"gzip cut at {fraction:.1%}", _cut(fraction), "expected a complete image|cannot be read")
        for fraction in (0.1, 0.5, 0.9, 0.999)
    ),
    Case("nii cut at 50 %", _cut(0.5, ".nii"), "expected a complete image"),
    Case("checksum differs", _flipped_bit, "expected a complete image"),
    Case("empty file", _raw(b""), "cannot be read"),
    Case("not gzip", _raw(b"this is no gzip file " * 100), "cannot be read"),
    Case("text named .nii", _raw(b"participant_id\tage\n" * 100, "scan.nii"), "cannot be read"),
    Case("gzip of nothing", _raw(gzip.compress(b"")), "cannot be read"),
    Case("gzip of text", _raw(gzip.compress(b"hello " * 200)), "cannot be read"),
    Case("gzip bomb", _gzip_bomb, "far more data"),
    Case("DICOM", _raw(bytes(128) + b"DICM", "scan.dcm"), "dcm2niix"),
    Case("header claims 32767³", _header_claims((32767, 32767, 32767)), "header claims"),
    Case("header claims 32767³, not packed", _header_claims((32767, 32767, 32767), ".nii"), "header claims"),
    Case("header claims 900³", _header_claims((900, 900, 900)), "more than a file of"),
    Case("header claims negative", _header_claims((-3, 14, 10), ".nii"), "3-D image|cannot be read|complete"),
    Case("2-D", _saved(lambda: nifti(phantom()[:, :, 0])), "expected a 3-D image"),
    Case("one slice", _saved(lambda: nifti(phantom()[:, :, :1])), "expected a 3-D image"),
    Case("4-D, two volumes", _saved(lambda: nifti(np.stack([phantom()] * 2, -1))), "one 3-D volume, got shape"),
    Case("RGB", _saved(_rgb), "one real number a voxel"),
    Case("complex", _saved(lambda: nifti(phantom().astype(np.complex64))), "one real number a voxel"),
    Case("affine NaN", _edited(280, np.full(12, np.nan, "<f4")), "invertible voxel-to-mm"),
    Case("affine singular", _edited(280, np.zeros(12, "<f4")), "invertible voxel-to-mm"),
    Case("intercept infinite", _edited(116, np.array([np.inf], "<f4"), _INT16), "cannot be read|complete"),
    Case("unknown data type", _edited(70, np.array([9999], "<i2")), "cannot be read"),
    Case("all NaN", _saved(_filled(np.nan)), "every value is 0|NaN or infinite"),
    Case("some NaN", _saved(_filled(np.nan, _MIDDLE)), "8 of 1680 values are NaN or infinite"),
    Case("some infinite", _saved(_filled(np.inf, _MIDDLE)), "8 of 1680 values are NaN or infinite"),
    Case("constant", _saved(_filled(7.0)), "every value is 7"),
    Case("empty image", _saved(_filled(0.0)), "every value is 0"),
]

ODD = [
    Case("plain", _saved(lambda: nifti(phantom()))),
    Case("not packed", _saved(lambda: nifti(phantom()), ".nii")),
    Case("mgz", lambda folder: _save(nib.MGHImage(phantom(), AFFINE), folder / "scan.mgz")),
    Case("hdr and img", _saved(lambda: nib.Nifti1Pair(phantom(), AFFINE), ".img")),
    Case("NIfTI-2", _saved(lambda: nib.Nifti2Image(phantom(), AFFINE), ".nii")),
    Case("4-D, one volume", _saved(lambda: nifti(phantom()[..., None]))),
    Case("5-D, one volume", _saved(lambda: nifti(phantom()[..., None, None]))),
    Case("big-endian", _saved(_big_endian)),
    Case("uint16", _saved(lambda: nifti(phantom().astype(np.uint16)))),
    Case("float64", _saved(lambda: nifti(phantom().astype(np.float64)))),
    Case("int16 slope 0", _edited(112, np.zeros(1, "<f4"), _INT16)),
    Case("int16 slope NaN", _edited(112, _FLOAT_NAN, _INT16)),
    Case("sform alone", _saved(lambda: nifti(phantom(), qform=0))),
    Case("qform alone", _saved(lambda: nifti(phantom(), sform=0))),
    Case("forms disagree", _saved(_forms_disagree)),
    Case("strange folder", _in_strange_folder),
]
