"""Scans among others, on small maps whose likeness is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vbmstat import assets
from vbmstat.errors import ScanError, TableError
from vbmstat.figures import scans
from vbmstat.image import io
from vbmstat.image.grid import resample
from vbmstat.image.smooth import smooth
from vbmstat.image.volume import Volume
from vbmstat.metrics import homogeneity
from vbmstat.tables.cohort import ID_COLUMNS, Cohort

N_SCANS = 12
TIV_ML = (1300, 1350, 1380, 1400, 1410, 1430, 1450, 1460, 1480, 1500, 1550, 1600)
OWN = 0.3  # how much people differ, relative to the GM
AGAIN = 0.03  # how much two scans of one person differ


@pytest.fixture(scope="module")
def gm() -> Volume:
    """The template's GM at 6 mm."""
    template = assets.template()
    grid = template.grid.with_voxel_size(6.0)
    return Volume(resample(template.data[:1], template.grid, grid), grid)


@pytest.fixture(scope="module")
def people(gm) -> list[torch.Tensor]:
    """Maps of people who differ from the template, each in their own way."""
    generator = torch.Generator().manual_seed(0)
    deviations = [smooth(torch.randn(gm.data.shape, generator=generator), np.full(3, 2.0), 3.0) for _ in range(N_SCANS)]
    return [gm.data * (1 + OWN * d / d.std()) for d in deviations]


def again(gm_map: torch.Tensor, size: float = AGAIN) -> torch.Tensor:
    noise = smooth(torch.randn(gm_map.shape, generator=torch.Generator().manual_seed(99)), np.full(3, 2.0), 3.0)
    return gm_map * (1 + size * noise / noise.std())


@pytest.fixture
def cohort_of(tmp_path, gm):
    """A cohort folder with such maps: ``cohort_of(list of (1, X, Y, Z))``."""

    def write(maps: list[torch.Tensor], **columns) -> Cohort:
        records = []
        for number, data in enumerate(maps):
            name = f"mri/s6mwp1sub-{number:02d}_T1w.nii.gz"
            io.write_volume(tmp_path / name, Volume(data, gm.grid))
            records.append({"participant_id": f"sub-{number:02d}", "session_id": "", "s6mwp1": name})
        table = pd.DataFrame(records).set_index(list(ID_COLUMNS)).assign(**columns)
        return Cohort(table, tmp_path)

    return write


def test_mean_correlation_is_that_of_all_pairs(cohort_of, gm, people):
    found = homogeneity.measure_cohort(cohort_of(people))
    where = gm.data[0] > 0.1
    rows = np.stack([data[0][where].double().numpy() for data in people])
    pairs = np.corrcoef(rows) - np.eye(N_SCANS)
    np.testing.assert_allclose(found.mean_correlation, pairs.sum(1) / (N_SCANS - 1), atol=1e-5)
    scaled = rows / rows.mean(1, keepdims=True)
    z = (scaled - scaled.mean(0)) / scaled.std(0, ddof=1)
    np.testing.assert_allclose(found.mean_z, np.mean(z**4, axis=1) ** 0.25, rtol=1e-4)
    assert found.duplicate_of == [None] * N_SCANS


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"mwp1": "ab", "s4mwp1": "ab", "s8mwp1": "ab", "s7.5mwp1": "cd"}, "cd"),
        ({"mwp1": "ab", "s6mwp1": "a-", "s12mwp1": "cd"}, "cd"),  # one scan has no map of 6 mm
        ({"mwp1": "cd", "mwp2": "ab", "s6mwp2": "ab"}, "cd"),
        ({"mwp1": "ab", "s6mwp1": "a-", "s6mwp1r": "-d", "s6mwmwp1r": "-e"}, "ad"),  # a single scan and a time point
    ],
)
def test_scans_are_compared_by_complete_maps_nearest_to_6_mm(columns, chosen):
    index = pd.MultiIndex.from_tuples([("1", ""), ("2", "")], names=ID_COLUMNS)
    written = {name: [None if path == "-" else path for path in paths] for name, paths in columns.items()}
    table = pd.DataFrame(written, index=index)
    assert [str(path) for path in homogeneity.maps_to_compare(Cohort(table, Path()))] == list(chosen)
    with pytest.raises(TableError, match="expected a column 'mwp1'"):
        homogeneity.maps_to_compare(Cohort(table[[]].assign(age=1), Path()))


