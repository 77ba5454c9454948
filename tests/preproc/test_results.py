"""Images of a segmented and of a preprocessed scan, from one simulated person of 2 mm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vbmstat.image import io
from vbmstat.image.volume import Volume


def test_maps_on_the_scan_grid(segmented, simulated):
    scan = io.read_scan(simulated / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    for volume in (segmented.tissues, segmented.corrected, segmented.label):
        assert volume.grid.matches(scan.grid)
    p0 = segmented.label.data[0]
    assert (float(p0.min()), float(p0.max())) == (0.0, pytest.approx(3.0, abs=1e-3))
    wm = segmented.tissues.data[1] > 0.95
    assert float(segmented.corrected.data[0][wm].median()) == pytest.approx(1.0, abs=0.03)


def test_maps_to_normalise_hold_hypointensities_only_if_measured(segmented):
    assert segmented.maps is segmented.fractions
    share = torch.rand(segmented.fractions.grid.shape)
    both = replace(segmented, lesions=replace(segmented.lesions, wmh=share)).maps
    assert torch.equal(both.data[:3], segmented.fractions.data)
    assert torch.equal(both.data[3], share)


def test_maps_of_the_warp_alone_are_volumes_of_a_head_of_the_templates_size(preprocessed):
    scale = abs(np.linalg.det(preprocessed.segmented.linear))
    alone = Volume(preprocessed.nonlinear_only.data, preprocessed.modulated.grid)
    assert alone.sums_ml == pytest.approx([ml / scale for ml in preprocessed.modulated.sums_ml], rel=1e-5)
    product = preprocessed.warped.data * preprocessed.jacobian.data  # of the means over a voxel, not their product's
    assert float((product - preprocessed.nonlinear_only.data).abs().mean()) < 1e-3
