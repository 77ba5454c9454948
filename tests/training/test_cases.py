"""The file of cases: round trip, precision, refusals."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from vbmstat.errors import VbmstatError
from vbmstat.training.cases import Case, CaseFile, write_cases

SETTINGS = {"kind": "tissue", "shape": [4, 5, 6]}


def test_arrays_come_back_within_half_a_step(tmp_path):
    path = tmp_path / "cases.npz"
    arrays = {
        "t1w": 2 * torch.rand(1, 4, 5, 6), "p0": 3 * torch.rand(1, 4, 5, 6), "scan": torch.rand(2, 4, 5, 6),
        "velocity": 20 * torch.randn(3, 2, 3, 3), "no_gm": torch.ones(1, 4, 5, 6),
    }  # fmt: skip
    write_cases(path, [Case("a.b", "site", arrays), Case("c", "site", {"p0": torch.zeros(1, 4, 5, 6)})], SETTINGS)
    cases = CaseFile(path)
    assert (cases.names, cases.groups, cases.shape) == (["a.b", "c"], ["site", "site"], (4, 5, 6))
    back = cases.load("a.b")
    assert set(back) == set(arrays)
    for name, step in (("t1w", 0.01), ("p0", 1 / 80), ("scan", 1 / 250), ("velocity", 1 / 200), ("no_gm", 0)):
        assert float((back[name] - arrays[name]).abs().max()) <= step / 2 + 1e-5, name
    assert list(cases.load("c")) == ["p0"]


def test_a_name_that_begins_another_keeps_its_own_arrays(tmp_path):
    made = [Case(name, name, {"p0": torch.full((1, 4, 5, 6), value)}) for name, value in (("1", 1.0), ("1.5", 2.0))]
    write_cases(tmp_path / "cases.npz", made, SETTINGS)
    cases = CaseFile(tmp_path / "cases.npz")
    assert [float(cases.load(name, "p0")["p0"].mean()) for name in ("1", "1.5")] == pytest.approx([1.0, 2.0])


def test_the_file_is_closed_between_reads(tmp_path):
    path = tmp_path / "cases.npz"
    write_cases(path, [Case("a", "site", {"p0": torch.zeros(1, 4, 5, 6)})], SETTINGS)
    cases = CaseFile(path)
    cases.load("a")
    gc.collect()
    assert path not in {link.resolve() for link in Path("/proc/self/fd").iterdir()}


def test_names_must_differ(tmp_path):
    case = Case("a", "site", {"p0": torch.zeros(1, 4, 5, 6)})
    with pytest.raises(VbmstatError, match="unique names, got a twice"):
        write_cases(tmp_path / "cases.npz", [case, case], SETTINGS)
    with pytest.raises(VbmstatError, match="at least one case"):
        write_cases(tmp_path / "cases.npz", [], SETTINGS)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_other_files_are_refused(tmp_path):
    with pytest.raises(VbmstatError, match="no such file; make one with 'vbmstat train prepare', prepare-wmh"):
        CaseFile(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(VbmstatError, match="not a file of training cases"):
        CaseFile(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(VbmstatError, match="not a file of training cases"):
        CaseFile(tmp_path / "text.npz")
