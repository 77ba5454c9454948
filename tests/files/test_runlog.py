"""The run's log: whole lines, the last one counts, damage is skipped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from vbmstat.files import runlog


def test_last_times_of_each_scan(tmp_path):
    log = tmp_path / runlog.FOLDER / "a.jsonl"
    runlog.append(log, {"scan": "sub-1", "event": "done", "seconds": {"brain": 2.0}})
    runlog.append(log, {"scan": "sub-1", "event": "done", "seconds": {"brain": 3.0}})
    runlog.append(log, {"scan": "sub-2", "event": "failed"})
    times = runlog.scan_times(tmp_path)
    assert list(times) == ["sub-1"]
    assert times["sub-1"]["seconds"] == {"brain": 3.0}
    assert times["sub-1"]["time"].endswith("+00:00")


def test_a_cut_line_and_a_missing_folder(tmp_path):
    assert runlog.scan_times(tmp_path) == {}
    log = tmp_path / runlog.FOLDER / "a.jsonl"
    runlog.append(log, {"scan": "sub-1", "seconds": {"brain": 2.0}})
    log.write_bytes(log.read_bytes() + b'{"scan": "sub-2", "seco\n[1]\n\xff\n')
    assert list(runlog.scan_times(tmp_path)) == ["sub-1"]


def test_names_that_are_no_utf8_are_escaped(tmp_path):
    log = tmp_path / runlog.FOLDER / "a.jsonl"
    runlog.append(log, {"scan": "sc\udcffan", "seconds": {}})
    assert b"sc\\udcffan" in log.read_bytes()


def test_writers_share_a_log(tmp_path):
    log = tmp_path / runlog.FOLDER / "a.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: runlog.append(log, {"scan": f"sub-{n}", "seconds": {"a": n}}), range(200)))
    assert len(runlog.scan_times(tmp_path)) == 200
