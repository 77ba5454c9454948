"""Manifests: equal runs have one, what differs shows; shards part it; inputs.tsv."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from vbmstat.batch.manifest import (
    common_folder,
    manifest,
    manifest_hash,
    parse_shard,
    shard_of,
    write_inputs,
    write_manifest,
)
from vbmstat.batch.scan import origin_of
from vbmstat.errors import VbmstatError
from vbmstat.files.naming import Scan
from vbmstat.files.search import Inputs
from vbmstat.preproc.spec import PreprocSpec


def origin(**options):
    return origin_of(PreprocSpec(**{"device": "cpu", **options}), {})


@pytest.fixture
def scans(tmp_path) -> list[Scan]:
    found = []
    for name in ("sub-1", "sub-2"):
        path = tmp_path / "bids" / name / f"{name}_T1w.nii"
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
        found.append(Scan(path, path.stem, name))
    return found


def test_a_manifest_says_what_is_done_with_which_scans_and_names_no_folder(scans, tmp_path):
    content = manifest(scans, origin())
    assert content["scans"][0] == {"scan": "sub-1_T1w", "path": "sub-1/sub-1_T1w.nii", "bytes": 5}
    assert content["spec"]["names"] == "cat12"
    assert {"vbmstat", "torch", "numpy"} <= set(content["versions"])
    assert str(tmp_path) not in json.dumps(content)


def test_equal_runs_have_one_manifest_and_others_another(scans, tmp_path):
    content = manifest(scans, origin())
    again = manifest(scans, origin())
    assert manifest_hash(content) == manifest_hash(dict(reversed(again.items())))
    others = [
        manifest(scans, origin(names="bids")), manifest(scans, origin(engine="cat")),
        manifest(scans[:1], origin()),
    ]  # fmt: skip
    scans[0].path.write_bytes(b"longer than before")
    others.append(manifest(scans, origin()))
    scans[0].path.unlink()
    others.append(manifest(scans, origin()))
    assert len({manifest_hash(other) for other in [content, *others]}) == 6

    path = write_manifest(tmp_path, content)
    assert path.name == f"manifest-{manifest_hash(content)}.json"
    assert manifest_hash(json.loads(path.read_text())) in path.name  # anyone can check it
    written = path.stat().st_mtime_ns
    assert write_manifest(tmp_path, again) == path
    assert path.stat().st_mtime_ns == written


def test_every_file_found_is_listed_with_the_reason(scans, tmp_path):
    skipped = {tmp_path / "bids" / "sub-1" / "sub-1_T2w.nii": "named as T2w, not as T1w"}
    write_inputs(tmp_path, Inputs(tuple(scans), skipped))
    table = pd.read_csv(tmp_path / "inputs.tsv", sep="\t", keep_default_na=False)
    assert table.to_numpy().tolist() == [
        ["sub-1/sub-1_T1w.nii", "sub-1_T1w", "used", "n/a"],
        ["sub-1/sub-1_T2w.nii", "n/a", "skipped", "named as T2w, not as T1w"],
        ["sub-2/sub-2_T1w.nii", "sub-2_T1w", "used", "n/a"],
    ]
    assert "left out" in json.loads((tmp_path / "inputs.json").read_text())["status"]["Levels"]["skipped"]


def test_the_folder_of_all():
    assert common_folder([Path("/a/b/c"), Path("/a/d/e/f")]) == Path("/a")
    assert common_folder([Path("/a/b/c")]) == Path("/a/b")
    assert common_folder([]) is None


def test_shards_are_all_scans_each_once():
    scans = list(range(10))
    parts = [shard_of(scans, (number, 4)) for number in range(1, 5)]
    assert sorted(number for part in parts for number in part) == scans
    assert [len(part) for part in parts] == [3, 3, 2, 2]
    assert shard_of(scans, None) == scans
    assert shard_of([1], (2, 3)) == []


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2"])
def test_what_is_no_shard(text):
    with pytest.raises(VbmstatError, match="expected --shard as i/n with i from 1 to n, such as 3/100"):
        parse_shard(text)
