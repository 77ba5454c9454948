"""Build a prior of tracts: reference people registered to the template by the white matter that their FA shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vbmstat import assets
from vbmstat.errors import ScanError
from vbmstat.image import deform, io
from vbmstat.image.grid import apply_affine, resample, sample
from vbmstat.image.volume import Volume
from vbmstat.metrics.accuracy import dice
from vbmstat.preproc.steps import linear, warp
from vbmstat.progress import OnProgress, ignore
from vbmstat.tracts.names import TRACTS
from vbmstat.tracts.prior import FWHM_MM, build_prior, write_prior
from vbmstat.tracts.references import check_grid, masks_folder, read_references

_FA_NONE, _FA_WM = 0.1, 0.3  # no white matter below, all white matter above
_FA_MOST = 1.25  # tensors with a negative eigenvalue reach sqrt(3/2)
_LEAST_DICE = 0.5  # of a person's masks with its white matter, and of that with the template's; sound ones have .73


def build_prior_folder(
    references: Sequence[Path], out: Path, fwhm_mm: float = FWHM_MM, report: OnProgress = ignore
) -> list[Path]:
    """Build a prior from reference folders and write it as a soft atlas.

    Parameters
    ----------
    references : sequence of Path
        Per person, a folder of TractSeg's masks with ``FA.nii.gz`` in it or beside it, near MNI space.
    out : Path
        Folder of ``tracts72.nii.gz`` and ``tracts72.tsv``.
    fwhm_mm : float
        Width of the Gaussian.
    report : callable
        Called with (stage, done, total) after each person.

    Raises
    ------
    ScanError
        If the width or a folder's masks or FA cannot be used, a folder is given twice, or masks and FA do not belong
        together or do not fit the template.
    """
    if not 0 <= fwhm_mm < np.inf:
        msg = f"fwhm: expected a width of 0 mm or more, got {fwhm_mm:g}"
        raise ScanError(msg)
    places = [masks_folder(folder).resolve() for folder in references]
    twice = [str(folder) for folder, place in zip(references, places, strict=True) if places.count(place) > 1]
    if twice:
        msg = f"{', '.join(twice)}: the same masks; give each person once"
        raise ScanError(msg)
    people = []
    for number, folder in enumerate(references, start=1):
        people.append(person_in_template(folder))
        report("reference people", number, len(references))
    return write_prior(build_prior(people, assets.template().channel(1), fwhm_mm), out)


def person_in_template(folder: Path) -> Volume:
    """Masks of a person on the template's grid, (72, X, Y, Z), 0 to 1."""
    masks, fa = read_references(folder), _read_fa(folder)
    check_grid(folder, masks.grid, fa.grid, "the FA map's")
    wm = Volume(((fa.data - _FA_NONE) / (_FA_WM - _FA_NONE)).clamp(0, 1), fa.grid)
    own = float(dice(masks.data.amax(0) > 0.5, wm.data[0] > 0.5))
    if own < _LEAST_DICE:
        msg = f"{folder}: Dice {own:.2f} of the masks with the white matter of their FA map; are they of one person?"
        raise ScanError(msg)
    points = _to_template(wm)
    at = apply_affine(np.linalg.inv(wm.grid.affine), points.data)
    template_wm = assets.template().data[1]
    fit = float(dice(sample(wm.data, at)[0] > 0.5, template_wm > 0.5))
    if fit < _LEAST_DICE:
        msg = f"{folder}: Dice {fit:.2f} of its white matter with the template's; expected FA near MNI space"
        raise ScanError(msg)
    data = torch.cat([sample(masks.data[row : row + 1], at) for row in range(len(TRACTS))])
    return Volume(data, points.grid)


def _to_template(wm: Volume) -> Volume:
    """Point (mm) of a person's white matter map at each voxel of the template, registered by that map alone."""
    template = _as_tissues(assets.template().channel(1))
    matrix = linear.refine_with_tissues(_as_tissues(wm), template, np.eye(4))
    aligned = Volume(resample(wm.data, wm.grid, template.grid, matrix), template.grid)
    velocity = warp.register(_as_tissues(aligned), template, finest=False)  # FA voxels are larger than 2 mm
    return deform.deformation(warp.displacement(velocity, template.grid), matrix)


def _as_tissues(wm: Volume) -> Volume:
    """GM (unknown, so none anywhere) and WM, as the registration takes them."""
    return Volume(torch.cat([torch.zeros_like(wm.data), wm.data]), wm.grid)


def _read_fa(folder: Path) -> Volume:
    paths = [place / f"FA.nii{suffix}" for place in (folder, folder.parent) for suffix in (".gz", "")]
    path = next((each for each in paths if each.is_file()), None)
    if path is None:
        msg = f"{paths[0]}: no such file, also not in {folder.parent}; the FA map registers the person to the template"
        raise ScanError(msg)
    fa = io.read_volume(path)
    most = float(fa.data.max())  # NaN if any value is
    if not (torch.isfinite(fa.data).all() and _FA_WM < most <= _FA_MOST):
        msg = (
            f"{path}: expected fractional anisotropy, finite values from 0 to 1 with some above {_FA_WM}, got {most:g}"
        )
        raise ScanError(msg)
    return fa
