"""Which template scans are registered to, and the way from it to the standard space."""

from __future__ import annotations

import json

import pytest
import torch

from tests.preproc.group import be_coarse, coarse_template, flow
from vbmstat import assets
from vbmstat.errors import AssetError
from vbmstat.image import deform, io
from vbmstat.image.grid import apply_affine, voxel_indices
from vbmstat.image.volume import Displacement, Volume
from vbmstat.preproc.steps import warp
from vbmstat.preproc.steps.warp import Warp
from vbmstat.preproc.templates import RECORD, TISSUES, TO_STANDARD, Template, find_template, template_parameters


@pytest.fixture(scope="module", autouse=True)
def coarse():
    with pytest.MonkeyPatch.context() as patch:
        be_coarse(patch)
        yield


def write_template(folder, seed=1):
    standard = coarse_template()
    field = warp.displacement(flow(seed, 3.0), standard.grid)
    counts = Volume(torch.round(standard.data * 10000), standard.grid)
    io.write_volume(folder / TISSUES, counts, dtype="int16", step=1e-4)
    io.write_volume(folder / TO_STANDARD, Volume(field.data, field.grid))
    hashes = {name: assets.sha256(folder / name) for name in (TISSUES, TO_STANDARD)}
    (folder / RECORD).write_text(json.dumps({"command": "template", "sha256": hashes}))
    return str(folder)


def test_the_standard_template_leaves_warps_as_they_are():
    template = find_template(None, "cpu")
    assert torch.equal(template.tissues.data, coarse_template().data)
    forward = warp.displacement(flow(1), template.tissues.grid)
    one = Warp(forward, forward, Volume(forward.data, forward.grid))
    assert template.in_standard(one) is one


def test_a_warp_over_a_group_template_is_the_way_from_the_standard_to_the_scan_and_back(tmp_path):
    template = find_template(write_template(tmp_path), "cpu")
    grid = template.tissues.grid
    torch.testing.assert_close(template.tissues.data, coarse_template().data, atol=1e-4, rtol=0)
    velocity = flow(2, 5.0)
    there = Warp(warp.displacement(velocity, grid), warp.displacement(-velocity, grid))
    whole = template.in_standard(there)
    assert whole.velocity is None
    middle = (slice(None), *(slice(4, -4),) * 3)
    closed = deform.composed(whole.forward, whole.inverse).data[middle]  # trilinear sampling on voxels of 8 mm
    assert float(closed.square().sum(0).sqrt().mean()) < 0.15
    assert float((whole.forward.data - there.forward.data)[middle].abs().mean()) > 0.3
    still = Template(template.tissues, warp.displacement(torch.zeros_like(velocity), grid)).in_standard(there)
    torch.testing.assert_close(still.forward.data, there.forward.data)


def test_the_way_goes_to_the_group_first_and_then_to_the_scan():
    """A shift to the group and a scaling to the scan: 1.1 · (x + shift), and back."""
    grid = coarse_template().grid
    mm = apply_affine(grid.affine, voxel_indices(grid.shape))
    shift = torch.tensor([8.0, -4.0, 2.0]).reshape(3, 1, 1, 1).expand_as(mm)
    there = Warp(Displacement(0.1 * mm, grid), Displacement(mm / 1.1 - mm, grid))
    whole = Template(coarse_template(), Displacement(shift, grid)).in_standard(there)
    inner = (slice(None), *(slice(3, -3),) * 3)
    torch.testing.assert_close((mm + whole.forward.data)[inner], (1.1 * (mm + shift))[inner], atol=1e-3, rtol=0)
    torch.testing.assert_close((mm + whole.inverse.data)[inner], (mm / 1.1 - shift)[inner], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / RECORD).unlink(), "template.json: expected the record of a group template"),
        (lambda folder: (folder / RECORD).write_text("{}"), "expected the record of a group template"),
        (lambda folder: (folder / RECORD).write_text('{"command": "glm"}'), "expected the record of a group template"),
        (lambda folder: (folder / TISSUES).unlink(), "Template_4.nii.gz: missing, or not the file"),
        (lambda folder: (folder / TO_STANDARD).write_bytes(b"0"), "to_standard.nii.gz: missing, or not the file"),
    ],
)
def test_what_is_no_template_is_refused_in_one_line(tmp_path, change, message):
    folder = write_template(tmp_path)
    change(tmp_path)
    for read in (template_parameters, lambda given: find_template(given, "cpu")):
        with pytest.raises(AssetError, match=message):
            read(folder)


def test_the_hash_changes_with_the_template(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = (template_parameters(write_template(tmp_path / name, seed)) for name, seed in (("a", 1), ("b", 2)))
    assert (a["template"]["name"], b["template"]["name"]) == ("a", "b")
    assert a["template"]["sha256"] != b["template"]["sha256"]
