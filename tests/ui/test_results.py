"""Finished models for the page: the numbers are those of their files."""

from __future__ import annotations

import json
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.report.conftest import EFFECT_AT_MM, N_SCANS
from tests.ui.conftest import OLD, PLAIN, VOXELS, address
from vbmstat import assets
from vbmstat.figures.mosaic import grey_average_brain
from vbmstat.image.volume import Volume
from vbmstat.ui import results

AT = ",".join(f"{value:g}" for value in EFFECT_AT_MM)


@pytest.fixture(autouse=True)
def own_atlas(monkeypatch, folder):
    """Places are named by the two halves: the real atlases take seconds to read."""
    monkeypatch.setattr(results, "ATLASES", (str(folder / "halves.nii.gz"),))
    results.names_of_places.cache_clear()
    yield
    results.names_of_places.cache_clear()


def test_every_model_of_the_folder_is_listed(client):
    listed = {one["id"]: one for one in client.get("/api/results").json()}
    assert list(listed) == [OLD, PLAIN, VOXELS]
    one = listed[VOXELS]
    assert (one["formula"], one["n_scans"], one["level"], one["inference"]) == (
        "gm ~ age + sex",
        N_SCANS,
        "voxel",
        ["fdr"],
    )
    assert one["version"]
    assert one["problem"] is None


def test_a_model_has_its_maps_thresholds_and_clusters(client, folder):
    told = client.get(address(VOXELS)).json()
    record = json.loads((folder / VOXELS / "glm.json").read_text())
    assert (told["df"], told["median"], told["voxel_size_mm"]) == (N_SCANS - 3, True, [6, 6, 6])
    assert told["notes"] == record["notes"]
    age, sex = told["contrasts"]
    assert (age["name"], age["kind"], sex["name"]) == ("age", "t", "sex")
    kinds = {one["label"]: one["kind"] for one in age["maps"]}
    assert (kinds["t"], kinds["p"], kinds["qfdr"], kinds["effect"], kinds["mediant"]) == (
        "statistic", "p", "p", "effect", "stability",
    )  # fmt: skip
    assert age["maps"][0]["label"] == "t"
    for one in age["maps"]:
        stored = folder / VOXELS / f"contrast-age_stat-{one['label']}_statmap.nii.gz"
        assert client.get(one["url"]).content == stored.read_bytes()
    own = record["inference"]["contrasts"][0]["thresholds"]
    assert [(one["label"], one["height"]) for one in age["thresholds"]] == [(one["by"], one["height"]) for one in own]
    clusters = pd.read_csv(folder / VOXELS / "contrast-age_clusters.tsv", sep="\t")
    assert len(age["clusters"]) == len(clusters) > 0
    first = age["clusters"][0]
    assert first["peak_mm"] == clusters.loc[0, ["x_mm", "y_mm", "z_mm"]].tolist()
    assert (first["t"], first["extent_ml"]) == (clusters.loc[0, "peak_t"], clusters.loc[0, "size_ml"])
    assert first["region"].startswith("Left Half")
    assert age["stability"].split("?")[0].endswith("contrast-age_stat-replication_statmap.nii.gz")


def test_scans_that_were_excluded_since_the_fit_are_told(client):
    client.put("/api/exclusions/sub-03", json={"reason": "motion"})
    assert client.get(address(VOXELS)).json()["notes"][0] == "excluded since this fit: sub-03; fit it again"
    client.delete("/api/exclusions/sub-03")
    assert "excluded" not in client.get(address(VOXELS)).json()["notes"][0]


def test_without_inference_there_are_the_heights_that_the_map_gives(client):
    (age,) = client.get(address(PLAIN)).json()["contrasts"]
    assert [one["label"].split(",")[0] for one in age["thresholds"]] == ["p = 0.001", "q of FDR = 0.05"]
    assert age["thresholds"][0]["height"] == pytest.approx(4.3178, abs=1e-3)  # R: qt(0.0005, 12, lower.tail = FALSE)
    assert age["clusters"] == []


