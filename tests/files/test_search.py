"""Inputs: which scans are found where, and what is skipped, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbmstat.errors import ScanError
from vbmstat.files import search


def make(folder: Path, *names: str) -> Path:
    """Empty files, and the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


@pytest.fixture
def bids(tmp_path) -> Path:
    return make(
        tmp_path / "bids",
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
        "sub-02/ses-2/anat/sub-02_ses-2_run-1_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_run-2_T1w.nii.gz",
        "sub-02/ses-2/anat/sub-02_ses-2_run-2_T1w.json",
        "derivatives/fmriprep/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz",
        "derivatives/vbmstat/mri/s6mwp1sub-01_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
    )


def found(*places) -> list[str]:
    return [scan.stem for scan in search.find_inputs(places).scans]


def skipped(*places) -> dict[str, str]:
    return {path.name: reason for path, reason in search.find_inputs(places).skipped.items()}


EVERY_SCAN = ["sub-01_T1w", "sub-02_ses-1_T1w", "sub-02_ses-2_run-1_T1w", "sub-02_ses-2_run-2_T1w"]


def test_bids_folder(bids):
    assert found(bids) == EVERY_SCAN
    scans = search.find_inputs([bids]).scans
    assert [(scan.participant_id, scan.session_id) for scan in scans] == [
        ("sub-01", ""), ("sub-02", "ses-1"), ("sub-02", "ses-2"), ("sub-02", "ses-2"),
    ]  # fmt: skip
    assert all(scan.path.is_absolute() and scan.path.is_file() for scan in scans)


def test_bids_folder_without_description(bids):
    (bids / "dataset_description.json").unlink()
    assert found(bids) == EVERY_SCAN


def test_trailing_slash_and_relative_path(bids, monkeypatch):
    assert found(f"{bids}/") == EVERY_SCAN
    monkeypatch.chdir(bids)
    assert found(".") == found("./") == EVERY_SCAN


def test_what_is_passed_over_in_a_bids_folder(bids):
    make(
        bids / "sub-03",
        "sub-03_T1w.nii.gz",
        "anat/._sub-03_T1w.nii.gz",
        "anat/sub-03_part-phase_T1w.nii.gz",
        "anat/sub-03_part-mag_T1w.nii.gz",
        "anat/sub-03_UNIT1.nii.gz",
        "ses-9/anat/sub-03_ses-9_T1w.nii.gz",
    )
    (bids / ".bidsignore").write_text("ses-9/\n")
    assert found(bids) == [*EVERY_SCAN, "sub-03_part-mag_T1w"]
    assert skipped(bids) == {
        "sub-01_T2w.nii.gz": "named as T2w, not as T1w",
        "sub-03_T1w.nii.gz": "not in a folder anat/",
        "._sub-03_T1w.nii.gz": "hidden file",
        "sub-03_part-phase_T1w.nii.gz": "a phase image, not magnitude",
        "sub-03_UNIT1.nii.gz": "named as UNIT1, not as T1w",
        "sub-03_ses-9_T1w.nii.gz": "in .bidsignore",
    }


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("# nothing\n\n", [0, 1, 2, 3]),
        ("sub-02/\n", [0]),
        ("sub-02\n", [0]),
        ("*_run-2_*\n", [0, 1, 2]),
        ("sub-02/ses-2/**\n", [0, 1]),
        ("/sub-0*/ses-1\n", [0, 2, 3]),
        ("**/anat\n!sub-01_T1w.nii.gz\n", [0]),
        ("sub-0? \n", []),
        ("anat/sub-01_T1w.nii.gz\n", [0, 1, 2, 3]),  # relative to the dataset: no such file
    ],
)
def test_bidsignore(bids, rules, kept):
    (bids / ".bidsignore").write_text(rules)
    if kept:
        assert found(bids) == [EVERY_SCAN[n] for n in kept]
    else:
        with pytest.raises(ScanError, match=r"found no T1w image.*; skipped 5, e\.g\. .* \(in \.bidsignore\)"):
            found(bids)


