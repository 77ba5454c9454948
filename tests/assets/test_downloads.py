"""Fetched weights: one download, trusted once and confirmed ever after, nothing half, one line without a network."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.assets.weight_server import Server, start, swallowing
from vbmstat.assets import downloads
from vbmstat.errors import AssetError

NAMES = ("a.pt", "b.pt")
CONTENT = {name: b"PK\x03\x04" + name.encode() * 50_000 for name in NAMES}
PROCESSES = 8


@pytest.fixture
def server():
    made = Server(CONTENT)
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch, server) -> Path:
    """An empty cache, and a set of two files on the local server."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(folder))
    for name in (downloads.OFFLINE_VARIABLE, "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    few = downloads.WeightSet("few", NAMES, (server.address,), ("deepmriprep", "no/such/folder"), "MIT")
    monkeypatch.setitem(downloads.WEIGHTS, "few", few)
    monkeypatch.setattr(downloads, "_RETRIES", 0)  # a retry waits for a second
    return folder


def digest(name: str) -> str:
    return hashlib.sha256(CONTENT[name]).hexdigest()


def fetched(**options) -> list[str]:
    lines: list[str] = []
    downloads.fetch("few", **options, report=lines.append)
    return lines


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_first_download_is_trusted_and_later_ones_are_confirmed(cache, server):
    lines = fetched()
    assert [line.split(":")[0] for line in lines] == list(NAMES)
    assert all(digest(name) in line and "first seen" in line for name, line in zip(NAMES, lines, strict=True))
    assert (cache / "few" / "a.pt").read_bytes() == CONTENT["a.pt"]
    assert (cache / "few" / "a.pt").stat().st_mode & 0o777 == 0o644  # other users of a shared cache can read it
    assert downloads.weights_sha256("few") == {name: digest(name) for name in NAMES}
    assert fetched() == []  # nothing to do, no request
    (cache / "few" / "b.pt").unlink()
    assert "as expected" in fetched()[0]
    server.content["b.pt"] = b"PK\x03\x04another"
    (cache / "few" / "b.pt").unlink()
    with pytest.raises(AssetError, match=r"\(b.pt\) does not match the known hash: expected .* to trust anew"):
        fetched()
    assert leftovers(cache / "few") == ["a.pt", "fetched.json"]


def test_a_known_sha256_counts_from_the_beginning(cache, server, monkeypatch):
    known = replace(downloads.WEIGHTS["few"], known_sha256={"a.pt": "0" * 64})
    monkeypatch.setitem(downloads.WEIGHTS, "few", known)
    with pytest.raises(AssetError, match=r"\(a.pt\) does not match the known hash: expected 0{64} but got"):
        fetched()
    assert leftovers(cache) == []


def test_a_changed_file_is_not_used(cache):
    fetched()
    assert downloads.weights_folder("few") == cache / "few"
    downloads._verified_folder.cache_clear()
    (cache / "few" / "a.pt").write_bytes(b"PK\x03\x04exchanged")
    with pytest.raises(AssetError, match=r"a.pt: sha256 .* differs from the recorded"):
        downloads.weights_folder("few")
    with pytest.raises(AssetError, match=r"does not match the known hash"):  # offline, it cannot be mended
        fetched(offline=True)
    assert "as expected" in fetched()[0]
    assert downloads.weights_folder("few") == cache / "few"


def test_weights_that_were_not_fetched(cache):
    with pytest.raises(AssetError, match=r"a.pt: not fetched; run 'vbmstat assets fetch few' .* VBMSTAT_ASSETS"):
        downloads.weights_folder("few")
    with pytest.raises(AssetError, match="expected weights of deepmriprep, deep-t1-wmh, few, got 'fewer'"):
        downloads.fetch("fewer")


def test_the_second_source_serves_where_the_first_does_not(cache, server, monkeypatch):
    dead = unused_address()
    monkeypatch.setitem(downloads.WEIGHTS, "few", replace(downloads.WEIGHTS["few"], sources=(dead, server.address)))
    assert all(server.address in line for line in fetched())


def test_the_second_source_serves_where_the_first_breaks_off(cache, server, monkeypatch):
    bad = Server(CONTENT)
    bad.cut_after = 1000
    sources = (bad.address, server.address)
    monkeypatch.setitem(downloads.WEIGHTS, "few", replace(downloads.WEIGHTS["few"], sources=sources))
    lines = fetched()
    bad.http.shutdown()
    bad.http.server_close()
    assert bad.requests == {("GET", "a.pt"): 1}  # a source that failed is not asked for the next file
    assert all(server.address in line for line in lines)
    assert downloads.weights_sha256("few") == {name: digest(name) for name in NAMES}


def test_a_download_that_breaks_off_is_tried_again(cache, server, monkeypatch):
    monkeypatch.setattr(downloads, "_RETRIES", 1)
    server.cut_after, server.cuts = 1000, 1
    assert len(fetched()) == 2
    assert server.requests["GET", "a.pt"] == 2


def test_a_source_that_breaks_off_midway_leaves_nothing(cache, server):
    server.cut_after = 1000
    with pytest.raises(AssetError, match=r"few: cannot be fetched \(127.0.0.1: .*IncompleteRead.*\); fetch where"):
        fetched()
    assert leftovers(cache) == []
    server.cut_after = None
    assert len(fetched()) == 2


def test_a_login_page_is_not_taken_for_weights(cache, server):
    server.content["a.pt"] = b"<html>Please log in"
    with pytest.raises(AssetError, match=r"a.pt: not a torch file \(19 bytes\); give another --source"):
        fetched()
    assert leftovers(cache) == []


def test_own_folder_as_source_needs_no_network(cache, server, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name in NAMES:
        (mirror / name).write_bytes(CONTENT[name])
    monkeypatch.setenv(downloads.OFFLINE_VARIABLE, "1")
    assert len(fetched(source=str(mirror))) == 2
    assert server.requests.total() == 0
    (cache / "few" / "a.pt").unlink()
    with pytest.raises(AssetError, match=r"--source no/where: expected a folder with a.pt …, or an address"):
        fetched(source="no/where")


def test_files_put_there_by_hand_are_recorded(cache, server):
    (cache / "few").mkdir(parents=True)
    for name in NAMES:
        (cache / "few" / name).write_bytes(CONTENT[name])
    assert all("put there by hand" in line for line in fetched(offline=True))
    assert server.requests.total() == 0
    assert downloads.weights_sha256("few") == {name: digest(name) for name in NAMES}


def test_copies_of_an_installed_program_are_taken(cache, server, tmp_path, monkeypatch):
    for name in NAMES:
        (tmp_path / name).write_bytes(CONTENT[name])
    monkeypatch.setattr(downloads, "distribution_file", lambda _, path: tmp_path / Path(path).name)
    assert all(str(tmp_path) in line for line in fetched(offline=True))


@pytest.mark.parametrize("by_variable", [True, False])
def test_offline_opens_no_connection(cache, server, monkeypatch, by_variable):
    if by_variable:
        monkeypatch.setenv(downloads.OFFLINE_VARIABLE, "1")
    with pytest.raises(AssetError, match=r"few: 2 files are not in the cache, and VBMSTAT_OFFLINE or --offline is set"):
        fetched(offline=not by_variable)
    assert server.requests.total() == 0


def unused_address() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/"


@pytest.fixture
def black_hole():
    with swallowing() as address:
        yield address


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("packets vanish", "127.0.0.1: no answer"),
        ("no such name", r"no-such-host.invalid: Failed to resolve"),
        ("server is silent", "127.0.0.1: no answer"),
        ("refused", r"127.0.0.1: \[Errno 111\] Connection refused"),
        ("gone", "127.0.0.1: HTTP 404"),
        ("forbidden", "127.0.0.1: HTTP 403"),
    ],
)
def test_without_a_network_one_line_and_soon(cache, server, black_hole, monkeypatch, what, reason):
    monkeypatch.setattr(downloads, "_TIMEOUT_S", (1.0, 1.0))
    if what not in ("server is silent", "gone", "forbidden"):
        monkeypatch.setattr(downloads, "_RETRIES", 1)  # in vain, if nobody answers
    address = {
        "packets vanish": black_hole, "no such name": "http://no-such-host.invalid/", "refused": unused_address(),
    }.get(what, server.address)  # fmt: skip
    server.seconds = 5.0 if what == "server is silent" else 0.0
    server.status = 403 if what == "forbidden" else 200
    server.content = {} if what == "gone" else server.content
    began = time.monotonic()
    with pytest.raises(AssetError, match=reason) as caught:
        fetched(source=address)
    assert time.monotonic() - began < (3 if what == "server is silent" else 2)
    assert "\n" not in str(caught.value)
    assert "VBMSTAT_ASSETS" in str(caught.value)
    assert leftovers(cache) == []


