"""BIDS: filters as PyBIDS has them, metadata of derivatives, and what the official validator says of both datasets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vbmstat.errors import VbmstatError
from vbmstat.files import bids, naming
from vbmstat.files.naming import Scan, split_ids
from vbmstat.files.outputs import OUTPUTS, output_kinds


def scan(stem: str) -> Scan:
    return Scan(Path(f"{stem}.nii.gz"), stem, *split_ids(stem))


@pytest.mark.parametrize(
    ("selection", "stem", "why"),
    [
        (bids.Selection(), "sub-01_T1w", ""),
        (bids.Selection(("01",)), "sub-01_T1w", ""),
        (bids.Selection(("sub-01", "03")), "sub-02_T1w", "participant not selected"),
        (bids.Selection(("0",)), "sub-01_T1w", "participant not selected"),
        (bids.Selection(sessions=("ses-1",)), "sub-01_ses-1_T1w", ""),
        (bids.Selection(sessions=("1",)), "sub-01_ses-2_T1w", "session not selected"),
        (bids.Selection(sessions=("1",)), "sub-01_T1w", ""),  # a scan without sessions, as in fMRIPrep
        (bids.Selection(filters={"run": 1}), "sub-01_run-01_T1w", ""),
        (bids.Selection(filters={"run": [2, 3]}), "sub-01_run-1_T1w", "run 1 is excluded by the filter"),
        (bids.Selection(filters={"acquisition": "mprage"}), "sub-01_T1w", r"acquisition \(none\) is excluded"),
        (bids.Selection(filters={"acquisition": None}), "sub-01_T1w", ""),
        (bids.Selection(filters={"acquisition": None}), "sub-01_acq-x_T1w", "acquisition x is excluded"),
        (bids.Selection(filters={"reconstruction": "*"}), "sub-01_rec-norm_T1w", ""),
        (bids.Selection(filters={"reconstruction": "*"}), "sub-01_T1w", r"reconstruction \(none\)"),
        (bids.Selection(filters={"suffix": "T1w", "datatype": "anat"}), "sub-01_T1w", ""),
    ],
)
def test_selection(selection, stem, why):
    found = selection.why_not(scan(stem))
    assert bool(found) == bool(why)
    if why:
        assert re.match(why, found)


def test_filter_file(tmp_path):
    path = tmp_path / "filter.json"
    path.write_text('{"t1w": {"datatype": "anat", "suffix": "T1w", "session": ["1"]}, "bold": {"task": "rest"}}')
    assert bids.read_filter(path)["session"] == ["1"]
    path.write_text('{"bold": {}}')
    assert bids.read_filter(path) == {}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[", "expected a JSON file of filters"),
        ("[1]", "expected filters such as"),
        ('{"t1w": 3}', "expected filters such as"),
        ('{"t1w": {"flavour": 1}}', "filtered by 'flavour'; expected some of subject, session"),
        ('{"t1w": {"suffix": "T2w"}}', "t1w has suffix 'T2w'; T1w scans have 'T1w'"),
    ],
)
def test_filters_that_cannot_be_used(tmp_path, text, match):
    (tmp_path / "filter.json").write_text(text)
    with pytest.raises(VbmstatError, match=match):
        bids.read_filter(tmp_path / "filter.json")


def test_dataset_description_is_demanded(tmp_path):
    with pytest.raises(VbmstatError, match=r"there is none; or give --skip-bids-validation"):
        bids.check_dataset(tmp_path)
    for text, match in (("{", "but "), ("[]", "but "), ('{"Name": "a"}', "expected BIDSVersion")):
        (tmp_path / "dataset_description.json").write_text(text)
        with pytest.raises(VbmstatError, match=match):
            bids.check_dataset(tmp_path)
    (tmp_path / "dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.9.0"}')
    bids.check_dataset(tmp_path)


def test_metadata_of_images(tmp_path):
    (tmp_path / "dataset_description.json").write_text("{}")
    own = Scan(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz", "sub-01_T1w", "sub-01")
    kinds = output_kinds((6.0, 7.5), outputs=OUTPUTS)
    images = [kind for kind in kinds if naming.output_path(Path(), own, kind).name.endswith(".nii.gz")]
    assert len(images) == 24
    for kind in images:
        content = bids.image_metadata(kind, own)
        assert content["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
        is_on_template = content["SpatialReference"].startswith("https://templateflow")
        assert (
            is_on_template
            == ("Resolution" in content)
            == ("w" in kind or kind[:2] == "rp" or kind in ("y", "velocity"))
        )
    assert bids.image_metadata("m", own)["SkullStripped"] is True
    smoothed = bids.image_metadata("s6mwp2", own)
    assert smoothed["SmoothingFWHM"] == {"Value": 6, "Units": "mm"}
    assert bids.image_metadata("s7.5mwp1", own)["SmoothingFWHM"] == {"Value": 7.5, "Units": "mm"}
    assert smoothed["Description"].startswith("Fraction of white matter, normalised, times the determinant")
    assert "Sources" not in bids.image_metadata("p1", scan("sub-01_T1w"))


def test_the_source_is_linked_if_that_tells_no_more_than_its_name(tmp_path):
    raw = tmp_path / "home" / "chris" / "study"
    raw.mkdir(parents=True)
    (raw / "dataset_description.json").write_text('{"DatasetDOI": "doi:10.1/2"}')
    own = Scan(raw / "sub-01" / "anat" / "sub-01_T1w.nii.gz", "sub-01_T1w", "sub-01")
    links = {}
    for out in (raw / "derivatives" / "vbmstat", raw.parent / "out", tmp_path / "elsewhere" / "out"):
        bids.write_dataset_files(out, [own], "bids")
        content = json.loads((out / "dataset_description.json").read_text())
        assert content["SourceDatasets"] == [{"DOI": "doi:10.1/2"}]
        links[out.parent.name] = content.get("DatasetLinks")
    assert links == {"derivatives": {"raw": "../.."}, "chris": {"raw": "../study"}, "elsewhere": None}
    bids.write_dataset_files(tmp_path / "cat12", [own], "cat12")
    assert not (tmp_path / "cat12" / ".bidsignore").exists()


_BESIDE_PYTHON = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
VALIDATOR = shutil.which("bids-validator-deno", path=_BESIDE_PYTHON)


def errors_of_validator(dataset: Path) -> list[str]:
    """Codes of the errors that the official validator finds."""
    command = [str(VALIDATOR), str(dataset), "--format", "json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    issues = json.loads(found[found.index("{") :])["issues"]["issues"]
    return [f"{issue['code']} {issue.get('location')}" for issue in issues if issue["severity"] == "error"]


needs_validator = pytest.mark.skipif(
    VALIDATOR is None, reason="the BIDS validator (pip install bids-validator-deno) is absent"
)


@needs_validator
def test_simulated_datasets_are_valid(simulated):
    assert errors_of_validator(simulated) == []
    assert errors_of_validator(simulated / "derivatives" / "truth") == []
