"""Every script of examples/jobs runs on a small study, and finds what was put into it.

The scripts run in a shell. Their `vbmstat` hands its arguments to this process, which has imported everything already.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.conftest import coarse_figures
from tests.small_study import LOW_QUALITY, PEAK_MM, SLOPE_MM, make_study
from vbmstat.cli import app

JOBS = Path(__file__).parents[1] / "examples" / "jobs"
SHIM = """#!/bin/sh
printf '%s\\0' "$PWD" "$@" > '{0}/ask'
read -r status < '{0}/answer'
cat '{0}/said'
exit "$status"
"""
VOXEL_MM = 6.0
Run = Callable[[str], str]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def run(study: Path, tmp_path: Path, monkeypatch) -> Iterator[Run]:
    """Run a script of examples/jobs on the study; what it printed."""
    for name in ("ask", "answer"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "vbmstat").write_text(SHIM.format(tmp_path))
    (tmp_path / "bin" / "vbmstat").chmod(0o755)
    path = os.pathsep.join((str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]))

    def run(name: str) -> str:
        # When the script ends, its shell ends the conversation.
        line = f"sh '{JOBS / name}.sh' '{study}'; status=$?; printf end > '{tmp_path}/ask'; exit $status"
        with subprocess.Popen(
            ["/bin/sh", "-c", line], env={**os.environ, "PATH": path}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as shell:  # fmt: skip
            while (asked := (tmp_path / "ask").read_text(encoding="utf-8")) != "end":
                folder, *arguments = asked.split("\0")[:-1]
                monkeypatch.chdir(folder)
                result = CliRunner().invoke(app, arguments)
                (tmp_path / "said").write_text(result.output + (repr(result.exception) if result.exception else ""))
                (tmp_path / "answer").write_text(f"{result.exit_code}\n")
            said, _ = shell.communicate()
        assert shell.returncode == 0, said
        return said

    with coarse_figures():
        yield run


def highest_peak(folder: Path) -> pd.Series:
    (path,) = folder.glob("*_peaks.tsv")
    return pd.read_csv(path, sep="\t").iloc[0]


def distance_mm(peak: pd.Series, truth: tuple[float, float, float]) -> float:
    return float(np.linalg.norm(peak[["x_mm", "y_mm", "z_mm"]].to_numpy(float) - truth))


def test_every_script_has_a_test_a_comment_and_a_line_in_the_table() -> None:
    scripts = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in JOBS.glob("*.sh")}
    table = (JOBS / "README.md").read_text(encoding="utf-8")
    assert len(scripts) == 10
    for name, lines in scripts.items():
        assert f"test_{name}" in globals()
        assert lines[0].startswith("# ")
        assert lines[1] == "set -e"
        assert f"| [{name}.sh]({name}.sh) |" in table
        assert sum(line.lstrip().startswith("vbmstat ") for line in lines) <= 5


def test_two_groups(run: Run, study: Path) -> None:
    said = run("two_groups")
    folder = study / "glm" / "two_groups"
    peak = highest_peak(folder)
    assert distance_mm(peak, PEAK_MM) < 2 * VOXEL_MM
    assert peak["region"] == "Left Insula"
    assert peak["effect"] < 0
    assert peak["p_fwe"] == peak["p_tfce_fwe"] == 0.01
    assert "Left Insula" in said
    assert "TIV; it is read from CAT12's report/cat_*.xml (24 scans)" in said
    pfwe, t = (
        nib.load(folder / f"contrast-patientsMinusControls_stat-{stat}_statmap.nii.gz").get_fdata()
        for stat in ("pfwe", "t")
    )
    np.testing.assert_array_equal(pfwe < 0.05, np.abs(t) >= np.abs(t[pfwe < 0.05]).min())


def test_interaction(run: Run, study: Path) -> None:
    run("interaction")
    peak = highest_peak(study / "glm" / "interaction")
    assert distance_mm(peak, SLOPE_MM) < 2 * VOXEL_MM
    assert peak["effect"] < 0
    assert peak["p_tfce_fwe"] <= 0.05


def test_paired(run: Run, study: Path) -> None:
    run("paired")
    folder = study / "repeated" / "glm" / "paired"
    peak = highest_peak(folder)
    assert distance_mm(peak, PEAK_MM) < 2 * VOXEL_MM
    assert peak["p_fwe"] <= 0.05
    assert peak["effect"] > 0
    assert json.loads((folder / "glm.json").read_text())["df_resid"] == 11


def test_ancova_by_group(run: Run, study: Path) -> None:
    run("ancova_by_group")
    folder = study / "glm" / "by_group"
    assert distance_mm(highest_peak(folder), PEAK_MM) < 2 * VOXEL_MM
    design = pd.read_csv(folder / "design.tsv", sep="\t")
    slopes = design[["center(tiv):group[control]", "center(tiv):group[patient]"]]
    assert ((slopes == 0).sum(axis=1) >= 1).all()
    assert (slopes != 0).any().all()


def test_regions(run: Run, study: Path) -> None:
    said = run("regions")
    of_program = pd.read_csv(study / "glm/regions/roi_lpba40_glm.tsv", sep="\t")
    (of_program,) = of_program[of_program["region"] == "Insula"].itertuples()
    expected = f"Insula, patients minus controls {of_program.effect:.4f} mL, t = {of_program.value:.4f}"
    assert f"pandas: {expected}" in said
    assert of_program.value < -3
    assert (f"R: {expected}" if shutil.which("Rscript") else "R is not installed") in said


def test_two_pipelines(run: Run, study: Path) -> None:
    run("two_pipelines")
    assert (study / "comparison/scans/comparison.tsv").is_file()
    t_maps = pd.read_csv(study / "comparison/t_maps/comparison.tsv", sep="\t")
    assert 0.9 < t_maps["r"][0] < 1
    assert t_maps["slope"][0] == pytest.approx(1, abs=0.1)  # t does not see the second pipeline's scale


def test_exclude_and_refit(run: Run, study: Path) -> None:
    said = run("exclude_and_refit")
    scans = pd.read_csv(study / "glm/good/scans.tsv", sep="\t")["scan_id"].tolist()
    assert len(scans) == 22
    assert not {LOW_QUALITY, "sub-07"} & set(scans)
    assert said.count(f"by --where 'iqr > 70': {LOW_QUALITY} (iqr = 58)") == 1
    page = (study / "glm/good/report.html").read_text(encoding="utf-8")
    assert "iqr = 58" in page
    assert 0.9 < pd.read_csv(study / "comparison/exclusion/comparison.tsv", sep="\t")["r"][0] < 1


def test_smoothing_log_p(run: Run, study: Path) -> None:
    run("smoothing_log_p")
    assert json.loads((study / "glm/s10/glm.json").read_text())["spec"]["fwhm_mm"] == 10
    assert (study / "log_p.png").stat().st_size > 1000


def test_figure(run: Run, study: Path) -> None:
    run("figure")
    drawn = (study / "figure.svg").read_text(encoding="utf-8")
    for text in ("Patients - controls", "z = \N{MINUS SIGN}10", "z = 20", "x = \N{MINUS SIGN}34"):
        assert f">{text}<" in drawn
    assert ">y = " not in drawn
    assert (study / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_peak_effect_size(run: Run, study: Path) -> None:
    said = run("peak_effect_size")
    peak = highest_peak(study / "glm/peaks")
    assert distance_mm(peak, PEAK_MM) < 2 * VOXEL_MM
    assert peak["g_low"] < peak["g"] < peak["g_high"] < 0
    assert f"{peak['region']} {peak['x_mm']}" in " ".join(said.split())
    assert (study / "peak.png").stat().st_size > 1000
