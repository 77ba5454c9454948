"""Whole heads that are odd or bad, made from one simulated person, each with what must come of it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage

SAME, ALIKE, LIKE_STRIPPED = 0.999, 0.97, 0.90  # least correlation of the GM map with that of the plain scan
TOLD = "told"  # refused, or done with a warning in qc_warnings


@dataclass(frozen=True)
class Person:
    """A simulated scan in memory, RAS+."""

    data: np.ndarray  # (X, Y, Z), float32, WM about 600
    affine: np.ndarray  # (4, 4)
    fractions: np.ndarray  # (3, X, Y, Z): GM, WM, CSF


@dataclass(frozen=True)
class Head:
    """One file, and what must come of it: a least correlation with the plain scan's map, a message, or `TOLD`."""

    name: str
    write: Callable[[Person, Path], Path]
    expected: float | str
    millimetres: int = 2  # voxel size of the person it is made of


def read_person(folder: Path) -> Person:
    """The person of a folder written by ``vbmstat simulate --maps``."""
    image = nib.load(folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    truth = folder / "derivatives" / "truth" / "sub-01" / "anat"
    maps = [nib.load(truth / f"sub-01_label-{tissue}_probseg.nii.gz").get_fdata() for tissue in ("GM", "WM", "CSF")]
    return Person(image.get_fdata(dtype=np.float32), image.affine, np.stack(maps).astype(np.float32))


def _image(data: np.ndarray, affine: np.ndarray, sform: int = 1, qform: int = 1) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    return image


def _saved(make: Callable[[Person], object], name: str = "scan.nii.gz") -> Callable[[Person, Path], Path]:
    def write(person: Person, folder: Path) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(make(person), path)
        return path

    return write


def _values(change: Callable[[np.ndarray, Person], np.ndarray]) -> Callable[[Person, Path], Path]:
    """Other intensities, same grid."""
    return _saved(lambda person: _image(change(person.data.copy(), person).astype(np.float32), person.affine))


def _affine(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Person, Path], Path]:
    """Another voxel-to-mm matrix, same values."""
    return _saved(lambda person: _image(person.data, change(person.affine.copy())))


def _typed(dtype: str, slope: float | None = None, intercept: float = 0.0) -> Callable[[Person], nib.Nifti1Image]:
    """Stored as another type; with a slope the values on the disk are scaled."""

    def make(person: Person) -> nib.Nifti1Image:
        stored = np.rint((person.data - intercept) / (slope or 1.0)).astype(dtype)
        header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
        header.set_data_dtype(dtype)
        image = nib.Nifti1Image(stored, person.affine, header)
        if slope is not None:
            image.header.set_slope_inter(slope, intercept)
        return image

    return make


def _raw_slope(value: float) -> Callable[[Person, Path], Path]:
    def write(person: Person, folder: Path) -> Path:
        content = bytearray(_typed("<i2")(person).to_bytes())
        content[112:116] = np.array([value], "<f4").tobytes()
        (folder / "scan.nii.gz").write_bytes(gzip.compress(bytes(content), 1))
        return folder / "scan.nii.gz"

    return write


def _stored_as(axcodes: str) -> Callable[[Person], nib.Nifti1Image]:
    def make(person: Person) -> nib.Nifti1Image:
        change = ornt_transform(io_orientation(person.affine), axcodes2ornt(axcodes))
        affine = person.affine @ inv_ornt_aff(change, person.data.shape)
        return _image(np.ascontiguousarray(apply_orientation(person.data, change)), affine)

    return make


def _turned(degrees: float, axis: int) -> Callable[[np.ndarray], np.ndarray]:
    """The head turned about an axis through the image's origin in mm: its values stay, its matrix turns."""
    a, b = (other for other in range(3) if other != axis)
    turn = np.eye(4)
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
    return lambda affine: turn @ affine


def _scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda affine: affine @ np.diag([factor, factor, factor, 1.0])


