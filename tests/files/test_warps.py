"""The warp of a finished scan, from fields or from a velocity."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.batch.stored_images import write_image
from vbmstat.errors import ScanError
from vbmstat.files import map_kinds, naming
from vbmstat.files.warps import BOX, LINEAR, VELOCITY_STEP_MM, ScanWarp, grid_record, packed, unpacked
from vbmstat.files.warps import TEMPLATE as TEMPLATE_KEY
from vbmstat.image import io, storage
from vbmstat.image.deform import deformation, exponential, inverse_deformation
from vbmstat.image.grid import Grid
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Displacement, Volume

AROUND = Grid((44, 48, 44), np.array([[1.5, 0, 0, -30], [0, 1.5, 0, -33], [0, 0, 1.5, -30], [0, 0, 0, 1.0]]))
SCAN = Grid((18, 20, 18), np.array([[2.0, 0.2, 0, -16], [-0.2, 2.0, 0.1, -18], [0, -0.1, 2, -16], [0, 0, 0, 1.0]]))
MATRIX = np.array([[1.05, 0.1, 0, 3], [-0.1, 0.95, 0, -2], [0, 0, 1.0, 1], [0, 0, 0, 1.0]])
TEMPLATE = AROUND.crop((3, 3, 3), (41, 45, 41))
INSIDE = (slice(None), *(slice(4, -4),) * 3)


@pytest.fixture
def written(tmp_path):
    """Paths of a scan's files, its velocity and record written; y and iy as the engine has them, not written."""
    rough = torch.randn(3, *AROUND.shape, generator=torch.Generator().manual_seed(3))
    velocity = smooth(rough, np.full(3, 9.0), 3.0)
    velocity = velocity * (5.0 / velocity.abs().max())  # mm
    moved = [exponential(sign * velocity / 1.5)[:, 3:41, 3:45, 3:41] * 1.5 for sign in (1, -1)]
    forward, backward = (Displacement(one, TEMPLATE) for one in moved)
    paths = naming.native_paths(tmp_path / "mri" / "mwp1sub-1.nii.gz")
    write_image(paths["velocity"], "velocity", Volume(velocity, AROUND))
    grids = {TEMPLATE_KEY: grid_record(TEMPLATE), BOX: grid_record(SCAN)}
    storage.write_json(paths["sidecar"], {"affine": {LINEAR: MATRIX.tolist(), **grids}})
    return paths, deformation(forward, MATRIX), inverse_deformation(backward, MATRIX, SCAN)


def far(one: Volume, other: Volume) -> float:
    return float((one.data - other.data)[INSIDE].norm(dim=0).max())


def test_both_fields_come_back_from_the_velocity(written):
    paths, y, iy = written
    warp = ScanWarp(paths)
    assert warp.is_known
    assert warp.to_scan.grid.matches(TEMPLATE)
    assert far(warp.to_scan, y) < 0.05
    assert warp.box is not None
    assert warp.box.matches(SCAN)
    assert far(warp.to_template(warp.box), iy) < 0.05


def test_a_stored_velocity_is_the_velocity_to_half_a_step():
    velocity = Volume(
        torch.randn(3, 8, 6, 10, generator=torch.Generator().manual_seed(4)), AROUND.crop((0, 0, 0), (8, 6, 10))
    )
    stored = packed(velocity)
    np.testing.assert_allclose(
        stored.data[:3].numpy(),
        velocity.data.unfold(1, 2, 2).unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5, 6)),
        atol=VELOCITY_STEP_MM / 2 + 1e-6,
    )
    again = unpacked(stored)
    assert again.grid.matches(velocity.grid)
    assert (again.data - velocity.data).abs().max() < VELOCITY_STEP_MM / 2 + 1e-5


def test_a_field_that_is_there_is_read(written):
    paths, y, iy = written
    for kind, field in (("y", y), ("iy", iy)):
        write_image(paths[kind], kind, Volume(field.data + 1, field.grid))
    assert far(ScanWarp(paths).to_scan, Volume(y.data + 1, y.grid)) < 0.01
    assert far(ScanWarp(paths).to_template(TEMPLATE), Volume(iy.data + 1, iy.grid)) < 0.01


@pytest.mark.parametrize("has_record", [True, False])
def test_the_inverse_of_another_program_s_y_is_made(written, has_record):
    paths, y, iy = written
    holed = y.data.clone()
    holed[:, 0] = torch.nan  # as SPM writes it beyond its field of view
    io.write_volume(paths["y"], Volume(holed, y.grid))
    paths["velocity"].unlink()
    if not has_record:
        paths["sidecar"].unlink()
    assert far(ScanWarp(paths).to_template(SCAN), iy) < 0.1


def test_what_is_missing_is_named(written):
    paths, _, _ = written
    paths["sidecar"].unlink()
    with pytest.raises(ScanError, match=r"report/vbmstat_sub-1\.json: expected the scan's record with its linear"):
        _ = ScanWarp(paths).to_scan
    paths["velocity"].unlink()
    assert not ScanWarp(paths).is_known
    with pytest.raises(ScanError, match=r"mri: none of y_sub-1\.nii\.gz, iy_sub-1\.nii\.gz, u_sub-1\.nii\.gz is there"):
        ScanWarp(paths).to_template(SCAN)
    io.write_volume(paths["y"], Volume(torch.zeros(2, *SCAN.shape), SCAN))
    with pytest.raises(ScanError, match="expected a field of 3 mm coordinates, got 2"):
        _ = ScanWarp(paths).to_scan


def test_names_of_a_warp_s_files_by_both_conventions(tmp_path):
    scan = naming.Scan(tmp_path / "x", "sub-1_ses-2_T1w", "sub-1", "ses-2")
    for style in naming.NAME_STYLES:
        found = naming.native_paths(naming.output_path(tmp_path, scan, "mwp1", style))
        for kind in (*map_kinds.WARP, "sidecar"):
            assert found[kind] == naming.output_path(tmp_path, scan, kind, style)
