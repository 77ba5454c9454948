"""Lesions of one scan: what was asked (`LesionPlan`), what came of it (`Lesions`), and how tissues count it.

White-matter hypointensities are searched for; a lesion of another kind (stroke, tumour, resection) comes as a mask from
the user. The first count as white matter, as a class of their own, or are only reported. The second are left out of
every fit, and out of the tissue maps or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc.networks.lesions import KIND, RULE, find_network
from vbmstat.preproc.networks.weights import OWN, own_file, shipped_folder
from vbmstat.preproc.steps.lesion_mask import check_lesion, lesion_on_grid
from vbmstat.preproc.steps.lesions import Evidence, Network, find_lesions
from vbmstat.preproc.steps.reassign import lesion_as_wm, lesion_share, without_lesion

WMH_AS = ("wm", "class", "none")
IN_MAPS = ("exclude", "keep")


@dataclass(frozen=True)
class LesionPlan:
    """What is asked about lesions.

    Attributes
    ----------
    wmh : bool
        Whether to look for white-matter hypointensities.
    wmh_as : {"wm", "class", "none"}
        How tissues count them: as white matter, as a class of their own, or as the segmentation has them.
    mask : Volume, optional
        A lesion that the user brings, above 0.5, on any grid of the scan's space.
    in_maps : {"exclude", "keep"}
        Whether that lesion's voxels are left out of the tissues.
    weights : str
        Network that proposes hypointensities; see :func:`vbmstat.preproc.networks.lesions.find_network`.
    """

    wmh: bool = False
    wmh_as: str = WMH_AS[0]
    mask: Volume | None = None
    in_maps: str = IN_MAPS[0]
    weights: str = OWN


@dataclass(frozen=True)
class Lesions:
    """Lesions of a scan, on the working grid.

    Attributes
    ----------
    plan : LesionPlan
        What was asked, without the mask.
    wmh : Tensor, (X, Y, Z), optional
        Share of each voxel that is white-matter hypointensity; None if they were not looked for, or not measurable.
    brought : Tensor, (X, Y, Z), optional
        Share of each voxel that is the lesion that the user brought.
    notes : tuple of str
        What was resampled or could not be used, for the user.
    """

    plan: LesionPlan
    wmh: torch.Tensor | None = None
    brought: torch.Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def weights(self) -> torch.Tensor | None:
        """Weight of each voxel in fits: 0 in the lesion that the user brought; None without one."""
        return None if self.brought is None else 1 - self.brought

    def search(self, evidence: Evidence) -> Lesions:
        """The same with the hypointensities, if they are asked for; outside a lesion that the user brought."""
        if not self.plan.wmh:
            return self
        try:
            network = wmh_network(self.plan.weights, evidence.fractions.device)
            probability = find_lesions(evidence, network).data[0]
        except ScanError as error:
            return replace(self, notes=(*self.notes, f"white-matter hypointensities were not measured: {error}"))
        share = lesion_share(probability, evidence.fractions)
        return replace(self, wmh=share if self.weights is None else share * self.weights)

    def into_tissues(self, fractions: torch.Tensor) -> torch.Tensor:
        """GM, WM, CSF (3, X, Y, Z) of the maps and volumes."""
        if self.wmh is not None and self.plan.wmh_as != "none":
            change = lesion_as_wm if self.plan.wmh_as == "wm" else without_lesion
            fractions = change(fractions, self.wmh)
        if self.brought is not None and self.plan.in_maps == "exclude":
            fractions = without_lesion(fractions, self.brought)
        return fractions

    def for_warp(self, fractions: torch.Tensor) -> torch.Tensor:
        """GM, WM, CSF of the registration, from those of the maps: hypointensities of a class of their own are WM."""
        if self.wmh is None or self.plan.wmh_as != "class":
            return fractions
        gm, wm, csf = fractions
        return torch.stack([gm, wm + self.wmh, csf])


@cache
def wmh_network(weights: str, device: torch.device) -> Network | None:
    """The network that proposes hypointensities, cached for all scans of a run; None for the plain rule.

    Raises
    ------
    AssetError
        If its file is missing, damaged or not the released one.
    """
    if weights == OWN and not own_file(shipped_folder(), KIND).is_file():
        return None  # a package without the network
    return find_network(weights, device)


def wmh_parameters(weights: str) -> dict[str, Any]:
    """Name and hashes of the network, for the sidecar; errors as in :func:`wmh_network`."""
    network = wmh_network(weights, torch.device("cpu"))
    if network is None:
        return {"wmh_weights": RULE}
    sha256: dict[str, str] = getattr(network, "sha256", {})
    return {"wmh_weights": Path(weights).name, "wmh_weights_sha256": dict(sorted(sha256.items()))}


def brought_lesion(plan: LesionPlan, grid: Grid, brain: torch.Tensor) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """The lesion that a user brought on the scan's grid, (X, Y, Z), bool, and notes; None if it cannot be used.

    Parameters
    ----------
    plan : LesionPlan
        With the mask.
    grid : Grid
        The scan's grid.
    brain : Tensor, (X, Y, Z), bool
        Brain mask on it.
    """
    if plan.mask is None:
        return None, ()
    try:
        lesion, note = lesion_on_grid(Volume(plan.mask.data.to(brain.device), plan.mask.grid), grid)
        check_lesion(lesion, brain)
    except ScanError as error:
        return None, (f"{error}; the scan was processed without it",)
    return lesion, tuple(filter(None, [note]))
