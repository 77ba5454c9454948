"""Carry images through the warps of finished scans: into the template, or from it into the scans.

An image is resampled once, from its own grid to that of the result. Intensities are interpolated; labels keep their
values; amounts (densities, such as tissue per mL) are multiplied by the determinant of the Jacobian, which keeps their
sum times the voxel volume, as in SPM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vbmstat import assets
from vbmstat.batch import derivatives
from vbmstat.batch.task import reason_of
from vbmstat.errors import ScanError, VbmstatError, listed
from vbmstat.files import naming
from vbmstat.files.lesion_masks import find_lesion_masks
from vbmstat.files.warps import ScanWarp
from vbmstat.image import deform, io
from vbmstat.image.grid import Grid, apply_affine, resample
from vbmstat.image.volume import Volume
from vbmstat.preproc.spec import PreprocSpec
from vbmstat.progress import OnProgress, ignore

DIRECTIONS = ("template", "scan")
LABELS, AMOUNT, INTENSITY = "labels", "amount", "intensity"
_LEAST_EQUAL = 0.5  # of neighbours inside the structures of a label image: an atlas has 0.7 and more, a T1w below 0.2
_LEAST_INSIDE = 0.01  # of the brain, or of the scan, in the image's field of view
_BRAIN_FROM = 0.5
_FAR = -1e6  # mm: outside any image
_NATIVE = r"(?:m|p\d|wmh_)"  # a folder's own images in the space of the scan
_FIELD = re.compile(r"^(?:y_|iy_|u_)(?P<stem>.+)\.nii(?:\.gz)?$")


@dataclass(frozen=True)
class Carried:
    """What became of the images."""

    written: tuple[Path, ...]  # images in the other space
    kinds: dict[Path, str]  # how each input was carried: ``intensity``, ``labels`` or ``amount``
    failures: tuple[str, ...]  # why an image could not be carried, a line each


def carry(  # noqa: PLR0913 - keywords of one command
    images: Sequence[str],
    of: Path,
    to: str = DIRECTIONS[0],
    *,
    kind: str | None = None,
    out: Path | None = None,
    voxel_size_mm: float = 1.5,
    report: OnProgress = ignore,
) -> Carried:
    """Carry images of scans into the template, or images of the template into scans.

    Parameters
    ----------
    images : sequence of str
        Files; or for many scans a path with ``{participant_id}``, ``{session_id}``, ``{scan_id}`` or ``{name}``.
    of : Path
        Folder of finished scans (of vbmstat, CAT12, SPM or T1Prep), one of a scan's files in it, or FOLDER/NAME.
    to : {"template", "scan"}
        Where to.
    kind : {"intensity", "labels", "amount"}, optional
        How; by default labels for whole numbers in patches, else intensities.
    out : Path, optional
        Folder of the results; by default ``warped`` in the folder of the scans.
    voxel_size_mm : {1, 1.5, 2}
        Voxels of results in template space.
    report : callable
        Called with (stage, done, total) after each image.

    Raises
    ------
    VbmstatError
        If no scan is found, or a path has an unknown placeholder.
    """
    if to not in DIRECTIONS:
        msg = f"expected --to {' or '.join(DIRECTIONS)}, got {to!r}"
        raise VbmstatError(msg)
    warps = find_warps(of)
    folder = out or (of if of.is_dir() else next(iter(warps.values())).paths["y"].parent.parent) / "warped"
    template = PreprocSpec(voxel_size_mm=voxel_size_mm).grid_of_maps(assets.template().grid)
    pairs, failures = _pairs(images, list(warps), to)
    written, kinds = list[Path](), dict[Path, str]()
    for done, (scan, path) in enumerate(pairs, 1):
        try:
            image = io.read_channels(path)
            kinds[path] = kind or (LABELS if is_labels(path, image) else INTENSITY)
            if to == DIRECTIONS[0]:
                points, grid = warps[scan].to_scan, template
                _check_inside(points, image, assets.template().data[:2].sum(0) > _BRAIN_FROM)
            else:
                points, grid = _points_of_scan(warps[scan])
                _check_inside(points, image)
            target = folder / f"{_name(path, scan, to, kinds[path])}.nii.gz"
            _write(target, _carried(image, points, grid, kinds[path]), kinds[path], to)
            written.append(target)
        except VbmstatError as error:
            failures.append(reason_of(error, scan))
        report("warping", done, len(pairs))
    return Carried(tuple(written), kinds, tuple(failures))


def find_warps(of: Path) -> dict[naming.Scan, ScanWarp]:
    """The warps of a folder's scans, or of one scan.

    Raises
    ------
    ScanError
        If there is none.
    """
    folder = of if of.is_dir() else of.parent
    found = dict(_warps_in(folder) or _warps_in(folder.parent if folder.name in ("mri", "report") else folder / "mri"))
    if not of.is_dir():
        above = next(filter(None, map(_warps_in, folder.parents[:3])), {})  # of a file under its BIDS name
        found = found or above
        found = {scan: warp for scan, warp in found.items() if of in warp.paths.values() or _is_name(of.name, scan)}
    if not found:
        msg = (
            f"{of}: no finished scan with a warp there; expected an output folder of preprocess, or a scan in one "
            "(--outputs minimal keeps no warps: preprocess with --outputs minimal,velocity)"
        )
        raise ScanError(msg)
    return found


def _warps_in(folder: Path) -> dict[naming.Scan, ScanWarp]:
    """By scan: those with a record of vbmstat, else those with a field."""
    found: dict[naming.Scan, ScanWarp] = {}
    for names in naming.NAME_STYLES:
        for scan, _ in derivatives.recorded_scans(folder, names):
            found[scan] = ScanWarp(naming.native_paths(naming.output_path(folder, scan, "mwp1", names)))
    for path in () if found else sorted(folder.glob("*.nii*")):
        match = _FIELD.match(path.name)
        if match:
            found.setdefault(naming.Scan.of_stem(match["stem"]), ScanWarp(naming.files_beside(path, match["stem"])))
    return {scan: warp for scan, warp in found.items() if warp.is_known}


def _is_name(name: str, scan: naming.Scan) -> bool:
    """Whether a file name, or an id, is a scan's."""
    ids = (scan.stem, scan.participant_id, naming.scan_id((scan.participant_id, scan.session_id)))
    return (
        name in ids
        or re.fullmatch(rf"(?:s[\d.]*)?\w{{0,8}}?{re.escape(scan.stem)}\.(nii(\.gz)?|json)", name) is not None
    )


