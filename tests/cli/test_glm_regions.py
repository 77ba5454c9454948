from __future__ import annotations

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.regions.conftest import study  # noqa: F401 - fixture
from tests.regions.test_models import sessions  # noqa: F401 - fixture
from vbmstat.cli import app
from vbmstat.errors import DesignError


def run(folder, *arguments, code=0):
    given = ["glm", "gm ~ age", "--cohort", folder / "cohort.tsv", "--atlas", folder / "own.nii.gz", *arguments]
    result = CliRunner().invoke(app, [str(one) for one in given])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_regions(study):  # noqa: F811
    said = run(study, "--level", "roi", "--permutations", 99, "--repeats", 5)
    assert "age: 1 of 3 regions at p_fwe < .05" in said
    assert "Atlas own: " in said
    assert "    Left A: t = -" in said
    table = pd.read_csv(study / "glm" / "gm_age_roi-own" / "roi_own_glm.tsv", sep="\t")
    assert table["median_t"].notna().all()
    assert "age: 1 of 2 regions" in run(study, "--level", "region", "--permutations", 99)


def test_mixed_model_and_sandwich(sessions):  # noqa: F811
    said = run(sessions, "--level", "roi", "--random", "participant_id")
    assert "regions at q_fdr < .05" in said
    assert "t = " in said
    assert "note: few subjects" in said
    assert "t = " in run(sessions, "--level", "roi", "--variance", "sandwich:participant_id")


def test_bad_input(study):  # noqa: F811
    for arguments, match in (
        (("--level", "lobe"), "expected one of roi, region"),
        (("--random", "participant_id"), "mixed model. is for --level roi"),
        (("--level", "roi", "--random", "participant_id", "--variance", "hc3"), "takes no variance"),
        (("--level", "roi", "--random", "participant_id"), "every subject has one scan"),
    ):
        with pytest.raises(DesignError, match=match) as caught:
            run(study, *arguments)
        assert "\n" not in str(caught.value)
        assert not (study / "glm").exists()


def test_regions_of_one_name_are_told_apart(study):  # noqa: F811
    table = (study / "own.tsv").read_text().replace("Left A", "A").replace("Right A", "A")
    (study / "own.tsv").write_text(table)
    said = run(study, "--level", "roi", "--permutations", 99, "--repeats", 0)
    assert "    A (label 3): t = -" in said
    assert "    A (label 7): t = " in said
    assert "    B: t = " in said


def test_probabilities_cannot_name_clusters():
    result = CliRunner().invoke(app, ["glm", "wm ~ age", "--atlas", "tracts72"])
    assert isinstance(result.exception, DesignError)
    assert "overlap and cannot name clusters" in str(result.exception)
