from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.glm.conftest import GRID, make_images, make_table
from vbmstat.batch.run import FAILURE_COLUMNS
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.metrics import homogeneity
from vbmstat.preproc.steps import quality
from vbmstat.tables import cohort, dictionary
from vbmstat.tables.schema import Column, tables


def test_dictionary_lies_beside_the_table_and_names_every_column(tmp_path) -> None:
    table = pd.DataFrame({"participant_id": ["001"], "age": [3.0], "sex": ["F"]})
    dictionary.write_table(tmp_path / "participants.tsv", table, "participants", about={"seed": 1})
    described = json.loads((tmp_path / "participants.json").read_text())
    assert described.pop("vbmstat") == {"table": "a person", "seed": 1}
    assert list(described) == ["participant_id", "age", "sex"]
    assert described["age"] == {"Description": "Age", "Units": "years"}
    assert described["sex"]["Levels"] == {"M": "male", "F": "female"}
    assert (tmp_path / "participants.tsv").read_text() == "participant_id\tage\tsex\n001\t3.0\tF\n"


def test_placeholders_are_filled_in_and_names_are_matched_whole() -> None:
    described = dictionary.describe("roi_wide", ["left_insula_gm_ml", "left_insula_csf_ml", "gm_ml"])
    assert described["left_insula_gm_ml"]["Description"] == "Volume of grey matter in left_insula"
    assert described["left_insula_csf_ml"]["Description"] == "Volume of cerebrospinal fluid in left_insula"
    assert "participants table" in described["gm_ml"]["Description"]
    assert dictionary.describe("glm_table", ["q25t"])["q25t"]["Description"].startswith("Lower quartile of t over")


def test_the_users_own_columns_keep_the_users_words_and_ours_keep_ours(tmp_path) -> None:
    given = {"bdi": {"Description": "Beck", "Units": "points"}, "tiv_ml": {"Description": "not this"}}
    described = dictionary.describe("cohort", ["bdi", "tiv_ml", "site"], given)
    assert described["bdi"] == given["bdi"]
    assert described["tiv_ml"]["Units"] == "mL"
    assert described["tiv_ml"]["Description"] != "not this"
    assert described["site"] == {"Description": "site, from the participants table"}
    rows = pd.DataFrame({"participant_id": ["001"], "bdi": [3], "tiv_ml": [1500.0]})
    cohort.write_cohort(tmp_path / "c.tsv", cohort.Cohort(cohort.index_by_id(rows, "test"), tmp_path), given)
    assert json.loads((tmp_path / "c.json").read_text())["bdi"] == given["bdi"]


def test_the_schema_knows_what_the_program_writes() -> None:
    made = {
        "cohort": [*cohort.ID_COLUMNS, *cohort.TEXT_COLUMNS, *quality_columns(), *comparison_columns()],
        "failures": FAILURE_COLUMNS,
    }
    for kind, columns in made.items():
        unknown = [name for name in columns if dictionary._entry(kind, name) is None]
        assert not unknown, f"{kind}: describe {unknown} in vbmstat/tables/schema.toml"


def quality_columns() -> list[str]:
    fields = quality.Quality.__dataclass_fields__
    return list(quality.Quality(**dict.fromkeys(fields, 0.0)).columns())


def comparison_columns() -> list[str]:
    fields = homogeneity.CohortQuality.__dataclass_fields__
    return list(homogeneity.CohortQuality(**dict.fromkeys(fields, np.zeros(0))).columns())


@pytest.mark.parametrize("kind", sorted(tables()))
def test_every_description_is_one_phrase_that_its_placeholders_fit(kind: str) -> None:
    for column in tables()[kind].columns:
        name = column.name.replace("<", "").replace(">", "")
        entry = dictionary._entry(kind, name)
        assert entry is not None
        assert entry["Description"].strip()
        assert not entry["Description"].endswith(".")
        assert "{" not in entry["Description"]


def test_the_first_matching_column_counts() -> None:
    names = [column.name for column in tables()["design"].columns]
    assert names.index("Intercept") < names.index("<column>")
    assert dictionary.describe("design", ["Intercept"])["Intercept"]["Description"] == "1 for every scan"
    assert dictionary._pattern(Column("a.b", "")).fullmatch("a.b")
    assert not dictionary._pattern(Column("a.b", "")).fullmatch("axb")


def undescribed(folder: Path) -> dict[str, list[str]]:
    """Columns of the tables under a folder that its dictionaries do not explain."""
    found = {}
    for path in sorted(folder.rglob("*.tsv")):
        described = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        columns = pd.read_csv(path, sep="\t", nrows=0).columns
        unknown = [name for name in columns if "participants table" in described.get(name, PLEASE)["Description"]]
        if unknown:
            found[path.name] = unknown
    return found


PLEASE = {"Description": "participants table"}


@pytest.mark.parametrize("formula", ["gm ~ age + sex + tiv", "gm ~ site + age"])
def test_every_table_of_a_fit_is_described(tmp_path, formula: str) -> None:
    people = make_table(12)
    for scan, image in zip(people["participant_id"], make_images(people), strict=True):
        io.write_volume(tmp_path / "mri" / f"s6mwp1{scan}.nii.gz", Volume(torch.from_numpy(image)[None], GRID))
    people.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    results = fit_glm(
        tmp_path / "mri", formula, tmp_path / "people.tsv", ["site" if "site" in formula else "age"],
        repeats=3, inference="fdr,fwe,tfce,cluster", permutations=20, cluster_threshold=0.05,
    )  # fmt: skip
    results.to_directory(tmp_path / "glm")
    assert {path.suffix for path in (tmp_path / "glm").iterdir()} >= {".tsv", ".json"}
    assert len(list((tmp_path / "glm").glob("*.tsv"))) == 7
    assert undescribed(tmp_path / "glm") == {}
    frame = pd.DataFrame({"a": people["age"] + 1, "b": people["tiv_ml"]}).set_index(people["participant_id"])
    fit_glm(frame, "v ~ age + sex", tmp_path / "people.tsv", repeats=3).to_directory(tmp_path / "t")
    assert undescribed(tmp_path / "t") == {}
