"""Maps of change: slopes of numpy, paired t of scipy, in memory and in files; who is left out; what is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from tests.glm.conftest import GRID, SHAPE
from tests.glm.inference.permute.test_flipped_scores import cohort
from vbmstat.cli import app
from vbmstat.errors import DesignError, TableError
from vbmstat.glm.analysis import fit_glm
from vbmstat.image import io
from vbmstat.image.io import write_volume
from vbmstat.image.volume import Volume
from vbmstat.maps.change import ChangeMaps, ChangeTerm, find_change
from vbmstat.maps.pack import pack_maps


@pytest.fixture
def table() -> pd.DataFrame:
    """16 people with 1 to 4 visits; the score is one a person, the weight differs between scans."""
    people = cohort(16)
    person = pd.factorize(people["participant_id"])[0]
    rng = np.random.default_rng(2)
    return people.assign(score=rng.normal(0, 1, 16)[person].round(3), mood=rng.uniform(0, 9, len(people)).round(2))


def ids(table: pd.DataFrame) -> pd.Series:
    return table["participant_id"] + "_" + table["session_id"]


def values(table: pd.DataFrame, n_columns: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(rng.standard_normal((len(table), n_columns)), ids(table), list("abcdefgh")[:n_columns])


def slopes(table: pd.DataFrame, matrix: pd.DataFrame) -> pd.DataFrame:
    """The slope over age of each person with two scans or more, by numpy."""
    rows = {
        person: np.polyfit(own["age"], matrix.loc[ids(own)].to_numpy(), 1)[0]
        for person, own in table.groupby("participant_id") if len(own) > 1
    }  # fmt: skip
    return pd.DataFrame(rows, matrix.columns).T


def test_a_model_of_slopes_is_that_of_numpy_s_slopes(table):
    matrix = values(table)
    ours = fit_glm(matrix, "change(gm, age) ~ group + score + mood", table, repeats=0)
    by_hand = slopes(table, matrix)
    people = table.groupby("participant_id").agg({"group": "first", "score": "first", "mood": "mean"})
    people = people.loc[by_hand.index].reset_index()
    theirs = fit_glm(by_hand, "gm ~ group + score + mood", people, repeats=0)
    assert ours.design.scan_ids == tuple(by_hand.index)
    np.testing.assert_allclose(ours.design.matrix, theirs.design.matrix, rtol=1e-12)
    for name in ("group[T.p]", "mood"):
        for stat in ("effect", "t"):
            found, expected = (one.maps[name][stat].values for one in (ours, theirs))
            np.testing.assert_allclose(found, expected, rtol=1e-8)
    alone = [person for person, own in table.groupby("participant_id") if len(own) == 1]
    (note,) = [note for note in ours.record["notes"] if "one row a person" in note]
    assert f"left out {len(alone)} people without two scans that differ in age: {', '.join(alone)}" in note
    assert ours.record["flow"][-1] == {"step": "one row a person", "n_left": len(by_hand), "left_out": {}}
    assert {scan.split("_")[0] for step in ours.record["flow"] for scan in step["left_out"]} == set(alone)


@pytest.mark.parametrize("levels", ["post - pre", "ses-post - ses-pre"])
def test_paired_scans_are_scipy_s_paired_t(levels):
    table = pd.DataFrame({"participant_id": np.repeat([f"s{i}" for i in range(9)], 2)})
    table["session_id"] = np.tile(["ses-post", "ses-pre"], 9)
    matrix = values(table)
    found = fit_glm(matrix, f"change(gm, session_id, {levels}) ~ 1", table, repeats=0).maps["Intercept"]
    data = matrix.to_numpy()
    expected = stats.ttest_rel(data[::2], data[1::2])
    np.testing.assert_allclose(found["t"].values, expected.statistic, rtol=1e-10)
    np.testing.assert_allclose(found["p"].values, expected.pvalue, rtol=1e-8)
    table = table.iloc[:-1]  # the last person has no scan before
    (note,) = fit_glm(matrix.iloc[:-1], f"change(gm, session_id, {levels}) ~ 1", table, repeats=0).record["notes"]
    assert f"left out 1 people without scans at {levels.replace(' - ', ' and ')}: s8" in note
    table = pd.concat([table, pd.DataFrame({"participant_id": ["s8"], "session_id": ["ses-pre"]})])
    flips = fit_glm(
        matrix, f"change(gm, session_id, {levels}) ~ 1", table, repeats=0, inference="fwe", sign_flip=True
    ).maps["Intercept"]
    assert flips["pperm"].values.min() >= 2 / 2**9


def test_several_scans_at_a_level_are_averaged_and_other_levels_left_out():
    index = pd.MultiIndex.from_tuples([("a", str(i)) for i in range(4)] + [("b", "0"), ("b", "1")],
                                      names=["participant_id", "session_id"])  # fmt: skip
    table = pd.DataFrame({"time": ["pre", "pre", "post", "later", "pre", "later"]}, index)
    change, without = find_change(ChangeTerm("time", "post", "pre"), table, ["a0", "a1", "a2", "a3", "b0", "b1"])
    assert change.of == {"a": {"a0": -0.5, "a1": -0.5, "a2": 1.0}}
    assert without == {"a3": "another level", "b0": "no scan at post or pre", "b1": "no scan at post or pre"}
    np.testing.assert_allclose(change.combine(np.array([[1.0], [3.0], [5.0]])), [[3.0]])


@pytest.fixture
def in_files(table, tmp_path):
    """Maps in files, whose slopes over age are in the table beside them."""
    rng = np.random.default_rng(4)
    images = 0.5 + 0.05 * rng.standard_normal((len(table), *SHAPE)).astype(np.float32)
    images[:, 2:4, 2:4] -= 0.05 * (table["group"] == "p").to_numpy()[:, None, None, None] * (
        table["age"] - 60
    ).to_numpy(np.float32)[:, None, None, None]  # fmt: skip
    images = np.clip(images, 0.15, None)
    paths = [f"s6mwp1{scan}_T1w.nii.gz" for scan in ids(table)]
    for path, image in zip(paths, images, strict=True):
        write_volume(tmp_path / path, Volume(torch.from_numpy(image)[None], GRID))
    table.assign(s6mwp1=paths).to_csv(tmp_path / "cohort.tsv", sep="\t", index=False)
    return tmp_path, images.reshape(len(table), -1)


def test_maps_in_files(in_files, table):
    folder, images = in_files
    formula, options = "change(gm, age) ~ group", {"inference": "fwe", "permutations": 64, "repeats": 10}
    results = fit_glm(None, formula, folder / "cohort.tsv", ["group[T.p]"], store=folder / "store", **options)
    by_hand = slopes(table, pd.DataFrame(images[:, results.space.voxel_index], ids(table)))
    people = table.groupby("participant_id").first().loc[by_hand.index].reset_index().drop(columns="session_id")
    expected = fit_glm(by_hand, "gm ~ group", people, ["group[T.p]"], **options)
    for stat in ("t", "pfwe", "mediant"):
        found, theirs = (one.maps["group[T.p]"][stat].values for one in (results, expected))
        np.testing.assert_allclose(found[results.mask], theirs[results.mask], rtol=2e-3, atol=1e-4)
    kept = set(slopes(table, values(table)).index)
    assert set(results.record["maps"]) == {scan for scan in ids(table) if scan.split("_")[0] in kept}
    assert results.record["scan_ids"] == sorted(kept)


def typed(*arguments) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_report_plot_and_rerun(in_files):
    folder, _ = in_files
    out = folder / "glm" / "model"
    typed("glm", "change(gm, age) ~ group", "--cohort", folder / "cohort.tsv", "--out", out, "--report",
          "--repeats", 0, "--atlas", "none", "--second-atlas", "none", "--contrast", "group[T.p]")  # fmt: skip
    page = (out / "report.html").read_text(encoding="utf-8")
    assert " people · " in page
    assert "Grey matter maps of the change in" in page
    assert "one value a person, were analysed with the linear model" in page
    typed("plot", out)
    points = pd.read_csv(next(out.glob("plots/*.tsv")), sep="\t")
    record = json.loads((out / "glm.json").read_text())
    assert sorted(points["scan_id"]) == record["scan_ids"]
    voxel = io.read_volume(out / f"contrast-{record['contrasts'][0]['label']}_stat-effect_statmap.nii.gz").data.numpy()
    group = pd.read_csv(out / "scans.tsv", sep="\t").set_index("scan_id")["group"]
    means = points.set_index("scan_id")["value"].groupby(group).mean()
    assert np.isclose(voxel, means["p"] - means["c"], rtol=1e-4).any()
    assert "have the same bytes" in typed("rerun", out / "glm.json", "--out", folder / "again")


def test_rows_of_people_can_be_chosen(in_files, table):
    folder, _ = in_files
    paths = {scan: folder / f"s6mwp1{scan}_T1w.nii.gz" for scan in sorted(ids(table))}
    indexed = table.set_index(["participant_id", "session_id"])
    change, _ = find_change(ChangeTerm("age"), indexed, list(ids(table)))
    packed = pack_maps(paths, folder / "packed")
    maps = ChangeMaps.of(packed, change)
    some = list(change.of)[5:1:-1]
    np.testing.assert_array_equal(maps.select(some).read(3, 40), maps.read(3, 40)[5:1:-1])


@pytest.mark.parametrize(
    ("formula", "options", "match"),
    [
        ("change(gm) ~ group", {}, r"'change\(gm\)' on the left; write gm, change\(gm, age\)"),
        ("change(gm, group) ~ score", {}, r"group is text \(.*write change\(…, group, LATER - EARLIER\)"),
        ("change(gm, group, q - p) ~ score", {}, "no 'q' in the column group, which has c, p"),
        ("change(gm, score) ~ group", {}, "nobody has two scans that differ in it"),
        ("change(gm, ages) ~ group", {}, r"no column 'ages' in the table \(nearest age"),
        ("change(gm, age) ~ visit", {}, "column visit: differs between the scans of .*leave it out of the formula"),
        (
            "change(gm, age) ~ C(scanner)",
            {},
            "column scanner: differs between the scans of .*leave it out of the formula",
        ),
        ("change(gm, age) ~ group", {"tiv": "proportional"}, r"leave map\(\), --tiv proportional and"),
        ("change(gm, age) ~ group", {"global_scaling": True}, "and --global-scaling out"),
        ("change(gm, age) ~ map(wm)", {}, r"change\(\) has one row a person: leave map"),
        ("change(gm, age) ~ within(mood)", {}, "every participant_id has one scan"),
    ],
)
def test_what_is_refused(table, formula, options, match):
    table["visit"] = [f"v{i}" for i in range(len(table))]
    table["scanner"] = [1 + i % 2 for i in range(len(table))]  # codes: their mean once became a level, 1.5
    with pytest.raises((TableError, DesignError), match=match):
        fit_glm(values(table), formula, table, repeats=0, **options)