def _pairs(
    images: Sequence[str], scans: list[naming.Scan], to: str
) -> tuple[list[tuple[naming.Scan, Path]], list[str]]:
    """Which image goes through which scan's warp, and images and scans without a partner."""
    pairs, failures = list[tuple[naming.Scan, Path]](), list[str]()
    for given in images:
        if "{" in given:
            found = find_lesion_masks(given, scans, "IMAGE")
            pairs += found.items()
            lacking = [scan.stem for scan in scans if scan not in found]
            failures += [f"{given}: no such image of {len(lacking)} scans: {listed(lacking)}"] if lacking else []
        elif not Path(given).is_file():
            failures.append(f"{given}: no such file")
        elif to == DIRECTIONS[1] or len(scans) == 1:
            pairs += [(scan, Path(given)) for scan in scans]
        else:
            stem = naming.image_stem(Path(given))
            ids = naming.split_ids(stem)
            own = [scan for scan in scans if (scan.participant_id, scan.session_id) == ids]
            own = own or [scan for scan in scans if re.fullmatch(_NATIVE + re.escape(scan.stem), stem)]
            pairs += [(own[0], Path(given))] if len(own) == 1 else []
            wanted = (
                f"expected the ids of one scan in its name, or a path with {{participant_id}} for {len(scans)} scans"
            )
            failures += (
                [] if len(own) == 1 else [f"{given}: {len(own)} scans have the ids {naming.scan_id(ids)}; {wanted}"]
            )
    return pairs, failures


