"""Progress of commands in a file or pipe."""

from __future__ import annotations

from vbmstat.cli.progress import Lines, stages
from vbmstat.progress import LIVE


def test_a_long_stage_has_a_line_now_and_then(capsys):
    now = [0.0]
    lines = Lines(lambda: now[0])
    for at in range(0, 101, 10):
        now[0] = float(at)
        lines("permutations", 50 * at, 5000)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "permutations: 1,000 of 5,000, about 80 s left", "permutations: 2,000 of 5,000, about 60 s left",
        "permutations: 3,000 of 5,000, about 40 s left", "permutations: 4,000 of 5,000, about 20 s left",
        "permutations: 5,000 of 5,000",
    ]  # fmt: skip


def test_the_workbench_asks_for_more_lines(capsys, monkeypatch):
    monkeypatch.setenv(LIVE, "1")
    now = [0.0]
    lines = Lines(lambda: now[0])
    for at in range(5):
        now[0] = float(at)
        lines("permutations", at, 4)
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_a_short_stage_in_a_pipe_says_nothing(capsys):
    with stages() as report:
        for done in range(5):
            report("packing maps", done, 4)
    assert capsys.readouterr().err == ""
