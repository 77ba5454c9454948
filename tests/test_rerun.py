"""Running a scan again from its sidecar: the same bytes, the input found wherever it is, changes told.

The engine ran once (fixture ``preprocessed``); its result stands in for each run, everything around it is real.
"""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from vbmstat import rerun
from vbmstat.assets import sha256
from vbmstat.assets.provenance import find_file
from vbmstat.batch import derivatives
from vbmstat.batch.run import preprocess
from vbmstat.errors import VbmstatError
from vbmstat.image import storage
from vbmstat.preproc import pipeline

SCAN = "sub-01_T1w.nii.gz"
CLASSIC = ("report/vbmstat_sub-01_T1w.json", "cat12")
BIDS = ("sub-01/anat/sub-01_desc-vbmstat_provenance.json", "bids")


@pytest.fixture(autouse=True)
def engine(monkeypatch, preprocessed):
    """The engine's earlier result; the number of threads it would have had is seen."""
    threads = []

    def stand_in(*_, **__):
        threads.append(torch.get_num_threads())
        return preprocessed

    monkeypatch.setattr(pipeline, "preprocess_scan", stand_in)
    monkeypatch.setattr(derivatives, "_write_picture", lambda path, *_: storage.write_text(path, "picture"))
    return threads


@pytest.fixture
def done(request, tmp_path, simulated):
    """(sidecar, folder of the scan) of a finished run, with CAT12's names unless a test asks for others."""
    name, names = getattr(request, "param", CLASSIC)
    place = tmp_path / "scans"
    place.mkdir()
    shutil.copy(simulated / "sub-01" / "anat" / SCAN, place / SCAN)
    preprocess(place / SCAN, tmp_path / "out", names=names, device="cpu")
    return tmp_path / "out" / name, place


def again(sidecar, inputs, out):
    return rerun.rerun_scan(rerun.read_record(sidecar), sidecar, inputs, out)


@pytest.mark.parametrize("done", [CLASSIC, BIDS], ids=["cat12", "bids"], indirect=True)
def test_same_bytes(done, tmp_path):
    sidecar, place = done
    compared = again(sidecar, [place], tmp_path / "again")
    assert {one.status for one in compared} == {"same bytes"}
    assert len(compared) == 17
    assert not rerun.differences(rerun.read_record(sidecar))


def test_as_many_threads_as_then(done, tmp_path, engine):
    sidecar, place = done
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**content, "threads": 7}))
    again(sidecar, [place], tmp_path / "again")
    assert engine[-1] == 7


def test_what_changed_is_told(done, tmp_path):
    sidecar, place = done
    files = [path for path in tmp_path.joinpath("out").rglob("*") if path.is_file()]
    volumes = next(path for path in files if "mwp1" in path.name or "desc-modulated_" in path.name)
    image = nib.load(volumes)
    data = np.asanyarray(image.dataobj).copy()
    data[50, 50, 50] += 0.25
    nib.save(nib.Nifti1Image(data, image.affine, image.header), volumes)
    next(path for path in files if path.suffix == ".tsv" and "volumes" in path.name).unlink()
    status = {one.name: one for one in again(sidecar, [place], tmp_path / "again") if one.status != "same bytes"}
    assert sorted(one.status for one in status.values()) == ["differs", "only now"]
    assert [one.detail for one in status.values() if one.detail] == ["values differ by at most 0.25"]


def test_the_input_is_found_under_another_name_and_by_its_content_only(done, tmp_path):
    sidecar, place = done
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (place / SCAN).rename(tmp_path / "elsewhere" / "deep" / "renamed.nii.gz")
    compared = again(sidecar, [tmp_path / "elsewhere"], tmp_path / "again")
    assert {one.status for one in compared} == {"same bytes"}
    (place / SCAN).write_bytes(b"another")
    with pytest.raises(VbmstatError, match=r"sub-01_T1w.nii.gz \(sha256 .*…\) is not below .*; .* has another content"):
        again(sidecar, [place], tmp_path / "again")
    with pytest.raises(VbmstatError, match="give its folder with --inputs"):
        again(sidecar, [tmp_path / "again"], tmp_path / "again")


def test_versions_that_differ(done):
    sidecar, _ = done
    record = rerun.read_record(sidecar)
    record["versions"]["torch"] = "1.0"
    record["parameters"]["assets"]["template"] = "0" * 64
    record["device"] = "cuda (NVIDIA X)"
    torch_line, device, assets = rerun.differences(record)
    assert torch_line == f"torch: 1.0 then, {torch.__version__} now"
    assert device.startswith("device: cuda (NVIDIA X) then, ")
    assert assets.startswith(f"asset template: {'0' * 64} then, ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not the record"), ("[]", "not the record"), ('{"command": "glm"}', "not the record"),
        (None, "No such file"),
        ('{"command": "roi", "versions": {}}', "made by vbmstat roi"),
    ],
)  # fmt: skip
def test_files_that_are_no_records(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "a.json").write_text(content)
    with pytest.raises(VbmstatError, match=reason):
        rerun.read_record(tmp_path / "a.json")


def test_a_sidecar_away_from_its_outputs(done, tmp_path):
    sidecar, place = done
    shutil.copy(sidecar, tmp_path / "copy.json")
    with pytest.raises(VbmstatError, match="beside the outputs of sub-01_T1w"):
        again(tmp_path / "copy.json", [place], tmp_path / "again")


def test_names_with_signs_of_patterns(tmp_path):
    path = tmp_path / "a" / "x[1]*.nii"
    path.parent.mkdir()
    path.write_bytes(b"1")
    assert find_file(path.name, sha256(path), [tmp_path]) == path
