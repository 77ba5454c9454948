"""What a model will take, from a part of it."""

from __future__ import annotations

import pytest

from tests.report.conftest import N_SCANS
from vbmstat.ui import estimate

OPTIONS = {"formula": "gm ~ age + sex", "contrasts": {"": "age"}, "repeats": 0, "estimate": True}


@pytest.fixture
def one_core(monkeypatch):
    """Every map takes 2 s to read and has 1000 voxels; a fit takes 1 ms a voxel, a permutation of it 1 µs."""
    monkeypatch.setattr(estimate, "n_cores", lambda: 1)
    monkeypatch.setattr(estimate, "_one_map", lambda _: (2.0, 1000))
    monkeypatch.setattr(estimate, "_voxels", lambda _: (1e-3, 1e-6))


def test_it_is_the_sum_of_its_parts(client, one_core):
    told = client.post("/api/designs", json=OPTIONS).json()["estimate"]
    assert told["seconds"] == pytest.approx(N_SCANS * 2 + 1 + 15)
    assert told["disk_gb"] == pytest.approx(N_SCANS * 1000 * 4e-9)
    told = client.post("/api/designs", json=OPTIONS | {"inference": ["tfce"], "permutations": 5000}).json()["estimate"]
    assert told["seconds"] == pytest.approx(N_SCANS * 2 + 1 + 5 + 30)
    assert "5,000 permutations 5 s, start, tables and figures 30 s, and more for TFCE" in told["text"]


def test_the_pilot_is_of_this_machine_and_model(client):
    few = client.post("/api/designs", json=OPTIONS | {"inference": ["fwe"], "permutations": 100}).json()["estimate"]
    many = client.post("/api/designs", json=OPTIONS | {"inference": ["fwe"], "permutations": 10**6}).json()["estimate"]
    assert 30 < few["seconds"] < 60  # 14 maps of 6 mm
    assert many["seconds"] > 2 * few["seconds"]


def test_it_is_told_only_to_who_asks_and_of_voxels(client):
    assert client.post("/api/designs", json=OPTIONS | {"estimate": False}).json()["estimate"] is None
    told = client.post("/api/designs", json=OPTIONS | {"level": "roi"}).json()
    assert (told["ok"], told["estimate"]) == (True, None)