def test_results_of_an_older_version_say_so(client, folder):
    answer = client.get(address(OLD, f"/places?at={AT}"))
    assert (answer.status_code, "older" in answer.json()["error"]) == (400, True)
    for content in ("{}", "[1]", "nonsense", '{"contrasts": [], "spec": {}}', '{"contrasts": [{}], "spec": 3}'):
        (folder / PLAIN / "glm.json").write_text(content)
        listed = {one["id"]: one for one in client.get("/api/results").json()}
        details = client.get(address(PLAIN))
        assert details.status_code == 400
        assert "older" in details.json()["error"]
        if "spec" not in content:
            assert "older" in listed[PLAIN]["problem"]
        assert listed[VOXELS]["problem"] is None


def test_clusters_above_any_height(client):
    told = client.get(address(VOXELS, "/table?contrast=age&threshold=4.5&extent=2")).json()
    assert (told["height"], told["by"]) == (4.5, "t > 4.5")
    assert min(one["extent_voxels"] for one in told["clusters"]) >= 2
    assert all(abs(one["t"]) > 4.5 for one in told["clusters"])
    assert told["clusters"][0]["region"].startswith("Left Half")
    answer = client.get(address(VOXELS, "/table?contrast=age&threshold=4.5&extent=2&format=tsv"))
    assert len(answer.text.splitlines()) == len(told["clusters"]) + 1
    assert unquote(answer.headers["vbmstat-command"]) == told["command"]
    assert told["command"].endswith("--height 4.5 --extent 2")
    bad = client.get(address(VOXELS, "/table?contrast=age&threshold=big"))
    assert (bad.status_code, "--height big: expected one of" in bad.json()["error"]) == (400, True)


@pytest.fixture
def coarse_brain(monkeypatch, coarse_drawing):
    """The template in place of the average brain of 0.5 mm, and few pixels."""
    template = assets.template()
    grey = Volume(template.data.sum(0, keepdim=True), template.grid)
    monkeypatch.setattr(assets, "template_brain", lambda: grey)
    grey_average_brain.cache_clear()
    yield
    grey_average_brain.cache_clear()


def test_figures_to_keep(client, coarse_brain):
    answer = client.get(address(VOXELS, f"/figure?contrast=age&threshold=4.5&at={AT}&format=png"))
    assert answer.content[:4] == b"\x89PNG"
    assert f"--crosshair={AT}" in unquote(answer.headers["vbmstat-command"])
    for query in ("format=exe", "format=../x", "at=a,b,c", "contrast=nix"):
        assert client.get(address(VOXELS, f"/figure?{query}")).status_code == 400


def test_two_results_side_by_side(client, folder):
    told = client.get(f"/api/pairs?first={VOXELS}&second={PLAIN}&contrast=age").json()
    assert (
        told["command"] == f"vbmstat compare {folder.resolve() / VOXELS} {folder.resolve() / PLAIN}"
    )  # from any folder
    a, b = (
        nib.load(folder / one / "contrast-age_stat-t_statmap.nii.gz").get_fdata() for one in (VOXELS, PLAIN)
    )  # fmt: skip
    inside = nib.load(folder / VOXELS / "mask.nii.gz").get_fdata() > 0
    assert told["r"] == pytest.approx(np.corrcoef(a[inside], b[inside])[0, 1])
    assert told["slope"] == pytest.approx(np.polyfit(a[inside], b[inside], 1)[0])
    assert 0 < len(told["points"]) <= 5000
    assert client.get(f"/api/pairs?first={VOXELS}&second=nix").status_code == 404
    assert client.get(f"/api/pairs?first={VOXELS}&second={PLAIN}&contrast=sex").status_code == 400


def test_results_that_are_not_there(client):
    for rest in ("", "/places", "/table", "/figure", "/regions"):
        assert client.get(address("glm/nix", rest)).status_code == 404
        assert client.get(address("../study/glm/age", rest)).status_code == 403
    assert "fit it with --level roi" in client.get(address(VOXELS, "/regions")).json()["error"]
