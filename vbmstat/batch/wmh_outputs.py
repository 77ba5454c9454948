"""Outputs of a scan's white-matter hypointensities: maps in the scan's and the template's space, mask, volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vbmstat.files import map_kinds
from vbmstat.image.volume import Volume
from vbmstat.metrics import lesions
from vbmstat.preproc.results import Preprocessed
from vbmstat.tables import dictionary

CHANNEL = 3  # of the hypointensities in normalised maps, behind GM, WM, CSF
_NUMBER = map_kinds.MAP_NUMBER[map_kinds.WMH]


@dataclass(frozen=True)
class WmhOutputs:
    """What is written about hypointensities.

    Attributes
    ----------
    native, mask : Volume
        Share of each voxel, and voxels that are mostly hypointensity, on the scan's grid.
    warped, modulated : Volume
        On the template's grid.
    smoothed : dict of float to Volume
        Smoothed modulated maps by FWHM in mm.
    volumes : DataFrame
        Volumes by zone, lobe and side.
    figures : dict
        Columns of the cohort table.
    """

    native: Volume
    mask: Volume
    warped: Volume
    modulated: Volume
    smoothed: Mapping[float, Volume]
    volumes: pd.DataFrame
    figures: dict[str, Any]

    @property
    def maps(self) -> dict[str, Volume]:
        """Images by kind, those in the scan's space first."""
        smoothed = {map_kinds.smoothed_kind(width, _NUMBER): volume for width, volume in self.smoothed.items()}
        return {"p7": self.native, "mask7": self.mask, "wp7": self.warped, "mwp7": self.modulated, **smoothed}

    def write_volumes(self, path: Path) -> None:
        """Write the table of volumes."""
        about = {"lobes": f"of {lesions.ATLAS}", "zones": lesions.ZONES_ABOUT}
        dictionary.write_table(path, self.volumes, "wmh_volumes", about=about)


def wmh_outputs(result: Preprocessed) -> WmhOutputs | None:
    """The hypointensities of a preprocessed scan; None if they were not looked for, or not measurable."""
    segmented = result.segmented
    share = segmented.wmh
    if share is None:
        return None
    volumes = lesions.lesion_volumes(share, segmented.fractions, result.inverse_deformation.data)
    native = segmented.on_scan(share)
    return WmhOutputs(
        native, lesions.lesion_mask(native), result.warped.channel(CHANNEL), result.modulated.channel(CHANNEL),
        {width: maps.channel(CHANNEL) for width, maps in result.smoothed.items()}, volumes,
        lesions.lesion_figures(share, volumes),
    )  # fmt: skip
