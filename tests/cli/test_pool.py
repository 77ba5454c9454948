"""vbmstat glm --share and vbmstat pool, as users at three sites type them."""

from __future__ import annotations

import json

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from tests.glm.conftest import GRID, make_images, make_table
from vbmstat.cli import glm, pool
from vbmstat.errors import DesignError, VbmstatError
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.volume import Volume

mpl.use("Agg")


@pytest.fixture
def vbmstat():
    app = typer.Typer()
    app.command("glm")(glm.command)
    app.command("pool")(pool.command)

    def run(*arguments) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if isinstance(result.exception, VbmstatError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.fixture
def study(tmp_path):
    """Folders of three sites, each with its own table, and one of all scans."""
    table = make_table(90).assign(site=np.repeat(["berlin", "köln", "ulm"], [40, 22, 28]))
    images = make_images(table)
    for site in ("all", *table["site"].unique()):
        rows = table["site"].isin([site]) | (site == "all")
        for scan, image in zip(table["participant_id"][rows], images[rows], strict=True):
            write_volume(tmp_path / site / "mri" / f"s6mwp1{scan}.nii.gz", Volume(torch.from_numpy(image)[None], GRID))
        cohort = table[rows].assign(s6mwp1=[f"mri/s6mwp1{scan}.nii.gz" for scan in table["participant_id"][rows]])
        cohort.to_csv(tmp_path / site / "cohort.tsv", sep="\t", index=False)
    return tmp_path


def test_three_sites_get_the_maps_of_one_model(vbmstat, study, monkeypatch):
    monkeypatch.setattr("vbmstat.report.results.write_figures", lambda *_: None)
    sites = ("berlin", "köln", "ulm")
    for site in sites:
        cohort = study / site / "cohort.tsv"
        said = vbmstat("glm", "gm ~ age + sex + tiv", "--cohort", cohort, "--share", study / f"{site}.vbm")
        assert f"{site}.vbm: sums of " in said
        assert "columns Intercept, age, sex[T.M], tiv" in said
        assert {path.name for path in (study / site).iterdir()} == {"cohort.tsv", "mri"}
    files, out = [study / f"{site}.vbm" for site in sites], study / "pooled"
    contrasts = ("--contrast", "age", "--contrast", "site", "--inference", "fdr")
    said = vbmstat("pool", *files, "--out", out, *contrasts, "--meta")
    assert "90 scans, " in said
    assert "84 degrees of freedom" in said
    vbmstat("glm", "gm ~ age + sex + tiv + site", "--cohort", study / "all" / "cohort.tsv", *contrasts, "--repeats", 0,
            "--out", study / "joint")  # fmt: skip
    for name in ("age_stat-t", "age_stat-effect", "age_stat-variance", "age_stat-p", "age_stat-qfdr", "site_stat-F"):
        ours, joint = (
            read_volume(folder / f"contrast-{name}_statmap.nii.gz").data for folder in (out, study / "joint")
        )
        assert torch.isfinite(ours).all()
        np.testing.assert_allclose(ours.numpy(), joint.numpy(), rtol=1e-5, atol=5e-6)
    for table in ("age_peaks", "age_clusters"):
        ours, joint = (
            pd.read_csv(folder / f"contrast-{table}.tsv", sep="\t").round(4) for folder in (out, study / "joint")
        )
        pd.testing.assert_frame_equal(ours, joint, atol=2e-4)
    assert "sub-0" not in json.dumps(json.loads((out / "glm.json").read_text(encoding="utf-8")))


@pytest.mark.filterwarnings("ignore::UserWarning:nilearn")
def test_a_report_without_scans(vbmstat, study):
    for site in ("berlin", "ulm"):
        vbmstat("glm", "gm ~ age", "--cohort", study / site / "cohort.tsv", "--share", study / f"{site}.vbm")
    out = study / "pooled"
    vbmstat("pool", study / "berlin.vbm", study / "ulm.vbm", "--out", out, "--common-intercept", "--report")
    assert {"contrast-age_glassbrain.png", "sites.tsv", "sites.json", "report.html"} <= {p.name for p in out.iterdir()}
    assert not (out / "design.png").exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "No scan left its site: the model was fitted, with one intercept for all sites" in page
    assert "berlin 40, ulm 28" in page
    assert "sub-0" not in page


def test_options_that_mean_nothing_beside_share(vbmstat, study):
    model = ("glm", "gm ~ age", "--cohort", study / "ulm" / "cohort.tsv", "--share")
    with pytest.raises(DesignError, match=r"--share writes the sums and no results; leave out --out, --report"):
        vbmstat(*model, study / "ulm.vbm", "--report", "--out", study / "x")
    with pytest.raises(DesignError, match="--share: --variance hc3 needs the scans"):
        vbmstat(*model, study / "ulm.vbm", "--variance", "hc3")
    with pytest.raises(VbmstatError, match=r"expected a file named after the site that ends in \.vbm"):
        vbmstat(*model, study / "ulm.tsv")
    assert not (study / "ulm.vbm").exists()
