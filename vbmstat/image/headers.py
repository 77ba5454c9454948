"""File suffixes of images, and checks of a file's first bytes before nibabel trusts its header."""

from __future__ import annotations

import struct

import numpy as np

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SCAN_SUFFIXES = (*NIFTI_SUFFIXES, ".mgz")
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh", ".img", ".hdr")  # all that can be read
HEAD_BYTES = 544  # the largest header, NIfTI-2 with the flag for extensions
_GZIP = b"\x1f\x8b"
_MAX_DATA_OFFSET = 16 << 20  # bytes of header and extensions before the image
_FORM_CODES = range(6)
# Field -> byte offset, type, count; a table for each version
_NIFTI1 = {"vox_offset": (108, "f4", 1), "pixdim": (80, "f4", 3), "codes": (252, "i2", 2)}
_NIFTI2 = {"vox_offset": (168, "i8", 1), "pixdim": (112, "f8", 3), "codes": (344, "i4", 2)}
_POINTERS = {  # first bytes of files whose content is elsewhere -> command that fetches it
    b"/annex/objects/": "datalad get", b"../": "datalad get", b".git/annex/": "datalad get",
    b"version https://git-lfs": "git lfs pull",
}  # fmt: skip


def nifti_version(head: bytes) -> int:
    """NIfTI version, 1 or 2, from the header's magic string (single file or pair); 0 if it is not NIfTI."""
    if head[344:347] in (b"n+1", b"ni1"):
        return 1
    return 2 if head[4:7] in (b"n+2", b"ni2") else 0


def wrong_packing(raw: bytes, name: str) -> str:
    """Problem with a file's compression, from its first bytes on disk; empty if there is none.

    Examples
    --------
    >>> wrong_packing(b"version https://git-lfs.github.com/spec/v1", "scan.nii.gz")
    'only a pointer to the image; fetch its content (git lfs pull)'
    """
    if not raw:
        return "empty (0 bytes); copy it again"
    for start, command in _POINTERS.items():
        if raw.startswith(start):
            return f"only a pointer to the image; fetch its content ({command})"
    is_packed, named_packed = raw.startswith(_GZIP), name.endswith((".gz", ".mgz"))
    if is_packed and not named_packed:
        return f"gzipped, but its name does not say so; rename it to {name}.gz"
    if nifti_version(raw) and named_packed:
        return f"not gzipped, though its name says so; rename it to {name.removesuffix('.gz')}"
    return ""


def wrong_header(head: bytes) -> str:
    """Problem with an image's uncompressed header; empty if there is none.

    Checks the fields that nibabel would repair by guessing, and sizes that would make it read endlessly.
    """
    if head.startswith(_GZIP):
        return "it is gzipped twice; unpack it once (gunzip)"
    version = nifti_version(head)
    if not version:
        return ""
    order = "<" if _is_little_endian(head, version) else ">"
    fields = {
        name: np.frombuffer(head, order + kind, count, at)
        for name, (at, kind, count) in (_NIFTI1 if version == 1 else _NIFTI2).items()
    }
    offset = float(fields["vox_offset"][0])
    is_single = b"n+" in (head[344:346], head[4:6])
    if is_single and not (352 if version == 1 else HEAD_BYTES) <= offset <= _MAX_DATA_OFFSET:
        return f"the header puts the image at byte {offset:g}; repair its vox_offset"
    qform, sform = (int(code) for code in fields["codes"])
    if qform not in _FORM_CODES or sform not in _FORM_CODES:
        return f"the header has the unknown qform and sform codes {qform} and {sform}, expected 0 to 5; repair it"
    if qform == sform == 0 and not (np.abs(fields["pixdim"]) > 0).all():
        return "the header gives no voxel size and no voxel-to-mm matrix; convert the scan again"
    return ""


def _is_little_endian(head: bytes, version: int) -> bool:
    """Byte order, from the number of dimensions, which must be 1 to 7."""
    (n_dimensions,) = struct.unpack_from(*(("<h", head, 40) if version == 1 else ("<q", head, 16)))
    return 0 <= int(n_dimensions) <= 7
