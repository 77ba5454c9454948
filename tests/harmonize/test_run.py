from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from tests.glm.conftest import GRID, cohort_folder, images, table  # noqa: F401 - fixtures
from vbmstat.cli import app
from vbmstat.errors import DesignError, ScanError, TableError, VbmstatError
from vbmstat.glm.analysis import fit_glm
from vbmstat.glm.design.sites import HARMONIZED
from vbmstat.harmonize import run
from vbmstat.harmonize.model import load_model
from vbmstat.image.io import read_volume, write_volume
from vbmstat.image.volume import Volume
from vbmstat.tables.selection import Selection

BELOW, CONSTANT = (5, 6, 4), (5, 6, 5)


def change(folder: Path, edit) -> Path:
    """A copy of the cohort table with some columns changed."""
    path = folder / "cohort.tsv"
    data = edit(pd.read_csv(path, sep="\t"))
    data.to_csv(path, sep="\t", index=False, na_rep="n/a")
    return path


def with_site_effect(folder: Path, images: np.ndarray) -> np.ndarray:  # noqa: F811
    """Maps of one site 20 % larger; one voxel below the threshold in one scan, one constant in that site."""
    scans = pd.read_csv(folder / "cohort.tsv", sep="\t")
    images = images * np.where(scans["site"] == "ulm", 1.2, 1.0).astype(np.float32)[:, None, None, None]
    images[(slice(1, 2), *BELOW)] = 0.05
    images[((scans["site"] == "ulm").to_numpy(), *CONSTANT)] = 0.7
    for path, image in zip(scans["s6mwp1"], images, strict=True):
        write_volume(folder / path, Volume(torch.from_numpy(image)[None], GRID))
    return images


def harmonize_maps(cohort, site, out, **options):
    return run.harmonize_maps(cohort, run.HarmonizeSpec(site, **options), out)


def harmonize_table(path, cohort, site, out, **options):
    return run.harmonize_table(path, cohort, run.HarmonizeSpec(site, **options), out)


def values(folder: Path) -> np.ndarray:
    return np.stack([read_volume(path).data[0].numpy() for path in sorted(folder.glob("mri/s6mwp1*"))])


def test_new_maps_have_no_site_differences_and_glm_takes_them(cohort_folder, images, tmp_path):  # noqa: F811
    out = tmp_path / "harmonized"
    images = with_site_effect(cohort_folder, images)
    result = harmonize_maps(cohort_folder / "cohort.tsv", "site", out, preserve="age + sex")
    data = pd.read_csv(out / "cohort.tsv", sep="\t")
    assert set(data[HARMONIZED]) == {"ComBat by site, preserving age + sex"}
    assert data["s6mwp1"][0] == "mri/s6mwp1sub-000_T1w.nii.gz"
    new, inside = values(out), (images > 0.1).all(axis=0)
    effects = result.model.effects
    flat = images.reshape(len(images), -1)[:, result.model.space.voxel_index]
    rows = result.model.covariate_rows(pd.read_csv(cohort_folder / "cohort.tsv", sep="\t"), list(data.participant_id))
    expected = effects.adjust(flat, list(data["site"]), rows)[:, effects.adjusted]
    np.testing.assert_array_equal(new.reshape(len(new), -1)[:, result.model.space.voxel_index][:, effects.adjusted],
                                  expected)  # fmt: skip
    assert not new[:, ~inside].any()
    assert not new[(..., *BELOW)].any()
    np.testing.assert_array_equal(new[(..., *CONSTANT)], images[(..., *CONSTANT)])
    by_site = fit_glm(None, "gm ~ site + age + sex", out / "cohort.tsv", ["site"], repeats=0)
    before = fit_glm(None, "gm ~ site + age + sex", cohort_folder / "cohort.tsv", ["site"], repeats=0)
    ours, theirs = (np.median(r.maps["site"]["F"].values[r.mask]) for r in (by_site, before))
    assert ours < 0.1 * theirs
    assert [note for note in by_site.record["notes"] if "harmonised: ComBat by site, preserving age + sex" in note]
    assert not [note for note in before.record["notes"] if "harmonised" in note]
    record = json.loads((out / "harmonize.json").read_text())
    assert record["sites_learned"] == data["site"].value_counts().sort_index().to_dict()
    assert len(record["inputs"]) == 26
    assert result.files[-1].name == "harmonize.json"