def _moved(mm: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(affine: np.ndarray) -> np.ndarray:
        affine[:3, 3] += mm
        return affine

    return change


def _resampled(voxel_mm: tuple[float, float, float], size: int = 0) -> Callable[[Person], nib.Nifti1Image]:
    """Averaged over, or interpolated to, other voxels; in a cube of `size` voxels if that is given."""

    def make(person: Person) -> nib.Nifti1Image:
        old = np.linalg.norm(person.affine[:3, :3], axis=0)
        factor = np.array(voxel_mm) / old
        shape = np.full(3, size) if size else np.round(np.array(person.data.shape) / factor).astype(int)
        smooth = ndimage.gaussian_filter(person.data, np.sqrt(np.maximum(factor**2 - 1, 0)) / 2.355)
        centre = (np.array(person.data.shape) - 1) / 2
        start = centre - factor * (shape - 1) / 2
        data = ndimage.affine_transform(smooth, factor, start, tuple(shape), order=1, output=np.float32)
        affine = person.affine @ np.vstack([np.c_[np.diag(factor), start], [0, 0, 0, 1]])
        return _image(data.astype(np.int16), affine)

    return make


def _contrast(gm: float, wm: float, csf: float) -> Callable[[Person], nib.Nifti1Image]:
    """The brain in another contrast, the rest of the head as it is."""

    def make(person: Person) -> nib.Nifti1Image:
        rng = np.random.default_rng(0)
        inside = person.fractions.sum(0)
        brain = np.tensordot([gm, wm, csf], person.fractions, 1)
        data = person.data * (1 - inside) + brain + 15 * rng.standard_normal(inside.shape)
        return _image(data.clip(0).astype(np.float32), person.affine)

    return make


def _object(kind: str) -> Callable[[Person], nib.Nifti1Image]:
    """No head: a ball of oil, noise, stripes, a bottle with an air bubble."""

    def make(person: Person) -> nib.Nifti1Image:
        rng = np.random.default_rng(0)
        where = np.indices(person.data.shape, dtype=np.float32)
        from_centre = where - np.array(person.data.shape, np.float32)[:, None, None, None] / 2
        radius = np.sqrt((from_centre**2).sum(0))
        size = min(person.data.shape)
        images = {
            "ball": 500.0 * (radius < 0.4 * size),
            "shells": 300.0 * (radius < 0.42 * size) + 300.0 * (radius < 0.3 * size),
            "noise": np.zeros(person.data.shape),
            "stripes": 300 + 300 * np.sin(where[0] / 4),
        }
        data = np.hypot(images[kind] + 20 * rng.standard_normal(radius.shape), 20 * rng.standard_normal(radius.shape))
        return _image(data.astype(np.float32), person.affine)

    return make


def _stripped(data: np.ndarray, person: Person) -> np.ndarray:
    return data * (person.fractions.sum(0) > 0.5)


def _defaced(data: np.ndarray, person: Person) -> np.ndarray:
    """Air in front of and below a plane that leaves the brain alone."""
    mm = np.einsum("ij,jxyz->ixyz", person.affine[:3, :3], np.indices(data.shape))
    mm += person.affine[:3, 3, None, None, None]
    brain = person.fractions.sum(0) > 0.1
    level = 0.7 * mm[1] - 0.7 * mm[2]
    data[level > level[brain].max() + 3] = 0
    return data


def _nan_outside(data: np.ndarray, _: Person) -> np.ndarray:
    inside = np.zeros(data.shape, bool)
    inside[2:-2, 2:-2, 2:-2] = True
    return np.where(inside, data, np.nan)


def _spikes(data: np.ndarray, _: Person) -> np.ndarray:
    rng = np.random.default_rng(0)
    data[rng.random(data.shape) < 1e-5] = 1e6
    return data


def _without(part: tuple[slice, ...]) -> Callable[[np.ndarray, Person], np.ndarray]:
    def change(data: np.ndarray, _: Person) -> np.ndarray:
        data[part] = 0
        return data

    return change


def _padded(person: Person) -> nib.Nifti1Image:
    affine = person.affine.copy()
    affine[:3, 3] -= person.affine[:3, :3] @ np.full(3, 40)
    return _image(np.pad(person.data, 40), affine)


def _forms_disagree(person: Person) -> nib.Nifti1Image:
    image = _image(person.data, person.affine)
    image.set_qform(_turned(90, 0)(_moved(100)(person.affine.copy())), 1)
    return image


def _plain(name: str = "scan.nii.gz") -> Callable[[Person, Path], Path]:
    return _saved(lambda person: _image(person.data, person.affine), name)


_all = slice(None)
_NO_BRAIN = r"no brain|does not fit|T1w contrast|field of view|brain"

HEADS = [
    Head("plain", _plain(), SAME),
    Head("not gzipped", _plain("scan.nii"), SAME),
    Head("mgz", _saved(lambda p: nib.MGHImage(p.data, p.affine), "scan.mgz"), SAME),
    Head("hdr and img", _saved(lambda p: nib.Nifti1Pair(p.data, p.affine), "scan.img"), SAME),
    Head("NIfTI-2", _saved(lambda p: nib.Nifti2Image(p.data, p.affine)), SAME),
    Head("4-D with one volume", _saved(lambda p: _image(p.data[..., None], p.affine)), SAME),
    Head("4-D with two volumes", _saved(lambda p: _image(np.stack([p.data] * 2, -1), p.affine)), "one 3-D volume"),
    Head("big-endian int16", _saved(_typed(">i2")), SAME),
    Head("uint8 with slope and intercept", _saved(_typed("u1", 4.5, 7.0)), ALIKE),
    Head("int16 slope 0", _raw_slope(0.0), SAME),
    Head("int16 slope NaN", _raw_slope(np.nan), SAME),
    Head("int16 slope −1", _raw_slope(-1.0), TOLD),
    Head("slope 10⁻⁴⁴", _raw_slope(1e-44), SAME),
    Head("values × 10³⁰", _values(lambda d, _: d * 1e30), SAME),
    Head("values × 10⁻³⁰", _values(lambda d, _: d * 1e-30), SAME),
    Head("values − 1024", _values(lambda d, _: d - 1024), "negative"),
    Head("spikes of 10⁶", _values(_spikes), ALIKE),
    Head("NaN outside the field of view", _values(_nan_outside), SAME),
    Head("qform and sform codes 0, 0", _saved(lambda p: _image(p.data[::-1], p.affine, 0, 0)), ALIKE),
    Head("qform and sform codes 1, 0", _saved(lambda p: _image(p.data, p.affine, 0, 1)), SAME),
    Head("qform and sform codes 0, 2", _saved(lambda p: _image(p.data, p.affine, 2, 0)), SAME),
    Head("qform and sform disagree", _saved(_forms_disagree), SAME),
    *(Head(f"stored as {order}", _saved(_stored_as(order)), SAME) for order in ("LPI", "PSR")),
    Head("oblique by 30°", _affine(_turned(30, 0)), ALIKE),
    Head("turned by 90° in the header: lies on its back", _affine(_turned(90, 0)), ALIKE),
    Head("turned by 180° in the header: upside down", _affine(_turned(180, 1)), TOLD),
    Head("origin off by 1 m", _affine(_moved(1000)), SAME),
    Head("voxels of 0.1 mm in the header", _affine(_scaled(0.05)), "field of view|check the voxel size"),
    Head("voxels of 20 mm in the header", _affine(_scaled(10)), "field of view|check the voxel size"),
    Head("voxels 30 % too large in the header", _affine(_scaled(1.3)), TOLD),
    Head("1 × 1 × 5 mm", _saved(_resampled((1.0, 1.0, 5.0))), LIKE_STRIPPED, 1),
    Head("4 mm", _saved(_resampled((4.0, 4.0, 4.0))), TOLD),
    Head("0.5 mm, 512³", _saved(_resampled((0.5, 0.5, 0.5), 512)), ALIKE, 1),
    Head("40 voxels of air around", _saved(_padded), SAME),
    Head("came stripped", _values(_stripped), LIKE_STRIPPED),
    Head("defaced", _values(_defaced), ALIKE),
    Head("top of the head cut off", _values(_without((_all, _all, slice(-28, None)))), TOLD),
    Head("half a head", _values(_without((slice(None, 45),))), TOLD),
    Head("FLAIR named T1w", _saved(_contrast(400.0, 300.0, 60.0)), TOLD),
    Head("T2w named T1w", _saved(_contrast(400.0, 250.0, 900.0)), TOLD),
    Head("no contrast in the brain", _saved(_contrast(400.0, 400.0, 400.0)), TOLD),
    Head("phantom: a ball", _saved(_object("ball")), _NO_BRAIN),
    Head("phantom: shells", _saved(_object("shells")), TOLD),
    Head("phantom: stripes", _saved(_object("stripes")), _NO_BRAIN),
    Head("noise alone", _saved(_object("noise")), _NO_BRAIN),
    Head("unicode and spaces in the path", _plain("Müller (2) 脳/sc an é.nii.gz"), SAME),
    Head("name of 200 letters", _plain("s" * 200 + ".nii.gz"), SAME),
    Head("name of 250 letters", _plain("s" * 243 + ".nii.gz"), r"names of \d+ bytes"),
    Head("name that begins with a hyphen", _plain("-rf.nii.gz"), SAME),
]
