"""Measures of one scan in several output folders: agreement with a reference, with the truth and with the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from vbmstat import assets
from vbmstat.evaluate.outputs import Outputs, TissueMaps, read_labels, read_linear, read_tissue_maps, read_tissues
from vbmstat.image import deform, io
from vbmstat.image.grid import resample
from vbmstat.image.smooth import smooth_map
from vbmstat.image.volume import Displacement, Volume
from vbmstat.metrics import accuracy

FWHM_MM = 6.0
KEYS = ["scan", "folder", "reference"]
TEMPLATE, TRUTH = "template", "truth"
_TEMPLATE_FROM = 0.1  # of a tissue's probability, where maps are correlated
Row = dict[str, object]


@dataclass
class Measures:
    """Measures of scans, the first folder being the reference."""

    outputs: Sequence[Outputs]
    truth: Mapping[str, Path]  # true label maps by scan
    is_fitted: bool = False  # whether the linear part of fields is fitted even if a sidecar records it
    notes: dict[str, None] = field(default_factory=dict)  # how missing inputs were derived; each once, in order

    @cached_property
    def template(self) -> Volume:
        """The template's GM and WM."""
        template = assets.template()
        return Volume(template.data[:2], template.grid)

    def rows(self, scan: str) -> list[Row]:
        """All rows of one scan: each folder against the template, the truth and the reference."""
        rows: list[Row] = []
        first = self.outputs[0]
        true_labels = read_labels(self.truth[scan]) if scan in self.truth else None
        first_labels = read_tissue_maps(first, scan)
        first_maps = self._smoothed(first, scan) if len(self.outputs) > 1 else {}
        for entry in self.outputs:
            keys = {"scan": first.stems[scan], "folder": entry.name}
            labels = first_labels if entry is first else read_tissue_maps(entry, scan)
            rows.append({**keys, "reference": TEMPLATE, **self._registration(entry, scan)})
            if true_labels and labels:
                rows.append({**keys, "reference": TRUTH, **_overlap(labels, true_labels)})
            if entry is not first:
                overlap = _overlap(labels, first_labels) if labels and first_labels else {}
                agreement = self._agreement(self._smoothed(entry, scan), first_maps)
                rows.append({**keys, "reference": first.name, **overlap, **agreement})
        return rows

    def _smoothed(self, entry: Outputs, scan: str) -> dict[int, torch.Tensor]:
        """Modulated maps smoothed by 6 mm, on the template's grid, (X, Y, Z) by tissue."""
        paths = {tissue: by_scan[scan] for tissue, by_scan in entry.modulated.items() if scan in by_scan}
        return {
            tissue: self._on_template(smooth_map(io.read_volume(path), FWHM_MM))[0] for tissue, path in paths.items()
        }

    def _agreement(self, maps: dict[int, torch.Tensor], reference: dict[int, torch.Tensor]) -> dict[str, float]:
        """Correlation of modulated maps where the template has the tissue."""
        row = {}
        for tissue in sorted(set(maps) & set(reference)):
            where = self.template.data[tissue - 1] > _TEMPLATE_FROM
            both = torch.stack([maps[tissue][where], reference[tissue][where]]).double()
            row[f"r_mwp{tissue}"] = float(torch.corrcoef(both)[0, 1])
        return row

    def _registration(self, entry: Outputs, scan: str) -> dict[str, float]:
        """Distance of the warped maps to the template, and regularity of the field."""
        row: dict[str, float] = {}
        parts = self._field(entry, scan) if entry.warp(scan).is_known else None
        warped = self._warped(entry, scan, parts)
        if warped is not None:
            row["mse_to_template"] = accuracy.mse_to_template(warped, self.template)
        if parts is not None:
            determinant = parts[0].jacobian_determinant
            determinant = determinant[determinant.isfinite()]
            row["linear_elasticity"] = accuracy.linear_elasticity(parts[0])
            row["published_elasticity"] = accuracy.published_elasticity(parts[0])
            row["jacobian_min"], row["jacobian_max"] = float(determinant.min()), float(determinant.max())
        return row

    def _field(self, entry: Outputs, scan: str) -> tuple[Displacement, np.ndarray]:
        """Displacement and linear part of a scan's deformation, on the template's grid."""
        deformation, grid = entry.warp(scan).to_scan, self.template.grid
        if not deformation.grid.matches(grid):
            data = resample(deformation.data, deformation.grid, grid, padding_mode="border")
            deformation = Volume(data, grid)
            self.notes[f"{entry.name}: fields (y_) were resampled to the template's grid"] = None
        linear = None if self.is_fitted else read_linear(entry, scan)
        linear = deform.fit_linear(deformation) if linear is None else linear
        return deform.displacement_of(deformation, linear), linear

    def _warped(self, entry: Outputs, scan: str, parts: tuple[Displacement, np.ndarray] | None) -> Volume | None:
        """GM and WM on the template's grid: the folder's own maps, or else its tissues warped with its field."""
        if entry.has_all("warped", scan):
            warped = read_tissues(entry, scan, "warped")
            if not warped.grid.matches(self.template.grid):
                self.notes[f"{entry.name}: warped maps were resampled to the template's grid"] = None
            return Volume(self._on_template(warped), self.template.grid)
        if parts is None:
            return None
        if entry.has_all("tissue", scan):
            tissues = read_tissues(entry, scan)
        elif scan in entry.label:
            labels = read_labels(entry.label[scan])
            tissues = Volume(torch.cat([labels.fractions["gm"], labels.fractions["wm"]]), labels.grid)
        else:
            return None
        note = f"{entry.name}: no warped maps (wp1, wp2): the tissues were warped with the fields for the MSE"
        self.notes[note] = None
        field, linear = parts
        finite = Displacement(field.data.nan_to_num(), field.grid)
        return deform.pull(Volume(tissues.data[:2], tissues.grid), deform.deformation(finite, linear))

    def _on_template(self, volume: Volume) -> torch.Tensor:
        grid = self.template.grid
        return volume.data if volume.grid.matches(grid) else resample(volume.data, volume.grid, grid)


def _overlap(one: TissueMaps, other: TissueMaps) -> dict[str, float]:
    """Dice, probabilistic Dice and Jaccard of each tissue."""
    accuracy.check_same_grid(
        Volume(one.labels, one.grid), Volume(other.labels, other.grid), f"that of {other.path}", f"{one.path}: "
    )
    row = {}
    for tissue, value in accuracy.TISSUES.items():
        masks = [labels == value for labels in (one.labels, other.labels)]
        row[f"dice_{tissue}"] = accuracy.dice(masks[0], masks[1])
        row[f"pdice_{tissue}"] = accuracy.probabilistic_dice(one.fractions[tissue], other.fractions[tissue])
        row[f"jaccard_{tissue}"] = accuracy.jaccard(masks[0], masks[1])
    return row