def is_labels(path: Path, image: Volume) -> bool:
    """Whether an image is of labels: stored as whole numbers, most of whose neighbours inside structures are equal."""
    data = image.data[0]
    if not io.is_whole(path) or bool((data != data.round()).any()):
        return False
    inside = data[1:] != 0
    return bool((data[1:] == data[:-1])[inside].float().mean() > _LEAST_EQUAL) if inside.any() else False


def _points_of_scan(warp: ScanWarp) -> tuple[Volume, Grid]:
    """The template point of each voxel of a scan's own grid; far away where it is not known."""
    grid = warp.scan_grid or warp.box
    if grid is None:
        msg = f"{warp.paths['sidecar']}: the scan's own grid is not known; expected its record, or a tissue map (p1)"
        raise ScanError(msg)
    field = warp.to_template(grid)
    if field.grid.matches(grid):
        return Volume(field.data.nan_to_num(nan=_FAR), grid), grid
    known = torch.cat([field.data.nan_to_num(), torch.isfinite(field.data).all(0, keepdim=True).float()])
    data = resample(known, field.grid, grid)
    return Volume((data[:3] / data[3:].clamp(min=1e-3)).where(data[3:] > 0.5, _FAR), grid), grid


def _check_inside(points: Volume, image: Volume, brain: torch.Tensor | None = None) -> None:
    """Refuse an image whose field of view the points (of the brain, if given and on its grid) do not reach."""
    at = apply_affine(np.linalg.inv(image.grid.affine), points.data)
    last = torch.tensor(image.grid.shape).reshape(3, 1, 1, 1) - 0.5
    inside = ((at > -0.5) & (at < last)).all(0)
    where = brain if brain is not None and brain.shape == inside.shape else (points.data > _FAR).all(0)
    if float(inside[where].float().mean()) < _LEAST_INSIDE:
        centres = [
            float(value) for value in points.data[:, where].mean(1) - torch.tensor(image.grid.corners_mm[:3].mean(1))
        ]
        msg = (
            f"the image and the scan's head do not overlap: their centres are {np.linalg.norm(centres):.0f} mm apart; "
            "expected an image in the scan's own space (mm of the scanner), so coregister it first"
        )
        raise ScanError(msg)


def _carried(image: Volume, points: Volume, grid: Grid, kind: str) -> Volume:
    if kind == LABELS:
        return deform.pull_labels(image, points, grid)
    if kind == INTENSITY:
        return deform.pull(image, points, grid)
    known = Volume(image.data.nan_to_num(), image.grid)
    return Volume(deform.pull(known, points, grid, n_amounts=len(image.data)).data[len(image.data) :], grid)


def _name(path: Path, scan: naming.Scan, to: str, kind: str) -> str:
    """``wIMAGE`` with the scan's name if the image's own does not have its ids; ``mw`` for amounts, as of tissue."""
    stem = naming.image_stem(path)
    prefix = "mw" if kind == AMOUNT else "w"
    if to == DIRECTIONS[1]:
        return f"{prefix}{stem}_{scan.stem}"
    is_own = scan.participant_id in stem and scan.session_id in stem  # else the sessions of a person would share a file
    return f"{prefix}{stem}" if is_own else f"{prefix}{scan.stem}_{stem}"


def _write(path: Path, image: Volume, kind: str, to: str) -> None:
    dtype, space = "int32" if kind == LABELS else "float32", "mni" if to == DIRECTIONS[0] else "scanner"
    io.write_volume(path, image, dtype=dtype, space=space, step=1.0, description=f"vbmstat warp, {kind}")
