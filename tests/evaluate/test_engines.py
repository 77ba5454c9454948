"""The table of engines and images: it resumes, repeats outdated rows, and survives failures."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
import pytest
import torch

from tests.evaluate.conftest import as_segmented, head_labels
from vbmstat.errors import ScanError, VbmstatError
from vbmstat.evaluate import engines
from vbmstat.evaluate.engines import Bench, HeadFile, Trial, check_heads, find_engines, run_trials
from vbmstat.preproc.engines.classic import Classic
from vbmstat.preproc.engines.deep import Deep

KIND = "evaluation_atrophy"


@dataclass(frozen=True)
class Fake(Classic):
    """An engine that counts its calls and fails on chosen images."""

    label: str = "one"  # type: ignore[assignment]
    weights_sha256: str = ""
    calls: list = field(default_factory=list, compare=False)
    fails: tuple = ()

    def parameters(self):
        return {"weights_sha256": self.weights_sha256}


@pytest.fixture(autouse=True)
def segment(monkeypatch):
    def segment(image, engine, device):
        engine.calls.append(image)
        if image in engine.fails:
            msg = f"no brain in {image}"
            raise ScanError(msg)
        return as_segmented(torch.ones(3, 28, 28, 28))

    monkeypatch.setattr(engines, "segment_scan", segment)


def trials(*names, **origin):
    return [
        Trial({"head": name, "thinning_mm": 0.0}, origin, lambda name=name: name, lambda *_: {"gm_ml": 1.0})
        for name in names
    ]


def run(path, engines, made, **options):
    return run_trials(made, len(made), Bench(engines, **options), path, KIND)


def test_every_image_goes_through_every_engine_and_is_written(tmp_path):
    reports = []
    path = tmp_path / "t.tsv"
    one, other = Fake("one"), Fake("other")
    table = run(path, [one, other], trials("a", "b"), report=lambda *values: reports.append(values))
    assert list(zip(table["head"], table["engine"], strict=True)) == [
        ("a", "one"), ("a", "other"), ("b", "one"), ("b", "other"),
    ]  # fmt: skip
    assert reports == [("scans", n, 4) for n in (1, 2, 3, 4)]
    written = pd.read_csv(path, sep="\t", na_values="n/a")
    assert list(written.columns) == ["head", "thinning_mm", "engine", "gm_ml", "seconds", "reason", "made_with"]
    assert written["gm_ml"].tolist() == [1.0] * 4


def test_rows_are_repeated_only_if_they_are_outdated(tmp_path):
    path = tmp_path / "t.tsv"
    first = run(path, [Fake("one")], trials("01"))
    again = Fake("one")
    table = run(path, [again], trials("01", "02"))
    assert again.calls == ["02"]
    assert table["head"].tolist() == ["01", "02"]
    assert table["made_with"][0] == first["made_with"][0]
    for engine, origin, options in (
        (Fake("one", weights_sha256="x"), {}, {}),
        (Fake("one"), {"seed": 1}, {}),
        (Fake("one"), {}, {"force": True}),
    ):
        run(path, [Fake("one")], trials("01"))
        run(path, [engine], trials("01", **origin), **options)
        assert engine.calls == ["01"]


def test_rows_of_other_engines_stay(tmp_path):
    run(tmp_path / "t.tsv", [Fake("one")], trials("a"))
    table = run(tmp_path / "t.tsv", [Fake("other")], trials("a"))
    assert sorted(table["engine"]) == ["one", "other"]


def test_a_scan_that_fails_leaves_the_others_and_is_retried(tmp_path):
    table = run(tmp_path / "t.tsv", [Fake("one", fails=("b",))], trials("a", "b", "c"))
    assert table["reason"].isna().tolist() == [True, False, True]
    assert table["reason"][1] == "no brain in b"
    again = Fake("one")
    table = run(tmp_path / "t.tsv", [again], trials("a", "b", "c"))
    assert again.calls == ["b"]
    assert table["reason"].isna().all()


def test_the_table_grows_scan_by_scan(tmp_path):
    class Stopped(BaseException):
        pass

    def stop():
        raise Stopped

    last = Trial({"head": "c", "thinning_mm": 0.0}, {}, stop, lambda *_: {})
    with pytest.raises(Stopped):
        run(tmp_path / "t.tsv", [Fake("one")], [*trials("a", "b"), last])
    assert pd.read_csv(tmp_path / "t.tsv", sep="\t")["head"].tolist() == ["a", "b"]


def test_another_kind_of_table_is_refused(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("name\tage\nx\t3\n")
    with pytest.raises(VbmstatError, match="expected a table of vbmstat evaluate, got columns name, age"):
        run(path, [Fake("one")], trials("a"))


def test_engines_are_found_by_name_once_and_weights_are_those_of_deep():
    assert find_engines(["classic", "classic"], "vbmstat") == [Classic()]
    assert find_engines(["deep", "classic"], "vbmstat") == [Deep("vbmstat"), Classic()]
    with pytest.raises(VbmstatError, match="'none'"):
        find_engines(["none"])


def test_heads_need_unique_names_and_have_their_own_seeds(head, tmp_path):
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / head.name
    other.write_bytes(head.read_bytes())
    with pytest.raises(VbmstatError, match="different names"):
        check_heads([head, other])
    with pytest.raises(VbmstatError, match=r"missing\.nii"):
        check_heads([tmp_path / "missing.nii"])
    one, same, seeded = HeadFile(head, 0), HeadFile(other, 0), HeadFile(head, 1)
    assert (one.name, one.seed) == ("head01", same.seed)
    assert seeded.seed != one.seed
    assert torch.equal(one.volume.data, head_labels().data)
