from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from vbmstat.errors import VbmstatError
from vbmstat.maps.rawfile import BLOCK_BYTES, RawFile
from vbmstat.maps.store import Scratch


@pytest.mark.parametrize("offset", [0, 3 * BLOCK_BYTES, 2048, 100])
@pytest.mark.parametrize("n_bytes", [BLOCK_BYTES, 5 * BLOCK_BYTES, 700])
def test_what_is_written_is_read(tmp_path, offset, n_bytes):
    values = Scratch().array("values", (n_bytes // 4,))
    values[:] = np.random.default_rng(0).random(values.size)
    with RawFile(tmp_path / "file", 1 << 16) as stored:
        stored.write(values, offset)
        stored.sync()
    assert (tmp_path / "file").stat().st_size == 1 << 16
    assert np.array_equal(np.fromfile(tmp_path / "file", np.float32, values.size, offset=offset), values)
    found = np.zeros_like(values)  # wherever numpy puts it
    with RawFile(tmp_path / "file") as stored:
        assert stored.read(found, offset) == n_bytes
        assert np.array_equal(found, values)
        assert stored.read(np.empty(BLOCK_BYTES, np.uint8), (1 << 16) - 100) == 100


def test_file_systems_that_want_the_cache(tmp_path, monkeypatch):
    values = Scratch().array("values", (4096,))
    values[:] = np.arange(4096)
    move, refused = os.pwritev, []

    def refuse(handle, pieces, at):
        if not refused:
            refused.append(at)
            raise OSError(errno.EINVAL, "alignment")
        return move(handle, pieces, at)

    monkeypatch.setattr(os, "pwritev", refuse)
    with RawFile(tmp_path / "file", values.nbytes) as stored:
        stored.write(values, 0)
    assert np.array_equal(np.fromfile(tmp_path / "file", np.float32), values)


def test_no_room(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(VbmstatError, match=r"no room for 0.1 GB of packed maps"):
        RawFile(tmp_path / "file", 10**8)
    assert not (tmp_path / "file").exists()
    monkeypatch.undo()
    monkeypatch.setattr(os, "pwritev", full)
    with RawFile(tmp_path / "file", 4096) as stored, pytest.raises(VbmstatError, match="no room left"):
        stored.write(np.zeros(5), 0)
