"""Quality of one scan and of its preprocessing: measures that a user can act on. Scans are flagged, never dropped.

Noise, bias, contrast and resolution are rated as in CAT12 (Gaser et al. 2024, doi:10.1093/gigascience/giae049) and on
its scale: marks from 0.5 (best) to 10.5, ratings of ``105 - 10 mark`` percent, and letters from A+ to F (below 50 %).
The measures and the calibration of marks are this project's own: a rating is not exactly CAT12's IQR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from vbmstat.image.grid import resample
from vbmstat.image.volume import Volume

_PURE = 0.95  # fraction from which a voxel counts as one tissue
_WINDOW_MM = 5.0  # noise is the variation within this width of white matter
_LEAST_NEIGHBOURS = 9
_MAD_TO_SIGMA = 1.4826
_TEMPLATE_NONE = 0.02  # a tissue is not expected at a voxel where the template has less of it

# The values with the best mark, 0.5, and with mark 5.0 (55 %, grade E); linear between and beyond.
_BEST_MARK, _POOR_MARK, _WORST_MARK = 0.5, 5.0, 10.5
_SCALES = {
    # 1, 3, 5, 9 % noise (BrainWeb's percentages) measure 0.05, 0.11, 0.17, 0.30 on heads of `simulate.render_t1w`
    "noise": ("noise_to_contrast", 0.0, 0.32),
    # fields of 40 and 80 % measure 30 and 58 there; scans of ds000011 and ds002748 33 to 63
    "bias": ("bias_percent", 0.0, 150.0),
    # MPRAGE at 1.5 and 3 T has 25 to 40; nothing is segmented well below 10
    "contrast": ("contrast_percent", 35.0, 10.0),
    # half the cortex's thickness of 2.5 mm is 1.25
    "resolution": ("resolution_mm", 0.5, 2.5),
}
_IN_IMAGE_RATING = ("noise", "bias", "resolution")  # as in CAT12's IQR; noise is already relative to contrast
_IMAGE_EXPONENT = 4  # of the power mean of marks, so that good aspects do not offset a bad one
_BRAIN_RADIUS_MM = 80.0
_BRIGHT = 1.3  # times WM: .001 to .18 % of the brain in ordinary scans, .6 in a tumour, 1.3 after contrast agent
_GRADES = "ABCDE"  # 10 % each, from 100 % down; F below


@dataclass(frozen=True)
class ImageQuality:
    """Quality measures of a scan as acquired, before denoising and correction.

    Attributes
    ----------
    noise_percent : float
        Standard deviation of the noise in white matter, percent of the WM median.
    noise_to_contrast : float
        The same noise over the smaller of the WM-GM and GM-CSF differences (after CAT12's NCR).
    bias_percent : float
        Range of the bias field over the brain (5th to 95th percentile), percent.
    contrast_percent : float
        (WM - GM) / WM after bias correction, percent.
    resolution_mm : float
        Root mean square of the voxel edges (CAT12's RES).
    cut_cm2 : float
        Largest area of the brain in its outermost slices with signal (six sides), less that of a round brain in a slice
        of this thickness.
    bright_percent : float
        Share of the brain that is at least 1.3 times as bright as white matter, and four standard deviations of the
        noise brighter: vessels and dura after contrast agent, blood, hot spots of the field.
    clipped_percent : float
        Share of the brain that has its highest value exactly: intensities that were cut off when the scan was exported.
    """

    noise_percent: float
    noise_to_contrast: float
    bias_percent: float
    contrast_percent: float
    resolution_mm: float
    cut_cm2: float
    bright_percent: float
    clipped_percent: float

    def ratings(self) -> dict[str, float]:
        """Percent ratings (100 best, 0 worst) of noise, bias, contrast, resolution, and of the image as a whole.

        Examples
        --------
        >>> ImageQuality(3.0, 0.10, 40.0, 30.0, 1.0, 0.0, 0.0, 0.0).ratings()["image"]
        87.4
        """
        marks = {name: _mark(getattr(self, figure), best, poor) for name, (figure, best, poor) in _SCALES.items()}
        powers = [marks[name] ** _IMAGE_EXPONENT for name in _IN_IMAGE_RATING]
        marks["image"] = (sum(powers) / len(powers)) ** (1 / _IMAGE_EXPONENT)
        return {name: round(105 - 10 * mark, 1) for name, mark in marks.items()}


def grade(rating: float) -> str:
    """Letter of a percent rating.

    Examples
    --------
    >>> [grade(rating) for rating in (99.0, 95.0, 88.0, 85.0, 81.0, 55.0, 49.0)]
    ['A+', 'A', 'B+', 'B', 'B-', 'E', 'F']
    """
    step = int((100 - rating) // 10)
    if step >= len(_GRADES):
        return "F"
    within = 100 - 10 * step - rating  # 0 to 10 within the letter
    return _GRADES[step] + ("+" if within < 10 / 3 else "-" if within > 20 / 3 else "")


def _mark(figure: float, best: float, poor: float) -> float:
    mark = _BEST_MARK + (_POOR_MARK - _BEST_MARK) * (figure - best) / (poor - best)
    return min(max(mark, _BEST_MARK), _WORST_MARK)


@dataclass(frozen=True)
class Quality(ImageQuality):
    """Quality measures of a scan and its preprocessing; each is a column ``qc_NAME`` of cohort.tsv.

    Attributes
    ----------
    template_correlation : float
        Correlation of the warped GM with the template's over voxels where either exceeds 0.1.
    template_overlap : float
        Dice of the brain tissue (GM + WM above one half) with the template's.
    jacobian_min, jacobian_max : float
        Range of the warp's Jacobian determinant (without the linear part).
    affine_scale : float
        Cube root of the linear matrix's volume change: scan size over template size.
    gm_outside_percent : float
        Share of the warped GM where the template has less than 2 % GM and WM.
    implausible_percent : float
        Share of the warped GM and WM where the template has less than 2 % of that tissue: meninges and marrow segmented
        as brain, white-matter lesions segmented as grey matter, a failed warp.
    """

    template_correlation: float
    template_overlap: float
    jacobian_min: float
    jacobian_max: float
    affine_scale: float
    gm_outside_percent: float
    implausible_percent: float

    def warnings(self) -> list[str]:
        """Measures outside the range of usable scans, and what to check."""
        return [text.format(**self.__dict__) for is_bad, text in _WARNINGS if is_bad(self)]

    def columns(self) -> dict[str, float | str]:
        """The measures as ``{"qc_noise_percent": ...}``, the ratings, and the grade of the image."""
        measures = {f"qc_{field.name}": round(float(getattr(self, field.name)), 4) for field in fields(self)}
        ratings = self.ratings()
        return {
            **measures,
            **{f"qc_{name}_rating": rating for name, rating in ratings.items()},
            "qc_image_grade": grade(ratings["image"]),
        }


# Thresholds well outside the range of usable scans of four datasets and of rendered heads
_WARNINGS: tuple[tuple[Callable[[Quality], bool], str], ...] = (
    (lambda q: q.ratings()["noise"] < 55,
     "strong noise ({noise_percent:.1f} % of WM): check for motion; tissue borders are uncertain"),
    (lambda q: q.bias_percent > 110, "strong bias field ({bias_percent:.0f} %): check for cortex lost in dark regions"),
    (lambda q: q.contrast_percent < 15,
     "low GM/WM contrast ({contrast_percent:.0f} %): check that the scan is T1-weighted, without contrast agent"),
    (lambda q: q.resolution_mm > 2,
     "coarse voxels ({resolution_mm:.1f} mm): thin cortex is lost; compare only with scans of the same protocol"),
    (lambda q: q.cut_cm2 > 10,
     "the brain ends in a flat face of {cut_cm2:.0f} cm2: check whether the field of view cuts it off"),
    (lambda q: q.bright_percent > 0.5,
     "{bright_percent:.1f} % of the brain is far brighter than WM: contrast agent, bleeding or tumour? Compare such "
     "scans with one another only"),
    (lambda q: q.clipped_percent > 1,
     "{clipped_percent:.0f} % of the brain has one value, the highest: bright tissue was cut off; convert the scan "
     "again without an intensity window"),
    (lambda q: q.template_correlation < 0.55,
     "poor match with the template (r = {template_correlation:.2f}): check orientation and brain mask"),
    (lambda q: q.template_overlap < 0.85,
     "brain and template overlap poorly (Dice {template_overlap:.2f}): check the brain mask"),
    (lambda q: q.jacobian_min <= 0, "the warp folds: do not use the modulated maps"),
    (lambda q: q.jacobian_max > 15,
     "the warp stretches a part {jacobian_max:.0f}-fold: check for lesions and large ventricles"),
    (lambda q: not 0.7 < q.affine_scale < 1.2,
     "the brain is {affine_scale:.2f} times the template's size: check the voxel size in the header"),
    (lambda q: q.gm_outside_percent > 3,
     "{gm_outside_percent:.1f} % of GM outside the template's brain: check for meninges or eyes in the brain mask"),
    (lambda q: q.implausible_percent > 5,
     "{implausible_percent:.1f} % of GM and WM where the template has none: check the tissue outlines"),
)  # fmt: skip


def measure_image(t1w: Volume, tissues: Volume, bias: Volume) -> ImageQuality:
    """Measure the quality of a scan as acquired, given its tissues.

    Parameters
    ----------
    t1w : Volume
        The scan, neither denoised nor bias-corrected, on its own grid; a box around the brain is enough.
    tissues : Volume
        GM, WM, CSF fractions, on any grid.
    bias : Volume
        Multiplicative bias field, on the same grid as the tissues.

    Notes
    -----
    Noise is the variation around the mean of a 5 mm window in pure white matter (median absolute deviation). This
    program's denoising does not lower it, and it includes noise that the scanner's interpolation has spread over two or
    three voxels, which differences of neighbours (`denoise.noise_sigma`) miss.
    """
    fractions, field = _on_grid(tissues, t1w), _on_grid(bias, t1w)[0].clamp(min=0.05)
    image = t1w.data[0] / field
    pure = [fraction >= min(_PURE, float(fraction.max())) for fraction in fractions]
    gm, wm, csf = (float(image[where].median()) for where in pure)
    sigma = _noise(image, field, pure[1], t1w.grid.voxel_size_mm)
    brain = fractions.sum(0) > 0.5
    inside = field[brain]
    low, high = (float(q) for q in np.percentile(inside[:: max(1, len(inside) // 500_000)].cpu().numpy(), [5, 95]))
    return ImageQuality(
        noise_percent=100 * sigma / wm,
        noise_to_contrast=sigma / max(min(wm - gm, gm - csf), 1e-6),
        bias_percent=100 * (high - low),
        contrast_percent=100 * (wm - gm) / wm,
        resolution_mm=float(np.sqrt((t1w.grid.voxel_size_mm**2).mean())),
        cut_cm2=_cut_mm2(brain & (t1w.data[0] > t1w.data.min()), t1w.grid.voxel_size_mm) / 100,
        bright_percent=100 * float((image[brain] > max(_BRIGHT * wm, wm + 4 * sigma)).float().mean()),
        clipped_percent=100 * float((t1w.data[0][brain] == t1w.data[0][brain].max()).float().mean()),
    )


def _cut_mm2(brain: torch.Tensor, voxel_size_mm: np.ndarray) -> float:
    """Area of a brain's flat end beyond that of a sphere, 2 pi r h in its outermost slice of thickness h, mm²."""
    excess = [0.0]
    for axis, thickness in enumerate(voxel_size_mm):
        other = tuple(a for a in range(3) if a != axis)
        area = brain.sum(other).cpu().numpy() * float(np.prod(voxel_size_mm[list(other)]))
        occupied = np.nonzero(area)[0]
        if len(occupied):
            excess += [float(area[end]) - 2 * np.pi * _BRAIN_RADIUS_MM * thickness for end in occupied[[0, -1]]]
    return max(excess)


def _on_grid(volume: Volume, image: Volume) -> torch.Tensor:
    if volume.grid.matches(image.grid):
        return volume.data
    return resample(volume.data, volume.grid, image.grid, padding_mode="border")


def _noise(image: torch.Tensor, field: torch.Tensor, where: torch.Tensor, voxel_size_mm: np.ndarray) -> float:
    """Standard deviation of the image, with its bias, around the local mean in a mask."""
    inside = where.to(image.dtype)
    radius = [round(_WINDOW_MM / 2 / size) for size in voxel_size_mm]
    n = _box_sum(inside, radius)
    mean = _box_sum(image * inside, radius) / n.clamp(min=1)
    used = where & (n >= min(_LEAST_NEIGHBOURS, float(n[where].max())))
    gain = (n[used] / (n[used] - 1).clamp(min=1)).sqrt()  # the mean contains the voxel itself
    residual = ((image - mean) * field)[used] * gain
    return float(_MAD_TO_SIGMA * residual.abs().median())


def _box_sum(image: torch.Tensor, radius: list[int]) -> torch.Tensor:
    """Sum over boxes of ``2 radius + 1`` voxels per axis, zero beyond the edge."""
    for dim, reach in enumerate(radius):
        total = image.clone()
        for offset in range(1, min(reach, image.shape[dim] - 1) + 1):
            n = image.shape[dim] - offset
            total.narrow(dim, 0, n).add_(image.narrow(dim, offset, n))
            total.narrow(dim, offset, n).add_(image.narrow(dim, 0, n))
        image = total
    return image


def measure_quality(
    image: ImageQuality, warped: Volume, template: Volume, determinant: torch.Tensor, linear: np.ndarray
) -> Quality:
    """Add the quality measures of the registration to those of the image.

    Parameters
    ----------
    image : ImageQuality
        Quality of the scan.
    warped, template : Volume
        GM and WM in template space.
    determinant : Tensor
        Jacobian determinant of the warp.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    """
    gm_wm, expected = warped.data[:2], template.data[:2]
    gm, reference = gm_wm[0], expected[0]
    either = (gm > 0.1) | (reference > 0.1)
    correlation = float(torch.corrcoef(torch.stack([gm[either], reference[either]]))[0, 1])
    brain, brain_expected = gm_wm.sum(0) > 0.5, expected.sum(0) > 0.5
    overlap = 2 * int((brain & brain_expected).sum()) / max(int(brain.sum()) + int(brain_expected.sum()), 1)
    outside = expected.sum(0) < _TEMPLATE_NONE
    return Quality(
        **{field.name: getattr(image, field.name) for field in fields(image)},
        template_correlation=correlation,
        template_overlap=overlap,
        jacobian_min=float(determinant.min()),
        jacobian_max=float(determinant.max()),
        affine_scale=float(np.cbrt(abs(np.linalg.det(linear[:3, :3])))),
        gm_outside_percent=100 * float(gm[outside].sum() / gm.sum().clamp(min=1e-6)),
        implausible_percent=100 * float(gm_wm[expected < _TEMPLATE_NONE].sum() / gm_wm.sum().clamp(min=1e-6)),
    )