@pytest.mark.parametrize(("time_points", "duplicates"), [((1, 1), [None, "sub-1"]), ((2, 2), [None, None])])
def test_time_points_of_a_person_are_alike_and_no_duplicates(cohort_of, people, time_points, duplicates):
    cohort = cohort_of([people[0], people[0]])
    index = pd.MultiIndex.from_tuples([("sub-1", ""), ("sub-1", "ses-2")], names=cohort.table.index.names)
    cohort = Cohort(cohort.table.set_axis(index).assign(time_points=list(time_points)), cohort.folder)
    assert homogeneity.measure_cohort(cohort).duplicate_of == duplicates


def test_the_mean_correlation_is_with_other_people(cohort_of, gm, people):
    """One scan of somebody among people with two is no outlier, and has the same figures as without second scans."""
    cohort = cohort_of([*people, *(again(data) for data in people[:-1])])
    who = [*range(N_SCANS), *range(N_SCANS - 1)]
    index = pd.MultiIndex.from_tuples(
        [(f"sub-{i}", f"ses-{n >= N_SCANS}") for n, i in enumerate(who)], names=ID_COLUMNS
    )
    found = homogeneity.measure_cohort(Cohort(cohort.table.set_axis(index), cohort.folder))
    rows = np.stack([data[0][gm.data[0] > 0.1].numpy() for data in [*people, *(again(data) for data in people[:-1])]])
    others = np.not_equal.outer(who, who)
    expected = (np.corrcoef(rows.astype(float)) * others).sum(1) / others.sum(1)
    np.testing.assert_allclose(found.mean_correlation, expected, atol=1e-5)
    alone = Cohort(
        cohort.table[:3].set_axis(pd.MultiIndex.from_product([["a"], list("123")], names=ID_COLUMNS)), cohort.folder
    )
    np.testing.assert_allclose(
        homogeneity.measure_cohort(alone).mean_correlation,
        (np.corrcoef(rows[:3].astype(float)).sum(1) - 1) / 2,
        atol=1e-5,
    )


def test_each_map_is_read_twice_whatever_their_number(cohort_of, people, monkeypatch):
    read = homogeneity.MapReader.read
    paths = []

    def counted(reader, path, *given):
        paths.append(path)
        return read(reader, path, *given)

    monkeypatch.setattr(homogeneity.MapReader, "read", counted)
    homogeneity.measure_cohort(cohort_of(people))
    assert len(paths) == 2 * N_SCANS


def test_a_scan_unlike_the_others_is_flagged_and_no_other(cohort_of, people):
    cohort = cohort_of([*people[:-1], people[-1].roll(3, dims=2)])
    found = homogeneity.flag(cohort, homogeneity.measure_cohort(cohort)).table
    flags = found["qc_warnings"].dropna()
    assert list(flags.index) == [("sub-11", "")]
    assert flags.iloc[0].startswith("GM map unlike the other scans' (mean r 0.")
    assert found["qc_mean_correlation_z"].idxmin() == ("sub-11", "")
    assert len(found) == N_SCANS


def test_a_local_oddity_shows_in_the_quartic_mean_z(cohort_of, people):
    hole = people[4].clone()
    n = hole.shape[1] // 4
    hole[:, n : 2 * n, n : 2 * n, n : 2 * n] = 0
    found = homogeneity.measure_cohort(cohort_of([*people[:4], hole, *people[5:]]))
    assert found.mean_z.argmax() == 4


def test_the_same_image_is_found_and_the_same_person_is_not(cohort_of, people):
    """A copy differs by what an interpolation or a packing loses; a second scan has noise of its own."""
    copy, second_scan = again(people[3], AGAIN / 20), again(people[5])
    cohort = cohort_of([*people, copy, second_scan])
    found = homogeneity.measure_cohort(cohort)
    assert found.duplicate_of == [None] * N_SCANS + ["sub-03", None]
    flags = homogeneity.flag(cohort, found).table["qc_warnings"].dropna()
    assert flags.to_dict() == {("sub-12", ""): "same image as sub-03: keep one of them"}


