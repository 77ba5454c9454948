"""Images carried through the warps of finished scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vbmstat import assets
from vbmstat.batch.stored_images import write_image
from vbmstat.batch.warp_images import AMOUNT, LABELS, carry, find_warps, is_labels
from vbmstat.cli import app
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.files import naming
from vbmstat.files.warps import BOX, LINEAR, SCAN, TEMPLATE, grid_record
from vbmstat.image import io, storage
from vbmstat.image.grid import Grid, apply_affine, voxel_indices
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.preproc.spec import PreprocSpec

MATRIX = np.array([[1.05, 0.05, 0, 4], [-0.05, 0.95, 0.02, -3], [0, 0, 1.02, 2], [0, 0, 0, 1.0]])
T1W = Grid((50, 56, 50), np.array([[3.9, 0.3, 0, -100], [-0.3, 3.9, 0, -120], [0, 0, 3.9, -90], [0, 0, 0, 1.0]]))
PET = Grid((44, 48, 40), np.array([[-4.5, 0, 0, 100], [0, 4.5, 0.4, -125], [0, -0.4, 4.5, -80], [0, 0, 0, 1.0]]))


GRID = PreprocSpec(voxel_size_mm=2).grid_of_maps(assets.template().grid)


def ball(grid: Grid, centre: tuple[float, float, float], radius_mm: float) -> torch.Tensor:
    mm = apply_affine(grid.affine, voxel_indices(grid.shape))
    return ((radius_mm - (mm - torch.tensor(centre).reshape(3, 1, 1, 1)).norm(dim=0)) / 4 + 0.5).clamp(0, 1)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two finished scans of 3.9 mm with a velocity on CAT12's grid at 6 mm."""
    return finish(tmp_path_factory.mktemp("run"), "sub-1_T1w", "sub-2_T1w")


def finish(out: Path, *stems: str, names: str = "cat12") -> Path:
    template = assets.template().grid
    coarse = Grid((30, 36, 30), template.affine @ np.diag([4.0, 4, 4, 1]))
    velocity = smooth(torch.randn(3, *coarse.shape, generator=torch.Generator().manual_seed(1)), np.full(3, 5.0), 3.0)
    for name in stems:
        scan = naming.Scan(Path(name), name, *naming.split_ids(name))
        write_image(
            naming.output_path(out, scan, "velocity", names),
            "velocity",
            Volume(velocity * (5 / velocity.max()), coarse),
        )
        grids = {TEMPLATE: Grid((29, 35, 29), coarse.affine), SCAN: T1W, BOX: T1W.crop((5, 5, 5), (45, 50, 45))}
        affine = {LINEAR: MATRIX.tolist(), **{key: grid_record(grid) for key, grid in grids.items()}}
        storage.write_json(naming.output_path(out, scan, "sidecar", names), {"scan": name, "row": {}, "affine": affine})
    return out


def write(path: Path, data: torch.Tensor, grid: Grid, dtype: str = "float32") -> str:
    io.write_volume(path, Volume(data, grid), dtype=dtype, space="scanner", step=None if len(data) == 1 else 1.0)
    return str(path)


def test_an_amount_keeps_its_total_both_ways_and_comes_back(folder, tmp_path):
    pet = 3 * ball(PET, (10.0, -20.0, 10.0), 40.0)
    given = write(tmp_path / "sub-1_pet.nii.gz", pet, PET)
    (there,) = carry([given], folder, kind=AMOUNT, out=tmp_path, voxel_size_mm=2).written
    assert there.name == "mwsub-1_pet.nii.gz"
    carried = io.read_volume(there)
    assert carried.grid.matches(GRID)
    total_ml = float(pet.sum()) * PET.voxel_volume_ml
    assert float(carried.data.sum()) * GRID.voxel_volume_ml == pytest.approx(total_ml, rel=0.005)
    (back,) = carry([str(there)], folder / "sub-1_T1w", "scan", kind=AMOUNT, out=tmp_path, voxel_size_mm=2).written
    again = io.read_volume(back)
    assert float(again.data.sum()) * again.grid.voxel_volume_ml == pytest.approx(total_ml, rel=0.005)


