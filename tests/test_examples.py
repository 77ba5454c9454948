"""The examples run as they stand, and agree with one another."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vbmstat.tables import dictionary

EXAMPLES = Path(__file__).parents[1] / "examples"
REGIONS = ("Insula", "Hippocampus", "Brainstem")


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """Tables as `make demo` leaves them: 14 people, three regions, the insula shrinks with age."""
    tmp_path, rng = tmp_path_factory.mktemp("demo"), np.random.default_rng(0)
    people = pd.DataFrame({
        "participant_id": [f"{number:03d}" for number in range(14)], "age": rng.uniform(20, 80, 14).round(1),
        "sex": ["F", "M"] * 7, "tiv_ml": rng.normal(1500, 100, 14).round(1),
    })  # fmt: skip
    dictionary.write_table(tmp_path / "demo-out/bids/derivatives/vbmstat/cohort.tsv", people, "cohort")
    noise = rng.normal(0, 0.3, (14, 3))
    gm_ml = 10 + noise - np.outer(people["age"], [0.08, 0.0, 0.0])
    long = (
        people[["participant_id"]].merge(pd.DataFrame({"region": REGIONS}), how="cross").assign(roi_gm_ml=gm_ml.ravel())
    )
    long = long.sample(frac=1, random_state=1)  # the order of the rows says nothing
    about = {"atlas": "lpba40", "licence": "free for non-commercial use only"}
    dictionary.write_table(tmp_path / "demo-out/roi/roi_lpba40_regions.tsv", long, "roi_regions", about=about)
    wide = people[["participant_id"]].assign(**{f"{name.lower()}_gm_ml": gm_ml[:, i] for i, name in enumerate(REGIONS)})
    dictionary.write_table(tmp_path / "demo-out/roi/roi_lpba40_regions_wide.tsv", wide, "roi_wide", about=about)
    return tmp_path


@pytest.fixture(scope="module")
def in_pandas(demo: Path) -> pd.DataFrame:
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "roi_in_pandas.py")], cwd=demo, capture_output=True, text=True, check=True
    )
    assert "free for non-commercial use only" in run.stdout
    assert (demo / "demo-out/roi_in_pandas/age.svg").stat().st_size > 1000
    return pd.read_csv(demo / "demo-out/roi_in_pandas/age.tsv", sep="\t")


def test_roi_in_pandas(in_pandas) -> None:
    assert in_pandas["region"][0] == "Insula"
    assert in_pandas["ml_per_year"][0] == pytest.approx(-0.08, abs=0.02)
    assert set(in_pandas["n"]) == {14}


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_roi_in_r_gives_the_same_table(demo, in_pandas) -> None:
    blocks = re.findall(r"```r\n(.*?)```", (EXAMPLES / "roi_in_R.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    run = subprocess.run(
        ["Rscript", "-"], input="\n".join(blocks), cwd=demo, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = pd.read_csv(demo / "demo-out/roi_in_R.tsv", sep="\t")
    pd.testing.assert_frame_equal(found, in_pandas, rtol=1e-6)
    assert (demo / "demo-out/roi_in_R.svg").stat().st_size > 1000