def test_a_model_is_saved_and_applied_to_other_scans(cohort_folder, tmp_path):  # noqa: F811
    cohort = cohort_folder / "cohort.tsv"
    all_of_them = harmonize_maps(cohort, "site", tmp_path / "all", preserve="age + sex")
    all_of_them.model.save(tmp_path / "model.npz")
    change(cohort_folder, lambda data: data[data["sex"] == "F"].iloc[:4])  # one level of the factor, few scans
    learned = load_model(tmp_path / "model.npz")
    harmonize_maps(cohort, "site", tmp_path / "few", model=learned)
    few, every = values(tmp_path / "few"), values(tmp_path / "all")
    scans = pd.read_csv(cohort, sep="\t")["participant_id"]
    rows = [int(scan[-3:]) for scan in scans]
    np.testing.assert_allclose(few, every[rows], atol=2e-6)
    change(cohort_folder, lambda data: data.assign(sex="X"))
    with pytest.raises(DesignError, match=r"sex: X .* was not among the scans that were learned from \(F, M\)"):
        harmonize_maps(cohort, "site", tmp_path / "few", model=learned)


def test_maps_of_several_folders_keep_their_subfolders(cohort_folder, tmp_path):  # noqa: F811
    """Two studies with files of one name, in a table of its own folder."""
    (tmp_path / "b").mkdir()
    data = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")
    second = tmp_path / "b" / Path(data["s6mwp1"][0]).name
    (cohort_folder / data["s6mwp1"][1]).rename(second)
    data["s6mwp1"] = [str(cohort_folder / path) for path in data["s6mwp1"]]
    data.loc[1, "s6mwp1"] = str(second)
    (tmp_path / "table").mkdir()
    data.to_csv(tmp_path / "table" / "cohort.tsv", sep="\t", index=False)
    harmonize_maps(tmp_path / "table" / "cohort.tsv", "site", tmp_path / "out")
    found = pd.read_csv(tmp_path / "out" / "cohort.tsv", sep="\t")["s6mwp1"]
    assert found[0].endswith("mri/s6mwp1sub-000_T1w.nii.gz")
    assert found[1].endswith("b/s6mwp1sub-000_T1w.nii.gz")
    assert all((tmp_path / "out" / path).is_file() for path in found)


def test_confounded_covariates_are_told(cohort_folder, tmp_path):  # noqa: F811
    rng = np.random.default_rng(0)
    cohort = change(cohort_folder, lambda d: d.assign(dose=(d["site"] == "ulm") * 5.0 + rng.normal(0, 1, len(d))))
    notes = harmonize_maps(cohort, "site", tmp_path / "out", preserve="dose + age").notes
    assert [note for note in notes if "of the variance of dose" in note]
    assert not [note for note in notes if "of age" in note]


def test_a_second_tissue_joins_the_table(cohort_folder, tmp_path):  # noqa: F811
    cohort = change(cohort_folder, lambda d: d.assign(s6mwp2=d["s6mwp1"]))
    harmonize_maps(cohort, "site", tmp_path / "out")
    for path in (tmp_path / "out" / "mri").iterdir():
        path.rename(path.with_name(path.name.replace("mwp1", "mwp9")))
    harmonize_maps(cohort, "site", tmp_path / "out", response="wm")
    assert {"s6mwp1", "s6mwp2"} <= set(pd.read_csv(tmp_path / "out" / "cohort.tsv", sep="\t"))
    harmonize_maps(cohort, "site", tmp_path / "out", response="wm", preserve="age")
    assert "s6mwp1" not in pd.read_csv(tmp_path / "out" / "cohort.tsv", sep="\t")


