from __future__ import annotations

from pathlib import Path

import pytest

from vbmstat.errors import ScanError
from vbmstat.files.lesion_masks import find_lesion_masks, without_mask
from vbmstat.files.naming import Scan

SCANS = [Scan(Path(f"{stem}.nii.gz"), stem, f"sub-{i}", "ses-1") for i in (1, 2) for stem in [f"sub-{i}_ses-1_T1w"]]


@pytest.mark.parametrize(
    "pattern",
    ["{participant_id}_a.nii.gz", "{name}_mask.nii.gz", "{scan_id}/a.nii.gz", "{participant_id}{session_id}.nii"],
)  # fmt: skip
def test_masks_are_found_by_the_ids_of_the_scan(tmp_path, pattern):
    path = tmp_path / pattern.format(participant_id="sub-1", session_id="ses-1", scan_id="sub-1_ses-1",
                                     name="sub-1_ses-1_T1w")  # fmt: skip
    path.parent.mkdir(exist_ok=True)
    path.touch()
    masks = find_lesion_masks(str(tmp_path / pattern), SCANS)
    assert masks == {SCANS[0]: path}
    assert without_mask(masks, SCANS) == (
        "no lesion mask for 1 of 2 scans, which are processed without: sub-2_ses-1_T1w"
    )  # fmt: skip


def test_one_file_is_for_one_scan(tmp_path):
    (tmp_path / "lesion.nii").touch()
    given = str(tmp_path / "lesion.nii")
    assert find_lesion_masks(given, SCANS[:1]) == {SCANS[0]: Path(given)}
    assert without_mask({SCANS[0]: Path(given)}, SCANS[:1]) == ""
    with pytest.raises(ScanError, match=r"one file for 2 scans; write {participant_id}"):
        find_lesion_masks(given, SCANS)


@pytest.mark.parametrize(
    ("given", "message"),
    [("{name}.nii", "no such file .*sub-1_ses-1_T1w.nii for the first scan"), ("{id}.nii", "expected only .*'id'"),
     ("{name.nii", "expected only .*in braces")],
)  # fmt: skip
def test_what_is_refused(tmp_path, given, message):
    with pytest.raises(ScanError, match=message):
        find_lesion_masks(str(tmp_path / given), SCANS)
