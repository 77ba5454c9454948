"""Engines under atrophy: a perfect engine has slope 1; the summary is right for imperfect ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from tests.evaluate.conftest import GRID, as_segmented
from vbmstat.evaluate import atrophy, engines
from vbmstat.evaluate.atrophy import AtrophyHead, changes, summarise
from vbmstat.evaluate.engines import Bench, evaluate_heads
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic
from vbmstat.simulate.atrophy import LEVELS_MM

CLASSIC = [Classic()]


def test_a_perfect_engine_has_slope_one_and_falls_at_every_level(head, tmp_path, monkeypatch):
    def render_gm(labels, surface, thinning_mm, seed):
        return Volume(torch.from_numpy(surface.gm_fraction(thinning_mm))[None], GRID)

    def segment(image, *_, **__):
        return as_segmented(torch.cat([image.data, torch.zeros(2, *GRID.shape)]))

    monkeypatch.setattr(atrophy, "render_thinned", render_gm)
    monkeypatch.setattr(engines, "segment_scan", segment)
    table = changes(evaluate_heads(AtrophyHead, [head], Bench(CLASSIC), tmp_path))
    assert table["thinning_mm"].tolist() == list(LEVELS_MM)
    assert table["gm_ml"].tolist() == pytest.approx(table["true_gm_ml"].tolist(), abs=2e-3)
    (row,) = summarise(table).to_dict("records")
    assert row["slope"] == pytest.approx(1, abs=1e-3)
    assert row["intercept"] == pytest.approx(0, abs=1e-2)
    assert row["r"] == pytest.approx(1, abs=1e-5)
    assert (row["n_heads"], row["n_failed"], row["n_monotonic"], row["smallest_seen_mm"]) == (1, 0, 1, 0.1)


def test_images_of_one_seed_differ_only_in_thinning(head, tmp_path, monkeypatch):
    shown = []

    def segment(image, *_, **__):
        shown.append(image.data)
        return as_segmented(torch.ones(3, *GRID.shape))

    monkeypatch.setattr(engines, "segment_scan", segment)
    evaluate_heads(AtrophyHead, [head], Bench(CLASSIC), tmp_path, seed=2)
    assert len(shown) == len(LEVELS_MM)
    corner = [image[0, :3, :3, :3] for image in shown]
    assert all(torch.equal(corner[0], other) for other in corner[1:])  # the same noise in air
    means = [float(image.mean()) for image in shown]
    assert (np.diff(means) < 0).all()  # CSF is darker than GM


def rows_of(engine: str, head: str, volumes: list[float], true: list[float] | None = None) -> pd.DataFrame:
    return pd.DataFrame({
        "head": head, "thinning_mm": LEVELS_MM[: len(volumes)], "engine": engine,
        "true_gm_ml": true or [100.0 - n for n in range(len(volumes))], "gm_ml": volumes, "seconds": 1.0,
        "reason": None, "made_with": "x",
    })  # fmt: skip


def test_changes_are_relative_to_the_same_head_and_engine():
    table = changes(pd.concat([rows_of("a", "x", [200.0, 190.0]), rows_of("a", "y", [50.0, 49.0])], ignore_index=True))
    assert table["found_change_percent"].tolist() == [0, -5, 0, -2]
    assert table["true_change_percent"].tolist() == [0, -1, 0, -1]
    pd.testing.assert_frame_equal(changes(table), table)


def test_the_summary_has_slope_order_and_smallest_visible_thinning():
    half = rows_of("half", "x", [200.0, 199.0, 198.0, 197.0])
    late = rows_of("late", "x", [200.0, 201.0, 199.0, 198.0])
    jumpy = rows_of("jumpy", "x", [200.0, 199.0, 201.0, 198.0])
    blind = rows_of("blind", "x", [200.0, 200.0, 200.0, 200.0])
    failed = rows_of("half", "y", [100.0, np.nan, 99.0, 98.5])
    rows = summarise(changes(pd.concat([half, late, jumpy, blind, failed], ignore_index=True))).set_index("engine")
    assert rows.loc["half", "slope"] == pytest.approx(0.5, abs=0.01)
    assert rows.loc["half", ["n_heads", "n_failed", "n_monotonic"]].tolist() == [2, 1, 2]
    assert rows["smallest_seen_mm"].fillna(-1).tolist() == [0.1, 0.2, 0.3, -1]
    assert rows["n_monotonic"].tolist() == [2, 0, 0, 0]
    assert rows.loc["blind", "slope"] == pytest.approx(0)


def test_a_head_without_its_first_level_has_no_change():
    table = changes(rows_of("a", "x", [np.nan, 190.0]))
    assert table["found_change_percent"].isna().all()
    assert summarise(table)["n_failed"].tolist() == [2]