def test_maps_of_an_earlier_run_go_unless_they_are_of_the_same_scans_and_kind(cohort_folder, tmp_path):  # noqa: F811
    cohort = change(cohort_folder, lambda d: d)
    for path in (cohort_folder / "mri").iterdir():
        (path.parent / path.name.replace("mwp1", "mwp2")).write_bytes(path.read_bytes())
    change(cohort_folder, lambda d: d.assign(s6mwp2=d["s6mwp1"].str.replace("mwp1", "mwp2")))
    wide = pd.DataFrame(np.random.default_rng(0).normal(5, 1, (26, 3)), columns=["a_gm_ml", "b_gm_ml", "c_gm_ml"])
    wide.insert(0, "participant_id", pd.read_csv(cohort, sep="\t")["participant_id"])
    wide.to_csv(tmp_path / "roi_wide.tsv", sep="\t", index=False)
    out = tmp_path / "out"

    def maps() -> dict[str, int]:
        names = [path.name for path in (out / "mri").iterdir()]
        listed = json.loads((out / "harmonize.json").read_text())["files"]
        assert {f"mri/{name}" for name in names} == {name for name in listed if name.startswith("mri/")}
        return {kind: sum(name.startswith(f"s6{kind}") for name in names) for kind in ("mwp1", "mwp2")}

    harmonize_maps(cohort, "site", out)
    harmonize_maps(cohort, "site", out, response="wm")
    harmonize_table(tmp_path / "roi_wide.tsv", cohort, "site", out)
    assert maps() == {"mwp1": 26, "mwp2": 26}
    harmonize_maps(cohort, "site", out, preserve="age")
    assert maps() == {"mwp1": 26, "mwp2": 0}  # what glm --maps finds is of one run
    assert (out / "roi_wide.tsv").is_file()
    change(cohort_folder, lambda d: d.iloc[2:])
    harmonize_maps(cohort, "site", out, preserve="age")
    assert maps() == {"mwp1": 24, "mwp2": 0}
    assert len(pd.read_csv(out / "cohort.tsv", sep="\t")) == 24


def test_a_table_of_volumes(cohort_folder, tmp_path):  # noqa: F811
    rng = np.random.default_rng(0)
    scans = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")
    wide = pd.DataFrame(rng.normal(5, 0.3, (26, 6)), columns=[f"area_{i}_gm_ml" for i in range(6)])
    wide += 2.0 * (scans["site"] == "ulm").to_numpy()[:, None]
    wide.insert(0, "participant_id", scans["participant_id"])
    wide["gone_gm_ml"] = np.nan
    shuffled = wide.sample(frac=1, random_state=0)
    shuffled.to_csv(tmp_path / "roi_x_regions_wide.tsv", sep="\t", index=False, na_rep="n/a")
    found = harmonize_table(tmp_path / "roi_x_regions_wide.tsv", cohort_folder / "cohort.tsv", "site",
                            tmp_path / "out", preserve="age")  # fmt: skip
    new = pd.read_csv(tmp_path / "out" / "roi_x_regions_wide.tsv", sep="\t", na_values="n/a")
    assert new["participant_id"].tolist() == shuffled["participant_id"].tolist()
    assert new["gone_gm_ml"].isna().all()
    words = json.loads((tmp_path / "out" / "roi_x_regions_wide.json").read_text())
    assert words["vbmstat"]["harmonized"] == "ComBat by site"
    assert words["area_2_gm_ml"]["Units"] == "mL"
    at = new["participant_id"].map(scans.set_index("participant_id")["site"])
    means = new.groupby(at)["area_2_gm_ml"].mean()
    assert np.ptp(means) < 0.3
    found.model.save(tmp_path / "m.npz")
    shuffled.drop(columns="area_3_gm_ml").to_csv(tmp_path / "less.tsv", sep="\t", index=False, na_rep="n/a")
    with pytest.raises(TableError, match=r"other columns \(area_3_gm_ml differ\)"):
        harmonize_table(tmp_path / "less.tsv", cohort_folder / "cohort.tsv", "site", tmp_path / "out",
                        model=load_model(tmp_path / "m.npz"))  # fmt: skip
    with pytest.raises(ScanError, match="learned from a table"):
        harmonize_maps(cohort_folder / "cohort.tsv", "site", tmp_path / "out2", model=found.model)


def test_bad_input_is_one_line_and_writes_nothing(cohort_folder, tmp_path):  # noqa: F811
    cohort, out = cohort_folder / "cohort.tsv", tmp_path / "out"
    for arguments, match in (
        ({"site": "sit"}, r"no column 'sit' in the table \(nearest site"),
        ({"preserve": "bs(age, df=3)"}, "depend on the scans"),
        ({"preserve": "site"}, "site and .* cannot be separated"),
        ({"out": cohort_folder}, "would replace the old ones of sub-000"),
    ):
        with pytest.raises(VbmstatError, match=match) as caught:
            harmonize_maps(cohort, arguments.pop("site", "site"), arguments.pop("out", out), **arguments)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    change(cohort_folder, lambda d: d.assign(site=["x", *d["site"][1:]]))
    with pytest.raises(DesignError, match="site x has one scan"):
        harmonize_maps(cohort, "site", out)
    change(cohort_folder, lambda d: d.assign(site=[None, *d["site"][1:]]))
    with pytest.raises(TableError, match=r"no site for sub-000; .*--missing drop"):
        harmonize_maps(cohort, "site", out)
    result = harmonize_maps(cohort, "site", out, missing="drop")
    assert len(pd.read_csv(out / "cohort.tsv", sep="\t")) == 25
    assert any("dropped 1 scans without site: sub-000" in note for note in result.notes)
    (tmp_path / "no.npz").write_bytes(b"PK")
    with pytest.raises(VbmstatError, match="expected a model of vbmstat harmonize"):
        load_model(tmp_path / "no.npz")


