"""The estimators tried on noise of the design at hand: a small version of benchmarks/glm/calibration.py."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.variance.calibration import BAND, NoiseMaps

VOXELS = 6000


def table_of(rare: int) -> pd.DataFrame:
    """24 scans, the last `rare` of group p."""
    rng = np.random.default_rng(rare)
    table = pd.DataFrame({"participant_id": [f"s{i:02d}" for i in range(24)], "age": rng.uniform(20, 80, 24)})
    return table.assign(group=np.where(np.arange(24) < 24 - rare, "c", "p"), w=rng.uniform(0.5, 2, 24))


def visits(people: int, rare: int) -> pd.DataFrame:
    """One to four visits of each person, the last `rare` of group p."""
    count = np.random.default_rng(people).integers(1, 5, people)
    person = np.repeat(np.arange(people), count)
    table = pd.DataFrame({"participant_id": [f"s{i:02d}" for i in person]})
    table["time"] = [t for n in count for t in range(n)]
    table["session_id"] = table["time"].astype(str)
    return table.assign(group=np.where(person < people - rare, "c", "p"), time=table["time"].astype(float))


def check(values, formula, table, contrast, **options):
    """The share of null voxels with p < .05 is right, or a note tells, or the model is refused."""
    try:
        found = fit_glm(values, formula, table, [contrast], **{"repeats": 0} | options)
    except DesignError as error:
        assert "cannot" in str(error) or "no residuals" in str(error)  # noqa: PT017
        return "refused"
    share = (found.maps[contrast]["p"].values < 0.05).mean()
    notes = [note for note in found.record["notes"] if note.startswith(f"contrast {contrast!r}: p are ")]
    if BAND[0] - 0.006 <= share <= BAND[1] + 0.006 and not notes:
        return "right"
    assert notes, f"{share:.3f} and nothing is told"
    assert ("too large" in notes[0]) == (share < 0.05)
    return "told"


SWEEP = [
    ("ols", {}, 1, "right"), ("ols", {"weights": "w"}, 8, "right"), ("spm", {"variance": "spm"}, 2, "right"),
    ("hc3", {"variance": "hc3"}, 1, "refused"), ("hc3", {"variance": "hc3"}, 2, "right"),
    ("hc3", {"variance": "hc3", "weights": "w"}, 4, "right"),
    ("groups", {"variance": "groups:group"}, 1, "refused"), ("groups", {"variance": "groups:group"}, 2, "told"),
    ("groups", {"variance": "groups:group"}, 12, "right"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "rare", "expected"), [one[1:] for one in SWEEP])
def test_independent_scans(options, rare, expected):
    table = table_of(rare)
    values = np.random.default_rng(8).standard_normal((24, VOXELS))
    if "weights" in options:
        values /= np.sqrt(table["w"].to_numpy())[:, None]
    assert check(values, "gm ~ age + group", table, "group[T.p]", **options) == expected


@pytest.mark.parametrize("correlation", [0.0, 0.8])
@pytest.mark.parametrize(
    ("people", "rare", "contrast", "expected"),
    [
        (30, 10, "group[T.p]", "right"), (30, 10, "F(group[T.p], time)", "right"), (20, 2, "group[T.p]", "told"),
        (20, 2, "F(group[T.p], time)", "told"), (20, 1, "group[T.p]", "refused"),
        (20, 1, "F(group[T.p], time)", "refused"),
    ],
)  # fmt: skip
def test_repeated_scans(people, rare, contrast, expected, correlation):
    table = visits(people, rare)
    rng = np.random.default_rng(9)
    person = pd.factorize(table["participant_id"])[0]
    values = np.sqrt(correlation) * rng.standard_normal((people, VOXELS))[person]
    values += np.sqrt(1 - correlation) * rng.standard_normal((len(table), VOXELS))
    assert check(values, "gm ~ group + time", table, contrast, variance="sandwich:participant_id") == expected


def test_noise_has_the_variances_and_correlations_of_the_model():
    table = visits(6, 2)
    ids = [f"{i}" for i in range(len(table))]
    design = build_design("group", table, ids)
    weights = np.linspace(0.5, 2, len(table))
    plan = make_plan(design, build_contrasts(None, design), np.empty((0, len(table)), bool), weights)
    noise = NoiseMaps.of_plan(plan, ids, table["participant_id"].tolist(), 0.8)
    values = np.hstack([noise.read(start, start + 512) for start in range(0, 8192, 512)])
    same = table["participant_id"].to_numpy()[:, None] == table["participant_id"].to_numpy()
    expected = np.where(same, 0.8, 0.0) + 0.2 * np.eye(len(table))
    expected /= np.sqrt(weights[:, None] * weights)
    np.testing.assert_allclose(np.cov(values), expected, atol=0.12)
    np.testing.assert_array_equal(noise.read(512, 1024), values[:, 512:1024])
    chosen = noise.select(ids[2:4])
    assert chosen.read(0, 3).shape == (2, 3)
    assert chosen.scale.tolist() == noise.scale[2:4].tolist()
