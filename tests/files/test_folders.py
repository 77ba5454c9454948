"""Files below a folder: links, circles, hidden files, what cannot be listed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from vbmstat.assets.provenance import find_file, sha256
from vbmstat.errors import ScanError
from vbmstat.evaluate.folders import _truth_labels
from vbmstat.evaluate.outputs import find_outputs
from vbmstat.files import map_names
from vbmstat.files.folders import files_below
from vbmstat.files.map_names import find_maps
from vbmstat.files.naming import Scan, find_sidecars, output_path
from vbmstat.files.search import find_inputs


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(folder: Path, **options: bool) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in files_below(folder, **options)]


@pytest.fixture
def linked(tmp_path) -> Path:
    """Maps of three people: one in the folder itself, one behind a link, one behind a link below a real folder."""
    disk, home = tmp_path / "disk", tmp_path / "maps"
    touch(home / "sub-01" / "mri" / "mwp1sub-01.nii")
    touch(disk / "sub-02" / "mri" / "mwp1sub-02.nii")
    touch(disk / "three" / "mwp1sub-03.nii")
    (home / "sub-02").symlink_to(disk / "sub-02")
    (home / "sub-03").mkdir()
    (home / "sub-03" / "mri").symlink_to(disk / "three")
    return home


def test_links_to_folders_are_entered(linked):
    expected = [f"sub-0{n}/mri/mwp1sub-0{n}.nii" for n in (1, 2, 3)]
    assert names(linked) == expected
    assert list(find_maps(linked, 1)) == ["sub-01", "sub-02", "sub-03"]
    assert find_outputs(linked).modulated[1].keys() == {"sub-01", "sub-02", "sub-03"}


def test_circles_of_links_end_and_each_folder_is_entered_once(linked):
    (linked / "sub-01" / "up").symlink_to(linked)
    (linked / "a_link_before_it").symlink_to(linked / "sub-01")
    (linked / "itself").symlink_to(linked / "itself")  # cannot be followed: listed as a file
    assert names(linked) == ["itself", *(f"sub-0{n}/mri/mwp1sub-0{n}.nii" for n in (1, 2, 3))]
    assert list(find_maps(linked, 1)) == ["sub-01", "sub-02", "sub-03"]


def test_a_link_to_a_map_that_is_there_is_no_second_map(linked):
    (linked / "all").mkdir()
    (linked / "all" / "mwp1sub-01.nii").symlink_to(linked / "sub-01" / "mri" / "mwp1sub-01.nii")
    assert len(find_maps(linked, 1)) == 3
    assert len(find_outputs(linked).modulated[1]) == 3
    touch(linked / "other" / "mwp1sub-02.nii")
    with pytest.raises(ScanError, match="two maps of sub-02"):
        find_maps(linked, 1)


@pytest.mark.parametrize("names_of", ["cat12", "bids"])
@pytest.mark.parametrize("kind", ["mwp1", "s6mwp1"])
def test_hidden_files_are_no_maps(tmp_path, names_of, kind):
    path = output_path(tmp_path, Scan(Path("sub-01_T1w.nii"), "sub-01_T1w", "sub-01"), kind, names_of)
    touch(path)
    touch(path.with_name(f"._{path.name}"))
    touch(tmp_path / ".git" / "annex" / path.name)
    assert list(find_maps(tmp_path, 1).values()) == [path]
    assert map_names.parse_map_name(f"._{path.name}") is None


def test_hidden_files_are_nowhere_taken(tmp_path):
    scan = Scan(Path("sub-01_ses-1_T1w.nii"), "sub-01_ses-1_T1w", "sub-01", "ses-1")
    for kind in ("p0", "p1", "sidecar", "wp1", "y"):
        for style in ("cat12", "bids"):
            path = touch(output_path(tmp_path / style, scan, kind, style))
            touch(path.with_name(f"._{path.name}"))
    for style in ("cat12", "bids"):
        assert set(find_outputs(tmp_path / style).stems.values()) <= {"sub-01_ses-1_T1w", "sub-01_ses-1"}
        assert find_sidecars(tmp_path / style, style) == [output_path(tmp_path / style, scan, "sidecar", style)]
    touch(tmp_path / "truth" / "p0a.nii")
    touch(tmp_path / "truth" / "._p0a.nii")
    assert list(_truth_labels(tmp_path / "truth")) == ["a"]


@pytest.mark.parametrize("at", ["sub-02", "sub-02/ses-1", "sub-02/ses-1/anat"])
def test_bids_folders_behind_links(tmp_path, at):
    scan = touch(tmp_path / "bids" / "sub-02" / "ses-1" / "anat" / "sub-02_ses-1_T1w.nii.gz")
    moved = tmp_path / "disk" / Path(at).name
    moved.parent.mkdir()
    shutil.move(tmp_path / "bids" / at, moved)
    (tmp_path / "bids" / at).symlink_to(moved)
    assert [one.path for one in find_inputs([tmp_path / "bids"]).scans] == [scan]
    sidecar = output_path(tmp_path / "bids", Scan(scan, "sub-02_ses-1_T1w", "sub-02", "ses-1"), "sidecar", "bids")
    touch(sidecar)
    assert find_sidecars(tmp_path / "bids", "bids") == [sidecar]


def test_inputs_of_a_record_are_found_behind_links_by_their_content(tmp_path):
    path = touch(tmp_path / "disk" / "deep" / "x[1].nii", "content")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "disk")
    found = tmp_path / "here" / "link" / "deep" / "x[1].nii"
    assert find_file("x[1].nii", sha256(path), [tmp_path / "here"]) == found
    assert find_file("renamed.nii", sha256(path), [tmp_path / "here"]) == found


def test_a_folder_that_cannot_be_listed_is_told(linked, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub-02":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ScanError, match=r"sub-02: this folder cannot be listed \(Permission denied\)"):
        find_maps(linked, 1)
    assert len(names(linked, skip_unreadable=True)) == 2


def test_a_folder_named_like_a_map_is_not_passed_over(linked):
    (linked / "mwp1sub-04.nii.gz").mkdir()
    assert list(find_maps(linked, 1)) == ["sub-04", "sub-01", "sub-02", "sub-03"]
