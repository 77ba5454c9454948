"""Readers of files and words from outside, a little: no error but ours, no warning, no waiting.

``python -m tests.fuzz.run --minutes 10`` looks for longer, at other inputs each time.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import run
from tests.fuzz.targets import TARGETS, Target
from vbmstat.errors import ScanError


@pytest.mark.timeout(120)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_user_sees_our_errors_alone(target):
    quick = settings(
        max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    quick(given(target.given)(lambda drawn: target(drawn)))()  # noqa: PLW0108  (it wants a function)


def _raise(error: Exception):
    def read(*_):
        raise error

    return read


@pytest.mark.parametrize(
    ("error", "found"),
    [(ScanError("a.nii: bad\nvery"), 0), (KeyError("row"), 1), (MemoryError(), 1), (ScanError("x" * 20_000), 1)],
)
def test_findings_are_found(error, found, capsys):
    count = run.Count(Target("reader", TARGETS[0].given, _raise(error)))
    count.round(1)
    assert count.findings == found
    assert ("--- reader, seed 1" in capsys.readouterr().out) == bool(found)
    assert count.examples > 0


def test_hanging_is_found(monkeypatch, capsys):
    monkeypatch.setattr(run, "HANG_S", 1)
    count = run.Count(Target("reader", TARGETS[0].given, _raise(run.Hang())))
    count.round(1)
    assert count.findings == 1
    assert "no answer after 1 s" in capsys.readouterr().out
