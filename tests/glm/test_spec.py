"""The spec of a model: fields, keywords, records."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.glm.conftest import make_table
from vbmstat.assets.provenance import find_file
from vbmstat.errors import DesignError, ScanError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.spec import Compute, Masking, ModelSpec
from vbmstat.maps.masking import MaskRule


def test_unknown_options_and_devices():
    with pytest.raises(TypeError, match=r"no option 'repeat' \(nearest repeats"):
        fit_glm(None, "gm ~ age", make_table(), repeat=3)
    assert Masking().rule.threshold == 0.1
    assert Masking(image="m.nii").rule.threshold is None
    assert Masking(0.2, image="m.nii").rule.threshold == 0.2


@pytest.mark.parametrize("keyword", ["variance", "tiv", "permutations", "seed", "inference", "blocks", "mask_share"])
def test_none_where_only_a_value_makes_sense(keyword):
    with pytest.raises(DesignError, match=f"{keyword}=None: expected a value; leave it out for the default"):
        fit_glm(None, "gm ~ age", make_table(), **{keyword: None})
    assert ModelSpec.make("gm ~ age", weights=None, mask=None, mask_threshold=None) == ModelSpec("gm ~ age")


def test_a_variance_that_is_no_text():
    with pytest.raises(DesignError, match="variance=None: expected one of ols, hc3"):
        ModelSpec("gm ~ age", variance=None)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"inference": "fdr,fw"}, "inference='fw': expected one of fdr, rft, fwe"),
        ({"blocks": "site"}, "blocks and sign flips need permutations"),
        ({"stop_after": 20}, "tail and stop_after need permutations"),
        ({"inference": "fwe", "permutations": 1}, "permutations=1: expected at least 2"),
        ({"inference": "fwe", "permutations": 10**30}, "expected at most 10,000,000"),
        ({"inference": "fwe", "permutations": 50, "tail": "gpd"}, "a tail takes at least 100 permutations"),
        ({"inference": "fwe", "stop_after": 9000}, "stop_after=9000: expected 0"),
        ({"exchange": "whole"}, "exchange='whole' is for one column of blocks, got 0"),
        ({"cluster_threshold": 0}, "cluster_threshold=0: expected a p below 1"),
    ],
)
def test_what_does_not_go_together(options, match):
    with pytest.raises(DesignError, match=match):
        ModelSpec.make("gm ~ age", **options)


def test_a_record_is_read_back_and_names_no_folder(tmp_path):
    for name in ("m.nii", "draws.tsv", "c.json"):
        (tmp_path / name).write_text(name)
    spec = ModelSpec.make(
        "gm ~ age", ["age", str(tmp_path / "c.json")], mask=str(tmp_path / "m.nii"), draws=str(tmp_path / "draws.tsv"),
        inference="fwe", blocks=["a", "b"], variance="groups:a", mask_share=0.5, seed=3,
    )  # fmt: skip
    text = json.dumps(spec.record())
    assert str(tmp_path) not in text
    assert ModelSpec.from_record(json.loads(text), lambda name, digest: find_file(name, digest, [tmp_path])) == spec
    assert ModelSpec("gm ~ age").record()["mask"]["image"] is None


@pytest.mark.parametrize(
    ("options", "match"),
    [({"n_threads": -1}, "--jobs -1: expected 1 or more"), ({"chunk_voxels": 0}, "chunk_voxels 0: expected 1 or more")],
)
def test_counts_are_at_least_one(options, match):
    with pytest.raises(DesignError, match=match):
        Compute(**options)


@pytest.mark.parametrize("name", ["store", "scratch", "checkpoint"])
def test_a_file_is_no_folder(tmp_path, name):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DesignError, match=r"notes.txt: a file; expected a folder"):
        Compute(**{name: tmp_path / "notes.txt"})


def test_seeds_and_thresholds_are_numbers_that_can_be():
    for options, match in (({"seed": -1}, "seed=-1"), ({"inference": "fdr", "cluster_threshold": np.inf}, "=inf: exp")):
        with pytest.raises(DesignError, match=match):
            ModelSpec.make("gm ~ age", **options)
    with pytest.raises(ScanError, match="mask threshold nan"):
        MaskRule(np.nan)