def test_pairs_are_found_across_blocks(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(30, 400)).astype(np.float32)
    rows[[7, 29]] = rows[2]
    rows -= rows.mean(1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    whole = homogeneity.find_duplicates(rows, rows.__getitem__)
    assert whole == [(2, 7), (2, 29), (7, 29)]
    monkeypatch.setattr(homogeneity, "_BLOCK", 4)
    assert homogeneity.find_duplicates(rows, rows.__getitem__) == whole


def test_what_the_probes_find_is_confirmed_on_all_voxels():
    probes = np.ones((2, 4), np.float32) / 2
    apart = {0: np.array([1.0, 0.0]), 1: np.array([0.0, 1.0])}
    assert homogeneity.find_duplicates(probes, apart.__getitem__) == []


def test_outlying_volumes_are_flagged(cohort_of, people):
    gm_ml = [0.45 * tiv for tiv in TIV_ML]
    gm_ml = [g + 5 * (-1) ** i for i, g in enumerate(gm_ml)]
    cohort = cohort_of(people, tiv_ml=[700, *TIV_ML[1:]], gm_ml=[0.45 * 700, 0.30 * TIV_ML[1], *gm_ml[2:]])
    flags = homogeneity.flag(cohort, homogeneity.measure_cohort(cohort)).table["qc_warnings"].dropna()
    assert [key[0] for key in flags.index] == ["sub-00", "sub-01"]
    assert flags.iloc[0].startswith("TIV 700 mL, cohort 14")
    assert flags.iloc[1].startswith("GM 30% of TIV, cohort 45% (z = -")


def test_a_narrow_sample_flags_nobody_for_a_little(cohort_of, people):
    """With twelve people of nearly one TIV, one of 10 % more has a z of 20."""
    cohort = cohort_of(people, tiv_ml=[1400 + i for i in range(N_SCANS - 1)] + [1540])
    found = homogeneity.measure_cohort(cohort)
    assert found.tiv_z[-1] > 20
    assert homogeneity.flag(cohort, found).table["qc_warnings"].isna().all()


def test_warnings_of_the_scan_itself_are_kept(cohort_of, people):
    cohort = cohort_of([*people, people[0]], qc_warnings=["strong noise", *[None] * N_SCANS])
    cohort.table.iloc[-1, cohort.table.columns.get_loc("qc_warnings")] = "the warp folds"
    flags = homogeneity.flag(cohort, homogeneity.measure_cohort(cohort)).table["qc_warnings"].dropna()
    assert flags.tolist() == ["strong noise", "the warp folds; same image as sub-00: keep one of them"]


def test_few_scans_have_no_z(cohort_of, people):
    two = homogeneity.measure_cohort(cohort_of(people[:2]))
    assert two.mean_correlation[0] == pytest.approx(two.mean_correlation[1])
    assert np.isnan(two.mean_correlation_z).all()
    assert np.isnan(two.mean_z).all()
    one = cohort_of(people[:1])
    found = homogeneity.measure_cohort(one)
    assert np.isnan(found.mean_correlation).all()
    assert homogeneity.flag(one, found).table["qc_warnings"].isna().all()


def test_an_empty_map_is_named(cohort_of, people):
    cohort = cohort_of([*people[:3], torch.zeros_like(people[0])])
    with pytest.raises(ScanError, match=r"s6mwp1sub-03_T1w.nii.gz: expected a GM map, but it is constant") as caught:
        homogeneity.measure_cohort(cohort)
    assert "\n" not in str(caught.value)


def test_picture_names_the_flagged_scans_only(cohort_of, people):
    cohort = cohort_of([*people[:-1], people[-1].roll(3, dims=2)], qc_image_rating=np.linspace(70, 90, N_SCANS))
    figure = scans.cohort_report(homogeneity.flag(cohort, homogeneity.measure_cohort(cohort)))
    for axes in figure.axes:
        assert [text.get_text() for text in axes.texts] == ["sub-11"]
        n_points = sum(len(points.get_offsets()) for points in axes.collections)
        assert n_points == N_SCANS
