"""Provenance: complete, equal for equal runs, and silent about person and machine."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vbmstat.assets.provenance import path_label, provenance
from vbmstat.errors import VbmstatError


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "sub-01" / "scan.nii"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    return path


def test_everything_that_made_an_output(tmp_path, scan):
    content = provenance("preprocess", {"fwhm_mm": 6.0}, [scan], engine="classic", device="cpu")
    assert content["command"] == "preprocess"
    assert content["parameters"] == {"fwhm_mm": 6.0}
    assert content["inputs"] == [{"path": "scan.nii", "sha256": hashlib.sha256(b"voxels").hexdigest()}]
    assert (content["engine"], content["device"]) == ("classic", "cpu")
    assert set(content["versions"]) >= {"vbmstat", "torch", "numpy", "nibabel", "python", "platform"}
    assert "engine" not in provenance("glm", {})


def test_values_that_are_not_json(tmp_path):
    parameters = {
        "grid": np.eye(2), "n": np.int32(2), "t": torch.tensor([1.5]), "out": tmp_path / "a", "kinds": {"b", "a"},
        "device": torch.device("cpu"), "nested": {1: (None, True)},
    }  # fmt: skip
    content = provenance("glm", parameters)
    assert json.loads(json.dumps(content))["parameters"] == {
        "grid": [[1.0, 0.0], [0.0, 1.0]], "n": 2, "t": [1.5], "out": "a", "kinds": ["a", "b"], "device": "cpu",
        "nested": {"1": [None, True]},
    }  # fmt: skip


def test_inputs_that_cannot_be_read(tmp_path):
    with pytest.raises(VbmstatError, match=r"absent.nii: cannot be read: No such file"):
        provenance("glm", {}, [tmp_path / "absent.nii"])
    (tmp_path / "annexed.nii").symlink_to(tmp_path / "nowhere")
    with pytest.raises(VbmstatError, match=r"annexed.nii: cannot be read: .*datalad get"):
        provenance("glm", {}, [tmp_path / "annexed.nii"])


@pytest.mark.timeout(10)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "scan.nii.gz")
    with pytest.raises(VbmstatError, match=r"scan\.nii\.gz: cannot be read: no regular file"):
        provenance("preprocess", {}, [tmp_path / "scan.nii.gz"])


def test_equal_runs_give_equal_records(scan, monkeypatch):
    first = provenance("preprocess", {"a": 1}, [scan])
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert json.dumps(provenance("preprocess", {"a": 1}, [scan])) == json.dumps(first)
    assert not re.search(r"\d{4}-\d\d-\d\dT|seconds|_utc", json.dumps(first))  # no time in any form


def test_no_person_and_no_machine(scan):
    text = json.dumps(provenance("preprocess", {"out": scan.parent, "atlas": Path.home() / "atlas.nii"}, [scan]))
    assert platform.node() not in text
    assert str(scan.parent.parent) not in text
    assert str(Path.home()) + "/" not in text
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text)


def test_paths_outside_the_root_keep_their_name_alone(tmp_path):
    assert path_label(tmp_path / "a" / "b.nii", tmp_path) == "a/b.nii"
    assert path_label("../../chris/b.nii") == "b.nii"
    assert path_label("a/b.nii") == "a/b.nii"
    assert path_label(tmp_path / "b.nii", tmp_path / "elsewhere") == "b.nii"
