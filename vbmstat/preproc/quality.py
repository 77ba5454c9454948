"""Quality of one scan and of its preprocessing: figures that a user can act on. They flag, they never drop."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from vbmstat.volume import Volume


@dataclass(frozen=True)
class Quality:
    """Figures of one scan; every one becomes a column ``qc_NAME`` of cohort.tsv.

    Attributes
    ----------
    noise_percent : float
        Standard deviation of the noise in the brain, percent of the WM mean.
    noise_to_contrast : float
        The same noise over the difference of the WM and GM means (CAT12's NCR).
    bias_percent : float
        Range of the bias field over the brain (95th - 5th percentile), percent.
    contrast_percent : float
        (WM - GM) / WM after bias correction, percent.
    resolution_mm : float
        Root mean square of the voxel edges.
    template_correlation : float
        Correlation of the warped GM with the template's over voxels where either exceeds 0.1.
    jacobian_min, jacobian_max : float
        Range of the warp's Jacobian determinant (without the affine part).
    affine_scale : float
        Cube root of the affine's volume change: scan size over template size.
    gm_outside_percent : float
        Share of the warped GM that lies where the template has less than 2 % GM and WM.
    """

    noise_percent: float
    noise_to_contrast: float
    bias_percent: float
    contrast_percent: float
    resolution_mm: float
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


def measure_quality(
    noise_sigma: float,
    bias: torch.Tensor,
    class_means: torch.Tensor,
    voxel_size_mm: np.ndarray,
    warped: Volume,
    template: Volume,
    determinant: torch.Tensor,
    linear: np.ndarray,
) -> Quality:
    """Collect the figures of :class:`Quality`.

    Parameters
    ----------
    noise_sigma : float
        Noise of the raw image, in its unit.
    bias : Tensor, (n,)
        Bias field over the brain's voxels.
    class_means : Tensor, (3,)
        CSF, GM, WM mean of the corrected image, same unit.
    voxel_size_mm : ndarray, (3,)
        Of the scan as it came.
    warped, template : Volume
        GM and WM in template space.
    determinant : Tensor
        Jacobian determinant of the warp.
    linear : ndarray, (4, 4)
        Template mm -> scan mm.
    """
    _, gm_mean, wm_mean = (float(m) for m in class_means)
    low, high = (float(q) for q in np.percentile(bias[:: max(1, bias.numel() // 500_000)].cpu().numpy(), [5, 95]))
    gm, reference = warped.data[0], template.data[0]
    either = (gm > 0.1) | (reference > 0.1)
    correlation = float(torch.corrcoef(torch.stack([gm[either], reference[either]]))[0, 1])
    outside = template.data.sum(0) < 0.02
    return Quality(
        noise_percent=100 * noise_sigma / wm_mean,
        noise_to_contrast=noise_sigma / max(wm_mean - gm_mean, 1e-6),
        bias_percent=100 * (high - low),
        contrast_percent=100 * (wm_mean - gm_mean) / wm_mean,
        resolution_mm=float(np.sqrt((np.asarray(voxel_size_mm) ** 2).mean())),
        template_correlation=correlation,
        jacobian_min=float(determinant.min()),
        jacobian_max=float(determinant.max()),
        affine_scale=float(np.cbrt(abs(np.linalg.det(linear[:3, :3])))),
        gm_outside_percent=100 * float(gm[outside].sum() / gm.sum().clamp(min=1e-6)),
    )
