"""Files that are written appear whole or not at all, and say so where they cannot be."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

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
    with pytest.raises(VbmstatError, match=r"out: cannot be written \(No space left on device\)"):
        run_into(tmp_path / "out", a="1")
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


def run_into(folder, record="run.json", keep=(), **files):
    """A run that writes these files, by name without suffix, and its record."""
    with storage.replacing(folder, record, keep) as staged:
        for name, text in files.items():
            storage.write_text(staged / f"{name}.txt", text)
        storage.write_json(staged / record, {"made": sorted(files)})


def held(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_takes_the_place_of_the_first(tmp_path):
    out = tmp_path / "new" / "out"
    run_into(out, a="1", **{"maps/b": "1"})
    (out / "notes.txt").write_text("mine")
    run_into(out, a="2", c="2")
    assert held(out) == {"a.txt", "c.txt", "run.json", "notes.txt"}
    assert (out / "a.txt").read_text() == "2"
    assert not (out / "maps").exists()
    assert storage.read_json(out / "run.json") == {"made": ["a", "c"], "files": ["a.txt", "c.txt"]}
    run_into(out, keep=("c.txt", "gone.txt"), d="3")
    assert held(out) == {"c.txt", "d.txt", "run.json", "notes.txt"}
    assert storage.listed_files(out, "run.json") == ["c.txt", "d.txt"]


def test_a_run_that_fails_leaves_the_first_as_it_was(tmp_path):
    def fail(folder):
        with storage.replacing(folder, "run.json") as staged:
            storage.write_text(staged / "a.txt", "2")
            raise KeyboardInterrupt

    run_into(tmp_path / "out", a="1")
    for name in ("out", "other"):
        with pytest.raises(KeyboardInterrupt):
            fail(tmp_path / name)
    assert held(tmp_path) == {"out/a.txt", "out/run.json"}
    assert (tmp_path / "out" / "a.txt").read_text() == "1"
    assert not (tmp_path / "other").exists()


class KilledError(BaseException):
    """What a kill at this moment would leave is looked at."""


def test_files_are_on_disk_before_an_earlier_run_is_touched(tmp_path, monkeypatch):
    run_into(tmp_path, a="1")
    flushed, missing = set(), []
    fsync, unlink = os.fsync, Path.unlink

    def noted(handle):
        flushed.add(os.fstat(handle).st_ino)
        fsync(handle)

    def checked(path, **keywords):
        if path == tmp_path / "run.json":
            missing.extend(one for one in tmp_path.glob(".partial-*/*") if one.stat().st_ino not in flushed)
        unlink(path, **keywords)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "unlink", checked)
    run_into(tmp_path, a="2", b="2")
    assert not missing
    assert len(flushed) >= 3


@pytest.mark.parametrize("survived", range(9))
def test_a_run_that_is_killed_while_it_replaces_leaves_no_mixture(tmp_path, monkeypatch, survived):
    """After each change of a name on the disk; afterwards a run cleans up."""
    run_into(tmp_path, a="1", b="1", c="1")
    changes = 0

    def counted(original):
        def change(path, *arguments, **keywords):
            nonlocal changes
            if not path.name.startswith(".partial") and ".partial" not in str(path.parent.parent):
                if changes == survived:
                    raise KilledError
                changes += 1
            return original(path, *arguments, **keywords)

        return change

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        patch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
        killed = False
        try:
            run_into(tmp_path, b="2", d="2")
        except KilledError:
            killed = True
    names = {name for name in held(tmp_path) if not name.startswith(".")}
    texts = {(tmp_path / name).read_text() for name in names if name.endswith(".txt")}
    if "run.json" in names:  # a folder that looks complete is
        whole = {"a.txt", "b.txt", "c.txt"} if texts == {"1"} else {"b.txt", "d.txt"}
        assert names == {*whole, "run.json"}
        assert len(texts) == 1
    assert killed or texts == {"2"}
    run_into(tmp_path, e="3")
    assert {name for name in held(tmp_path) if not name.startswith(".partial")} == {"e.txt", "run.json"}


def test_only_listed_files_inside_the_folder_are_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("a.txt", "b.txt"):
        (outside / name).write_text("mine")
    out = tmp_path / "out"
    run_into(out, a="1")
    (out / "link").symlink_to(outside)
    (out / "file.txt").symlink_to(outside / "b.txt")
    hostile = ["../outside/a.txt", str(outside / "a.txt"), "link/a.txt", "..\\outside\\a.txt", "", ".", "a/../a.txt",
               "link", "\0", "C:\\a.txt", "file.txt", "a.txt"]  # fmt: skip
    storage.write_json(out / "run.json", {"files": hostile})
    assert storage.listed_files(out, "run.json") == ["file.txt", "a.txt"]
    run_into(out, c="2")
    assert held(outside) == {"a.txt", "b.txt"}  # the link to b.txt is gone, not b.txt
    assert (out / "link").is_symlink()
    assert not (out / "file.txt").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"files": "a.txt"}', '{"files": [1]}'])
def test_a_record_without_a_list_is_refused_before_anything_is_done(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    (tmp_path / "a.txt").write_text("1")
    for attempt in (lambda: storage.listed_files(tmp_path, "run.json"), lambda: run_into(tmp_path, b="2")):
        with pytest.raises(VbmstatError, match=r"run.json: the record of an earlier run does not list its files"):
            attempt()
    assert held(tmp_path) == {"run.json", "a.txt"}


def test_a_page_made_from_results_goes_with_them(tmp_path):
    run_into(tmp_path, a="1")
    for folder, source in (("figures", "run.json"), ("x_figures", None)):
        with storage.replacing(tmp_path, f"{folder}/report.json") as staged:
            storage.write_text(staged / f"{folder}.html", "page")
            storage.write_json(staged / folder / "report.json", {storage.MADE_FROM: source})
    run_into(tmp_path, b="2")
    assert held(tmp_path) == {"b.txt", "run.json", "x_figures.html", "x_figures/report.json"}


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VbmstatError, match=r"cannot be written \((Not a directory|File exists)\)"):
        run_into(tmp_path / "file" / "out", a="1")
