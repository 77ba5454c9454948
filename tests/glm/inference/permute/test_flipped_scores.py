"""Sign flips of subjects: the definition by fits anew, all flips by hand, false positives; what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from vbmstat.errors import DesignError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design
from vbmstat.glm.fit.plan import make_plan
from vbmstat.glm.fit.tile import Fitted
from vbmstat.glm.inference.permute import run
from vbmstat.glm.inference.permute.blocks import block_tree
from vbmstat.glm.inference.permute.checkpoint import Checkpoint, analysis_key
from vbmstat.glm.inference.permute.flipped_scores import FlippedScores
from vbmstat.glm.inference.permute.nulls import NullSettings, PlainScale
from vbmstat.glm.inference.permute.run import permutation_nulls
from vbmstat.glm.inference.permute.schemes import Resampling, make_permuted, partition, smallest_p
from vbmstat.glm.spec import Compute
from vbmstat.glm.variance.sandwich import fit_sandwich
from vbmstat.maps.store import ArrayMaps

FORMULA = "group * within(age) + between(age)"
SPECS = ("group", "within(age)", "group[T.p]:within(age)", "F(within(age))", "F(group, within(age), between(age))")


def cohort(n_people: int, seed: int = 0) -> pd.DataFrame:
    """People of two groups with 1 to 4 visits each, in no order."""
    rng = np.random.default_rng(seed)
    visits = rng.integers(1, 5, n_people)
    visits[:4] = 3
    person = np.repeat(np.arange(n_people), visits)
    time = np.concatenate([np.arange(count) + rng.uniform(0, 0.5, count) for count in visits])
    table = pd.DataFrame({"participant_id": [f"p{i:02d}" for i in person], "session_id": [f"{t:.3f}" for t in time]})
    table["group"] = np.where(person % 2, "p", "c")
    table["age"] = rng.uniform(50, 70, n_people)[person] + time
    return table.sample(frac=1, random_state=seed).reset_index(drop=True)


def noise(table: pd.DataFrame, n_voxels: int, seed: int = 1) -> np.ndarray:
    """Noise with correlation .8 in a person, without effects."""
    rng = np.random.default_rng(seed)
    person = pd.factorize(table["participant_id"])[0]
    return 2 * rng.standard_normal((person.max() + 1, n_voxels))[person] + rng.standard_normal((len(table), n_voxels))


class Case:
    """A model of null maps, its sandwich fit and the flips of one contrast."""

    def __init__(self, spec: str, n_people: int = 14, n_voxels: int = 7, permutations: int = 40):
        self.table = cohort(n_people)
        self.ids = tuple(self.table["participant_id"] + "_" + self.table["session_id"])
        self.people = self.table["participant_id"].to_numpy(str)
        self.maps = ArrayMaps(noise(self.table, n_voxels), self.ids)
        self.design = build_design(FORMULA, self.table, self.ids)
        contrasts = build_contrasts([spec], self.design)
        self.plan = make_plan(self.design, contrasts, np.zeros((0, len(self.ids)), dtype=bool))
        self.kind = contrasts[0].kind
        self.fitted = Fitted(self.maps, self.plan, fit_sandwich(self.maps, self.plan, self.people))
        tree = block_tree(self.people, "whole", range(len(self.ids)))
        self.asked = Resampling(tree, permutations, flip=True, subjects=tuple(self.people))
        self.permuted = make_permuted(self.plan, 0, self.asked)

    def nulls(self, compute: Compute | None = None, checkpoint: Checkpoint | None = None, **settings):
        return permutation_nulls(self.fitted, self.permuted, NullSettings(**settings), compute, checkpoint)

    def by_definition(self, signs: np.ndarray) -> np.ndarray:
        """T or F (v,) of the whole model fitted to the flipped residuals of the model without the effect."""
        nuisance = partition(self.plan, 0).nuisance
        values = self.maps.data - nuisance @ (nuisance.T @ self.maps.data)
        return fit_sandwich(ArrayMaps(signs[:, None] * values, self.ids), self.plan, self.people).statistic[0]


@pytest.mark.parametrize("spec", SPECS)
def test_flips_are_their_definition(spec):
    case = Case(spec)
    scale = PlainScale(case.kind, False, case.plan.df_resid, case.permuted.n_tested)
    scores = FlippedScores(case.maps, case.plan, case.permuted, scale, Compute(n_threads=1))
    found = scores.run(0, 40, True, lambda _: None)
    _, signs = case.permuted.rearrangements.sources(0, 40)
    assert all(len(set(signs[:, case.people == one].std(axis=1))) == 1 for one in set(case.people))
    expected = np.array([case.by_definition(row) for row in signs])
    np.testing.assert_allclose(found.fields, expected, rtol=2e-6, atol=1e-6)  # float32 maps
    np.testing.assert_allclose(found.largest, expected.max(axis=1), rtol=1e-9)
    np.testing.assert_allclose(found.own, case.fitted.fit.statistic[0], rtol=1e-9)


def test_all_flips_by_hand():
    case = Case("group", n_people=8, permutations=1000)
    nulls = case.nulls(two_sided=True)
    assert nulls.count == 2**8
    assert nulls.is_exhaustive
    people = sorted(set(case.people))
    t = np.array([
        case.by_definition(np.array([signs[people.index(one)] for one in case.people]))
        for signs in itertools.product([1.0, -1.0], repeat=8)
    ])  # fmt: skip
    own = np.abs(case.fitted.fit.statistic[0])
    np.testing.assert_allclose(nulls.p_uncorrected, (np.abs(t) >= own - 1e-9).mean(axis=0))
    np.testing.assert_allclose(nulls.p_fwe, (np.abs(t).max(axis=1)[:, None] >= own - 1e-9).mean(axis=0))
    assert nulls.p_uncorrected.min() >= nulls.smallest_p == smallest_p(case.permuted, two_sided=True) == 2 / 2**8


@pytest.mark.parametrize("spec", ["group", "within(age)", "group[T.p]:within(age)", "F(group, between(age))"])
def test_null_voxels_of_correlated_scans(spec):
    """About 5 % of 3,000 voxels reach p = .05; one design is not exact, so more than its standard error of .4 %."""
    case = Case(spec, n_people=40, n_voxels=3000, permutations=400)
    share = float((case.nulls(two_sided=True).p_uncorrected <= 0.05).mean())
    assert 0.03 < share < 0.07


def test_threads_batches_and_checkpoints_do_not_matter(monkeypatch, tmp_path):
    whole = Case("within(age)", permutations=300)
    expected = whole.nulls(two_sided=True)
    monkeypatch.setattr(run, "_MAX_BATCH", 128)
    key = analysis_key(whole.maps, whole.plan, whole.permuted, NullSettings())
    found = whole.nulls(Compute(n_threads=2), Checkpoint(tmp_path / "c.npz", key), two_sided=True)
    np.testing.assert_array_equal(found.maxima["statistic"], expected.maxima["statistic"])
    np.testing.assert_array_equal(found.p_fwe, expected.p_fwe)
    other = make_permuted(whole.plan, 0, Resampling(whole.asked.tree, 300, flip=True))
    assert analysis_key(whole.maps, whole.plan, other, NullSettings()) != key


def test_whole_analysis():
    table = cohort(16)
    ids = table["participant_id"] + "_" + table["session_id"]
    values = noise(table, 5)
    values[:, 0] -= 5 * (table["age"] - table.groupby("participant_id")["age"].transform("mean"))
    matrix = pd.DataFrame(values, ids, list("abcde"))
    options = {"variance": "sandwich:participant_id", "inference": "fwe", "permutations": 500}
    results = fit_glm(matrix, "gm ~ within(age) + group", table, ["within(age)"], **options)
    assert results.maps["within(age)"]["pfwe"].values[0] <= 0.01
    inference = results.record["inference"]
    assert (inference["blocks"], inference["exchange"], inference["sign_flip"]) == (["participant_id"], "whole", True)
    assert not [note for note in results.record["notes"] if "take scans as independent" in note or "sign flips" in note]
    written = {"blocks": "participant_id", "exchange": "whole", "sign_flip": True}
    again = fit_glm(
        matrix, "gm ~ within(age) + group", table, ["within(age)"], **options, **written
    )  # as a record has it
    np.testing.assert_array_equal(again.maps["within(age)"]["pfwe"].values, results.maps["within(age)"]["pfwe"].values)


@pytest.mark.parametrize("options", [{"scheme": "smith"}, {"blocks": "group"}, {"blocks": "participant_id"}])
def test_other_permutations_are_refused(options):
    table = cohort(12)
    matrix = pd.DataFrame(noise(table, 3), table["participant_id"] + "_" + table["session_id"], list("abc"))
    with pytest.raises(
        DesignError, match="flips the signs of all scans with one participant_id together; leave --blocks"
    ):
        fit_glm(matrix, "gm ~ group", table, variance="sandwich:participant_id", inference="fwe", **options)
