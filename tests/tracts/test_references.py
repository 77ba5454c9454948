import nibabel as nib
import numpy as np
import pytest
import torch

from vbmstat.errors import ScanError
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.tracts.names import TRACTS, WEAK, mirrored
from vbmstat.tracts.references import read_peaks, read_references, write_references

GRID = Grid((5, 6, 4), np.array([[2.5, 0, 0, -5], [0, 2.5, 0, -7], [0, 0, 2.5, 3], [0, 0, 0, 1.0]]))


def masks():
    generator = torch.Generator().manual_seed(0)
    return Volume((torch.rand(72, *GRID.shape, generator=generator) > 0.5).float(), GRID)


def test_72_tracts_and_their_other_sides():
    assert len(set(TRACTS)) == 72
    assert set(TRACTS) > WEAK
    assert all(mirrored(tract) in TRACTS and mirrored(mirrored(tract)) == tract for tract in TRACTS)


def test_a_folder_as_tractseg_writes_it(tmp_path):
    paths = write_references(masks(), tmp_path)
    image = nib.load(paths[0])
    assert paths[0].relative_to(tmp_path).as_posix() == "bundle_segmentations/AF_left.nii.gz"
    assert np.issubdtype(image.get_data_dtype(), np.integer)
    again = read_references(tmp_path)
    assert torch.equal(again.data, masks().data)
    assert again.grid.matches(GRID)


def test_missing_tracts_are_named(tmp_path):
    write_references(masks(), tmp_path)
    for name in ("CA", "UF_right"):
        (tmp_path / "bundle_segmentations" / f"{name}.nii.gz").unlink()
    with pytest.raises(ScanError, match=r"2 of 72 tracts are missing \(CA, UF_right\)"):
        read_references(tmp_path)
    with pytest.raises(ScanError, match="none: no such folder"):
        read_references(tmp_path / "none")


@pytest.mark.parametrize(
    ("data", "grid", "match"),
    [
        (torch.full((1, 5, 6, 4), 0.5), GRID, "mask of 0 and 1"),
        (torch.zeros(1, 5, 6, 4), GRID, "mask is empty"),
        (torch.full((1, 5, 6, 4), float("nan")), GRID, "mask of 0 and 1"),
        (torch.ones(1, 5, 6, 4), Grid(GRID.shape, np.eye(4)), "grid .* differs"),
    ],
)
def test_masks_that_cannot_be_used(tmp_path, data, grid, match):
    write_references(masks(), tmp_path)
    io.write_volume(tmp_path / "bundle_segmentations" / "CST_left.nii.gz", Volume(data, grid))
    with pytest.raises(ScanError, match=rf"CST_left\.nii\.gz: .*{match}"):
        read_references(tmp_path)


def test_a_single_slice_is_refused(tmp_path):
    flat = Grid((5, 6, 1), np.eye(4))
    write_references(Volume(torch.ones(72, 5, 6, 1), flat), tmp_path)
    with pytest.raises(ScanError, match="not a slice"):
        read_references(tmp_path)


def peaks(tmp_path, change):
    data = np.ones((5, 6, 4, 9), np.float32)
    data[..., 3:] = np.nan  # no second and third peak
    change(data)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "peaks.nii.gz")
    return tmp_path / "peaks.nii.gz"


def test_no_peak_is_zero(tmp_path):
    volume = read_peaks(peaks(tmp_path, lambda data: None))
    assert volume.data.shape == (9, 5, 6, 4)
    assert volume.data[:3].eq(1).all()
    assert volume.data[3:].eq(0).all()


@pytest.mark.parametrize(("value", "match"), [(np.nan, "1 peaks hold NaN"), (np.inf, "1 peaks hold NaN or inf")])
def test_peaks_with_holes_are_refused(tmp_path, value, match):
    def change(data):
        data[1, 1, 1, 1] = value

    with pytest.raises(ScanError, match=match):
        read_peaks(peaks(tmp_path, change))


def test_peaks_of_nothing_are_refused(tmp_path):
    with pytest.raises(ScanError, match="no voxel has a peak"):
        read_peaks(peaks(tmp_path, lambda data: data.fill(np.nan)))


def test_peaks_of_a_slice_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((5, 6, 1, 9), np.float32), np.eye(4)), tmp_path / "flat.nii.gz")
    with pytest.raises(ScanError, match="not a slice"):
        read_peaks(tmp_path / "flat.nii.gz")