def test_silent_sources_are_waited_for_together(cache, monkeypatch):
    monkeypatch.setattr(downloads, "_TIMEOUT_S", (1.0, 1.0))
    with swallowing() as one, swallowing() as other:
        few = replace(downloads.WEIGHTS["few"], sources=(one, other))
        monkeypatch.setitem(downloads.WEIGHTS, "few", few)
        began = time.monotonic()
        with pytest.raises(AssetError, match=r"127.0.0.1: no answer; 127.0.0.1: no answer"):
            fetched()
    assert time.monotonic() - began < 1.8


def test_a_full_cache_may_be_read_only(cache, monkeypatch):
    fetched()
    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "mkdir", denied)
    assert downloads.fetch("few") == cache / "few"


def denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_read_only_cache_that_lacks_files(cache, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(AssetError, match=r"it cannot be written to \(\[Errno 30\] Read-only file system"):
        fetched()


def test_a_full_disk(cache, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(downloads, "_transfer", full)
    with pytest.raises(AssetError, match=r"No space left on device\); set VBMSTAT_ASSETS to another folder"):
        fetched()
    assert leftovers(cache) == []


def test_damaged_record(cache):
    fetched()
    (cache / "few" / downloads.RECORD).write_text("{")
    with pytest.raises(AssetError, match=r"fetched.json: cannot be read .*; delete .* and fetch again"):
        fetched()


def test_processes_on_an_empty_cache_download_once(cache, server):
    server.seconds = 0.05
    assert start(NAMES, server.address, PROCESSES).wait() == 0
    assert {name: server.requests["GET", name] for name in NAMES} == dict.fromkeys(NAMES, 1)


def test_a_process_killed_while_it_downloads_leaves_nothing_in_the_way(cache, server):
    server.seconds = 0.5
    with start(NAMES, server.address, 1) as worker:
        while not list(cache.rglob("tmp*")):
            time.sleep(0.005)
        os.killpg(worker.pid, signal.SIGKILL)
    assert [path.name for path in (cache / "few").glob("*.pt")] == []
    server.seconds = 0.0
    fetched()
    assert leftovers(cache / "few") == ["a.pt", "b.pt", "fetched.json"]
