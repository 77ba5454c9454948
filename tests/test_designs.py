"""Every command of docs/designs.md runs, and gives the t or F of statsmodels' least squares."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
import torch
from typer.testing import CliRunner

from tests.glm.conftest import GRID, SHAPE
from vbmstat.cli import app
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.volume import Volume

PAGE = Path(__file__).parents[1] / "docs" / "designs.md"
COMMANDS = dict(
    re.findall(r"^## ([^\n]+)\n\n```\n(vbmstat glm [^\n]+)\n```", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
)
VOXEL = (5, 6, 4)
# section: model in statsmodels' words, contrast in its words, file that holds the statistic
ORACLES = {
    "Two groups": ("group + age + sex + tiv", "group[T.patient]", "patientsMinusControls_stat-t"),
    "Adjusted for TIV, with a slope for each group": (
        "group + age + sex + center(tiv):group", "group[T.patient]", "patientsMinusControls_stat-t",
    ),
    "Does the slope of age differ between groups?": (
        "group * age + sex + tiv", "group[T.patient]:age", "steeperInPatients_stat-t",
    ),
    "Correlation with a score": ("score + age + sex + tiv", "score", "score_stat-t"),
    "Three groups": ("stage + age + sex + tiv", "stage[T.late]", "lateMinusEarly_stat-t"),
    "Two factors": (
        "C(group, Sum) * C(sex, Sum) + age + tiv", "C(group, Sum)[S.control]:C(sex, Sum)[S.F]", "groupBySex_stat-t",
    ),
    "A quadratic effect of age": ("age + I(age**2) + sex + tiv", "I(age ** 2)", "curvature_stat-t"),
    "Several sites": ("group + age + sex + tiv + site", "group[T.patient]", "groupPatient_stat-t"),
    "One sample: maps of differences": ("1", "Intercept", "Intercept_stat-t"),
    "Two scans of each person": ("1", "Intercept", "postMinusPre_stat-t"),
    "Does the change differ between groups?": (
        "group * time", "group[T.patient]:time[T.pre]", "changeDiffers_stat-effect",
    ),
    "Ageing within people, visits at any time": (
        "group * deviation + mean_age + sex", "group[T.patient]:deviation", "fasterLoss_stat-effect",
    ),
    "Each person's rate of change": ("group + sex", "group[T.patient]", "rateDiffers_stat-t"),
}  # fmt: skip


def people(repeated: bool) -> pd.DataFrame:
    """36 scans, of one or two visits."""
    n = 36
    rng = np.random.default_rng(5)
    person = np.arange(n) // 2 if repeated else np.arange(n)
    of_person = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:02d}" for i in range(n)],
            "group": np.resize(["control", "patient"], n),
            "stage": np.resize(["early", "late", "none"], n),
            "sex": np.resize(["F", "F", "M", "M"], n),
            "site": np.repeat(["a", "b", "c"], n // 3),
            "age": rng.uniform(20, 80, n).round(1),
            "score": rng.normal(20, 5, n).round(2),
            "tiv": rng.normal(1500, 120, n).round(1),
        }
    ).iloc[person].reset_index(drop=True)  # fmt: skip
    if repeated:
        time = np.resize(["post", "pre"], n)
        of_person.insert(1, "session_id", [f"ses-{visit}" for visit in time])
        of_person["time"] = time
        of_person.loc[time == "post", "age"] += 2
    return of_person


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory) -> dict[bool, tuple[Path, pd.DataFrame]]:
    """Two folders with cohort.tsv, one scan or two a person, and the tables with the value at a voxel."""
    return {repeated: make_cohort(tmp_path_factory.mktemp("cohort"), repeated) for repeated in (False, True)}


def make_cohort(folder: Path, repeated: bool) -> tuple[Path, pd.DataFrame]:
    table = people(repeated)
    rng = np.random.default_rng(6)
    effect = 0.06 * (table["group"] == "patient") - 0.002 * (table["age"] - 50)
    values = 0.5 + effect.to_numpy()[:, None, None, None] + rng.normal(0, 0.05, (len(table), *SHAPE))
    values[..., 0] = 0  # outside the mask
    names = [f"mri/s6mwp1scan{i:02d}.nii.gz" for i in range(len(table))]
    for name, image in zip(names, values, strict=True):
        write_volume(folder / name, Volume(torch.from_numpy(image.astype(np.float32))[None], GRID))
    table.assign(s6mwp1=names).to_csv(folder / "cohort.tsv", sep="\t", index=False)
    return folder, table.assign(y=values[(slice(None), *VOXEL)])


def is_repeated(command: str) -> bool:
    """Whether a command is for several scans of each person."""
    return any(word in command for word in ("time", "change(", "within("))


def test_every_design_has_its_oracle():
    assert list(COMMANDS) == list(ORACLES)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("section", COMMANDS)
def test_a_design(section, cohorts, tmp_path, monkeypatch):
    folder, table = cohorts[is_repeated(COMMANDS[section])]
    monkeypatch.chdir(folder)
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
    quick = ["--repeats", "0", "--atlas", "none", "--out", str(tmp_path)]
    if "--inference fdr" not in COMMANDS[section]:
        quick += ["--permutations", "20"]
    result = CliRunner().invoke(app, shlex.split(COMMANDS[section])[1:] + quick)
    assert result.exit_code == 0, result.output + repr(result.exception)
    formula, contrast, name = ORACLES[section]
    if "change(" in COMMANDS[section]:  # post minus pre of each person
        table = table.assign(y=np.where(table["time"] == "post", table["y"], -table["y"]))
        table = table.groupby("participant_id").agg({"y": "sum", "group": "first", "sex": "first"})
    elif "within(" in COMMANDS[section]:
        mean = table.groupby("participant_id")["age"].transform("mean")
        table = table.assign(mean_age=mean, deviation=table["age"] - mean)
    fitted = smf.ols(f"y ~ {formula}", table).fit()
    if "sandwich" in COMMANDS[section]:  # its effect is that of least squares
        expected = float(np.squeeze(fitted.t_test(contrast).effect))
    elif "stat-F" in name:
        expected = float(np.squeeze(fitted.f_test(contrast).fvalue))
    else:
        expected = float(np.squeeze(fitted.t_test(contrast).tvalue))
    mine = float(read_volume(tmp_path / f"contrast-{name}_statmap.nii.gz").data[(0, *VOXEL)])
    assert mine == pytest.approx(expected, rel=2e-4)
