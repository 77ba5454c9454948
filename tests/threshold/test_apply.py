"""What is left of a map equals what the model itself called significant; scales equal the model's own maps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.small_study import make_study
from vbmstat.cli import app
from vbmstat.errors import VbmstatError
from vbmstat.threshold.apply import threshold, transform
from vbmstat.threshold.files import open_statistic
from vbmstat.threshold.rules import Rule

NONE = Rule("voxels", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Results with FDR, permutations and random fields: a t and an F contrast."""
    study = make_study(tmp_path_factory.mktemp("study"))
    given = ["glm", "gm ~ group + age + tiv", "--maps", str(study / "cat12/mri"), "--participants", str(study)]
    given[-1] = str(study / "participants.tsv")
    given += [
        "--contrast",
        "group",
        "--contrast",
        "both = F(group[T.patient], age)",
        "--inference",
        "fdr,fwe,cluster,rft",
    ]
    given += ["--permutations", "100", "--repeats", "20", "--fraction", "0.9", "--out", str(study / "glm")]
    said = CliRunner().invoke(app, [*given, "--cluster-threshold", "0.01", "--fwhm", "12"])
    assert said.exit_code == 0, said.output
    return study / "glm"


def t_map(folder: Path) -> Path:
    return next(folder.glob("contrast-group*_stat-t_statmap.nii.gz"))


def f_map(folder: Path) -> Path:
    return next(folder.glob("contrast-both_stat-F_statmap.nii.gz"))


def beside(path: Path, stat: str) -> np.ndarray:
    """Another map of the same contrast."""
    return np.asarray(
        nib.load(str(path).replace("_stat-t_", f"_stat-{stat}_").replace("_stat-F_", f"_stat-{stat}_")).dataobj
    )


def stored(path: Path, statistic, values: np.ndarray) -> np.ndarray:
    """Values of voxels in the axis order of the file."""
    image = statistic.space.unmask(values)
    return image[::-1] if nib.load(path).affine[0, 0] < 0 else image


@pytest.mark.parametrize("which", [t_map, f_map])
@pytest.mark.parametrize(("rule", "stat"), [(Rule("fdr", 0.05), "qfdr"), (Rule("fwe", 0.05), "pfwe")])
def test_heights_keep_what_the_model_called_significant(model, which, rule, stat):
    path = which(model)
    statistic = open_statistic(path)
    left = threshold(statistic, rule, NONE)
    assert left.kept.sum() > 10
    assert np.array_equal(stored(path, statistic, left.kept) > 0, beside(path, stat) <= 0.05)


def test_clusters_and_their_p_are_those_of_the_model(model):
    path = t_map(model)
    statistic = open_statistic(path)
    every = threshold(statistic, Rule("p", 0.01), NONE)
    labels = np.asarray(nib.load(str(path).replace("stat-t_statmap", "clusters")).dataobj)
    assert np.array_equal(stored(path, statistic, every.clusters.labels), labels)
    table = pd.read_csv(str(path).replace("stat-t_statmap.nii.gz", "clusters.tsv"), sep="\t")
    for rule, column in ((Rule("fwe", 0.05), "p_extent_fwe"), (Rule("p", 0.2), "p_extent_rft")):
        kept = table[column] <= rule.level
        assert 0 < kept.sum() < len(table)
        left = threshold(statistic, Rule("p", 0.01), rule)
        assert left.clusters.sizes.tolist() == table["size_voxels"][kept].tolist()
        np.testing.assert_allclose(left.p_extent[column], table[column][kept], rtol=1e-3)


def test_without_permutations_heights_are_those_of_random_fields(model, tmp_path):
    shutil.copytree(model, tmp_path / "glm")
    path = t_map(tmp_path / "glm")
    next((tmp_path / "glm").glob("contrast-group*_nullmaxima.tsv")).unlink()
    record = json.loads((model / "glm.json").read_text())
    expected = record["inference"]["contrasts"][0]["random_field"]["height_at_p_fwe_0.05"]
    left = threshold(open_statistic(path), Rule("fwe", 0.05), NONE)
    assert left.height == pytest.approx(expected, rel=1e-3)
    assert "random fields" in left.height_by


@pytest.mark.parametrize(("to", "stat"), [("p", "p"), ("z", "z"), ("r", "r"), ("d", "d")])
def test_scales_are_those_of_the_model(model, to, stat):
    path = t_map(model)
    statistic = open_statistic(path)
    ours = stored(path, statistic, transform(statistic, to))
    inside = stored(path, statistic, np.ones(len(statistic.values))) > 0
    np.testing.assert_allclose(ours[inside], beside(path, stat)[inside], rtol=1e-4, atol=1e-6)


def test_scales_of_f(model):
    statistic = open_statistic(f_map(model))
    assert statistic.df_contrast == 2
    np.testing.assert_allclose(transform(statistic, "logp"), -np.log10(statistic.p()))
    inside = stored(f_map(model), statistic, np.ones(len(statistic.values))) > 0
    r2 = stored(f_map(model), statistic, transform(statistic, "r2"))
    np.testing.assert_allclose(r2[inside], beside(f_map(model), "r2")[inside], rtol=1e-4, atol=1e-6)
    with pytest.raises(VbmstatError, match="F has no sign"):
        transform(statistic, "d")


