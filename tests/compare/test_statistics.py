"""Statistic maps as SPM, CAT12 and this program write them."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from vbmstat.compare.pairs import compare_pair, pair_statistics
from vbmstat.compare.statistics import describe, find_statistics, read_statistic
from vbmstat.errors import ScanError

SHAPE = (20, 24, 20)
AFFINE = np.array([[-1.5, 0, 0, 14], [0, 1.5, 0, -18], [0, 0, 1.5, -15], [0, 0, 0, 1.0]])  # LAS, as CAT12 stores maps


def t_values(seed=0):
    return np.random.default_rng(seed).normal(scale=2.0, size=SHAPE)


def ball(radius=9.0, shape=SHAPE):
    centre = (np.array(shape) - 1) / 2
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1)
    return distance < radius


def write_spm(path, values, mask=None, descrip="SPM{T_[95.0]} - contrast 1: age", affine=AFFINE, intent=None):
    """As SPM does it: zeros outside the mask, the degrees of freedom in the description."""
    inside = ball(shape=values.shape) if mask is None else mask
    image = nib.Nifti1Image(np.where(inside, values, 0).astype(np.float32), affine)
    image.header["descrip"] = descrip
    if intent:
        image.header.set_intent(*intent)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (("none", (), "SPM{F_[2.0,93.0]} - contrast 2: any age"), ("F", (2.0, 93.0), "any age")),
        (("t test", (40.0,), ""), ("t", (40.0,), "")),
        (("t test", (40.0,), "SPM{T_[95.0]} - contrast 0001: x - y"), ("t", (95.0,), "x - y")),
        (("z score", (), "SPM{Z} - contrast 1: age"), ("z", (), "age")),
        (("estimate", (), "median t over 100 subsets (no p): sex[T.m]"), ("median t", (), "sex[T.m]")),
        (("none", (), "something else"), ("unknown", (), "")),
    ],
)
def test_what_a_header_says(header, expected):
    assert describe(*header) == expected


def test_two_spm_maps_give_the_known_r_slope_and_dice(tmp_path):
    a, extra = t_values(0), t_values(1)
    b = 0.5 * a + 0.3 + 0.4 * extra
    inside = ball()
    pair = compare_pair(write_spm(tmp_path / "a" / "spmT_0001.nii", a), write_spm(tmp_path / "b" / "spmT_0001.nii", b))
    assert pair.row["n_voxels"] == inside.sum()
    slope, intercept = np.polyfit(a[inside], b[inside], 1)
    assert pair.row["r"] == pytest.approx(np.corrcoef(a[inside], b[inside])[0, 1], abs=1e-6)
    assert pair.row["slope"] == pytest.approx(slope, abs=1e-6)
    assert pair.row["intercept"] == pytest.approx(intercept, abs=1e-6)
    beyond = [np.sign(m) * (np.abs(m) > 2) * inside for m in (a, b)]
    shared = ((beyond[0] == beyond[1]) & (beyond[0] != 0)).sum()
    assert pair.row["dice_t2"] == pytest.approx(2 * shared / sum(np.abs(m).sum() for m in beyond))
    at = np.unravel_index(np.argmax(np.abs(a * inside)), SHAPE)
    assert [pair.row[f"peak_a_{axis}"] for axis in "xyz"] == pytest.approx((AFFINE @ [*at, 1])[:3])
    assert (pair.name, pair.kind, pair.notes) == ("age", "t", ())


def test_a_map_with_itself_is_one(tmp_path):
    path = write_spm(tmp_path / "spmT_0001.nii", t_values())
    row = compare_pair(path, path).row
    assert [row[key] for key in ("r", "ccc", "slope", "sd_ratio", "dice_t3")] == pytest.approx([1] * 5)
    assert row["peak_distance_mm"] == row["bias"] == 0


def test_differing_masks_are_told_with_the_voxels_left(tmp_path):
    small, large = ball(6.0), ball(9.0)
    pair = compare_pair(
        write_spm(tmp_path / "a.nii", t_values(), small), write_spm(tmp_path / "b.nii", t_values(), large)
    )
    assert pair.row["n_voxels"] == small.sum()
    assert pair.row["r"] == pytest.approx(1.0)
    assert f"{small.sum()} voxels in common of {small.sum()} in A and {large.sum()} in B" in pair.notes[0]


def test_nan_outside_is_no_value(tmp_path):
    values = np.where(ball(), t_values(), np.nan)
    path = write_spm(tmp_path / "a.nii", values, np.ones(SHAPE, dtype=bool))
    assert int(read_statistic(path).mask.sum()) == ball().sum()


def test_the_mask_beside_a_map_keeps_zeros_inside_it(tmp_path):
    values = t_values()
    values[10, 12, 10] = 0.0
    path = write_spm(tmp_path / "spmT_0001.nii", values)
    assert int(read_statistic(path).mask.sum()) == ball().sum() - 1
    nib.save(nib.Nifti1Image(ball().astype(np.uint8), AFFINE), tmp_path / "mask.nii")
    assert int(read_statistic(path).mask.sum()) == ball().sum()
    other = tmp_path / "other.nii"
    nib.save(nib.Nifti1Image(ball().astype(np.uint8), np.eye(4)), other)
    with pytest.raises(ScanError, match="give a mask on the grid of the maps"):
        read_statistic(path, other)


def test_another_grid_is_resampled_and_said(tmp_path):
    x, y, z = (AFFINE[:3, :3] @ np.indices(SHAPE).reshape(3, -1) + AFFINE[:3, 3:]).reshape(3, *SHAPE)
    smooth = np.sin(x / 6) * 3 + y / 8 + z / 10
    coarse_affine = AFFINE @ np.diag([2, 2, 2, 1.0])
    coarse = smooth[::2, ::2, ::2]
    pair = compare_pair(
        write_spm(tmp_path / "a.nii", smooth),
        write_spm(tmp_path / "b.nii", coarse, np.ones(coarse.shape, bool), affine=coarse_affine),
    )
    assert any("B was resampled (trilinear) from (10, 12, 10) @ 3 × 3 × 3 mm" in note for note in pair.notes)
    assert pair.row["r"] > 0.995
    assert pair.row["slope"] == pytest.approx(1.0, abs=0.03)


def test_other_degrees_of_freedom_and_none_are_told(tmp_path):
    a = write_spm(tmp_path / "a.nii", t_values())
    b = write_spm(tmp_path / "b.nii", t_values(), descrip="SPM{T_[40.0]} - contrast 1: age")
    assert compare_pair(a, b).notes == ("degrees of freedom differ: A 95, B 40; the same effect gives another t",)
    c = write_spm(tmp_path / "c.nii", t_values(), descrip="converted")
    assert any("B gives no degrees of freedom" in note for note in compare_pair(a, c).notes)
    d = write_spm(tmp_path / "d.nii", t_values(), descrip="", intent=("t test", (95.0,)))
    assert compare_pair(a, d).notes == ()


def test_t_is_not_compared_with_f(tmp_path):
    a = write_spm(tmp_path / "a.nii", t_values())
    b = write_spm(tmp_path / "b.nii", t_values() ** 2, descrip="SPM{F_[1.0,95.0]} - contrast 1: age")
    with pytest.raises(ScanError, match=r"a\.nii is a map of t, .*b\.nii of F"):
        compare_pair(a, b)


def test_one_sided_maps_are_refused_unless_a_mask_is_given(tmp_path):
    a, values = write_spm(tmp_path / "a.nii", t_values()), t_values()
    b = write_spm(tmp_path / "b.nii", np.where(values > 1, values, 0))
    with pytest.raises(ScanError, match=r"b\.nii has values of one sign only"):
        compare_pair(a, b)
    with pytest.raises(ScanError, match=r"b\.nii has values of one sign only"):
        compare_pair(b, a)
    nib.save(nib.Nifti1Image((ball() & (values > 1)).astype(np.uint8), AFFINE), tmp_path / "inside.nii")
    assert compare_pair(a, b, tmp_path / "inside.nii").row["r"] == pytest.approx(1.0)


def test_a_contrast_turned_round_is_noticed(tmp_path):
    a = write_spm(tmp_path / "a.nii", t_values())
    b = write_spm(tmp_path / "b.nii", -t_values())
    pair = compare_pair(a, b)
    assert pair.row["r"] == pytest.approx(-1.0)
    assert any("anticorrelated" in note for note in pair.notes)


def test_the_variance_floor_of_one_is_told(tmp_path):
    ours = write_spm(tmp_path / "ours" / "contrast-age_stat-t_statmap.nii.gz", t_values())
    (ours.parent / "glm.json").write_text(json.dumps({"spec": {"variance": "ols"}}))
    spm = write_spm(tmp_path / "spm" / "spmT_0001.nii", t_values())
    assert any("only B has SPM's variance floor" in note for note in compare_pair(ours, spm).notes)
    (ours.parent / "glm.json").write_text(json.dumps({"spec": {"variance": "spm"}}))
    assert compare_pair(ours, spm).notes == ()


def test_an_empty_map_is_refused(tmp_path):
    path = write_spm(tmp_path / "a.nii", np.zeros(SHAPE))
    with pytest.raises(ScanError, match="0 or NaN everywhere"):
        read_statistic(path)


def result_folder(folder, names, scans=("1", "2"), draws="x"):
    contrasts = [{"name": name, "label": "".join(c for c in name if c.isalnum())} for name in names]
    for entry in contrasts:
        for stat, text in (("t", "SPM{T_[9.0]} - contrast 1: x"), ("mediant", "median t over 5 subsets (no p): x")):
            write_spm(folder / f"contrast-{entry['label']}_stat-{stat}_statmap.nii.gz", t_values(), descrip=text)
    write_spm(folder / f"contrast-{contrasts[0]['label']}_stat-p_statmap.nii.gz", t_values())
    (folder / "glm.json").write_text(json.dumps({"contrasts": contrasts, "scan_ids": scans, "draws_sha256": draws}))
    return folder


def test_contrasts_of_two_folders_are_paired_by_name(tmp_path):
    ours = result_folder(tmp_path / "ours", ["sex[T.M]", "age"])
    assert set(find_statistics(ours)) == {
        ("age", "t"), ("age", "median t"), ("sex[T.M]", "t"), ("sex[T.M]", "median t")
    }  # fmt: skip
    spm = tmp_path / "spm"
    write_spm(spm / "spmT_0002.nii", t_values(), descrip="SPM{T_[9.0]} - contrast 2: Age")
    write_spm(spm / "spmT_0001.nii", t_values(), descrip="SPM{T_[9.0]} - contrast 1: IQ")
    pairs, notes = pair_statistics(ours, spm)
    assert [(name, a.name, b.name) for name, a, b in pairs] == [
        ("age", "contrast-age_stat-t_statmap.nii.gz", "spmT_0002.nii")
    ]
    assert notes == ["only A has the contrasts sex[T.M]", "only B has the contrasts IQ"]


def test_contrasts_of_the_same_letters_are_paired_by_their_whole_names(tmp_path):
    names = ["grp[T.=65]", "grp[T.>65]", "age"]
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, order in zip(folders, (names, names[::-1]), strict=True):
        entries = [{"name": name, "label": f"c{names.index(name)}"} for name in order]
        for entry in entries:
            write_spm(folder / f"contrast-{entry['label']}_stat-t_statmap.nii.gz", t_values())
        (folder / "glm.json").write_text(json.dumps({"contrasts": entries}))
    pairs, notes = pair_statistics(*folders)
    assert {name: (a.name[:11], b.name[:11]) for name, a, b in pairs} == {
        name: (f"contrast-c{n}",) * 2 for n, name in enumerate(names)
    }
    assert notes == []


def test_folders_without_a_common_contrast_are_refused_unless_each_has_one(tmp_path):
    one = result_folder(tmp_path / "one", ["age"])
    other = result_folder(tmp_path / "other", ["older"])
    pairs, notes = pair_statistics(one, other)
    assert len(pairs) == 1
    assert "called 'age' and 'older'" in notes[0]
    with pytest.raises(ScanError, match=r"no contrast in common \(A: age; B: bmi, iq\)"):
        pair_statistics(one, result_folder(tmp_path / "two", ["bmi", "iq"]))


def test_other_scans_and_other_subsets_are_told(tmp_path):
    one = result_folder(tmp_path / "one", ["age"])
    other = result_folder(tmp_path / "other", ["age"], scans=("2", "3", "4"), draws="y")
    notes = pair_statistics(one, other)[1]
    assert "the fits have different scans: 2 in A, 3 in B, 1 in both" in notes
    assert any("different subsets" in note for note in notes)


def test_two_spm_maps_of_one_contrast_are_refused(tmp_path):
    for number in (1, 2):
        write_spm(tmp_path / f"spmT_000{number}.nii", t_values())
    with pytest.raises(ScanError, match="two maps of 'age'"):
        find_statistics(tmp_path)