def test_command(cohort_folder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(cohort_folder)
    arguments = ["harmonize", "--site", "site", "--preserve", "age + sex", "--out", str(tmp_path / "out")]
    said = CliRunner().invoke(app, [*arguments, "--save-model", str(tmp_path / "model.npz")])
    assert said.exit_code == 0, said.output
    assert "learned from berlin" in said.output
    again = ["harmonize", "--site", "site", "--out", str(tmp_path / "again"), "--model", str(tmp_path / "model.npz")]
    assert CliRunner().invoke(app, again).exit_code == 0
    np.testing.assert_allclose(values(tmp_path / "again"), values(tmp_path / "out"), atol=2e-6)
    assert CliRunner().invoke(app, [*again, "--preserve", "age"]).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--roi-table", "x.tsv", "--maps", "mri"]).exit_code == 2


def test_sites_that_differ_in_spelling_are_refused(cohort_folder, tmp_path):  # noqa: F811
    path = change(cohort_folder, lambda data: data.assign(site=["ulm", "Ulm"] * 13))
    with pytest.raises(DesignError, match=r"column site: 'ulm' \(13 scans\) and 'Ulm' .* differ only in letter"):
        harmonize_maps(path, "site", tmp_path / "out")


def test_long_numbers_of_sites_stay_apart(cohort_folder, tmp_path):  # noqa: F811
    numbers = [1000001.0, 1000002.0] * 13
    path = change(cohort_folder, lambda data: data.assign(site=numbers))
    model = harmonize_maps(path, "site", tmp_path / "out").model
    assert model.effects.sites == ("1000001", "1000002")


def test_how_preserved_covariates_are_taken_is_told(cohort_folder, tmp_path):  # noqa: F811
    def edit(data: pd.DataFrame) -> pd.DataFrame:
        data.loc[3, "age"] = -999
        return data

    notes = harmonize_maps(change(cohort_folder, edit), "site", tmp_path / "out", preserve="age + sex").notes
    assert "sex: factor F 13 (reference), M 13" in notes
    assert [note for note in notes if note.startswith("age: −999 of sub-003 lies apart")]


def test_volumes_that_are_no_numbers(cohort_folder, tmp_path):  # noqa: F811
    scans = pd.read_csv(cohort_folder / "cohort.tsv", sep="\t")["participant_id"]
    wide = pd.DataFrame({"participant_id": scans, "insula_gm_ml": ["1.5", "large"] * 13})
    wide.to_csv(tmp_path / "wide.tsv", sep="\t", index=False)
    with pytest.raises(TableError, match="column insula_gm_ml: expected numbers, got sub-001: 'large'"):
        harmonize_table(tmp_path / "wide.tsv", cohort_folder / "cohort.tsv", "site", tmp_path / "out")


def test_scans_are_left_out_before_a_model_is_learned(cohort_folder, tmp_path):  # noqa: F811
    path = cohort_folder / "cohort.tsv"
    selection = Selection(exclude="sub-000", where="age < 75")
    result = harmonize_maps(path, "site", tmp_path / "fewer", selection=selection)
    rows = pd.read_csv(path, sep="\t")
    kept = rows[(rows["participant_id"] != "sub-000") & (rows["age"] < 75)]
    kept.to_csv(cohort_folder / "kept.tsv", sep="\t", index=False)
    by_hand = harmonize_maps(cohort_folder / "kept.tsv", "site", tmp_path / "by_hand")
    np.testing.assert_array_equal(values(tmp_path / "fewer"), values(tmp_path / "by_hand"))
    assert sum(result.model.effects.n_scans) == sum(by_hand.model.effects.n_scans) == len(kept) < len(rows)
    flow = json.loads((tmp_path / "fewer" / "harmonize.json").read_text())["flow"]
    assert [step["n_left"] for step in flow] == [26, 25, len(kept)]
