"""The plan of a comparison: what is read, and what each mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from vbmstat.compare.config import read_plan
from vbmstat.errors import TableError

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare_ds002748" / "config.toml"
GOOD = """
[glm]
repeats = 10
[cohorts.one]
participants = "people.tsv"
pipelines = { cat = "cat", ours = "ours" }
variables = ["age"]
[cohorts.two]
pipelines = { cat = "cat", ours = "ours" }
[cohorts.both]
pool = ["one", "two"]
[variables.age]
formula = "age + tiv"
contrast = "age"
[variables.gender]
formula = "age + gender"
contrast = "gender[T.m]"
paper = "Sex"
"""


@pytest.fixture
def plan_file(tmp_path):
    for name in ("cat", "ours"):
        (tmp_path / name).mkdir()
    (tmp_path / "people.tsv").write_text("participant_id\tage\n1\t2\n")

    def write(text: str = GOOD) -> Path:
        (tmp_path / "plan.toml").write_text(text)
        return tmp_path / "plan.toml"

    return write


def test_paths_are_relative_to_the_file(plan_file, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    plan = read_plan(plan_file())
    assert plan.out == tmp_path / "comparison"
    assert list(plan.cohorts["one"].pipelines.items()) == [("cat", tmp_path / "cat"), ("ours", tmp_path / "ours")]
    assert plan.cohorts["one"].participants == tmp_path / "people.tsv"
    assert plan.cohorts["one"].variables == ("age",)
    assert plan.cohorts["two"].variables == ("age", "gender")
    assert plan.cohorts["both"].pool == ("one", "two")
    assert plan.variables["gender"].paper == "sex"
    assert (plan.tissues, plan.fwhm_mm, plan.atlas, dict(plan.glm)) == (("gm", "wm"), 6.0, "lpba40", {"repeats": 10})
    own = read_plan(plan_file('atlas = "labels.nii.gz"' + GOOD))
    assert own.atlas == str(tmp_path / "labels.nii.gz")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[cohorts.one]", "[cohorts.one", "expected a TOML file"),
        ("[glm]", "tissue = ['gm']\n[glm]", "unknown key 'tissue' \\(nearest tissues\\)"),
        ("[glm]", "tissues = ['csf']\n[glm]", "tissues has 'csf'; expected gm and wm"),
        ("[glm]", "fwhm_mm = 'six'\n[glm]", "fwhm_mm is 'six'; expected mm"),
        ("repeats = 10", "repeat = 10", "\\[glm\\]: unknown key 'repeat' \\(nearest repeats"),
        ('"people.tsv"', '"nobody.tsv"', "no table .*nobody.tsv of participants"),
        ('ours = "ours" }\nvariables', 'ours = "gone" }\nvariables', "no folder .*gone of pipeline ours; preprocess"),
        ('cat = "cat", ours = "ours" }\nvariables', 'cat = "cat" }\nvariables', "expected two or more pipelines"),
        ('pool = ["one", "two"]', 'pool = ["one", "three"]', "pool names 'three', which is not a cohort"),
        ('pool = ["one", "two"]', "", "expected either pipelines .* or pool"),
        ('variables = ["age"]', 'variables = ["agee"]', "variables has 'agee', .*nearest age"),
        ('variables = ["age"]', 'variables = "age"', "variables: expected a list of text, got 'age'"),
        ('formula = "age + tiv"', "", "\\[variables.age\\]: no formula"),
        ('formula = "age + tiv"', 'formula = "gm ~ age"', "expected only the right-hand side"),
        ('contrast = "age"', "contrast = 3", "contrast: expected text, got 3"),
    ],
)
def test_every_mistake_is_one_clear_line(plan_file, old, new, message):
    assert old in GOOD
    with pytest.raises(TableError, match=message) as error:
        read_plan(plan_file(GOOD.replace(old, new, 1)))
    assert "\n" not in str(error.value)


def test_a_plan_without_variables_or_a_file_is_refused(plan_file, tmp_path):
    with pytest.raises(TableError, match=r"at least one table \[cohorts.NAME\]"):
        read_plan(plan_file("out = 'x'"))
    with pytest.raises(TableError, match="expected a TOML file"):
        read_plan(tmp_path / "gone.toml")


def test_the_example_is_a_good_plan_without_absolute_paths(tmp_path):
    text = EXAMPLE.read_text()
    assert '"/' not in text
    for folder in ("cat/ds002748", "classic/ds002748", "cat12/ds002748", "cat/ds000011", "classic/ds000011",
                   "cat12/ds000011", "ds002748", "ds000011"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    for name in ("ds002748", "ds000011"):
        (tmp_path / name / "participants.tsv").write_text("participant_id\n1\n")
    (tmp_path / "config.toml").write_text(text)
    plan = read_plan(tmp_path / "config.toml")
    assert {name: cohort.variables for name, cohort in plan.cohorts.items() if cohort.variables} == {
        "ds002748": ("age", "gender", "group", "IQ"), "cat12": ("age in two studies",)
    }  # fmt: skip
    assert next(iter(plan.cohorts["ds002748"].pipelines)) == "cat"


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[cohorts.two]", "[cohorts.One]", r"'one' and 'One' are the same file name if case is ignored; rename one"),
        ("[variables.gender]", "[variables.AGE]", "'age' and 'AGE' are the same file name"),
        ('cat = "cat", ours = "ours" }\nvariables', 'Cat = "cat", cat = "ours" }\nvariables', "'Cat' and 'cat'"),
        ("[cohorts.two]", "[cohorts.AUX]", "'AUX' becomes part of file names"),
        ("[variables.gender]", '[variables."gender."]', "'gender.' becomes part of file names"),
    ],
)
def test_names_that_make_one_folder_somewhere_are_refused(plan_file, old, new, match):
    with pytest.raises(TableError, match=match):
        read_plan(plan_file(GOOD.replace(old, new)))
