"""Cases from phantom heads whose diffusion image has another pose, and from a table of people."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests.tract_heads import PHANTOM_TRACTS, TractHead, tract_head
from vbmstat.cli import app
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.image import io
from vbmstat.image.grid import Grid, apply_affine, sample, voxel_indices
from vbmstat.image.volume import Volume
from vbmstat.tracts.names import TRACTS
from vbmstat.tracts.references import write_references
from vbmstat.training import prepare_tracts
from vbmstat.training.cases import CaseFile
from vbmstat.training.prepare_tracts import View, cases_of_table, rigid_to_tracts, tract_arrays
from vbmstat.training.tracts import tract_dice

VIEW = View(3.0, 32, min_dice=0.6)


@pytest.fixture(scope="module")
def head() -> TractHead:
    return tract_head(3)


def unpacked(packed: torch.Tensor, n: int = len(PHANTOM_TRACTS)) -> torch.Tensor:
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=0)[:n]).float()


def test_the_pose_of_the_diffusion_image_is_found(head):
    found = rigid_to_tracts(head.wm, head.references)
    assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-9)  # rigid
    points = 40 * np.vstack([np.eye(3), -np.eye(3)])
    moved, true = (points @ m[:3, :3].T + m[:3, 3] for m in (found, head.to_diffusion))
    assert np.linalg.norm(moved - true, axis=1).max() < 0.7  # mm; voxels are 3 mm


def test_references_and_teacher_meet_the_t1w_image(head):
    arrays = tract_arrays(head.t1w, head.wm, head.references, head.peaks, VIEW)
    grid = prepare_tracts.cube_around(head.t1w, VIEW.voxel_mm, VIEW.side)
    truth = prepare_tracts.resample(head.truth.data, head.truth.grid, grid)
    dice = tract_dice(unpacked(arrays["tracts"]), truth)
    assert np.mean(dice) > 0.8  # of masks that are two voxels thick
    points = apply_affine(arrays["to_peaks"][0, 0].numpy(), voxel_indices(grid.shape))
    moved = sample(unpacked(arrays["tracts_diffusion"]), points)  # as the teacher's output is moved
    assert np.mean(tract_dice(moved, unpacked(arrays["tracts"]))) > 0.98


def test_peaks_and_masks_keep_their_voxels(head):
    arrays = tract_arrays(head.t1w, head.wm, head.references, head.peaks, VIEW)
    there = unpacked(arrays["tracts_diffusion"])
    assert there.sum() == pytest.approx(float(head.references.data.sum()), rel=0.01)
    lengths = arrays["peaks"].reshape(3, 3, *there.shape[1:]).norm(dim=1)
    assert torch.isin(lengths.mul(1000).round(), torch.tensor([0.0, 1000.0])).all()  # not interpolated
    assert torch.equal(lengths[0] > 0.5, there.any(0))


def test_another_heads_tracts_are_refused(head):
    shifted = Volume(head.references.data.roll((9, -6), (1, 3)) * head.references.data.flip(2), head.references.grid)
    with pytest.raises(
        ScanError, match=r"Dice of white matter and tracts is 0\.\d\d after .*; are scan and references"
    ):
        tract_arrays(head.t1w, head.wm, shifted, head.peaks, VIEW)


def test_a_cube_that_would_cut_the_brain_is_refused(head):
    with pytest.raises(ScanError, match=r"brain spans 30 voxels of 3 mm, the cube 24: give --side 30"):
        tract_arrays(head.t1w, head.wm, head.references, head.peaks, View(3.0, 24))
    tract_arrays(head.t1w, head.wm, head.references, head.peaks, View(3.0, 30, min_dice=0.6))


def test_peaks_on_another_grid_are_refused(head):
    grid = head.peaks.grid
    moved = Volume(head.peaks.data, Grid(grid.shape, np.diag([2.0, 3.0, 3.0, 1.0])))
    with pytest.raises(ScanError, match=r"peaks: its grid .* differs from the references'"):
        tract_arrays(head.t1w, head.wm, head.references, moved, VIEW)


@pytest.fixture
def table(head, tmp_path, monkeypatch):
    """A person as files: T1w, TractSeg's folder (tracts that the phantom has not are copies), peaks."""
    rows = [PHANTOM_TRACTS.index(name) if name in PHANTOM_TRACTS else 0 for name in TRACTS]
    write_references(Volume(head.references.data[rows], head.references.grid), tmp_path / "person")
    io.write_volume(tmp_path / "t1w.nii.gz", head.t1w)
    io.write_volume(tmp_path / "peaks.nii.gz", head.peaks)
    pd.DataFrame(
        [{"participant_id": "sub-1", "t1w": "t1w.nii.gz", "references": "person", "peaks": "peaks.nii.gz"}]
    ).to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    fractions = Volume(torch.cat([1 - head.wm.data, head.wm.data, 0 * head.wm.data]), head.wm.grid)
    segmented = SimpleNamespace(work=head.t1w, fractions=fractions)
    monkeypatch.setattr(prepare_tracts, "segment_scan", lambda _: segmented)  # phantoms are no anatomy
    return tmp_path / "people.tsv"


def test_cases_of_a_table_equal_those_of_volumes(head, table):
    cases, settings = cases_of_table(table, VIEW)
    (case,) = cases
    expected = tract_arrays(head.t1w, head.wm, head.references, head.peaks, VIEW)
    assert (case.name, case.group) == ("sub-1", "sub-1")
    assert settings["tracts"] == list(TRACTS)
    assert settings["shape"] == settings["peaks_shape"] == [32, 32, 32]
    masks = unpacked(case.arrays["tracts"], len(TRACTS))
    assert torch.equal(masks[TRACTS.index("FX_left")], unpacked(expected["tracts"])[PHANTOM_TRACTS.index("FX_left")])
    assert torch.allclose(case.arrays["directions"], expected["directions"], atol=1e-3)


def test_paths_that_are_not_there_are_named_before_the_first_scan(table):
    rows = pd.read_csv(table, sep="\t")
    pd.concat([rows, rows.assign(participant_id="sub-2", references="persn")]).to_csv(table, sep="\t", index=False)
    with pytest.raises(VbmstatError, match=r"people.tsv: no such file or folder: persn; paths are relative"):
        cases_of_table(table, VIEW)


def test_a_table_without_a_column_is_refused(tmp_path):
    (tmp_path / "people.tsv").write_text("participant_id\tt1w\nsub-1\ta.nii\n")
    with pytest.raises(VbmstatError, match="missing: references, peaks"):
        cases_of_table(tmp_path / "people.tsv", VIEW)
    with pytest.raises(VbmstatError, match=r"none.tsv: no such table; expected rows"):
        cases_of_table(tmp_path / "none.tsv", VIEW)


def test_a_person_who_cannot_be_used_is_left_out_and_the_others_go_on(table, tmp_path):
    rows = pd.read_csv(table, sep="\t")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    broken = rows.assign(participant_id="sub-0", t1w="broken.nii.gz")
    pd.concat([rows, broken, rows.assign(participant_id="sub-2")]).to_csv(table, sep="\t", index=False)
    result = CliRunner().invoke(app, ["train", "prepare-tracts", str(tmp_path / "x.npz"), str(table), "--voxel-size",
                                      "3", "--side", "32"])  # fmt: skip
    assert result.exit_code == 1
    assert "left out: sub-0: " in result.output
    assert "people left out: 1; mend their rows" in result.output
    assert CaseFile(tmp_path / "x.npz").names == ["sub-1", "sub-2"]
