"""Finished models for the page: the numbers are those of their files."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote, unquote

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.report.conftest import EFFECT_AT_MM, N_SCANS
from tests.ui.conftest import OLD, PLAIN, VOXELS
from vbmstat.report.look import look_at
from vbmstat.ui import results
from vbmstat.ui.results import Places

AT = ",".join(f"{value:g}" for value in EFFECT_AT_MM)


@pytest.fixture(autouse=True)
def own_atlas(monkeypatch, folder):
    """Places are named by the two halves: the real atlases take seconds to read."""
    monkeypatch.setattr(results, "ATLASES", (str(folder / "halves.nii.gz"),))
    results.names_of_places.cache_clear()


def address(result: str, rest: str = "") -> str:
    return f"/api/results/{quote(result, safe='')}{rest}"


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


def test_without_inference_there_are_the_heights_that_the_map_gives(client):
    (age,) = client.get(address(PLAIN)).json()["contrasts"]
    assert [one["label"].split(",")[0] for one in age["thresholds"]] == ["p = 0.001", "q of FDR = 0.05"]
    assert age["thresholds"][0]["height"] == pytest.approx(4.3178, abs=1e-3)  # R: qt(0.0005, 12, lower.tail = FALSE)
    assert age["clusters"] == []


def test_people_of_a_voxel_are_those_of_vbmstat_plot(client, folder):
    told = client.get(address(VOXELS, f"/places?contrast=age&at={AT}&by=sex")).json()
    (look,) = look_at(folder / VOXELS, [(AT, "age")], "sex")
    assert told["place"]["statistic"] == pytest.approx(look.fit.statistic)
    assert told["place"]["mm"] == list(EFFECT_AT_MM)
    assert (told["place"]["region"], told["x"]["name"], told["grouped_by"]) == ("Left Half", "age", "sex")
    points = pd.DataFrame(told["points"]).set_index("scan")
    scans = look.fit.scans.set_index("scan_id")
    np.testing.assert_allclose(points["y"], scans["adjusted"])
    np.testing.assert_allclose(points["cook"], scans["cooks_distance"])
    assert points.index.tolist() == scans.index.tolist()
    (line,) = told["lines"]
    np.testing.assert_allclose(line["y"], look.fit.line["fit"])
    np.testing.assert_allclose(line["low"], look.fit.line["lower"])
    assert told["command"] == f"vbmstat plot {folder / VOXELS} --at={AT} --contrast age --by sex"
    stored = nib.load(folder / VOXELS / "contrast-age_stat-t_statmap.nii.gz")
    at = np.rint(np.linalg.inv(stored.affine) @ [*EFFECT_AT_MM, 1])[:3].astype(int)
    assert told["place"]["statistic"] == pytest.approx(float(stored.get_fdata()[tuple(at)]), rel=1e-4)


def test_a_factor_has_levels_and_a_region_its_mean(client, folder):
    told = client.get(address(VOXELS, "/places?contrast=sex&at=left half")).json()
    (look,) = look_at(folder / VOXELS, [("left half", "sex")])
    assert (told["x"]["is_factor"], {one["x"] for one in told["points"]}) == (True, {"f", "m"})
    assert told["place"]["statistic"] == pytest.approx(look.fit.statistic)
    assert [line["x"] for line in told["lines"]] == [["f"], ["m"]]


def test_maps_are_read_once_for_many_clicks(study, monkeypatch):
    places, packed = Places(study), []
    pack = results.pack_maps
    monkeypatch.setattr(results, "pack_maps", lambda *given: packed.append(1) or pack(*given))
    for at in (AT, "peak", "30,0,12"):
        places.look(VOXELS, {"at": at})
    assert len(packed) == 1
    places.look(PLAIN, {"at": AT})
    assert len(packed) == 2
    folder = Path(places._folder.name)
    assert folder.is_dir()
    places.close()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("query", "message"),
    [("at=nowhere", "expected x,y,z in mm"), ("at=500,0,0", "outside the analysis mask"), ("at=1,2", "--at"),
     ("contrast=nix", "expected one of"), ("by=nix", "nix")],
)  # fmt: skip
def test_places_that_are_none_are_a_sentence(client, query, message):
    answer = client.get(address(VOXELS, f"/places?{query}"))
    assert (answer.status_code, message in answer.json()["error"]) == (400, True)


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


def test_figures_to_keep(client, monkeypatch):
    monkeypatch.setattr("vbmstat.figures.publication.DPI", 50)
    answer = client.get(address(VOXELS, f"/figure?contrast=age&threshold=4.5&at={AT}&format=png"))
    assert answer.content[:4] == b"\x89PNG"
    assert f"--crosshair={AT}" in unquote(answer.headers["vbmstat-command"])
    for query in ("format=exe", "format=../x", "at=a,b,c", "contrast=nix"):
        assert client.get(address(VOXELS, f"/figure?{query}")).status_code == 400


def test_two_results_side_by_side(client, folder):
    told = client.get(f"/api/pairs?first={VOXELS}&second={PLAIN}&contrast=age").json()
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
