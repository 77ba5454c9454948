"""``vbmstat evaluate artefacts`` and ``atrophy``: tables, figures, summary, failures."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from tests.evaluate.conftest import as_segmented, head, head_labels  # noqa: F401 - a fixture
from vbmstat.cli import app
from vbmstat.errors import ScanError
from vbmstat.evaluate import engines
from vbmstat.simulate import tissue_labels

pytestmark = pytest.mark.usefixtures("coarse_drawing")  # drawing takes long


def call(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def perfect(*_, **__):
    labels = tissue_labels(head_labels()).data
    return as_segmented(torch.cat([labels == value for value in (2, 3, 1)]))


def test_artefacts_writes_tables_and_figures_and_prints_the_summary(head, tmp_path, monkeypatch):  # noqa: F811
    calls = []
    monkeypatch.setattr(engines, "segment_scan", lambda *a: calls.append(a) or perfect())
    arguments = ("artefacts", head, "--engine", "classic", "--engine", "classic", "--out", tmp_path / "out")
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert len(calls) == 15
    assert calls[0][1].name == "classic"
    assert "classic   spikes   strong" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation_artefacts.tsv", "evaluation_artefacts.json", "evaluation_artefacts.png",
        "evaluation_artefacts_summary.tsv", "evaluation_artefacts_summary.json", "artefacts_head01.png",
    }  # fmt: skip
    call(*arguments)
    assert len(calls) == 15
    call(*arguments, "--seed", 1)
    assert len(calls) == 30
    call(*arguments, "--seed", 1, "--force")
    assert len(calls) == 45


def test_atrophy_lists_failures_and_continues(head, tmp_path, monkeypatch):  # noqa: F811
    calls = []

    def segment(*_, **__):
        calls.append(1)
        if len(calls) == 3:
            msg = "no brain"
            raise ScanError(msg)
        return as_segmented(torch.full((3, 28, 28, 28), 1.0 - 0.01 * len(calls)))

    monkeypatch.setattr(engines, "segment_scan", segment)
    done = call("atrophy", head, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "failed: head01, 0.2, classic: no brain" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation_atrophy.tsv", "evaluation_atrophy.json", "evaluation_atrophy.png",
        "evaluation_atrophy_summary.tsv", "evaluation_atrophy_summary.json",
    }  # fmt: skip
    header = (tmp_path / "out" / "evaluation_atrophy.tsv").read_text().splitlines()[0]
    assert "true_change_percent\tfound_change_percent\tseconds" in header
    call("atrophy", head, "--out", tmp_path / "out")
    assert len(calls) == 12  # the failed one again