def test_intensities_come_back_to_the_scan_s_own_grid(folder, tmp_path):
    image = 100 * ball(T1W, (5.0, -20.0, 10.0), 45.0)
    (there,) = carry(
        [write(tmp_path / "a.nii.gz", image, T1W)], folder / "sub-2", out=tmp_path, voxel_size_mm=2
    ).written
    assert there.name == "wsub-2_T1w_a.nii.gz"
    assert io.read_volume(there).grid.shape == (85, 103, 85)
    (back,) = carry([str(there)], folder / "sub-2", "scan", out=tmp_path, voxel_size_mm=2).written
    again = io.read_volume(back)
    assert again.grid.matches(T1W)
    assert float((again.data - image).abs().mean()) < 1.0
    assert float(again.data.max()) == pytest.approx(100, abs=1)


def test_an_atlas_is_taken_as_labels_and_keeps_its_values_and_volumes(folder, tmp_path):
    grid = GRID
    inside = ball(grid, (0.0, -20.0, 10.0), 40.0)[0] > 0.5
    atlas = torch.where(inside, torch.where(voxel_indices(grid.shape)[0] > 42, 41.0, 17.0), 0.0)[None]
    given = write(tmp_path / "atlas.nii.gz", atlas, grid, "int16")
    done = carry([given], folder, "scan", out=tmp_path)
    assert done.kinds == {Path(given): LABELS}
    assert [path.name for path in done.written] == ["watlas_sub-1_T1w.nii.gz", "watlas_sub-2_T1w.nii.gz"]
    labels = io.read_volume(done.written[0])
    assert labels.data.unique().tolist() == [0, 17, 41]
    amount = carry([given], folder / "sub-1", "scan", kind=AMOUNT, out=tmp_path)  # the other way to the same volumes
    weighted = float(17 * (atlas == 17).sum() + 41 * (atlas == 41).sum()) * grid.voxel_volume_ml
    assert float(io.read_volume(amount.written[0]).data.sum()) * T1W.voxel_volume_ml == pytest.approx(
        weighted, rel=0.005
    )
    mm = np.linalg.det(MATRIX)
    for value in (17, 41):
        before, after = (
            float((one == value).sum()) * g.voxel_volume_ml for one, g in ((atlas, grid), (labels.data, T1W))
        )
        assert after == pytest.approx(before * mm, rel=0.1)


def test_what_is_taken_as_labels(tmp_path):
    t1w = Volume(
        torch.randint(0, 255, (1, 20, 20, 20), generator=torch.Generator().manual_seed(2)).float(),
        Grid((20,) * 3, np.eye(4)),
    )
    blocks = torch.arange(5).repeat_interleave(4).float().reshape(1, 20, 1, 1).expand(1, 20, 20, 20).contiguous()
    for image, dtype, expected in ((t1w.data, "uint8", False), (blocks, "uint8", True), (blocks, "float32", False)):
        path = tmp_path / f"{dtype}{expected}.nii.gz"
        io.write_volume(path, Volume(image, t1w.grid), dtype=dtype)
        assert is_labels(path, io.read_channels(path)) == expected


def test_each_volume_of_a_series_is_carried(folder, tmp_path):
    series = torch.cat([ball(PET, (0.0, -20.0, 10.0), 30.0), 2 * ball(PET, (0.0, -20.0, 10.0), 30.0)])
    (there,) = carry(
        [write(tmp_path / "sub-1_series.nii.gz", series, PET)], folder, out=tmp_path, voxel_size_mm=2
    ).written
    carried = io.read_channels(there)
    assert io.read_shape(there) == (85, 103, 85, 2)
    assert torch.allclose(carried.data[1], 2 * carried.data[0], atol=1e-4)


def test_images_are_matched_to_scans_by_pattern_or_by_name(folder, tmp_path):
    for name in ("sub-1", "sub-3"):
        write(tmp_path / f"{name}_pet.nii.gz", ball(PET, (0.0, -20.0, 10.0), 30.0), PET)
    done = carry([str(tmp_path / "{participant_id}_pet.nii.gz")], folder, out=tmp_path / "out", voxel_size_mm=2)
    assert [path.name for path in done.written] == ["wsub-1_pet.nii.gz"]
    assert done.failures == (f"{tmp_path}/{{participant_id}}_pet.nii.gz: no such image of 1 scans: sub-2_T1w",)
    done = carry([str(tmp_path / "sub-3_pet.nii.gz")], folder, out=tmp_path / "out", voxel_size_mm=2)
    assert "sub-3_pet.nii.gz: 0 scans have the ids sub-3; expected the ids of one scan in its name" in done.failures[0]
    assert carry([str(tmp_path / "none.nii")], folder).failures == (f"{tmp_path / 'none.nii'}: no such file",)
    own = write(tmp_path / "msub-2_T1w.nii.gz", ball(T1W, (0.0, -20.0, 10.0), 40.0), T1W)  # as a folder's own files
    (there,) = carry([own], folder, out=tmp_path, voxel_size_mm=2).written
    assert there.name == "wmsub-2_T1w.nii.gz"


