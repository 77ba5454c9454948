"""Files: every order of axes reads the same, what is written is right to the byte, damage gives one line."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests import hostile
from vbmstat.errors import ScanError, one_line
from vbmstat.image import io
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume

AXCODES = ["".join(codes) for axes in permutations(("RL", "AP", "SI")) for codes in product(*axes)]


def test_there_are_48_axis_orders():
    assert len(set(AXCODES)) == 48


@pytest.mark.parametrize("affine", [hostile.AFFINE, hostile.oblique(hostile.AFFINE)], ids=["straight", "oblique"])
@pytest.mark.parametrize("axcodes", AXCODES)
def test_every_axis_order_reads_as_one_canonical_volume(tmp_path, stored_as, axcodes, affine):
    nib.save(stored_as(hostile.phantom(), affine, axcodes), tmp_path / "scan.nii")
    read = io.read_volume(tmp_path / "scan.nii")
    assert read.data.is_contiguous()
    np.testing.assert_array_equal(read.data[0], hostile.phantom())
    np.testing.assert_allclose(read.grid.affine, affine, atol=1e-5)
    assert io.read_grid(tmp_path / "scan.nii").matches(read.grid)
    assert io.read_axcodes(tmp_path / "scan.nii") == axcodes


@pytest.mark.parametrize("axcodes", AXCODES)
def test_round_trip_through_every_axis_order(tmp_path, volume, axcodes):
    io.write_volume(tmp_path / "map.nii", volume, axcodes=axcodes)
    assert io.read_axcodes(tmp_path / "map.nii") == axcodes
    read = io.read_volume(tmp_path / "map.nii")
    assert torch.equal(read.data, volume.data)
    assert read.grid.matches(volume.grid, tolerance_mm=1e-5)


def test_vector_image_keeps_its_channels(tmp_path, volume):
    field = Volume(torch.cat([volume.data, -volume.data, volume.data / 3]), volume.grid)
    io.write_volume(tmp_path / "y.nii.gz", field, axcodes="PIR")
    image = nib.load(tmp_path / "y.nii.gz")
    assert image.shape[3:] == (1, 3)
    assert image.header.get_intent()[0] == "vector"
    assert torch.equal(io.read_channels(tmp_path / "y.nii.gz").data, field.data)
    assert torch.equal(io.read_channels(tmp_path / "y.nii.gz", 2).data, field.data[:2])


@pytest.mark.parametrize(("space", "code"), [("mni", 4), ("scanner", 1)])
def test_header_says_where_and_in_what_unit(tmp_path, volume, space, code):
    turned = Volume(volume.data, Grid(volume.grid.shape, hostile.oblique(volume.grid.affine)))
    io.write_volume(tmp_path / "map.nii.gz", turned, space=space)
    header = nib.load(tmp_path / "map.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (code, code)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    with gzip.open(tmp_path / "map.nii.gz") as stream:  # nibabel hides what it read of these
        assert struct.unpack_from("<2f", stream.read(), 112) == (1.0, 0.0)
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_dtype() == np.float32


def test_statistic_maps_carry_intent_and_description(tmp_path, volume):
    io.write_volume(tmp_path / "t.nii", volume, intent=("t test", (96.0,)), description="SPM{T_[96.0]} - " + "é" * 80)
    header = nib.load(tmp_path / "t.nii").header
    assert header.get_intent()[:2] == ("t test", (96.0,))
    description = bytes(header["descrip"].item())
    assert len(description) <= 79
    assert description.decode("utf-8").startswith("SPM{T_[96.0]}")  # not cut within a letter


def test_label_images_are_rounded_not_scaled(tmp_path, volume):
    labels = Volume(torch.arange(1680, dtype=torch.float32).reshape(1, *hostile.SHAPE) + 0.6, volume.grid)
    io.write_volume(tmp_path / "p0.nii.gz", labels, dtype="int16")
    assert nib.load(tmp_path / "p0.nii.gz").get_data_dtype() == np.int16
    assert torch.equal(io.read_volume(tmp_path / "p0.nii.gz").data, labels.data.ceil())


def test_values_beyond_an_integer_type_are_refused(tmp_path, volume):
    with pytest.raises(ValueError, match=r"values from 1 to 9\d\d do not fit uint8"):
        io.write_volume(tmp_path / "p0.nii.gz", volume, dtype="uint8")
    assert not list(tmp_path.iterdir())


def test_only_nifti_is_written(tmp_path, volume):
    with pytest.raises(ValueError, match=r"ending in .nii or .nii.gz, got map.mgz"):
        io.write_volume(tmp_path / "map.mgz", volume)


def test_the_same_map_gives_the_same_bytes(tmp_path, volume, monkeypatch):
    for name in ("a/map.nii.gz", "b/other.nii.gz"):
        io.write_volume(tmp_path / name, volume)
        monkeypatch.setattr("time.time", lambda: 2e9)  # were the time in the gzip header, it would differ now
    assert (tmp_path / "a/map.nii.gz").read_bytes() == (tmp_path / "b/other.nii.gz").read_bytes()


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_file_is_what_nibabel_writes_of_it(tmp_path, volume, dtype):
    io.write_volume(tmp_path / "map.nii", volume, dtype=dtype)
    content = (tmp_path / "map.nii").read_bytes()
    assert nib.Nifti1Image.from_bytes(content).to_bytes() == content


def test_free_text_of_headers_is_not_copied(tmp_path, volume):
    image = hostile.nifti(hostile.phantom())
    image.header["descrip"], image.header["db_name"] = b"Chris Rorden 1970-01-01", b"patient 17"
    nib.save(image, tmp_path / "scan.nii")
    io.write_volume(tmp_path / "map.nii", io.read_volume(tmp_path / "scan.nii"))
    content = (tmp_path / "map.nii").read_bytes()
    assert b"Chris" not in content
    assert b"patient" not in content


@pytest.mark.parametrize("case", hostile.BAD, ids=lambda case: case.name)
def test_bad_image_gives_one_line_with_its_path(tmp_path, case):
    path = case.write(tmp_path)
    with pytest.raises(ScanError, match=case.match) as caught:
        io.read_scan(path)
    message = str(caught.value)
    assert message.startswith(one_line(str(path)))
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize("case", hostile.ODD, ids=lambda case: case.name)
def test_odd_image_is_read_rightly(tmp_path, case):
    read = io.read_scan(case.write(tmp_path))
    assert read.grid.shape == hostile.SHAPE
    np.testing.assert_array_equal(read.data[0], hostile.phantom())
    np.testing.assert_allclose(read.grid.affine, hostile.AFFINE, atol=1e-5)


def test_without_any_form_the_voxel_size_is_kept(tmp_path):
    nib.save(hostile.nifti(hostile.phantom(), sform=0, qform=0), tmp_path / "scan.nii.gz")
    grid = io.read_scan(tmp_path / "scan.nii.gz").grid
    np.testing.assert_allclose(grid.voxel_size_mm, hostile.VOXEL_MM)
    np.testing.assert_allclose(grid.affine @ [5.5, 6.5, 4.5, 1], [0, 0, 0, 1], atol=1e-5)  # centred on the origin


def test_slope_and_intercept_are_applied(tmp_path):
    image = hostile.nifti(hostile.phantom())
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(io.read_volume(tmp_path / "scan.nii.gz").data[0], hostile.phantom() * 0.5 + 3)


def test_nan_around_the_field_of_view_is_background(tmp_path):
    data = np.full(hostile.SHAPE, np.nan, np.float32)
    inside = (slice(2, -2),) * 3
    data[inside] = hostile.phantom()[inside]
    nib.save(hostile.nifti(data), tmp_path / "scan.nii")
    read = io.read_scan(tmp_path / "scan.nii").data[0].numpy()
    np.testing.assert_array_equal(read, np.nan_to_num(data))
    data[6, 6, 5] = np.inf
    nib.save(hostile.nifti(data), tmp_path / "worse.nii")
    with pytest.raises(ScanError, match="1 of 1680 values are NaN or infinite"):
        io.read_scan(tmp_path / "worse.nii")


def test_missing_file_and_broken_link(tmp_path):
    with pytest.raises(ScanError, match="no such file"):
        io.read_volume(tmp_path / "absent.nii.gz")
    (tmp_path / "annexed.nii.gz").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ScanError, match="datalad get"):
        io.read_volume(tmp_path / "annexed.nii.gz")


def test_nibabel_does_not_write_to_the_error_stream(tmp_path):
    case = next(case for case in hostile.BAD if case.name == "data type 9999")
    program = (
        "import sys\nfrom vbmstat import errors; from vbmstat.image import io\n"
        "try: io.read_volume(sys.argv[1])\n"
        "except errors.ScanError: pass\n"
        "import nibabel\n"
        "try: nibabel.load(sys.argv[1])\n"  # and elsewhere it still does
        "except nibabel.spatialimages.HeaderDataError: pass\n"
    )
    command = [sys.executable, "-c", program, str(case.write(tmp_path))]
    errors = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert errors.count("not recognized") == 1


def test_absurd_header_takes_no_memory(tmp_path):
    names = (
        "header claims 32767³", "header claims 900³", "header claims 400³", "header claims 10¹² cubed", "gzip bomb",
        "gzip bomb in an extension", "mgz claims 32767³",
    )  # fmt: skip
    paths = []
    for number, case in enumerate(case for case in hostile.BAD if case.name in names):
        (tmp_path / str(number)).mkdir()
        paths.append(str(case.write(tmp_path / str(number))))
    assert len(paths) == len(names)
    program = (
        "import resource, sys\n"
        "from vbmstat import errors; from vbmstat.image import io\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try: io.read_volume(path)\n"
        "    except errors.ScanError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True).stdout
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 100e6


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = hostile.ODD[0].write(tmp_path)
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ScanError, match=r"scan\.nii\.gz: expected .* cannot be read \(.*Permission denied\); ask for"):
        io.read_scan(path)
    monkeypatch.setattr(Path, "is_file", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ScanError, match=r"scan\.nii\.gz: cannot be accessed \(Permission denied\)"):
        io.read_scan(path)


@pytest.mark.parametrize("factor", [1e30, 1e-30, -1e30, 1e-41, 1.0])
def test_extreme_intensities_are_brought_within_reach(tmp_path, factor):
    stored = (hostile.phantom() * factor).astype(np.float32)
    nib.save(hostile.nifti(stored), tmp_path / "scan.nii")
    read = io.read_scan(tmp_path / "scan.nii").data[0].numpy()
    assert 500 < np.abs(read).max() < 1500
    ratio = read.astype(np.float64) / stored
    assert ratio.min() == ratio.max()  # one power of two
    assert np.log2(ratio.max()) == round(np.log2(ratio.max()))
    assert (ratio.max() == 1) == (factor == 1)
