"""vbmstat compare and compare-cohorts, as a user types them."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tests.compare.test_statistics import ball, t_values, write_spm
from vbmstat.cli import app
from vbmstat.compare import output
from vbmstat.errors import VbmstatError


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(output, "comparison_figures", lambda _: {})


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, VbmstatError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_compare_says_names_notes_and_numbers(tmp_path):
    a = write_spm(tmp_path / "spm" / "spmT_0001.nii", t_values())
    b = write_spm(tmp_path / "ours" / "spmT_0001.nii", 2 * t_values(), ball(6.0))
    said = run("compare", a, b, "--names", "CAT12", "classic", "--out", tmp_path / "out")
    assert "A: CAT12, B: classic" in said
    assert f"note: masks differ: {ball(6.0).sum()} voxels in common" in said
    lines = {line.split()[0]: line.split()[-1] for line in said.splitlines() if len(line.split()) == 2}
    assert float(lines["slope"]) == pytest.approx(2.0)
    assert float(lines["r"]) == pytest.approx(1.0)
    assert (tmp_path / "out" / "comparison.tsv").is_file()


def test_compare_takes_a_mask_for_maps(tmp_path):
    a = write_spm(tmp_path / "a.nii", t_values())
    inside = write_spm(tmp_path / "inside.nii", ball(3.0).astype(float))
    said = run("compare", a, a, "--mask", inside, "--out", tmp_path / "out")
    assert any(line.split() == ["n_voxels", str(ball(3.0).sum())] for line in said.splitlines())


def test_compare_cohorts_reads_the_plan_it_is_given(tmp_path):
    with pytest.raises(VbmstatError, match=r"plan\.toml: expected a TOML file"):
        run("compare-cohorts", tmp_path / "plan.toml")