def test_images_of_sessions_that_only_their_folders_tell_apart_are_files_of_their_own(tmp_path):
    """The image of one session once took the place of that of the other."""
    sessions = finish(tmp_path / "run", "sub-1_ses-1_T1w", "sub-1_ses-2_T1w")
    for name in ("ses-1/sub-1_pet", "ses-2/sub-1_pet", "sub-1_ses-2_mt"):
        write(tmp_path / f"{name}.nii.gz", ball(PET, (0.0, -20.0, 10.0), 30.0), PET)
    images = [
        str(tmp_path / "{session_id}" / "{participant_id}_pet.nii.gz"),
        str(tmp_path / "{participant_id}_{session_id}_mt.nii.gz"),
    ]
    done = carry(images, sessions, out=tmp_path / "out", voxel_size_mm=2)
    expected = ["wsub-1_ses-1_T1w_sub-1_pet.nii.gz", "wsub-1_ses-2_T1w_sub-1_pet.nii.gz", "wsub-1_ses-2_mt.nii.gz"]
    assert sorted(path.name for path in done.written) == expected


def test_a_scan_is_found_by_a_file_under_its_bids_name(tmp_path):
    out = finish(tmp_path, "sub-1_ses-1_T1w", "sub-1_ses-2_T1w", names="bids")
    scan = naming.Scan(Path("sub-1_ses-2_T1w"), "sub-1_ses-2_T1w", "sub-1", "ses-2")
    for kind in ("velocity", "sidecar"):
        assert list(find_warps(naming.output_path(out, scan, kind, "bids"))) == [scan]


def test_what_cannot_be_carried_is_one_line_and_the_others_are(folder, tmp_path):
    far = Grid(PET.shape, PET.affine + np.array([[0, 0, 0, 900.0], [0] * 4, [0] * 4, [0] * 4]))
    away = write(tmp_path / "sub-1_far.nii.gz", ball(PET, (0.0, 0.0, 0.0), 30.0), far)
    good = write(tmp_path / "sub-2_pet.nii.gz", ball(PET, (0.0, -20.0, 10.0), 30.0), PET)
    result = CliRunner().invoke(
        app, ["warp", away, good, "--of", str(folder), "--out", str(tmp_path), "--voxel-size", "2"]
    )
    assert result.exit_code == 1
    assert "sub-1_T1w: the image and the scan's head do not overlap: their centres are 9" in result.output
    assert "wsub-2_pet.nii.gz" in result.output
    assert "sub-2_pet.nii.gz: taken as intensities (--labels if they are labels)" in result.output
    with pytest.raises(ScanError, match="no finished scan with a warp there"):
        find_warps(tmp_path)
    with pytest.raises(ScanError, match="no finished scan with a warp there"):
        find_warps(folder / "sub-9")
    with pytest.raises(VbmstatError, match="expected --to template or scan, got 'mni'"):
        carry([good], folder, "mni")


def test_scans_of_other_programs_are_found_by_their_fields(folder, tmp_path):
    warp = next(iter(find_warps(folder).values()))
    io.write_volume(tmp_path / "mri" / "y_S001.nii", warp.to_scan)
    for given in (tmp_path, tmp_path / "mri", tmp_path / "mri" / "y_S001.nii", tmp_path / "S001"):
        assert [scan.stem for scan in find_warps(given)] == ["S001"]
    for given in (
        folder / "mri" / "u_sub-2_T1w.nii.gz",
        folder / "report" / "vbmstat_sub-2_T1w.json",
        folder / "sub-2",
    ):
        assert [scan.stem for scan in find_warps(given)] == ["sub-2_T1w"]
