"""Small bad and odd images: each must give the right result or one clear line.

``BAD`` cases must raise a ScanError whose message matches; ``ODD`` cases must be read, and hold the values of
:func:`phantom` at the right places in mm (``tests/image/test_io.py``). ``benchmarks/hostile`` sends all of them through
``vbmstat preprocess``, with whole heads beside them.
"""

from __future__ import annotations

import bz2
import gzip
import os
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


Edit = tuple[int, np.ndarray]  # byte, and what is to stand from there on


def _changed(content: bytes, *edits: Edit) -> bytes:
    changed = bytearray(content)
    for at, value in edits:
        changed[at : at + value.nbytes] = value.tobytes()
    return bytes(changed)


def _edited(*edits: Edit, of: np.ndarray | None = None, suffix: str = ".nii") -> Callable[[Path], Path]:
    """A sound file with other bytes in its header."""
    content = _changed(nifti(phantom() if of is None else of).to_bytes(), *edits)
    return _raw(gzip.compress(content) if suffix.endswith("gz") else content, f"scan{suffix}")


def _edited_mgz(*edits: Edit) -> Callable[[Path], Path]:
    return _raw(gzip.compress(_changed(nib.MGHImage(phantom(), AFFINE).to_bytes(), *edits)), "scan.mgz")


def _f4(*values: float) -> np.ndarray:
    return np.array(values, "<f4")


def _i2(*values: int) -> np.ndarray:
    return np.array(values, "<i2")


def _i4(*values: int) -> np.ndarray:
    return np.array(values, "<i4")


def _i8(*values: int) -> np.ndarray:
    return np.array(values, "<i8")


def _nifti2_edited(*edits: Edit) -> Callable[[Path], Path]:
    return _raw(_changed(nib.Nifti2Image(phantom(), AFFINE).to_bytes(), *edits), "scan.nii")


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


def _named(name: str) -> Callable[[Path], Path]:
    """The plain file under another name."""
    return lambda folder: _save(nifti(phantom()), folder / "plain.nii.gz").rename(os.fsdecode(folder / name))


def _link_to(target: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "scan.nii.gz").symlink_to(target)
        return folder / "scan.nii.gz"

    return write


def _link_to_sound_file(folder: Path) -> Path:
    _save(nifti(phantom()), folder / "content.nii.gz")
    return _link_to("content.nii.gz")(folder)


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "scan.nii.gz")  # whoever opens it waits for ever
    return folder / "scan.nii.gz"


def _folder_named_as_image(folder: Path) -> Path:
    (folder / "scan.nii.gz").mkdir()
    return folder / "scan.nii.gz"


def _pair(lost: str = "", given: str = ".hdr") -> Callable[[Path], Path]:
    """Header and data in two files, one of them lost."""

    def write(folder: Path) -> Path:
        _save(nib.Nifti1Pair(phantom(), AFFINE), folder / "scan.img")
        if lost:
            (folder / f"scan{lost}").unlink()
        return folder / f"scan{given}"

    return write


def _bomb_in_extension(folder: Path) -> Path:
    """A header extension that claims 256 MB, and has them."""
    size = 256 << 20
    start = _changed(nifti(phantom()).to_bytes()[:352], (108, _f4(size + 352)), (348, np.uint8([1, 0, 0, 0])))
    with gzip.open(folder / "scan.nii.gz", "wb", compresslevel=9) as stream:
        stream.write(start + _i4(size, 6).tobytes())
        for _ in range(256):
            stream.write(bytes(1 << 20))
    return folder / "scan.nii.gz"


def _with_extension(claimed: int) -> Callable[[Path], Path]:
    """A header extension of 64 bytes that claims another size."""
    content = nifti(phantom()).to_bytes()
    head = _changed(content[:352], (108, _f4(416)), (348, np.uint8([1, 0, 0, 0])))
    return _raw(head + _i4(claimed, 6).tobytes() + bytes(56) + content[352:], "scan.nii")


_MIDDLE = (slice(5, 7), slice(5, 7), slice(5, 7))
_PLAIN = nifti(phantom()).to_bytes()
_INT16 = phantom().astype("<i2")

