"""Engines under artefacts: the truth is exact for label maps, and the engine's own result for scans."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from tests.evaluate.conftest import GRID, as_segmented, head_labels
from vbmstat.errors import ScanError
from vbmstat.evaluate import artefacts, engines
from vbmstat.evaluate.artefacts import ArtefactHead, captioned_images, summarise
from vbmstat.evaluate.engines import Bench, evaluate_heads
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.preproc.engines.classic import Classic
from vbmstat.simulate import render_t1w, tissue_labels
from vbmstat.simulate.labels import is_label_map

CLASSIC = [Classic()]


def replace_engine(monkeypatch, segment) -> None:
    for module in (engines, artefacts):
        monkeypatch.setattr(module, "segment_scan", segment)


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return torch.cat([labels == value for value in (2, 3, 1)])


@pytest.fixture
def perfect(monkeypatch):
    """An engine that returns the truth for any image; the fixture is the list of images it got."""
    shown = []

    def segment(image, *_, **__):
        shown.append(image)
        return as_segmented(one_hot(tissue_labels(head_labels()).data))

    replace_engine(monkeypatch, segment)
    return shown


def test_truth_gives_dice_one_and_no_error(head, tmp_path, perfect):
    table = evaluate_heads(ArtefactHead, [head], Bench(CLASSIC), tmp_path)
    assert len(table) == ArtefactHead.n_images == 15 == len(perfect)
    for tissue in ("gm", "wm", "csf"):
        assert table[f"dice_{tissue}"].tolist() == [1.0] * 15
    assert table["gm_error_percent"].abs().max() == table["tiv_error_percent"].abs().max() == 0
    assert set(table["truth"]) == {"labels"}
    first = perfect[0].data
    assert all(not torch.equal(first, image.data) for image in perfect[1:])


def test_the_images_are_those_of_the_seed_and_the_sheet_shows_them(head, tmp_path, perfect):
    evaluate_heads(ArtefactHead, [head], Bench(CLASSIC), tmp_path / "a", seed=3)
    evaluate_heads(ArtefactHead, [head], Bench(CLASSIC), tmp_path / "b", seed=4)
    sheet = captioned_images(head, 3)
    assert [torch.equal(image.data, seen.data) for (_, image), seen in zip(sheet, perfect, strict=False)] == [True] * 15
    assert not torch.equal(perfect[0].data, perfect[15].data)
    captions = [caption for caption, _ in sheet]
    assert captions[0] == "none"
    assert captions[1] == "noise, medium\n4 % of bright tissue, sigma"


def test_dice_and_volume_error_of_an_engine_that_is_wrong(head, tmp_path, monkeypatch):
    labels = tissue_labels(head_labels()).data
    half = labels.clone()
    half[:, :14][half[:, :14] == 2] = 1  # GM of the left half becomes CSF
    replace_engine(monkeypatch, lambda *_, **__: as_segmented(one_hot(half)))
    row = evaluate_heads(ArtefactHead, [head], Bench(CLASSIC), tmp_path).iloc[0]
    left, whole = int((half == 2).sum()), int((labels == 2).sum())
    assert row["dice_gm"] == pytest.approx(2 * left / (left + whole), abs=1e-4)
    assert row["gm_error_percent"] == pytest.approx(100 * (left / whole - 1), abs=0.01)
    assert row["dice_wm"] == 1
    assert row["tiv_error_percent"] == 0


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii.gz"
    io.write_volume(path, render_t1w(head_labels(), seed=1))
    return path


def bright(image: Volume, *_, **__):
    """An engine that classifies by intensity."""
    wm = image.data > 450
    gm = (image.data > 330) & ~wm
    return as_segmented(torch.cat([gm, wm, ~gm & ~wm]))


def test_a_scan_is_compared_with_the_engines_own_result(scan, tmp_path, monkeypatch):
    calls = []
    replace_engine(monkeypatch, lambda *a, **k: calls.append(1) or bright(*a))
    table = evaluate_heads(ArtefactHead, [scan], Bench(CLASSIC), tmp_path)
    assert set(table["truth"]) == {"own"}
    assert table["dice_gm"][0] == 1
    assert table["dice_gm"][1:].max() < 1
    assert len(calls) == 15
    text = (tmp_path / "evaluation_artefacts.tsv").read_text().splitlines()
    (tmp_path / "evaluation_artefacts.tsv").write_text("\n".join(text[:-1]) + "\n")
    again = evaluate_heads(ArtefactHead, [scan], Bench(CLASSIC), tmp_path)
    assert len(calls) == 17  # the last image, and the clean scan that it is compared with
    assert again["dice_gm"].tolist() == table["dice_gm"].tolist()


def test_a_clean_scan_that_fails_is_the_reason_of_every_row_and_is_tried_only_twice(scan, tmp_path, monkeypatch):
    calls = []

    def segment(image, *_, **__):
        calls.append(image)
        if torch.equal(image.data, io.read_scan(scan).data):
            msg = "no brain"
            raise ScanError(msg)
        return bright(image)

    replace_engine(monkeypatch, segment)
    table = evaluate_heads(ArtefactHead, [scan], Bench(CLASSIC), tmp_path)
    assert table["reason"].tolist() == ["no brain", *["the unchanged scan failed too: no brain"] * 14]
    assert len(calls) == 16
    summary = summarise(table)
    assert summary["n_failed"].tolist() == [1] * 15


def test_the_summary_has_medians_and_the_worst_head(head, tmp_path, perfect):
    table = evaluate_heads(ArtefactHead, [head], Bench(CLASSIC), tmp_path)
    worse = table.assign(head="worse", dice_gm=0.8)
    both = summarise(pd.concat([table, worse], ignore_index=True))
    assert list(both.columns)[:5] == ["engine", "artefact", "strength", "n_scans", "n_failed"]
    assert both["artefact"].tolist()[:3] == ["none", "noise", "noise"]
    assert both["n_scans"].tolist() == [2] * 15
    assert both["dice_gm"].tolist() == [0.9] * 15
    assert set(both["worst_head"]) == {"worse"}


def test_label_maps_and_scans_are_told_apart():
    labels = head_labels()
    assert is_label_map(labels)
    assert not is_label_map(render_t1w(labels))
    assert not is_label_map(Volume(render_t1w(labels).data.round(), GRID))