def test_effective_degrees_of_freedom_of_a_sandwich_give_no_effect_size(tmp_path):
    """The model writes no r and d either."""
    path = tmp_path / "contrast-slope_stat-t_statmap.nii.gz"
    image = nib.Nifti1Image(np.full((3, 3, 3), 4.0, np.float32), np.eye(4))
    image.header["descrip"] = b"SPM{T_[8.4]} - contrast 1: slope"
    nib.save(image, path)
    (tmp_path / "glm.json").write_text(json.dumps({"spec": {"variance": "sandwich:participant_id"}}))
    statistic = open_statistic(path)
    assert transform(statistic, "p").max() < 0.01
    for to in ("r", "r2", "d"):
        with pytest.raises(VbmstatError, match=f"--to {to}: the model has a sandwich variance.*take p, logp or z"):
            transform(statistic, to)


def test_a_mask_makes_the_family_smaller(model, tmp_path):
    path = t_map(model)
    image = nib.load(path)
    half = np.zeros(image.shape, np.uint8)
    half[: image.shape[0] // 2] = 1
    nib.save(nib.Nifti1Image(half, image.affine), tmp_path / "half.nii.gz")
    whole, part = open_statistic(path), open_statistic(path, tmp_path / "half.nii.gz")
    assert len(part.values) < len(whole.values)
    assert part.smooth.search.resels[3] < whole.smooth.search.resels[3]


def test_maps_of_spm(tmp_path):
    """SPM's header and RPV image are enough for random fields; positive values alone with --one-sided."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, 12, 12)).astype(np.float32)
    data[2:5, 2:5, 2:5], data[8:10, 8:10, 8:10] = 8.0, -8.0
    image = nib.Nifti1Image(data, np.diag([3.0, 3, 3, 1]))
    image.header["descrip"] = b"SPM{T_[38.0]} - contrast 1: age"
    nib.save(image, tmp_path / "spmT_0001.nii")
    with pytest.raises(VbmstatError, match="RPV"):
        threshold(open_statistic(tmp_path / "spmT_0001.nii"), Rule("fwe", 0.05), NONE)
    nib.save(nib.Nifti1Image(np.full(data.shape, 1 / 27, np.float32), image.affine), tmp_path / "RPV.nii")
    both = threshold(open_statistic(tmp_path / "spmT_0001.nii"), Rule("fwe", 0.05), NONE)
    assert both.clusters.sizes.tolist() == [27, 8]
    one = threshold(open_statistic(tmp_path / "spmT_0001.nii", one_sided=True), Rule("fwe", 0.05), NONE)
    assert one.clusters.signs.tolist() == [1]
    assert one.height < both.height


def test_the_command_writes_map_labels_tables_and_a_record(model, tmp_path):
    path = t_map(model)
    median = next(model.glob("contrast-group*_stat-mediant_statmap.nii.gz"))
    asked = ["--height", "fdr=0.05", "--extent", "5", "--to", "logp", "--out", str(tmp_path)]
    said = CliRunner().invoke(app, ["threshold", str(median), str(path), *asked])
    assert said.exit_code == 1  # a median t has no p; the other map is done
    assert "a median over subsets has no p" in said.output
    stem = path.name.removesuffix("_statmap.nii.gz") + "_fdr0.05_k5"
    logp = np.asarray(nib.load(tmp_path / f"{stem}_logp.nii.gz").dataobj)
    labels = np.asarray(nib.load(tmp_path / f"{stem}_clusters.nii.gz").dataobj)
    assert np.array_equal(logp != 0, labels > 0)
    assert (np.bincount(labels.ravel())[1:] >= 5).all()
    assert (logp[labels > 0] < 0).any()  # patients have less: the sign stays
    table = pd.read_csv(tmp_path / f"{stem}_clusters.tsv", sep="\t")
    assert table["size_voxels"].tolist() == np.bincount(labels.ravel())[1:].tolist()
    record = json.loads((tmp_path / f"{stem}.json").read_text())
    assert record["n_kept"] == (labels > 0).sum()
    assert record["height_by"] == "q of FDR = 0.05, two-sided"


def test_nothing_left_is_said(model, tmp_path):
    said = CliRunner().invoke(app, ["threshold", str(t_map(model)), "--height", "1e6", "--out", str(tmp_path)])
    assert said.exit_code == 0, said.output
    assert "nothing is left" in said.output


@pytest.mark.parametrize("which", [t_map, f_map])
def test_z_of_a_tested_statistic_is_refused(model, which):
    """Null maxima are of t or F, and z of a small F is negative without meaning less than nothing."""
    path = Path(str(which(model)).replace("_stat-t_", "_stat-z_").replace("_stat-F_", "_stat-z_"))
    with pytest.raises(VbmstatError, match=f"threshold {which(model).name}"):
        open_statistic(path)


def test_a_one_sided_model_stays_one_sided_without_corrected_inference(model, tmp_path):
    shutil.copytree(model, tmp_path / "glm")
    record = json.loads((tmp_path / "glm" / "glm.json").read_text())
    record["inference"], record["spec"]["inference"]["one_sided"] = None, True
    (tmp_path / "glm" / "glm.json").write_text(json.dumps(record))
    next((tmp_path / "glm").glob("contrast-group*_nullmaxima.tsv")).unlink()
    assert open_statistic(t_map(tmp_path / "glm")).sides == 1


def test_other_tails_than_the_permutations(model):
    with pytest.raises(VbmstatError, match="its permutations were two-sided"):
        open_statistic(t_map(model), one_sided=True)
