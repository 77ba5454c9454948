"""Lesions in the tissues of a scan: hypointensities as asked, a brought lesion out of maps and fits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vbmstat.errors import ScanError
from vbmstat.image.grid import Grid
from vbmstat.image.volume import Volume
from vbmstat.preproc import lesions
from vbmstat.preproc.lesions import LesionPlan, Lesions, brought_lesion
from vbmstat.preproc.steps.lesions import Evidence

GRID = Grid((6, 6, 6), np.diag([10.0, 10.0, 10.0, 1.0]))
FRACTIONS = torch.full((3, *GRID.shape), 1 / 3)
EVIDENCE = Evidence(Volume(torch.ones(1, *GRID.shape), GRID), FRACTIONS, FRACTIONS, np.eye(4), Volume(
    torch.ones(1, *GRID.shape), GRID))  # fmt: skip


@pytest.fixture(autouse=True)
def finder(monkeypatch):
    """Hypointensity in the first three planes."""

    def find(evidence, *_):
        probability = torch.zeros(1, *GRID.shape)
        probability[:, :3] = 1.0
        return Volume(probability, evidence.brain.grid)

    monkeypatch.setattr(lesions, "find_lesions", find)


@pytest.mark.parametrize(
    ("wmh_as", "tissues", "warped"),
    [("wm", [0, 1, 0], [0, 1, 0]), ("class", [0, 0, 0], [0, 1, 0]), ("none", [1 / 3] * 3, [1 / 3] * 3)],
)
def test_hypointensities_are_counted_as_asked(wmh_as, tissues, warped):
    found = Lesions(LesionPlan(True, wmh_as)).search(EVIDENCE)
    maps = found.into_tissues(FRACTIONS)
    assert maps[:, 0, 0, 0].tolist() == pytest.approx(tissues)
    assert found.for_warp(maps)[:, 0, 0, 0].tolist() == pytest.approx(warped)
    assert torch.equal(maps[:, 3:], FRACTIONS[:, 3:])  # elsewhere nothing changes
    total = maps.sum(0) + (found.wmh if wmh_as == "class" else 0)
    torch.testing.assert_close(total, FRACTIONS.sum(0))


def test_without_the_wish_nothing_is_searched():
    plan = Lesions(LesionPlan())
    assert plan.search(EVIDENCE) is plan
    assert torch.equal(plan.into_tissues(FRACTIONS), FRACTIONS)


def test_what_cannot_be_measured_is_a_note_and_the_tissues_stay(monkeypatch):
    def refuse(*_):
        msg = "no contrast within the white matter"
        raise ScanError(msg)

    monkeypatch.setattr(lesions, "find_lesions", refuse)
    found = Lesions(LesionPlan(True)).search(EVIDENCE)
    assert found.wmh is None
    assert found.notes == ("white-matter hypointensities were not measured: no contrast within the white matter",)
    assert torch.equal(found.into_tissues(FRACTIONS), FRACTIONS)


@pytest.mark.parametrize(("in_maps", "inside"), [("exclude", 0.0), ("keep", 1.0)])
def test_a_brought_lesion_leaves_maps_and_fits(in_maps, inside):
    brought = torch.zeros(GRID.shape)
    brought[:2] = 1
    found = Lesions(LesionPlan(True, "wm", in_maps=in_maps), brought=brought).search(EVIDENCE)
    maps = found.into_tissues(FRACTIONS)
    assert maps[:, 0].sum(0).unique().tolist() == pytest.approx([inside])
    assert found.wmh[:2].sum() == 0  # a stroke is no hypointensity
    assert found.wmh[2].min() == 1
    assert found.weights[:2].sum() == 0
    assert found.weights[2:].min() == 1


def test_masks_that_cannot_be_used_are_notes_and_the_scan_goes_on():
    brain = torch.ones(GRID.shape, dtype=torch.bool)
    empty = LesionPlan(mask=Volume(torch.zeros(1, *GRID.shape), GRID))
    whole = LesionPlan(mask=Volume(torch.ones(1, *GRID.shape), GRID))
    for plan, words in ((empty, "is empty"), (whole, "covers 100 % of the brain")):
        lesion, (note,) = brought_lesion(plan, GRID, brain)
        assert lesion is None
        assert words in note
        assert note.endswith("the scan was processed without it")
    assert brought_lesion(LesionPlan(), GRID, brain) == (None, ())
