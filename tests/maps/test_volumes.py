"""TIV from the files that programs write beside their maps."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from tests.glm.conftest import GRID, make_images, make_table
from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.volumes import tiv_beside
from vbmstat.roi.atlas import load_atlas

CAT = "<S><help><vol_TIV>total volume</vol_TIV></help><subjectmeasures><vol_TIV>{:.2f}</vol_TIV></subjectmeasures></S>"


@pytest.fixture
def people() -> pd.DataFrame:
    return make_table()


@pytest.fixture
def maps(tmp_path, people):
    for scan, image in zip(people["participant_id"], make_images(people), strict=True):
        write_volume(tmp_path / "cat" / "mri" / f"s6mwp1{scan}_T1w.nii.gz", Volume(torch.from_numpy(image)[None], GRID))
    (tmp_path / "cat" / "report").mkdir()
    return tmp_path / "cat"


def write_cat(maps, people) -> None:
    for scan, tiv in zip(people["participant_id"], people["tiv_ml"], strict=True):
        (maps / "report" / f"cat_{scan}_T1w.xml").write_text(CAT.format(tiv), encoding="utf-8")


def write_t1prep(maps, people, form) -> None:
    for scan, tiv in zip(people["participant_id"], people["tiv_ml"], strict=True):
        content = {"new": {"subjectmeasures": {"vol_TIV": {"value": tiv}}}, "flat": {"vol_tiv": {"value": tiv}},
                   "old": {"tiv_volume": tiv}}[form]  # fmt: skip
        (maps / "report" / f"log_{scan}_T1w.json").write_text(json.dumps(content), encoding="utf-8")


def write_spm(maps, people) -> None:
    rows = [f"'/data/{scan}_T1w_seg8.mat',{tiv / 2000},{tiv / 4000},{tiv / 4000}" for scan, tiv in
            zip(people["participant_id"], people["tiv_ml"], strict=True)]  # fmt: skip
    (maps / "tiv.csv").write_text("\n".join(["File,Volume1,Volume2,Volume3", *rows]) + "\n", encoding="utf-8")


WRITERS = {
    "CAT12's report/cat_*.xml": write_cat,
    "T1Prep's log_*.json": lambda maps, people: write_t1prep(maps, people, "new"),
    "tiv.csv": write_spm,
    "volumes.tsv": lambda maps, people: people.to_csv(maps / "volumes.tsv", sep="\t", index=False),
}  # fmt: skip


@pytest.mark.parametrize("source", list(WRITERS))
def test_a_model_finds_tiv_beside_the_maps(maps, people, source):
    WRITERS[source](maps, people)
    known = fit_glm(maps / "mri", "gm ~ age + tiv", people, ["age"], repeats=0)
    found = fit_glm(maps / "mri", "gm ~ age + tiv", people.drop(columns="tiv_ml"), ["age"], repeats=0)
    np.testing.assert_allclose(found.maps["age"]["t"].values, known.maps["age"]["t"].values, rtol=1e-4, atol=1e-4)
    assert f"the table has no TIV; it is read from {source} (26 scans)" in found.record["notes"]
    assert not any("read from" in note and source in note for note in known.record["notes"])  # the table comes first


def test_scaling_by_tiv_finds_it_too(maps, people):
    write_cat(maps, people)
    found = fit_glm(maps / "mri", "gm ~ age", people.drop(columns="tiv_ml"), ["age"], repeats=0, tiv="proportional")
    known = fit_glm(maps / "mri", "gm ~ age", people, ["age"], repeats=0, tiv="proportional")
    assert found.record["scan_scale"] == pytest.approx(known.record["scan_scale"])


def test_without_any_the_message_says_where_it_was_looked_for(maps, people):
    with pytest.raises(
        DesignError, match=r"no column tiv .*looked for beside the maps.*give a table that has it with --table"
    ):
        fit_glm(maps / "mri", "gm ~ age + tiv", people.drop(columns="tiv_ml"), repeats=0)


@pytest.mark.parametrize("form", ["new", "flat", "old"])
def test_versions_of_t1prep(maps, people, form):
    write_t1prep(maps, people, form)
    paths = {scan: maps / "mri" / f"s6mwp1{scan}_T1w.nii.gz" for scan in people["participant_id"]}
    found, _ = tiv_beside(paths)
    assert found.tolist() == people["tiv_ml"].tolist()


def test_a_damaged_file_is_no_tiv(maps, people):
    (maps / "report" / "cat_sub-000_T1w.xml").write_text("<S/>")
    (maps / "report" / "log_sub-000_T1w.json").write_text("[1]")
    (maps / "volumes.tsv").write_text("nothing\n1\n")
    found, source = tiv_beside({"sub-000": maps / "mri" / "s6mwp1sub-000_T1w.nii.gz"})
    assert found.isna().all()
    assert source == ""


def test_longitudinal_maps_of_cat12(maps, people):
    (maps / "report" / "cat_rS001.xml").write_text(CAT.format(1500))
    assert tiv_beside({"S001": maps / "mri" / "mwp1rS001.nii"})[0].tolist() == [1500]


def test_regions_find_tiv_too(maps, people):
    from vbmstat.regions.models import fit_roi_glm  # noqa: PLC0415 - only this test needs an atlas
    from vbmstat.regions.volumes import RegionSpec  # noqa: PLC0415 - only this test needs an atlas

    write_cat(maps, people)
    for path in (maps / "mri").iterdir():
        path.rename(path.with_name(path.name.removeprefix("s6")))
    found, known = (
        fit_roi_glm("gm ~ age + tiv", table, ["age"], regions=RegionSpec(load_atlas("lpba40"), maps=maps),
                    repeats=0, inference="fdr", exclude="sub-005")
        for table in (read(maps, people.drop(columns="tiv_ml"), "a.tsv"), read(maps, people, "b.tsv"))
    )  # fmt: skip
    pd.testing.assert_frame_equal(found.table, known.table, rtol=1e-4)
    assert len(found.design.scan_ids) == 25
    assert [step["n_left"] for step in found.record["flow"]] == [26, 25]
    assert found.record["spec"]["selection"]["exclude"] == ["sub-005"]


def read(maps, people, name):
    people.to_csv(maps / name, sep="\t", index=False)
    return maps / name
