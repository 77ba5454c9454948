"""Command lines: what runs is what is shown."""

from __future__ import annotations

import shlex

import pytest
from typer.main import get_command

from tests.ui.conftest import VOXELS
from vbmstat.cli import app
from vbmstat.errors import VbmstatError
from vbmstat.report.model_folder import read_model
from vbmstat.ui.commands import _FLAGS, _OPTIONS, arguments, command_line, fitted_arguments, result_folder

FORMULA = "gm ~ age + C(sex, contr.treatment('f')); rm -rf $HOME `touch owned`"


def test_every_option_of_the_page_is_one_of_the_command():
    commands = get_command(app).commands
    for command, names in _OPTIONS.items():
        known = {word for one in commands[command].params for word in (*one.opts, *one.secondary_opts)}
        assert {f"--{name.replace('_', '-')}" for name in names} <= known


def test_what_is_shown_can_be_typed(study):
    options = {
        "formula": FORMULA, "contrasts": {"older": "age", "age": "age", "": "sex"}, "inference": ["fdr", "fwe"],
        "repeats": 0, "permutations": 100, "fwhm": 7.5, "where": ["age > 30", "sex == 'f'"], "one_sided": True,
        "report": False, "tiv": None, "level": "",
    }  # fmt: skip
    given = arguments(study, "glm", options)
    assert given == [
        "glm", FORMULA, "--cohort", str(study.root / "cohort.tsv"), "--contrast", "older = age", "--contrast", "age",
        "--contrast", "sex", "--repeats", "0", "--inference", "fdr,fwe", "--permutations", "100", "--one-sided",
        "--fwhm", "7.5", "--where", "age > 30", "--where", "sex == 'f'",
    ]  # fmt: skip
    assert shlex.split(command_line(given)) == ["vbmstat", *given]


def test_options_that_reach_outside_the_folder_are_refused(study):
    for options in ({"out": "/tmp"}, {"mask": "/x"}, {"store": "/x"}, {"share": "x"}, {"device": "cuda"}):  # noqa: S108
        with pytest.raises(VbmstatError, match="has no option"):
            arguments(study, "glm", {"formula": "gm ~ age", **options})
    with pytest.raises(VbmstatError, match="expected a path inside"):
        arguments(study, "roi", {"atlas": "../atlas.nii.gz"})
    with pytest.raises(VbmstatError, match="expected a path inside"):
        arguments(study, "report", {"folder": "/"})
    with pytest.raises(VbmstatError, match="expected a column"):
        arguments(study, "glm", {"formula": "gm ~ age", "contrasts": {"a": "/etc/x.json"}})
    for command in ("rerun", "", None):
        with pytest.raises(VbmstatError, match="expected one of"):
            arguments(study, command, {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"one_sided": "--out=/etc"}, "--one-sided: expected true or false, got '--out=/etc'"),
        ({"report": "/etc"}, "--report: expected true or false"),
        ({"report": 1}, "--report: expected true or false"),
        ({"where": True, "blocks": "--out=/etc"}, "--where: expected a text or a number, got True"),
        ({"svc": ["/etc/mask.nii.gz"]}, "expected a path inside"),
        ({"svc": "../mask.nii"}, "expected a path inside"),
        ({"where": "age > 1\0"}, "letters on one line"),
        ({"where": "age > 1\x1b[2J"}, "letters on one line"),
        ({"contrasts": {"a\nb": "age"}}, "letters on one line"),
        ({"where": "age > \ud800"}, "letters on one line"),
        ({"where": "age > 1" * 2000}, "at most 10,000 letters"),
        ({"repeats": 10**400}, "--repeats: expected a text or a number"),
    ],
)
def test_no_value_becomes_another_word_of_the_command_line(study, options, message):
    with pytest.raises(VbmstatError, match=message):
        arguments(study, "glm", {"formula": "gm ~ age", **options})


def test_all_flags_are_told_from_options_with_a_value():
    commands = get_command(app).commands
    for command, names in _OPTIONS.items():
        for one in commands[command].params:
            if one.name in names:
                assert (one.name in _FLAGS) == one.is_flag, f"{command} {one.name}"


def test_a_small_volume_of_the_folder_or_of_an_atlas(study):
    options = {"formula": "gm ~ age", "svc": ["halves.nii.gz", "sphere:1,2,3,8"]}
    assert arguments(study, "glm", options)[-4:] == [
        "--svc", str(study.root / "halves.nii.gz"), "--svc", "sphere:1,2,3,8",
    ]  # fmt: skip


@pytest.mark.parametrize("formula", ["", None, "age", "--share=x ~", "-x ~ age", 3])
def test_a_formula_is_no_option(study, formula):
    with pytest.raises(VbmstatError, match="such as 'gm ~ age"):
        arguments(study, "glm", {"formula": formula})


@pytest.mark.parametrize("value", [{"a": 1}, [True], [None], [["x"]]])
def test_values_are_texts_and_numbers(study, value):
    with pytest.raises(VbmstatError, match="--where: expected a text or a number"):
        arguments(study, "glm", {"formula": "gm ~ age", "where": value})


def test_an_atlas_of_the_folder(study):
    assert arguments(study, "roi", {"atlas": "halves.nii.gz"})[-1] == str(study.root / "halves.nii.gz")
    assert arguments(study, "roi", {"atlas": "aal3"})[-2:] == ["--atlas", "aal3"]


def test_scans_are_preprocessed_from_the_folder_of_the_scans(study):
    with pytest.raises(VbmstatError, match="the folder of the scans"):
        arguments(study, "preprocess", {})


def test_a_model_s_command_makes_it_again(study):
    given = fitted_arguments(read_model(study.root / VOXELS), study.root)
    assert given == [
        "glm", "gm ~ age + sex", "--cohort", str(study.root / "cohort.tsv"), "--contrast", "age", "--contrast", "sex",
        "--repeats", "4", "--inference", "fdr",
    ]  # fmt: skip


def test_results_of_a_job_are_where_glm_puts_them(study):
    assert result_folder(study, {"formula": "gm ~ age + sex"}) == "glm/gm_age_sex"
    assert result_folder(study, {"formula": "gm ~ age", "level": "roi", "fwhm": None}) == "glm/gm_age_roi"
    assert result_folder(study, {"formula": "gm ~ age", "fwhm": 8}) == "glm/gm_age-s8"
