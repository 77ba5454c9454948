"""Where one scan, by itself, is not what the template leads to expect: lesions, and bias fields that failed.

Another estimate than the segmentation's: the corrected image, brought to the template, is compared with the template's
tissues at the scan's own class means. Its mean over a few mm shows places far brighter or darker; the trend of white
matter over some cm is the bias field that is left. A healthy brain differs by .15 of WM at most, whatever its sulci.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vbmstat import assets
from vbmstat.image import deform
from vbmstat.image.grid import Grid, resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Displacement, Volume
from vbmstat.metrics.clusters import largest_clusters, region_of
from vbmstat.preproc.results import Preprocessed

BEYOND, LEAST_ML = 0.2, 5.0  # of WM, at every voxel of a cluster; and the cluster's volume
MOST_SHADING_PERCENT = 15.0  # 4 to 13 in 44 real scans; fields with 40 % left: 17 and 19
_SPACING_MM, _PLACE_FWHM_MM, _FIELD_FWHM_MM = 3.0, 8.0, 30.0
_BRAIN_FROM, _WM_FROM = 0.5, 0.8  # GM + WM of the template; its WM
_SIGNAL_FROM = 0.1  # of WM: where the scan's own brain is
_DARKER = ("darker", "a lesion (--lesion-mask), a resection, large ventricles")
_BRIGHTER = ("brighter", "bleeding, contrast agent")


@dataclass(frozen=True)
class Misfit:
    """Where a scan departs from the template."""

    darker_ml: float  # clusters darker than the template's tissues, in template space; 0 for none
    brighter_ml: float
    region: str | None  # region of LPBA40 with most of the larger of the two
    shading_percent: float  # range of WM over the brain, 2nd to 98th percentile, that the correction has left

    def columns(self) -> dict[str, Any]:
        """Columns of the cohort table."""
        return {
            "qc_odd_ml": round(self.darker_ml + self.brighter_ml, 1),
            "qc_odd_region": self.region,
            "qc_shading_percent": round(self.shading_percent, 1),
        }

    def warnings(self) -> list[str]:
        """What to check, in words."""
        found = []
        odd = [one for one in ((self.darker_ml, *_DARKER), (self.brighter_ml, *_BRIGHTER)) if one[0]]
        if odd:
            volumes = " and ".join(f"{ml:.0f} mL {how}" for ml, how, _ in odd)
            causes = ", ".join(why for _, _, why in odd)
            found.append(f"{volumes} than the tissue that the template has there, around {self.region}: {causes}, or a "
                         "bad bias field? Check the tissue outlines")  # fmt: skip
        if self.shading_percent > MOST_SHADING_PERCENT:
            found.append(
                f"white matter still varies by {self.shading_percent:.0f} % over the brain after correction: the bias "
                "field is doubtful; check the tissue outlines in dark and bright regions"
            )
        return found


def measure_misfit(made: Preprocessed) -> Misfit:
    """Compare the corrected image of a preprocessed scan with the template's tissues, on a lattice of 3 mm.

    A lesion mask that the user brought is left out.
    """
    lattice, points = _lattice(made)
    segmented = made.segmented
    brought = segmented.brought
    images = [segmented.work.data] if brought is None else [segmented.work.data, brought.data]
    pulled = deform.pull(Volume(torch.cat(images), segmented.work.grid), Volume(points, lattice)).data.cpu()
    image, known = pulled[0], (pulled[1:] < 0.5).all(0)
    template = assets.template()
    gm_wm = resample(template.data, template.grid, lattice)
    tissues = torch.cat([gm_wm, (1 - gm_wm.sum(0, keepdim=True)).clamp(0, 1)])
    brain = (gm_wm.sum(0) > _BRAIN_FROM) & known
    expected = torch.tensordot(_class_means(segmented.fractions.data, segmented.work.data[0]), tissues, dims=1)
    apart = torch.where(brain, _mean_within(image - expected, brain, _PLACE_FWHM_MM, lattice), 0.0).numpy()
    darker, brighter = (largest_clusters(sign * apart, BEYOND, LEAST_ML, lattice) for sign in (-1, 1))
    darker_ml, brighter_ml = (float(far.sum()) * lattice.voxel_volume_ml for far in (darker, brighter))
    far = darker if darker_ml > brighter_ml else brighter
    core = (gm_wm[1] > _WM_FROM) & (image > _SIGNAL_FROM) & brain & ~torch.from_numpy(darker | brighter)
    return Misfit(
        darker_ml, brighter_ml, region_of(far, lattice) if far.any() else None, _shading_percent(image, core, lattice)
    )


def _lattice(made: Preprocessed) -> tuple[Grid, torch.Tensor]:
    """Every second voxel or so of the template's grid, and the scan's point of each, (3, X, Y, Z) mm."""
    field = made.warp.forward
    lattice, every = field.grid.every(_SPACING_MM)
    coarse = Displacement(field.data[(slice(None), *every)].contiguous(), lattice)
    return lattice, deform.deformation(coarse, made.segmented.linear).data


def _class_means(fractions: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Mean intensity of GM, WM, CSF, (3,), mostly from pure voxels, of every second along each axis."""
    every = (slice(None, None, 2),) * 3
    weight = fractions[(slice(None), *every)].square()
    return ((weight * image[every]).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3)).clamp(min=1e-6)).cpu()


def _mean_within(image: torch.Tensor, mask: torch.Tensor, fwhm_mm: float, grid: Grid) -> torch.Tensor:
    """Gaussian mean of an image (X, Y, Z) over the voxels of a mask."""
    inside = mask.to(image.dtype)
    both = smooth(torch.stack([image * inside, inside]), fwhm_mm / grid.voxel_size_mm, 3.0)
    return both[0] / both[1].clamp(min=1e-3)


def _shading_percent(image: torch.Tensor, core: torch.Tensor, grid: Grid) -> float:
    """Range of the geometric mean of WM within some cm, over its median."""
    if not core.any():
        return 0.0
    trend = _mean_within(image.clamp(min=_SIGNAL_FROM).log(), core, _FIELD_FWHM_MM, grid)[core]
    low, middle, high = np.exp(np.percentile(trend.numpy(), [2, 50, 98]))
    return float(100 * (high - low) / middle)
