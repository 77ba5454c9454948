"""People behind a place are those of ``vbmstat plot``."""

from __future__ import annotations

import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.report.conftest import EFFECT_AT_MM, N_SCANS
from tests.ui.conftest import PLAIN, VOXELS, address
from vbmstat.report.look import look_at
from vbmstat.ui import places as module
from vbmstat.ui.places import Places

AT = ",".join(f"{value:g}" for value in EFFECT_AT_MM)


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
    pack = module.pack_maps
    monkeypatch.setattr(module, "pack_maps", lambda *given: packed.append(1) or pack(*given))
    for at in (AT, "peak", "30,0,12"):
        places.look(VOXELS, {"at": at})
    assert len(packed) == 1
    places.look(PLAIN, {"at": AT})
    assert len(packed) == 2
    folder = Path(places._folder.name)
    assert folder.is_dir()
    places.close()
    assert not folder.exists()


def test_a_result_that_is_opened_is_ready_for_clicks(client, monkeypatch):
    prepared = []
    monkeypatch.setattr(Places, "prepare", lambda _, result: prepared.append(result))
    monkeypatch.setattr("vbmstat.ui.app._MOST_READY", N_SCANS)
    for _ in range(2):
        client.get(address(VOXELS))
    assert prepared == [VOXELS]
    monkeypatch.setattr("vbmstat.ui.app._MOST_READY", N_SCANS - 1)  # a large cohort is not read unasked
    client.get(address(PLAIN))
    assert prepared == [VOXELS]


def test_getting_ready_packs_the_maps_and_says_nothing_of_faults(study, monkeypatch):
    places, packed = Places(study), threading.Event()
    pack = module.pack_maps
    monkeypatch.setattr(module, "pack_maps", lambda *given: packed.set() or pack(*given))
    places.prepare("nix")
    places.prepare(VOXELS)
    assert packed.wait(30)
    places.look(VOXELS, {"at": AT})  # after it
    places.close()


@pytest.mark.parametrize(
    ("query", "message"),
    [("at=nowhere", "expected x,y,z in mm"), ("at=500,0,0", "outside the analysis mask"), ("at=1,2", "--at"),
     ("contrast=nix", "expected one of"), ("by=nix", "nix")],
)  # fmt: skip
def test_places_that_are_none_are_a_sentence(client, query, message):
    answer = client.get(address(VOXELS, f"/places?{query}"))
    assert (answer.status_code, message in answer.json()["error"]) == (400, True)