BAD = [
    *(
        Case(f"gzip cut at {fraction:.1%}", _cut(fraction), "expected a complete image|cannot be read")
        for fraction in (0.1, 0.5, 0.9, 0.999)
    ),
    Case("nii cut at 50 %", _cut(0.5, ".nii"), "expected a complete image"),
    Case("checksum differs", _flipped_bit, "expected a complete image"),
    Case("empty file", _raw(b""), r"empty \(0 bytes\)"),
    Case("not gzip", _raw(b"this is no gzip file " * 100), "cannot be read"),
    Case("text named .nii", _raw(b"participant_id\tage\n" * 100, "scan.nii"), "cannot be read"),
    Case("gzip of nothing", _raw(gzip.compress(b"")), "cannot be read"),
    Case("gzip of text", _raw(gzip.compress(b"hello " * 200)), "cannot be read"),
    Case("gzip bomb", _gzip_bomb, "far more data"),
    Case("gzip bomb in an extension", _bomb_in_extension, "the image at byte 2.68"),
    Case("gzipped twice", _raw(gzip.compress(gzip.compress(_PLAIN))), "gzipped twice; unpack it once"),
    Case("garbage after gzip", _raw(gzip.compress(_PLAIN) + b"garbage" * 100), "cannot be read|complete image"),
    Case("gzipped but named .nii", _raw(gzip.compress(_PLAIN), "scan.nii"), r"not say so; rename it to scan\.nii\.gz"),
    Case("not gzipped but named .gz", _raw(_PLAIN), r"not gzipped, though its name says so; rename it to scan\.nii$"),
    Case("bzip2 named .gz", _raw(bz2.compress(_PLAIN)), "cannot be read"),
    Case("web page named .gz", _raw(b"<!DOCTYPE html><title>log in</title>" * 20), "cannot be read"),
    Case("pointer of git-annex", _raw(b"/annex/objects/MD5E-s566--12.nii.gz\n"), r"pointer .* \(datalad get\)"),
    Case("pointer of git-lfs", _raw(b"version https://git-lfs.github.com/spec/v1\n"), r"pointer .* \(git lfs pull\)"),
    Case("link to nowhere", _link_to("../.git/annex/objects/none"), r"broken link; .* \(datalad get\)"),
    Case("link to itself", _link_to("scan.nii.gz"), "broken link"),
    Case("folder named .nii.gz", _folder_named_as_image, "a folder, not an image"),
    Case("pipe named .nii.gz", _pipe, "not a regular file"),
    Case("line break in the name", _named("sc\nan.nii.gz"), "without control characters, in UTF-8"),
    Case("name not in UTF-8", _named(os.fsdecode(b"sc\xffan.nii.gz")), "without control characters, in UTF-8"),
    Case("DICOM", _raw(bytes(128) + b"DICM", "scan.dcm"), "dcm2niix"),
    Case("header claims 32767³", _header_claims((32767, 32767, 32767)), "header gives"),
    Case("header claims 32767³, not packed", _header_claims((32767, 32767, 32767), ".nii"), "header gives"),
    Case("header claims 900³", _header_claims((900, 900, 900)), "within 2000 mm .* got one of 1800×1350×2700 mm"),
    Case("header claims 400³", _header_claims((400, 400, 400)), "more than a file of"),
    Case("header claims negative", _header_claims((-3, 14, 10), ".nii"), "3-D image|cannot be read|complete"),
    Case("header claims 10¹² cubed", _nifti2_edited((16, _i8(3, 10**12, 10**12, 10**12))), "header gives"),
    *(
        Case(f"dimensions {n}", _edited((40, _i2(n))), "expected a 3-D image|the image at byte")
        for n in (0, 1, 2, 8, 255, -1)
    ),
    Case("a dimension of 0", _edited((44, _i2(0))), "expected a 3-D image"),
    Case("4-D, no volume", _edited((40, _i2(4, 12, 14, 10, 0))), "one 3-D volume, got shape"),
    *(
        Case(
            f"image begins at byte {at:g}{suffix}",
            _edited((108, _f4(at)), suffix=suffix),
            "the image at byte|complete image",
        )
        for at in (0, 100, -16, 1e5, 1e9, 1e30, np.nan, np.inf)
        for suffix in (".nii", ".nii.gz")
    ),
    Case("2-D", _saved(lambda: nifti(phantom()[:, :, 0])), "expected a 3-D image"),
    Case("one slice", _saved(lambda: nifti(phantom()[:, :, :1])), "expected a 3-D image"),
    Case("4-D, two volumes", _saved(lambda: nifti(np.stack([phantom()] * 2, -1))), "one 3-D volume, got shape"),
    Case("RGB", _saved(_rgb), "one real number per voxel"),
    Case("complex", _saved(lambda: nifti(phantom().astype(np.complex64))), "one real number per voxel"),
    Case("affine NaN", _edited((280, _f4(*[np.nan] * 12))), "invertible voxel-to-mm"),
    Case("affine singular", _edited((280, _f4(*[0] * 12))), "invertible voxel-to-mm"),
    Case(
        "affine almost singular", _edited((280, _f4(2, 2, 2, 0, 2, 2, 2.1, 0, 2, 2.1, 2, 0))), "invertible voxel-to-mm"
    ),
    Case("affine 10³⁰", _edited((280, _f4(1e30, 0, 0, 0, 0, 1e30, 0, 0, 0, 0, 1e30, 0))), "invertible voxel-to-mm"),
    Case("origin off by 10²⁰ mm", _edited((292, _f4(1e20))), "invertible voxel-to-mm"),
    Case("origin off by 5 m", _edited((292, _f4(5000))), "within 2000 mm of the scanner's origin"),
    Case("qform NaN", _edited((252, _i2(1, 0)), (256, _f4(np.nan, np.nan, np.nan))), "invertible voxel-to-mm"),
    Case("qform no rotation", _edited((252, _i2(1, 0)), (256, _f4(5, 5, 5))), "cannot be read"),
    Case("form codes 77", _edited((252, _i2(77, 77))), "unknown qform and sform codes 77 and 77"),
    Case("form codes −1", _edited((252, _i2(-1, -1))), "unknown qform and sform codes -1 and -1"),
    Case("no form, voxel size 0", _edited((252, _i2(0, 0)), (80, _f4(0, 0, 0))), "gives no voxel size"),
    Case("no form, voxel size NaN", _edited((252, _i2(0, 0)), (80, _f4(2, np.nan, 3))), "gives no voxel size"),
    Case("intercept infinite", _edited((116, _f4(np.inf)), of=_INT16), "cannot be read|complete"),
    Case("slope 3 × 10³⁸", _edited((112, _f4(3e38)), of=_INT16), "values are NaN or infinite"),
    *(Case(f"data type {code}", _edited((70, _i2(code))), "cannot be read") for code in (0, 1, 1536, 9999, -4)),
    Case(
        "Analyze", lambda folder: _save(nib.AnalyzeImage(phantom(), AFFINE), folder / "scan.img"), "which side is left"
    ),
    Case("pair without header", _pair(".hdr", ".img"), "cannot be read"),
    Case("pair without data", _pair(".img", ".hdr"), "expected a complete image"),
    Case(
        "mgz cut", _raw(gzip.compress(nib.MGHImage(phantom(), AFFINE).to_bytes())[:200], "scan.mgz"), "cannot be read"
    ),
    Case("mgz claims 32767³", _edited_mgz((4, np.full(3, 32767, ">i4"))), "header gives"),
    Case("mgz claims negative", _edited_mgz((4, np.array([-12], ">i4"))), "cannot be read|expected a 3-D image"),
    Case("mgz of unknown type", _edited_mgz((20, np.array([99], ">i4"))), "cannot be read"),
    Case("mgz voxel size NaN", _edited_mgz((30, np.full(3, np.nan, ">f4"))), "invertible voxel-to-mm"),
    Case("mgz not gzipped", _raw(nib.MGHImage(phantom(), AFFINE).to_bytes(), "scan.mgz"), "cannot be read"),
    Case(
        "mgz, two volumes",
        _saved(lambda: nib.MGHImage(np.stack([phantom()] * 2, -1), AFFINE), ".mgz"),
        "one 3-D volume",
    ),
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
    Case("int16 slope 0", _edited((112, _f4(0)), of=_INT16)),
    Case("int16 slope NaN", _edited((112, _f4(np.nan)), of=_INT16)),
    Case("int16 slope infinite", _edited((112, _f4(np.inf)), of=_INT16)),  # NIfTI readers take it as none
    Case("sform alone", _saved(lambda: nifti(phantom(), qform=0))),
    Case("qform alone", _saved(lambda: nifti(phantom(), sform=0))),
    Case("forms disagree", _saved(_forms_disagree)),
    Case("strange folder", _in_strange_folder),
    Case("link to a sound file", _link_to_sound_file),
    Case("mgh", _saved(lambda: nib.MGHImage(phantom(), AFFINE), ".mgh")),
    Case("pair by its header", _pair()),
    Case("NIfTI-2, gzipped", _saved(lambda: nib.Nifti2Image(phantom(), AFFINE))),
    Case("NIfTI-2 pair", _saved(lambda: nib.Nifti2Pair(phantom(), AFFINE), ".img")),
    *(Case(f"sizeof_hdr {n}", _edited((0, _i4(n)))) for n in (0, 540, 10**9)),  # magic string and dimensions are right
    Case("negative voxel size beside an sform", _edited((80, _f4(-2, -1.5, -3)))),
    Case("voxel size 0 beside an sform", _edited((80, _f4(0, 0, 0)))),
    Case("qfac 0", _edited((76, _f4(0)), (252, _i2(1, 0)))),
    Case("wrong bits a voxel", _edited((72, _i2(8)))),
    *(Case(f"extension that claims {n} bytes", _with_extension(n)) for n in (0, -16, 32, 2**31 - 1)),
    Case("zeros after gzip", _raw(gzip.compress(_PLAIN) + bytes(512))),
    Case("gzip in two members", _raw(gzip.compress(_PLAIN[:3000]) + gzip.compress(_PLAIN[3000:]))),
    Case("bytes after the image", _raw(_PLAIN + b"garbage" * 100, "scan.nii")),
]
