"""The file of a site: what is written is read; anything else is one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vbmstat.errors import VbmstatError
from vbmstat.glm.pooled.file import FORMAT, check_path, read_sums, write_sums


@pytest.fixture
def path(three, tmp_path):
    write_sums(tmp_path / "ulm.vbm", three[2]["ulm"])
    return tmp_path / "ulm.vbm"


def rewritten(path, **changed):
    """The file with other arrays; a function changes what is there."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name, value in changed.items():
        arrays[name] = value(arrays[name]) if callable(value) else value
    with path.open("wb") as stream:
        np.savez(stream, **{name: value for name, value in arrays.items() if value is not None})
    return path


def header(path, **changed):
    with np.load(path) as stored:
        about = json.loads(str(stored["about"]))
    return rewritten(path, about=np.array(json.dumps(about | changed)))


def test_what_is_written_is_read(three, path):
    sums, again = three[2]["ulm"], read_sums(path)
    assert again.about == sums.about
    for name in ("factor", "constant", "coordinates", "residual_squares"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sums, name))
    np.testing.assert_array_equal(again.space.voxel_index, sums.space.voxel_index)
    assert again.space.grid.matches(sums.space.grid)
    assert again.space.axcodes == sums.space.axcodes


def test_equal_sums_make_equal_files(three, path, tmp_path):
    write_sums(tmp_path / "again.vbm", three[2]["ulm"])
    assert (tmp_path / "again.vbm").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("at", [0, 100, 0.5, -100, -1])
def test_truncated_files(path, at):
    content = path.read_bytes()
    path.write_bytes(content[: int(at * len(content)) if isinstance(at, float) else at])
    with pytest.raises(VbmstatError, match=r"ulm\.vbm: expected the sums of a site.*Copy it again"):
        read_sums(path)


@pytest.mark.parametrize("share", np.linspace(0.05, 0.95, 10))
def test_a_changed_byte_of_the_sums(path, share):
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(VbmstatError, match=r"ulm\.vbm: "):
        read_sums(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"coordinates": lambda one: one[:, :-1]}, {"factor": lambda one: one[:, :-1]}, {"constant": None},
        {"residual_squares": lambda one: one - 1}, {"coordinates": lambda one: one * np.nan},
        {"voxel_index": lambda one: one[::-1]}, {"voxel_index": lambda one: one + 10**9},
        {"coordinates": lambda one: one.astype(object)}, {"factor": lambda one: one.astype(np.float32)},
        {"affine": lambda one: one[:2]},
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(path, changed):
    with pytest.raises(VbmstatError, match=r"ulm\.vbm: expected the sums of a site"):
        read_sums(rewritten(path, **changed))


@pytest.mark.parametrize(
    "changed",
    [{"columns": ["age"]}, {"terms": {}}, {"n_scans": 2}, {"n_scans": "many"}, {"shape": [3, 3]}, {"response": 3}],
)
def test_headers_that_do_not_fit(path, changed):
    with pytest.raises(VbmstatError, match=r"ulm\.vbm: expected the sums of a site"):
        read_sums(header(path, **changed))


def test_another_version(path):
    with pytest.raises(VbmstatError, match=rf"another version of vbmstat \(format 7, here {FORMAT}\)"):
        read_sums(header(path, format=7))


def test_other_files(tmp_path):
    with pytest.raises(VbmstatError, match="No such file"):
        read_sums(tmp_path / "none.vbm")
    (tmp_path / "text.vbm").write_text("x" * 1000)
    with pytest.raises(VbmstatError, match="expected the sums of a site"):
        read_sums(tmp_path / "text.vbm")
    (tmp_path / "folder.vbm").mkdir()
    for path in (tmp_path / "folder.vbm", tmp_path / "cohort.tsv"):
        with pytest.raises(VbmstatError, match=r"ends in \.vbm"):
            check_path(path)