def test_bidsignore_of_another_encoding(bids):
    (bids / ".bidsignore").write_bytes("# pr\xe9nom\nsub-02\n".encode("latin-1"))
    assert found(bids) == EVERY_SCAN[:1]


def test_folder_of_images_and_single_files(tmp_path):
    folder = make(tmp_path, "b.nii", "a.nii.gz", "c.mgz", ".hidden.nii", "notes.txt", "deeper/d.nii", "sub-1_FLAIR.nii")
    assert found(folder) == ["a", "b", "c"]
    assert skipped(folder) == {
        ".hidden.nii": "hidden file",
        "deeper": "a sub-folder",
        "notes.txt": "not an image file (.nii.gz, .nii, .mgz)",
        "sub-1_FLAIR.nii": "named as FLAIR, not as T1w",
    }
    assert found(folder / "c.mgz", folder / "deeper" / "d.nii", folder / "c.mgz") == ["c", "d"]
    assert "sub-1_FLAIR" in found(folder, folder / "sub-1_FLAIR.nii")  # asked for by name
    assert "sub-1_FLAIR.nii" not in skipped(folder, folder / "sub-1_FLAIR.nii")
    assert search.find_inputs([folder]).scans[0].participant_id == "a"


def test_what_is_no_file_fails_as_a_scan_and_not_the_batch(tmp_path):
    folder = make(tmp_path, "a.nii", "c.nii.gz/inside.txt")
    (folder / "b.nii").symlink_to("annex/nowhere.nii")
    (folder / "loop.nii").symlink_to("loop.nii")
    assert found(folder) == ["a", "b", "c", "loop"]
    assert found(folder / "b.nii", folder / "c.nii.gz", folder / "loop.nii") == ["b", "c", "loop"]


def test_a_folder_that_cannot_be_listed_is_told(bids, monkeypatch):
    def iterdir(path):
        if path.name == "sub-02":
            raise PermissionError(13, "Permission denied")
        return original(path)

    original = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert found(bids) == EVERY_SCAN[:1]
    assert skipped(bids)["sub-02"] == "cannot be listed (Permission denied)"


def test_without_moves_scans_to_the_skipped(bids):
    everything = search.find_inputs([bids])
    some = everything.without(lambda scan: "not asked for" if scan.participant_id == "sub-02" else "")
    assert [scan.stem for scan in some.scans] == EVERY_SCAN[:1]
    assert [reason for path, reason in some.skipped.items() if "T1w" in path.name] == ["not asked for"] * 3
    assert len(some.skipped) == len(everything.skipped) + 3


def test_equal_names_get_their_folder_in_front(tmp_path):
    make(tmp_path, "berlin/sub-01_T1w.nii", "oslo/sub-01_T1w.nii", "oslo/sub-02_T1w.nii")
    assert found(tmp_path / "berlin", tmp_path / "oslo") == ["berlin_sub-01_T1w", "oslo_sub-01_T1w", "sub-02_T1w"]


def test_names_that_cannot_be_told_apart(tmp_path):
    make(tmp_path, "x.nii", "x.nii.gz")
    with pytest.raises(ScanError, match=r"would write the same output names: .*x.nii, .*x.nii.gz; rename"):
        found(tmp_path)


def test_nothing_to_do(tmp_path):
    with pytest.raises(ScanError, match="absent: no such file or folder"):
        found(tmp_path / "absent")
    with pytest.raises(ScanError, match="found no T1w image; expected a BIDS folder"):
        found(tmp_path)
    with pytest.raises(ScanError, match="nothing given"):
        found()


@pytest.mark.timeout(20)
def test_a_hundred_thousand_scans_are_no_burden(monkeypatch):
    paths = [Path(f"/data/sub-{n:06d}_T1w.nii.gz") for n in range(100_000)]
    monkeypatch.setattr(search, "_images_in", lambda *_: paths)
    assert len(search.find_inputs(["/tmp"]).scans) == len(paths)  # noqa: S108
