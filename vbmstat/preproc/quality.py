"""Quality of one scan and of its preprocessing: figures that a user can act on. They flag, they never drop.

Noise, bias and resolution are rated in the spirit of CAT12 (Gaser et al. 2024, doi:10.1093/gigascience/giae049), on its
scale: a mark of 0.5 is the best, 5.5 and more is useless, and ``105 - 10 mark`` is the rating in percent. The figures
and their calibration are this project's own, so that a rating is not CAT12's IQR to the point.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from vbmstat.grid import resample
from vbmstat.volume import Volume

_PURE = 0.95  # fraction from which a voxel counts as one tissue
_WINDOW_MM = 5.0  # the noise is what varies within this width of white matter
_LEAST_NEIGHBOURS = 9
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class ImageQuality:
    """Figures of a scan as it came, before denoising and correction.

    Attributes
    ----------
    noise_percent : float
        Standard deviation of the noise in white matter, percent of the WM median.
    noise_to_contrast : float
        The same noise over the lesser of the WM-GM and GM-CSF differences (the idea of CAT12's NCR).
    bias_percent : float
        Range of the bias field over the brain (5th to 95th percentile), percent.
    contrast_percent : float
        (WM - GM) / WM after bias correction, percent.
    resolution_mm : float
        Root mean square of the voxel edges (CAT12's RES).
    """

    noise_percent: float
    noise_to_contrast: float
    bias_percent: float
    contrast_percent: float
    resolution_mm: float


@dataclass(frozen=True)
class Quality(ImageQuality):
    """Figures of a scan and its preprocessing; every one becomes a column ``qc_NAME`` of cohort.tsv.

    Attributes
    ----------
    template_correlation : float
        Correlation of the warped GM with the template's over voxels where either exceeds 0.1.
    jacobian_min, jacobian_max : float
        Range of the warp's Jacobian determinant (without the affine part).
    affine_scale : float
        Cube root of the affine's volume change: scan size over template size.
    gm_outside_percent : float
        Share of the warped GM that lies where the template has less than 2 % GM and WM.
    """

    template_correlation: float
    jacobian_min: float
    jacobian_max: float
    affine_scale: float
    gm_outside_percent: float

    def warnings(self) -> list[str]:
        """Readable flags for figures outside the range of usable scans."""
        flags = []
        if self.noise_to_contrast > 0.5:
            flags.append(f"strong noise ({self.noise_percent:.1f} % of WM)")
        if self.contrast_percent < 15:
            flags.append(f"low GM/WM contrast ({self.contrast_percent:.0f} %)")
        if self.resolution_mm > 2:
            flags.append(f"coarse voxels ({self.resolution_mm:.1f} mm)")
        if self.template_correlation < 0.55:
            flags.append(f"poor match with the template (r = {self.template_correlation:.2f})")
        if self.jacobian_min <= 0:
            flags.append("the warp folds")
        if self.gm_outside_percent > 3:
            flags.append(f"{self.gm_outside_percent:.1f} % of GM outside the template's brain")
        return flags

    def columns(self) -> dict[str, float]:
        """The figures as ``{"qc_noise_percent": ...}``."""
        return {f"qc_{field.name}": round(float(getattr(self, field.name)), 4) for field in fields(self)}


def measure_image(t1w: Volume, tissues: Volume, bias: Volume) -> ImageQuality:
    """Figures of a scan as it came, given where its tissues are.

    Parameters
    ----------
    t1w : Volume
        The scan, neither denoised nor corrected, on its own grid; a box around the brain is enough.
    tissues : Volume
        GM, WM, CSF fractions, on any grid.
    bias : Volume
        Multiplicative bias field, on the same grid as the tissues.

    Notes
    -----
    The noise is what varies around the mean of a window of 5 mm in pure white matter, by the median absolute
    deviation. Denoising by this program cannot lower it, and noise that a scanner's interpolation has smeared over two
    or three voxels is counted, which differences of neighbours (`denoise.noise_sigma`) miss.
    """
    fractions, field = _on_grid(tissues, t1w), _on_grid(bias, t1w)[0].clamp(min=0.05)
    image = t1w.data[0] / field
    gm, wm, csf = (float(image[fraction >= _PURE].median()) for fraction in fractions)
    sigma = _noise(image, field, fractions[1] >= _PURE, t1w.grid.voxel_size_mm)
    inside = field[fractions.sum(0) > 0.5]
    low, high = (float(q) for q in np.percentile(inside[:: max(1, len(inside) // 500_000)].cpu().numpy(), [5, 95]))
    return ImageQuality(
        noise_percent=100 * sigma / wm,
        noise_to_contrast=sigma / max(min(wm - gm, gm - csf), 1e-6),
        bias_percent=100 * (high - low),
        contrast_percent=100 * (wm - gm) / wm,
        resolution_mm=float(np.sqrt((t1w.grid.voxel_size_mm**2).mean())),
    )


def _on_grid(volume: Volume, image: Volume) -> torch.Tensor:
    if volume.grid.matches(image.grid):
        return volume.data
    return resample(volume.data, volume.grid, image.grid, padding_mode="border")


def _noise(image: torch.Tensor, field: torch.Tensor, where: torch.Tensor, voxel_size_mm: np.ndarray) -> float:
    """Standard deviation of the uncorrected image around its local mean in a mask."""
    inside = where.to(image.dtype)
    radius = [round(_WINDOW_MM / 2 / size) for size in voxel_size_mm]
    n = _box_sum(inside, radius)
    mean = _box_sum(image * inside, radius) / n.clamp(min=1)
    used = where & (n >= _LEAST_NEIGHBOURS)
    residual = ((image - mean) * field)[used] * (n[used] / (n[used] - 1)).sqrt()  # the mean contains the voxel itself
    return float(_MAD_TO_SIGMA * residual.abs().median())


def _box_sum(image: torch.Tensor, radius: list[int]) -> torch.Tensor:
    """Sum over boxes of ``2 radius + 1`` voxels an axis, zero beyond the edge."""
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
    """Add the figures of the registration to those of the image.

    Parameters
    ----------
    image : ImageQuality
        Of the scan.
    warped, template : Volume
        GM and WM in template space.
    determinant : Tensor
        Jacobian determinant of the warp.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    """
    gm, reference = warped.data[0], template.data[0]
    either = (gm > 0.1) | (reference > 0.1)
    correlation = float(torch.corrcoef(torch.stack([gm[either], reference[either]]))[0, 1])
    outside = template.data[:2].sum(0) < 0.02
    return Quality(
        **{field.name: getattr(image, field.name) for field in fields(image)},
        template_correlation=correlation,
        jacobian_min=float(determinant.min()),
        jacobian_max=float(determinant.max()),
        affine_scale=float(np.cbrt(abs(np.linalg.det(linear[:3, :3])))),
        gm_outside_percent=100 * float(gm[outside].sum() / gm.sum().clamp(min=1e-6)),
    )
