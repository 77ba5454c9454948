from __future__ import annotations

import numpy as np
import pytest

from vbmstat.errors import DesignError, TableError
from vbmstat.glm.design.subsets import draw_subsets, draws_hash, read_draws, write_draws

IDS = [f"sub-{i:02d}" for i in range(33)]


def test_sizes_seed_and_row_order():
    draws = draw_subsets(IDS, 50, 0.8, 7)
    assert draws.shape == (50, 33)
    assert set(draws.sum(axis=1)) == {26}  # floor(0.8 * 33)
    assert np.array_equal(draws, draw_subsets(IDS, 50, 0.8, 7))
    assert not np.array_equal(draws, draw_subsets(IDS, 50, 0.8, 8))
    order = np.random.default_rng(0).permutation(33)
    shuffled = draw_subsets([IDS[i] for i in order], 50, 0.8, 7)
    assert np.array_equal(shuffled, draws[:, order])
    assert draws_hash(draws, IDS) == draws_hash(shuffled, [IDS[i] for i in order])
    assert draws_hash(draws, IDS) != draws_hash(draws[::-1], IDS)


def test_floor_is_exact():
    hundred = [f"{i:03d}" for i in range(100)]
    assert draw_subsets(hundred, 1, 0.29, 0).sum() == 29  # 0.29 * 100 is 28.999… in floating point
    assert draw_subsets(IDS[:5], 1, 1.0, 0).sum() == 5


def test_every_scan_is_drawn_about_equally_often():
    share = draw_subsets(IDS, 4000, 0.8, 1).mean(axis=0)
    assert np.abs(share - 26 / 33).max() < 4 * np.sqrt(0.8 * 0.2 / 4000)


def test_strata_keep_their_share():
    strata = ["a"] * 20 + ["b"] * 10 + ["c"] * 3
    draws = draw_subsets(IDS, 20, 0.8, 1, strata)
    assert set(draws.sum(axis=1)) == {26}
    assert set(draws[:, :20].sum(axis=1)) == {16}
    assert set(draws[:, 20:30].sum(axis=1)) == {8}
    assert set(draws[:, 30:].sum(axis=1)) == {2}
    rare = draw_subsets(IDS, 20, 0.5, 1, ["a"] * 32 + ["rare"])
    assert rare[:, -1].all()


def test_draws_are_stored_and_used_again(tmp_path):
    draws = draw_subsets(IDS, 12, 0.8, 3)
    write_draws(tmp_path / "draws.tsv", draws, IDS)
    assert np.array_equal(read_draws(tmp_path / "draws.tsv", IDS[::-1]), draws[:, ::-1])
    with pytest.raises(TableError, match=r"draws are for other scans \(sub-32 differ\)"):
        read_draws(tmp_path / "draws.tsv", IDS[:-1])
    with pytest.raises(TableError, match="no such table"):
        read_draws(tmp_path / "none.tsv", IDS)


@pytest.mark.parametrize(("repeats", "fraction"), [(-1, 0.8), (5, 0.0), (5, 1.2)])
def test_impossible_draws(repeats, fraction):
    with pytest.raises(DesignError, match="expected repeats"):
        draw_subsets(IDS, repeats, fraction, 0)
