"""Files that are written appear whole or not at all, and say so where they cannot be."""

from __future__ import annotations

import errno
import os
import threading

import pandas as pd
import pytest

from vbmstat.errors import VbmstatError
from vbmstat.image import storage


def test_failure_while_writing_leaves_nothing(tmp_path):
    (tmp_path / "old.txt").write_text("old")

    def fail(path):
        with storage.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    for name in ("old.txt", "new.txt"):
        with pytest.raises(KeyboardInterrupt):
            fail(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "old"


def test_a_place_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VbmstatError, match=r"a\.txt: cannot be written \(No space left on device\)"):
        storage.write_text(tmp_path / "a.txt", "text")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(VbmstatError, match=r"cannot be written \((Not a directory|File exists)\)"):
        storage.write_text(tmp_path / "file" / "below.txt", "text")


def test_written_files_follow_the_umask_also_from_many_threads(tmp_path):
    mask = os.umask(0o027)
    try:
        storage._umask.cache_clear()
        threads = [threading.Thread(target=storage.write_text, args=(tmp_path / f"{n}.txt", "text")) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(mask)
        storage._umask.cache_clear()


def test_an_older_file_is_replaced(tmp_path):
    for text in ("first", "second"):
        storage.write_text(tmp_path / "a.txt", text)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["second"]


def test_json_and_tables(tmp_path):
    storage.write_json(tmp_path / "a.json", {"name": "Grüße", "n": 1})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "name": "Grüße",\n  "n": 1\n}\n'
    storage.write_table(tmp_path / "a.tsv", pd.DataFrame({"participant_id": ["001", "002"], "age": [1.5, None]}))
    assert (tmp_path / "a.tsv").read_bytes() == b"participant_id\tage\n001\t1.5\n002\tn/a\n"


def test_control_characters_do_not_break_the_rows_of_a_table(tmp_path):
    table = pd.DataFrame({"scan": ["a\nb", "c\td", "e\udcff"], "n": [1, 2, 3], "note": ["\r", None, "ü"]})
    storage.write_table(tmp_path / "a.tsv", table)
    assert (tmp_path / "a.tsv").read_text("utf-8").splitlines() == [
        "scan\tn\tnote", "a\\nb\t1\t\\r", "c\\td\t2\tn/a", "e\\udcff\t3\tü",
    ]  # fmt: skip
    assert table["scan"][0] == "a\nb"
    storage.write_json(tmp_path / "a.json", {"path": "e\udcff"})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "path": "e\\udcff"\n}\n'
