"""Progress of a batch, and how it stops."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from vbmstat.batch.status import Event
from vbmstat.cli import live
from vbmstat.files.naming import Scan
from vbmstat.progress import LIVE

SCAN = Scan(Path("sub-01_T1w.nii"), "sub-01_T1w", "sub-01")
EVENTS = (
    Event(SCAN, "resumed", 1, 4), Event(SCAN, "warp", 1, 4), Event(SCAN, "done", 2, 4, "noise [strong]"),
    Event(SCAN, "failed", 3, 4, "sub-01_T1w: no brain"), Event(SCAN, "busy", 3, 4),
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_handlers(monkeypatch):
    monkeypatch.setattr(logging, "root", logging.RootLogger(logging.WARNING))


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def stderr(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_lines_with_a_time_stamp_without_a_terminal(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with live.screen() as shown:
        for event in EVENTS:
            shown.show(event)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "[2/4] done sub-01_T1w: noise [strong]", "[3/4] failed sub-01_T1w: no brain",
        "sub-01_T1w: in use by another run; will retry later",
    ]  # fmt: skip
    assert all(line[:2] == "20" and line[19] == "Z" for line in lines)
    assert shown.n_complete == 2


def test_the_workbench_sees_the_steps_too(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv(LIVE, "1")
    with live.screen() as shown:
        for event in EVENTS[:3]:
            shown.show(event)
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["sub-01_T1w: warp", "[2/4] done sub-01_T1w: noise [strong]"]


def test_a_bar_on_a_terminal_but_not_under_slurm(capsys, monkeypatch, terminal):
    with live.screen() as shown:
        for event in EVENTS:
            shown.show(event)
    text = stderr(capsys)
    assert "noise [strong]" in text  # no markup
    assert "\x1b[" in text
    assert "3/4" in text
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with live.screen() as shown:
        shown.say("a line")
    assert "\x1b[" not in stderr(capsys)


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with live.stoppable(print):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_a_signal_stops_cleanly_and_says_how_to_resume(capsys, monkeypatch, number, name, code):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests with `&`

    def killed():
        with live.screen() as shown, live.stoppable(shown.stopped):
            shown.show(EVENTS[0])
            signal.raise_signal(number)

    with pytest.raises(SystemExit) as stopped:
        killed()
    assert stopped.value.code == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert f"stopped by {name}: 1 of 4 scans are complete; run the same command to resume" in stderr(capsys)
